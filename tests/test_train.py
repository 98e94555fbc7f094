"""The scripts from end to end with a tiny budget, exact resume after SIGKILL, and what stops a run."""

import csv
import importlib
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import esr_ferplus
import evaluate
from models import CheckpointError, load_model, load_pretrained
from models.classifier import EMOTIONS
from models.esr import ESR
from models.manet import MANet
from models.weights import describe_model, read_tensors
from utils.ucheckpoint import Run
from utils.udata import FERPlus
from utils.udemosets import write_affectnet, write_fer_plus, write_rafdb
from utils.uhardware import choose_hardware
from utils.upipeline import FaceLoader
from utils.utrain import AveragedWeights

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    write_affectnet(root / "affectnet", images_per_class=3, validation_per_class=2)
    write_fer_plus(root / "ferplus", images_per_class=4, validation_per_class=2, test_per_class=2)
    write_rafdb(root / "rafdb", images_per_class=4, test_per_class=2)
    return root


def tiny(name: str, drawn: Path, output: Path, **changes):
    """Return the module of a script and its experiment at a tiny budget."""
    script = importlib.import_module(name)
    network, dataset = name.split("_")
    small = {"num_branches_trained_network": 2, "image_size": 60} if network == "esr" else {"image_size": 48}
    small |= {} if dataset == "affectnet" else {"base_path_to_cache": None}
    experiment = script.Experiment(
        base_path_to_dataset=drawn / dataset,
        base_path_experiment=output,
        name_experiment="tiny",
        batch_size=8,
        max_training_epoch=1,
        max_finetune_epoch=1,
        device="cpu",
        **small,
    )
    return script, replace(experiment, **changes)


