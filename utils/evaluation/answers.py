"""What another tool says of the faces: a table of files with a label, or a probability per class, of each."""

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from utils.evaluation.classes import canonical, columns_of, keep_columns, share_classes
from utils.evaluation.evaluation import ENSEMBLE, NO_CLASS, Provenance, ScoredCheckpoint, find_mistakes
from utils.evaluation.subset import ScoredFaces, find_rows
from utils.preparing.named import (
    LABEL,
    emotion_of,
    find_column,
    find_file_column,
    read_columns,
    read_header,
    read_names,
    table_rows,
)
from utils.preparing.table import DatasetError, printable
from utils.udata import EMOTIONS, FaceDataset
from utils.umetrics import compute_metrics
from utils.utrain import Predictions

PREDICTED = ("predicted", "prediction", "predictions", "predicted_label")  # the likeliest first
T = TypeVar("T", bound=Hashable)
AROUND_CLASS = re.compile(  # what columns of numbers have before or after the name of a class
    r"^(?:probability[_ ]|prob_|p_|score_|pred_|predicted_|prediction_)|(?:_probability|_prob|_score|_pred)$"
)
PREDICTS = re.compile(r"(?:^|[^a-z])pred")  # y_pred, pred, predicted_class, ...
A_NUMBER = re.compile(r"prob|score|conf|logit")  # of a column with the sureness of the prediction


class Answers(NamedTuple):
    """The answers of another tool.

    Attributes:
        path: their table.
        labels: the classes; of labels alone those of the data, then the other emotions that the table names.
        by_file: of every face that has an answer, a row (K,): probabilities, or 1 for the class named.
        skipped: how many rows gave no answer, by reason.
        column: of the labels; None where there are probabilities.
    """

    path: Path
    labels: tuple[str, ...]
    by_file: dict[Path, np.ndarray]
    skipped: Counter[str]
    column: str | None

    @property
    def has_probabilities(self) -> bool:
        """Whether the table has them, not labels alone."""
        return self.column is None


def read_answers(path: Path, faces: FaceDataset, columns: str = "", names: str = "") -> Answers:
    """Read the answers for faces of a data set; their names are found as in `utils.evaluation.subset.select_faces`.

    A column for each of two or more emotions (with or without "probability_" before the name) holds probabilities, of
    any scale; otherwise a column `predicted` (or another with "pred" in its name, or `label`) holds the name of the
    class: beside it, `label` is the truth. Of several rows for a face the one counts whose name agrees best with its
    path; where such rows differ, the face has no answer.

    Args:
        path: the table.
        faces: what is scored.
        columns: "theirs=ours" of its columns, for ours of file, predicted, label and classes.
        names: "theirs=ours" of names of classes.

    Raises:
        FileNotFoundError, DatasetError: when there is no such table, it has no answer for any face, or its numbers are
            no probabilities.
    """
    header, mapped, words = read_header(path), read_columns(columns), read_names(names)
    file = find_file_column(path, header, mapped)
    classes = _find_classes([name for name in header if name != file], mapped, words)
    has_probabilities = len(classes) > 1
    label = None if has_probabilities else _find_label(header, mapped, path)
    wanted = [label] if label else list(classes.values())
    skipped: Counter[str] = Counter()

    def read(row: dict[str, str]) -> tuple[Hashable, str]:  # the answer, and why there is none
        cells = [row[name] for name in wanted]
        if has_probabilities:
            return _probabilities(cells, f"{path}, row of {printable(row[file])}"), "without numbers"
        why = f"that say {printable(cells[0])!r}, no emotion" if cells[0] else "without a label"
        return emotion_of(cells[0], words), why

    rows = find_rows(faces, path, file, table_rows(path, [file, *wanted]), skipped)
    said = {faces.paths[face]: _only_answer(map(read, of_face), skipped) for face, of_face in rows.items()}
    said = {name: answer for name, answer in said.items() if answer is not None}
    if not said:
        others = "; ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        is_numbered = any(re.search(r"say '\d+'", reason) for reason in skipped)
        remedy = "; say what the numbers mean by --names, as in --names 0=Neutral,1=Happiness" if is_numbered else ""
        raise DatasetError(
            f"{path} has an answer for none of the {len(faces):,} faces of {faces.name}, whose files are named like "
            f"{faces.paths[0].name} ({others or 'no rows'}){remedy}"
        )
    if has_probabilities:
        labels, found = tuple(classes), {name: np.array(answer) for name, answer in said.items()}
    else:
        own = [canonical(label) for label in faces.class_names]
        others = [emotion for emotion in EMOTIONS if emotion in set(said.values()) - set(own)]
        labels = (*faces.class_names, *others)
        found = {name: np.array([float(answer == known) for known in own + others]) for name, answer in said.items()}
    return Answers(path, labels, found, skipped, label)


def _find_classes(header: Sequence[str], mapped: Mapping[str, str], words: Mapping[str, str]) -> dict[str, str]:
    """Return the columns named after emotions, by emotion; `mapped` and `words` are other names of them.

    One that is mapped comes before one that says it is a probability or prediction, and that before the bare emotion,
    which may be the truth.
    """
    found: list[tuple[int, str, str]] = []
    for name in header:
        ours = mapped.get(name, name)
        bare = AROUND_CLASS.sub("", ours, count=1)
        emotion = emotion_of(bare, words)
        if emotion:
            found.append((0 if name in mapped else 1 if bare != ours else 2, emotion, name))
    classes: dict[str, str] = {}
    for _, emotion, name in sorted(found, key=lambda column: column[0]):
        classes.setdefault(emotion, name)
    return dict(sorted(classes.items(), key=lambda pair: header.index(pair[1])))


