"""Reads AffectNet's annotations as they are released: which picture, which part of it, which labels.

AffectNet (Mollahosseini, Hasani, Mahoor, IEEE TAC 2019) was released twice. The first release has photographs and one
table per set; the current one has cropped faces and a few small files per face. `find_affect_net` recognises either.
"""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diversified_fer.folder import folders_in, list_files, one_named
from diversified_fer.media.picture import PHOTO_SUFFIXES
from models.classifier import EMOTIONS
from utils.preparing.table import BadRow, Table, cells_or_none, printable

EXPRESSIONS = (*EMOTIONS, "None", "Uncertain", "No-Face")
COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks",
           "expression", "valence", "arousal")  # fmt: skip
FIRST_LAYOUT = (
    "first release: Manually_Annotated_*/ and Automatically_Annotated_*/ with the photographs, and training.csv, "
    "validation.csv, automatically_annotated.csv"
)
CURRENT_LAYOUT = "current release: {train,val}_set/images/N.jpg and {train,val}_set/annotations/N_{exp,val,aro,lnd}.npy"
MOST_BYTES = 100_000  # of a file that holds a single value; a damaged header may claim any size
WHERE = "AffectNet is requested at AffectNet's web page, http://mohammadmahoor.com/databases/affectnet/"


class ReleasedSet(NamedTuple):
    """Where one of the three sets of AffectNet comes from and goes to."""

    destination: str
    tables: tuple[str, ...]  # names of the annotation table, compared without regard to case
    photographs: str  # how the names of folders with its photographs begin, first release
    faces: str | None  # its folder in the current release, which has no automatically annotated set


RELEASED_SETS = (
    ReleasedSet("Training_Unlabeled", ("automatically_annotated.csv",), "automatically_annotated", None),
    ReleasedSet("Training_Labeled", ("training.csv", "manually_training.csv"), "manually_annotated", "train_set"),
    ReleasedSet("Validation", ("validation.csv", "manually_validation.csv"), "manually_annotated", "val_set"),
)


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


