"""Valence and arousal: the numbers against formulas, and the heads trained alone by the script."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import esr_affectnet
from models import load_model
from models.esr import ESR
from models.weights import read_tensors
from utils.uaffect import affect_loss, compute_affect_metrics
from utils.udata import AffectNet
from utils.udemosets import write_affectnet


def test_metrics_are_the_formulas():
    rng = np.random.default_rng(0)
    targets = rng.uniform(-1, 1, (200, 2))
    predicted = np.clip(0.7 * targets + rng.normal(0.1, 0.2, (200, 2)), -1, 1)
    metrics = compute_affect_metrics(torch.tensor(predicted), torch.tensor(targets))
    for column, name in enumerate(("valence", "arousal")):
        p, t = predicted[:, column], targets[:, column]
        assert metrics.rmse[name] == pytest.approx(np.sqrt(((p - t) ** 2).mean()))
        covariance = ((p - p.mean()) * (t - t.mean())).mean()
        concordance = 2 * covariance / (p.var() + t.var() + (p.mean() - t.mean()) ** 2)
        assert metrics.concordance[name] == pytest.approx(concordance, abs=0.01)  # torchmetrics divides by n - 1
        assert metrics.sign_agreement[name] == pytest.approx((np.sign(p) == np.sign(t)).mean())
    assert metrics.n == 200


def test_the_loss_is_the_sum_of_root_mean_squares():
    affect, targets = torch.rand(3, 5, 2), torch.rand(5, 2)
    expected = sum(((affect[b, :, d] - targets[:, d]) ** 2).mean().sqrt() for b in range(3) for d in range(2))
    assert affect_loss(affect, targets).item() == pytest.approx(expected.item(), rel=1e-5)
    exact = targets.expand(2, 5, 2).clone().requires_grad_()
    affect_loss(exact, targets).backward()
    assert exact.grad.isfinite().all(), "no error gives no gradient, not an infinite one"


def test_faces_without_valence_are_left_out(tmp_path):
    folder = tmp_path / "Validation" / "0"
    folder.mkdir(parents=True)
    for name in ("0000000_1_500_-250", "0000001_2_-2000_-2000", "0000002_3_-1000_1000"):
        cv2.imwrite(str(folder / f"{name}.jpg"), np.zeros((8, 8, 3), np.uint8))
    known = AffectNet(tmp_path, "validation").with_affect()
    np.testing.assert_allclose(known.labels, [[0.5, -0.25], [-1, 1]])
    assert known.targets(np.array([1])).dtype == torch.float32 and "valence" in known.name


def test_a_frozen_batchnorm_keeps_its_statistics():
    model = ESR(1, image_size=60)
    model.add_affect()
    model.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()(torch.rand(2, 3, 60, 60))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.train().requires_grad_(True).train().base.bn1.training


def test_the_script_trains_the_heads_alone(tmp_path, capsys):
    data = write_affectnet(tmp_path / "affectnet", images_per_class=3, validation_per_class=2)
    experiment = esr_affectnet.Experiment(
        base_path_to_dataset=data,
        base_path_experiment=tmp_path,
        name_experiment="run",
        image_size=60,
        batch_size=8,
        num_branches_trained_network=1,
        max_training_epoch=1,
        device="cpu",
        precision="float32",
    )
    esr_affectnet.main(experiment)
    emotions = read_tensors(tmp_path / "run" / "best.pt")["state_dict"]
    esr_affectnet.main(replace(experiment, name_experiment="affect", affect=True, max_affect_epoch=2))
    out = capsys.readouterr().out
    assert "valence: RMSE" in out and out.splitlines()[-1].startswith("result: ")
    model = load_model(tmp_path / "affect" / "best.pt")
    assert model.arguments["affect"] and model(torch.rand(2, 3, 60, 60)).affect.shape == (1, 2, 2)
    state = model.state_dict()
    added = state.keys() - emotions.keys()
    assert added == {"branches.0.fc_dimensional.weight", "branches.0.fc_dimensional.bias"}
    assert all(torch.equal(state[key], value) for key, value in emotions.items()), "all else is as it was"
    metrics = json.loads((tmp_path / "affect" / "affect_metrics.json").read_text())
    assert metrics["n"] == 16 and 0 < metrics["rmse"]["valence"] < 2
