"""Scripts of one network differ where the experiment differs, and nowhere else: compared block by block."""

import difflib
import re
from itertools import combinations
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DATASETS = ("affectnet", "ferplus", "rafdb")
PAIRS = [(network, *pair) for network in ("esr", "manet") for pair in combinations(DATASETS, 2)]


def lines_of(network: str, dataset: str) -> list[str]:
    return (REPOSITORY / f"{network}_{dataset}.py").read_text("utf-8").splitlines()


def blocks_of(network: str, dataset: str) -> dict[str, list[str]]:
    """Split a script at the comments that head its blocks, such as "# Diversity" and "# Model"."""
    blocks: dict[str, list[str]] = {"": []}
    name = ""
    for line in lines_of(network, dataset):
        heading = re.fullmatch(r" {4}# ([A-Z][\w ]+)(:.*)?", line)
        if heading:
            name = heading[1] if heading[1] not in blocks else f"{heading[1]} of main"
            blocks[name] = []
        if line.startswith("    report(run"):
            name = "Report"
            blocks[name] = []
        blocks[name].append(line)
    return blocks


def differing(first: list[str], second: list[str]) -> list[str]:
    return [line for line in difflib.ndiff(first, second) if line[0] in "+-"]


@pytest.mark.parametrize(("network", "first", "second"), PAIRS)
def test_siblings_differ_in_few_lines(network, first, second):
    """60 lines where the data sets are used the same way, else 90; AffectNet also trains valence and arousal in ESR."""
    limit = 60 if "ferplus" not in (first, second) and network == "manet" else 90
    affect = [line for line in blocks_of(network, first).get("Valence and arousal", []) if line.strip()]
    changed = differing(lines_of(network, first), lines_of(network, second))
    assert len(changed) - len(affect) <= limit, "\n".join(changed)


@pytest.mark.parametrize(("network", "first", "second"), PAIRS)
def test_blocks_that_are_the_method_are_the_same(network, first, second):
    ours, theirs = blocks_of(network, first), blocks_of(network, second)
    # what FER+ may minimise besides the cross-entropy, and faces that AffectNet samples again for every branch
    allowed = re.compile(r"cross_entropy|sample = |train = load|shuffle=True|zoom=")
    for name in (
        "Output",
        "Network",
        "Diversity",
        "Computation",
        "Model",
        "Objective",
        "Stages",
        "One stage",
        "Report",
    ):
        if name not in ours and name not in theirs:
            continue
        changed = [line for line in differing(ours[name], theirs[name]) if not allowed.search(line)]
        named = re.compile(rf"{first}|{second}|affect: ")
        assert not [line for line in changed if line[2:].strip() and not named.search(line)], (name, changed)


@pytest.mark.parametrize("network", ["esr", "manet"])
def test_scripts_are_short(network):
    for dataset in DATASETS:
        assert len(lines_of(network, dataset)) < 220, dataset
