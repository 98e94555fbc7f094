"""Makes a trained network faster to apply, as `predict` does by itself; the result cannot be trained."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.cbam import ChannelGate, SpatialGate
from models.device import multiplies_bfloat16

Classifier = TypeVar("Classifier", bound=nn.Module)  # a `models.classifier.ExpressionClassifier`, which needs this file

BFLOAT16_FROM = 16  # faces in a call; the few that somebody looks at one by one are the same to 1e-5 everywhere
WATCHED = 16  # values of every tensor that are looked at, for changes that PyTorch does not count


def optimize_for_inference(
    model: Classifier, precision: torch.dtype = torch.float32, compile: bool = False, in_place: bool = False
) -> Classifier:
    """Return a network that gives the same probabilities in less time, and cannot be trained.

    Every BatchNorm is folded into the convolution before it, weights are in channels_last order, and are kept in
    `precision`, but for the first convolution, attention and heads. In float32 the probabilities agree with the
    network's own to 1e-5, in bfloat16 to 2e-2.

    Args:
        model: the trained network; it is left as it is, but for `in_place`.
        precision: float32, or bfloat16 for hardware that multiplies it natively.
        compile: also compile it at its first use, which takes seconds to minutes; for many faces. Keep the batch size
            the same then: another one is compiled anew.
        in_place: change the network itself instead of a copy, which never holds its weights twice.
    """
    optimized = (model if in_place else deepcopy(model)).eval().requires_grad_(False)
    layout = {"dtype": precision, "memory_format": torch.channels_last}
    for module in list(optimized.modules()):
        for name, child in list(module.named_children()):
            # a convolution "conv<x>" is followed by "bn<x>", and the n-th part of a Sequential by the next
            norm_name = str(int(name) + 1) if name.isdigit() else name.replace("conv", "bn", 1)
            norm = dict(module.named_children()).get(norm_name)
            if type(child) is nn.Conv2d and type(norm) is nn.BatchNorm2d:  # not parametrized ones, which are more
                statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                child.weight, child.bias = fuse_conv_bn_weights(child.weight, child.bias, *statistics)
                setattr(module, norm_name, nn.Identity())
    mean, std = optimized.input_mean, optimized.input_std
    first = next(name for name, part in optimized.named_modules() if isinstance(part, nn.Conv2d))
    exact = {n: deepcopy(part) for n, part in optimized.named_modules() if n == first or _stays_exact(n, part)}
    optimized.to(**layout)
    optimized.input_mean, optimized.input_std = mean, std  # pictures are normalised in float32
    for name, part in exact.items():
        optimized.set_submodule(name, part)
    if precision == torch.bfloat16:
        optimized.get_submodule(first).register_forward_hook(_round)
    if compile:
        for region in optimized.compiled_parts():
            region.compile(dynamic=False)
    return optimized


def _round(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.to(torch.bfloat16)


def _stays_exact(name: str, part: nn.Module) -> bool:
    """Tell whether a part stays in float32: bfloat16 steps by 1/32 in scores above 4 and by 1/256 in gates near 1."""
    return isinstance(part, SpatialGate | ChannelGate) or (
        isinstance(part, nn.Linear) and name.rpartition(".")[2].startswith("fc")
    )


@dataclass
class _Kept:
    """The fast copies of a network by precision, and the state of its weights that they are of.

    Attributes:
        state: the network's arguments, and of every tensor where it is and how often PyTorch has counted a change.
        views: a few values of every tensor where they are, which also keeps another tensor from coming to be there.
        values: what they were; changes through `.data` are not counted, but show here.
        copies: by precision.
    """

    state: tuple[object, ...]
    views: list[Tensor]
    values: Tensor
    copies: dict[torch.dtype, nn.Module] = field(default_factory=dict)


_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()
"""Outside the networks, so that neither their state dicts nor their copies on disk or in memory know of it."""


def fast_network(model: Classifier, faces: int, precision: str = "auto") -> Classifier:
    """Return what scores a number of faces fast: a copy with BatchNorms folded, or the network itself.

    The copy is kept until the network's weights, arguments or place change. It is in bfloat16 from `BFLOAT16_FROM`
    faces on where the device multiplies it natively, in float32 otherwise. The network itself is returned where there
    is nothing to fold, and where its weights are in another precision or somebody listens to its modules (hooks).

    Args:
        model: the network, in any mode; it is left as it is.
        faces: how many there are to score.
        precision: "auto"; "float32" for the network itself; "bfloat16" for a copy in it.

    Raises:
        ValueError: for another precision.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision is {precision!r}; expected 'auto', 'float32' or 'bfloat16'")
    modules = list(model.modules())
    if precision == "float32" or not any(type(module) is nn.BatchNorm2d for module in modules):
        return model
    held = (tensor for m in modules for tensor in (*m._parameters.values(), *m._buffers.values()))
    tensors = [tensor for tensor in held if tensor is not None]
    device = tensors[0].device
    is_usual = all(t.device == device and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors)
    if not is_usual or any(module._forward_hooks or module._forward_pre_hooks for module in modules):
        return model
    versions = ((t.data_ptr(), None if t.is_inference() else t._version) for t in tensors)  # the latter have none
    state = (repr(model.arguments), *versions)
    kept = _KEPT.get(model)
    if kept is None or kept.state != state or not torch.equal(kept.values, torch.cat(kept.views)):
        views = [_some_values(tensor) for tensor in tensors if tensor.is_floating_point()]
        kept = _KEPT[model] = _Kept(state, views, torch.cat(views))
    is_many = faces >= BFLOAT16_FROM and multiplies_bfloat16(device)
    dtype = torch.bfloat16 if precision == "bfloat16" or is_many else torch.float32
    if dtype not in kept.copies:
        with torch.inference_mode(False):
            kept.copies[dtype] = optimize_for_inference(model, dtype)
    return kept.copies[dtype]


def _some_values(tensor: Tensor) -> Tensor:
    """Return a view of values spread over a tensor, whatever the order of its dimensions in memory."""
    number = min(tensor.numel(), WATCHED)
    return tensor.detach().as_strided((number,), (tensor.numel() // number,))
