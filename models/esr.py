"""Ensemble with shared representations (ESR), with and without attention.

Paper: Siqueira, Magg, Wermter, "Efficient Facial Feature Learning with Wide Ensemble-based Convolutional Neural
Networks", AAAI 2020. With attention (a CBAM after every block): Heidari and Iosifidis, "Learning diversified feature
representations for facial expression recognition in the wild", arXiv 2210.09381.
Layer names follow the published weights: conv1..4, bn1..4, cbam1..4, fc, fc_dimensional.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cbam import CBAM, AttendedFeatures
from models.classifier import ExpressionClassifier, HeatMapSource, default_labels
from models.pooling import max_pool

SMALLEST_MAP = 6  # positions along a side of a heat map, as the last map has at 96 pixels; fewer say little


class ESROutput(NamedTuple):
    """Scores (B, N, K) and the last attention of every branch, (B, N, h, w) and (B, N, 512); None without attention."""

    logits: Tensor
    spatial_attention: Tensor | None
    channel_attention: Tensor | None


class ESRAffectOutput(NamedTuple):
    """As `ESROutput`, with valence and arousal (B, N, 2) of networks built with `affect=True`."""

    logits: Tensor
    spatial_attention: Tensor | None
    channel_attention: Tensor | None
    affect: Tensor


class ConvolutionBlock(nn.Module):
    """Four convolutions, each followed by BatchNorm, ReLU, 2 x 2 pooling in some, and, with attention, a CBAM."""

    pooled: tuple[int, ...]  # the numbers (1 to 4) of the layers that pool

    def __init__(
        self, channels: Sequence[int], kernel_sizes: Sequence[int], last_padding: int, attention: bool
    ) -> None:
        super().__init__()
        self.attention = attention
        for layer, kernel_size in enumerate(kernel_sizes, start=1):
            padding = last_padding if layer == len(kernel_sizes) else 0
            convolution = nn.Conv2d(channels[layer - 1], channels[layer], kernel_size, padding=padding)
            setattr(self, f"conv{layer}", convolution)
            setattr(self, f"bn{layer}", nn.BatchNorm2d(channels[layer]))
            if attention:
                setattr(self, f"cbam{layer}", CBAM(channels[layer]))
            setattr(self, f"out{layer}", nn.Identity())  # where heat maps are taken

    def shrink(self, layer: int, side: int = 0) -> tuple[int, float, int]:
        """Return what a block makes of a map: its side, where its first position is, and how far apart positions are.

        Both are counted in positions of the map before; `side` is that map's number of positions along a side.
        """
        convolution = getattr(self, f"conv{layer}")
        lost, padding = convolution.kernel_size[0] - 1, convolution.padding[0]
        side, offset = side - lost + 2 * padding, lost / 2 - padding
        return (side // 2, offset + 0.5, 2) if layer in self.pooled else (side, offset, 1)

    def block(self, features: Tensor, layer: int) -> AttendedFeatures:
        """Apply convolution number `layer` (1 to 4) and what follows it; the maps are None without attention."""
        features = F.relu(getattr(self, f"bn{layer}")(getattr(self, f"conv{layer}")(features)))
        if layer in self.pooled:
            features = max_pool(features, 2, stride=2)
        attended = getattr(self, f"cbam{layer}")(features) if self.attention else AttendedFeatures(features, None, None)
        return attended._replace(features=getattr(self, f"out{layer}")(attended.features))


class Base(ConvolutionBlock):
    """The layers that all branches share: (N, 3, 96, 96) to (N, 128, 20, 20)."""

    pooled = (2, 4)

    def __init__(self, attention: bool) -> None:
        super().__init__((3, 64, 128, 128, 128), (5, 3, 3, 3), last_padding=0, attention=attention)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised pictures to the shared feature map."""
        features = images
        for layer in (1, 2, 3, 4):
            features = self.block(features, layer).features
        return features


