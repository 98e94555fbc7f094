"""What README and docs tell people to type can be typed: every command is parsed, every piece of Python is run."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro
from PIL import Image

from utils.evaluation.check import DATASETS
from utils.synthetic.faces import Face, draw_face, draw_photograph

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PAGES += [*REPOSITORY.glob("checkpoint/ferplus*.md"), REPOSITORY / "results" / "README.md"]
OPTIONS = {  # of commands that are no experiment
    "evaluate": "Evaluation",
    "predict": "Prediction",
    "diversified_fer.command": "Command",
    "models.export": "Export",
    "benchmarks.__main__": "Benchmark",
    "benchmarks.detectors": "Benchmark",
    "results.assemble": "Assembly",
    "results.blend": "Blend",
    "results.study": "Study",
}


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in blocks(page, ""):
            for line in block.replace("\\\n", " ").splitlines():
                found += [line.split("    #")[0].strip()] if line.strip() else []
    return found


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_a_command_can_be_typed(command):
    words = shlex.split(command, posix="\\Scripts" not in command)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (REPOSITORY / "Makefile").read_text("utf-8")
        return
    if words[0] in ("py", ".venv\\Scripts\\python") and words[1] == "-m":
        assert words[2] in ("venv", "pip") and (words[-1] == ".venv" or (REPOSITORY / words[-1]).is_file())
        return
    if words[0] in ("torchrun", "accelerate"):
        words = ["python", *words[next(k for k, word in enumerate(words) if word.endswith(".py")) :]]
    if words[0] == "diversified-fer":
        words = ["python", "-m", "diversified_fer.command", *words[1:]]
    if words[0] == "pip":
        assert words[1] == "install" and words[2] in (".", ".[train]", ".[video]")
        return
    assert words[0] in ("python", ".venv/bin/python", ".venv\\Scripts\\python"), command
    if words[1:4] == ["-m", "utils.udata", "check"]:
        assert words[4] in (*DATASETS, "folder")
        return
    module = words[2] if words[1] == "-m" else words[1].removesuffix(".py")
    arguments = words[3:] if words[1] == "-m" else words[2:]
    module = "benchmarks.__main__" if module == "benchmarks" else module
    options = getattr(importlib.import_module(module), OPTIONS.get(module, "Experiment"))
    tyro.cli(options, args=arguments)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_one_screen():
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= 140


@pytest.mark.parametrize("page", ["README.md", "docs/using.md"])
def test_python_runs_as_it_is_pasted(page, tmp_path, monkeypatch, capsys):
    people = [Face(1, 51, 1, 0.8), Face(3, 16, 3, 0.8)]
    photo = draw_photograph(people, [(20, 30, 150, 150), (340, 40, 200, 200)], 600, 440, 0, frontal=True).picture
    Image.fromarray(draw_face(1, 3, 0, 90)).save(tmp_path / "face.png")
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks(REPOSITORY / page, "python")), {})
    assert capsys.readouterr().out.strip()


def test_python_that_needs_the_data_names_what_is_there():
    for block in blocks(REPOSITORY / "docs/data.md", "python"):
        lines = block.splitlines()
        exec("\n".join(line for line in lines if line.startswith("from ")), scope := {})
        [call] = [line for line in lines if line.startswith("pre_process")]
        assert call.split("(")[0] in scope
        compile(block, "docs/data.md", "exec")
