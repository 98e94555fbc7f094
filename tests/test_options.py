"""Values of options are looked at before any work, and what a user can mend ends in one line."""

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import esr_ferplus
from diversified_fer.console import one_line_errors
from evaluate import Evaluation
from models.esr import ESR
from models.manet import MANet
from utils.udata import FERPlus
from utils.udemosets import write_fer_plus
from utils.uhardware import Hardware
from utils.uoptions import check_options
from utils.upipeline import FaceImages, FaceLoader, SharedBatches

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = [f"{network}_{dataset}" for network in ("esr", "manet") for dataset in ("affectnet", "ferplus", "rafdb")]


def network_of(name: str) -> type:
    return ESR if name.startswith("esr") else MANet


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_defaults_of_every_script_are_taken(name):
    check_options(importlib.import_module(name).Experiment(), network_of(name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_interval": 0}, "validation_interval is 0; expected a whole number, 1 or more"),
        ({"image_size": 0}, "image_size is 0; expected a whole number, 1 or more"),
        ({"image_size": 59}, "image_size is 59; ESR's unpadded convolutions need at least 60 pixels"),
        ({"image_size": 100_000}, "image_size is 100000; expected a whole number, 1 or more, at most 4,096"),
        ({"batch_size": -3}, "batch_size is -3; expected a whole number, 1 or more"),
        ({"batch_size": 1}, "batch_size is 1; expected 2 or more"),
        ({"batch_size": True}, "batch_size is True"),
        ({"max_training_images": 0}, "max_training_images is 0"),
        ({"max_training_epoch": 2.5}, r"max_training_epoch is 2\.5; expected a whole number"),
        ({"num_branches_trained_network": 0}, "num_branches_trained_network is 0"),
        ({"lr_new": float("nan")}, "lr_new is nan; expected a number, 0 or more"),
        ({"lr_new": float("inf")}, "lr_new is inf"),
        ({"weight_averaging": 1.0}, r"weight_averaging is 1\.0; expected a number from 0 to less than 1"),
        ({"diversity_gamma": 0.0}, r"diversity_gamma is 0\.0; expected a number above 0, or 'median'"),
        ({"diversity_gamma": "mean"}, "diversity_gamma is 'mean'"),
        ({"diversity": "dett"}, "diversity is 'dett'; expected one of 'det', 'logdet', 'direct', 'none'"),
        ({"zoom": (1.2, 0.8)}, r"zoom is \(1\.2, 0\.8\); expected two numbers"),
        ({"seed": -1}, "seed is -1; expected a whole number, 0 or more"),
        ({"base_path_to_dataset": "data"}, r"base_path_to_dataset is 'data'; expected a path, as in Path\('data'\)"),
        ({"name_experiment": "../mine"}, r"name_experiment is '\.\./mine'; expected the name of a folder"),
        ({"name_experiment": " "}, "name_experiment is ' '"),
    ],
)
def test_a_value_that_cannot_be_worked_with_is_named(changes, message):
    experiment = importlib.import_module("esr_ferplus").Experiment()
    with pytest.raises(ValueError, match=message):
        check_options(replace(experiment, **changes), ESR)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory\nframe #0"),
    ],
)
def test_too_little_memory_is_one_line(error):
    message = r"^script: not enough memory for this batch_size or image_size: lower one of them [^\n]*\)$"
    with pytest.raises(SystemExit, match=message), one_line_errors(command="script"):
        raise error
    with pytest.raises(RuntimeError, match="a mistake"), one_line_errors():
        raise RuntimeError("a mistake")


