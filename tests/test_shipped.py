"""The networks that come with the project: what they are, and what the first says of a photograph."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from models import load_model
from models.classifier import EMOTIONS
from models.weights import SHIPPED, read_tensors
from utils.udata import FERPlus
from utils.udemo import Face, draw_photograph
from utils.uhardware import choose_hardware
from utils.upipeline import FaceLoader
from utils.utrain import validate

REPOSITORY = Path(__file__).parents[1]
REAL_FERPLUS = REPOSITORY / "data" / "FER_2013" / "Dataset"
NETWORKS = [(SHIPPED, 12_000_000, 0.875), (SHIPPED.with_name("ferplus.pt"), 25_000_000, 0.88)]  # bytes, of Valid
BOXES = [(20, 30, 150, 150), (210, 20, 90, 90), (340, 40, 200, 200), (60, 250, 110, 110), (250, 270, 130, 130)]
PEOPLE = [Face(1, 51, 1, 0.8), Face(0, 54, 2, 0.8), Face(3, 16, 3, 0.8), Face(6, 53, 4, 0.8), Face(2, 15, 5, 0.8)]


@pytest.mark.parametrize(("path", "limit", "accuracy"), NETWORKS, ids=lambda value: getattr(value, "stem", None))
def test_it_is_small_and_says_what_it_is(path, limit, accuracy):
    assert path.stat().st_size <= limit
    content = read_tensors(path)
    assert content["measured"]["validation_accuracy"] >= accuracy
    assert not [name for name, value in content["variables"].items() if str(value).startswith("/")], "no path of ours"
    model = load_model(path)
    assert model.labels == EMOTIONS and not model.training
    card = path.with_suffix(".md").read_text()
    assert f"{100 * content['measured']['validation_accuracy']:.1f} %" in card
    for part in ("Data", "Command", "Figures", "Known failures", "Intended use"):
        assert f"\n## {part}" in card


@pytest.mark.skipif(not REAL_FERPLUS.is_dir(), reason="the real FER+ faces are not in data/FER_2013")
@pytest.mark.parametrize(("path", "limit", "accuracy"), NETWORKS, ids=lambda value: getattr(value, "stem", None))
def test_its_accuracy_on_real_faces(path, limit, accuracy):
    hardware = choose_hardware("cpu", "float32", "off")
    model = load_model(path).to(memory_format=hardware.memory_format)
    found = validate(model, FaceLoader(FERPlus(REAL_FERPLUS, "valid"), model.image_size, hardware=hardware), hardware)
    assert found["validation_accuracy"] >= accuracy
    measured = read_tensors(path)["measured"]["validation_accuracy"]  # in bfloat16, before the weights were halved
    assert found["validation_accuracy"] == pytest.approx(measured, abs=0.003)


def test_a_photograph_is_labelled_without_naming_anything(tmp_path):
    Image.fromarray(draw_photograph(PEOPLE, BOXES, 600, 440, 0, frontal=True).picture).save(tmp_path / "photo.png")
    call = [sys.executable, "predict.py", tmp_path / "photo.png", "--annotate", "--output", tmp_path / "out"]
    done = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and {row["label"] for row in rows} <= set(EMOTIONS)
    for row in rows:
        middle = [int(row[c]) + int(row[size]) / 2 for c, size in (("x", "width"), ("y", "height"))]
        assert any(x < middle[0] < x + w and y < middle[1] < y + h for x, y, w, h in BOXES)
    assert Image.open(tmp_path / "out" / "annotated" / "photo.png").size == (600, 440)
