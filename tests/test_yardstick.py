"""The yardstick on branches whose difference is known by construction, and when it warns."""

import pytest
import torch

from models.diversity import DiversityLoss
from utils.uyardstick import PairSums, Yardstick, agreeing_branches, fixed_maps, vanished_terms


def sums_of(*branches: torch.Tensor) -> PairSums:
    sums = PairSums()
    sums.add(torch.stack(branches))
    return sums


def faces_of(seed: int, entries: int = 40, faces: int = 5000) -> torch.Tensor:
    """Features (N, C) far from zero, each entry with a mean and a spread of its own."""
    generator = torch.Generator().manual_seed(seed)
    centred = torch.randn(faces, entries, generator=generator) * torch.linspace(0.5, 2, entries)
    return 100 + torch.linspace(-3, 3, entries) + centred


def test_identical_independent_and_opposite_branches():
    x, other = faces_of(0), faces_of(1)
    opposite = 2 * x.mean(dim=0) - x
    for second, distance, correlation in ((x, 0, 1), (other, 1, 0), (opposite, 2, -1)):
        sums = sums_of(x, second)
        assert sums.distance() == pytest.approx(distance, abs=0.01)
        assert sums.correlation() == pytest.approx(correlation, abs=0.01)


def test_neither_figure_depends_on_the_scale_and_both_equal_a_slow_loop():
    branches = [faces_of(0, 6, 50), faces_of(0, 6, 50) + 0.3 * faces_of(1, 6, 50), faces_of(2, 6, 50)]
    distances, correlations = [], []
    for i in range(3):
        for j in range(i):
            x, y = branches[i].double(), branches[j].double()
            spread = x.var(dim=0, correction=0).sum() + y.var(dim=0, correction=0).sum()
            distances.append((x - y).square().sum(dim=1).mean() / spread)
            pair = torch.stack([(z - z.mean(dim=0)).flatten() for z in (x, y)])
            correlations.append(torch.corrcoef(pair)[0, 1])
    for scale in (1e-3, 1, 1e3):
        sums = sums_of(*(scale * branch for branch in branches))
        assert sums.distance() == pytest.approx(float(torch.stack(distances).mean()), rel=1e-3)
        assert sums.correlation() == pytest.approx(float(torch.stack(correlations).mean()), abs=1e-4)


def test_batches_give_what_one_pass_gives():
    features = torch.stack([faces_of(seed) for seed in range(3)]).reshape(3, -1, 8, 5)
    whole, parts = PairSums(), PairSums()
    whole.add(features)
    for batch in features.split(77, dim=1):
        parts.add(batch)
    assert parts.faces == whole.faces == 5000
    assert parts.distance() == pytest.approx(whole.distance(), rel=1e-9)
    assert parts.correlation() == pytest.approx(whole.correlation(), rel=1e-9)


def test_features_that_do_not_vary_have_no_figures():
    constant = torch.full((2, 30, 4), 0.1)
    yardstick = Yardstick()
    yardstick.take({"spatial": constant})
    yardstick.take({"spatial": constant})
    targets = torch.zeros(60, dtype=torch.long)
    scores = torch.zeros(2, 60, 3)
    assert yardstick.figures(scores, scores[0], targets) == {"disagreement": 0.0, "ensemble_gain": 0.0}
    half = sums_of(torch.full((50, 4), 0.1), faces_of(0, 4, 50))
    assert half.correlation() is None and half.distance() > 1


def test_decisions_are_counted():
    """Three branches, each wrong on another third of the faces: the mean is always right."""
    targets = torch.zeros(9, dtype=torch.long)
    scores = torch.tensor([4.0, 0.0, 0.0]).repeat(3, 9, 1)
    for branch in range(3):
        scores[branch, 3 * branch : 3 * branch + 3] = torch.tensor([0.0, 4.0, 0.0])
    figures = Yardstick().figures(scores, scores.softmax(dim=2).mean(dim=0), targets)
    assert figures["disagreement"] == pytest.approx(2 / 3)
    assert figures["ensemble_gain"] == pytest.approx(1 / 3)
    assert figures["correlation_logits"] < 0
    assert set(figures) == {"disagreement", "ensemble_gain", "correlation_logits"}


def test_a_single_branch_has_no_figures():
    yardstick = Yardstick()
    yardstick.take({"spatial": torch.rand(1, 9, 3, 3)})
    scores = torch.rand(1, 9, 3)
    assert yardstick.figures(scores, scores[0], torch.zeros(9, dtype=torch.long)) == {}


@pytest.mark.parametrize("measure", ["det", "logdet", "direct"])
def test_the_norm_is_that_of_the_weighted_terms_own_gradient(measure):
    """The features also serve another loss, whose gradient must not count."""
    features = torch.rand(3, 8, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    term = DiversityLoss(measure, "median")
    (0.1 * term(features) + features.square().sum()).backward()
    [alone] = torch.autograd.grad(0.1 * DiversityLoss(measure, "median")(features), features)
    torch.testing.assert_close(term.gradient_norm, alone.norm())


def test_published_terms_have_no_gradient_and_none_is_asked_for_by_none():
    features = (torch.rand(3, 8, 512, generator=torch.Generator().manual_seed(0))).requires_grad_()
    published = DiversityLoss("det", 10.0, zero_diagonal=True)
    published(features).backward()
    assert published.gradient_norm == 0
    for term, values in (
        (DiversityLoss("none"), features),
        (DiversityLoss(), features[:1]),
        (DiversityLoss("none"), None),
    ):
        term(values)
        assert term.gradient_norm.isnan()


def test_what_is_warned_of():
    row = {"gradient_spatial": 1e-3, "gradient_channel": 0.0, "gradient_none": float("nan"), "train_loss": 0.0}
    [(name, message)] = vanished_terms(row)
    assert name == "channel" and "'channel' trains nothing" in message and 'diversity_gamma="median"' in message
    differing = {"validation_disagreement": 0.05, "validation_correlation_logits": 0.9}
    assert not list(agreeing_branches(differing)) and not list(agreeing_branches({"validation_accuracy": 0.9}))
    for change in ({"validation_disagreement": 0.01}, {"validation_correlation_logits": 0.99}):
        [(_, message)] = agreeing_branches(differing | change)
        assert "hardly differ" in message


def test_maps_that_differ_without_looking_at_the_face_are_warned_of():
    """Two masks of opposite halves, with a little noise, as the terms made of the attention of trained branches."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.tensor([[[0.98, 0.98], [0.04, 0.04]], [[0.06, 0.06], [0.98, 0.98]]])
    maps = masks[:, None] + 0.01 * torch.randn(2, 500, 2, 2, generator=generator)
    logits, targets = torch.randn(2, 500, 8, generator=generator), torch.zeros(500, dtype=torch.int64)
    found = {}
    for name, values in (("fixed", maps), ("free", maps - masks[:, None] + masks.mean(dim=0))):
        yardstick = Yardstick()
        yardstick.take({"spatial": values})
        figures = yardstick.figures(logits, logits.softmax(dim=2).mean(dim=0), targets)
        row = {f"validation_{column}": value for column, value in figures.items()}
        found[name] = list(fixed_maps(row))
    [(name, message)] = found["fixed"]
    assert name == "fixed spatial" and "hardly between faces" in message
    assert not found["free"]
