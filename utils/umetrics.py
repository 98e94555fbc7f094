"""The numbers reported, each with its interval: accuracy, precision and recall, F1, calibration, paired differences."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.ubootstrap import RESAMPLES, Interval, basic_interval, percentile_interval, resample_faces, sum_in_cells

CALIBRATION_BINS = 15
TEMPERATURES = (0.2, 5.0)
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

    Intervals are 95 % bootstrap intervals over faces (2,000 samples); they are None for fewer than two faces and for
    classes without a value. They are percentiles of the samples, for the means over classes of the samples with a face
    of every class; that of the calibration error is `utils.ubootstrap.basic_interval`.

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
    """The statistics of every sample of faces: rates with a first dimension D, and the calibration error (D,)."""

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
    cells, bins, confidence, right = _cells(probabilities, targets)
    confusion = sum_in_cells(cells[None], K * K).reshape(K, K)
    rates, samples = compute_rates(confusion), resample_statistics(probabilities, targets, seed)
    values: dict[str, Any] = {}
    for name in COMPARED:
        values[name] = float(getattr(rates, name))
        values[f"{name}_interval"] = percentile_interval(getattr(samples.rates, name))
    for name in ("recall", "precision"):
        of_samples = zip(labels, getattr(samples.rates, name).T, strict=True)  # (K, D)
        values[name] = dict(zip(labels, _known(getattr(rates, name)), strict=True))
        values[f"{name}_interval"] = {label: percentile_interval(of_class) for label, of_class in of_samples}
    error = float(_calibration_error(bins[None], (confidence - right)[None])[0])
    count, sure, correct = (sum_in_cells(bins[None], CALIBRATION_BINS, of)[0] for of in (None, confidence, right))
    with np.errstate(invalid="ignore"):
        reliability = Reliability(count.tolist(), _known(sure / count), _known(correct / count))
    return Metrics(
        n=len(cells),
        calibration_error=error,
        calibration_error_interval=basic_interval(error, samples.calibration_error),
        confusion=confusion.tolist(),
        reliability=reliability,
        **values,
    )


def compute_differences(
    first: Tensor, second: Tensor, targets: Tensor, labels: tuple[str, ...], seed: int = 0
) -> dict[str, Difference]:
    """Compare two networks on the same faces: second minus first, of accuracy, mean class accuracy and macro F1.

    Args:
        first, second: probabilities (N, K) of the same faces in the same order.
        targets: class indices (N,).
        labels: the K class names.
        seed: seed of the bootstrap; both networks see the same samples of the same faces.
    """
    K, both = len(labels), (first, second)
    before, after = (compute_rates(sum_in_cells(_cells(p, targets)[0][None], K * K).reshape(K, K)) for p in both)
    sampled_before, sampled_after = (resample_statistics(p, targets, seed).rates for p in both)
    return {
        name: Difference(
            float(getattr(after, name) - getattr(before, name)),
            percentile_interval(getattr(sampled_after, name) - getattr(sampled_before, name)),
        )
        for name in COMPARED
    }


def confusion_of(probabilities: Tensor, targets: Tensor) -> np.ndarray:
    """Count the faces of each class (row) that probabilities (N, K) give each label (column), (K, K)."""
    K = probabilities.shape[1]
    return sum_in_cells(_cells(probabilities, targets)[0][None], K * K).reshape(K, K)


def compute_rates(confusion: np.ndarray, whole: np.ndarray | None = None) -> Rates:
    """Compute the rates of confusion matrices (..., K, K), rows the labels and columns the predictions.

    Means are taken over the classes that have a value in `whole` (K, K), by default in each matrix itself; where one of
    them has none, the mean is not a number. So samples that miss a rare class do not count as if there were none such.
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


def resample_statistics(probabilities: Tensor, targets: Tensor, seed: int = 0, resamples: int = RESAMPLES) -> Resamples:
    """Compute the rates and the calibration error of faces (N, K), (N,) sampled with replacement, `resamples` times."""
    K = probabilities.shape[1]
    cells, bins, confidence, right = _cells(probabilities, targets)
    whole, gaps = sum_in_cells(cells[None], K * K).reshape(K, K), confidence - right
    rates, errors = [], []
    for faces in resample_faces(len(cells), seed, resamples):
        rates.append(compute_rates(sum_in_cells(cells[faces], K * K).reshape(-1, K, K), whole))
        errors.append(_calibration_error(bins[faces], gaps[faces]))
    return Resamples(Rates(*(np.concatenate(parts) for parts in zip(*rates, strict=True))), np.concatenate(errors))


def fit_temperature(probabilities: Tensor, targets: Tensor) -> float:
    """Find the temperature that makes probabilities as sure as they are right (Guo et al., ICML 2017).

    It is the one for which p ** (1 / temperature), made to sum to 1 again, has the smallest negative log-likelihood,
    within `TEMPERATURES` (where all faces are right, being surer is always better), to four digits.

    Args:
        probabilities: (N, K), rows that sum to 1.
        targets: class indices (N,).
    """
    logarithms = probabilities.double().clamp_min(1e-30).log()
    of_targets = logarithms.gather(1, targets[:, None]).mean()
    low, high = TEMPERATURES
    for _ in range(50):  # the likelihood is convex in 1 / temperature: halve the interval where its slope changes sign
        temperature = (low * high) ** 0.5
        expected = ((logarithms / temperature).softmax(dim=1) * logarithms).sum(dim=1).mean()
        low, high = (low, temperature) if expected < of_targets else (temperature, high)
    return round(temperature, 4)


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


def _cells(probabilities: Tensor, targets: Tensor) -> tuple[np.ndarray, ...]:
    """Return each face's cell of the confusion matrix, bin of confidence, confidence, and 1 where it is right (N,)."""
    confidence, predicted = probabilities.double().max(dim=1)
    cells = targets * probabilities.shape[1] + predicted
    bins = (confidence * CALIBRATION_BINS).ceil().long().sub(1).clamp(0, CALIBRATION_BINS - 1)  # (low, high]
    return cells.numpy(), bins.numpy(), confidence.numpy(), (predicted == targets).double().numpy()


def _calibration_error(bins: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Return the expected calibration errors (D,) of bins and confidence minus correctness (D, N)."""
    return np.abs(sum_in_cells(bins, CALIBRATION_BINS, gaps)).sum(axis=-1) / bins.shape[1]


def _mean_over(classes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean of values (..., K) over the classes marked."""
    return np.where(classes, values, 0).sum(axis=-1) / classes.sum(axis=-1)


def _known(values: np.ndarray) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
