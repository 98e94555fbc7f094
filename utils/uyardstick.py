"""How different the branches of a network are, in figures with a fixed scale, and when to warn by them.

The mean similarity that a diversity term sees depends on its gamma: with "median" it is near exp(-1), whatever the
branches do. What is here relates branches to how much faces differ, or counts what they decide, so that epochs,
settings and networks can be compared with each other.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from utils.evaluation.branches import measure_disagreement

VANISHED = 1e-5
"""Norm of a diversity term's gradient below which the term trains nothing. That of one branch's cross-entropy at its
scores is about 1 / sqrt(batch size), 0.1 to 0.2 for the batches here, so 1e-5 is a ten-thousandth of what it competes
with; terms that act measure 1e-3 to 1e-1 on real faces, ESR's published one over channels 1e-14.
"""
AGREEING = 0.02
"""Disagreement of trained branches below which an ensemble gains nothing that can be seen: where all agree it cannot
gain, and of two that disagree at most one is right, so two branches gain 1 point at most. On the 3,191 faces of FER+'s
Valid the standard error of an accuracy is 0.6 points.
"""
ALIKE = 0.98
"""Correlation of trained branches' scores above which averaging them changes little: the mean of B equally correlated
scores has (1 - 1/B) (1 - correlation) less variance than each of them, which is then less than 2 %.
"""
FIXED = 100
"""Distance of trained branches' maps, over their variance, above which the maps hardly depend on the face: what varies
is then less than a hundredth of what they differ by. On FER+ it is 0.2 in space and 3 over channels without a diversity
term, and 20,000 and more with logdet at weight 1.
"""


class PairSums:
    """Running sums over faces, from which distances and correlations of all pairs of branches follow.

    In float64 on the CPU; memory does not grow with the number of faces.
    """

    def __init__(self) -> None:
        self.faces = 0

    def add(self, features: Tensor) -> None:
        """Take the features (B, N, ...) of the next N faces; everything after N is flattened to C entries."""
        x = features.detach().cpu().double().flatten(2) if features.ndim > 2 else features.cpu().double()[..., None]
        if not self.faces:
            self._origin = x[:, 0]  # (B, C); sums of what differs from it keep their digits, and constants sum to 0
            self._sums = torch.zeros_like(self._origin)
            self._products = x.new_zeros(len(x), len(x))
        x = x - self._origin[:, None]
        self._sums += x.sum(dim=1)
        self._products += x.flatten(1) @ x.flatten(1).T
        self.faces += x.shape[1]

    @property
    def covariance(self) -> Tensor:
        """Covariance over the faces of each entry, summed over the entries: (B, B)."""
        return self._products / self.faces - self._sums @ self._sums.T / self.faces**2

    def distance(self) -> float | None:
        """Return the mean over pairs of ||x_i - x_j||^2, mean over faces, over the sum of both branches' variances.

        0 for identical branches, 1 for independent ones of the same mean, 2 for opposite ones. None where no pair of
        branches has features that vary over the faces.
        """
        means = self._origin + self._sums / self.faces
        offsets = (means[:, None] - means[None]).square().sum(dim=2)  # (B, B)
        covariance = self.covariance
        spread = covariance.diagonal()[:, None] + covariance.diagonal()[None]
        return _mean_over_pairs((spread - 2 * covariance + offsets).clamp_min(0), spread)

    def correlation(self) -> float | None:
        """Return the mean over pairs of Pearson's correlation over faces, pooled over the entries.

        Each entry is centred over the faces in each branch. 1 for identical branches, 0 for independent ones, -1 for
        opposite ones. None as for `distance`.
        """
        covariance = self.covariance
        deviations = covariance.diagonal().clamp_min(0).sqrt()
        return _mean_over_pairs(covariance, deviations[:, None] * deviations[None])


def _mean_over_pairs(values: Tensor, scales: Tensor) -> float | None:
    """Return the mean of values (B, B) relative to their scales, over the pairs i < j whose scale is not 0."""
    i, j = torch.triu_indices(*values.shape, offset=1)
    known = scales[i, j] > 0
    return (values[i, j] / scales[i, j])[known].mean().item() if known.any() else None


class Yardstick:
    """Measures the branches while a network scores faces: `take` for every batch, then `figures`."""

    def __init__(self) -> None:
        self._sums: dict[str, PairSums] = {}

    def take(self, features: Mapping[str, Tensor]) -> None:
        """Take what the diversity loss compares of the next faces, (B, N, ...) by name; nothing without attention."""
        for name, values in features.items():
            self._sums.setdefault(name, PairSums()).add(values)

    def figures(self, branch_logits: Tensor, probabilities: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the figures by name; those that have no pair of branches to compare are left out.

        Args:
            branch_logits: scores of all faces taken, (B, N, K).
            probabilities: of the ensemble, (N, K).
            targets: class indices (N,).

        Returns:
            distance_<feature> and correlation_<feature> of what was taken, correlation_logits (see `PairSums`),
            disagreement (share of the faces to which a pair of branches gives different labels, mean over pairs), and
            ensemble_gain (accuracy of the ensemble minus the branches' mean accuracy).
        """
        found: dict[str, float | None] = {}
        for name, sums in self._sums.items():
            found |= {f"distance_{name}": sums.distance(), f"correlation_{name}": sums.correlation()}
        disagreement = measure_disagreement(branch_logits, targets)
        if disagreement is not None:
            scores = PairSums()
            scores.add(branch_logits)
            right = (probabilities.argmax(dim=1) == targets).double().mean()
            found["correlation_logits"] = scores.correlation()
            found["disagreement"] = disagreement.with_the_rest.mean().item()
            found["ensemble_gain"] = (right - disagreement.accuracy.mean()).item()
        return {name: value for name, value in found.items() if value is not None}


def vanished_terms(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the diversity terms of an epoch's row that train nothing, each with what to say of it."""
    for column, norm in row.items():
        name = column.removeprefix("gradient_")
        if name != column and norm < VANISHED:  # not a number: a single branch, or none asked for
            yield (
                name,
                f"the diversity term '{name}' trains nothing: the norm of its gradient at the features is {norm:.2g}, "
                f'below {VANISHED:g}; diversity_gamma="median" sees a scale it can act on, or raise diversity_weight',
            )


def fixed_maps(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield, for the row of the last epoch of a training, the compared maps that became constants, and what to say."""
    for column, distance in row.items():
        name = column.removeprefix("validation_distance_")
        if name != column and distance > FIXED:
            yield (
                f"fixed {name}",
                f"the compared '{name}' maps differ between the branches but hardly between faces (squared distance "
                f"{distance:,.0f} times their variance): each branch has a fixed mask. In our study (results/README) "
                "it stayed below 20 with diversity_gamma 10 and weight 1, and below 4 without a diversity term",
            )


def agreeing_branches(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield, for the row of the last epoch of a training, that its branches hardly differ, and what to say of it."""
    disagreement, correlation = row.get("validation_disagreement"), row.get("validation_correlation_logits", 0.0)
    if disagreement is not None and (disagreement < AGREEING or correlation > ALIKE):
        yield (
            "branches",
            f"the trained branches hardly differ: two of them give another label to {disagreement:.1%} of the "
            f"validation faces, and their scores correlate by {correlation:.2f} (from below {AGREEING:.0%} or above "
            f"{ALIKE:g} on, averaging them changes next to nothing)",
        )
