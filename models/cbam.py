"""Convolutional block attention module.

Paper: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018.
The sub-module names `ChannelGate.mlp` and `SpatialGate.spatial.{conv,bn}` are those of the authors' code, kept because
the released ESR and MA-Net weights carry them.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class AttendedFeatures(NamedTuple):
    """Weighted features (N, C, H, W), and their weights in (0, 1), (N, H, W) and (N, C); None without a CBAM."""

    features: Tensor
    spatial_attention: Tensor | None
    channel_attention: Tensor | None


def mean_over_space(features: Tensor) -> Tensor:
    """Return the mean of every channel, (N, C), of features (N, C, H, W)."""
    if not _sums_by_products(features):
        return features.mean(dim=(2, 3))
    positions = _positions(features)
    return (positions.new_ones(len(positions), 1, positions.shape[1]) @ positions)[:, 0] / positions.shape[1]


def mean_over_channels(features: Tensor) -> Tensor:
    """Return the mean at every position, (N, H, W), of features (N, C, H, W)."""
    if not _sums_by_products(features):
        return features.mean(dim=1)
    positions = _positions(features)
    sums = positions.flatten(0, 1) @ positions.new_ones(positions.shape[2], 1)
    return sums.reshape(features[:, 0].shape) / features.shape[1]


def _sums_by_products(features: Tensor) -> bool:
    """Tell whether a matrix product is the fast way to a mean: in bfloat16 on the CPU, 2 to 8 times as fast."""
    eager = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return eager and features.device.type == "cpu" and features.dtype == torch.bfloat16


def _positions(features: Tensor) -> Tensor:
    """Return features (N, C, H, W) as (N, H * W, C); a view, where channels are last in memory."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


class ChannelGate(nn.Module):
    """A weight in (0, 1) for every channel, from its average and its maximum over space (CBAM, equation 2)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels, channels // reduction),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, C, H, W) to channel weights (N, C)."""
        average, maximum = mean_over_space(features), features.amax(dim=(2, 3))
        with torch.autocast(features.device.type, enabled=False):  # at the weights' precision, see `CBAM`
            average, maximum = (pooled.to(self.mlp[1].weight.dtype) for pooled in (average, maximum))
            return torch.sigmoid(self.mlp(average) + self.mlp(maximum))


class SpatialGate(nn.Module):
    """A weight in (0, 1) for every position, from the maximum and the average over channels (CBAM, equation 3)."""

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.spatial = nn.Sequential()
        self.spatial.add_module("conv", nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False))
        self.spatial.add_module("bn", nn.BatchNorm2d(1, momentum=0.01))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, C, H, W) to position weights (N, 1, H, W)."""
        pooled = torch.stack((features.amax(dim=1), mean_over_channels(features)), dim=1)  # (N, 2, H, W)
        with torch.autocast(features.device.type, enabled=False):
            return torch.sigmoid(self.spatial(pooled.to(self.spatial.conv.weight.dtype)))


class CBAM(nn.Module):
    """Channel attention followed by spatial attention.

    Both gates are computed at the precision of their weights, float32 in training, whatever that of the features is:
    the diversity loss compares their maps, and near 1 bfloat16 has steps of 0.004. It costs next to nothing.

    Args:
        channels: number of feature channels C; at least `reduction`.
        reduction: how many times narrower the hidden layer of the channel gate is.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.ChannelGate = ChannelGate(channels, reduction)
        self.SpatialGate = SpatialGate()
        # Both gates start near sigmoid(2) = 0.88, not at 0.5 under a random mask: eight closed gates in a row
        # delay the start of training (docs/differences.md).
        nn.init.constant_(self.ChannelGate.mlp[3].bias, 1.0)  # added twice, for the average and for the maximum
        nn.init.constant_(self.SpatialGate.spatial.bn.weight, 0.1)
        nn.init.constant_(self.SpatialGate.spatial.bn.bias, 2.0)

    def forward(self, features: Tensor) -> AttendedFeatures:
        """Weight features (N, C, H, W); the maps returned beside them are (N, H, W) and (N, C), both in (0, 1)."""
        channel_attention = self.ChannelGate(features)
        features = features * channel_attention[:, :, None, None].to(features.dtype)
        spatial_attention = self.SpatialGate(features)
        attended = features * spatial_attention.to(features.dtype)
        return AttendedFeatures(attended, spatial_attention.squeeze(1), channel_attention)
