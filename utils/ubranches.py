"""Whether the branches of a network really differ: in what they look at, and in what they decide."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.classifier import ExpressionClassifier
from models.diversity import mean_off_diagonal, similarity_matrix
from models.esr import ESRAffectOutput, ESROutput
from models.manet import MANetOutput

SAMPLE = 2000  # faces whose features are kept for the similarity matrices


class Diversified(NamedTuple):
    """What the diversity loss of a network compares.

    Attributes:
        parts: names of what is compared, one per row of the features.
        features: spatial and channel features, (B, N, ...) each; empty for a network without any.
        branches: names of the branches that score the classes.
    """

    parts: tuple[str, ...]
    features: dict[str, Tensor]
    branches: tuple[str, ...]


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


@singledispatch
def diversified(outputs: Any) -> Diversified:
    """Return what the diversity loss compares of a network's outputs: nothing, unless its class is registered here.

    A new model registers its own function with `diversified.register`.
    """
    return Diversified((), {}, ())


@diversified.register(ESROutput)
@diversified.register(ESRAffectOutput)
def _(outputs: ESROutput | ESRAffectOutput) -> Diversified:
    """Compare the last attention of the branches."""
    names = tuple(str(b) for b in range(1, len(outputs.logits) + 1))
    if outputs.spatial_attention is None:
        return Diversified(names, {}, names)
    return Diversified(names, {"spatial": outputs.spatial_attention, "channel": outputs.channel_attention}, names)


@diversified.register
def _(outputs: MANetOutput) -> Diversified:
    """Compare the four patches: by place, the mean over channels, and by channel, the mean over space."""
    patches = outputs.local_features  # (4, N, 512, h, w)
    return Diversified(
        ("top left", "top right", "bottom left", "bottom right"),
        {"spatial": patches.mean(dim=2), "channel": patches.mean(dim=(3, 4))},
        ("local", "global"),
    )


@dataclass
class FeatureSample:
    """The features of some of the faces that a network scores, evenly spaced over the data set."""

    chosen: np.ndarray  # (N,), whether to keep a face
    seen: int = 0
    names: Diversified | None = None
    kept: dict[str, list[Tensor]] = field(default_factory=dict)

    def take(self, outputs: Any) -> None:
        """Keep the features of the chosen faces of the next batch."""
        found = diversified(outputs)
        self.names = found._replace(features={})
        faces = next((values.shape[1] for values in found.features.values()), 0)
        places = torch.from_numpy(np.flatnonzero(self.chosen[self.seen : self.seen + faces]))
        for name, values in found.features.items():
            self.kept.setdefault(name, []).append(values[:, places.to(values.device)].float().cpu())
        self.seen += faces

    @property
    def similarity(self) -> Similarity | None:
        """How alike the parts are, or None for a network with a single part or without features to compare."""
        if not self.kept or len(self.names.parts) < 2:
            return None
        features = {name: torch.cat(values, dim=1) for name, values in self.kept.items()}
        matrices = {name: similarity_matrix(values, gamma="median") for name, values in features.items()}
        return Similarity(self.names.parts, matrices, int(self.chosen.sum()))


@contextmanager
def watch_features(model: ExpressionClassifier, num_faces: int) -> Iterator[FeatureSample]:
    """Keep the features of at most `SAMPLE` faces while a network scores `num_faces` in their order."""
    chosen = np.zeros(num_faces, dtype=bool)
    chosen[np.linspace(0, num_faces - 1, min(num_faces, SAMPLE)).astype(int)] = True
    sample = FeatureSample(chosen)
    hook = model.register_forward_hook(lambda _model, _images, outputs: sample.take(outputs))
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
