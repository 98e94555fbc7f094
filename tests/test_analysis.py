"""One call from pictures to rows, on the route without PyTorch; and what installs with it."""

import csv
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from diversified_fer import OnnxClassifier, analysis, analyze
from diversified_fer.classifier import SHIPPED
from diversified_fer.faces import label_faces
from diversified_fer.media.media import Frame, MediaError
from diversified_fer.scores import sharpen
from models import load_model
from utils.synthetic.faces import draw_face, draw_photograph

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "kornia", "matplotlib", "scipy", "models", "utils"):
            raise ModuleNotFoundError(f"{name} is not installed here")
sys.meta_path.insert(0, Absent())
sys.argv[0] = "diversified-fer"
from diversified_fer.command import main
main()
"""


@pytest.fixture(scope="module")
def photograph():
    return draw_photograph([(1, 1, 0), (6, 2, 0)], frontal=True).picture


def test_both_routes_give_the_same_probabilities():
    faces = [draw_face(k, k, 0, size) for k, size in zip(range(8), (48, 64, 30, 90, 64, 133, 61, 64), strict=True)]
    faces.append(faces[3][:70])  # not square
    light, network = OnnxClassifier(), load_model()
    for flip in (False, True):
        ours, theirs = light.score(faces, batch_size=4, flip=flip), network.score(faces, flip=flip)
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-3)
        np.testing.assert_array_equal(ours.branches, theirs.branches)
        np.testing.assert_allclose(ours.probabilities.sum(axis=1), 1, atol=1e-5)
    assert light.labels == network.labels and light.image_size == network.image_size
    assert light.num_branches == network.num_branches and light.dimensions == network.dimensions == ()


def test_every_form_of_a_picture_gives_the_rows_of_the_photo(photograph, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photograph).save(path)
    expected = analyze(str(path))
    assert len(expected) == 2 and expected[0]["file"] == str(path)
    labelled = [(face.box, face.label) for _, faces in label_faces(load_model(), [Frame(photograph)]) for face in faces]
    assert [((row["x"], row["y"], row["width"], row["height"]), row["label"]) for row in expected] == labelled
    forms = [path, photograph, photograph / 255, Image.fromarray(photograph), [path], tmp_path, photograph[None]]
    for form in forms:
        rows = analyze(form)
        assert [row | {"file": ""} for row in rows] == [row | {"file": ""} for row in expected], type(form)
    both = analyze([path, photograph])
    assert [row["file"] for row in both] == [str(path)] * 2 + ["images[1]"] * 2
    assert all(type(value) in (str, int, float, type(None)) for row in both for value in row.values())
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    assert len(analyze(grey)) == 2
    assert analyze(draw_face(1, 1, 0, 64), detector="none", branches=True)[0]["branch_1"] in load_model().labels


def test_what_has_no_face_and_what_cannot_be_read_are_rows(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    rows = analyze([np.zeros((80, 80, 3), np.uint8), tmp_path / "broken.jpg"])
    assert [row["label"] for row in rows] == ["no face", "unreadable"]
    assert rows[0]["x"] is None and rows[0]["probability_Neutral"] is None


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([], ValueError, "empty list"),
        (3, ValueError, "images is a int; expected the path"),
        ([np.zeros((4, 4)), 3], ValueError, r"images\[1\] is a int"),
        (np.full((9, 9, 3), 200.0), ValueError, r"expected \[0, 1\]"),
        (np.zeros((0, 9, 3), np.uint8), ValueError, "at least one"),
        (np.zeros((9, 9, 3), np.int64), ValueError, "expected uint8"),
        ("", ValueError, "empty path"),
        ("nowhere.jpg", FileNotFoundError, "nowhere.jpg"),
        ("https://example.org/face.jpg", MediaError, "download it first"),
    ],
)
def test_wrong_inputs_are_named(inputs, error, message):
    with pytest.raises(error, match=message):
        analyze(inputs)
    if not isinstance(inputs, list | str) and error is ValueError:
        with pytest.raises(ValueError, match=message):
            load_model().predict(inputs)


def test_onnx_runtime_reports_nothing(tmp_path):
    """From 1.29 on it counts sessions and sends what networks are run, unless it is told not to before it is loaded."""
    script = "from diversified_fer import OnnxClassifier as C; C(); import onnxruntime; print(onnxruntime.__version__)"
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for first in ("", "import models.export; "):
        done = subprocess.run([sys.executable, "-c", first + script], env=environment, capture_output=True, cwd=ROOT)
        assert done.returncode == 0 and b"elemetry" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name or "Microsoft" in path.name]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_network_in_a_folder_that_is_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"d_\xff")
    folder.mkdir()
    shutil.copy(SHIPPED, folder / "face.onnx")
    assert OnnxClassifier(folder / "face.onnx").labels == OnnxClassifier().labels


def test_wrong_networks_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no network at"):
        OnnxClassifier(tmp_path / "face.onnx")
    (tmp_path / "face.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"face\.onnx is a git-lfs pointer.*git lfs pull"):
        OnnxClassifier(tmp_path / "face.onnx")
    (tmp_path / "face.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"face\.onnx cannot be run by ONNX Runtime"):
        OnnxClassifier(tmp_path / "face.onnx")
    detector = ROOT / "diversified_fer" / "weights" / "face_detection_yunet_2023mar.onnx"
    with pytest.raises(ValueError, match="does not say its labels and image_size"):
        OnnxClassifier(detector)


def test_temperature_keeps_the_order_and_the_sum():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(8), 50).astype(np.float32)
    for temperature in (0.5, 1.0, 3.0):
        sharpened = sharpen(probabilities, temperature)
        np.testing.assert_array_equal(sharpened.argsort(axis=1), probabilities.argsort(axis=1))
        np.testing.assert_allclose(sharpened.sum(axis=1), 1, atol=1e-6)
        powers = probabilities.astype(np.float64) ** (1 / temperature)
        np.testing.assert_allclose(sharpened, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)
    certain = np.eye(8, dtype=np.float32)
    np.testing.assert_array_equal(sharpen(certain, 2.0), certain)


def test_predict_takes_paths(tmp_path):
    face = draw_face(3, 1, 0, 64)
    Image.fromarray(face).save(tmp_path / "face.png")
    model = load_model()
    torch.testing.assert_close(model.predict(tmp_path / "face.png"), model.predict(face))
    assert model.predict([str(tmp_path / "face.png"), face]).shape == (2, 8)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        model.predict(tmp_path / "nowhere.png")


def test_the_wheel_labels_a_photo_without_pytorch(photograph, tmp_path):
    source = tmp_path / "source"  # a build leaves its files there
    shutil.copytree(ROOT / "diversified_fer", source / "diversified_fer")
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt", "requirements-video.txt"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = [name for name in content.namelist() if ".dist-info/" not in name]
        assert all(name.startswith("diversified_fer/") for name in names)
        assert {"ferplus_small.onnx", "README.md", "LICENSE-yunet"} <= {Path(name).name for name in names}
        content.extractall(tmp_path / "installed")
    Image.fromarray(photograph).save(tmp_path / "photo.png")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "photo.png", "--output", "out"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 pictures, 2 faces" in done.stdout
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == [row["label"] for row in analyze(photograph)]


def test_a_network_that_was_written_again_is_read_again(tmp_path):
    face, path = np.zeros((64, 64, 3), np.uint8), tmp_path / "face.onnx"
    shutil.copy(SHIPPED, path)
    first = analyze(face, path, "none")
    read = analysis.load_classifier.cache_info()
    assert analyze(face, path, "none") == first
    assert analysis.load_classifier.cache_info().misses == read.misses
    os.utime(path, ns=(0, 0))
    analyze(face, path, "none")
    assert analysis.load_classifier.cache_info().misses == read.misses + 1
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"face\.onnx"):
        analyze(face, path, "none")