class FirstRelease:
    """A set of AffectNet's first release: photographs, and a table with a box and labels for each face.

    Iterating yields the rows' numbers, from 0 and without the header, and what `file_name` and `parse` take.
    """

    def __init__(self, table: Table, folders: list[Path]) -> None:
        self.table = table
        self.folders = folders
        self.name = table.path.name
        self.sha256 = table.sha256
        self.others: dict[Path, tuple[Path, dict[str, list[str]]]] = {}  # folders searched in any case: by stem

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return enumerate(self.table)

    def file_name(self, line: str) -> str:
        """Return the picture's name as it is annotated; the first cell of a malformed row."""
        try:
            return self.table.parse(line)["subDirectory_filePath"]
        except BadRow:
            return next(iter(cells_or_none(line, self.table.separator)), "").strip()

    def parse(self, line: str) -> FaceRow:
        """Return the face of a row; raises BadRow."""
        row = self.table.parse(line)
        if not row["subDirectory_filePath"]:
            raise BadRow("the row names no picture")
        box = Box(*(round(_number(name, row[name])) for name in ("face_x", "face_y", "face_width", "face_height")))
        labels = _labels(row["expression"], row["valence"], row["arousal"])
        return FaceRow(row["subDirectory_filePath"], box, *labels)

    def find(self, name: str) -> Path:
        """Return the photograph, in its sub-directory or without it; raises BadRow.

        Backslashes, a disk's name, letters in another case and another suffix than the table's are seen through.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        endings = list(dict.fromkeys("/".join(parts[-length:]) for length in (len(parts), 2, 1) if parts))
        candidates = [folder / ending for folder in self.folders for ending in endings]
        try:
            path = next((path for path in candidates if path.is_file()), None)
            path = path or next(filter(None, map(self._written_otherwise, candidates)), None)
        except OSError as error:
            raise BadRow(f"the picture cannot be reached: {error.strerror}") from None
        if path is None:
            raise BadRow("the picture is missing")
        return path

    def _written_otherwise(self, path: Path) -> Path | None:
        """Return the only picture whose path differs in the case of letters or in its suffix, None without any."""
        if path.parent not in self.others:  # several threads may list the same folder; each finds the same
            folder = path.parent if path.parent.is_dir() else one_named(path.parent.parent, path.parent.name)
            by_stem: dict[str, list[str]] = defaultdict(list)
            for file in list_files(folder, PHOTO_SUFFIXES, depth=0).files if folder.is_dir() else ():
                by_stem[file.stem.lower()].append(file.name)
            self.others[path.parent] = folder, dict(by_stem)
        folder, names_by_stem = self.others[path.parent]
        names = names_by_stem.get(path.stem.lower(), [])
        same = [name for name in names if name.lower() == path.name.lower()]
        names = same or (names if path.suffix.lower() in PHOTO_SUFFIXES else [])
        return folder / names[0] if len(names) == 1 else None

    def look_first_where_the_first_photograph_is(self) -> None:
        """Put the folder that holds the first photograph found before the others; FileNotFoundError without any."""
        reason = ""
        for number, line in self:
            file = ""
            try:
                file = self.parse(line).file
                path = self.find(file)
            except BadRow as error:
                reason = reason or f" (row {number}: {error}{self._nearest(file)})"
            else:
                self.folders.sort(key=lambda folder, path=path: not path.is_relative_to(folder))
                return
        raise FileNotFoundError(
            f"{self.table.path} has {len(self):,} rows, but none whose photograph is there{reason}. Looked in "
            f"{', '.join(map(str, self.folders))}. Expected the {FIRST_LAYOUT}. {WHERE}"
        )

    def _nearest(self, file: str) -> str:
        """Name a path looked for, and what is there of it."""
        if not file:
            return ""
        path = self.folders[0] / file.replace("\\", "/")
        looked = f"; looked for {printable(str(path), 300)}"
        try:
            existing = next(parent for parent in path.parents if parent.is_dir())
            found = min(entry.name for entry in existing.iterdir())
        except (OSError, StopIteration):  # a part of the path is longer than any name
            return looked
        except ValueError:
            return f"{looked}, of which {existing} is there and is empty"
        return f"{looked}, of which {existing} is there and holds {printable(found)}, for instance"


class CurrentRelease:
    """A set of AffectNet's current release: cropped faces `N.jpg` and `N_{exp,val,aro}.npy` for each.

    Iterating yields N and what `file_name` and `parse` take, in numerical order, for every N with a picture or a label.
    Pictures may have another suffix, and names may have zeros before N.
    """

    def __init__(self, images: Path, annotations: Path) -> None:
        self.images = images
        self.annotations = annotations
        self.name = f"{annotations.absolute().parent.name}/{annotations.name}"
        self.others: dict[str, list[str]] = defaultdict(list)  # names as released -> other names, where there are any
        pictures = list_files(images, PHOTO_SUFFIXES, depth=0)
        labels = list_files(annotations, {".npy"}, depth=0)
        numbered = self._numbers(pictures.files, r"(\d{1,9})()", ".jpg")
        numbers = numbered | self._numbers(labels.files, r"(\d{1,9})(_(?:exp|val|aro))", ".npy")
        self.numbers = sorted(numbers)
        self.sha256 = hashlib.sha256(",".join(map(str, self.numbers)).encode()).hexdigest()
        if not self.numbers:
            raise FileNotFoundError(
                f"{images} holds no N.jpg and {annotations} no N_exp.npy. Expected the {CURRENT_LAYOUT}. {WHERE}"
            )
        if not numbered:
            raise FileNotFoundError(
                f"{annotations} has labels of {len(self.numbers):,} faces, but {images} holds no picture of any "
                f"({pictures or 'nothing'} is there). Expected the {CURRENT_LAYOUT}. {WHERE}"
            )
        for folder, listing in ((images, pictures), (annotations, labels)):
            if listing.left_out:
                print(f"{folder}: left out {listing}")

    def _numbers(self, files: list[Path], pattern: str, suffix: str) -> set[int]:
        """Return the numbers of files, and note those that are named otherwise than in the release."""
        numbers, unnumbered = set(), 0
        for path in files:
            match = re.fullmatch(pattern, path.stem, re.ASCII)
            if match is None:
                unnumbered += not re.fullmatch(r"\d+_lnd", path.stem)
                continue
            numbers.add(int(match[1]))
            released = f"{int(match[1])}{match[2]}{suffix}"
            if path.name != released:
                self.others[released].append(path.name)
        if unnumbered:
            print(f"{files[0].parent}: left out {unnumbered:,} {suffix} files whose names are no numbers")
        return numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((number, number) for number in self.numbers)

    def file_name(self, number: int) -> str:
        """Return the picture's name."""
        return self.others.get(f"{number}.jpg", [f"{number}.jpg"])[0]

    def parse(self, number: int) -> FaceRow:
        """Return face N; raises BadRow."""
        labels = _labels(*(self._read(f"{number}_{label}.npy") for label in ("exp", "val", "aro")))
        return FaceRow(f"{number}.jpg", None, *labels)

    def find(self, name: str) -> Path:
        """Return the picture; raises BadRow."""
        return self._only(self.images, name, "the picture")

    def _only(self, folder: Path, name: str, what: str) -> Path:
        """Return the only file that is this one as it is released, or named otherwise; raises BadRow."""
        names = [name] if (folder / name).is_file() else []
        names += self.others.get(name, [])
        if not names:
            raise BadRow(f"{what} is missing")
        if len(names) > 1:
            raise BadRow(f"{what} is there more than once: {', '.join(names)}")
        return folder / names[0]

    def _read(self, name: str) -> Any:
        """Return the number or text in a file of a single value; raises BadRow."""
        path = self._only(self.annotations, name, name)
        try:
            size = path.stat().st_size
            data = path.read_bytes() if size <= MOST_BYTES else b""
        except OSError as error:
            raise BadRow(f"{name} cannot be read: {error.strerror}") from None
        if not data:
            raise BadRow(f"{name} holds no single value ({size:,} bytes)")
        if re.match(rb"\x80[\x02-\x05]", data) or re.search(rb"'descr': *'\|O", data[:200]):
            raise BadRow(f"{name} holds a Python object (pickled), which is never opened; re-save it as a plain number")
        try:
            return np.load(BytesIO(data), allow_pickle=False).item()
        except Exception:  # a damaged header raises nearly anything: TokenError, SyntaxError, MemoryError, ...
            raise BadRow(f"{name} holds no single value") from None


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        raise BadRow(f"{name} is {printable(repr(value))}, not a number") from None
    if not math.isfinite(number):
        raise BadRow(f"{name} is {printable(repr(value))}, not a finite number")
    return number


