"""Folders for model hubs: they load back bit for bit, say what they are, and damaged or foreign ones say so."""

import json
import struct

import pytest
import torch
from safetensors import safe_open

from models import CheckpointError, load_model
from models.esr import ESR
from models.export import Export, ExportError, export_esr_folder, export_hub, main
from models.manet import MANet
from models.weights import SETTINGS_FILE, describe_model


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = ESR(2, image_size=64, affect=True, normalization="bgr")
    path = tmp_path / "run" / "best.pt"
    path.parent.mkdir()
    found = {"stage": 2, "epoch": 3, "num_epochs": 4, "validation_accuracy": 0.5}
    torch.save(describe_model(model) | {"measured": found, "variables": {"seed": 1, "device": "cpu"}}, path)
    data = {"source": "FER+", "split": "valid", "name": 'FER+ valid: "majority" rule'}
    content = {"data": data, "selected_on": data, "found": found, "best": {"accuracy": 0.75, "macro_f1": 0.5, "n": 40}}
    (path.parent / "metrics.json").write_text(json.dumps(content))
    return path


@pytest.fixture
def folder(checkpoint, tmp_path):
    export_hub(checkpoint, tmp_path / "hub", "mit")
    return tmp_path / "hub"


def test_a_folder_loads_back_bit_for_bit(checkpoint, folder):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    first, second = load_model(checkpoint), load_model(folder)
    assert second.labels == first.labels and second.image_size == 64 and not second.training
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    faces = torch.rand(3, 3, 64, 64)
    assert torch.equal(first.predict(faces), second.predict(faces))
    manet = MANet(7, image_size=64).eval()
    torch.save(describe_model(manet), checkpoint.with_name("manet.pt"))
    export_hub(checkpoint.with_name("manet.pt"), folder)
    assert torch.equal(load_model(folder).predict(faces), manet.predict(faces))


def test_what_hubs_look_for(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["ESR"] and config["id2label"]["1"] == "Happiness"
    assert config["label2id"]["Contempt"] == 7 and config["temperature"] == 1.0
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"} and "branches.1.fc.weight" in file.keys()  # noqa: SIM118
    text = (folder / "README.md").read_text()
    yaml = pytest.importorskip("yaml")
    _, front, page = text.split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["license"] == "mit" and card["library_name"] == "diversified-fer"
    assert card["pipeline_tag"] == "image-classification" and card["datasets"] == ["FER+"]
    assert card["metrics"] == ["accuracy", "f1"]
    result = card["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == 'FER+ valid: "majority" rule' and result["dataset"]["split"] == "valid"
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("accuracy", 0.75), ("f1", 0.5)]
    assert "75.0 %" in page and "64 x 64" in page


def test_the_temperature_travels(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"temperature": 1.5}))
    assert load_model(folder).temperature == 1.5
    for wrong in (0, -1, "hot", None, True):
        (folder / "config.json").write_text(json.dumps(config | {"temperature": wrong}))
        with pytest.raises(CheckpointError, match="temperature is"):
            load_model(folder)


def test_a_page_beside_the_checkpoint_is_taken_over(checkpoint, tmp_path, capsys):
    checkpoint.with_suffix(".md").write_text("Trained on drawings.\n")
    main(Export(checkpoint, hub=tmp_path / "out", datasets="FER2013, FER+"))
    said = capsys.readouterr().out
    assert "config.json, model.safetensors, README.md" in said and "equal bit for bit" in said
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Trained on drawings." in text and '- "FER2013"\n- "FER+"' in text and "license: other" in text


def test_damaged_and_foreign_folders(folder, tmp_path):
    config, weights = folder / "config.json", folder / "model.safetensors"
    content, data = config.read_bytes(), weights.read_bytes()
    own = json.loads(content)
    for text, message in (
        (b"", "config.json is empty"),
        (b"{", "config.json is no JSON"),
        (b"version https://git-lfs.github.com/spec/v1", "is a git-lfs pointer"),
        (json.dumps({"model_type": "vit", "architectures": ["ViT"]}).encode(), r"another program \(vit\)"),
        (json.dumps(own | {"architectures": ["os.system"]}).encode(), "architecture 'os.system'"),
        (json.dumps(own | {"architectures": "ESR"}).encode(), "architectures is no list"),
        (json.dumps(own | {"id2label": {"1": "a"}}).encode(), "id2label does not name"),
        (json.dumps(own | {"version": 99}).encode(), "update the project"),
        (json.dumps(own | {"arguments": own["arguments"] | {"num_branches": 3}}).encode(), "3 branches"),
    ):
        config.write_bytes(text)
        with pytest.raises(CheckpointError, match=message):
            load_model(folder)
    config.write_bytes(content)
    huge = json.dumps({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    for damaged in (b"", data[:1000], data[:-4], b"PK" + data[2:], struct.pack("<Q", len(huge)) + huge):
        weights.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.safetensors .*truncated or damaged"):
            load_model(folder)
    for pointer, message in (
        (b"version https://git-lfs.github.com/spec/v1", r"model\.safetensors is a git-lfs pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", r"model\.safetensors is a web page"),
        (b"PK\x03\x04" + bytes(60), r"model\.safetensors is a zip archive: unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), r"model\.safetensors is an HDF5 file.*expected weights of safetensors"),
    ):
        weights.write_bytes(pointer)
        with pytest.raises(CheckpointError, match=message):
            load_model(folder)
    config.write_bytes(b"\xef\xbb\xbf" + content)  # as an editor of Windows saves it
    weights.write_bytes(data)
    assert load_model(folder).labels == tuple(own["id2label"][str(k)] for k in range(len(own["id2label"])))
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors.*pytorch_model\.bin is another form of weights"):
        load_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors \(it holds README\.md, config\.json\)"):
        load_model(folder)
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"config\.json beside it: name their folder"):
        load_model(weights)
    with pytest.raises(CheckpointError, match="carries its own normalisation"):
        load_model(folder, normalization="rgb")


def test_a_folder_of_other_things_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(ExportError, match=r"other things than config\.json"):
        export_hub(checkpoint, tmp_path / "photos")
    with pytest.raises(ExportError, match="expected an identifier such as mit"):
        export_hub(checkpoint, tmp_path / "new", "my: licence")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"] and not (tmp_path / "new").exists()


def test_published_weights_keep_the_normalisation_that_is_named(tmp_path):
    export_esr_folder(ESR(1, attention=False, normalization="bgr"), tmp_path / "esr")
    (tmp_path / "esr" / SETTINGS_FILE).unlink()  # as the authors published theirs
    main(Export(tmp_path / "esr", hub=tmp_path / "hub", normalization="rgb"))
    assert load_model(tmp_path / "hub").arguments["normalization"] == "rgb"
