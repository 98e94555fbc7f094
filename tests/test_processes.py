"""Several processes train as one does: the same batches, losses, metrics and files."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models import load_model
from models.esr import ESR
from utils.udemosets import write_fer_plus
from utils.uhardware import choose_hardware

WORKER = Path(__file__).parent / "several_processes.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "ferplus"
    return write_fer_plus(root, images_per_class=5, validation_per_class=2, test_per_class=1)


def start(processes: int, *arguments) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, WORKER, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished


def test_two_processes_compute_what_one_does(data, tmp_path):
    for processes in (1, 2):
        start(processes, "steps", data, tmp_path / f"{processes}.json")
    one, two = (json.loads((tmp_path / f"{processes}.json").read_text()) for processes in (1, 2))
    assert len(one["losses"]) == len(two["losses"]) >= 20
    np.testing.assert_allclose(two["losses"], one["losses"], atol=1e-4)
    assert max(one["moved"]) > 0.01, "the weights have moved"
    np.testing.assert_allclose(two["moved"], one["moved"], rtol=1e-3, atol=1e-6)
    for a, b in zip(one["means"], two["means"], strict=True):
        assert a.keys() == b.keys() and a["train_accuracy"] == pytest.approx(b["train_accuracy"], abs=1e-6)
        assert all(b[name] == pytest.approx(value, abs=1e-4) for name, value in a.items())
    assert one["before"].keys() == two["before"].keys()
    for name, value in one["before"].items():  # of the same weights: what is counted exactly
        counted = any(word in name for word in ("accuracy", "disagreement", "gain"))
        close = pytest.approx(value, abs=1e-6 if name.endswith("loss") else 1e-4, rel=1e-4)  # maps hardly vary yet
        assert two["before"][name] == (value if counted else close), name
    assert one["indices"] == two["indices"]
    np.testing.assert_allclose(two["logits"], one["logits"], atol=1e-3)


def test_a_script_runs_in_two_processes_and_continues_in_one(data, tmp_path):
    finished = start(2, "script", data, tmp_path, 1)
    lines = [line for line in finished.stdout.splitlines() if line.startswith("result: ")]
    assert len(lines) == 1, "one process speaks"
    folder = tmp_path / "run"
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
    assert len(load_model(folder / "best.pt").branches) == 2
    finished = start(1, "script", data, tmp_path, 1)
    assert "continue" in finished.stdout and finished.stdout.splitlines()[-1] == lines[0]
    assert len(list(csv.DictReader((folder / "history.csv").open()))) == 2


def test_compiled_parts_compute_what_the_network_does():
    torch.manual_seed(0)
    model = ESR(2, attention=False, image_size=60)
    images = torch.rand(4, 3, 60, 60)
    plain = model.train()(images).logits
    hardware = choose_hardware("cpu", "float32", "on", "channels_last")
    compiled = hardware.prepare(model, steps=1)
    found = compiled(images.contiguous(memory_format=hardware.memory_format)).logits
    assert all(part._compiled_call_impl is not None for part in model.compiled_parts())
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)
    with hardware.computing():
        assert compiled(images[:3]).logits.shape == (2, 3, 8)