def _labels(expression: Any, valence: Any, arousal: Any) -> tuple[int, int, int]:
    """Return the expression and valence and arousal in thousandths; raises BadRow."""
    label = _number("expression", expression)
    if not (label.is_integer() and 0 <= label < len(EXPRESSIONS)):
        raise BadRow(f"expression is {label:g}, not one of 0 to {len(EXPRESSIONS) - 1}")
    affect = []
    for name, value in (("valence", valence), ("arousal", arousal)):
        number = _number(name, value)
        thousandths = round(max(-9.0, min(9.0, number)) * 1000)  # beyond any that is meant, within those that multiply
        if abs(thousandths) > 1000 and thousandths != -2000:
            raise BadRow(f"{name} is {number:g}, neither within -1 and 1 nor -2 (AffectNet's sign for none)")
        affect.append(thousandths)
    return int(label), affect[0], affect[1]


def find_affect_net(images: Path, annotations: Path, set_index: int) -> FirstRelease | CurrentRelease:
    """Find one of the three sets of AffectNet (0 automatically annotated, 1 training, 2 validation) in either release.

    Raises:
        FileNotFoundError: when neither release is there; it names the paths looked at and the layouts expected.
        ValueError: when the set is not part of the release, or the table has other columns or is another set's.
    """
    split = RELEASED_SETS[set_index]
    table = _find_table(annotations, split)
    if table is not None:
        needed = tuple(name for name in COLUMNS if name != "facial_landmarks")
        release = FirstRelease(Table(table, needed, COLUMNS), _photograph_folders(images, split))
        release.look_first_where_the_first_photograph_is()
        return release
    pictures = _set_folders(images, split.faces, "images") if split.faces else []
    labels = _set_folders(annotations, split.faces, "annotations") if split.faces else []
    found = [next(filter(Path.is_dir, folders), None) for folders in (pictures, labels)]
    if found[0] and found[1]:
        return CurrentRelease(found[0], found[1])
    current = (root / name / "images" for root in (images, images.parent) for name in ("train_set", "val_set"))
    if split.faces is None and any(folder.is_dir() for folder in current):
        raise ValueError(
            f"{images} is AffectNet's current release, which has no automatically annotated set (set_index 0); "
            "use set_index 1 (training) or 2 (validation)"
        )
    looked_at = dict.fromkeys([*(annotations / name for name in split.tables), *pictures, *labels])
    absent = ", ".join(str(path) for path in dict.fromkeys((images, annotations)) if not path.exists())
    raise FileNotFoundError(
        f"AffectNet's {split.destination} is not there{f' ({absent} does not exist)' if absent else ''}. Looked at "
        f"{', '.join(map(str, looked_at))}. Expected the {FIRST_LAYOUT}; or the {CURRENT_LAYOUT}. {WHERE}"
    )


def _find_table(annotations: Path, split: ReleasedSet) -> Path | None:
    """Return the set's table: the path itself, or one of its known names in the folder or a `*file_list*` in it.

    Raises ValueError when the path itself has the name of another set's table.
    """
    if not annotations.is_dir():
        for set_index, other in enumerate(RELEASED_SETS):
            if other != split and annotations.name.lower() in other.tables:
                raise ValueError(
                    f"{annotations} is the table of AffectNet's {other.destination} (set_index {set_index}), and asked "
                    f"for is {split.destination}: name {split.tables[0]}, or set set_index to {set_index}"
                )
        return annotations if annotations.is_file() else None
    lists = [path for path in folders_in(annotations) if "file_list" in path.name.lower()]
    tables = (one_named(folder, name) for folder in (annotations, *lists) for name in split.tables)
    return next(filter(Path.is_file, tables), None)


def _photograph_folders(images: Path, split: ReleasedSet) -> list[Path]:
    """Return the folders that may hold the set's photographs; the archives unpack into folders of the same name."""

    def inside(folder: Path) -> list[Path]:
        return [path for path in folders_in(folder) if path.name.lower().startswith(split.photographs)]

    outer = inside(images) if images.is_dir() else []
    return [nested for folder in outer for nested in inside(folder)] + outer + [images]


def _set_folders(root: Path, name: str, kind: str) -> list[Path]:
    """Return where a set's pictures or labels may be: in the release, in the set's folder, or in `root` itself."""
    folders = [one_named(one_named(root, name), kind)]
    absolute = root.absolute()
    other = {"train_set", "val_set"} - {name}
    if absolute.name not in other:
        folders.append(one_named(root, kind))
    if absolute.name == kind and absolute.parent.name not in other:
        folders.append(root)
    return folders
