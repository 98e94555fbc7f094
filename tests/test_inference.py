"""A network made for inference gives the probabilities of the one it was made from."""

import pytest
import torch
from torch import nn

from models import optimize_for_inference
from models.esr import ESR
from models.manet import MANet


def trained_a_little(model):
    """Give BatchNorm statistics and weights that folding could get wrong."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    model.train()
    with torch.no_grad():
        for _ in range(8):
            model(torch.rand(6, 3, model.image_size, model.image_size))
    return model.eval()


NETWORKS = {
    "ESR": lambda: ESR(2, image_size=60),
    "ESR without attention": lambda: ESR(2, attention=False, image_size=60, normalization="bgr"),
    "MA-Net": lambda: MANet(image_size=64),
    "MA-Net reversed": lambda: MANet(8, image_size=64, multiscale_order="reversed"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_same_probabilities(name):
    model = trained_a_little(NETWORKS[name]())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randint(0, 256, (5, 3, 70, 50), dtype=torch.uint8)
    expected = model.predict(images)
    for precision, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        optimized = optimize_for_inference(model, precision)
        found = optimized.predict(images)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
        left = [module for module in optimized.modules() if isinstance(module, nn.BatchNorm2d)]
        assert not left, "every BatchNorm is folded"
        assert optimized.labels == model.labels and optimized.image_size == model.image_size
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_in_place_changes_the_network_itself():
    model = trained_a_little(NETWORKS["ESR"]())
    images = torch.rand(3, 3, 60, 60)
    expected = model.predict(images)
    assert optimize_for_inference(model, in_place=True) is model
    torch.testing.assert_close(model.predict(images), expected, atol=1e-5, rtol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
