"""Which faces are scored: a split of a data set, or those of it that a list names."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from diversified_fer.media.picture import PHOTO_SUFFIXES
from utils.preparing.named import SPLIT_WORDS, composed, count_same_at_end, emotion_of, is_picture_name
from utils.preparing.preprocess import SOURCES
from utils.preparing.table import (
    BadRow,
    Table,
    cells_or_none,
    encoding_hint,
    is_utf8,
    printable,
    separator_of,
    text_lines,
)
from utils.udata import AFFECTNET_NAME, DatasetError, FaceDataset

HASH = re.compile(r"[0-9a-f]{32,64}")
IDENTIFIER = re.compile(  # of a picture, wherever it is in a name: FER+, RAF-DB, AffectNet's source pictures
    r"(?<![0-9a-z])(?:fer\d{7}|(?:train|test)_\d{4,5}|[0-9a-f]{32,64})(?![0-9a-z])", re.IGNORECASE
)
NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")
UP_TO_PICTURE = re.compile(
    rf"(.+(?:{'|'.join(map(re.escape, sorted(PHOTO_SUFFIXES, key=len, reverse=True)))}))(?=[\s,;\"]|$)", re.IGNORECASE
)
SPLIT_FOLDER = re.compile(  # valid, FER2013Valid, val_set, Training_Labeled; "3 valid" is a number before a path
    rf"(?:.*\s)?(?:fer2013)?({'|'.join(SPLIT_WORDS)})(?:_set|_labeled)?", re.IGNORECASE
)
OUTDONE = "rows for a face that another row names more exactly"
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


class _Agreement(NamedTuple):
    """How well a name agrees with that of a face; the greater is better.

    Attributes:
        in_case: the name is the same in capital and small letters too.
        folders: number of folders before the name that are the same, from the last one on; -1 where it is not the name
            that agrees, but what identifies the picture in it.
        in_full: the name has the same ending, such as .png.
    """

    in_case: bool
    folders: int
    in_full: bool


class _Match(NamedTuple):
    """What a line names.

    Attributes:
        name: the name on it.
        face: index of the face that has the name; None without any.
        agreement: how well the name fits that face; None without any.
        elsewhere: whether the name is that of a face, but in the folder of another split or class.
    """

    name: str
    face: int | None = None
    agreement: _Agreement | None = None
    elsewhere: bool = False


def find_rows(
    faces: FaceDataset, table: Path, column: str, rows: Iterable[tuple[int, dict[str, str]]], skipped: Counter[str]
) -> dict[int, list[dict[str, str]]]:
    """Return, by face, the rows of a table whose names agree best with its path, in their order; counts the others.

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
    best: dict[int, tuple[_Agreement, list[dict[str, str]]]] = {}
    for number, row in rows:
        match = finder.find(row[column], f"{table}, line {number}")
        if match.face is None or match.agreement is None:
            skipped[_why_skipped(match, row[column])] += 1
            continue
        agreement, kept = best.get(match.face, (match.agreement, []))
        if match.agreement < agreement:
            skipped[OUTDONE] += 1
            continue
        if match.agreement > agreement:
            skipped[OUTDONE] += len(kept)
            kept = []
        kept.append(row)
        best[match.face] = (match.agreement, kept)
    return {face: kept for face, (_, kept) in best.items()}


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
    without RAF-DB's "_aligned"; where several faces have the same name, the one whose folders agree most is meant. A
    name in the folder of another split (`utils.preparing.named.SPLITS`) or class than a face's is never its name,
    unless it is a hash. Where no face has the name, what identifies a picture in it does (FER+'s fer0000000, RAF-DB's
    test_0000, a hash), and AffectNet's faces are found by the source picture that `pre_process_affect_net` noted in
    `sources.csv`.

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
        name, face, *_ = finder.find(line, f"{names_file}, line {number}")
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
            f"{encoding_hint(names_file, found_by_name)}"
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
        self._is_folder = cache(Path.is_dir)
        self.by_name: dict[str, list[tuple[int, Path]]] = defaultdict(list)
        self.by_identifier: dict[str, set[int]] = defaultdict(set)
        originals = ((face, Path(source.replace("\\", "/"))) for face, source in sources.items())
        for face, path in chain(enumerate(faces.paths), originals):
            self.by_name[_bare(composed(path.name)).lower()].append((face, path))
            for identifier in _identifiers(path.name):
                self.by_identifier[identifier].add(face)

    def find(self, line: str, where: str) -> _Match:
        """Return the name on a line and the face that has it; raises DatasetError when it fits several faces."""
        likeliest, names = _possible_names(line)
        hashed = [name for name in names if any(map(HASH.fullmatch, _identifiers(name)))]
        # next to a hash, 8.jpg is a number in a folder
        by_name = ((name, name, self._named(name)) for name in names if not hashed)
        by_identifier = ((name, likeliest, self._identified(name)) for name in hashed or names)
        several, elsewhere = None, False
        for name, known_as, (everywhere, agreement) in chain(by_name, by_identifier):
            # a hash is of the same picture wherever it is
            found = [face for face in everywhere if hashed or not self._is_elsewhere(face, name)]
            elsewhere |= len(found) < len(everywhere)
            if len(found) == 1:
                return _Match(known_as, found[0], agreement)
            if found and not several:
                several = (
                    f"{where}: {printable(name)} fits {len(found)} faces of {self.faces.name}, such as "
                    f"{printable(str(self.faces.paths[found[0]]), 300)}; write their folders before the name"
                )
        if several:
            raise DatasetError(several)
        return _Match(likeliest, elsewhere=elsewhere)

    def _identified(self, name: str) -> tuple[list[int], _Agreement]:
        """Return the faces of the only identifier in a name."""
        identifiers = _identifiers(name)
        found = sorted(self.by_identifier.get(identifiers[0], ())) if len(identifiers) == 1 else []
        return found, _Agreement(False, -1, False)

    def _named(self, name: str) -> tuple[list[int], _Agreement]:
        """Return the faces of a name that agree best with it and the folders before it, and how well they do."""
        *folders, last = _parts(name) or [""]
        found = []
        for face, path in self.by_name.get(_bare(last).lower(), []):
            own = composed(path.name)
            in_case, in_full = _bare(own) == _bare(last), own == last
            found.append(
                (_Agreement(in_case, count_same_at_end(path.parent.parts, folders, _is_same_folder), in_full), face)
            )
        best = max((agreement for agreement, _ in found), default=_Agreement(False, 0, False))
        return sorted({face for agreement, face in found if agreement == best}), best

    def _is_elsewhere(self, face: int, name: str) -> bool:
        """Tell whether a name is in the folder of another split than a face, or of another class.

        Of another class is a folder named after another emotion, or, where the face's is one of a class, another one
        beside it. Numbers name no class, and what identifies a picture does so in every folder.
        """
        path, folders = self.faces.paths[face], _parts(name)[:-1]
        named = _split_of(folders)
        own = {_split_of(path.parent.parts), _split_of([self.faces.split])} - {None}
        if named and own and named not in own:
            return True
        last, emotion = next(reversed(folders), ""), emotion_of(path.parent.name)
        if not last or not emotion or last.isdigit() or _is_same_folder(last, path.parent.name) or _identifiers(name):
            return False
        return (emotion_of(last) or emotion) != emotion or self._is_folder(path.parent.parent / last)


