"""The fast way of `predict`: near the exact one, never stale, and nothing of it in the network."""

import io
from copy import deepcopy

import pytest
import torch
from torch import nn

from models import inference
from models.cbam import mean_over_channels, mean_over_space
from models.device import find_device
from models.esr import ESR
from models.manet import MANet
from tests.test_inference import NETWORKS, trained_a_little


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def native(request, monkeypatch):
    monkeypatch.setattr(inference, "multiplies_bfloat16", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("name", NETWORKS)
def test_few_faces_are_exact_and_many_are_near(name, native):
    model = trained_a_little(NETWORKS[name]())
    images = torch.rand(17, 3, model.image_size, model.image_size)
    expected = model.predict(images, precision="float32")
    assert torch.equal(expected, model.combine(model.predict_branches(images)))
    few, many = model.predict(images[:15]), model.predict(images)
    torch.testing.assert_close(few, expected[:15], atol=1e-5, rtol=0)
    torch.testing.assert_close(many, expected, atol=2e-2 if native else 1e-5, rtol=0)
    assert torch.equal(few, model.predict(images[:15])), "the same from the first call on"
    assert (many - expected).abs().max() > (1e-5 if native else -1), "bfloat16 where it is native"


def with_optimizer(model):
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    model(torch.rand(2, 3, 60, 60)).logits.sum().backward()
    optimizer.step()


def with_no_grad(model):
    with torch.no_grad():
        model.branches[1].fc.bias[3] += 2


CHANGES = {
    "an optimizer": with_optimizer,
    "no_grad": with_no_grad,
    "data, which is not counted": lambda model: model.branches[0].fc.bias.data.add_(torch.arange(8.0)),
    "another state dict": lambda model: model.load_state_dict(trained_a_little(ESR(2, image_size=60)).state_dict()),
    "a new parameter": lambda model: setattr(model.branches[0].fc, "bias", nn.Parameter(torch.arange(8.0))),
    "BatchNorm's statistics": lambda model: model.train()(torch.rand(4, 3, 60, 60)),
    "a branch": lambda model: model.add_branch(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_noticed(change):
    torch.manual_seed(1)
    model = trained_a_little(ESR(2, image_size=60))
    images = torch.rand(3, 3, 60, 60)
    before = model.predict(images)
    CHANGES[change](model)
    found = model.predict(images)
    torch.testing.assert_close(found, model.predict(images, precision="float32"), atol=1e-5, rtol=0)
    assert not torch.allclose(found, before, atol=1e-5)


def test_another_mixture_is_noticed():
    model = trained_a_little(MANet(image_size=64))
    images = torch.rand(2, 3, 64, 64)
    before = model.predict(images)
    model.set_mixture(0.1, "reversed")
    found = model.predict(images)
    torch.testing.assert_close(found, model.predict(images, precision="float32"), atol=1e-5, rtol=0)
    assert not torch.allclose(found, before, atol=1e-5)


def test_the_network_is_left_as_it_is():
    model = trained_a_little(ESR(2, image_size=60)).train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    size = len(pickled(model))
    model.predict(torch.rand(20, 3, 60, 60))
    assert model.training and model.base.training
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert len(pickled(model)) == size and deepcopy(model) not in inference._KEPT


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


def test_who_listens_to_a_module_hears_it():
    model = trained_a_little(ESR(1, image_size=60))
    heard = []
    model.predict(torch.rand(1, 3, 60, 60))
    model.base.bn1.register_forward_hook(lambda *_: heard.append(1))
    model.predict(torch.rand(1, 3, 60, 60))
    assert heard == [1]


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'float16'; expected 'auto', 'float32' or 'bfloat16'"):
        ESR(1, image_size=60).predict(torch.rand(1, 3, 60, 60), precision="float16")


@torch.inference_mode()
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_means_by_products_are_means(memory_format):
    features = torch.randn(3, 40, 7, 5).to(torch.bfloat16, memory_format=memory_format)
    for found, dimensions in ((mean_over_space(features), (2, 3)), (mean_over_channels(features), 1)):
        torch.testing.assert_close(found.float(), features.float().mean(dim=dimensions), atol=4e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_is_cuda_then_apples_gpu_then_the_cpu(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert find_device("auto").type == expected
    assert not inference.multiplies_bfloat16(torch.device("mps"))
