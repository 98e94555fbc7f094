"""Every checkpoint format, exact keys, and files that must not be trusted."""

import os
import pickle

import pytest
import torch

from models import CheckpointError, load_model, load_pretrained
from models.classifier import EMOTIONS
from models.esr import ESR
from models.manet import MANet
from models.weights import BASE_FILE, BRANCH_FILE, describe_model, halve
from utils.ucheckpoint import Run

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)


class RecorderMeter:
    """Like the object that MA-Net's released files carry beside their tensors."""

    def __init__(self):
        self.curve = [1, 2, 3]


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
