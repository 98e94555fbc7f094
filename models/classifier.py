"""What ESR and MA-Net share: labels, input normalisation, and prediction from pictures."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class ExpressionClassifier(nn.Module):
    """A network of several branches that each score K expressions.

    The channel order, mean and standard deviation its weights expect are buffers of the network, saved with it: callers
    hand over RGB pictures and cannot get this wrong.

    Attributes:
        labels: class names, one per output, in order.
        image_size: height and width in pixels that the weights were trained at.
        arguments: the constructor's arguments as plain values; `type(self)(**arguments)` has the same shape.
    """

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
        self.arguments = arguments

    @property
    def architecture(self) -> str:
        """The name of the network's class, as written into its checkpoints."""
        return type(self).__name__

    def normalize(self, images: Tensor) -> Tensor:
        """Turn pictures (N, 3, H, W), RGB, uint8 or float in [0, 1], into what the first convolution expects."""
        if images.dtype == torch.uint8:
            images = images / 255
        return (images[:, self.input_channels] - self.input_mean) / self.input_std

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
    def predict_branches(self, images: Tensor, batch_size: int = 256) -> Tensor:
        """Score pictures with every branch in evaluation mode.

        Args:
            images: (N, 3, H, W) RGB, uint8 or float in [0, 1]; resized to `image_size` where they differ from it.
            batch_size: how many pictures are in the network at a time.

        Returns:
            Scores (B, N, K), float32.

        Raises:
            ValueError: for another shape, type or range of values.
        """
        check_images(images)
        device = self.input_mean.device
        was_training = self.training
        self.eval()
        try:
            scores = [
                self.branch_logits(self(resize(batch.to(device), self.image_size))).float()
                for batch in images.split(batch_size)
            ]
        finally:
            self.train(was_training)
        return torch.cat(scores, dim=1)

    def predict(self, images: Tensor, ensemble: str = "mean", batch_size: int = 256) -> Tensor:
        """Return the probability of every class, (N, K), for pictures (N, 3, H, W) as in `predict_branches`.

        Class k is `labels[k]`. `ensemble` is explained at `combine`.
        """
        return self.combine(self.predict_branches(images, batch_size), ensemble)


def resize(images: Tensor, image_size: int) -> Tensor:
    """Resize pictures (N, 3, H, W) to (N, 3, image_size, image_size), float RGB in [0, 1]; uint8 is scaled to it."""
    if images.dtype == torch.uint8:
        images = images / 255
    if images.shape[-2:] == (image_size, image_size):
        return images
    return F.interpolate(images, (image_size, image_size), mode="bilinear", antialias=True).clamp(0, 1)


def check_images(images: Tensor) -> None:
    """Raise ValueError unless pictures are (N, 3, H, W) with N > 0, uint8 or float in [0, 1]."""
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, 3, H, W) with at least one face")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"images have type {images.dtype}; expected uint8, or float with values in [0, 1]")
    low, high = images.aminmax()
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"float images lie in [{low:.4g}, {high:.4g}]; expected [0, 1]: "
            "hand over uint8 or divide by 255; mean and deviation are applied by the network"
        )
