"""Both networks answer what the authors' own code answers, for weights and pictures that a formula makes.

`golden.json` holds the outputs of the published code: the diversified ESR, and MA-Net with both multi-scale orders.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from models import load_model
from models.classifier import ExpressionClassifier
from models.esr import ESR
from models.manet import MANet
from models.weights import BASE_FILE, BRANCH_FILE

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
TOLERANCE = 1e-4  # of the largest value of an entry


def formula(key: str, shape: torch.Size) -> torch.Tensor:
    """Return the weight of a published key: far from a network's start, so that no gate is near 0.5."""
    values = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(tuple(shape))
    if key.endswith("running_var"):
        values = 0.5 + np.abs(values)
    elif key.endswith(("running_mean", "bias")):
        values = 0.1 * values
    elif len(shape) == 1:
        values = 1 + 0.1 * values
    else:
        values = values * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(values).float()


def filled(state: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """Return a state dict with the same keys, its weights by the formula; the keys are those of the published files."""
    return {
        key: formula(prefix + key, value.shape) if value.is_floating_point() else value
        for key, value in state.items()
        if not key.startswith("input_")
    }


def pictures(size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(7).random_sample((2, 3, size, size))).float()


def agrees(found: torch.Tensor, expected: list) -> None:
    expected = torch.tensor(expected)
    assert found.shape == expected.shape
    worst = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"worst {worst:.1e} of the largest value")
    assert worst < TOLERANCE


def esr_states(model: ESR) -> dict[str, dict[str, torch.Tensor]]:
    """Return the content of the published files of an ESR, by file name."""
    states = {BASE_FILE: filled(model.base.state_dict())}
    for number, branch in enumerate(model.branches, start=1):
        states[BRANCH_FILE.format(number)] = filled(branch.state_dict(), f"branch{number}.")
    return states


@torch.inference_mode()
def check_esr(model: ExpressionClassifier) -> None:
    expected = GOLDEN["esr2_diversified"]
    outputs = model(pictures(96))
    agrees(outputs.logits, expected["logits"])
    agrees(outputs.spatial_attention.flatten(2)[:, :, :6], expected["spatial_first_6"])
    agrees(outputs.channel_attention[:, :, :6], expected["channel_first_6"])


@torch.inference_mode()
def check_manet(model: ExpressionClassifier, order: str) -> None:
    expected = GOLDEN[f"manet_{order}"]
    outputs = model(pictures(224))
    agrees(outputs.local_logits, expected["local_logits"])
    agrees(outputs.global_logits, expected["global_logits"])
    if order == "released":
        agrees(outputs.local_features.mean(dim=(2, 3, 4)), expected["local_features_mean_per_patch"])
        agrees(outputs.global_features[:, :, :8], expected["global_features_first_8"])


def test_esr_through_the_constructor():
    model = ESR(2, normalization="bgr").eval()
    states = esr_states(model)
    model.base.load_state_dict(states[BASE_FILE])
    for number, branch in enumerate(model.branches, start=1):
        branch.load_state_dict(states[BRANCH_FILE.format(number)])
    check_esr(model)


def test_esr_through_a_published_folder(tmp_path):
    for name, state in esr_states(ESR(2)).items():
        torch.save(state, tmp_path / name)
    check_esr(load_model(tmp_path))


@pytest.mark.parametrize("order", ["released", "reversed"])
def test_manet_through_the_constructor(order):
    model = MANet(7, multiscale_order=order, normalization="rgb").eval()
    model.load_state_dict(filled(model.state_dict()), strict=False)
    check_manet(model, order)


@pytest.mark.parametrize("order", ["released", "reversed"])
def test_manet_through_a_released_file(tmp_path, order):
    state = {f"module.{key}": value for key, value in filled(MANet(7).state_dict()).items()}
    torch.save({"epoch": 1, "state_dict": state, "best_acc": torch.tensor(0.0)}, tmp_path / "manet.pth.tar")
    model = load_model(tmp_path / "manet.pth.tar")
    model.set_mixture(0.6, order)
    check_manet(model, order)


def test_the_figures_notice_what_once_was_wrong():
    """The mistakes that passed unseen: exchanged patches, attention before pooling."""
    model = MANet(7, normalization="rgb").eval()
    state = filled(model.state_dict())
    exchanged = {
        key: state[key.replace("_p2.", "_p0.").replace("_p3.", "_p2.").replace("_p0.", "_p3.")] for key in state
    }
    model.load_state_dict(exchanged, strict=False)
    with pytest.raises(AssertionError):
        check_manet(model, "released")
