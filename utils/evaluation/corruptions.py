"""How a network stands up to worse pictures: blur, noise, JPEG, darkness, low resolution, occlusion.

In the manner of Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019, with fewer kinds, and severities for small faces. Pictures are corrupted at one size for all
networks, `SIDE`, whatever size each takes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import kornia.augmentation as K
import torch
import torch.nn.functional as F
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from torch import Tensor

from models.classifier import ExpressionClassifier, resize
from models.inference import optimize_for_inference
from utils.evaluation.classes import columns_of, keep_columns
from utils.uhardware import Batch, Hardware
from utils.umetrics import Difference, compute_differences, compute_metrics
from utils.upipeline import FaceLoader
from utils.ureport import percent
from utils.utrain import predict_dataset

SIDE = 96  # pixels at which pictures are corrupted
SAMPLE = 1000  # faces, drawn from those scored: 19 passes over all of them would take long, to no use


class Corruption(NamedTuple):
    """A way to spoil pictures.

    Attributes:
        name: what it is.
        levels: the parameter of each severity, from light to strong.
        unit: what the parameter is, with {} for it.
        apply: from pictures (N, 3, SIDE, SIDE) in [0, 1] and a parameter to spoiled pictures.
    """

    name: str
    levels: tuple[float, ...]
    unit: str
    apply: Callable[[Tensor, float], Tensor]


def _blur(images: Tensor, sigma: float) -> Tensor:
    size = 2 * int(3 * sigma + 0.5) + 1
    return gaussian_blur2d(images, (size, size), (sigma, sigma))


def _noise(images: Tensor, deviation: float) -> Tensor:
    return K.RandomGaussianNoise(0.0, deviation, p=1.0)(images).clamp(0, 1)


def _darken(images: Tensor, share: float) -> Tensor:
    return (255 * images * share).round() / 255  # a camera's file has 256 steps


def _jpeg(images: Tensor, quality: float) -> Tensor:
    return jpeg_codec_differentiable(images, torch.full((len(images),), quality, device=images.device)).clamp(0, 1)


def _lower_resolution(images: Tensor, side: float) -> Tensor:
    small = F.interpolate(images, (int(side), int(side)), mode="bilinear", antialias=True)
    return F.interpolate(small, images.shape[-2:], mode="bilinear").clamp(0, 1)


def _occlude(images: Tensor, share: float) -> Tensor:
    return K.RandomErasing(scale=(share, share), ratio=(1.0, 1.0), value=0.5, p=1.0)(images)


CORRUPTIONS = (
    Corruption("blur", (1.5, 3.0, 5.0), f"Gaussian, {{:g}} of {SIDE} pixels", _blur),
    Corruption("noise", (0.05, 0.1, 0.2), "Gaussian, deviation {:g}", _noise),
    Corruption("JPEG", (30, 10, 5), f"quality {{:g}} at {SIDE} pixels", _jpeg),
    Corruption("dark", (0.5, 0.25, 0.1), "{:.0%} of the light", _darken),
    Corruption("low resolution", (32, 20, 12), "{:g} pixels a side", _lower_resolution),
    Corruption("occlusion", (0.1, 0.2, 0.35), "{:.0%} covered by a grey square", _occlude),
)


class Spoiled(NamedTuple):
    """What a network does on pictures spoiled in one way.

    Attributes:
        corruption: which; "none" for the pictures as they are, at `SIDE` pixels.
        severity: from 1; 0 for none.
        parameter: in words.
        n: number of faces.
        accuracy, accuracy_interval, macro_f1: of the ensemble by mean.
        difference: of the accuracy from "none", with its paired interval.
    """

    corruption: str
    severity: int
    parameter: str
    n: int
    accuracy: float
    accuracy_interval: tuple[float, float] | None
    macro_f1: float
    difference: Difference

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return self._asdict() | {"difference": self.difference._asdict()}


class SpoiledFaces:
    """The batches of a loader at `SIDE` pixels, spoiled, then resized to what a network takes; always the same."""

    def __init__(self, loader: FaceLoader, image_size: int, spoil: Callable[[Tensor], Tensor], seed: int) -> None:
        self.loader, self.image_size, self.spoil, self.seed = loader, image_size, spoil, seed
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for batch in self.loader:
                spoiled = resize(self.spoil(batch.images.float()), self.image_size)
                yield batch._replace(images=spoiled)


def sweep(
    model: ExpressionClassifier, labels: Sequence[str], loader: FaceLoader, hardware: Hardware, seed: int
) -> list[Spoiled]:
    """Score a network on faces spoiled in every way, each at every severity.

    Args:
        model: the network, on its device.
        labels: the classes that are scored.
        loader: of the faces at `SIDE` pixels, not shuffled.
        hardware: see `utils.uhardware.choose_hardware`.
        seed: of the bootstrap, and of noise and occlusion.
    """
    fast, columns = optimize_for_inference(model, hardware.precision), columns_of(model.labels, labels)

    def probabilities(spoil: Callable[[Tensor], Tensor]) -> Tensor:
        spoiled = SpoiledFaces(loader, model.image_size, spoil, seed)
        return keep_columns(model.combine(predict_dataset(fast, spoiled, hardware).branch_logits), columns)

    labels, targets = tuple(labels), torch.from_numpy(loader.dataset.labels)
    clean = probabilities(lambda images: images)

    def measured(name: str, severity: int, parameter: str, found: Tensor) -> Spoiled:
        metrics = compute_metrics(found, targets, labels, seed)
        difference = compute_differences(clean, found, targets, labels, seed)["accuracy"]
        return Spoiled(
            name,
            severity,
            parameter,
            metrics.n,
            metrics.accuracy,
            metrics.accuracy_interval,
            metrics.macro_f1,
            difference,
        )

    rows = [measured("none", 0, f"at {SIDE} pixels", clean)]
    for kind in CORRUPTIONS:
        for severity, level in enumerate(kind.levels, start=1):
            found = probabilities(lambda images, kind=kind, level=level: kind.apply(images, level))
            rows.append(measured(kind.name, severity, kind.unit.format(level), found))
    return rows


def describe_corruptions(rows: Sequence[Spoiled]) -> list[str]:
    """Say the accuracy on spoiled pictures, in a line for each kind."""
    if not rows:
        return []
    lines = [f"{rows[0].n:,} pictures as they are, at {SIDE} pixels: accuracy {percent(rows[0].accuracy, 2)}"]
    for kind in CORRUPTIONS:
        own = [f"{percent(row.accuracy)} ({row.parameter})" for row in rows if row.corruption == kind.name]
        lines.append(f"{kind.name}: {', '.join(own)}")
    return [*lines, f"mean of all corruptions: {percent(mean_accuracy(rows), 2)}"]


def mean_accuracy(rows: Sequence[Spoiled]) -> float:
    """Return the mean accuracy over all corruptions and severities."""
    spoiled = [row.accuracy for row in rows if row.severity]
    return sum(spoiled) / len(spoiled)