SCRIPTS = [f"{network}_{dataset}" for network in ("esr", "manet") for dataset in ("affectnet", "ferplus", "rafdb")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_runs_to_its_result(name, drawn, tmp_path, capsys):
    script, experiment = tiny(name, drawn, tmp_path)
    script.main(experiment)
    folder = tmp_path / "tiny"
    written = {path.name for path in folder.iterdir()}
    names = (
        "best.pt",
        "last.pt",
        "history.csv",
        "metrics.json",
        "variables.json",
        "curves.png",
        "confusion_matrix.png",
    )
    assert written == set(names)
    result = capsys.readouterr().out.splitlines()[-1]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert result.startswith(f"result: {metrics['best']['accuracy']:.2%} accuracy (95 % interval")
    assert f"n = {metrics['best']['n']}" in result and metrics["selected_on"]["name"] in result
    rows = list(csv.DictReader((folder / "history.csv").open()))
    stages = 2 if name.startswith("esr") else 1
    assert [int(row["stage"]) for row in rows] == list(range(1, stages + 1))
    similarities = [float(value) for key, value in rows[-1].items() if key.startswith("similarity_")]
    assert len(similarities) == stages if name.startswith("esr") else len(similarities) == 3
    assert all(0 <= value <= 1 for value in similarities)
    model = load_model(folder / "best.pt")
    assert len(model.labels) == (7 if name.endswith("rafdb") else 8)


def test_a_finished_experiment_is_scored_again_and_not_trained_again(drawn, tmp_path, capsys):
    script, experiment = tiny("esr_ferplus", drawn, tmp_path)
    script.main(experiment)
    first = capsys.readouterr().out.splitlines()
    history = (tmp_path / "tiny" / "history.csv").read_text()
    script.main(experiment)
    second = capsys.readouterr().out.splitlines()
    assert second[0].startswith("continue") and second[-1] == first[-1]
    assert (tmp_path / "tiny" / "history.csv").read_text() == history


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_the_same_names(name):
    names = set(importlib.import_module(name).Experiment.__dataclass_fields__)
    shared = """base_path_to_dataset base_path_experiment name_experiment path_to_pretrained_network max_training_epoch
        max_finetune_epoch validation_interval batch_size diversity diversity_gamma diversity_normalize diversity_weight
        seed device precision demo resume image_size"""
    assert set(shared.split()) <= names
    assert ("num_branches_trained_network" in names) == name.startswith("esr")


def run_and_kill(point: str, data: Path, output: Path) -> int:
    return subprocess.run([sys.executable, HERE / "killed_run.py", point, data, output], capture_output=True).returncode


def test_a_killed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(drawn, tmp_path):
    data = drawn / "ferplus"
    assert run_and_kill("none", data, tmp_path / "whole") == 0
    for point in ("epoch", "save", "stages", "new stage"):
        assert run_and_kill(point, data, tmp_path / "killed") == -signal.SIGKILL, point
    assert run_and_kill("none", data, tmp_path / "killed") == 0
    for name in ("best.pt", "last.pt"):
        whole, killed = (read_tensors(tmp_path / folder / "run" / name) for folder in ("whole", "killed"))
        assert whole["state_dict"].keys() == killed["state_dict"].keys()
        for key, value in whole["state_dict"].items():
            assert torch.equal(value, killed["state_dict"][key]), (name, key)
    timing = {"images_per_second"}
    histories = [
        [{k: v for k, v in row.items() if k not in timing} for row in csv.DictReader(file.open())]
        for file in (tmp_path / "whole/run/history.csv", tmp_path / "killed/run/history.csv")
    ]
    assert histories[0] == histories[1] and len(histories[0]) == 3
    assert not list((tmp_path / "killed").rglob("*.partial"))


def test_fine_tuning_gives_the_trained_branches_back_one_by_one(drawn, tmp_path):
    script, experiment = tiny("esr_affectnet", drawn, tmp_path / "a")
    script.main(experiment)
    start = load_model(tmp_path / "a/tiny/best.pt")
    script, experiment = tiny(
        "esr_rafdb",
        drawn,
        tmp_path / "b",
        path_to_pretrained_network=tmp_path / "a/tiny/best.pt",
        lr_new=0.0,
        lr_trained=0.0,
    )
    script.main(experiment)
    tuned = load_model(tmp_path / "b/tiny/best.pt")
    assert tuned.labels == start.labels[:7]
    for before, after in zip(start.branches, tuned.branches, strict=True):
        assert torch.equal(before.conv1.weight, after.conv1.weight)


@pytest.mark.parametrize("changes", [{"weight_averaging": 0.9}, {"label_rule": "probability"}])
def test_a_run_of_one_cycle_is_continued_exactly(changes, drawn, tmp_path, monkeypatch):
    """Averaged weights, rates that change at every step, and labels drawn at every access."""
    changes |= {
        "schedule": "one_cycle",
        "grow": False,
        "nesterov": True,
        "max_training_epoch": 3,
        "precision": "float32",
    }
    _, experiment = tiny("esr_ferplus", drawn, tmp_path, **changes)
    esr_ferplus.main(replace(experiment, name_experiment="whole"))
    save, epochs = Run.save_last, []

    def interrupted(run, epoch, *arguments):
        save(run, epoch, *arguments)
        epochs.append(epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save_last", interrupted)
        esr_ferplus.main(experiment)
    assert epochs == [0, 1, 2]
    with pytest.raises(CheckpointError, match="its schedule has total steps 12, that of this run 20: neither the len"):
        esr_ferplus.main(replace(experiment, max_training_epoch=5))
    esr_ferplus.main(experiment)
    whole, continued = (read_tensors(tmp_path / name / "last.pt") for name in ("whole", "tiny"))
    for part in ("state_dict", "average"):
        assert whole[part].keys() == continued[part].keys()
        assert all(torch.equal(continued[part][key], value) for key, value in whole[part].items())
    assert bool(whole["average"]) == ("weight_averaging" in changes)


def test_averaged_weights_are_those_of_the_library():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 4)
    ours, library = AveragedWeights(model, 0.9), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(4):
        with torch.no_grad():
            model.weight.normal_()
        ours.update()
        library.update_parameters(model)
    assert ours.average.n_averaged == library.n_averaged == 4
    torch.testing.assert_close(ours.average.module.weight, library.module.weight)
    alone = AveragedWeights(model, 0.0)
    alone.update()
    assert alone.average is None and alone.network(None, None, None) is model


def test_statistics_of_averaged_weights_are_measured_anew(drawn):
    """The oracle is BatchNorm's own mean over all faces, in one batch, of the first convolution's output."""
    torch.manual_seed(0)
    hardware = choose_hardware("cpu", "float32", "off")
    faces = FERPlus(drawn / "ferplus", "train")
    loader = FaceLoader(faces, 60, len(faces), shuffle=True, hardware=hardware)
    model = ESR(1, image_size=60)
    model.base.bn1.running_mean.fill_(99)
    average = AveragedWeights(model, 0.9)
    average.update()
    model = average.network(loader, torch.nn.Identity(), hardware)
    assert model is average.average.module
    [batch] = loader
    with torch.no_grad():
        features = model.base.conv1(model.normalize(batch.images))
    torch.testing.assert_close(model.base.bn1.running_mean, features.mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(model.base.bn1.running_var, features.var(dim=(0, 2, 3)), atol=1e-4, rtol=1e-3)


def test_start_weights_for_emotions(tmp_path):
    """A size that the architecture cannot take is refused; heads that emotions do not reach wait for no gradient."""
    torch.save(describe_model(MANet(8, image_size=64)), tmp_path / "manet.pt")
    with pytest.raises(ValueError, match="image_size is 100; MA-Net cuts its map into four"):
        load_pretrained(tmp_path / "manet.pt", EMOTIONS, MANet, 100)
    torch.save(describe_model(ESR(2, affect=True, image_size=60)), tmp_path / "esr.pt")
    model = load_pretrained(tmp_path / "esr.pt", EMOTIONS[:7], ESR, 64)
    model.add_branch()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"branches.{b}.fc_dimensional.{kind}" for b in range(3) for kind in ("weight", "bias")}


def test_other_variables_a_damaged_checkpoint_and_resume_off_touch_nothing(drawn, tmp_path):
    script, experiment = tiny("manet_ferplus", drawn, tmp_path)
    script.main(experiment)
    last = tmp_path / "tiny" / "last.pt"
    before = last.read_bytes()
    with pytest.raises(CheckpointError, match=r"other variables: batch_size was 8 and is 4\. Nothing was touched"):
        script.main(replace(experiment, batch_size=4))
    with pytest.raises(CheckpointError, match="resume is off; nothing was touched"):
        script.main(replace(experiment, resume=False))
    assert last.read_bytes() == before
    last.write_bytes(before[: len(before) // 2])
    with pytest.raises(CheckpointError, match=r"last\.pt .*cannot be read: it is truncated"):
        script.main(experiment)
    assert last.stat().st_size == len(before) // 2


def test_a_loss_that_is_not_finite_names_the_files(drawn, tmp_path):
    script, experiment = tiny("manet_rafdb", drawn, tmp_path, lr=1e30, max_training_epoch=2)
    with pytest.raises(FloatingPointError, match=r"the loss is not finite \(local nan.*rafdb/train/\d/.*\.jpg"):
        script.main(experiment)


def test_without_a_test_split_the_result_says_valid(drawn, tmp_path, capsys):
    root = tmp_path / "ferplus"
    for kind in ("Images", "Labels"):
        for split in ("Train", "Valid"):
            (root / kind).mkdir(parents=True, exist_ok=True)
            (root / kind / f"FER2013{split}").symlink_to(drawn / "ferplus" / kind / f"FER2013{split}")
    _, experiment = tiny("esr_ferplus", drawn, tmp_path, base_path_to_dataset=root, label_rule="multi_target")
    esr_ferplus.main(replace(experiment, num_branches_trained_network=1))
    out = capsys.readouterr().out
    assert "no Test split in" in out and "on FER+ valid (majority rule)" in out.splitlines()[-1]


def test_evaluate(drawn, tmp_path, capsys):
    script, experiment = tiny("esr_ferplus", drawn, tmp_path)
    script.main(experiment)
    best = tmp_path / "tiny" / "best.pt"
    evaluate.main(evaluate.Evaluation((best,), "ferplus", drawn / "ferplus", device="cpu"))
    folder = tmp_path / "tiny" / "best_on_ferplus_test"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (
        metrics["ensemble (mean)"]["accuracy"]
        == json.loads((best.parent / "metrics.json").read_text())["best"]["accuracy"]
    )
    assert {"ensemble (vote)", "branch 1", "branch 2"} <= metrics.keys()
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert len(rows) == metrics["ensemble (mean)"]["n"] and rows[0]["file"].startswith("Images/FER2013Test/")
    right = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert right == pytest.approx(metrics["ensemble (mean)"]["accuracy"])
    evaluate.main(evaluate.Evaluation((best,), "rafdb", drawn / "rafdb", device="cpu"))  # 7 of the network's 8 classes
    metrics = json.loads((tmp_path / "tiny" / "best_on_rafdb_test" / "metrics.json").read_text())
    assert len(metrics["ensemble (mean)"]["recall"]) == 7


def test_what_hardware_is_asked_for():
    with pytest.raises(ValueError, match="precision is 'float16'; expected 'auto', 'float32' or 'bfloat16'"):
        choose_hardware("cpu", precision="float16")
    with pytest.raises(ValueError, match="compile is 'yes'; expected"):
        choose_hardware("cpu", compile="yes")
    plain = choose_hardware("cpu", "float32", "off", "contiguous")
    assert (plain.precision, plain.memory_format, plain.compile) == (torch.float32, torch.contiguous_format, "off")
    assert plain.is_main and plain.processes == 1
    with pytest.raises(ValueError, match="device is 'gpu'; expected 'auto', 'cpu', 'cuda'"):
        choose_hardware("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA GPU"):
            choose_hardware("cuda")
