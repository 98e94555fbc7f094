"""Max pooling compiled for the CPU: the values and the gradient of the library's."""

import pytest
import torch
import torch.nn.functional as F

from models.pooling import max_pool


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_pooling_equals_the_library_s(size, stride, padding, dtype):
    maps = torch.randn(2, 8, 9, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
    compiled = torch.compile(lambda x: max_pool(F.relu(x), size, stride, padding) * 2)
    expected = F.max_pool2d(F.relu(maps), size, stride, padding) * 2
    result = compiled(maps)
    assert torch.equal(result, expected)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=dtype).view(expected.shape)
    gradients = [torch.autograd.grad((pooled * weights).sum(), maps)[0] for pooled in (result, expected)]
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0
