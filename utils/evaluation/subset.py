"""Which faces are scored: a split of a data set, or those of it that a list names."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from diversified_fer.media.picture import PHOTO_SUFFIXES
from utils.preparing.preprocess import SOURCES
from utils.preparing.table import BadRow, Table, cells_or_none, printable, separator_of, text_lines
from utils.udata import AFFECTNET_NAME, DatasetError, FaceDataset

HASH = re.compile(r"[0-9a-f]{32,64}")
IDENTIFIER = re.compile(  # of a picture, wherever it is in a name: FER+, RAF-DB, AffectNet's source pictures
    r"(?<![0-9a-z])(?:fer\d{7}|(?:train|test)_\d{4,5}|[0-9a-f]{32,64})(?![0-9a-z])", re.IGNORECASE
)
NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")
UP_TO_PICTURE = re.compile(
    rf"(.+(?:{'|'.join(map(re.escape, sorted(PHOTO_SUFFIXES, key=len, reverse=True)))}))(?=[\s,;\"]|$)", re.IGNORECASE
)
HEADER = {"name", "names", "file", "files", "filename", "file_name", "image", "images", "picture", "path", "pth"}


class Subset(NamedTuple):
    """Faces chosen by a list of names.

    Attributes:
        faces: the part of the data set.
        whole: number of faces of the data set.
        listed: number of different names in the list.
        unknown: names that no face has.
    """

    faces: FaceDataset
    whole: int
    listed: int
    unknown: list[str]


def find_rows(
    faces: FaceDataset, table: Path, column: str, rows: Iterable[tuple[int, dict[str, str]]], skipped: Counter[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the face of every row of a table and the row; counts rows that name none.

    Args:
        faces: whose names are looked for, as in `select_faces`.
        table: for messages.
        column: of the row, with the name.
        rows: number in the table and cells by column.
        skipped: counts.

    Raises:
        DatasetError: when a name fits several faces.
    """
    finder = _Finder(faces, read_sources(faces))
    for number, row in rows:
        _, face = finder.find(row[column], f"{table}, line {number}")
        if face is None:
            skipped["rows for no face that is scored"] += 1
        else:
            yield face, row


class ScoredFaces(NamedTuple):
    """The faces that checkpoints are scored on, as results should name them.

    Attributes:
        dataset: the faces.
        split: their part of the data set.
        label_rule: how annotations became labels.
        subset: how they were chosen, or None for all of the split.
        root: folder that file names are relative to.
        classes: those that are scored, where data and networks differ in theirs; None where they are the same.
        unanswered: by table of another tool's answers, how many faces were left out because it has none for them.
    """

    dataset: FaceDataset
    split: str
    label_rule: str
    subset: Subset | None
    root: Path
    classes: Any = None  # utils.evaluation.classes.Classes
    unanswered: Mapping[str, int] = MappingProxyType({})

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        subset = self.subset
        return {
            "data": self.dataset.name,
            "split": self.split,
            "label_rule": self.label_rule,
            "n": len(self.dataset),
            "subset": subset
            and {"of": subset.whole, "names_listed": subset.listed, "names_not_in_the_data_set": subset.unknown},
            "classes": self.classes and self.classes.as_dict(),
            "faces_without_an_answer": dict(self.unanswered),
        }

    def file_name(self, path: Path) -> str:
        """Return a picture's file name relative to the data set's folder."""
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()


def select_faces(faces: FaceDataset, names_file: Path) -> Subset:
    """Keep the faces whose names are in a file, in the data set's order.

    One name a line; other columns, empty lines, lines that begin with # and a header are left out. A line is a name as
    a whole, or the cell that looks like a picture is, or the first one. Names are compared without extension and
    without RAF-DB's "_aligned"; their folder counts only where several faces have the same name. Where no face has the
    name, what identifies a picture in it does (FER+'s fer0000000, RAF-DB's test_0000, a hash), and AffectNet's faces
    are found by the source picture that `pre_process_affect_net` noted in `sources.csv`.

    Raises:
        FileNotFoundError: when there is no such file.
        DatasetError: when it is no text, no name is in the data set, or a name fits several faces.
    """
    if not names_file.is_file():
        raise FileNotFoundError(f"no list of names at {names_file.absolute()}; expected one image name a line")
    sources = read_sources(faces)
    finder = _Finder(faces, sources)
    found_by_name: dict[str, int | None] = {}
    for number, line in text_lines(names_file, "a list with one image name a line"):
        line = line.strip()
        if line.startswith("#"):
            continue
        name, face = finder.find(line, f"{names_file}, line {number}")
        if face is None and not found_by_name and name.lower() in HEADER:
            continue
        if found_by_name.get(name) is None:
            found_by_name[name] = face
    chosen = sorted({face for face in found_by_name.values() if face is not None})
    unknown = [printable(name, 300) for name, face in found_by_name.items() if face is None]
    if not chosen:
        listed = ", ".join(unknown[:3]) or "nothing"
        why = (
            "AffectNet's faces are named by row; these lists name source pictures. Run pre_process_affect_net again on "
            f"the same folders: it keeps the faces and writes {SOURCES}, which leads from one to the other"
            if AFFECTNET_NAME.fullmatch(faces.paths[0].stem) and not sources
            else "is it the list of another data set or split?"
        )
        raise DatasetError(
            f"none of the {len(found_by_name):,} names in {names_file} ({listed}) is a face of {faces.name}, "
            f"whose files are named like {printable(faces.paths[0].name)}; {why}"
        )
    part = faces.subset(chosen, f"{faces.name}, subset {names_file.stem}")
    return Subset(part, len(faces), len(found_by_name), unknown)