class Branch(ConvolutionBlock):
    """One member of the ensemble: (N, 128, 20, 20) to K scores, with the attention of its last block (6 x 6, 512)."""

    pooled = (2,)

    def __init__(self, num_classes: int, attention: bool, affect: bool) -> None:
        super().__init__((128, 128, 256, 256, 512), (3, 3, 3, 3), last_padding=1, attention=attention)
        self.fc = nn.Linear(512, num_classes)
        if affect:
            self.fc_dimensional = nn.Linear(num_classes, 2)

    def forward(self, shared: Tensor) -> ESROutput:
        """Return scores (N, K), spatial attention (N, h, w) and channel attention (N, 512) of this branch."""
        features = shared
        for layer in (1, 2, 3):
            features = self.block(features, layer).features
        attended = self.block(features, 4)
        logits = self.fc(attended.features.mean(dim=(2, 3), dtype=self.fc.weight.dtype))
        return ESROutput(logits, attended.spatial_attention, attended.channel_attention)


class ESR(ExpressionClassifier):
    """An ensemble of convolutional branches on a shared base, for faces of 96 x 96 pixels.

    Args:
        num_branches: members of the ensemble B, at least 1; `add_branch` adds more.
        num_classes: expressions K.
        attention: put a CBAM after every block; the diversity loss needs it.
        affect: add the published valence/arousal head (K scores, ReLU, 2 values) to every branch.
        labels: class names, in place of `num_classes`; default the first K of `EMOTIONS`.
        image_size: height and width in pixels; at least 60, so that no map vanishes.
        normalization: "imagenet", "rgb" or "bgr", see `models.classifier.NORMALIZATIONS`.

    Raises:
        ValueError: for a number of branches, an image size or a normalisation outside of these.
    """

    def __init__(
        self,
        num_branches: int = 9,
        num_classes: int = 8,
        attention: bool = True,
        affect: bool = False,
        labels: Sequence[str] | None = None,
        image_size: int = 96,
        normalization: str = "imagenet",
    ) -> None:
        if num_branches < 1:
            raise ValueError(f"num_branches is {num_branches}; an ensemble has at least 1 branch")
        self.check_image_size(image_size)
        labels = default_labels(num_classes) if labels is None else tuple(labels)
        arguments = {"num_branches": num_branches, "attention": attention, "affect": affect}
        super().__init__(labels, image_size, normalization, arguments)
        self.base = Base(attention)
        self.branches = nn.ModuleList(Branch(len(labels), attention, affect) for _ in range(num_branches))

    @property
    def branch_names(self) -> tuple[str, ...]:
        """The numbers of the branches."""
        return tuple(str(number) for number in range(1, len(self.branches) + 1))

    @property
    def compared_parts(self) -> tuple[str, ...]:
        """The numbers of the branches, where they have attention to compare."""
        return self.branch_names if self.arguments["attention"] else ()

    def compared_features(self, outputs: ESROutput | ESRAffectOutput) -> dict[str, Tensor]:
        """Return the last attention of the branches, in space (B, N, h, w) and over channels (B, N, 512)."""
        if outputs.spatial_attention is None:
            return {}
        return {"spatial": outputs.spatial_attention, "channel": outputs.channel_attention}

    @torch.no_grad()
    def heat_map_sources(self, faces: Tensor) -> list[HeatMapSource]:
        """Return the deepest block of every branch whose map has `SMALLEST_MAP` positions along its sides, or more."""
        shared = self.base(self.normalize(faces))
        side, first, stride = self.image_size, 0.0, 1
        blocks = [(part, number) for part in (self.base, self.branches[0]) for number in (1, 2, 3, 4)]
        for part, number in blocks:
            side, offset, factor = part.shrink(number, side)
            if part is self.branches[0] and number > 1 and side < SMALLEST_MAP:
                break
            first, stride, layer = first + stride * offset, stride * factor, number
        return [
            HeatMapSource(
                branch=f"branch {name}",
                weight=1 / len(self.branches),
                inputs=shared,
                scores=lambda shared, branch=branch: branch(shared).logits,
                layers=[[branch.get_submodule(f"out{layer}")]],
                first=first,
                stride=stride,
            )
            for name, branch in zip(self.branch_names, self.branches, strict=True)
        ]

    @staticmethod
    def check_image_size(image_size: int) -> None:
        """Raise ValueError for a size, in pixels, whose maps would vanish."""
        if image_size < 60:
            raise ValueError(f"image_size is {image_size}; ESR's unpadded convolutions need at least 60 pixels")

    def forward(self, images: Tensor) -> ESROutput | ESRAffectOutput:
        """Score pictures (N, 3, H, W), RGB, uint8 or float in [0, 1], with every branch."""
        shared = self.base(self.normalize(images))
        outputs = [branch(shared) for branch in self.branches]
        logits, spatial, channel = (  # each (B, N, ...)
            None if maps[0] is None else torch.stack(maps) for maps in zip(*outputs, strict=True)
        )
        if not self.arguments["affect"]:
            return ESROutput(logits, spatial, channel)
        affect = torch.stack(
            [branch.fc_dimensional(F.relu(scores)) for branch, scores in zip(self.branches, logits, strict=True)]
        )
        return ESRAffectOutput(logits, spatial, channel, affect)

    def compiled_parts(self) -> list[nn.Module]:
        """Return base and branches: what is compiled for the first branch serves all that are added."""
        return [self.base, *self.branches]

    def add_branch(self, branch: Branch | None = None) -> Branch:
        """Append a branch, freshly initialised unless a trained one is given, and return it."""
        if branch is None:
            branch = Branch(len(self.labels), self.arguments["attention"], self.arguments["affect"])
            if self.arguments["affect"]:
                branch.fc_dimensional.requires_grad_(self.branches[0].fc_dimensional.weight.requires_grad)
        branch = branch.to(self.input_mean.device).train(self.training)
        self.branches.append(branch)
        self.arguments["num_branches"] = len(self.branches)
        return branch

    def add_affect(self) -> None:
        """Give every branch a freshly initialised valence/arousal head, unless it has one."""
        for branch in self.branches:
            if not hasattr(branch, "fc_dimensional"):
                branch.fc_dimensional = nn.Linear(len(self.labels), 2).to(self.input_mean.device)
        self.arguments["affect"] = True

    def only_affect_heads(self) -> list[nn.Parameter]:
        """Add the valence/arousal heads, freeze everything else, and return the heads' parameters to train."""
        self.add_affect()
        self.requires_grad_(False)
        return [weight.requires_grad_() for branch in self.branches for weight in branch.fc_dimensional.parameters()]

    def keep_branches(self, num_branches: int) -> list[Branch]:
        """Keep the first branches and return the others, for `add_branch` to give back one by one."""
        removed = list(self.branches[num_branches:])
        self.branches = self.branches[:num_branches]
        self.arguments["num_branches"] = len(self.branches)
        return removed

    def replace_head(self, labels: Sequence[str]) -> None:
        """Give every branch a freshly initialised head for other classes."""
        for branch in self.branches:
            branch.fc = nn.Linear(512, len(labels)).to(self.input_mean.device)
            if self.arguments["affect"]:
                trained = branch.fc_dimensional.weight.requires_grad
                branch.fc_dimensional = nn.Linear(len(labels), 2).to(self.input_mean.device).requires_grad_(trained)
        self.labels = tuple(labels)
        self.arguments |= {"labels": list(labels), "num_classes": len(labels)}

    def parameter_groups(self, lr_base: float, lr_branches: Sequence[float]) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups: the base, then every branch, each with its learning rate."""
        modules, rates = [self.base, *self.branches], [lr_base, *lr_branches]
        return [{"params": list(m.parameters()), "lr": lr} for m, lr in zip(modules, rates, strict=True)]

    @torch.no_grad()
    def mean_affect(self, branch_logits: Tensor) -> Tensor:
        """Return valence and arousal (N, 2), in [-1, 1] as trained, the mean of what follows from scores (B, N, K).

        Raises:
            ValueError: for a network without these heads.
        """
        if not self.predicts_affect:
            raise ValueError("this network has no heads for valence and arousal; train them with --affect")
        heads = [branch.fc_dimensional for branch in self.branches]
        scores = F.relu(branch_logits.to(heads[0].weight))
        return torch.stack([head(s) for head, s in zip(heads, scores, strict=True)]).mean(dim=0).float()

    def branch_logits(self, outputs: ESROutput | ESRAffectOutput) -> Tensor:
        """Return the scores (B, N, K) of the branches."""
        return outputs.logits

    def mean_probabilities(self, branch_logits: Tensor) -> Tensor:
        """Average the branches' probabilities: (B, N, K) scores to (N, K)."""
        return branch_logits.softmax(dim=-1).mean(dim=0)
