"""Class-activation maps: which places of a face spoke for its label, per branch and for the ensemble.

Grad-CAM (Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", ICCV
2017), computed by captum's `LayerGradCam`: the feature maps of a late layer, weighted by the mean gradient of the score
before the softmax, summed and rectified. The ensemble's score is the mean of the branches' scores (ESR) or their
mixture with beta (MA-Net), so its map is the weighted sum of theirs before they are rectified.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatch
from typing import NamedTuple

import torch
from captum.attr import LayerGradCam
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from models.cbam import AttendedFeatures
from models.classifier import ExpressionClassifier, Faces, as_faces, resize
from models.esr import ESR, Branch
from models.manet import MANet

SMALLEST_MAP = 6  # positions along a side, as ESR's last map has at 96 pixels; fewer say little about places
SPREAD = 0.75  # standard deviation of the spot that a position is drawn as, in distances between positions
COLUMNS = 6  # pictures in a row of an explanation
INK = "#333333"


class ScoreMap(NamedTuple):
    """Grad-CAM of a branch before it is rectified.

    Attributes:
        name: of the branch.
        values: (N, h, w).
        first: the pixel, row and column alike, that the map's first position is centred on.
        stride: pixels from a position to the next.
        weight: share of the branch's score in that of the ensemble.
    """

    name: str
    values: Tensor
    first: float
    stride: float
    weight: float


class Explanation(NamedTuple):
    """Heat maps in [0, 1], each scaled by its own maximum, as large as the network's input (S, S).

    Attributes:
        names: of the branches.
        faces: what the network saw, (N, 3, S, S), float RGB in [0, 1].
        targets: the class whose score is explained, (N,).
        probabilities: of every class by the ensemble, (N, K).
        branch_probabilities: of every class by each branch, (B, N, K).
        ensemble: (N, S, S).
        branches: (B, N, S, S).
    """

    names: tuple[str, ...]
    faces: Tensor
    targets: Tensor
    probabilities: Tensor
    branch_probabilities: Tensor
    ensemble: Tensor
    branches: Tensor


def explain(model: ExpressionClassifier, images: Faces, targets: Tensor | None = None) -> Explanation:
    """Compute the class-activation maps of faces.

    Args:
        model: ESR or MA-Net.
        images: as in `ExpressionClassifier.predict`.
        targets: class to explain, (N,); default the ensemble's label. All branches are asked about the same class.

    Raises:
        ValueError: for pictures that `predict` refuses.
        TypeError: for a network whose layers `score_maps` does not know.
    """
    device = model.input_mean.device
    faces = torch.cat([resize(face[None].to(device), model.image_size) for face in as_faces(images)])
    branch_logits = model.predict_branches(faces).clone()  # (B, N, K)
    probabilities = model.combine(branch_logits)
    targets = probabilities.argmax(dim=1) if targets is None else targets.to(device)
    was_training = model.training
    model.eval()
    try:
        maps = score_maps(model, faces, targets)
    finally:
        model.train(was_training)
    enlarged = torch.stack([_enlarge(m, model.image_size) for m in maps])  # (B, N, S, S)
    weights = torch.tensor([m.weight for m in maps], device=device).reshape(-1, 1, 1, 1)
    return Explanation(
        tuple(m.name for m in maps), faces, targets, probabilities, branch_logits.softmax(dim=-1),
        _rectify((weights * enlarged).sum(dim=0)), _rectify(enlarged),
    )  # fmt: skip


def _enlarge(score_map: ScoreMap, image_size: int) -> Tensor:
    """Spread every position of a map as a Gaussian over the pixels it is centred on, (N, S, S), in score per pixel.

    Convolutions without padding see the middle of the picture: the six positions of ESR's last map are centred on the
    pixels 26 to 66 of 96. To stretch them over the whole face, as is often done, would draw the mouth at the chin.
    """
    _, values, first, stride, _ = score_map
    pixels = torch.arange(image_size, device=values.device)
    centres = first + stride * torch.arange(values.shape[-1], device=values.device)
    spread = torch.exp(-(((pixels[:, None] - centres) / (SPREAD * stride)) ** 2) / 2)  # (S, w)
    spread = spread / (SPREAD * stride * math.sqrt(2 * math.pi))
    return spread @ values @ spread.T


def _rectify(maps: Tensor) -> Tensor:
    """Drop what speaks against the class and scale every map (..., S, S) to [0, 1]; an empty map stays 0."""
    maps = maps.detach().clamp(min=0)
    highest = maps.amax(dim=(-2, -1), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp(min=torch.finfo(maps.dtype).tiny), 0)


@singledispatch
def score_maps(model: ExpressionClassifier, faces: Tensor, targets: Tensor) -> list[ScoreMap]:
    """Compute the map of every branch for faces (N, 3, S, S); a new model registers its own with `.register`."""
    raise TypeError(
        f"no class-activation maps for {type(model).__name__}: register its layers with score_maps.register"
    )


@score_maps.register
def _(model: ESR, faces: Tensor, targets: Tensor) -> list[ScoreMap]:
    """Explain each branch by its deepest block whose map has `SMALLEST_MAP` positions along its sides, or more."""
    with torch.no_grad():
        shared = model.base(model.normalize(faces))
    maps = []
    for number, branch in enumerate(model.branches, start=1):
        layer = _deepest_block(branch, shared[:1])
        with _probe(branch, layer) as features:
            cam = LayerGradCam(lambda shared, branch=branch: branch(shared).logits, features)
            values = cam.attribute(shared, targets)[:, 0]
        maps.append(ScoreMap(f"branch {number}", values, *_centres(model, branch, layer), 1 / len(model.branches)))
    return maps


def _centres(model: ESR, branch: Branch, layer: int) -> tuple[float, float]:
    """Return the pixel that the first position of a branch's block is centred on, and the pixels between positions."""
    first, stride = 0.0, 1
    blocks = [(model.base, number) for number in (1, 2, 3, 4)] + [(branch, number) for number in range(1, layer + 1)]
    for part, number in blocks:
        convolution = part.get_submodule(f"conv{number}")
        first += stride * ((convolution.kernel_size[0] - 1) / 2 - convolution.padding[0])
        if number in part.pooled:  # maximum pooling of 2 x 2
            first, stride = first + stride / 2, stride * 2
    return first, stride


