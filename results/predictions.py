"""What a run's last network says of every face of Valid, small enough to be kept for every run of the study."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from diversified_fer.writing import write_atomically
from models import load_model
from models.classifier import ExpressionClassifier
from utils.udata import FERPlus
from utils.uhardware import Hardware
from utils.upipeline import FaceLoader
from utils.utrain import predict_dataset


class Stored(NamedTuple):
    """Predictions of one network: of B branches on N faces.

    Attributes:
        probabilities: of every branch, (B, N, K) float64, rounded; off by 0.004 at most (2e-5 for a single branch).
        branch_choices: class that every branch chose, (B, N).
        choices: class that the ensemble chose, (N,).
        targets: labels, (N,).
    """

    probabilities: np.ndarray
    branch_choices: np.ndarray
    choices: np.ndarray
    targets: np.ndarray


def predict_valid(checkpoint: Path, root: Path, hardware: Hardware) -> Stored:
    """Have a checkpoint predict FER+'s Valid in its order on disk."""
    model = load_model(checkpoint).to(hardware.device, memory_format=hardware.memory_format)
    return predict(model, FaceLoader(FERPlus(root, "valid"), model.image_size, hardware=hardware), hardware)


def predict(model: ExpressionClassifier, loader: FaceLoader, hardware: Hardware) -> Stored:
    """Have a network predict the faces of a loader in their order."""
    branch_logits, targets, _ = predict_dataset(model, loader, hardware)
    return store(branch_logits.softmax(dim=2), branch_logits, model.combine(branch_logits), targets)


def store(probabilities: Tensor, branch_logits: Tensor, ensemble: Tensor, targets: Tensor) -> Stored:
    """Return predictions as arrays: (B, N, K) twice, the ensemble's probabilities (N, K), labels (N,)."""
    choices = branch_logits.argmax(dim=2), ensemble.argmax(dim=1)
    return Stored(probabilities.double().numpy(), *(values.numpy() for values in (*choices, targets)))


def write_predictions(stored: Stored, path: Path) -> None:
    """Write predictions as an .npz: roots of probabilities in one byte, or in two for a single branch; classes exact.

    The root gives small probabilities as many digits as large ones.
    """
    kind = np.uint16 if len(stored.probabilities) == 1 else np.uint8
    roots = np.rint(np.sqrt(stored.probabilities) * np.iinfo(kind).max).astype(kind)
    classes = {name: getattr(stored, name).astype(np.uint8) for name in Stored._fields[1:]}

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, probability_roots=roots, **classes)

    write_atomically(path, save)


def read_predictions(path: Path) -> Stored:
    """Read what `write_predictions` wrote."""
    with np.load(path) as content:
        roots = content["probability_roots"]
        probabilities = (roots / np.iinfo(roots.dtype).max) ** 2
        return Stored(probabilities, *(content[name].astype(np.int64) for name in Stored._fields[1:]))


def average(members: list[Stored]) -> Stored:
    """Return the ensemble of networks that were trained apart: the mean of their probabilities.

    Raises:
        ValueError: when they were not scored on the same faces.
    """
    if any(not np.array_equal(member.targets, members[0].targets) for member in members):
        raise ValueError("these networks were not scored on the same faces: their labels differ")
    probabilities = np.concatenate([member.probabilities for member in members])
    choices = np.concatenate([member.branch_choices for member in members])
    return Stored(probabilities, choices, probabilities.mean(axis=0).argmax(axis=1), members[0].targets)
