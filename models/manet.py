"""MA-Net: a multi-scale global branch and a local branch of four attended patches.

Paper: Zhao, Liu, Wang, "Learning Deep Global Multi-Scale and Local Attention Features for Facial Expression Recognition
in the Wild", IEEE Transactions on Image Processing 30, 2021. The four patches, the places they are cut from and the
layer names (layer3_1_p1, fc_1, ...) are those of the released weights.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cbam import CBAM
from models.classifier import ExpressionClassifier, HeatMapSource, default_labels
from models.pooling import max_pool

MULTISCALE_ORDERS = ("released", "reversed")


class MANetOutput(NamedTuple):
    """Scores (N, K) of both branches, the patches' features (4, N, 512, h, w), both pooled features (2, N, 512)."""

    local_logits: Tensor
    global_logits: Tensor
    local_features: Tensor
    global_features: Tensor

    @property
    def spatial(self) -> Tensor:
        """The patches' features in space, the mean over channels: (4, N, h, w)."""
        return self.local_features.mean(dim=2)

    @property
    def channel(self) -> Tensor:
        """The patches' features by channel, the mean over space: (4, N, 512)."""
        return self.local_features.mean(dim=(3, 4))


def conv3x3(inplanes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3 x 3 convolution that keeps the size of the map (or divides it by the stride), without bias."""
    return nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)


def last_norm(planes: int) -> nn.BatchNorm2d:
    """Return the BatchNorm at the end of what a block adds, which starts at half its size.

    Otherwise the features grow from block to block, and the heads diverge before the convolutions have learnt anything
    (docs/differences.md).
    """
    norm = nn.BatchNorm2d(planes)
    nn.init.constant_(norm.weight, 0.5)
    return norm


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions whose result is added to the input (He, Zhang, Ren, Sun, CVPR 2016, figure 5 left)."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = last_norm(planes)
        self.downsample = downsample

    def residual(self, x: Tensor) -> Tensor:
        """Return what is added to the input."""
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, planes, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.residual(x) + shortcut)


class AttentionBlock(ResidualBlock):
    """A residual block whose second convolution is weighted by a CBAM before the shortcut is added."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__(inplanes, planes, stride, downsample)
        self.cbam = CBAM(planes)

    def residual(self, x: Tensor) -> Tensor:
        """Return what is added to the input."""
        return self.cbam(super().residual(x)).features


class MultiScaleBlock(nn.Module):
    """A residual block whose second convolution is replaced by two hierarchical chains over four channel groups.

    In a chain every group's 3 x 3 convolution also sees the result of the group before it, so that later groups look
    at larger fields. `multiscale_order="released"` runs both chains from the first group to the last, as the released
    weights were trained; "reversed" runs the second one backwards (the authors' change of April 2023). A group's result
    is rectified to be carried into the next group; what a chain returns is not rectified.
    """

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, *, multiscale_order: str
    ) -> None:
        super().__init__()
        self.width = planes // 4
        self.multiscale_order = multiscale_order
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        for chain in (1, 2):
            for group in (1, 2, 3, 4):
                self.add_module(f"conv{chain}_2_{group}", conv3x3(self.width, self.width))
                self.add_module(f"bn{chain}_2_{group}", last_norm(self.width))
        self.downsample = downsample

    def chain(self, groups: Sequence[Tensor], number: int, order: Sequence[int]) -> Tensor:
        """Run one chain over four groups (N, C/4, H, W) in the given order; returns (N, C, H, W)."""
        results: dict[int, Tensor] = {}
        carried = 0
        for group in order:
            convolution = self.get_submodule(f"conv{number}_2_{group}")
            results[group] = self.get_submodule(f"bn{number}_2_{group}")(convolution(groups[group - 1] + carried))
            carried = F.relu(results[group])
        return torch.cat([results[group] for group in (1, 2, 3, 4)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, planes, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        groups = F.relu(self.bn1(self.conv1(x))).split(self.width, dim=1)  # four of (N, width, h, w)
        second = (1, 2, 3, 4) if self.multiscale_order == "released" else (4, 3, 2, 1)
        return F.relu(self.chain(groups, 1, (1, 2, 3, 4)) + self.chain(groups, 2, second) + shortcut)


def make_stage(block: Callable[..., nn.Module], inplanes: int, planes: int, stride: int) -> nn.Sequential:
    """Stack two residual blocks; the first changes the number of channels and, with `stride` 2, halves the map."""
    downsample = None
    if stride != 1 or inplanes != planes:
        downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
    return nn.Sequential(block(inplanes, planes, stride, downsample), block(planes, planes))


class MANet(ExpressionClassifier):
    """MA-Net for faces of 224 x 224 pixels.

    Args:
        num_classes: expressions K.
        beta: weight of the local branch in loss and prediction, in [0, 1]; the global branch has 1 - beta.
        multiscale_order: "released" or "reversed", see `MultiScaleBlock`.
        labels: class names, in place of `num_classes`; default the first K of `EMOTIONS`.
        image_size: height and width in pixels; a multiple of 16, so that the four patches are equal, and at least 32.
        normalization: "imagenet", "rgb" or "bgr", see `models.classifier.NORMALIZATIONS`.

    Raises:
        ValueError: for a mixture, an image size or a normalisation outside of these.
    """

    branch_names = ("local", "global")
    compared_parts = ("top left", "top right", "bottom left", "bottom right")

    def __init__(
        self,
        num_classes: int = 7,
        beta: float = 0.6,
        multiscale_order: str = "released",
        labels: Sequence[str] | None = None,
        image_size: int = 224,
        normalization: str = "imagenet",
    ) -> None:
        _check_mixture(beta, multiscale_order)
        self.check_image_size(image_size)
        labels = default_labels(num_classes) if labels is None else tuple(labels)
        arguments = {"beta": beta, "multiscale_order": multiscale_order}
        super().__init__(labels, image_size, normalization, arguments)
        self.beta = beta
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = make_stage(ResidualBlock, 64, 64, stride=1)
        self.layer2 = make_stage(ResidualBlock, 64, 128, stride=2)
        for patch in (1, 2, 3, 4):
            self.add_module(f"layer3_1_p{patch}", make_stage(AttentionBlock, 128, 256, stride=2))
            self.add_module(f"layer4_1_p{patch}", make_stage(AttentionBlock, 256, 512, stride=1))
        multiscale = partial(MultiScaleBlock, multiscale_order=multiscale_order)
        self.layer3_2 = make_stage(multiscale, 128, 256, stride=2)
        self.layer4_2 = make_stage(multiscale, 256, 512, stride=2)
        self.fc_1 = nn.Linear(512, len(labels))
        self.fc_2 = nn.Linear(512, len(labels))

    def compared_features(self, outputs: MANetOutput) -> dict[str, Tensor]:
        """Return the patches' features in space (4, N, h, w) and by channel (4, N, 512)."""
        return {"spatial": outputs.spatial, "channel": outputs.channel}

    def heat_map_sources(self, faces: Tensor) -> list[HeatMapSource]:
        """Return the last stage of the four patches, put together again, and that of the global branch."""
        patches = [self.get_submodule(f"layer4_1_p{number}") for number in (1, 2, 3, 4)]
        return [
            HeatMapSource(
                "local", self.beta, faces, lambda images: self(images).local_logits, [patches[:2], patches[2:]]
            ),
            HeatMapSource("global", 1 - self.beta, faces, lambda images: self(images).global_logits, [[self.layer4_2]]),
        ]

    @staticmethod
    def check_image_size(image_size: int) -> None:
        """Raise ValueError for a size, in pixels, whose map cannot be cut into four equal patches."""
        if image_size < 32 or image_size % 16:
            raise ValueError(
                f"image_size is {image_size}; MA-Net cuts its map into four and needs a multiple of 16, 32 or more"
            )

    def forward(self, images: Tensor) -> MANetOutput:
        """Score pictures (N, 3, H, W), RGB, uint8 or float in [0, 1], with both branches."""
        stem = F.relu(self.bn1(self.conv1(self.normalize(images))))
        shared = self.layer2(self.layer1(max_pool(stem, 3, stride=2, padding=1)))  # (N, 128, 28, 28)
        half = shared.shape[-1] // 2
        top, bottom = shared[:, :, :half], shared[:, :, half:]
        patches = (top[..., :half], top[..., half:], bottom[..., :half], bottom[..., half:])  # p1 to p4, rows first
        middle = [self.get_submodule(f"layer3_1_p{number}")(patch) for number, patch in enumerate(patches, start=1)]
        last = [self.get_submodule(f"layer4_1_p{number}")(patch) for number, patch in enumerate(middle, start=1)]
        local_features = torch.stack(last)  # (4, N, 512, 7, 7)
        dtype = self.fc_1.weight.dtype
        pooled_local = local_features.mean(dim=(0, 3, 4), dtype=dtype)  # of the map is the mean of its patches
        pooled_global = self.layer4_2(self.layer3_2(shared)).mean(dim=(2, 3), dtype=dtype)
        pooled = torch.stack((pooled_local, pooled_global))
        return MANetOutput(self.fc_1(pooled_local), self.fc_2(pooled_global), local_features, pooled)

    def set_mixture(self, beta: float, multiscale_order: str) -> None:
        """Change the weight of the local branch and the order of the second multi-scale chain; see the class."""
        _check_mixture(beta, multiscale_order)
        self.beta = beta
        for module in self.modules():
            if isinstance(module, MultiScaleBlock):
                module.multiscale_order = multiscale_order
        self.arguments |= {"beta": beta, "multiscale_order": multiscale_order}

    def replace_head(self, labels: Sequence[str]) -> None:
        """Give both branches a freshly initialised head for other classes."""
        self.fc_1 = nn.Linear(512, len(labels)).to(self.input_mean.device)
        self.fc_2 = nn.Linear(512, len(labels)).to(self.input_mean.device)
        self.labels = tuple(labels)
        self.arguments |= {"labels": list(labels), "num_classes": len(labels)}

    def branch_logits(self, outputs: MANetOutput) -> Tensor:
        """Return the scores (2, N, K) of the local and the global branch."""
        return torch.stack((outputs.local_logits, outputs.global_logits))

    def mean_probabilities(self, branch_logits: Tensor) -> Tensor:
        """Mix local and global scores with beta, as the released code decides: (2, N, K) to probabilities (N, K)."""
        return torch.lerp(branch_logits[1], branch_logits[0], self.beta).softmax(dim=-1)


def _check_mixture(beta: float, multiscale_order: str) -> None:
    if multiscale_order not in MULTISCALE_ORDERS:
        raise ValueError(f"multiscale_order is {multiscale_order!r}; expected 'released' or 'reversed'")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}; expected a weight in [0, 1]")
