"""Thousands of wrong checkpoints: whatever is in a file, it loads as it was written or is refused in plain words.

`FER_FUZZ=20000 python -m pytest tests/test_fuzz_checkpoints.py` tries as many; the suite tries a few hundred. The
networks are the real classes with few channels, so that a try takes milliseconds.
"""

import copy
import io
import os
import random
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import models.esr
import models.manet
from models import CheckpointError, load_model
from models.classifier import ExpressionClassifier
from models.esr import ESR, ConvolutionBlock
from models.manet import MANet
from models.weights import BASE_FILE, BRANCH_FILE, SETTINGS_FILE, describe_model
from utils.ucheckpoint import Run

TRIES = int(os.environ.get("FER_FUZZ", "360"))
ALLOWED = (CheckpointError, ValueError, FileNotFoundError)
PATIENCE = 10.0  # seconds of computing for one file
VARIABLES = {"seed": 1, "path": "somewhere", "rates": [0.1, 0.2]}
PICTURE = torch.zeros(1, 3, 60, 60, dtype=torch.uint8)


class Recorder:
    def __init__(self):
        self.curve = {"train": [1.0, 2.0]}


class SmallBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)


def small_base(self, attention):
    ConvolutionBlock.__init__(self, (3, 4, 4, 4, 4), (5, 3, 3, 3), last_padding=0, attention=attention)


def small_branch(self, num_classes, attention, affect):
    ConvolutionBlock.__init__(self, (4, 4, 4, 4, 4), (3, 3, 3, 3), last_padding=1, attention=attention)
    self.fc = nn.Linear(4, num_classes)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.setattr(models.esr.Base, "__init__", small_base)
    monkeypatch.setattr(models.esr.Branch, "__init__", small_branch)
    monkeypatch.setattr(models.manet, "make_stage", lambda *arguments, **keywords: nn.Sequential(SmallBlock()))


def small_esr(branches: int = 1) -> ESR:
    torch.manual_seed(0)
    return ESR(branches, attention=False, image_size=60)


def training(model: ESR):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    return optimizer, scheduler, AveragedModel(model)


def step(model: ESR, optimizer, scheduler) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler.step()


# What is written, and how it is read


def write_best(folder: Path) -> list[Path]:
    torch.save(describe_model(small_esr()) | {"measured": {"epoch": 1}, "variables": VARIABLES}, folder / "best.pt")
    return [folder / "best.pt"]


def write_last(folder: Path) -> list[Path]:
    model, run = small_esr(), Run(folder, VARIABLES)
    optimizer, scheduler, average = training(model)
    run.begin_stage(1, model, optimizer, scheduler, average)
    step(model, optimizer, scheduler)
    average.update_parameters(model)
    run.history = [{"epoch": 1, "loss": 2.0}]  # without a validation: no best.pt is missed
    run.save_last(1, model, optimizer, scheduler, average)
    return [run.last_path]


def write_folder(folder: Path) -> list[Path]:
    model = small_esr(2)
    torch.save(model.base.state_dict(), folder / BASE_FILE)
    for number, branch in enumerate(model.branches, start=1):
        torch.save(branch.state_dict(), folder / BRANCH_FILE.format(number), _use_new_zipfile_serialization=number == 1)
    (folder / SETTINGS_FILE).write_text('{"image_size": 64, "normalization": "rgb"}', encoding="utf-8")
    return sorted(folder.iterdir())


def write_manet(folder: Path, zipped: bool) -> list[Path]:
    torch.manual_seed(0)
    state = {f"module.{k}": v for k, v in MANet(7).state_dict().items() if not k.startswith("input_")}
    content = {"epoch": 1, "state_dict": state, "best_acc": torch.tensor(0.5), "recorder": Recorder()}
    torch.save(content, folder / "manet.pth", _use_new_zipfile_serialization=zipped)
    return [folder / "manet.pth"]


def read_file(path: Path) -> ExpressionClassifier:
    return load_model(path)


def read_folder(path: Path) -> ExpressionClassifier:
    return load_model(path.parent)


def read_run(path: Path) -> ExpressionClassifier:
    """Continue the run and take a step: what was read must also be fit to be used."""
    run, model = Run(path.parent, VARIABLES), small_esr()
    optimizer, scheduler, average = training(model)
    run.begin_stage(run.stage, model, optimizer, scheduler, average)
    before = copy.deepcopy(model)
    step(model, optimizer, scheduler)
    assert isinstance(run.read_last(), ESR)
    return before


FORMATS = {
    "best": (write_best, read_file),
    "last": (write_last, read_file),
    "run": (write_last, read_run),
    "folder": (write_folder, read_folder),
    "manet-zip": (lambda folder: write_manet(folder, True), read_file),
    "manet-legacy": (lambda folder: write_manet(folder, False), read_file),
}

# What goes wrong


def change_bytes(data: bytes, draw: random.Random) -> bytes:
    """Do to a file what disks, downloads and editors do."""
    start, end = sorted(draw.sample(range(len(data) + 1), 2)) if data else (0, 0)
    length = min(end - start, draw.choice((1, 4, 64, 4096)))
    kind = draw.choice(("flip", "flip", "flip", "cut", "insert", "delete", "zero", "swap", "repeat", "end"))
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if kind == "cut":
        return data[:start]
    if kind == "insert":
        return data[:start] + draw.randbytes(length) + data[start:]
    if kind == "delete":
        return data[:start] + data[start + length :]
    if kind == "zero":
        return data[:start] + bytes(length) + data[start + length :]
    if kind == "swap":
        return data[:start] + data[end : end + length] + data[start + length : end] + data[start : start + length]
    if kind == "repeat":
        return data[:start] + data[start : start + length] * 2 + data[start + length :]
    return data + draw.randbytes(length)


def reseal(data: bytes, draw: random.Random) -> bytes:
    """Change the pickle in a zip, or another member, and write it with check sums that agree."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(file, "w") as sealed:
        members = archive.infolist()
        pickled = [member for member in members if member.filename.endswith("data.pkl")]
        changed = draw.choice(pickled if draw.random() < 0.8 else members)
        for member in members:
            content = archive.read(member)
            sealed.writestr(member, change_bytes(content, draw) if member is changed and content else content)
    return file.getvalue()


def other_value(value, draw: random.Random):
    """Return something else than a value, of another kind or of the same."""
    if isinstance(value, torch.Tensor) and draw.random() < 0.6:
        changes = (
            lambda v: v[None],
            lambda v: v.flatten(),
            lambda v: v[:0] if v.ndim else v[None][:0],
            lambda v: v.double(),
            lambda v: v.to(torch.int8),
            lambda v: v.to(torch.complex64),
            lambda v: v.bool(),
            lambda v: v.bfloat16(),
            lambda v: v.float() * float("nan"),
            lambda v: -v.float() - 1,
            lambda v: v.to("meta"),
            lambda v: v.float().to_sparse() if v.ndim else v,
            lambda v: torch.zeros(1).expand(10**5, 10**5),
            lambda v: v.float().to(torch.float8_e4m3fn),
            lambda v: nn.Parameter(v.float()),
        )
        return draw.choice(changes)(value)
    values = [None, True, 0, -1, 3, 10**12, 10**30, 0.5, float("nan"), "", "text", "\ud800", b"bytes", [], {}, (), [1]]
    values += [{"a": 1}, torch.tensor(1.0), torch.zeros(2, 2), torch.tensor(3), complex(1, 2), {1, 2}, torch.float16]
    return draw.choice(values)


def change_structure(data: bytes, draw: random.Random) -> bytes:
    """Remove, rename or replace an entry somewhere in a checkpoint, or wrap it."""
    content = torch.load(io.BytesIO(data), weights_only=False)
    parents = [content]
    for _ in range(draw.randrange(4)):
        inner = parents[-1].values() if isinstance(parents[-1], dict) else parents[-1]
        inner = [value for value in inner if isinstance(value, dict | list) and value]
        parents += [draw.choice(inner)] if inner else []
    parent = parents[-1]
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    key, kind = draw.choice(keys), draw.choice(("remove", "rename", "replace", "replace", "replace", "add", "cycle"))
    if kind == "remove":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        parent[draw.choice((f"{key}x", f"module.{key}", str(key)[1:], 7, None, (1, "a")))] = parent.pop(key)
    elif kind == "add" and isinstance(parent, dict):
        parent[draw.choice(("surplus", "base.x", "branches.9.fc.weight", 7))] = other_value(None, draw)
    elif kind == "cycle":
        parent[key] = draw.choice(parents)
    else:
        parent[key] = other_value(parent[key], draw)
    if draw.random() < 0.1:
        content = draw.choice(({"state_dict": content}, [content], {"a": {"model": content}}))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, file, _use_new_zipfile_serialization=data.startswith(b"PK"))
    return file.getvalue()


def change(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Return a changed file and how it was changed."""
    is_zip, is_text = data.startswith(b"PK"), data.startswith(b"{")
    kinds = ["bytes"] + ([] if is_text else ["structure", "structure"]) + (["resealed"] if is_zip else [])
    kind = draw.choice(kinds)
    return {"bytes": change_bytes, "structure": change_structure, "resealed": reseal}[kind](data, draw), kind


def judge(read, path: Path, expected: dict[str, torch.Tensor] | None) -> tuple[bool, list[str]]:
    """Read a changed file; returns whether it was refused, and what is wrong about the answer."""
    began, wrong = time.process_time(), []
    try:
        model = read(path)
    except Exception as error:
        message = str(error)
        wrong += [repr(error)] if type(error) not in ALLOWED else []
        wrong += [f"not named: {message}"] if str(path.parent) not in message else []
        wrong += [f"not plain: {message}"] if "Placeholder" in message or not message.isprintable() else []
        wrong += [f"too long: {message[:300]}"] if len(message) > 2000 else []
        refused = True
    else:
        refused, state = False, model.state_dict()
        wrong += [f"{key} is not finite" for key, value in state.items() if not value.isfinite().all()]
        wrong += [f"{key} has changed" for key, value in (expected or {}).items() if not torch.equal(state[key], value)]
        if isinstance(model, ESR) and not model.predict(PICTURE).isfinite().all():
            wrong.append("the probabilities are not finite")
    if time.process_time() - began > PATIENCE:
        wrong.append("too slow")
    return refused, wrong


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("number", "name"), list(enumerate(FORMATS)), ids=FORMATS)
def test_whatever_is_in_a_file_it_is_read_as_written_or_refused(tmp_path, number, name, capsys):
    write, read = FORMATS[name]
    paths = write(tmp_path)
    original = [path.read_bytes() for path in paths]
    expected = read(paths[0]).state_dict()
    refusals, failures = 0, []
    for seed in range(number, TRIES, len(FORMATS)):
        draw = random.Random(seed)
        path, data = draw.choice(list(zip(paths, original, strict=True)))
        changed, kind = change(data, draw)
        path.write_bytes(changed)
        summed = kind == "bytes" and data.startswith(b"PK")  # check sums tell every change of a byte that matters
        refused, wrong = judge(read, path, expected if summed else None)
        refusals += refused
        failures += [f"seed {seed}, {kind}, {path.name}: {answer}" for answer in wrong]
        for extra in set(tmp_path.iterdir()) - set(paths):
            extra.unlink()
        path.write_bytes(data)
        capsys.readouterr()
    assert not failures, f"{len(failures)} wrong answers:\n" + "\n".join(failures[:50])
    assert refusals > TRIES // len(FORMATS) // 3, "most changes must show"
    print(f"{name}: {refusals} of {TRIES // len(FORMATS)} refused, the others read")
