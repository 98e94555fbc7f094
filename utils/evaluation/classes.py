"""Which classes are scored: those that the data and all networks know, under their own names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.weights import CheckpointError
from utils.preparing.named import emotion_of
from utils.udata import FaceDataset


class Classes(NamedTuple):
    """The classes that are scored, and what was left out for that.

    Attributes:
        labels: their names, in the order of the data set.
        left_out_faces: number of faces of other classes, by class.
        left_out_answers: by network, its classes that are not scored.
    """

    labels: tuple[str, ...]
    left_out_faces: dict[str, int]
    left_out_answers: dict[str, list[str]]

    @property
    def described(self) -> list[str]:
        """What was left out, one sentence for the faces and one for every network."""
        shared = f"Scored on the {len(self.labels)} classes that networks and data share ({', '.join(self.labels)})"
        faces = ", ".join(f"{count:,} labelled {name}" for name, count in self.left_out_faces.items())
        said = [f"{shared}; left out: {faces or 'no'} faces" if faces else f"{shared}; no face is left out"]
        return said + [
            f"{name}: its answer{'s' if len(found) > 1 else ''} {', '.join(found)} left out, the probabilities of the "
            "other classes scaled to sum to 1"
            for name, found in self.left_out_answers.items()
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return self._asdict()


def share_classes(faces: FaceDataset, networks: Mapping[str, Sequence[str]]) -> tuple[FaceDataset, Classes | None]:
    """Keep the faces of the classes that the data and all networks have, numbered in the data set's order.

    Args:
        faces: one class per face.
        networks: the classes of each, by its name. Words for the same emotion (happy, Happiness) are one class.

    Returns:
        the faces, and what was left out; the faces as they are and None where all classes are shared.

    Raises:
        CheckpointError: when fewer than two classes are shared.
    """
    names = [canonical(name) for name in faces.class_names]
    known = {network: {canonical(label) for label in labels} for network, labels in networks.items()}
    kept = [name for name in names if all(name in own for own in known.values())]
    if len(kept) < 2:
        listing = "; ".join(f"{name} predicts {', '.join(list(labels)[:8])}" for name, labels in networks.items())
        raise CheckpointError(
            f"{faces.name} has the classes {', '.join(faces.class_names)}; {listing}. At least two classes must be "
            f"shared, here {'one is' if kept else 'none is'}: score networks of other classes apart from each other, "
            "or fine-tune on this data set first"
        )
    others = {
        network: [label for label in labels if canonical(label) not in kept] for network, labels in networks.items()
    }
    others = {network: left for network, left in others.items() if left}
    if len(kept) == len(names) and not others:
        return faces, None
    keep = np.flatnonzero(np.isin(faces.labels, [names.index(name) for name in kept]))
    left_out = Counter(names[label] for label in np.delete(faces.labels, keep).tolist())
    if not len(keep):
        raise CheckpointError(f"{faces.name} has no face of the classes shared: {', '.join(kept)}")
    part = faces.subset(keep, faces.name if len(kept) == len(names) else f"{faces.name}, {len(kept)} shared classes")
    part.labels = np.array([kept.index(names[label]) for label in part.labels.tolist()], dtype=np.int64)
    part.class_names = tuple(kept)
    return part, Classes(tuple(kept), dict(left_out), others)


def columns_of(labels: Sequence[str], kept: Sequence[str]) -> list[int]:
    """Return where the classes kept are among a network's labels."""
    own = [canonical(label) for label in labels]
    return [own.index(canonical(name)) for name in kept]


def keep_columns(probabilities: Tensor, columns: Sequence[int]) -> Tensor:
    """Return the columns of probabilities (N, K), scaled to sum to 1 in every row."""
    if list(columns) == list(range(probabilities.shape[1])):
        return probabilities
    kept = probabilities[:, list(columns)].double().clamp_min(torch.finfo(torch.float32).tiny)
    return (kept / kept.sum(dim=1, keepdim=True)).to(probabilities.dtype)


def canonical(label: str) -> str:
    """Return the project's name of a class, where it is a word for an emotion; otherwise the label."""
    return emotion_of(label) or label
