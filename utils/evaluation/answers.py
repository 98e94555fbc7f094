"""What another tool says of the faces: a table of files with a label, or a probability per class, of each."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils.evaluation.classes import columns_of, keep_columns, share_classes
from utils.evaluation.evaluation import ENSEMBLE, Provenance, ScoredCheckpoint, find_mistakes
from utils.evaluation.subset import ScoredFaces, find_rows
from utils.preparing.named import FILE, LABEL, emotion_of, find_column, read_header, read_names, read_pairs, table_rows
from utils.preparing.table import DatasetError, printable
from utils.udata import FaceDataset
from utils.umetrics import compute_metrics
from utils.utrain import Predictions

PREDICTED = ("predicted", "prediction", "predictions", "predicted_label", "dominant_emotion")  # before `LABEL`
PREFIXES = ("probability_", "probability ", "prob_", "p_", "score_")


class Answers(NamedTuple):
    """The answers of another tool.

    Attributes:
        path: their table.
        labels: the classes.
        by_file: of every face that has an answer, a row (K,): probabilities, or 1 for the class named.
        has_probabilities: whether the table has them.
        skipped: how many rows gave no answer, by reason.
    """

    path: Path
    labels: tuple[str, ...]
    by_file: dict[Path, np.ndarray]
    has_probabilities: bool
    skipped: Counter[str]


def read_answers(path: Path, faces: FaceDataset, columns: str = "", names: str = "") -> Answers:
    """Read the answers for faces of a data set; their names are found as in `utils.evaluation.subset.select_faces`.

    A column for each of two or more emotions (with or without "probability_" before the name) holds probabilities, of
    any scale; otherwise a column `predicted` or `label` holds the name of the class. Of several rows for a face the
    first counts.

    Args:
        path: the table.
        faces: what is scored.
        columns: "theirs=ours" of its columns, for ours of file, label and classes.
        names: "theirs=ours" of names of classes.

    Raises:
        FileNotFoundError, DatasetError: when there is no such table, or it has no answer for any face.
    """
    header, mapped, words = read_header(path), read_pairs(columns, "--columns"), read_names(names)
    file = find_column(header, "file", FILE, mapped, path)
    classes: dict[str, str] = {}  # emotion: column
    for name in header:
        bare = mapped.get(name, name)
        prefix = next((prefix for prefix in PREFIXES if bare.startswith(prefix)), "")
        emotion = emotion_of(bare.removeprefix(prefix), words)
        if emotion and name != file:
            classes.setdefault(emotion, name)
    skipped: Counter[str] = Counter()
    found: dict[Path, np.ndarray] = {}
    if len(classes) > 1:
        labels, wanted = tuple(classes), list(classes.values())
    else:
        labels = tuple(faces.class_names)
        wanted = [find_column(header, "label", PREDICTED + LABEL, mapped, path)]
    for face, row in find_rows(faces, path, file, table_rows(path, [file, *wanted]), skipped):
        if len(classes) > 1:
            answer = _probabilities([row[name] for name in wanted])
            why = "without numbers"
        else:
            emotion, cell = emotion_of(row[wanted[0]], words), row[wanted[0]]
            answer = np.array([float(emotion == emotion_of(label)) for label in labels])
            answer = answer if answer.any() else None
            why = f"that say {printable(cell)!r}, no class of the data" if cell else "without a label"
        if answer is None:
            skipped[f"rows {why}"] += 1
        elif faces.paths[face] in found:
            skipped["rows more than one for a face"] += 1
        else:
            found[faces.paths[face]] = answer
    if not found:
        others = "; ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        raise DatasetError(
            f"{path} has an answer for none of the {len(faces):,} faces of {faces.name}, whose files are named like "
            f"{faces.paths[0].name} ({others or 'no rows'})"
        )
    return Answers(path, labels, found, len(classes) > 1, skipped)


def _probabilities(cells: Sequence[str]) -> np.ndarray | None:
    """Return numbers scaled to sum to 1; None where they are none."""
    try:
        values = np.array([float(cell) for cell in cells])
    except ValueError:
        return None
    total = values.sum()
    return values / total if math.isfinite(total) and total > 0 and values.min() >= 0 else None


def keep_answered(faces: FaceDataset, tables: Sequence[Answers]) -> tuple[FaceDataset, dict[str, int]]:
    """Keep the faces that every table has an answer for, so that all are scored on the same.

    Returns:
        the faces, and by table how many it has no answer for; without those that have one for all.

    Raises:
        DatasetError: when no face is left.
    """
    absent = {str(table.path): sum(path not in table.by_file for path in faces.paths) for table in tables}
    absent = {name: number for name, number in absent.items() if number}
    keep = [index for index, path in enumerate(faces.paths) if all(path in table.by_file for table in tables)]
    if not keep:
        raise DatasetError(f"no face of {faces.name} has an answer in all of {', '.join(str(t.path) for t in tables)}")
    return (faces.subset(keep), absent) if absent else (faces, {})


def choose_faces(faces: ScoredFaces, networks: Mapping[str, Sequence[str]], tables: Sequence[Answers]) -> ScoredFaces:
    """Keep the faces that can be scored with all networks and tables alike, and print what was left out and why.

    Args:
        faces: of the data set.
        networks: the classes of every network and table, by its name.
        tables: the answers of other tools.
    """
    for table in tables:
        if table.skipped:
            print(f"{table.path}: left out {', '.join(f'{n:,} {why}' for why, n in sorted(table.skipped.items()))}")
    dataset, unanswered = keep_answered(faces.dataset, tables)
    for path, number in unanswered.items():
        print(f"{path}: no answer for {number:,} of {len(faces.dataset):,} faces, which are left out for all")
    dataset, classes = share_classes(dataset, networks)
    for line in classes.described if classes else ():
        print(line)
    return faces._replace(dataset=dataset, classes=classes, unanswered=unanswered)


def score_answers(answers: Answers, name: str, faces: FaceDataset, seed: int) -> ScoredCheckpoint:
    """Score a table of answers on faces that all have one, with the classes of the data set."""
    rows = torch.from_numpy(np.stack([answers.by_file[path] for path in faces.paths])).float()
    probabilities = keep_columns(rows, columns_of(answers.labels, faces.class_names))
    targets, labels = torch.from_numpy(faces.labels), tuple(faces.class_names)
    predictions = Predictions(probabilities.clamp_min(1e-12).log()[None], targets, torch.arange(len(faces)))
    kind = "probabilities" if answers.has_probabilities else "labels without probabilities"
    return ScoredCheckpoint(
        name=name,
        path=answers.path,
        description=f"predictions of another tool, {kind}, {len(answers.labels)} classes",
        predicts_affect=False,
        affect=None,
        labels=labels,
        provenance=Provenance({}, {}, None),
        predictions=predictions,
        probabilities=probabilities,
        metrics={ENSEMBLE: compute_metrics(probabilities, targets, labels, seed)},
        branches=("answer",),
        similarity=None,
        disagreement=None,
        mistakes=find_mistakes(probabilities, predictions, faces, labels),
        is_table=True,
        has_probabilities=answers.has_probabilities,
    )
