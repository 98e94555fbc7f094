"""The numbers reported: accuracy with its interval, recall, F1, calibration, confusion matrix."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Metrics:
    """What a set of predictions is worth; shares in [0, 1].

    Attributes:
        n: number of faces.
        accuracy: share of faces whose most probable class is their label.
        accuracy_interval: its 95 % bootstrap interval over faces (percentiles of 2,000 draws).
        mean_class_accuracy: mean of the recall over the classes that occur.
        macro_f1: mean of the F1 score over the classes that occur in labels or predictions.
        recall: recall of each class, None for a class that does not occur.
        calibration_error: expected calibration error over 15 equal bins of confidence.
        confusion: faces of each class (row) given each label (column).
    """

    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    mean_class_accuracy: float
    macro_f1: float
    recall: dict[str, float | None]
    calibration_error: float
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compute_metrics(probabilities: Tensor, targets: Tensor, labels: tuple[str, ...], seed: int = 0) -> Metrics:
    """Score predictions.

    Args:
        probabilities: (N, K), rows that sum to 1.
        targets: class indices (N,).
        labels: the K class names.
        seed: seed of the bootstrap.
    """
    K = len(labels)
    predicted = probabilities.argmax(dim=1)
    confusion = multiclass_confusion_matrix(predicted, targets, K)
    support = confusion.sum(dim=1)
    recall = confusion.diagonal() / support  # not a number where a class does not occur
    correct = (predicted == targets).double()
    return Metrics(
        n=len(targets),
        accuracy=correct.mean().item(),
        accuracy_interval=bootstrap_interval(correct.numpy(), seed),
        mean_class_accuracy=recall.nanmean().item(),
        macro_f1=multiclass_f1_score(predicted, targets, K, average="macro").item(),
        recall={label: r.item() if n else None for label, r, n in zip(labels, recall, support, strict=True)},
        calibration_error=multiclass_calibration_error(probabilities, targets, K, n_bins=CALIBRATION_BINS).item(),
        confusion=confusion.tolist(),
    )


def bootstrap_interval(correct: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean over faces (N,)."""
    if len(correct) < 2:
        return float("nan"), float("nan")
    drawn = bootstrap(
        (correct,), np.mean, n_resamples=2000, batch=200, method="percentile", rng=np.random.default_rng(seed)
    )
    low, high = drawn.confidence_interval
    return float(low), float(high)


def class_indices(targets: Tensor) -> Tensor:
    """Return the most probable class of soft labels (N, K), or hard labels (N,) as they are."""
    return targets.argmax(dim=1) if targets.ndim == 2 else targets


def multi_target_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy against whichever marked label the network finds most probable (Barsoum et al. 2016, equation 2).

    Args:
        logits: (N, K).
        targets: (N, K), 1 for every acceptable label, at least one per row.
    """
    return -logits.log_softmax(dim=1).masked_fill(targets == 0, -torch.inf).amax(dim=1).mean()