def test_a_home_folder_is_found_without_a_shell(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    experiment = replace(importlib.import_module("esr_ferplus").Experiment(), base_path_experiment=Path("~/runs"))
    check_options(experiment, ESR)
    assert experiment.base_path_experiment == tmp_path / "runs"


def test_other_scripts_have_the_same_ranges(tmp_path):
    manet = importlib.import_module("manet_rafdb").Experiment()
    with pytest.raises(ValueError, match=r"beta is 1\.5; expected a number from 0 to 1"):
        check_options(replace(manet, beta=1.5), MANet)
    with pytest.raises(ValueError, match="image_size is 100; MA-Net cuts its map into four"):
        check_options(replace(manet, image_size=100), MANet)
    with pytest.raises(ValueError, match="batch_size is 0"):
        check_options(Evaluation((tmp_path,), "rafdb", tmp_path, batch_size=0))
    with pytest.raises(FileNotFoundError, match=r"path_to_pretrained_network is .*absent, and there is nothing at"):
        check_options(replace(manet, path_to_pretrained_network=tmp_path / "absent"), MANet)


@pytest.mark.parametrize("name", ["esr_ferplus", "manet_rafdb", "evaluate"])
def test_a_wrong_value_ends_a_command_in_one_line(name, tmp_path):
    """Nothing is read, trained or written before."""
    arguments = ["--seed", "-1"] if name != "evaluate" else ["a.pt", "--dataset", "rafdb", "--seed", "-1"]
    arguments += ["--base-path-to-dataset", str(tmp_path / "absent")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONWARNDEFAULTENCODING", None)  # libraries have such warnings too
    command = [sys.executable, REPOSITORY / f"{name}.py", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{name}.py: seed is -1; expected a whole number, 0 or more\n"
    assert not list(tmp_path.iterdir())


def test_no_training_batch_holds_a_single_face():
    alone = Hardware(torch.device("cpu"))
    assert SharedBatches(9, 8, True, alone).bounds == [0, 9], "the last face joins the batch before"
    assert SharedBatches(9, 8, False, alone).bounds == [0, 8, 9], "to be scored it may stay alone"
    assert SharedBatches(10, 8, True, alone).bounds == [0, 8, 10]
    two = Hardware(torch.device("cpu"), processes=2)
    assert SharedBatches(9, 8, True, two).bounds == [0, 9]
    with pytest.raises(ValueError, match="1 faces cannot be trained on"):
        SharedBatches(1, 8, True, alone)
    for faces in range(2, 40):
        for size in range(2, 12):
            bounds = SharedBatches(faces, size, True, alone).bounds
            assert min(b - a for a, b in pairwise(bounds)) >= 2 and bounds[-1] == faces


def test_a_cache_that_cannot_be_written_names_the_option(tmp_path):
    faces = FERPlus(write_fer_plus(tmp_path / "faces", 2, 1, 1), "train")
    (tmp_path / "data").write_text("x", "utf-8")
    with pytest.raises(
        OSError, match=r"cannot be kept in .*data/cache .*: name another folder with --base-path-to-cache"
    ):
        FaceLoader(faces, 48, cache_folder=tmp_path / "data" / "cache")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system does not reserve space on disk")
def test_a_disk_that_is_full_is_an_error_before_pictures_are_written(tmp_path, monkeypatch):
    faces = FERPlus(write_fer_plus(tmp_path / "faces", 2, 1, 1), "train")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"GiB\) cannot be kept in .*cache \(No space left on device\)"):
        FaceImages(faces, 48, cache_folder=tmp_path / "cache")
    assert not np.any([path.suffix == ".npy" for path in (tmp_path / "cache").iterdir()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr_new": np.float64(0.05)}, r"lr_new is .*expected a plain Python value"),
        ({"zoom": (np.float64(1.0), 1.2)}, r"zoom is .*expected a plain Python value"),
        ({"zoom": 1.25}, r"zoom is 1\.25; expected tuple\[float, float\]"),
        ({"zoom": (1.0,)}, r"zoom is \(1\.0,\); expected tuple"),
        ({"seed": None}, "seed is None; expected int"),
        ({"batch_size": None}, "batch_size is None; expected int"),
        ({"name_experiment": 7}, "name_experiment is 7; expected str"),
        ({"nesterov": "False"}, "nesterov is 'False'; expected bool"),
        ({"base_path_to_cache": "x"}, r"base_path_to_cache is 'x'; expected a path, as in Path\('x'\)"),
    ],
)
def test_a_value_of_another_kind_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check_options(replace(esr_ferplus.Experiment(), **changes))
