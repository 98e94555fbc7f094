"""Reads AffectNet's annotations as they are released: which picture, which part of it, which labels.

AffectNet (Mollahosseini, Hasani, Mahoor, IEEE TAC 2019) was released twice. The first release has photographs and one
table per set; the current one has cropped faces and a few small files per face. `find_affect_net` recognises either.
"""

import csv
import hashlib
import math
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

EXPRESSIONS = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt",
               "None", "Uncertain", "No-Face")  # fmt: skip
COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks",
           "expression", "valence", "arousal")  # fmt: skip
NEEDED_COLUMNS = tuple(name for name in COLUMNS if name != "facial_landmarks")
FIRST_LAYOUT = (
    "first release: Manually_Annotated_*/ and Automatically_Annotated_*/ with the photographs, and training.csv, "
    "validation.csv, automatically_annotated.csv"
)
CURRENT_LAYOUT = "current release: {train,val}_set/images/N.jpg and {train,val}_set/annotations/N_{exp,val,aro,lnd}.npy"
WHERE = "AffectNet is requested at AffectNet's web page, http://mohammadmahoor.com/databases/affectnet/"


class Split(NamedTuple):
    """Where one of the three sets of AffectNet comes from and goes to."""

    destination: str
    tables: tuple[str, ...]  # names of the annotation table, compared without regard to case
    photographs: str  # how the names of folders with its photographs begin, first release
    faces: str | None  # its folder in the current release, which has no automatically annotated set


SPLITS = (
    Split("Training_Unlabeled", ("automatically_annotated.csv",), "automatically_annotated", None),
    Split("Training_Labeled", ("training.csv", "manually_training.csv"), "manually_annotated", "train_set"),
    Split("Validation", ("validation.csv", "manually_validation.csv"), "manually_annotated", "val_set"),
)


class BadRow(Exception):
    """A row that cannot be used; the message is the reason given in `errors.csv`."""


class Box(NamedTuple):
    """A face in a photograph, in pixels of the stored picture; it may reach past the picture's edges."""

    left: int
    top: int
    width: int
    height: int


class FaceRow(NamedTuple):
    """One annotated face. Without a box the whole picture is the face."""

    file: str  # what `find` of its release takes
    box: Box | None
    expression: int  # index in EXPRESSIONS
    valence: int  # in thousandths, -1000 to 1000; -2000 where AffectNet has none
    arousal: int


class Table:
    """A CSV file, read line by line so that neither its size nor a stray quotation mark does harm.

    The names of columns are found without regard to case. Blank lines do not count as rows.

    Args:
        path: the file.
        columns: the columns needed.
        default_columns: all columns in order, for a file that begins with a row instead of a header.

    Raises:
        ValueError: when the header lacks a column.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], default_columns: tuple[str, ...] = ()) -> None:
        self.path = path
        digest, lines, first = hashlib.sha256(), 0, b""
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                if line.strip():
                    first = first or line
                    lines += 1
        self.sha256 = digest.hexdigest()
        header = [name.strip().lower() for name in _cells_or_none(first)]
        missing = [name for name in columns if name.lower() not in header]
        self.has_header = not (len(header) == len(default_columns) and any(_is_number(name) for name in header))
        if not self.has_header:
            header = [name.lower() for name in default_columns]
        elif missing:
            raise ValueError(
                f"{path} has no column {', '.join(missing)}; expected a header with {', '.join(columns)}, "
                f"found {first[:200].decode('utf-8', 'replace').strip() or 'an empty file'!r}"
            )
        self.num_columns = len(header)
        self.positions = {name: header.index(name.lower()) for name in columns}
        self.num_rows = lines - self.has_header

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[bytes]:
        """Yield the lines of the rows, without the header."""
        with self.path.open("rb") as file:
            lines = (line for line in file if line.strip())
            if self.has_header:
                next(lines)
            yield from lines

    def parse(self, line: bytes) -> dict[str, str]:
        """Return a row's cells by column; raises BadRow when their number is not the header's."""
        cells = _cells(line)
        while len(cells) > self.num_columns and not cells[-1].strip():
            cells.pop()
        if len(cells) != self.num_columns:
            raise BadRow(f"the row has {len(cells)} columns instead of {self.num_columns}")
        return {name: cells[position].strip() for name, position in self.positions.items()}

    def first_cell(self, line: bytes) -> str:
        """Return a row's first cell, however malformed the row is, to name it in `errors.csv`."""
        return next(iter(_cells_or_none(line)), "").strip()


