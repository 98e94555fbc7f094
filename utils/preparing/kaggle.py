"""Reads AffectNet as it circulates on Kaggle: class-name folders, and `labels.csv` with the class of every picture."""

import re
from pathlib import Path

from diversified_fer.folder import Listing, list_files
from diversified_fer.media.picture import PHOTO_SUFFIXES
from utils.preparing.annotations import EXPRESSIONS
from utils.preparing.layout import below, only_ones
from utils.preparing.named import SYNONYMS
from utils.preparing.table import BadRow, DatasetError, Table, encoding_hint, printable

TABLES = {  # where labels.csv is, by split; on Kaggle there is a training part
    "train": ("labels.csv", "train/labels.csv", "training/labels.csv", "train_set/labels.csv"),
    "validation": ("val/labels.csv", "valid/labels.csv", "validation/labels.csv", "val_set/labels.csv"),
    "unlabeled": (),
}
WORDS = SYNONYMS | {"noface": "No-Face", "no face": "No-Face"}  # in lower case
CLASSES = {name.lower(): label for label, name in enumerate(EXPRESSIONS)}
CLASSES |= {word: EXPRESSIONS.index(name) for word, name in WORDS.items()}


def find_labels(root: Path, split: str) -> Path | None:
    """Return the table of a split, None when there is none."""
    return next((path for path in (below(root, name) for name in TABLES[split]) if path.is_file()), None)


def why_missing(root: Path, split: str) -> str:
    """Say that other parts of AffectNet are there in a form from Kaggle, or one that is not read; "" for neither."""
    for other in TABLES:
        found = find_labels(root, other)
        if found is not None:
            expected = f"expected {' or '.join(TABLES[split])} beside it" if TABLES[split] else "it is not read there"
            return (
                f"{found} is AffectNet's {other} part as it circulates on Kaggle, but there is no {split} part; "
                f"{expected}, or the layout that pre_process_affect_net writes from the released data"
            )
    for folder in (below(root, name) for name in ("labels", "train/labels", "valid/labels", "val/labels")):
        if folder.is_dir() and next(folder.glob("*.txt"), None) is not None:
            return (
                f"{folder} holds a text file per picture (the YOLO form), which is not read: its numbers stand for no "
                "fixed order of classes. Expected labels.csv with the columns pth and label, or the layout that "
                "pre_process_affect_net writes from the released data"
            )
    return ""


def read_labels(label_file: Path) -> tuple[Listing, list[int]]:
    """Read `pth` and `label` of every row. Where the folder names another class the table is right, and this is said.

    Returns:
        the pictures of the table in the order of their paths, and their AffectNet labels (0 to 10).

    Raises:
        DatasetError: when the table is no text or lacks a column, a row is malformed or names an unknown class or a
            missing picture, or a picture has two rows.
    """
    folder = label_file.parent
    table = Table(label_file, ("pth", "label"), wanted="labels.csv")
    listing = list_files(folder, PHOTO_SUFFIXES, known=[label_file.name])
    on_disk = {_key(path.relative_to(folder)): path for path in listing.files}
    by_ending = only_ones(listing.files, lambda path: _key(path.relative_to(folder), 2))
    by_stem = only_ones(listing.files, lambda path: _key(path.relative_to(folder).with_suffix("")))
    labels: dict[Path, int] = {}
    absent, differing = [], 0
    for number, line in table.numbered():
        try:
            row = table.parse(line)
        except BadRow as error:
            raise DatasetError(f"{label_file}, line {number}: {error}") from None
        path = on_disk.get(_key(row["pth"])) or by_ending.get(_key(row["pth"], 2))
        path = path or by_stem.get(re.sub(r"\.\w+$", "", _key(row["pth"])))  # of pictures written in another format
        if path is None:
            absent.append(row["pth"])
            continue
        if path in labels:
            raise DatasetError(f"{label_file}, line {number}: {printable(row['pth'])} has a row already; expected one")
        label = CLASSES.get(row["label"].lower())
        if label is None:
            raise DatasetError(
                f"{label_file}, line {number}: the label is {printable(row['label'])!r}; expected the name of a class, "
                f"such as {', '.join(EXPRESSIONS[:8])}"
            )
        labels[path] = label
        differing += CLASSES.get(path.parent.name.lower(), label) != label
    if absent:
        raise DatasetError(
            f"{len(absent):,} of the {len(table):,} pictures listed in {label_file} are not in {folder} "
            f"(first: {printable(absent[0])}); unpack the data set again{encoding_hint(label_file, absent)}"
        )
    if not labels:
        raise DatasetError(f"{label_file} has no rows; expected one per picture, with the columns pth and label")
    if differing:
        print(f"{label_file}: {differing:,} of {len(labels):,} rows name another class than the folder; the row counts")
    listing.left_out["pictures without a row"] = len(on_disk) - len(labels)
    listing.files = sorted(labels)
    return listing, [labels[path] for path in listing.files]


def _key(path: str | Path, length: int = 0) -> str:
    """Return a path, or its last parts, as they are compared."""
    parts = [part for part in str(path).replace("\\", "/").lower().split("/") if part not in ("", ".")]
    return "/".join(parts[-length:])
