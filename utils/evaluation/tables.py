"""The tables of the report that a plain list of rows makes: numbers by group of faces, and on spoiled pictures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from utils.evaluation.comparison import Comparison
from utils.evaluation.corruptions import mean_accuracy
from utils.evaluation.evaluation import ScoredCheckpoint
from utils.umetrics import COMPARED, Difference
from utils.ureport import NUMBERS, percent, signed, span


class Value(NamedTuple):
    """A cell of a number and its interval."""

    shown: str
    interval: str


class Table(NamedTuple):
    """A table of plain values and `Value`s; the first cell of every row is its heading."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def list_groups(result: ScoredCheckpoint) -> Table:
    """Return the numbers of every group of faces."""
    names = [NUMBERS[name] for name in COMPARED]
    rows = []
    for group in result.groups:
        own = [Value(percent(value), span(group.intervals[name])) for name, value in group.values.items()]
        found = group.difference
        against = [_difference(found[name]) for name in COMPARED] if found else ["largest group", "–", "–"]
        rows.append([f"{group.column}: {group.name}", f"{group.n:,}", *own, *against])
    caption = (
        "Ensemble by mean on the faces of each group, with 95 % intervals; differences from the largest group of the "
        "same column in percentage points"
    )
    return Table(caption, ["Faces", *names, *(f"{name}, difference" for name in names)], rows)


def list_group_differences(comparison: Comparison) -> Table:
    """Return how far every checkpoint is from the first in each group."""
    rows = [
        [f"{name}, {column}: {group}", *map(_difference, found.values())]
        for name, groups in comparison.groups.items()
        for (column, group), found in groups.items()
    ]
    caption = "Difference from the first by group, in percentage points, with 95 % paired intervals"
    return Table(caption, [NUMBERS[name] for name in COMPARED], rows)


def list_corruptions(result: ScoredCheckpoint) -> Table:
    """Return the numbers on spoiled pictures."""
    rows: list[list[Any]] = [
        [
            f"{row.corruption} {row.severity}" if row.severity else row.corruption,
            row.parameter,
            Value(percent(row.accuracy), span(row.accuracy_interval)),
            _difference(row.difference) if row.severity else "–",
            percent(row.macro_f1),
        ]
        for row in result.corruptions
    ]
    mean = mean_accuracy(result.corruptions)
    rows.append(["mean of all", "", percent(mean), signed(mean - result.corruptions[0].accuracy), ""])
    caption = (
        f"Ensemble by mean on {result.corruptions[0].n:,} pictures spoiled in several ways, with 95 % intervals; "
        "differences are paired"
    )
    return Table(caption, ("How", "Accuracy", "Difference", "Macro F1"), rows)


def _difference(found: Difference) -> Value:
    return Value(signed(found.value), span(found.interval))
