"""Networks taken elsewhere: ONNX Runtime gives what PyTorch gives, the folder format loads back bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from models import CheckpointError, load_model
from models.classifier import EMOTIONS
from models.esr import ESR
from models.export import Export, Exportable, ExportError, export_esr_folder, export_half, export_onnx, main
from models.manet import MANet
from models.weights import BASE_FILE, BRANCH_FILE, SETTINGS_FILE, describe_model


def acquainted(network: torch.nn.Module, size: int) -> torch.nn.Module:
    """Give BatchNorms statistics and heads weights that make the answers differ from picture to picture."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(8, 3, size, size))
    return network.eval()


NETWORKS = {
    "ESR-1": lambda: (ESR(1, image_size=64, attention=False), 64),
    "ESR-2": lambda: (ESR(2, image_size=64, affect=True, normalization="bgr"), 64),
    "ESR-3": lambda: (ESR(3, image_size=64), 64),
    "MA-Net": lambda: (MANet(7, image_size=64), 64),
}


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(ExportError, match=r"taken cannot be made a folder \(File exists\); name another"):
        main(Export(Path("checkpoint/ferplus_small.pt"), half=tmp_path / "taken" / "a.pt"))


@pytest.mark.parametrize(
    ("name", "input_type"),
    [("ESR-1", "uint8"), ("ESR-2", "float32"), ("ESR-3", "uint8"), ("MA-Net", "uint8"), ("ESR-1", "float32")],
)
def test_onnx_runtime_gives_what_pytorch_gives(name, input_type, tmp_path):
    model, size = NETWORKS[name]()
    acquainted(model, size)
    path = tmp_path / "face.onnx"
    difference = export_onnx(model, path, input_type)
    assert difference < 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for N in (1, 3, 7):  # other numbers of faces than the export was made with
        pictures = np.random.default_rng(N).integers(0, 256, (N, 3, size, size), dtype=np.uint8)
        given = pictures if input_type == "uint8" else (pictures / 255).astype(np.float32)
        probabilities, logits, *affect = session.run(None, {"images": given})
        np.testing.assert_allclose(probabilities, model.predict(torch.from_numpy(pictures)), atol=1e-4)
        branches = model.predict_branches(torch.from_numpy(pictures))
        np.testing.assert_allclose(logits, branches, atol=1e-4 * max(1, branches.abs().max().item()))
        assert probabilities.shape == (N, len(model.labels)) and probabilities.std() > 0
        if affect:
            with torch.inference_mode():
                expected = model(torch.from_numpy(pictures)).affect.mean(dim=0)
            np.testing.assert_allclose(affect[0], expected, atol=1e-4)
    found = session.get_modelmeta().custom_metadata_map
    assert json.loads(found["labels"]) == list(model.labels) and found["image_size"] == str(size)
    assert [file.name for file in tmp_path.iterdir()] == ["face.onnx"]


def test_an_export_that_differs_leaves_no_file(tmp_path, monkeypatch):
    forward = Exportable.forward
    monkeypatch.setattr(
        Exportable, "forward", lambda self, images: forward(self, images) if torch.compiler.is_exporting() else
        tuple(result + 0.01 for result in forward(self, images)),
    )  # fmt: skip
    with pytest.raises(ExportError, match=r"differ by .*face\.onnx was not written"):
        export_onnx(ESR(1, image_size=64), tmp_path / "face.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("normalization", ["bgr", "imagenet"])
@pytest.mark.parametrize("branches", [1, 2, 9])
def test_the_folder_loads_back_bit_for_bit(branches, normalization, tmp_path):
    size = 96 if branches > 1 else 64
    model = acquainted(ESR(branches, normalization=normalization, image_size=size), size)
    code = export_esr_folder(model, tmp_path / "esr")
    names = {path.name for path in (tmp_path / "esr").iterdir()}
    assert names == {BASE_FILE, SETTINGS_FILE, "Net-README.txt", *(BRANCH_FILE.format(b + 1) for b in range(branches))}
    scope = {"load_model": load_model}
    exec(code, scope)  # the line that the user is told to paste
    loaded = scope["model"]
    assert loaded.image_size == size and loaded.arguments == model.arguments
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    pictures = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    assert torch.equal(loaded.predict(pictures), model.predict(pictures))
    # as another program reads it: plain state dicts
    state = torch.load(tmp_path / "esr" / BRANCH_FILE.format(1), weights_only=True)
    assert state["fc.weight"].shape == (8, 512) and "cbam4.ChannelGate.mlp.1.weight" in state


def test_what_the_folder_format_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ExportError, match="this network is MANet"):
        export_esr_folder(MANet(7), tmp_path / "esr")
    with pytest.raises(ExportError, match="the classes are calm, cross"):
        export_esr_folder(ESR(1, labels=("calm", "cross")), tmp_path / "esr")
    export_esr_folder(ESR(3), tmp_path / "esr")
    before = {path.name: path.read_bytes() for path in (tmp_path / "esr").iterdir()}
    with pytest.raises(ExportError, match=r"holds Net-Branch_2\.pt, Net-Branch_3\.pt of another ensemble"):
        export_esr_folder(ESR(1), tmp_path / "esr")
    assert {path.name: path.read_bytes() for path in (tmp_path / "esr").iterdir()} == before


def test_half_precision_is_half_as_large_and_answers_alike(tmp_path):
    model = acquainted(ESR(2, image_size=64), 64)
    torch.save(describe_model(model) | {"measured": {"epoch": 3}, "variables": {"seed": 5}}, tmp_path / "best.pt")
    export_half(tmp_path / "best.pt", tmp_path / "half.pt")
    sizes = [(tmp_path / name).stat().st_size for name in ("best.pt", "half.pt")]
    assert 0.48 < sizes[1] / sizes[0] < 0.53
    loaded = load_model(tmp_path / "half.pt")
    assert next(loaded.parameters()).dtype == torch.float32 and loaded.labels == EMOTIONS
    pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(loaded.predict(pictures), model.predict(pictures), atol=2e-3, rtol=0)
    assert torch.equal(loaded.input_mean, model.input_mean)
    with pytest.raises(ExportError, match="cannot be the smaller checkpoint"):
        export_half(tmp_path / "best.pt", tmp_path / "best.pt")
    export_esr_folder(model, tmp_path / "esr")
    with pytest.raises(ExportError, match="published weights"):
        export_half(tmp_path / "esr", tmp_path / "other.pt")


def test_the_command(tmp_path, capsys):
    torch.save(describe_model(acquainted(ESR(2, image_size=64), 64)), tmp_path / "best.pt")
    main(Export(tmp_path / "best.pt", esr_folder=tmp_path / "esr", half=tmp_path / "half.pt"))
    said = capsys.readouterr().out
    assert "base and 2 branches, equal bit for bit" in said and "half precision" in said
    with pytest.raises(ExportError, match="nothing to write"):
        main(Export(tmp_path / "best.pt"))
    with pytest.raises(ExportError, match=r"face\.bin cannot be the ONNX file"):
        main(Export(tmp_path / "best.pt", onnx=tmp_path / "face.bin"))
    with pytest.raises(CheckpointError, match="truncated"):
        (tmp_path / "cut.pt").write_bytes((tmp_path / "best.pt").read_bytes()[:1000])
        main(Export(tmp_path / "cut.pt", half=tmp_path / "other.pt"))
    call = [sys.executable, "-m", "models.export", str(tmp_path / "nowhere.pt"), "--half", str(tmp_path / "x.pt")]
    done = subprocess.run(call, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("models.export: no checkpoint at")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "x.pt").exists()
