"""What ESR and MA-Net share: labels, input normalisation, and prediction from pictures."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diversified_fer.media.arrays import ImageInput, as_rgb, check_range
from diversified_fer.scores import DIMENSIONS, Scores
from models.inference import fast_network

FaceInput: TypeAlias = Tensor | ImageInput | Sequence[Tensor | ImageInput]
"""One face or many, see `as_faces`."""

EMOTIONS = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
"""The label order of the whole project (AffectNet's); a network of seven classes uses the first seven."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZATIONS = {  # name: (channel order, mean, standard deviation); the mean applies after the channels are ordered
    "rgb": ((0, 1, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # as MA-Net's released weights saw it
    "bgr": ((2, 1, 0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # as ESR's released weights saw it
    "imagenet": ((0, 1, 2), IMAGENET_MEAN, IMAGENET_STD),
}


def default_labels(num_classes: int) -> tuple[str, ...]:
    """Return the first emotions, or numbered classes where there are more (a face-identity network has thousands)."""
    if num_classes <= len(EMOTIONS):
        return EMOTIONS[:num_classes]
    return tuple(f"class {index}" for index in range(num_classes))


class HeatMapSource(NamedTuple):
    """Where a class-activation map of a branch is taken, see `ExpressionClassifier.heat_map_sources`.

    Attributes:
        branch: its name.
        weight: share of the branch's scores in those of the ensemble.
        inputs: what `scores` takes.
        scores: from `inputs` to the branch's class scores (N, K).
        layers: modules whose maps (N, C, h, w) are put together to one, in rows and columns.
        first: the pixel, row and column alike, that the map's first position is centred on.
        stride: pixels from a position of the map to the next; None where the map covers the picture, as padded
            convolutions leave it.
    """

    branch: str
    weight: float
    inputs: Tensor
    scores: Callable[[Tensor], Tensor]
    layers: list[list[nn.Module]]
    first: float = 0.0
    stride: float | None = None


class ExpressionClassifier(nn.Module):
    """A network of several branches that each score K expressions.

    The channel order, mean and standard deviation its weights expect are buffers of the network, saved with it: callers
    hand over RGB pictures and cannot get this wrong.

    Attributes:
        labels: class names, one per output, in order.
        image_size: height and width in pixels that the weights were trained at.
        temperature: of the probabilities of `predict` and `score`, see `diversified_fer.classifier.sharpen`; 1 until it
            is fitted (`utils.umetrics.fit_temperature`).
        arguments: the constructor's arguments as plain values; `type(self)(**arguments)` has the same shape.
        branch_names: of the branches that score the classes, in the order of `branch_logits`.
        compared_parts: names of the parts that `compared_features` tells apart; none without such features.
    """

    branch_names: tuple[str, ...]
    compared_parts: tuple[str, ...] = ()
    temperature: float = 1.0

    def __init__(self, labels: Sequence[str], image_size: int, normalization: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization is {normalization!r}; expected one of {', '.join(NORMALIZATIONS)}")
        order, mean, std = NORMALIZATIONS[normalization]
        self.register_buffer("input_channels", torch.tensor(order))
        self.register_buffer("input_mean", torch.tensor(mean).reshape(3, 1, 1))
        self.register_buffer("input_std", torch.tensor(std).reshape(3, 1, 1))
        self.labels = tuple(labels)
        self.image_size = image_size
        shared = {"num_classes": len(self.labels), "labels": list(labels)}
        self.arguments = arguments | shared | {"image_size": image_size, "normalization": normalization}

    @property
    def architecture(self) -> str:
        """The name of the network's class, as written into its checkpoints."""
        return type(self).__name__

    @property
    def predicts_affect(self) -> bool:
        """Whether the network also has heads for valence and arousal, see `models.esr.ESR.mean_affect`."""
        return bool(self.arguments.get("affect"))

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names of the further numbers that the network predicts: "valence" and "arousal", or none."""
        return DIMENSIONS if self.predicts_affect else ()

    @property
    def num_branches(self) -> int:
        """How many branches score the classes."""
        return len(self.branch_names)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn pictures (N, 3, H, W), RGB, uint8 or float in [0, 1], into what the first convolution expects."""
        if images.dtype == torch.uint8:
            images = images / 255
        normalized = (images[:, self.input_channels] - self.input_mean) / self.input_std
        return normalized.to(next(self.parameters()).dtype)

    def train(self, mode: bool = True) -> "ExpressionClassifier":
        """Switch to training mode, but for BatchNorms whose weights are frozen: their statistics stay as well."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
                module.eval()
        return self

    def compared_features(self, outputs: Any) -> dict[str, Tensor]:
        """Return what the diversity loss compares, (parts, N, ...) by name, from what `forward` returned."""
        return {}

    def heat_map_sources(self, faces: Tensor) -> list[HeatMapSource]:
        """Return where the heat map of every branch is taken, for faces (N, 3, S, S), float RGB in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} does not say where its heat maps are taken")

    @staticmethod
    def check_image_size(image_size: int) -> None:
        """Raise ValueError for a height and width, in pixels, that the network cannot take."""
        raise NotImplementedError

    def compiled_parts(self) -> list[nn.Module]:
        """Return the parts to compile one by one, so that equal parts (branches) share their compiled code."""
        return [self]

    def branch_logits(self, outputs: Any) -> Tensor:
        """Return the class scores of every branch, (B, N, K), from what `forward` returned."""
        raise NotImplementedError

    def mean_probabilities(self, branch_logits: Tensor) -> Tensor:
        """Return the network's own mixture of its branches: (B, N, K) scores to (N, K) probabilities."""
        raise NotImplementedError

    def combine(self, branch_logits: Tensor, ensemble: str = "mean") -> Tensor:
        """Combine the branches' scores (B, N, K) into one row per face, (N, K), that sums to 1.

        Args:
            branch_logits: scores as `branch_logits` returns them.
            ensemble: "mean" for the network's own mixture of probabilities; "vote" for the share of branches that
                chose each class (the published ESR protocol: plurality, and `argmax` breaks ties to the lowest index).
        """
        if ensemble == "mean":
            return self.mean_probabilities(branch_logits.float())
        if ensemble == "vote":
            num_classes = branch_logits.shape[-1]
            return F.one_hot(branch_logits.argmax(dim=-1), num_classes).float().mean(dim=0)
        raise ValueError(f"ensemble is {ensemble!r}; expected 'mean' or 'vote'")

    @torch.inference_mode()
    def predict_branches(self, images: FaceInput, batch_size: int = 256) -> Tensor:
        """Score faces with every branch in evaluation mode.

        Args:
            images: one face or many, RGB: a tensor (3, H, W) or (N, 3, H, W), an array (H, W, 3) or (N, H, W, 3), both
                uint8 or float in [0, 1], a PIL image, the path of a picture, or a list of these, of any sizes;
                resized to `image_size` where they differ from it. Grey and transparent arrays: see `as_faces`.
            batch_size: how many faces are in the network at a time.

        Returns:
            Scores (B, N, K), float32; N is 1 for a single face.

        Raises:
            ValueError: for another shape, type or range of values.
        """
        return self._score_branches(self, as_faces(images), batch_size)

    def _score_branches(self, network: "ExpressionClassifier", faces: Tensor | list[Tensor], batch_size: int) -> Tensor:
        """Score faces (`as_faces`) with this network or a copy of it that computes faster."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
        was_training, scores = network.training, []
        network.eval()
        try:
            for start in range(0, len(faces), batch_size):
                batch = faces[start : start + batch_size]
                parts = [batch] if isinstance(batch, Tensor) else [face[None] for face in batch]
                resized = [resize(part.to(self.input_mean.device), self.image_size) for part in parts]
                scores.append(self.branch_logits(network(torch.cat(resized))).float())
        finally:
            if was_training:
                network.train()
        return torch.cat(scores, dim=1)

    @torch.inference_mode()
    def score(self, faces: Sequence[np.ndarray], batch_size: int = 32, flip: bool = False) -> Scores:
        """Score crops of faces, RGB (H, W, 3) uint8 of any size, for `diversified_fer.faces.label_faces`.

        Args:
            faces: N of them.
            batch_size: faces in the network at a time.
            flip: score each face and its mirror image, and average their probabilities.
        """
        views = [faces, [np.ascontiguousarray(face[:, ::-1]) for face in faces]] if flip else [faces]
        network = fast_network(self, len(faces))
        scores = [self._score_branches(network, as_faces(list(view)), batch_size) for view in views]
        probabilities = self.calibrate(torch.stack([self.combine(logits) for logits in scores]).mean(dim=0))
        logits = torch.stack(scores).mean(dim=0)
        affect = self.mean_affect(logits) if self.predicts_affect else logits.new_zeros(len(faces), 0)
        return Scores(*(tensor.cpu().numpy() for tensor in (probabilities, logits.argmax(dim=2).T, affect)))

    @torch.inference_mode()
    def predict(
        self, images: FaceInput, ensemble: str = "mean", batch_size: int = 256, precision: str = "auto"
    ) -> Tensor:
        """Return the probability of every class, (N, K), for faces as in `predict_branches`; N is 1 for a single one.

        Class k is `labels[k]`.

        Args:
            images: as in `predict_branches`.
            ensemble: see `combine`; the mean is calibrated with `temperature`.
            batch_size: how many faces are in the network at a time.
            precision: "float32" for the network just as it is; "auto" for the fast way, see
                `models.inference.fast_network`: probabilities differ from those by less than 1e-5 for fewer than 16
                faces, by less than 2e-2 for more; "bfloat16" for bfloat16 whatever the number and the device.
        """
        faces = as_faces(images)
        network = fast_network(self, len(faces), precision)
        combined = self.combine(self._score_branches(network, faces, batch_size), ensemble)
        return self.calibrate(combined) if ensemble == "mean" else combined

    def calibrate(self, probabilities: Tensor) -> Tensor:
        """Return probabilities (N, K) as sure as they are right, see `temperature`; which is highest stays."""
        return probabilities if self.temperature == 1 else (probabilities.log() / self.temperature).softmax(dim=1)


def resize(images: Tensor, image_size: int) -> Tensor:
    """Resize pictures (N, 3, H, W) to (N, 3, image_size, image_size), float RGB in [0, 1]; uint8 is scaled to it."""
    if images.dtype == torch.uint8:
        images = images / 255
    if images.shape[-2:] == (image_size, image_size):
        return images
    return F.interpolate(images, (image_size, image_size), mode="bilinear", antialias=True).clamp(0, 1)


def as_faces(images: FaceInput) -> Tensor | list[Tensor]:
    """Turn faces as people hold them into what the networks take: channels first.

    Args:
        images: as in `ExpressionClassifier.predict_branches`. PIL images of any colour mode become RGB, turned upright
            where their camera noted how it was held. An array (H, W) is a grey face; the last of three or four
            dimensions is the channels: 1 for grey, 3 for RGB, 4 for RGB and alpha, straight as in files. Transparent
            pictures are put on white, so that what transparency hides stays hidden. Boolean arrays are black and white.

    Returns:
        (N, 3, H, W) for a tensor, an array or a PIL image; a list of (3, H, W) for a list, which may differ in size.

    Raises:
        ValueError: for another shape, type or range of values; it says which face of a list.
    """
    if not isinstance(images, list | tuple):
        return _as_tensor(images)
    if not images:
        raise ValueError("images is an empty list; expected at least one face")
    faces = []
    for place, image in enumerate(images):
        face = _as_tensor(image, f"images[{place}]")
        if len(face) != 1:
            raise ValueError(f"images[{place}] holds {len(face)} faces; expected one face per element of a list")
        faces.append(face[0])
    return faces


def _as_tensor(image: Tensor | ImageInput, name: str = "images") -> Tensor:
    """Turn a tensor or what `as_rgb` takes into checked pictures (N, 3, H, W); `name` is for messages."""
    if not isinstance(image, Tensor):
        image = torch.from_numpy(as_rgb(image, name)).movedim(-1, -3)
    images = image[None] if image.ndim == 3 and image.layout == torch.strided else image
    check_images(images, name)
    return images.float() if images.is_floating_point() else images


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise ValueError unless pictures are (N, 3, H, W) with N > 0, uint8 or float in [0, 1]."""
    if images.layout != torch.strided or images.is_meta:
        raise ValueError(f"{name} are sparse or have no data; expected an ordinary tensor: images.to_dense()")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(
            f"{name} have shape {tuple(images.shape)}; expected (N, 3, H, W) with at least one face, or (3, H, W)"
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"{name} have type {images.dtype}; expected uint8, or float with values in [0, 1]")
    check_range(*(float(bound) for bound in images.aminmax()), name)
