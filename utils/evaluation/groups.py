"""Numbers for groups of people: how well a network does on the faces of each, and how far the groups are apart."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.evaluation.evaluation import ScoredCheckpoint, align_classes
from utils.evaluation.subset import find_rows
from utils.preparing.named import FILE, LABEL, SPLIT, find_file_column, read_columns, read_header, table_rows
from utils.preparing.table import DatasetError, printable
from utils.ubootstrap import Interval, percentile_interval
from utils.udata import FaceDataset
from utils.umetrics import (
    COMPARED,
    Difference,
    compute_differences,
    compute_rates,
    confusion_of,
    resample_statistics,
)
from utils.ureport import percent, signed, span

MOST_GROUPS = 30  # of a column; more values are no groups, but numbers


class Grouping(NamedTuple):
    """Which group of a column each face is in.

    Attributes:
        column: its name.
        groups: their names, the one with most faces first.
        of_face: the group of every face of the data set, (N,), -1 where the table does not say.
    """

    column: str
    groups: tuple[str, ...]
    of_face: np.ndarray


class Group(NamedTuple):
    """A group's numbers.

    Attributes:
        column, name: which group.
        n: its faces.
        values: accuracy, mean class accuracy and macro F1.
        intervals: of each.
        difference: how much higher each is than in the reference; None for the reference itself.
        absent: classes that the data have and the group has not.
    """

    column: str
    name: str
    n: int
    values: dict[str, float]
    intervals: dict[str, Interval]
    difference: dict[str, Difference] | None
    absent: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        difference = self.difference and {name: found._asdict() for name, found in self.difference.items()}
        own = {name: {"value": value, "interval": self.intervals[name]} for name, value in self.values.items()}
        return {"n": self.n, **own, "minus_the_largest_group": difference, "classes_without_a_face": self.absent}


def read_groups(path: Path, faces: FaceDataset, columns: str = "") -> list[Grouping]:
    """Read the groups of a table: a column with the file of each face, every other column one way to group them.

    Columns of labels and splits are left out, and those with one value, or more than `MOST_GROUPS`; what was left out
    is printed. Where rows of a face differ in a column, that does not say its group.

    Raises:
        FileNotFoundError, DatasetError: when there is no such table, or no column of groups in it.
    """
    header, mapped = read_header(path), read_columns(columns)
    file = find_file_column(path, header, mapped)
    others = [name for name in dict.fromkeys(header) if name and name not in (file, *FILE, *LABEL, *SPLIT)]
    if not others:
        raise DatasetError(f"{path} has no column of groups; its columns are {', '.join(header)}")
    skipped: Counter[str] = Counter()
    values = {name: [""] * len(faces) for name in others}
    for face, rows in find_rows(faces, path, file, table_rows(path, [file, *others]), skipped).items():
        for name in others:
            found = list(dict.fromkeys(row[name] for row in rows if row[name]))
            if len(found) > 1:
                skipped[f"faces have rows that differ in {printable(name)}, which is left out for them"] += 1
            elif found:
                values[name][face] = found[0]
    groupings, said = [], [f"{count:,} {reason}" for reason, count in skipped.items()]
    for column, of_faces in values.items():
        sizes = Counter(filter(None, of_faces))
        if not 2 <= len(sizes) <= MOST_GROUPS:
            few = f"the one value {printable(next(iter(sizes)))}" if len(sizes) == 1 else f"{len(sizes):,} values"
            said.append(f"column {printable(column)} has {few if sizes else 'no value'}: no groups")
            continue
        names = tuple(printable(name, 40) for name, _ in sizes.most_common())
        places = {name: place for place, (name, _) in enumerate(sizes.most_common())}
        groupings.append(Grouping(column, names, np.array([places.get(value, -1) for value in of_faces])))
        if "" in of_faces:
            said.append(f"{of_faces.count(''):,} of {len(faces):,} faces have no {printable(column)}")
    if not groupings:
        raise DatasetError(f"{path} has no column of 2 to {MOST_GROUPS} groups for these faces; {'; '.join(said)}")
    for line in said:
        print(f"{path}: {line}")
    return groupings


def score_groups(result: ScoredCheckpoint, groupings: Sequence[Grouping], seed: int) -> list[Group]:
    """Score every group of faces apart, and take the difference from the largest group of its column.

    Groups are of different faces, so each is sampled on its own; the interval of a difference is that of two
    independent samples.
    """
    found = []
    for grouping in groupings:
        of_face = torch.from_numpy(grouping.of_face)[result.predictions.indices]
        first = None
        for number, name in enumerate(grouping.groups):
            faces = of_face == number
            if not faces.any():
                continue
            probabilities, targets = result.probabilities[faces], result.predictions.targets[faces]
            own = compute_rates(confusion_of(probabilities, targets))
            samples = resample_statistics(probabilities, targets, seed + number).rates
            values = {which: float(getattr(own, which)) for which in COMPARED}
            drawn = {which: getattr(samples, which) for which in COMPARED}
            difference = None
            if first is not None:
                difference = {
                    which: Difference(
                        values[which] - first[0][which],
                        percentile_interval(drawn[which] - first[1][which])
                        if len(drawn[which]) == len(first[1][which])
                        else None,
                    )
                    for which in COMPARED
                }
            first = first or (values, drawn)
            intervals = {which: percentile_interval(drawn[which]) for which in COMPARED}
            absent = tuple(label for k, label in enumerate(result.classes) if not (targets == k).any())
            found.append(Group(grouping.column, name, int(faces.sum()), values, intervals, difference, absent))
    return found


def describe_groups(groups: Sequence[Group]) -> list[str]:
    """Say a group's accuracy, and how far it is from the largest group, in a line each."""
    lines = []
    for group in groups:
        own = f"accuracy {percent(group.values['accuracy'], 2)} ({span(group.intervals['accuracy'], digits=2)})"
        if group.difference:
            found = group.difference["accuracy"]
            own += f", {signed(found.value, 2)} points from the largest group ({span(found.interval, digits=2)})"
        lines.append(f"{group.column} {group.name}: n = {group.n:,}, {own}")
    return lines


def compare_groups(
    first: ScoredCheckpoint, second: ScoredCheckpoint, groupings: Sequence[Grouping], seed: int
) -> dict[tuple[str, str], dict[str, Difference]]:
    """Return how much higher the second network scores on the faces of each group, with paired intervals."""
    found = {}
    before, after, labels = align_classes(first, second)
    for grouping in groupings:
        of_face = torch.from_numpy(grouping.of_face)[first.predictions.indices]
        for number, name in enumerate(grouping.groups):
            faces = of_face == number
            if faces.any():
                found[grouping.column, name] = compute_differences(
                    before[faces], after[faces], first.predictions.targets[faces], labels, seed
                )
    return found