def _find_label(header: Sequence[str], mapped: Mapping[str, str], path: Path) -> str:
    """Return the column of the predicted labels: mapped to it, or with "pred" in its name, or the only one of labels.

    Raises:
        DatasetError: when there is none, or several may be meant.
    """
    chosen = [name for name in header if mapped.get(name, "").lower() == "predicted"]
    if chosen:
        return chosen[0]
    likely = [name for name in header if PREDICTS.search(name) and not A_NUMBER.search(name)]
    likely = [name for name in likely if mapped.get(name, "label").lower() == "label"]
    likeliest = next((name for name in (*PREDICTED, *likely) if name in likely), None)
    if likeliest is None and not any(ours.lower() in ("label", "predicted") for ours in mapped.values()):
        likely = [name for name in ("dominant_emotion", *LABEL) if name in header]
        if len(likely) > 1 and "dominant_emotion" not in likely:
            raise _undecided(path, likely)
    if likeliest is None:
        return find_column(header, "label", ("dominant_emotion", *LABEL), mapped, path)
    if len(likely) > 1 and likeliest not in PREDICTED:
        raise _undecided(path, likely)
    return likeliest


def _undecided(path: Path, columns: Sequence[str]) -> DatasetError:
    """Return the error of a table in which several columns may be the prediction."""
    return DatasetError(
        f"{path} has several columns that may be the prediction ({printable(', '.join(columns))}): say which by "
        "--columns COLUMN=predicted"
    )


def _only_answer(answers: Iterable[tuple[T | None, str]], skipped: Counter[str]) -> T | None:
    """Return what the rows of a face say, None where they say nothing or differ; counts those left out."""
    known = []
    for answer, why in answers:
        if answer is None:
            skipped[f"rows {why}"] += 1
        else:
            known.append(answer)
    if len(set(known)) > 1:
        skipped["rows that differ from another one for the same face"] += len(known)
        return None
    if len(known) > 1:
        skipped["rows more than one for a face"] += len(known) - 1
    return known[0] if known else None


def _probabilities(cells: Sequence[str], where: str) -> tuple[float, ...] | None:
    """Return numbers scaled to sum to 1; None where they are none.

    Raises:
        DatasetError: when one is below 0; `where` is for the message.
    """
    try:
        values = [_number(cell) for cell in cells]
    except ValueError:
        return None
    if any(value < 0 for value in values):
        raise DatasetError(
            f"{where}: {min(values):g} looks like scores, not probabilities, which are 0 or more; apply softmax to "
            "every row (exp, then divided by their sum), and write the table again"
        )
    total = sum(values)
    return tuple(value / total for value in values) if math.isfinite(total) and total > 0 else None


def _number(cell: str) -> float:
    """Read a number, also one with a decimal comma or a percent sign; raises ValueError."""
    cell = cell.strip().removesuffix("%")
    return float(cell if "." in cell else cell.replace(",", "."))


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
        tables: the answers of other tools. Labels alone restrict nothing: those of other classes are mistakes.
    """
    for table in tables:
        if table.skipped:
            print(f"{table.path}: left out {', '.join(f'{n:,} {why}' for why, n in sorted(table.skipped.items()))}")
    dataset, unanswered = keep_answered(faces.dataset, tables)
    for path, number in unanswered.items():
        print(f"{path}: no answer for {number:,} of {len(faces.dataset):,} faces, which are left out for all")
    of_labels = [table for table in tables if not table.has_probabilities]
    names = {str(table.path) for table in of_labels}
    dataset, classes = share_classes(dataset, {name: own for name, own in networks.items() if name not in names})
    for line in classes.described if classes else ():
        print(line)
    for table in of_labels:
        said = Counter(canonical(table.labels[table.by_file[path].argmax()]) for path in dataset.paths)
        for name in dataset.class_names:
            said.pop(canonical(name), None)
        if said:
            listing = ", ".join(f"{number:,} {label}" for label, number in sorted(said.items()))
            print(f"{table.path}: answers of classes that are not scored count as mistakes, {NO_CLASS}: {listing}")
    return faces._replace(dataset=dataset, classes=classes, unanswered=unanswered)


def score_answers(answers: Answers, name: str, faces: FaceDataset, seed: int) -> ScoredCheckpoint:
    """Score a table of answers on faces that all have one, with the classes of the data set.

    Labels of other classes are in a column of their own, `NO_CLASS`, where there are any.
    """
    rows = torch.from_numpy(np.stack([answers.by_file[path] for path in faces.paths])).float()
    columns, labels = columns_of(answers.labels, faces.class_names), tuple(faces.class_names)
    others = 1 - rows[:, columns].sum(dim=1, keepdim=True)
    if answers.has_probabilities or not others.any():
        probabilities = keep_columns(rows, columns)
    else:
        probabilities, labels = torch.cat((rows[:, columns], others), dim=1), (*labels, NO_CLASS)
    targets = torch.from_numpy(faces.labels)
    predictions = Predictions(probabilities.clamp_min(1e-12).log()[None], targets, torch.arange(len(faces)))
    kind = "probabilities"
    if answers.column is not None:
        kind = f"labels of the column {printable(answers.column)!r}, without probabilities"
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
