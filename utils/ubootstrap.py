"""Bootstrap over faces: the same samples for every network scored on the same faces, so that differences are paired.

Efron and Tibshirani, "An introduction to the bootstrap", 1993. A statistic of N faces is computed again for N faces
sampled from them with replacement, `RESAMPLES` times. Whatever counts faces in cells (a confusion matrix) or sums a
value in bins (calibration) follows from the sums of each sample, so that thousands of samples take a second.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
FACES_AT_ONCE = 2_000_000  # sampled faces in memory at a time

Interval: TypeAlias = tuple[float, float] | None
"""Lower and upper bound; None where there is nothing to sample from."""


def resample_faces(num_faces: int, seed: int = 0, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """Yield the places of the sampled faces, (some, N) at a time, `resamples` rows in all; none of a single face.

    They depend on the number of faces, the seed and the number of resamples alone.
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, FACES_AT_ONCE // max(num_faces, 1))
    resamples = resamples if num_faces > 1 else 0
    for start in range(0, max(resamples, 1), at_once):  # once at least: (0, N)
        yield rng.integers(num_faces, size=(min(at_once, resamples - start), num_faces), dtype=np.int32)


def sum_in_cells(cells: np.ndarray, num_cells: int, values: np.ndarray | None = None) -> np.ndarray:
    """Sum values (D, N), or count faces, in the cells (D, N) that they belong to; returns (D, num_cells)."""
    rows = len(cells)
    places = cells + num_cells * np.arange(rows)[:, None]
    weights = None if values is None else values.ravel()
    return np.bincount(places.ravel(), weights, rows * num_cells).reshape(rows, num_cells)


def percentile_interval(sampled: np.ndarray) -> Interval:
    """Return the 95 % percentile interval of samples' values (D,); those that are not a number are left out."""
    known = sampled[np.isfinite(sampled)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def basic_interval(estimate: float, sampled: np.ndarray) -> Interval:
    """Return the 95 % basic interval of a share, for an estimate that chance pushes upwards, such as a mean gap.

    Samples are pushed up once more, by as much again: reflecting them at the estimate takes both off. The interval is
    cut to [0, 1] and reaches at least to the estimate. On simulated faces it covers the true calibration error in nine
    of ten cases where the error is 0.02 or more, where the percentiles of the samples cover it in none to nine of ten.
    """
    percentiles = percentile_interval(sampled)
    if percentiles is None:
        return None
    low, high = 2 * estimate - percentiles[1], 2 * estimate - percentiles[0]
    return max(0.0, min(low, estimate)), min(1.0, max(high, estimate))
