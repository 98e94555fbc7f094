"""The numbers reported, each with its interval: accuracy, precision and recall, F1, calibration, paired differences."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.ubootstrap import RESAMPLES, Interval, basic_interval, percentile_interval, resample_faces, sum_in_cells

CALIBRATION_BINS = 15
COMPARED = ("accuracy", "mean_class_accuracy", "macro_f1")


@dataclass(frozen=True)
class Reliability:
    """How often a network is right when it says how sure it is: one value per equal bin of confidence over [0, 1].

    Attributes:
        count: faces in the bin.
        confidence: mean probability of the predicted class, None for an empty bin.
        accuracy: share of them predicted rightly, None for an empty bin.
    """

    count: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]


@dataclass(frozen=True)
class Metrics:
    """What a set of predictions is worth; shares in [0, 1].

    Intervals are 95 % bootstrap intervals over faces (2,000 draws); they are None for fewer than two faces and for
    classes without a value. They are percentiles of the draws, for the means over classes of the draws with a face of
    every class; that of the calibration error is `utils.ubootstrap.basic_interval`.

    Attributes:
        n: number of faces.
        accuracy: share of faces whose most probable class is their label.
        mean_class_accuracy: mean of the recall over the classes that occur.
        macro_f1: mean of the F1 score over the classes that occur in labels or predictions.
        calibration_error: expected calibration error over 15 equal bins of confidence (Guo et al., ICML 2017).
        recall: recall of each class, None for a class that does not occur.
        precision: precision of each class, None for a class that is never predicted.
        confusion: faces of each class (row) given each label (column).
        reliability: what the calibration error is computed from.
    """

    n: int
    accuracy: float
    accuracy_interval: Interval
    mean_class_accuracy: float
    mean_class_accuracy_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval
    calibration_error: float
    calibration_error_interval: Interval
    recall: dict[str, float | None]
    recall_interval: dict[str, Interval]
    precision: dict[str, float | None]
    precision_interval: dict[str, Interval]
    confusion: list[list[int]]
    reliability: Reliability

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class Rates(NamedTuple):
    """What follows from confusion matrices (..., K, K); not a number where a class has no value."""

    accuracy: np.ndarray  # (...)
    mean_class_accuracy: np.ndarray  # (...)
    macro_f1: np.ndarray  # (...)
    recall: np.ndarray  # (..., K)
    precision: np.ndarray  # (..., K)


class Difference(NamedTuple):
    """How much higher a second network scores than a first on the same faces, with its 95 % paired interval."""

    value: float
    interval: Interval


class Resamples(NamedTuple):
    """The statistics of every draw of faces: rates with a first dimension D, and the calibration error (D,)."""

    rates: Rates
    calibration_error: np.ndarray


def compute_metrics(probabilities: Tensor, targets: Tensor, labels: tuple[str, ...], seed: int = 0) -> Metrics:
    """Score predictions.

    Args:
        probabilities: (N, K), rows that sum to 1, N > 0.
        targets: class indices (N,).
        labels: the K class names.
        seed: seed of the bootstrap.
    """
    K = len(labels)
    cells, bins, gaps = _cells(probabilities, targets)
    confusion = sum_in_cells(cells[None], K * K).reshape(K, K)
    gap_sums = sum_in_cells(bins[None], CALIBRATION_BINS, gaps[None])
    rates = compute_rates(confusion)
    error = float(_calibration_error(gap_sums, len(cells))[0])
    draws = resample_statistics(probabilities, targets, seed) if len(cells) > 1 else None

    def interval(name: str) -> Interval:
        return percentile_interval(getattr(draws.rates, name)) if draws else None

    def per_class(name: str) -> tuple[dict[str, float | None], dict[str, Interval]]:
        values = {label: _known(value) for label, value in zip(labels, getattr(rates, name), strict=True)}
        drawn = getattr(draws.rates, name).T if draws else ()  # (K, D)
        return values, dict.fromkeys(labels) | {
            label: percentile_interval(of_class) for label, of_class in zip(labels, drawn, strict=draws is not None)
        }

    recall, recall_interval = per_class("recall")
    precision, precision_interval = per_class("precision")
    return Metrics(
        n=len(cells),
        accuracy=float(rates.accuracy),
        accuracy_interval=interval("accuracy"),
        mean_class_accuracy=float(rates.mean_class_accuracy),
        mean_class_accuracy_interval=interval("mean_class_accuracy"),
        macro_f1=float(rates.macro_f1),
        macro_f1_interval=interval("macro_f1"),
        calibration_error=error,
        calibration_error_interval=basic_interval(error, draws.calibration_error) if draws else None,
        recall=recall,
        recall_interval=recall_interval,
        precision=precision,
        precision_interval=precision_interval,
        confusion=confusion.tolist(),
        reliability=_reliability(probabilities, targets),
    )


def compute_differences(
    first: Tensor, second: Tensor, targets: Tensor, labels: tuple[str, ...], seed: int = 0
) -> dict[str, Difference]:
    """Compare two networks on the same faces: second minus first, of accuracy, mean class accuracy and macro F1.

    Args:
        first, second: probabilities (N, K) of the same faces in the same order.
        targets: class indices (N,).
        labels: the K class names.
        seed: seed of the bootstrap; both networks see the same draws of the same faces.
    """
    K = len(labels)
    scores = [
        compute_rates(sum_in_cells(_cells(probabilities, targets)[0][None], K * K).reshape(K, K))
        for probabilities in (first, second)
    ]
    draws = [resample_statistics(p, targets, seed).rates for p in (first, second)] if len(targets) > 1 else None
    return {
        name: Difference(
            float(getattr(scores[1], name) - getattr(scores[0], name)),
            percentile_interval(getattr(draws[1], name) - getattr(draws[0], name)) if draws else None,
        )
        for name in COMPARED
    }


def compute_rates(confusion: np.ndarray, whole: np.ndarray | None = None) -> Rates:
    """Compute the rates of confusion matrices (..., K, K), rows the labels and columns the predictions.

    Means are taken over the classes that have a value in `whole` (K, K), by default in each matrix itself; where one of
    them has none, the mean is not a number. So draws that miss a rare class do not count as if there were none such.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)  # (..., K)
    labelled, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    with np.errstate(invalid="ignore"):
        recall, precision = right / labelled, right / predicted
        f1 = 2 * right / (labelled + predicted)
    labelled, predicted = (labelled, predicted) if whole is None else (whole.sum(axis=1), whole.sum(axis=0))
    return Rates(
        right.sum(axis=-1) / confusion.sum(axis=(-2, -1)),
        _mean_over(labelled > 0, recall),
        _mean_over(labelled + predicted > 0, f1),
        recall,
        precision,
    )


