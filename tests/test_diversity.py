"""The diversity loss against a slow double loop, formulas, finite differences and what it must mean."""

import math

import pytest
import torch

from models.diversity import DiversityLoss, similarity_matrix

BRANCHES = range(2, 16)
MEASURES = ("det", "logdet", "direct")


def slow_similarity(features: torch.Tensor, gamma: float) -> torch.Tensor:
    B, N = features.shape[:2]
    S = torch.eye(B, dtype=features.dtype)
    for i in range(B):
        for j in range(B):
            if i != j:
                d = [sum(float(v) ** 2 for v in (features[i, n] - features[j, n]).flatten()) for n in range(N)]
                S[i, j] = sum(math.exp(-gamma * x) for x in d) / N
    return S


def features_of(B: int, seed: int = 0, scale: float = 0.15) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * seed + B)
    return scale * torch.randn(B, 3, 2, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("B", BRANCHES)
def test_similarity_equals_the_double_loop(B):
    features = features_of(B)
    S = similarity_matrix(features, gamma=10.0)
    torch.testing.assert_close(S, slow_similarity(features, 10.0))
    assert torch.equal(S.diagonal(), torch.ones(B, dtype=torch.float64))
    far_from_zero = (features + 100).float()
    torch.testing.assert_close(similarity_matrix(far_from_zero), S.float(), atol=2e-3, rtol=0)
    unit = torch.nn.functional.normalize(features.flatten(2), dim=2)
    torch.testing.assert_close(similarity_matrix(features, 3.0, normalize=True), slow_similarity(unit, 3.0))


def test_a_single_value_per_face_is_a_feature_too():
    features = torch.rand(3, 5, dtype=torch.float64)
    torch.testing.assert_close(similarity_matrix(features, 2.0), slow_similarity(features, 2.0))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("B", BRANCHES)
def test_loss(B, measure):
    loss = DiversityLoss(measure, gamma=10.0)
    for seed in range(5):
        features = features_of(B, seed)
        S = slow_similarity(features, 10.0)
        expected = {
            "det": -torch.linalg.det(S),
            "logdet": -torch.log(torch.linalg.det(S + loss.eps * torch.eye(B))),
            "direct": S.sum() - B,
        }[measure]
        torch.testing.assert_close(loss(features), expected)
        assert loss(1.3 * features) < loss(features), "falls when branches move apart"
        order = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(loss(features[order]), loss(features))
    small = features_of(B)[:, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (small,))


@pytest.mark.parametrize("B", BRANCHES)
def test_zero_diagonal_is_the_published_mistake(B):
    """Equal similarities c give det = (-1)^(B-1) (B-1) c^B: for odd B the published loss pushes branches together."""
    features = torch.eye(B, dtype=torch.float64)[:, None, :] * 0.3  # all pairs at the same distance
    c = math.exp(-10 * 2 * 0.09)
    loss = DiversityLoss("det", gamma=10.0, zero_diagonal=True)(features)
    assert loss.item() == pytest.approx((-1) ** B * (B - 1) * c**B, rel=1e-9)


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_branches_have_a_finite_loss_and_gradient(measure):
    features = torch.ones(9, 4, 16, requires_grad=True)
    loss = DiversityLoss(measure)(features)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(features.grad).all()


def test_median_follows_the_scale_and_has_no_gradient_through_gamma():
    features = features_of(3)
    small, large = (similarity_matrix(scale * features, "median") for scale in (1e-3, 1e3))
    torch.testing.assert_close(small, large)
    d = (features[:, None] - features[None]).square().flatten(3).sum(3)
    pairs = torch.stack([d[0, 1], d[0, 2], d[1, 2]])
    torch.testing.assert_close(small, similarity_matrix(features, 1 / pairs.median().item()))
    x = features.clone().requires_grad_()
    DiversityLoss(gamma="median")(x).backward()
    fixed = features.clone().requires_grad_()
    DiversityLoss(gamma=1 / pairs.median().item())(fixed).backward()
    torch.testing.assert_close(x.grad, fixed.grad)


def test_float32_under_autocast():
    features = features_of(4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        S = similarity_matrix(features.bfloat16())
    assert S.dtype == torch.float32
    torch.testing.assert_close(S, similarity_matrix(features.bfloat16().float()))


def test_one_branch_none_and_wrong_arguments():
    assert DiversityLoss()(torch.rand(1, 4, 8)) == 0
    recorded = DiversityLoss("none")
    assert recorded(features_of(3)) == 0 and 0 < recorded.similarity < 1
    assert DiversityLoss("none")(None) == 0
    with pytest.raises(ValueError, match="no attention maps"):
        DiversityLoss()(None)
    with pytest.raises(ValueError, match="expected one of det"):
        DiversityLoss("trace")
    with pytest.raises(ValueError, match="positive number or 'median'"):
        similarity_matrix(features_of(2), gamma=-1)


@pytest.mark.parametrize("distance", [9.0, 9.5, 9.8, 10.0, 20.0])  # similarities from 8e-40, which is denormal, to 0
def test_a_zero_diagonal_survives_similarities_that_underflow(distance):
    """LAPACK divides by such a pivot: it makes infinity of one over 1e-42, and NaN of the determinant."""
    features = (torch.eye(3)[:, None, :] * (distance / 20) ** 0.5).requires_grad_()  # pairs at squared distance / 10
    features = features * torch.tensor([1.0, 1.01, 1.02])[:, None, None]
    features.retain_grad()
    loss = DiversityLoss("det", gamma=100.0, zero_diagonal=True)(features)
    loss.backward()
    assert loss.abs() < 1e-30 and features.grad.isfinite().all()
