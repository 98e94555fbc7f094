"""Honest confidence: the temperature, where it is kept, and what it does to labels and numbers."""

import json
import math
import shutil
from functools import partial

import numpy as np
import pytest
import torch

from diversified_fer.classifier import OnnxClassifier, sharpen
from diversified_fer.faces import UNSURE, label_faces
from diversified_fer.media.media import Frame
from models import CheckpointError, load_model
from models.esr import ESR
from models.export import export_esr_folder, export_half, export_onnx
from models.quantize import QuantizationError, quantize_onnx
from models.weights import SETTINGS_FILE, describe_model
from tests.test_export import acquainted
from utils.ucheckpoint import store_temperature
from utils.umetrics import compute_metrics, fit_temperature

LABELS = tuple("abcd")


def drawn(temperature: float, number: int = 20000):
    """Draw labels from probabilities, and return what a network says that is wrong about them by a temperature."""
    generator = torch.Generator().manual_seed(0)
    true = (3 * torch.randn(number, 4, generator=generator)).softmax(dim=1)
    targets = torch.multinomial(true, 1, generator=generator)[:, 0]
    return (true.log() * temperature).softmax(dim=1), targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_that_labels_were_drawn_with(temperature):
    said, targets = drawn(temperature)
    found = fit_temperature(said, targets)
    assert found == pytest.approx(temperature, rel=0.04)
    calibrated = torch.from_numpy(sharpen(said.numpy(), found))
    assert torch.equal(calibrated.argmax(dim=1), said.argmax(dim=1))
    assert compute_metrics(calibrated, targets, LABELS).calibration_error < 0.012
    likelihoods = [
        -(said.log() / t).log_softmax(dim=1).gather(1, targets[:, None]).mean()
        for t in (0.98 * found, found, 1.02 * found)
    ]
    assert likelihoods[1] == min(likelihoods), "the smallest negative log-likelihood"


def test_faces_that_are_all_right_have_a_finite_one():
    assert fit_temperature(torch.eye(4).repeat(5, 1) * 0.6 + 0.1, torch.arange(4).repeat(5)) == 0.2


@pytest.fixture
def model():
    found = acquainted(ESR(2, image_size=64), 64)
    found.temperature = 0.5
    return found


def test_it_travels_wherever_the_network_goes(model, tmp_path):
    torch.save(describe_model(model), tmp_path / "best.pt")
    export_half(tmp_path / "best.pt", tmp_path / "half.pt")
    export_esr_folder(model, tmp_path / "esr")
    assert [load_model(tmp_path / name).temperature for name in ("best.pt", "half.pt", "esr")] == [0.5] * 3
    content = describe_model(model)
    del content["temperature"]
    torch.save(content, tmp_path / "older.pt")
    assert load_model(tmp_path / "older.pt").temperature == 1.0
    store_temperature(tmp_path / "older.pt", 2.0)
    again = load_model(tmp_path / "older.pt")
    assert again.temperature == 2.0
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match="published weights"):
        store_temperature(tmp_path / "esr", 2.0)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "1", True, None, [1.0]])
def test_a_temperature_that_is_none_is_refused(model, value, tmp_path):
    torch.save(describe_model(model) | {"temperature": value}, tmp_path / "best.pt")
    export_esr_folder(model, tmp_path / "esr")
    settings = json.loads((tmp_path / "esr" / SETTINGS_FILE).read_text())
    (tmp_path / "esr" / SETTINGS_FILE).write_text(json.dumps(settings | {"temperature": value}))
    for name in ("best.pt", "esr"):
        with pytest.raises(CheckpointError, match=r"its temperature is .*; expected a finite number above 0"):
            load_model(tmp_path / name)


def test_predict_is_calibrated_and_the_mixture_is_as_published(model):
    images = torch.rand(5, 3, 64, 64)
    mixture = model.combine(model.predict_branches(images))
    torch.testing.assert_close(mixture, model.predict_branches(images).softmax(dim=2).mean(dim=0))
    squared = mixture**2 / (mixture**2).sum(dim=1, keepdim=True)
    torch.testing.assert_close(model.predict(images, precision="float32"), squared)
    votes = model.predict(images, "vote", precision="float32")
    assert torch.equal(votes, model.combine(model.predict_branches(images), "vote"))


def test_both_routes_agree_and_float16_halves_the_file(model, tmp_path):
    model.half().float()
    faces = [np.random.default_rng(n).integers(0, 256, (50 + n, 60, 3), dtype=np.uint8) for n in range(3)]
    for half in (False, True):
        export_onnx(model, tmp_path / f"{half}.onnx", "float32", half)
        onnx = OnnxClassifier(tmp_path / f"{half}.onnx")
        assert onnx.temperature == 0.5
        for flip in (False, True):
            ours, theirs = model.score(faces, flip=flip), onnx.score(faces, flip=flip)
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
    sizes = [(tmp_path / f"{half}.onnx").stat().st_size for half in (False, True)]
    assert 0.49 < sizes[1] / sizes[0] < 0.52


def test_unsure_faces_keep_their_probabilities(model):
    frames = [Frame(np.random.default_rng(n).integers(0, 256, (64, 64, 3), dtype=np.uint8), f"{n}") for n in range(4)]
    plain = [face for _, [face] in label_faces(model, frames, "none")]
    limit = sorted(float(face.probabilities.max()) for face in plain)[2]
    asked = [face for _, [face] in label_faces(model, frames, "none", min_confidence=limit)]
    for before, after in zip(plain, asked, strict=True):
        np.testing.assert_array_equal(before.probabilities, after.probabilities)
        assert after.label == (before.label if before.probabilities.max() >= limit else UNSURE)
    assert [face.label for face in asked].count(UNSURE) == 2
    mirrored = [Frame(frame.picture[:, ::-1].copy(), frame.source) for frame in frames]
    for (_, [left]), (_, [right]) in zip(
        label_faces(model, frames, "none", flip=True), label_faces(model, mirrored, "none", flip=True), strict=True
    ):
        np.testing.assert_allclose(left.probabilities, right.probabilities, atol=1e-5)
    with pytest.raises(ValueError, match="min_confidence is 60; expected a probability from 0 to 1"):
        label_faces(model, frames, min_confidence=60)


def test_int8_is_smaller_and_refused_where_it_costs_too_much(model, tmp_path):
    images = torch.randint(0, 256, (120, 3, 64, 64), dtype=torch.uint8)
    targets = model.predict(images, precision="float32").argmax(dim=1).numpy()
    export_onnx(model, tmp_path / "plain.onnx")

    def quantize(max_loss, number=120):
        return quantize_onnx(
            partial(shutil.copyfile, tmp_path / "plain.onnx"),
            tmp_path / "int8.onnx",
            images.numpy()[:number],
            targets[:number],
            max_loss,
        )

    with pytest.raises(QuantizationError, match=r"there are 60 labelled faces"):
        quantize(1.0, 60)
    with pytest.raises(QuantizationError, match=r"int8 costs .* percentage points .*int8\.onnx was not written"):
        quantize(-1.0)
    assert not (tmp_path / "int8.onnx").exists()
    found = quantize(100.0)
    assert found.before == 1.0 and found.faces == 60 and found.loss == pytest.approx(100 * (1 - found.after))
    assert (tmp_path / "int8.onnx").stat().st_size < 0.4 * (tmp_path / "plain.onnx").stat().st_size
    scores = OnnxClassifier(tmp_path / "int8.onnx").score([np.zeros((64, 64, 3), np.uint8)])
    assert OnnxClassifier(tmp_path / "int8.onnx").temperature == 0.5 and scores.probabilities.sum() == pytest.approx(1)
