"""The feature-diversity loss: how alike branches (or patches) are, as a determinant or a sum of similarities.

Paper: Heidari and Iosifidis, "Learning diversified feature representations for facial expression recognition in the
wild", arXiv 2210.09381. There S_ij is the mean over the batch of exp(-gamma ||x_i - x_j||^2) and S_ii = 1, so S is
positive semi-definite with unit diagonal and det(S) is in [0, 1].
"""

import torch
from torch import Tensor, nn

MEASURES = ("det", "logdet", "direct", "none")


def similarity_matrix(
    features: Tensor, gamma: float | str = 10.0, normalize: bool = False, zero_diagonal: bool = False
) -> Tensor:
    """Return the similarity S (B, B) between branches, averaged over the batch.

    Args:
        features: (B, N, ...), one row of features per branch and face; everything after N is flattened.
        gamma: width of the Gaussian kernel; "median" takes 1 over the median squared distance between the branches of
            the batch, without gradient, so that the similarity of a typical pair is exp(-1) at any scale.
        normalize: scale every feature vector to unit length first, so that squared distances are in [0, 4].
        zero_diagonal: leave the diagonal at 0 as the published code does; for comparison only.

    Returns:
        S with a diagonal of ones, in float32 (float64 for float64 features), also under autocast.

    Raises:
        ValueError: for features of fewer than two dimensions, or a gamma that is neither positive nor "median".
    """
    if features.ndim < 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; expected (B, N, ...)")
    if gamma != "median" and (isinstance(gamma, str) or not gamma > 0):
        raise ValueError(f"gamma is {gamma!r}; expected a positive number or 'median'")
    with torch.autocast(features.device.type, enabled=False):
        x = features if features.dtype == torch.float64 else features.float()
        x = x.reshape(*x.shape[:2], -1)  # (B, N, C)
        if normalize:
            x = nn.functional.normalize(x, dim=-1)
        x = (x - x.mean(dim=0)).transpose(0, 1)  # (N, B, C); distances stay, subtracting large norms loses no digits
        gram = x @ x.mT  # (N, B, B)
        norms = gram.diagonal(dim1=1, dim2=2)  # (N, B)
        distances = (norms[:, :, None] + norms[:, None, :] - 2 * gram).clamp_min(0)  # squared
        if gamma == "median":
            gamma = _one_over_median(distances.detach())
        similarity = torch.exp(-gamma * distances).mean(dim=0)
        return similarity - torch.eye(len(similarity), dtype=x.dtype, device=x.device) if zero_diagonal else similarity


def _one_over_median(distances: Tensor) -> Tensor:
    """Return 1 over the median of the squared distances (N, B, B) between two branches; 1 for a single branch."""
    B = distances.shape[1]
    if B == 1:
        return distances.new_ones(())
    row, column = torch.triu_indices(B, B, offset=1, device=distances.device)
    return 1 / distances[:, row, column].median().clamp_min(torch.finfo(distances.dtype).tiny)


def mean_off_diagonal(similarity: Tensor) -> Tensor:
    """Return the mean of S_ij over i != j of a similarity matrix (B, B); not a number for a single branch."""
    B = similarity.shape[0]
    return (
        (similarity.sum() - similarity.diagonal().sum()) / (B * (B - 1)) if B > 1 else similarity.new_tensor(torch.nan)
    )


class DiversityLoss(nn.Module):
    """A term to be minimised that falls when branches move apart.

    Args:
        measure: "det": -det(S). "logdet": -log det(S + eps I). "direct": the sum of S_ij over i != j. "none": zero,
            while the similarity is still recorded.
        gamma, normalize, zero_diagonal: see `similarity_matrix`.
        eps: keeps "logdet" finite for equal branches.

    Attributes:
        similarity: mean off-diagonal similarity of the last batch, a scalar without gradient.
        gradient_norm: norm of the gradient at the features that this term, as weighted in the loss, had in the last
            backward pass, a scalar; not a number before it, for "none" and for a single branch.

    Raises:
        ValueError: for an unknown measure.
    """

    def __init__(
        self,
        measure: str = "det",
        gamma: float | str = 10.0,
        normalize: bool = False,
        zero_diagonal: bool = False,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        if measure not in MEASURES:
            raise ValueError(f"diversity measure is {measure!r}; expected one of {', '.join(MEASURES)}")
        self.measure, self.gamma, self.normalize = measure, gamma, normalize
        self.zero_diagonal, self.eps = zero_diagonal, eps
        self.similarity: Tensor | None = None
        self.gradient_norm: Tensor | None = None

    def forward(self, features: Tensor | None) -> Tensor:
        """Return the loss, a scalar in float32 (float64 for float64 features), for features (B, N, ...).

        It is 0 for a single branch.

        Raises:
            ValueError: for None, which a network without attention has, unless the measure is "none".
        """
        if features is None:
            if self.measure != "none":
                raise ValueError(
                    "this network has no attention maps to diversify: start from weights with attention, "
                    'or set diversity to "none"'
                )
            self.similarity = self.gradient_norm = torch.tensor(torch.nan)
            return torch.zeros(())
        self.similarity = self.gradient_norm = features.new_full((), torch.nan)
        if len(features) == 1:  # a single branch has nothing to differ from
            return features.new_zeros(())
        if features.requires_grad and self.measure != "none":
            features = features.view_as(features)  # its gradient is that of this term alone
            features.register_hook(self._take_gradient)
        S = similarity_matrix(features, self.gamma, self.normalize, self.zero_diagonal)
        self.similarity = mean_off_diagonal(S.detach())
        if self.measure == "det":
            scale = S.detach().amax().clamp_min(torch.finfo(S.dtype).tiny)  # 1, but for a zero diagonal: there LAPACK
            return -torch.linalg.det(S / scale) * scale ** len(S)  # makes NaN of similarities that nearly underflow
        if self.measure == "logdet":
            return -torch.linalg.slogdet(S + self.eps * torch.eye(len(S), dtype=S.dtype, device=S.device)).logabsdet
        if self.measure == "direct":
            return S.sum() - S.diagonal().sum()
        return S.new_zeros(())

    def _take_gradient(self, gradient: Tensor | None) -> None:
        if gradient is not None:  # undefined where no loss depends on this term
            self.gradient_norm = gradient.norm()