def resample_statistics(probabilities: Tensor, targets: Tensor, seed: int = 0, draws: int = RESAMPLES) -> Resamples:
    """Compute the rates and the calibration error of faces (N, K), (N,) drawn with replacement, `draws` times."""
    K = probabilities.shape[1]
    cells, bins, gaps = _cells(probabilities, targets)
    whole = sum_in_cells(cells[None], K * K).reshape(K, K)
    rates, errors = [], []
    for faces in resample_faces(len(cells), seed, draws):
        rates.append(compute_rates(sum_in_cells(cells[faces], K * K).reshape(-1, K, K), whole))
        errors.append(_calibration_error(sum_in_cells(bins[faces], CALIBRATION_BINS, gaps[faces]), len(cells)))
    return Resamples(Rates(*(np.concatenate(parts) for parts in zip(*rates, strict=True))), np.concatenate(errors))


def class_indices(targets: Tensor) -> Tensor:
    """Return the most probable class of soft labels (N, K), or hard labels (N,) as they are."""
    return targets.argmax(dim=1) if targets.ndim == 2 else targets


def multi_target_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy against whichever marked label the network finds most probable (Barsoum et al. 2016, equation 2).

    Args:
        logits: (N, K).
        targets: (N, K), 1 for every acceptable label, at least one per row.
    """
    return -logits.float().log_softmax(dim=1).masked_fill(targets == 0, -torch.inf).amax(dim=1).mean()


def _cells(probabilities: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each face's cell of the confusion matrix, its bin of confidence, and confidence minus correctness (N,)."""
    confidence, predicted = probabilities.double().max(dim=1)
    cells = targets * probabilities.shape[1] + predicted
    bins = (confidence * CALIBRATION_BINS).ceil().long().sub(1).clamp(0, CALIBRATION_BINS - 1)  # (low, high]
    gaps = confidence - (predicted == targets).double()
    return cells.numpy(), bins.numpy(), gaps.numpy()


def _reliability(probabilities: Tensor, targets: Tensor) -> Reliability:
    confidence, predicted = probabilities.double().max(dim=1)
    bins = _cells(probabilities, targets)[1][None]
    count, sure, right = (
        sum_in_cells(bins, CALIBRATION_BINS, values)[0]
        for values in (None, confidence.numpy()[None], (predicted == targets).double().numpy()[None])
    )
    with np.errstate(invalid="ignore"):
        sure, right = sure / count, right / count
    return Reliability(count.tolist(), [_known(value) for value in sure], [_known(value) for value in right])


def _calibration_error(gap_sums: np.ndarray, num_faces: int) -> np.ndarray:
    """Turn sums of confidence minus correctness in the bins (D, bins) into expected calibration errors (D,)."""
    return np.abs(gap_sums).sum(axis=-1) / num_faces


def _mean_over(classes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean of values (..., K) over the classes marked."""
    return np.where(classes, values, 0).sum(axis=-1) / classes.sum(axis=-1)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