def _deepest_block(branch: Branch, shared: Tensor) -> int:
    """Return the number of the deepest block whose map is large enough; the first where none is."""
    sizes = {}
    for layer in (1, 2, 3, 4):
        with _probe(branch, layer) as probe, torch.no_grad():
            probe.register_forward_hook(
                lambda _module, _inputs, features, layer=layer: sizes.update({layer: min(features.shape[-2:])})
            )
            branch(shared)
    return max((layer for layer, size in sizes.items() if size >= SMALLEST_MAP), default=1)


@contextmanager
def _probe(branch: Branch, layer: int) -> Iterator[nn.Module]:
    """Lead the features of a block, after its ReLU, pooling and attention, through a module that captum can watch."""
    probe, block = nn.Identity(), branch.block

    def watched(features: Tensor, number: int) -> AttendedFeatures:
        result = block(features, number)
        return result._replace(features=probe(result.features)) if number == layer else result

    branch.block = watched
    try:
        yield probe
    finally:
        del branch.block  # the method of the class shows again


@score_maps.register
def _(model: MANet, faces: Tensor, targets: Tensor) -> list[ScoreMap]:
    """Explain the local branch by its four patches put together again, and the global one by its last stage."""
    patches = [
        LayerGradCam(lambda images: model(images).local_logits, model.get_submodule(f"layer4_1_p{number}"))
        .attribute(faces, targets)[:, 0]
        for number in (1, 2, 3, 4)
    ]  # fmt: skip
    top, bottom = torch.cat(patches[:2], dim=2), torch.cat(patches[2:], dim=2)
    local = torch.cat((top, bottom), dim=1)
    whole = LayerGradCam(lambda images: model(images).global_logits, model.layer4_2).attribute(faces, targets)[:, 0]
    maps = []
    for name, values, weight in (("local", local, model.beta), ("global", whole, 1 - model.beta)):
        stride = model.image_size / values.shape[-1]  # padded: the maps cover the face
        maps.append(ScoreMap(name, values, (stride - 1) / 2, stride, weight))
    return maps


def plot_explanation(explanation: Explanation, face: int, labels: Sequence[str]) -> Figure:
    """Draw a face, the ensemble's heat map on it, and every branch's.

    Args:
        explanation: from `explain`.
        face: which face of it.
        labels: the network's class names.
    """
    picture = explanation.faces[face].permute(1, 2, 0).cpu().numpy()  # (S, S, 3)
    target = int(explanation.targets[face])
    panels = [("face", None, None), ("ensemble", explanation.ensemble[face], explanation.probabilities[face])]
    maps, said = explanation.branches[:, face], explanation.branch_probabilities[:, face]
    panels += zip(explanation.names, maps, said, strict=True)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.1 * columns, 2.55 * rows + 0.45), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"what speaks for {labels[target]}", color=INK, fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, heat, probabilities) in zip(grid, panels, strict=False):
        axes.imshow(picture.mean(axis=2) if heat is not None else picture, cmap="gray", vmin=0, vmax=1)
        if heat is not None:
            heat = heat.cpu().numpy()
            axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.7 * heat**0.5, interpolation="bilinear")
            if not heat.any():
                axes.set_xlabel(f"nothing speaks for {labels[target]}", color=INK, fontsize=8)
            chosen = int(probabilities.argmax())
            name = f"{name}\n{labels[chosen]} {100 * probabilities[chosen]:.0f} %"
        axes.set_title(name, color=INK, fontsize=10)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure
