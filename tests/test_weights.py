"""Every checkpoint format, exact keys, and files that must not be trusted."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from models import CheckpointError, load_model, load_pretrained
from models.classifier import EMOTIONS
from models.esr import ESR
from models.files import read_tensors
from models.manet import MANet
from models.statedict import find_state, load_state
from models.weights import BASE_FILE, BRANCH_FILE, SETTINGS_FILE, describe_model, halve
from utils.ucheckpoint import Run

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)


class RecorderMeter:
    """Like the object that MA-Net's released files carry beside their tensors."""

    def __init__(self):
        self.curve = [1, 2, 3]


class Settings(dict):
    """Like the dicts of configuration libraries."""


class Malicious:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def manet_state(model: MANet) -> dict[str, torch.Tensor]:
    return {f"module.{key}": value for key, value in model.state_dict().items() if not key.startswith("input_")}


def write_esr_folder(folder, model: ESR) -> None:
    folder.mkdir()
    torch.save(model.base.state_dict(), folder / BASE_FILE)
    for number, branch in enumerate(model.branches, start=1):
        torch.save(branch.state_dict(), folder / BRANCH_FILE.format(number))


@pytest.mark.parametrize("model", [ESR(2, affect=True, image_size=64), MANet(8, beta=0.3, image_size=64)])
def test_own_checkpoint(tmp_path, model):
    torch.save(describe_model(model), tmp_path / "best.pt")
    loaded = load_model(tmp_path / "best.pt")
    assert (loaded.labels, loaded.image_size, loaded.architecture) == (EMOTIONS, 64, type(model).__name__)
    assert not loaded.training
    assert torch.equal(loaded.predict(IMAGES), model.predict(IMAGES))


@pytest.mark.parametrize(("classes", "attention", "normalization"), [(8, False, "bgr"), (7, True, "imagenet")])
def test_published_esr_folder(tmp_path, classes, attention, normalization):
    model = ESR(3, classes, attention=attention, affect=True, image_size=96, normalization=normalization)
    write_esr_folder(tmp_path / "esr", model)
    loaded = load_model(tmp_path / "esr")
    assert len(loaded.branches) == 3 and len(loaded.labels) == classes
    assert torch.equal(loaded.predict(IMAGES), model.predict(IMAGES))
    (tmp_path / "esr" / BRANCH_FILE.format(2)).unlink()
    with pytest.raises(CheckpointError, match=r"Net-Branch_2\.pt is missing"):
        load_model(tmp_path / "esr")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("classes", [7, 12_666])
def test_released_manet_with_a_pickled_recorder(tmp_path, zipped, classes):
    model = MANet(classes, normalization="rgb")
    content = {"epoch": 3, "state_dict": manet_state(model), "best_acc": torch.tensor(1.0), "recorder": RecorderMeter()}
    torch.save(content, tmp_path / "manet.pth.tar", _use_new_zipfile_serialization=zipped)
    loaded = load_model(tmp_path / "manet.pth.tar")
    assert len(loaded.labels) == classes
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_malicious_file_executes_nothing(tmp_path, zipped):
    planted = tmp_path / "planted"
    content = {"state_dict": manet_state(MANet(7)), "recorder": Malicious(planted)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    load_model(tmp_path / "a.pth")
    torch.save(Malicious(planted), tmp_path / "b.pth", _use_new_zipfile_serialization=zipped)
    (tmp_path / "c.pth").write_bytes(pickle.dumps(Malicious(planted)))
    for name in ("b.pth", "c.pth"):
        with pytest.raises(CheckpointError, match=name):
            load_model(tmp_path / name)
    assert not planted.exists()
    pickle.loads((tmp_path / "c.pth").read_bytes())
    assert planted.exists(), "the file was harmless: this test showed nothing"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused_by_name(tmp_path, share):
    torch.save(describe_model(ESR(1)), tmp_path / "best.pt")
    data = (tmp_path / "best.pt").read_bytes()
    (tmp_path / "best.pt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"best\.pt .* bytes\) cannot be read"):
        load_model(tmp_path / "best.pt")


def test_keys_must_fit_exactly(tmp_path):
    content = describe_model(ESR(1))
    del content["state_dict"]["base.conv1.weight"]
    content["state_dict"]["surplus"] = torch.zeros(1)
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"1 missing: base\.conv1\.weight; 1 unexpected: surplus"):
        load_model(tmp_path / "a.pt")
    state = manet_state(MANet(7))
    del state["module.layer3_2.0.conv1.weight"]
    torch.save({"state_dict": state}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: layer3_2\.0\.conv1\.weight"):
        load_model(tmp_path / "b.pth")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_model(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="holds no Net-Base"):
        load_model(tmp_path)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt"):
        load_model(tmp_path / "other.pt")


def test_start_weights(tmp_path, capsys):
    torch.save(describe_model(ESR(2, image_size=64)), tmp_path / "esr.pt")
    same = load_pretrained(tmp_path / "esr.pt", EMOTIONS, ESR, 96)
    assert same.training and same.image_size == 96 and capsys.readouterr().out == ""
    seven = load_pretrained(tmp_path / "esr.pt", EMOTIONS[:7], ESR, 96)
    assert seven.labels == EMOTIONS[:7] and seven(IMAGES).logits.shape == (2, 2, 7)
    assert "the head starts afresh" in capsys.readouterr().out
    torch.save(describe_model(seven), tmp_path / "seven.pt")
    assert len(load_model(tmp_path / "seven.pt").labels) == 7
    with pytest.raises(CheckpointError, match="architecture ESR, this experiment trains MANet"):
        load_pretrained(tmp_path / "esr.pt", EMOTIONS, MANet, 224)


def test_averaged_weights_of_a_run_are_those_that_count(tmp_path):
    torch.manual_seed(0)
    model, averaged = ESR(1, image_size=60), ESR(1, image_size=60)
    average = {f"module.{key}": value for key, value in averaged.state_dict().items()} | {"n_averaged": torch.tensor(3)}
    torch.save(describe_model(model) | {"average": average}, tmp_path / "last.pt")
    loaded = load_model(tmp_path / "last.pt").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in averaged.state_dict().items())


def test_half_precision_refuses_what_it_cannot_hold():
    model = ESR(1, image_size=60)
    model.base.bn1.running_var.fill_(1e6)
    with pytest.raises(CheckpointError, match=r"half precision cannot hold the values of base\.bn1\.running_var"):
        halve(describe_model(model))


def test_a_checkpoint_from_before_the_networks_were_corrected_is_refused(tmp_path):
    old = describe_model(ESR(1)) | {"version": 1}
    torch.save(old, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"old\.pt was written by an older version .* train again, or check out"):
        load_model(tmp_path / "old.pt")
    (tmp_path / "run").mkdir()
    torch.save(old | {"random_state": torch.get_rng_state()}, tmp_path / "run" / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt was written by an older version"):
        Run(tmp_path / "run", {})
    torch.save(old | {"version": 99}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match=r"new\.pt has format 99, .* reads format 2: update the project"):
        load_model(tmp_path / "new.pt")


# Whatever the weights are wrapped in


def prefixed(prefix: str):
    return lambda state: {prefix + key: value for key, value in state.items()}


WRAPPED = {
    "module": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "twice parallel": prefixed("module.module."),
    "compiled and parallel": prefixed("module._orig_mod."),
    "Lightning": lambda state: {"state_dict": prefixed("model.")(state), "hyper_parameters": {"lr": 0.1}},
    "another prefix": prefixed("network.esr."),
    "a compiled layer": lambda state: {key.replace("conv1.", "conv1._orig_mod."): v for key, v in state.items()},
    "model_state_dict": lambda state: {"epoch": 1, "model_state_dict": state, "optimizer": {"state": {}}},
    "a key of its own": lambda state: {"weights_of_monday": state, "accuracy": torch.tensor(0.5)},
    "twice": lambda state: {"run": {"epoch": 3, "net": prefixed("module.")(state)}},
    "thrice": lambda state: {"checkpoint": {"generator": {"weights": state}}},
    "a list": lambda state: [{"epoch": 3}, state],
    "an average": lambda state: {"n_averaged": torch.tensor(3)} | prefixed("module.")(state),
    "the average beside it": lambda state: {
        "model_ema": {key: torch.zeros_like(value) for key, value in state.items()},
        "model": state,
    },
    "a pickled object beside it": lambda state: {"config": SimpleNamespace(lr=1), "model": defaultdict(int, state)},
    "a dict of another class": lambda state: {"config": Settings(lr=1), "model": Settings(state)},
    "gradients": lambda state: OrderedDict((k, nn.Parameter(v) if v.ndim == 4 else v) for k, v in state.items()),
}


@pytest.fixture(scope="module")
def esr() -> ESR:
    torch.manual_seed(0)
    return ESR(1, attention=False)


@pytest.fixture
def folder(tmp_path, esr):
    write_esr_folder(tmp_path / "esr", esr)
    return tmp_path / "esr"


def same(loaded: nn.Module, model: nn.Module) -> bool:
    states = loaded.state_dict(), model.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_weights_are_found(folder, esr, wrap):
    for file, part in ((BASE_FILE, esr.base), (BRANCH_FILE.format(1), esr.branches[0])):
        torch.save(wrap(part.state_dict()), folder / file)
    loaded = load_model(folder)
    assert same(loaded.base, esr.base) and same(loaded.branches, esr.branches)


def test_wrapped_weights_of_manet_and_of_this_project(tmp_path, esr):
    model = MANet(7, normalization="rgb")
    state = prefixed("_orig_mod.module.")({k: v for k, v in model.state_dict().items() if not k.startswith("input_")})
    torch.save({"model_state_dict": state, "epoch": 1}, tmp_path / "manet.pth")
    assert same(load_model(tmp_path / "manet.pth"), model)
    content = describe_model(esr)
    torch.save(
        {"checkpoint": content | {"state_dict": prefixed("module._orig_mod.")(content["state_dict"])}},
        tmp_path / "o.pt",
    )
    assert same(load_model(tmp_path / "o.pt"), esr)


def test_state_dicts_that_fit_equally_are_not_guessed_between(tmp_path, esr):
    state = esr.base.state_dict()
    with pytest.raises(CheckpointError, match=r"a\.pt holds 2 state dicts that fit \(student, teacher\)"):
        find_state({"student": state, "teacher": dict(state)}, ("conv1.weight",), tmp_path / "a.pt")
    assert find_state({"student": state, "same": state}, ("conv1.weight",), tmp_path / "a.pt").keys() == state.keys()
    both = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in state.items()}
    with pytest.raises(CheckpointError, match=r"2 state dicts that fit \(state_dict\.student, state_dict\.teacher\)"):
        find_state({"state_dict": both}, ("conv1.weight",), tmp_path / "a.pt")
    averaged = {f"ema_model.{key}": value + 1 for key, value in state.items()}
    averaged |= {f"model.{key}": value for key, value in state.items()}
    found = find_state({"state_dict": averaged}, ("conv1.weight",), tmp_path / "a.pt")
    assert torch.equal(found["conv1.weight"], state["conv1.weight"]), "the network, not its average"
    cycle = {"weights": {}}
    cycle["weights"]["again"] = cycle
    assert find_state(cycle, ("conv1.weight",), tmp_path / "a.pt") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"epoch": 3, "layers": {"a.weight": torch.zeros(2)}},
            r"it holds epoch \(int\), layers \(dict of 1: a\.weight\)",
        ),
        ({"embedding": torch.zeros(2, 3)}, r"it holds embedding \(tensor \(2, 3\)\)"),
        ({}, "it holds nothing"),
        ({("a", 1): 1, 10**5000: 2, "x" * 999: 3, "\x1b[31m": 4}, r"a key of type tuple.*x\.\.\..*'\\x1b"),
        (torch.zeros(3), "a Tensor, no state dict"),
        ([1, 2], r"it holds 0 \(int\), 1 \(int\)"),
    ],
)
def test_where_nothing_fits_the_message_names_what_there_is(tmp_path, content, message):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt holds .*?" + message) as raised:
        load_model(tmp_path / "other.pt")
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (lambda model: model, "holds a whole pickled network (class models.esr.ESR): save its state_dict()"),
        (nn.DataParallel, "holds a whole pickled network (class torch.nn.parallel.data_parallel.DataParallel)"),
        (
            lambda model: {"epoch": 1, "model": model},
            "holds under 'model' a whole pickled network (class models.esr.ESR)",
        ),
        (AveragedModel, "holds a whole pickled network (class torch.optim.swa_utils.AveragedModel)"),
        (lambda _: RecorderMeter(), "RecorderMeter): save its state_dict()"),
        (lambda _: RecorderMeter, "RecorderMeter): save its state_dict()"),
    ],
)
def test_a_whole_pickled_network_is_named(tmp_path, esr, wrap, named, zipped):
    torch.save(wrap(esr), tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as raised:
        load_model(tmp_path / "whole.pt")
    message = str(raised.value)
    assert named in message and "whole.pt" in message
    assert not any(word in message for word in ("Placeholder", "damaged", "Copy it again"))


def test_a_file_cannot_change_what_it_is_read_with(tmp_path):
    """BUILD with a pair sets attributes, in plain pickle also those of functions and classes."""
    head = io.BytesIO()
    torch.save({}, head, _use_new_zipfile_serialization=False)
    attack = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x08\x00\x00\x00injectedK\x01s\x86b."
    replaced = head.getvalue().replace(b"\x80\x02}q\x00.", attack, 1)
    assert attack in replaced
    (tmp_path / "a.pt").write_bytes(replaced)
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        load_model(tmp_path / "a.pt")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "injected")


# Files that are something else

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 12345\n"


def zip_of(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tar_of(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def saved_array(function, *arguments) -> bytes:
    file = io.BytesIO()
    function(file, *arguments)
    return file.getvalue()


OTHER_FILES = {
    "git-lfs": (LFS, "is a git-lfs pointer, not the file itself: run `git lfs pull`"),
    "git-lfs of Windows": (b"\xef\xbb\xbf" + LFS.replace(b"\n", b"\r\n"), "is a git-lfs pointer"),
    "git-annex": (b"/annex/objects/SHA256E-s1234--abcd.pt\n", "is a git-annex pointer"),
    "web page": (b"\n<!DOCTYPE html><html><title>Google Drive</title>", "is a web page"),
    "denied": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
    "answer of a server": (b'{"message": "Not Found"}', 'is a text file that begins \'{"message": "Not Found"}\''),
    "empty": (b"", "(0 bytes) cannot be read: it is empty"),
    "zeros": (bytes(5000), "begins with zeros only"),
    "safetensors": ((2).to_bytes(8, "little") + b"{}", "is a safetensors file"),
    "ONNX": (b"\x08\x0a\x12\x07pytorch\x1a\x052.1.0:\x80\x02\x00\x00", "is an ONNX file"),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(64), "is an HDF5 file, as Keras writes"),
    "new Keras": (zip_of(**{"config.json": b"{}", "model.weights.h5": b"x"}), "is a network of Keras"),
    "NumPy": (saved_array(np.save, np.zeros(3)), "is a NumPy array"),
    "NumPy archive": (saved_array(np.savez, np.zeros(3)), "is a NumPy archive of arr_0.npy"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "is a gzip archive: unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(99), "is a 7z archive: unpack it"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(99), "is a rar archive: unpack it"),
    "xz": (b"\xfd7zXZ\x00" + bytes(99), "is an xz archive: unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(99), "is a zstd archive: unpack it"),
    "tar": (tar_of(BASE_FILE), "is a tar archive: unpack it"),
    "zip": (
        zip_of(**{"esr/" + BASE_FILE: b"x", "esr/" + BRANCH_FILE.format(1): b"y"}),
        f"is a zip of esr/{BASE_FILE}, ",
    ),
    "empty zip": (zip_of(), "is a zip of nothing"),
    "pickle": (
        pickle.dumps({"conv1.weight": list(range(99))}),
        "begins like a pickle, but not as torch.save writes",
    ),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a picture"),
}


@pytest.mark.parametrize(("data", "message"), OTHER_FILES.values(), ids=OTHER_FILES)
def test_a_file_that_is_something_else_is_called_by_its_name(tmp_path, folder, data, message):
    (tmp_path / "weights.pt").write_bytes(data)
    (folder / BRANCH_FILE.format(1)).write_bytes(data)
    for place, name in ((tmp_path / "weights.pt", "weights.pt"), (folder, BRANCH_FILE.format(1))):
        with pytest.raises(CheckpointError) as raised:
            load_model(place)
        assert f"{name} {message}" in str(raised.value)


def test_programs_and_files_of_tensorflow_are_named(tmp_path, esr):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match=r"script\.pt is a program of TorchScript"):
        load_model(tmp_path / "script.pt")
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "exported.pt2")
    with pytest.raises(CheckpointError, match=r"exported\.pt2 is a program of torch\.export"):
        load_model(tmp_path / "exported.pt2")
    for name in ("model.ckpt.data-00000-of-00001", "frozen.pb", "model.ckpt.index"):
        (tmp_path / name).write_bytes(bytes(range(1, 200)))
        with pytest.raises(CheckpointError, match="is a part of a TensorFlow network"):
            load_model(tmp_path / name)
    torch.save(describe_model(esr), tmp_path / "best.safetensors")  # the content counts, not the name
    assert same(load_model(tmp_path / "best.safetensors"), esr)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "nothing", [], [])), tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=r"a\.bin is an ONNX file"):
        load_model(tmp_path / "a.bin")


def test_a_checkpoint_that_was_packed_again_is_read_or_named(tmp_path, esr):
    torch.save(describe_model(esr), tmp_path / "best.pt")
    with zipfile.ZipFile(tmp_path / "best.pt") as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    (tmp_path / "same.pt").write_bytes(zip_of(**members))
    with zipfile.ZipFile(tmp_path / "compressed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert same(load_model(tmp_path / "same.pt"), esr) and same(load_model(tmp_path / "compressed.pt"), esr)
    for change in (lambda name: f"more/{name}", lambda name: name.partition("/")[2]):
        (tmp_path / "other.pt").write_bytes(zip_of(**{change(name): data for name, data in members.items()}))
        with pytest.raises(CheckpointError, match=r"other\.pt is a checkpoint that was unpacked and packed again"):
            load_model(tmp_path / "other.pt")


def test_paths_that_are_none(tmp_path):
    with pytest.raises(CheckpointError, match=r"\.\.\. cannot be opened: "):
        load_model(tmp_path / ("x" * 5000))
    with pytest.raises(FileNotFoundError, match="addresses are not read: download the file first"):
        load_model("https://example.org/best.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_model(tmp_path / "a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe with a name")
def test_a_pipe_does_not_make_it_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(CheckpointError, match=r"pipe\.pt is no regular file"):
        load_model(tmp_path / "pipe.pt")


def test_folders_are_told_apart(tmp_path, folder):
    with pytest.raises(CheckpointError, match=r"the folder .*esr in it does: name that one"):
        load_model(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").touch()
    with pytest.raises(CheckpointError, match=r"name last\.pt in it"):
        load_model(tmp_path / "run")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "data.pkl").touch()
    with pytest.raises(CheckpointError, match="some program has unpacked"):
        load_model(tmp_path / "best")
    (folder / BRANCH_FILE.format(1)).unlink()
    (folder / BRANCH_FILE.format(1)).mkdir()
    with pytest.raises(CheckpointError, match=r"Net-Branch_1\.pt is a folder"):
        load_model(folder)


@pytest.mark.parametrize(
    "name",
    ["Net-Branch_1 (1).pt", "Net-Branch_2.pth", "net-branch_2.pt", "Net-Branch_02.pt", "Net-Branch_0.pt"]
    + ["Copy of Net-Branch_1.pt", "Net-Base-Shared_Representations (1).pt", "Net-Branch_2.pt.part"],
)
def test_odd_files_in_a_folder_are_named(folder, name):
    (folder / f"._{BASE_FILE}").touch()  # of macOS
    (folder / "Net-README.txt").touch()
    assert len(load_model(folder).branches) == 1
    (folder / name).touch()
    with pytest.raises(CheckpointError) as raised:
        load_model(folder)
    assert f"holds {name}, which is no part of an ensemble" in str(raised.value)


def test_one_file_of_an_esr_names_its_folder(tmp_path, folder, esr):
    for file in (BASE_FILE, BRANCH_FILE.format(1)):
        with pytest.raises(CheckpointError, match=r"\.pt is one part of an ESR: name its folder"):
            load_model(folder / file)
    torch.save({"net": esr.state_dict()}, tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"bare state dict of an ESR, without image size.* name its folder"):
        load_model(tmp_path / "whole.pt")
    torch.save(esr.branches[0].state_dict(), folder / BASE_FILE)
    with pytest.raises(CheckpointError, match=rf"{BASE_FILE} does not fit Base"):
        load_model(folder)
    torch.save(esr.base.state_dict(), folder / BRANCH_FILE.format(1))
    with pytest.raises(CheckpointError, match=r"Net-Branch_1\.pt holds no state dict of a part of an ESR"):
        load_model(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LFS, "is a git-lfs pointer"),
        (b"[1]", "text file|no JSON"),
        (b'{"image_size": ', "is no JSON"),
        (b"\xff\xfe{", r"no JSON|text file"),
        (b'{"image_size": "96"}', "says image_size 96"),
        (b'{"image_size": 1000000000}', "at most 4096 pixels"),
        (b'{"image_size": 20}', "at least 60 pixels; export the folder again"),
        (b'{"normalization": "grey"}', "normalization is 'grey'"),
        (b"{" + b'"a":{' * 5000, "is no JSON"),
    ],
)
def test_settings_beside_a_folder_are_checked(folder, settings, message):
    (folder / SETTINGS_FILE).write_bytes(settings)
    with pytest.raises(CheckpointError, match=rf"{SETTINGS_FILE}.*({message})"):
        load_model(folder)
    (folder / SETTINGS_FILE).write_text(json.dumps({"image_size": 64, "normalization": "rgb"}), encoding="utf-8")
    assert load_model(folder).image_size == 64


# Weights that are none


def test_weights_of_other_real_types_and_layouts_of_memory_are_read(tmp_path, esr):
    content = describe_model(esr)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        state = {
            k: v.to(dtype) if v.is_floating_point() else v.to(torch.int32) for k, v in content["state_dict"].items()
        }
        state["base.conv1.weight"] = state["base.conv1.weight"].to(memory_format=torch.channels_last)
        state["branches.0.conv1.weight"] = state["branches.0.conv1.weight"].transpose(2, 3).contiguous().transpose(2, 3)
        torch.save(content | {"state_dict": state}, tmp_path / "best.pt")
        loaded = load_model(tmp_path / "best.pt").state_dict()
        for key, value in content["state_dict"].items():
            assert loaded[key].dtype == value.dtype
            torch.testing.assert_close(loaded[key], state[key].to(value.dtype), rtol=0, atol=0)


WRONG_WEIGHTS = {
    "integers": (lambda v: v.to(torch.int8), r"1 of another type: base\.conv1\.weight \(int8: quantised"),
    "complex": (lambda v: v.to(torch.complex64), r"base\.conv1\.weight \(complex64\)"),
    "boolean": (lambda v: v > 0, r"base\.conv1\.weight \(bool\)"),
    "sparse": (lambda v: v.to_sparse(), r"base\.conv1\.weight \(sparse_coo\)"),
    "quantised": (lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8), r"base\.conv1\.weight \(qint8"),
    "without data": (lambda v: v.to("meta"), r"base\.conv1\.weight \(without data\)"),
    "NaN": (lambda v: v * float("nan"), r"1 with values that are not finite: base\.conv1\.weight"),
    "infinity": (lambda v: v.double() * 1e300, "not finite"),
    "another shape": (lambda v: v[..., :3], r"base\.conv1\.weight \(64, 3, 5, 3\) instead of \(64, 3, 5, 5\)"),
    "announced only": (lambda v: torch.zeros(1).expand(10**6, 10**6), "1 of another shape"),
    "no tensor": (lambda v: "lost", "its state_dict is no dict of tensors"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("change", "message"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_weights_that_are_none_are_refused_by_name(tmp_path, esr, change, message):
    content = describe_model(esr)
    content["state_dict"] |= {"base.conv1.weight": change(content["state_dict"]["base.conv1.weight"])}
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"best\.pt.*" + message):
        load_model(tmp_path / "best.pt")


def test_impossible_statistics_and_normalisation_are_refused(tmp_path, esr):
    for key, value, message in (
        ("base.bn1.running_var", torch.full((64,), -1.0), r"negative, as no variance is: base\.bn1\.running_var"),
        ("input_channels", torch.tensor([0, 1, 7]), "no order or scale of colours: input_channels"),
        ("input_std", torch.zeros(3, 1, 1), "no order or scale of colours: input_std"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_state(ESR(1, attention=False), esr.state_dict() | {key: value}, tmp_path / "best.pt")


WRONG_DESCRIPTIONS = {
    "no arguments": (lambda c: c.pop("arguments"), r"does not say how its network is built"),
    "no weights": (lambda c: c.pop("state_dict"), "has no state_dict"),
    "an unknown argument": (lambda c: c["arguments"].update(width=3), "does not take here: width"),
    "text": (lambda c: c["arguments"].update(image_size="96"), r"argument image_size is 96 \(str\); expected int"),
    "a large picture": (lambda c: c["arguments"].update(image_size=10**9), "expected at most 4096 pixels"),
    "many branches": (lambda c: c["arguments"].update(num_branches=10**9), "of 1000000000 branches, .* of 1;"),
    "many classes": (
        lambda c: c["arguments"].update(num_classes=10**12, labels=None),
        "of 1000000000000 classes, .* of 8;",
    ),
    "few labels": (lambda c: c["arguments"].update(labels=["a", "b"]), "of 2 classes, .* of 8;"),
    "labels that differ": (lambda c: c.update(labels=["a"] * 8), "its labels and those of its arguments differ"),
    "labels that are none": (lambda c: c["arguments"].update(labels=[1] * 8), "expected a list of names"),
    "no head": (
        lambda c: c["state_dict"].update({"branches.0.fc.weight": torch.zeros(0, 512)}),
        r"of shape \(0, 512\); expected \(classes, features\) with at least one class",
    ),
    "another architecture": (lambda c: c.update(architecture=["ESR"]), "this release knows ESR, MANet"),
    "version as text": (lambda c: c.update(version="2"), "reads format 2"),
    "version as a tensor": (lambda c: c.update(version=torch.zeros(2)), "reads format 2"),
    "another format": (lambda c: c.update(format="fer"), "its format is fer, not 'diversified-fer'"),
    "average of nothing": (lambda c: c.update(average={"module.x": 3}), "its average is no dict of tensors"),
    "a number as key": (lambda c: c["state_dict"].update({3: torch.zeros(1)}), "its state_dict is no dict of tensors"),
}


@pytest.mark.parametrize(("change", "message"), WRONG_DESCRIPTIONS.values(), ids=WRONG_DESCRIPTIONS)
def test_descriptions_that_contradict_themselves_are_refused(tmp_path, esr, change, message):
    content = describe_model(esr)
    content["arguments"], content["state_dict"] = dict(content["arguments"]), dict(content["state_dict"])
    change(content)
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"best\.pt.*" + message):
        load_model(tmp_path / "best.pt")


def test_a_changed_byte_among_the_weights_is_found_where_there_are_check_sums(tmp_path, esr):
    torch.save(describe_model(esr), tmp_path / "best.pt")
    data = bytearray((tmp_path / "best.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "best.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"best\.pt .*bytes\) cannot be read: .*CRC"):
        load_model(tmp_path / "best.pt")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(describe_model(esr), tmp_path / "without.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(load_model(tmp_path / "without.pt"), esr)


def test_a_name_that_is_no_utf8_is_read(tmp_path, esr):
    path = tmp_path / os.fsdecode(b"\xff\xe9.pt")
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    with path.open("wb") as file:
        torch.save(describe_model(esr), file)
    assert same(load_model(path), esr)
    assert read_tensors(path)["architecture"] == "ESR"


# Devices


def test_devices_that_are_not_there_are_refused_and_those_that_are_named(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # left over from another program; only training shares its work
    assert load_model(folder, device="auto").predict(IMAGES).shape == (2, 8)
    for device in ("gpu", "", "cuda:x", "meta", None, "cuda:99", torch.device("cuda:98")):
        with pytest.raises(ValueError, match=r"device is .*this machine has cpu"):
            load_model(folder, device=device)
    if not torch.cuda.is_available():
        with pytest.raises(
            ValueError, match="device is 'cuda', but PyTorch finds no CUDA GPU here; this machine has cpu"
        ):
            load_model(folder, device="cuda")


def test_what_a_wrapper_holds_beside_the_network_is_left_out(tmp_path):
    model = MANet(num_classes=7, image_size=64)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(7)}}, tmp_path / "lightning.ckpt")
    found = load_model(tmp_path / "lightning.ckpt")
    assert torch.equal(found.fc_1.weight, model.fc_1.weight)
    del state["model.fc_1.bias"]
    torch.save({"state_dict": state}, tmp_path / "lacks.ckpt")
    with pytest.raises(CheckpointError, match=r"1 missing: fc_1\.bias"):
        load_model(tmp_path / "lacks.ckpt")
