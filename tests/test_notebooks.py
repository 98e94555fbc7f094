"""The notebooks, executed from top to bottom in a copy of the code: what they write stays out of the repository."""

import base64
import csv
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from utils.udata import EMOTIONS

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PREPROCESS = REPOSITORY / "notebooks" / "preprocess_affectnet.ipynb"
EVALUATE = REPOSITORY / "notebooks" / "evaluate_checkpoint.ipynb"


class Executed(NamedTuple):
    """A notebook that has run: where, the outputs and the printed text of every cell, and the answer asked for."""

    root: Path
    outputs: dict[str, list]
    text: dict[str, str]
    result: Any


def copy_of_the_code(folder: Path) -> Path:
    for name in ("diversified_fer", "models", "utils", "notebooks"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


def use_this_python(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make "python3" the interpreter that runs the tests, whatever kernels and settings the user has."""
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}), encoding="utf-8"
    )
    monkeypatch.setenv("JUPYTER_PATH", str(folder))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # would keep pictures out of the notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_stored_clean(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, f"{path.name}, cell {cell.id}, holds outputs"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
@pytest.mark.parametrize("place", [".", "notebooks"])
def test_first_cell_finds_the_repository(place, path, tmp_path):
    root = copy_of_the_code(tmp_path)
    cell = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    program = cell.source + "\nimport utils\nprint(Path.cwd())\nprint(Path(utils.__file__).parents[1])"
    done = subprocess.run([sys.executable, "-c", program], cwd=root / place, capture_output=True, text=True, check=True)
    assert [Path(line).resolve() for line in done.stdout.splitlines()] == [root.resolve()] * 2


def execute(path: Path, question: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Executed:
    """Run a notebook in a copy of the code, with a cell at the end that prints the answer to a question as JSON."""
    root = copy_of_the_code(tmp_path / "repository")
    use_this_python(monkeypatch, tmp_path / "jupyter")
    notebook = nbformat.read(root / "notebooks" / path.name, as_version=4)
    check = nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({question}))")
    notebook.cells.append(check)
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(root / "notebooks")}}
    )
    client.execute()  # raises CellExecutionError, with the traceback, where a cell fails

    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    text = {name: "".join(o.text for o in cell if o.get("name") == "stdout") for name, cell in outputs.items()}
    assert not [o for cell in outputs.values() for o in cell if o.output_type == "error"]
    return Executed(root, outputs, text, json.loads(text[check.id]))


def check_pictures(executed: Executed, counts: dict[str, int]) -> None:
    """Check that cells show as many pictures as they should, and that there is something on them."""
    for name, count in counts.items():
        pictures = [o.data["image/png"] for o in executed.outputs[name] if "image/png" in o.get("data", {})]
        assert len(pictures) == count, f"cell {name} shows {len(pictures)} pictures"
        for picture in pictures:
            image = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)
            assert min(image.shape[:2]) > 150 and image.std() > 10


def test_preprocess_affectnet(tmp_path, monkeypatch):
    executed = execute(PREPROCESS, '{"losses": losses, "root": str(Path.cwd())}', tmp_path, monkeypatch)
    root, outputs, text, result = executed
    assert Path(result["root"]).resolve() == root.resolve()

    # the table shows the counts of the annotations that were drawn
    drawn = {
        name: Counter(int(row["expression"]) for row in csv.DictReader(file.read_text().splitlines()))
        for name, file in ((n, root / "data/synthetic/affectnet_raw" / f"{n}.csv") for n in ("training", "validation"))
    }
    table = next(o.data["text/markdown"] for o in outputs["counts"] if "text/markdown" in o.get("data", {}))
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]
    counted = {name: (int(train), int(validation)) for name, train, _, validation, _ in cells}
    expected = {name: (drawn["training"][k], drawn["validation"][k]) for k, name in enumerate(EMOTIONS)}
    assert min(min(pair) for pair in expected.values()) > 0
    assert counted == expected | {"all": tuple(np.sum(list(expected.values()), axis=0))}

    # every row was written once, and the second call found them all
    rows = {name: sum(counts.values()) for name, counts in drawn.items()}
    assert f"{rows['training']} rows: {rows['training']} written, 0 already there, 0 unusable" in text["preprocess"]
    assert f"{rows['validation']} rows: 0 written, {rows['validation']} already there" in text["resume"]
    assert "Training_Labeled: 0 unusable" in text["errors"] and "Validation: 0 unusable" in text["errors"]

    # the bar chart, the faces and the loss are there to be seen
    check_pictures(executed, {"counts": 1, "grid": 1, "train": 1})

    losses = result["losses"]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[0] < 3 and np.mean(losses[-3:]) < losses[0] - 0.1


def test_evaluate_checkpoint(tmp_path, monkeypatch):
    question = (
        '{"one": probabilities.tolist(), "many": probabilities_of_many.sum(dim=1).tolist(), "same": same, '
        '"boxes": [face.box for face in faces], "places": places, "confusion": ensemble.confusion, '
        '"accuracy": ensemble.accuracy, "answers": answers.argmax(dim=1).tolist(), '
        '"targets": predictions.targets.tolist(), "labels": test.labels.tolist(), "order": order}'
    )
    executed = execute(EVALUATE, question, tmp_path, monkeypatch)
    result = executed.result
    assert sum(result["one"]) == pytest.approx(1, abs=1e-5) and len(result["one"]) == 8 and result["same"] is True
    assert result["many"] == pytest.approx([1] * 8, abs=1e-5)
    assert f"{max(result['one']):.0%}" in executed.text["one"] and "(8, 8)" in executed.text["many"]

    # every person of the photograph is found: the middle of a face lies in the box it was drawn in
    for (x, y, width, height), (left, top, wide, high) in zip(result["boxes"], result["places"], strict=True):
        assert left < x + width / 2 < left + wide and top < y + height / 2 < top + high

    # the confusion matrix is a count of the answers
    assert result["targets"] == result["labels"]
    counted = np.zeros((8, 8), int)
    for label, answer in zip(result["labels"], result["answers"], strict=True):
        counted[label, answer] += 1
    assert np.array_equal(counted, result["confusion"])
    assert result["accuracy"] == pytest.approx(np.trace(counted) / counted.sum())
    mistakes = [result["answers"][row] != result["labels"][row] for row in result["order"]]
    assert mistakes == sorted(mistakes, reverse=True), "mistakes come first"
    check_pictures(executed, {"one": 1, "photograph": 1, "confusion": 1, "grid": 1, "maps": 2})