def _cells_or_none(line: bytes) -> list[str]:
    try:
        return _cells(line)
    except BadRow:
        return []


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _cells(line: bytes) -> list[str]:
    # surrogateescape: a name that is not UTF-8 still leads to the file of that name
    text = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").strip("\r\n")
    try:
        return next(csv.reader([text]), [])
    except csv.Error as error:
        raise BadRow(f"the row is no CSV: {error}") from None


class FirstRelease:
    """A set of AffectNet's first release: photographs, and a table with a box and labels for each face.

    Iterating yields the rows' numbers, from 0 and without the header, and what `file_name` and `parse` take.
    """

    def __init__(self, table: Table, folders: list[Path]) -> None:
        self.table = table
        self.folders = folders
        self.name = table.path.name
        self.sha256 = table.sha256

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return zip(count(), self.table, strict=False)

    def file_name(self, line: bytes) -> str:
        """Return the picture's name as it is annotated."""
        return self.table.first_cell(line)

    def parse(self, line: bytes) -> FaceRow:
        """Return the face of a row; raises BadRow."""
        row = self.table.parse(line)
        if not row["subDirectory_filePath"]:
            raise BadRow("the row names no picture")
        box = Box(*(round(_number(name, row[name])) for name in ("face_x", "face_y", "face_width", "face_height")))
        labels = _labels(row["expression"], row["valence"], row["arousal"])
        return FaceRow(row["subDirectory_filePath"], box, *labels)

    def find(self, name: str) -> Path:
        """Return the photograph, in its sub-directory or without it; raises BadRow."""
        candidates = (path for folder in self.folders for path in (folder / name, folder / Path(name).name))
        try:
            path = next((path for path in candidates if path.is_file()), None)
        except OSError as error:
            raise BadRow(f"the picture cannot be reached: {error.strerror}") from None
        if path is None:
            raise BadRow("the picture is missing")
        return path

    def look_first_where_the_first_photograph_is(self) -> None:
        """Put the folder that holds the first photograph found before the others; FileNotFoundError without any."""
        reason = ""
        for number, line in self:
            try:
                path = self.find(self.parse(line).file)
            except BadRow as error:
                reason = reason or f" (row {number}: {error})"
            else:
                self.folders = sorted(self.folders, key=lambda folder, path=path: not path.is_relative_to(folder))
                return
        raise FileNotFoundError(
            f"{self.table.path} has {len(self):,} rows, but none whose photograph is there{reason}. Looked in "
            f"{', '.join(str(folder) for folder in self.folders)}. Expected the {FIRST_LAYOUT}. {WHERE}"
        )


class CurrentRelease:
    """A set of AffectNet's current release: cropped faces `N.jpg` and `N_{exp,val,aro}.npy` for each.

    Iterating yields N and what `file_name` and `parse` take, in numerical order, for every N with a picture or a label.
    """

    def __init__(self, images: Path, annotations: Path) -> None:
        self.images = images
        self.annotations = annotations
        self.name = f"{annotations.absolute().parent.name}/{annotations.name}"
        pictures = (re.fullmatch(r"(\d+)\.jpg", path.name) for path in images.iterdir())
        labels = (re.fullmatch(r"(\d+)_(?:exp|val|aro)\.npy", path.name) for path in annotations.iterdir())
        self.numbers = sorted({int(match[1]) for matches in (pictures, labels) for match in matches if match})
        self.sha256 = hashlib.sha256(",".join(map(str, self.numbers)).encode()).hexdigest()
        if not self.numbers:
            raise FileNotFoundError(
                f"{images} holds no N.jpg and {annotations} no N_exp.npy. Expected the {CURRENT_LAYOUT}. {WHERE}"
            )

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((number, number) for number in self.numbers)

    def file_name(self, number: int) -> str:
        """Return the picture's name."""
        return f"{number}.jpg"

    def parse(self, number: int) -> FaceRow:
        """Return face N; raises BadRow."""
        labels = _labels(*(self._read(f"{number}_{label}.npy") for label in ("exp", "val", "aro")))
        return FaceRow(self.file_name(number), None, *labels)

    def find(self, name: str) -> Path:
        """Return the picture; raises BadRow."""
        if not (self.images / name).is_file():
            raise BadRow("the picture is missing")
        return self.images / name

    def _read(self, name: str) -> Any:
        """Return the number or text in a file of a single value; raises BadRow."""
        try:
            return np.load(self.annotations / name, allow_pickle=False).item()
        except FileNotFoundError:
            raise BadRow(f"{name} is missing") from None
        except (
            Exception
        ):  # for a damaged header NumPy raises nearly anything: TokenError, SyntaxError, SystemError, ...
            raise BadRow(f"{name} holds no single value") from None


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (ValueError, TypeError):
        raise BadRow(f"{name} is {value!r}, not a number") from None
    if not math.isfinite(number):
        raise BadRow(f"{name} is {value!r}, not a finite number")
    return number