def read_sources(faces: FaceDataset) -> dict[int, str]:
    """Return the source pictures of AffectNet's faces, by index in the data set; empty where none are noted.

    Raises:
        DatasetError: when a table of them is damaged.
    """
    read = cache(_read_sources)
    rows = [(AFFECTNET_NAME.fullmatch(path.stem), path.parent.parent / SOURCES) for path in faces.paths]
    found = {face: read(table).get(int(match[1])) for face, (match, table) in enumerate(rows) if match}
    return {face: source for face, source in found.items() if source is not None}


def _read_sources(path: Path) -> dict[int, str]:
    """Return the source pictures by row, none without a table."""
    if not path.is_file():
        return {}
    table = Table(path, ("row", "file"), wanted=SOURCES)
    found = {}
    for number, line in table.numbered():
        try:
            row = table.parse(line)
            found[int(row["row"])] = row["file"]
        except (BadRow, ValueError):
            raise DatasetError(
                f"{path}, line {number}: {printable(line)!r} is no row and picture; run pre_process_affect_net again"
            ) from None
    return found


class _Finder:
    """Finds faces by their names, by what identifies the picture in them, and by their source pictures."""

    def __init__(self, faces: FaceDataset, sources: dict[int, str]) -> None:
        self.faces = faces
        self.by_name: dict[str, list[tuple[int, Path]]] = defaultdict(list)
        self.by_identifier: dict[str, set[int]] = defaultdict(set)
        originals = ((face, Path(source.replace("\\", "/"))) for face, source in sources.items())
        for face, path in chain(enumerate(faces.paths), originals):
            self.by_name[_bare(path.name).lower()].append((face, path))
            for identifier in _identifiers(path.name):
                self.by_identifier[identifier].add(face)

    def find(self, line: str, where: str) -> tuple[str, int | None]:
        """Return the name on a line and the index of the face that has it, None without any.

        Raises DatasetError when it fits several faces.
        """
        likeliest, names = _possible_names(line)
        hashed = [name for name in names if any(map(HASH.fullmatch, _identifiers(name)))]
        # next to a hash, 8.jpg is a number in a folder
        by_name = ((name, name, self._named(name)) for name in names if not hashed)
        by_identifier = ((name, likeliest, self._identified(name)) for name in hashed or names)
        several = None
        for name, known_as, found in chain(by_name, by_identifier):
            if len(found) == 1:
                return known_as, found[0]
            if found and not several:
                several = (
                    f"{where}: {printable(name)} fits {len(found)} faces of {self.faces.name}, such as "
                    f"{printable(str(self.faces.paths[found[0]]), 300)}; write their folders before the name"
                )
        if several:
            raise DatasetError(several)
        return likeliest, None

    def _identified(self, name: str) -> list[int]:
        """Return the faces of the only identifier in a name."""
        identifiers = _identifiers(name)
        return sorted(self.by_identifier.get(identifiers[0], ())) if len(identifiers) == 1 else []

    def _named(self, name: str) -> list[int]:
        """Return the faces of a name, in the folders before it where several have it."""
        *folders, last = [part for part in name.replace("\\", "/").split("/") if part] or [""]
        found = self.by_name.get(_bare(last).lower(), [])
        ending = [folder.lower() for folder in folders]

        def ends_in(path: Path, length: int) -> bool:  # of another machine the first folders differ
            return [part.lower() for part in path.parent.parts[-length:]] == ending[-length:]

        if len({face for face, _ in found}) > 1:
            found = [(face, path) for face, path in found if _bare(path.name) == _bare(last)] or found
        for length in range(len(ending), 0, -1):
            fitting = [(face, path) for face, path in found if ends_in(path, length)]
            if fitting and len({face for face, _ in found}) > 1:
                found = fitting
                break
        return sorted({face for face, _ in found})


def _possible_names(line: str) -> tuple[str, list[str]]:
    """Return the likeliest name on a line, and all that may be it in the order to try: the whole, pictures, the first.

    The likeliest is the first cell that looks like a picture, then what ends like one, then the first word.
    """
    cells = [cell.strip() for cell in cells_or_none(line, separator_of(line, lambda cells: len(cells) > 1))] or [line]
    words = [word for cell in cells for word in _words(cell)]
    begins = [match[1].strip('"') for match in [UP_TO_PICTURE.match(line)] if match]
    pictures = [*filter(_is_picture, cells), *begins, *filter(_is_picture, words)]
    whole = cells[0] if len(cells) == 1 else line
    names = [name for name in (whole, *pictures, *cells[:1], *words[:1]) if name.strip("/\\ ")]
    return next(iter([*pictures, *words[:1], line])), list(dict.fromkeys(names))


def _words(cell: str) -> list[str]:
    """Return the words of a cell that may be a name alone: the first, and one among numbers; names may have blanks."""
    words = cell.split()
    others = [word for word in words if not NUMBER.fullmatch(word)]
    return words[:1] + (others if len(others) == 1 else [])


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in PHOTO_SUFFIXES


def _identifiers(name: str) -> list[str]:
    return list(dict.fromkeys(match.lower() for match in IDENTIFIER.findall(name)))


def _bare(name: str) -> str:
    stem = Path(name).stem if _is_picture(name) else name
    return stem.removesuffix("_aligned")
