"""Whether the branches of a network really differ: in what they look at, and in what they decide."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.classifier import ExpressionClassifier
from models.diversity import mean_off_diagonal, similarity_matrix

SAMPLE = 2000  # faces whose features are kept for the similarity matrices


class Similarity(NamedTuple):
    """How alike the parts of a network are.

    Attributes:
        parts: their names.
        matrices: similarity (B, B) of each kind of feature; gamma is 1 over the median squared distance.
        faces: number of faces that the mean was taken over.
    """

    parts: tuple[str, ...]
    matrices: dict[str, Tensor]
    faces: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "gamma": "median",
            "faces": self.faces,
            "parts": list(self.parts),
            **{
                name: {"mean_off_diagonal": float(mean_off_diagonal(matrix)), "matrix": matrix.tolist()}
                for name, matrix in self.matrices.items()
            },
        }


class Disagreement(NamedTuple):
    """How often branches choose different classes, as shares of the faces.

    Attributes:
        pairwise: (B, B), symmetric, zero on the diagonal.
        with_the_rest: mean over the other branches, (B,).
        accuracy: of every branch, (B,).
    """

    pairwise: Tensor
    with_the_rest: Tensor
    accuracy: Tensor

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {name: values.tolist() for name, values in self._asdict().items()}


@dataclass
class FeatureSample:
    """The features of some of the faces that a network scores, evenly spaced over the data set."""

    parts: tuple[str, ...]  # what the features are of
    chosen: Tensor  # (N,), whether to keep a face
    seen: int = 0
    kept: dict[str, list[Tensor]] = field(default_factory=dict)

    def take(self, features: dict[str, Tensor]) -> None:
        """Keep the features of the chosen faces of the next batch."""
        begin = self.seen
        for name, values in features.items():
            self.seen = begin + values.shape[1]
            chosen = self.chosen[begin : self.seen].to(values.device)
            self.kept.setdefault(name, []).append(values[:, chosen].float().cpu())

    @property
    def similarity(self) -> Similarity | None:
        """How alike the parts are, or None for a network with a single part or without features to compare."""
        if not self.kept or len(self.parts) < 2:
            return None
        matrices = {name: similarity_matrix(torch.cat(v, dim=1), gamma="median") for name, v in self.kept.items()}
        return Similarity(self.parts, matrices, int(self.chosen.sum()))


@contextmanager
def watch_features(model: ExpressionClassifier, num_faces: int) -> Iterator[FeatureSample]:
    """Keep the features of at most `SAMPLE` faces while a network scores `num_faces` in their order."""
    chosen = torch.zeros(num_faces, dtype=torch.bool)
    chosen[np.linspace(0, num_faces - 1, min(num_faces, SAMPLE)).astype(int)] = True
    sample = FeatureSample(model.compared_parts, chosen)
    hook = model.register_forward_hook(lambda _model, _images, outputs: sample.take(model.compared_features(outputs)))
    try:
        yield sample
    finally:
        hook.remove()


def measure_disagreement(branch_logits: Tensor, targets: Tensor) -> Disagreement | None:
    """Compare the choices of the branches, scores (B, N, K), on faces labelled (N,); None for a single branch."""
    choices = branch_logits.argmax(dim=2)  # (B, N)
    B = len(choices)
    if B < 2:
        return None
    pairwise = (choices[:, None] != choices[None]).double().mean(dim=2)
    return Disagreement(pairwise, pairwise.sum(dim=1) / (B - 1), (choices == targets).double().mean(dim=1))
