"""Class-activation maps: which places of a face spoke for its label, per branch and for the ensemble.

Grad-CAM (Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", ICCV
2017), computed by captum's `LayerGradCam`: the feature maps of a late layer, weighted by the mean gradient of the score
before the softmax, summed and rectified. The ensemble's score is the mean of the branches' scores (ESR) or their
mixture with beta (MA-Net), so its map is the weighted sum of theirs before they are rectified.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from captum.attr import LayerGradCam
from matplotlib.figure import Figure
from torch import Tensor

from models.classifier import ExpressionClassifier, FaceInput, as_faces, resize
from utils.uplot import INK, draw_axes

SPREAD = 0.75  # standard deviation of the spot that a position is plotted as, in distances between positions
COLUMNS = 6  # pictures in a row of an explanation


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


def explain(model: ExpressionClassifier, images: FaceInput, targets: Tensor | None = None) -> Explanation:
    """Compute the class-activation maps of faces.

    Args:
        model: the network.
        images: as in `ExpressionClassifier.predict`.
        targets: class to explain, (N,); default the ensemble's label. All branches are asked about the same class.

    Raises:
        ValueError: for pictures that `predict` refuses.
        NotImplementedError: for a network that does not say where its heat maps are taken.
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
    pixels 26 to 66 of 96. To stretch them over the whole face, as is often done, would put the mouth at the chin.
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


def score_maps(model: ExpressionClassifier, faces: Tensor, targets: Tensor) -> list[ScoreMap]:
    """Compute the map of every branch for faces (N, 3, S, S), float RGB in [0, 1], before it is rectified."""
    maps = []
    for source in model.heat_map_sources(faces):
        rows = [
            torch.cat([LayerGradCam(source.scores, layer).attribute(source.inputs, targets)[:, 0] for layer in row], 2)
            for row in source.layers
        ]
        values = torch.cat(rows, dim=1)  # (N, h, w)
        first, stride = source.first, source.stride
        if stride is None:
            stride = model.image_size / values.shape[-1]
            first = (stride - 1) / 2
        maps.append(ScoreMap(source.branch, values, first, stride, source.weight))
    return maps


def plot_explanation(explanation: Explanation, face: int, labels: Sequence[str]) -> Figure:
    """Plot a face, the ensemble's heat map on it, and every branch's.

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
    width, height, title = 2.1 * columns, 2.55 * rows + 0.45, f"what speaks for {labels[target]}"
    figure, grid = draw_axes(width, height, title, rows, columns, letters=12, squeeze=False)
    for axes, (name, heat, probabilities) in zip(grid.flat, panels, strict=False):
        axes.imshow(picture.mean(axis=2) if heat is not None else picture, cmap="gray", vmin=0, vmax=1)
        if heat is not None:
            heat = heat.cpu().numpy()
            axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.7 * heat**0.5, interpolation="bilinear")
            if not heat.any():
                axes.set_xlabel(f"nothing speaks for {labels[target]}", color=INK, fontsize=8)
            chosen = int(probabilities.argmax())
            name = f"{name}\n{labels[chosen]} {100 * probabilities[chosen]:.0f} %"
        axes.set_title(name, color=INK, fontsize=10)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure
