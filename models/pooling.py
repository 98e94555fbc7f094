"""Max pooling whose gradient stays fast when a training step is compiled for the CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor


def max_pool(features: Tensor, size: int, stride: int, padding: int = 0) -> Tensor:
    """Return the highest value in every window of maps (N, C, H, W), as `torch.nn.functional.max_pool2d` does.

    The compiler writes the gradient for the CPU as one atomic addition per position, a quarter of a training step of
    ESR at 64 pixels; the library's own kernel takes a sixth of that time. So there the kernel is kept as it is.
    """
    compiling = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    if compiling and features.requires_grad and features.device.type == "cpu":
        return _max_pool(features, [size, size], [stride, stride], [padding, padding])[0]
    return F.max_pool2d(features, size, stride, padding)


@torch.library.custom_op("diversified_fer::max_pool", mutates_args=())
def _max_pool(features: Tensor, size: list[int], stride: list[int], padding: list[int]) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.max_pool2d_with_indices(features, size, stride, padding)


@torch.library.custom_op("diversified_fer::max_pool_backward", mutates_args=())
def _max_pool_backward(
    gradient: Tensor, features: Tensor, indices: Tensor, size: list[int], stride: list[int], padding: list[int]
) -> Tensor:
    return torch.ops.aten.max_pool2d_with_indices_backward(
        gradient, features, size, stride, padding, [1, 1], False, indices
    )


@_max_pool.register_fake
def _(features: Tensor, size: list[int], stride: list[int], padding: list[int]) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.max_pool2d_with_indices(features, size, stride, padding)


@_max_pool_backward.register_fake
def _(gradient: Tensor, features: Tensor, *_: object) -> Tensor:
    return torch.empty_like(features)


def _keep(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    features, *ctx.windows = inputs
    ctx.save_for_backward(features, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
    return _max_pool_backward(gradient, *ctx.saved_tensors, *ctx.windows), None, None, None


_max_pool.register_autograd(_gradient, setup_context=_keep)
