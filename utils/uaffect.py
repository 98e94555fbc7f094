"""Valence and arousal: what an ESR with `affect=True` says about them, and what that is worth."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diversified_fer.scores import DIMENSIONS
from diversified_fer.writing import write_json
from models.esr import ESR
from utils.ubootstrap import Interval, percentile_interval, resample_faces
from utils.ucheckpoint import Run
from utils.uhardware import Hardware
from utils.upipeline import FaceLoader
from utils.utrain import show_progress

AFFECT_STAGE = 1000  # number of the stage that trains both, after those of all branches
MEASURES = ("rmse", "concordance", "sign_agreement")


@dataclass(frozen=True)
class AffectMetrics:
    """What predicted valence and arousal are worth; both lie in [-1, 1].

    Attributes:
        n: number of faces.
        rmse: root of the mean squared error, of each dimension.
        concordance: concordance correlation coefficient, of each (Lin, Biometrics 1989).
        sign_agreement: share of faces whose sign is predicted, of each (Mollahosseini et al. 2019, equation 6).
        intervals: 95 % bootstrap intervals over faces, by measure and dimension; None for fewer than two faces.
    """

    n: int
    rmse: dict[str, float]
    concordance: dict[str, float | None]  # None where all values are the same
    sign_agreement: dict[str, float]
    intervals: dict[str, dict[str, Interval]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compute_affect_metrics(predicted: Tensor, targets: Tensor, seed: int = 0) -> AffectMetrics:
    """Score valence and arousal, predicted (N, 2) against annotated (N, 2); `seed` is that of the bootstrap."""
    p, t = predicted.double().numpy().T, targets.double().numpy().T  # (2, N)
    values = [[value if np.isfinite(value) else None for value in both] for both in _measure(p, t).tolist()]
    sampled = [_measure(p[:, faces], t[:, faces]) for faces in resample_faces(len(targets), seed)]
    intervals = [map(percentile_interval, both) for both in np.concatenate(sampled, axis=-1)]  # of (measures, 2, D)
    return AffectMetrics(
        len(targets),
        **{name: dict(zip(DIMENSIONS, both, strict=True)) for name, both in zip(MEASURES, values, strict=True)},
        intervals={n: dict(zip(DIMENSIONS, both, strict=True)) for n, both in zip(MEASURES, intervals, strict=True)},
    )


def _measure(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the `MEASURES` of values (..., N), (measures, ...)."""
    means = predicted.mean(axis=-1), targets.mean(axis=-1)
    covariance = (predicted * targets).mean(axis=-1) - means[0] * means[1]
    spread = predicted.var(axis=-1) + targets.var(axis=-1) + (means[0] - means[1]) ** 2
    with np.errstate(invalid="ignore"):  # one value throughout has no concordance
        concordance = 2 * covariance / spread
    agreement = (np.sign(predicted) == np.sign(targets)).mean(axis=-1)
    return np.stack([np.sqrt(((predicted - targets) ** 2).mean(axis=-1)), concordance, agreement])


@torch.inference_mode()
def predict_affect(model: ESR, loader: FaceLoader, hardware: Hardware) -> tuple[Tensor, Tensor]:
    """Return predicted and annotated valence and arousal, (N, 2) each, of faces from `AffectNet.with_affect`."""
    model.eval()
    predicted, targets = [], []
    with show_progress(f"score {loader.dataset.name}", len(loader), " batches", hardware) as progress:
        for batch in loader:
            predicted.append(hardware.forward(model, batch.images, batch).affect.mean(dim=0))
            targets.append(batch.targets)
            progress.update()
    return torch.cat(predicted).cpu(), torch.cat(targets).cpu()


def validate_affect(model: ESR, loader: FaceLoader, hardware: Hardware) -> dict[str, float]:
    """Return the errors of both dimensions, and their negative mean to select by."""
    hardware.share_buffers(model)
    metrics = compute_affect_metrics(*predict_affect(model, loader, hardware))
    errors = {f"validation_rmse_{name}": value for name, value in metrics.rmse.items()}
    return errors | {"validation_score": -sum(errors.values()) / len(errors)}


def affect_loss(affect: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over branches and dimensions of the root mean squared error, as the published ESR is trained.

    Args:
        affect: valence and arousal of every branch, (B, N, 2).
        targets: annotated, (N, 2).
    """
    squared = (affect.float() - targets).square().mean(dim=1)  # (B, 2)
    return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt().sum()  # the root has no gradient at 0


def describe_affect(metrics: AffectMetrics) -> str:
    """Say errors, concordance and sign agreement in one line."""
    parts = []
    for name in DIMENSIONS:
        concordance = "unknown" if metrics.concordance[name] is None else f"{metrics.concordance[name]:.4f}"
        agreement = f"sign agreement {metrics.sign_agreement[name]:.1%}"
        parts.append(f"{name}: RMSE {metrics.rmse[name]:.4f}, concordance {concordance}, {agreement}")
    return "; ".join(parts) + f" (n = {metrics.n:,})"


def report_affect(run: Run, loader: FaceLoader, hardware: Hardware) -> None:
    """Score the reloaded best network of a run, write affect_metrics.json into its folder, and say the numbers."""
    hardware.wait_for_everyone()
    model, found = run.read_best()
    model.to(hardware.device, memory_format=hardware.memory_format)
    metrics = compute_affect_metrics(*predict_affect(model, loader, hardware))
    if hardware.is_main:
        name = loader.dataset.name
        content = {"data": name, "found": found} | metrics.as_dict()
        write_json(content, run.directory / "affect_metrics.json")
        print(f"\nfrom best.pt reloaded, on {name}: {describe_affect(metrics)}")
