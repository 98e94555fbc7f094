"""Valence and arousal: the numbers against formulas, and the heads trained alone by the script."""

import csv
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from torchmetrics.functional.regression import concordance_corrcoef

import esr_affectnet
import evaluate
import predict
from models import load_model
from models.classifier import resize
from models.esr import ESR
from models.weights import read_tensors
from utils.uaffect import affect_loss, compute_affect_metrics
from utils.udata import AffectNet, read_image
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
        assert metrics.concordance[name] == pytest.approx(concordance)
        library = concordance_corrcoef(torch.tensor(p), torch.tensor(t)).item()  # divides by n - 1 here and there
        assert metrics.concordance[name] == pytest.approx(library, abs=0.01)
        assert metrics.sign_agreement[name] == pytest.approx((np.sign(p) == np.sign(t)).mean())
        for measure in ("rmse", "concordance", "sign_agreement"):
            low, high = metrics.intervals[measure][name]
            assert low < getattr(metrics, measure)[name] < high
        drawn = bootstrap((p, t), lambda a, b: np.sqrt(((a - b) ** 2).mean()), paired=True, method="percentile", rng=0)
        expected = [drawn.confidence_interval.low, drawn.confidence_interval.high]
        np.testing.assert_allclose(metrics.intervals["rmse"][name], expected, atol=0.003)
    assert metrics.n == 200
    single = compute_affect_metrics(torch.zeros(1, 2), torch.zeros(1, 2))
    assert single.n == 1 and single.intervals["rmse"] == {"valence": None, "arousal": None}


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

    # the same numbers by evaluate.py, on its page too, and the same values by predict.py
    task = evaluate.Evaluation((tmp_path / "affect" / "best.pt",), "affectnet", data, device="cpu", precision="float32")
    evaluate.main(task)
    folder = tmp_path / "affect" / "best_on_affectnet_validation"
    found = json.loads((folder / "metrics.json").read_text())["affect"]
    for measure in ("rmse", "concordance", "sign_agreement"):
        assert found[measure] == pytest.approx(metrics[measure], abs=1e-4, nan_ok=True)
    assert "<h3>Valence and arousal</h3>" in (folder / "report.html").read_text()
    assert "valence: RMSE" in capsys.readouterr().out
    faces = sorted((data / "Validation").rglob("*.jpg"))[:3]
    output = tmp_path / "predictions"
    predict.main(predict.Prediction(tuple(faces), checkpoint=task.checkpoints[0], detector="none", output=output))
    rows = list(csv.DictReader((output / "predictions.csv").open()))
    images = [read_image(path) for path in faces]
    expected = model.mean_affect(model.predict_branches(images))
    np.testing.assert_allclose([[float(row["valence"]), float(row["arousal"])] for row in rows], expected, atol=1e-5)
    with torch.inference_mode():
        affect = model(torch.stack([resize(torch.from_numpy(i).permute(2, 0, 1)[None], 60)[0] for i in images])).affect
    torch.testing.assert_close(expected, affect.mean(dim=0), atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="no heads for valence and arousal; train them with --affect"):
        ESR(1).mean_affect(torch.zeros(1, 2, 8))