def _labels(expression: Any, valence: Any, arousal: Any) -> tuple[int, int, int]:
    """Return the expression and valence and arousal in thousandths; raises BadRow."""
    label = _number("expression", expression)
    if not (label.is_integer() and 0 <= label < len(EXPRESSIONS)):
        raise BadRow(f"expression is {expression}, not one of 0 to {len(EXPRESSIONS) - 1}")
    affect = []
    for name, value in (("valence", valence), ("arousal", arousal)):
        thousandths = round(_number(name, value) * 1000)
        if abs(thousandths) > 1000 and thousandths != -2000:
            raise BadRow(f"{name} is {value}, neither within -1 and 1 nor -2 (AffectNet's sign for none)")
        affect.append(thousandths)
    return int(label), affect[0], affect[1]


def find_affect_net(images: Path, annotations: Path, set_index: int) -> FirstRelease | CurrentRelease:
    """Find one of the three sets of AffectNet (0 automatically annotated, 1 training, 2 validation) in either release.

    Raises:
        FileNotFoundError: when neither release is there; it names the paths looked at and the layouts expected.
        ValueError: when the set is not part of the release, or the table has other columns.
    """
    split = SPLITS[set_index]
    table = _find_table(annotations, split)
    if table is not None:
        release = FirstRelease(Table(table, NEEDED_COLUMNS, COLUMNS), _photograph_folders(images, split))
        release.look_first_where_the_first_photograph_is()
        return release
    if split.faces is None:
        if any(
            (root / name / "images").is_dir() for root in (images, images.parent) for name in ("train_set", "val_set")
        ):
            raise ValueError(
                f"{images} is AffectNet's current release, which has no automatically annotated set (set_index 0); "
                "use set_index 1 (training) or 2 (validation)"
            )
        raise _not_found(images, annotations, split, [])
    pictures = _set_folders(images, split.faces, "images")
    labels = _set_folders(annotations, split.faces, "annotations")
    found = [next((folder for folder in folders if folder.is_dir()), None) for folders in (pictures, labels)]
    if found[0] is None or found[1] is None:
        raise _not_found(images, annotations, split, pictures + labels)
    return CurrentRelease(found[0], found[1])


def _find_table(annotations: Path, split: Split) -> Path | None:
    """Return the set's table: the path itself, or one of its known names in the folder or a `*file_list*` in it."""
    if annotations.is_file():
        return annotations
    if not annotations.is_dir():
        return None
    lists = sorted(path for path in annotations.iterdir() if path.is_dir() and "file_list" in path.name.lower())
    for folder in (annotations, *lists):
        by_name = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_file()}
        for name in split.tables:
            if name in by_name:
                return by_name[name]
    return None


def _photograph_folders(images: Path, split: Split) -> list[Path]:
    """Return the folders that may hold the set's photographs; the archives unpack into folders of the same name."""

    def inside(folder: Path) -> list[Path]:
        if not folder.is_dir():
            return []
        return sorted(p for p in folder.iterdir() if p.is_dir() and p.name.lower().startswith(split.photographs))

    outer = inside(images)
    return [nested for folder in outer for nested in inside(folder)] + outer + [images]


def _set_folders(root: Path, name: str, kind: str) -> list[Path]:
    """Return where a set's pictures or labels may lie: in the release, in the set's folder, or in `root` itself."""
    folders = [root / name / kind]
    absolute = root.absolute()
    other = {"train_set", "val_set"} - {name}
    if absolute.name not in other:
        folders.append(root / kind)
    if absolute.name == kind and absolute.parent.name not in other:
        folders.append(root)
    return folders


def _not_found(images: Path, annotations: Path, split: Split, folders: list[Path]) -> FileNotFoundError:
    looked_at = [annotations / name for name in split.tables] + folders
    absent = ", ".join(str(path) for path in dict.fromkeys((images, annotations)) if not path.exists())
    return FileNotFoundError(
        f"AffectNet's {split.destination} is not there{f' ({absent} does not exist)' if absent else ''}. Looked at "
        f"{', '.join(str(path) for path in dict.fromkeys(looked_at))}. Expected the {FIRST_LAYOUT}; or the "
        f"{CURRENT_LAYOUT}. {WHERE}"
    )
