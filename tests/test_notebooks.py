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

import cv2
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from utils.udata import EMOTIONS

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PREPROCESS = REPOSITORY / "notebooks" / "preprocess_affectnet.ipynb"


def copy_of_the_code(folder: Path) -> Path:
    for name in ("models", "utils", "notebooks"):
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


@pytest.mark.parametrize("place", [".", "notebooks"])
def test_first_cell_finds_the_repository(place, tmp_path):
    root = copy_of_the_code(tmp_path)
    cell = next(cell for cell in nbformat.read(PREPROCESS, as_version=4).cells if cell.cell_type == "code")
    program = cell.source + "\nimport utils\nprint(Path.cwd())\nprint(Path(utils.__file__).parents[1])"
    done = subprocess.run([sys.executable, "-c", program], cwd=root / place, capture_output=True, text=True, check=True)
    assert [Path(line).resolve() for line in done.stdout.splitlines()] == [root.resolve()] * 2


def test_preprocess_affectnet(tmp_path, monkeypatch):
    root = copy_of_the_code(tmp_path / "repository")
    use_this_python(monkeypatch, tmp_path / "jupyter")
    notebook = nbformat.read(root / "notebooks" / PREPROCESS.name, as_version=4)
    check = nbformat.v4.new_code_cell('import json\nprint(json.dumps({"losses": losses, "root": str(Path.cwd())}))')
    notebook.cells.append(check)
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(root / "notebooks")}}
    )
    client.execute()  # raises CellExecutionError, with the traceback, where a cell fails

    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    text = {name: "".join(o.text for o in cell if o.get("name") == "stdout") for name, cell in outputs.items()}
    assert not [o for cell in outputs.values() for o in cell if o.output_type == "error"]
    result = json.loads(text[check.id])
    assert Path(result["root"]).resolve() == root.resolve()

    # the table shows the counts of the annotations that were drawn
    drawn = {
        name: Counter(int(row["expression"]) for row in csv.DictReader(file.read_text().splitlines()))
        for name, file in ((n, root / "data/drawn/affectnet_raw" / f"{n}.csv") for n in ("training", "validation"))
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
    for name in ("counts", "grid", "train"):
        pictures = [o.data["image/png"] for o in outputs[name] if "image/png" in o.get("data", {})]
        assert len(pictures) == 1, f"cell {name} shows {len(pictures)} pictures"
        image = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0]), np.uint8), cv2.IMREAD_COLOR)
        assert min(image.shape[:2]) > 150 and image.std() > 10

    losses = result["losses"]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[0] < 3 and np.mean(losses[-3:]) < losses[0] - 0.1