def _why_skipped(match: _Match, name: str) -> str:
    """Say what kind of row it is that is for no face."""
    if match.elsewhere:
        return "rows in a folder of another split or class"
    if not is_utf8(name):
        return "rows for no face, with letters that are not UTF-8: save the table as UTF-8"
    return "rows for no face that is scored"


def _parts(name: str) -> list[str]:
    """Return the folders of a name and what is in the last one, their accents in letters of one kind."""
    return [part for part in composed(name).replace("\\", "/").split("/") if part]


def _split_of(folders: Sequence[str]) -> str | None:
    """Return the split that the last of the folders with the name of one is of."""
    found = (SPLIT_FOLDER.fullmatch(folder) for folder in reversed(folders))
    return next((SPLIT_WORDS[match[1].lower()] for match in found if match), None)


def _is_same_folder(one: str, other: str) -> bool:
    one, other = (_split_of([name]) or composed(name).lower() for name in (one, other))
    return one == other


def _possible_names(line: str) -> tuple[str, list[str]]:
    """Return the likeliest name on a line, and all that may be it in the order to try: the whole, pictures, the first.

    The likeliest is the first cell that looks like a picture, then what ends like one, then the first word.
    """
    cells = [cell.strip() for cell in cells_or_none(line, separator_of(line, lambda cells: len(cells) > 1))] or [line]
    words = [word for cell in cells for word in _words(cell)]
    begins = [match[1].strip('"') for match in [UP_TO_PICTURE.match(line)] if match]
    pictures = [*filter(is_picture_name, cells), *begins, *filter(is_picture_name, words)]
    whole = cells[0] if len(cells) == 1 else line
    names = [name for name in (whole, *pictures, *cells[:1], *words[:1]) if name.strip("/\\ ")]
    return next(iter([*pictures, *words[:1], line])), list(dict.fromkeys(names))


def _words(cell: str) -> list[str]:
    """Return the words of a cell that may be a name alone: the first, and one among numbers; names may have blanks."""
    words = cell.split()
    others = [word for word in words if not NUMBER.fullmatch(word)]
    return words[:1] + (others if len(others) == 1 else [])


def _identifiers(name: str) -> list[str]:
    return list(dict.fromkeys(match.lower() for match in IDENTIFIER.findall(name)))


def _bare(name: str) -> str:
    stem = Path(name).stem if is_picture_name(name) else name
    return stem.removesuffix("_aligned")
