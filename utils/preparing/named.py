"""Reads faces whose labels are words: folders named after emotions, or a table of files and labels."""

import operator
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from diversified_fer.folder import NOT_ENTERED, Listing, folders_in, is_foreign, list_files, one_named
from diversified_fer.media.picture import PHOTO_SUFFIXES
from models.classifier import EMOTIONS
from utils.preparing.layout import only_ones
from utils.preparing.table import (
    BadRow,
    DatasetError,
    Table,
    cells_or_none,
    encoding_hint,
    note_line,
    printable,
    separator_of,
    text_lines,
)

SYNONYMS = {  # other words for the classes, in lower case
    "happy": "Happiness", "sad": "Sadness", "surprised": "Surprise", "fearful": "Fear", "afraid": "Fear",
    "scared": "Fear", "disgusted": "Disgust", "angry": "Anger", "contemptuous": "Contempt",
    "suprise": "Surprise",  # a spelling that circulates
}  # fmt: skip
MISSPELT = 0.85  # ratio of `difflib` from which a word is one of ours in another spelling
SPLITS = {  # words for them, in lower case; FER2013 validates on its PublicTest
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev", "publictest"),
    "test": ("test", "testing", "privatetest"),
}
SPLIT_WORDS = {word: split for split, words in SPLITS.items() for word in words}
TABLES = (".csv", ".tsv", ".txt")
FILE = (
    "file", "files", "filename", "file_name", "filepath", "file_path", "image", "images", "image_path", "image_name",
    "img", "picture", "name", "names", "path", "pth", "input",
)  # fmt: skip
LABEL = ("label", "labels", "emotion", "emotions", "expression", "class", "dominant_emotion")
SPLIT = ("split", "usage", "subset")
MAYBE_SPLIT = ("set", "partition", "phase", "fold", "dataset", "part")  # where every cell names a split
COLUMNS = ("file", "label", "predicted", "split", "unused")  # what --columns gives names to, besides emotions
ELSEWHERE = re.compile(r"[/~]|[a-z]+:")  # how a path on another disk, computer or page begins, in lower case
LAYOUT = (
    "folders named after emotions (Happiness/, sad/, ...), or train/ and test/ with such folders, or a table "
    "(CSV) with the columns file and label"
)


class NamedFaces(NamedTuple):
    """What was read of one split.

    Attributes:
        paths: the pictures.
        labels: their classes, indices of `class_names`.
        class_names: the emotions that the data set has in any of its splits, in our order.
        found: the layout, in words.
    """

    paths: list[Path]
    labels: list[int]
    class_names: tuple[str, ...]
    found: str


def read_pairs(text: str, flag: str) -> dict[str, str]:
    """Read "theirs=ours,theirs=ours", in lower case on the left.

    Raises:
        DatasetError: for anything else; `flag` is for the message.
    """
    pairs = {}
    for pair in filter(str.strip, text.split(",")):
        theirs, equals, ours = (part.strip() for part in pair.partition("="))
        if not (theirs and equals and ours):
            raise DatasetError(f"{flag} {printable(text)}: expected THEIRS=OURS, several of them with commas between")
        pairs[theirs.lower()] = ours
    return pairs


def read_columns(text: str) -> dict[str, str]:
    """Read what `--columns` maps: the name of a column, and what it is for us.

    Raises:
        DatasetError: when it is malformed or maps to nothing that we know.
    """
    pairs = read_pairs(text, "--columns")
    for theirs, ours in pairs.items():
        if ours.lower() not in COLUMNS and emotion_of(ours) is None:
            raise DatasetError(
                f"--columns {theirs}={printable(ours)}: expected {', '.join(COLUMNS)} or an emotion on the right"
            )
    return pairs


def read_names(text: str) -> dict[str, str]:
    """Read what `--names` maps: another word for a class, and the emotion it stands for.

    Raises:
        DatasetError: when it is malformed or names no emotion.
    """
    pairs = read_pairs(text, "--names")
    for theirs, ours in pairs.items():
        if emotion_of(ours) is None:
            raise DatasetError(
                f"--names {theirs}={printable(ours)}: expected one of {', '.join(EMOTIONS)} on the right"
            )
    return pairs


def emotion_of(word: str, names: Mapping[str, str] = {}) -> str | None:
    """Return the emotion that a word stands for, in any case and with a number before it; None for none."""
    word = names.get(word.strip().lower(), word)
    letters = re.sub(r"[\W\d_]+", "", word).lower()
    found = SYNONYMS.get(letters, letters.capitalize())
    return found if found in EMOTIONS else None


def _nearest_emotion(word: str) -> str | None:
    """Return the emotion that a word is a misspelling of; None where it is like none."""
    words = {emotion.lower(): emotion for emotion in EMOTIONS} | SYNONYMS
    near = get_close_matches(re.sub(r"[\W\d_]+", "", word).lower(), words, n=1, cutoff=MISSPELT)
    return words[near[0]] if near else None


def find_column(
    header: Sequence[str], role: str, known: Sequence[str], columns: Mapping[str, str], where: Path, need: bool = True
) -> str | None:
    """Return the column of a role: the one that `--columns` maps to it, otherwise the first of the known names.

    Raises:
        DatasetError: when there is none, unless it is not needed.
    """
    mapped = [theirs for theirs, ours in columns.items() if ours.lower() == role and theirs in header]
    found = next(iter([*mapped, *(name for name in known if name in header and name not in columns)]), None)
    if found is None and need:
        raise DatasetError(
            f"{where} has no column for the {role}; its columns are {printable(', '.join(header), 300)}. Say which one "
            f"it is by --columns COLUMN={role}"
        )
    return found


def find_file_column(path: Path, header: Sequence[str], columns: Mapping[str, str]) -> str:
    """Return the column of the pictures' names: of several with a known name the first one that begins with a picture.

    Raises:
        DatasetError: when there is none, or the first row is malformed.
    """
    known = [name for name in FILE if name in header and name not in columns]
    if len(known) > 1 and not any(ours.lower() == "file" and theirs in header for theirs, ours in columns.items()):
        first = next((row for _, row in table_rows(path, known)), {})
        known.sort(key=lambda name: not is_picture_name(first.get(name, "")))
    return find_column(header, "file", known, columns, path)


def is_picture_name(name: str) -> bool:
    """Tell whether a name ends as a picture's does."""
    return PurePosixPath(name).suffix.lower() in PHOTO_SUFFIXES


def read_header(path: Path) -> list[str]:
    """Return the names of a table's columns, in lower case.

    Raises:
        FileNotFoundError: when there is no such file.
        DatasetError: when it is no text, empty, or begins with a picture in place of a header.
    """
    if path.exists() and not path.is_file():
        raise DatasetError(
            f"{path} is no file but a folder or a pipe; expected a CSV file with a header: save it first"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path.absolute()}; expected a CSV file with a header")
    first = next((line for _, line in text_lines(path, "a table (CSV) with a header")), None)
    if first is None:
        raise DatasetError(f"{path} is empty; expected a table with a header")
    separator = separator_of(first, lambda cells: len(cells) > 1)
    header = [cell.strip().lower() for cell in cells_or_none(first, separator)]
    if any(map(is_picture_name, header)):
        raise DatasetError(
            f"{path} has no header: its first line is {printable(first, 200)}; expected the columns' names, such as "
            "file,label"
        )
    return header


def table_rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number and the cells of every row of a table, by column, of the columns wanted.

    Raises:
        DatasetError: for a row that is malformed.
    """
    table = Table(path, tuple(dict.fromkeys(wanted)))
    for number, line in table.numbered():
        try:
            yield number, table.parse(line)
        except BadRow as error:
            raise DatasetError(f"{path}, line {number}: {error}") from None


def is_named(root: Path, split: str) -> bool:
    """Tell whether a path is a table, or a split in it is one or has folders named after emotions, not numbers."""
    if root.is_file():
        return True
    if any(_has_numbers(one_named(root, word)) for word in SPLITS[split]):
        return False
    if _find_split(root, split, {}) is not None:
        return True
    table = _whole_table(root, {})
    return table is not None and all(set(known) & set(_header_or_none(table)) for known in (FILE, LABEL))


def splits_in(root: Path, columns: str = "", names: str = "") -> list[str | None]:
    """Return the splits that a data set has; None stands for one that is not split."""
    words = read_names(names)
    table = _whole_table(root, words)
    if table is not None:
        present = set(map(_split_of, _split_values(table, read_columns(columns))[1]))
        return [split for split in SPLITS if split in present] or [None]
    return [split for split in SPLITS if _find_split(root, split, words) is not None] or [None]


def read_named(root: Path, split: str | None, listing: Listing, columns: str = "", names: str = "") -> NamedFaces:
    """Read a split of a data set whose labels are words; counts what is left out.

    Args:
        root: the folder, or a table.
        split: "train", "valid" or "test"; None for all there is, where it is not split.
        listing: takes all pictures, and what was left out.
        columns: "theirs=ours" of a table's columns, for ours of file, label and split.
        names: "theirs=ours" of names of classes.

    Raises:
        DatasetError: when nothing is found, rows are malformed, pictures are missing, or there is but one class.
    """
    words, pairs = read_names(names), read_columns(columns)
    table = _whole_table(root, words)
    if table is not None:
        if split is None:
            _refuse_splits(table, pairs)
        return _read_table(table, split, listing, pairs, words)
    present = splits_in(root, columns, names)
    places = {name: root if name is None else _find_split(root, name, words) for name in present}
    place = places.get(split)
    if place is None or (split is None and not _holds_faces(root, words)):
        raise DatasetError(_missing(root, split, present))
    if place.is_file():
        return _read_table(place, None, listing, pairs, words)
    classes = {split: _list_emotions(place, words, listing)}
    if not classes[split]:  # a folder with a table in it
        return _read_table(_table_in(place), None, listing, pairs, words)
    for name, other in places.items():
        if name != split and other is not None and other.is_dir():
            classes[name] = _list_emotions(other, words, Listing())
    if split is not None:
        for beside in (inner for inner in folders_in(root) if emotion_of(inner.name, words)):
            number = len(list_files(beside, PHOTO_SUFFIXES).files)
            listing.left_out[f"pictures in {printable(beside.name)}, beside the folders of splits"] += number
    filled = {emotion for pictures in classes.values() for emotion, paths in pictures.items() if paths}
    class_names = _in_order(filled, place, listing)
    paths = [path for name in class_names for path in classes[split].get(name, [])]
    labels = [label for label, name in enumerate(class_names) for _ in classes[split].get(name, [])]
    if not paths:
        raise DatasetError(f"{place} holds no pictures{f' ({listing})' if str(listing) else ''}; expected {LAYOUT}")
    listing.files += paths
    return NamedFaces(paths, labels, class_names, f"folders named after emotions: {', '.join(class_names)}")


def _whole_table(root: Path, words: Mapping[str, str]) -> Path | None:
    """Return the table that is the whole data set: the path itself, or that of a folder without any other layout."""
    if root.is_file():
        return root
    try:
        split = any(_find_split(root, split, words) for split in SPLITS)
        return None if split or _has_emotions(root, words) else _table_in(root)
    except OSError:  # no folder, or one that cannot be read
        return None


def _split_values(table: Path, columns: Mapping[str, str]) -> tuple[str | None, Counter[str]]:
    """Return the column that says of which split a row is, None without one, and how often it says what."""
    column = _split_column(table, columns)
    return column, Counter(row[column] for _, row in table_rows(table, [column])) if column else Counter()


def _split_column(table: Path, columns: Mapping[str, str]) -> str | None:
    """Return the column that says of which split a row is: by its name, or because it names splits and nothing else."""
    header = read_header(table)
    column = find_column(header, "split", SPLIT, columns, table, need=False)
    for name in MAYBE_SPLIT:
        if column is None and name in header and name not in columns:
            splits = {_split_of(row[name]) for _, row in table_rows(table, [name])}
            column = name if len(splits) > 1 and None not in splits else None
    return column


def _split_of(word: str) -> str | None:
    """Return the split that a word stands for, in any case; None for none."""
    return SPLIT_WORDS.get(word.lower())


def _refuse_splits(table: Path, columns: Mapping[str, str]) -> None:
    """Raise DatasetError where a table is split: faces for training must not be taken together with the others."""
    column, values = _split_values(table, columns)
    if any(values):
        raise DatasetError(
            f"{table} has no test faces: its column {printable(column)} says {_shown(values)}. Say which of train, "
            f"valid and test is meant (--split), or take all rows together by --columns {printable(column)}=unused"
        )


def _shown(values: Counter[str]) -> str:
    """Return the most frequent values of a column, and how often each is there."""
    return ", ".join(f"{printable(value) or 'nothing'} ({count:,})" for value, count in values.most_common(8))


def _find_split(root: Path, split: str, words: Mapping[str, str]) -> Path | None:
    """Return the folder or table of a split, None where there is none; raises DatasetError for two folders of it."""
    places: list[Path] = []
    for word in SPLITS[split]:
        folder = one_named(root, word)
        if folder.is_dir() and _holds_faces(folder, words):
            places.append(folder)
            continue
        has_folders = _has_numbers(folder) or _has_emotions(root, words)  # beside which a list of names is no table
        tables = [table for suffix in TABLES if (table := one_named(root, word + suffix)).is_file()]
        places += [table for table in tables if not has_folders or len(_header_or_none(table)) > 1][:1]
    folders = [place.name for place in places if place.is_dir()]
    if len(folders) > 1:
        raise DatasetError(
            f"{root.absolute()} has several folders for {split}: {printable(' and '.join(folders))}; expected one. "
            "Bring their pictures together, or take the other away"
        )
    return next(iter(places), None)


def _header_or_none(table: Path) -> list[str]:
    """Return the names of a table's columns, none where it has no header, such as a list of pictures."""
    try:
        return read_header(table)
    except DatasetError:
        return []


def _has_numbers(folder: Path) -> bool:
    """Tell whether a folder holds folders with numbers for names."""
    return folder.is_dir() and any(inner.name.isdigit() for inner in folders_in(folder))


def _holds_faces(folder: Path, words: Mapping[str, str]) -> bool:
    try:
        return _has_emotions(folder, words) or _table_in(folder) is not None
    except OSError:  # no folder, or one that cannot be read
        return False


def _has_emotions(folder: Path, words: Mapping[str, str]) -> bool:
    return folder.is_dir() and any(emotion_of(inner.name, words) for inner in folders_in(folder))


def _table_in(folder: Path) -> Path | None:
    """Return the table of a folder: labels.csv, or the only one."""
    named = one_named(folder, "labels.csv")
    tables = [
        path for path in folder.iterdir() if path.suffix.lower() in (".csv", ".tsv") and not is_foreign(path.name)
    ]
    return named if named.is_file() else tables[0] if len(tables) == 1 else None


def _missing(root: Path, split: str | None, present: Sequence[str | None]) -> str:
    try:
        inside = ", ".join(sorted(printable(path.name) for path in root.iterdir())[:8]) or "nothing"
    except OSError:
        return f"no folder or table at {root.absolute()}; expected {LAYOUT}"
    also = f"its splits are {', '.join(filter(None, present))}" if any(present) else f"it holds {inside}"
    part = f"no {split or 'test'} faces" if split or any(present) else "no faces with a name of an emotion"
    return (
        f"{root.absolute()} has {part}: {also}. Expected {LAYOUT}; other names of folders are mapped by --names "
        "THEIRS=OURS, as in --names joy=Happiness"
    )


def _list_emotions(folder: Path, words: Mapping[str, str], found: Listing) -> dict[str, list[Path]]:
    """List the pictures of every folder of an emotion, sub-folders included."""
    pictures: dict[str, list[Path]] = {}
    try:
        beside = list_files(folder, PHOTO_SUFFIXES, depth=0)
        listings = {inner.name: list_files(inner, PHOTO_SUFFIXES) for inner in folders_in(folder)}
        inside = {name: [inner.name for inner in folders_in(folder / name)] for name in listings}
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read: {error.strerror}") from None
    beside.left_out[NOT_ENTERED] = 0
    found.leave_out(beside)
    found.left_out["pictures beside the folders"] += len(beside.files)
    for name, listing in listings.items():
        emotion = emotion_of(name, words)
        if emotion is None:
            if listing.files and (meant := _nearest_emotion(name)):
                raise DatasetError(
                    f"{folder / name} names no emotion; if {meant} is meant, rename the folder (or map it by --names "
                    f"{printable(name)}={meant} where there is such an option)"
                )
            found.left_out[f"pictures in {printable(name)}, which names no emotion"] += len(listing.files)
            continue
        if len(set(map(_split_of, inside[name])) - {None}) > 1:
            raise DatasetError(
                f"{folder / name} holds {printable(', '.join(inside[name]))}: folders of splits are expected above "
                f"those of emotions. Expected {LAYOUT}"
            )
        found.leave_out(listing)
        pictures.setdefault(emotion, []).extend(listing.files)
    return pictures


class _Pictures:
    """The pictures below a table's folder, found by the names that the table has for them.

    A name counts in another case, and with its accents as letters of their own (NFD, as on a Mac) or not (NFC).

    Args:
        folder: the table's.

    Attributes:
        files: all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = list_files(folder, PHOTO_SUFFIXES).files
        self._by_path = only_ones(self.files, lambda path: _key(path.relative_to(folder).as_posix()))
        self._folders = {key for path in self.files for key in self._parents(path)}
        self._by_name: dict[str | None, dict[str, list[Path]]] = {}  # by the split that asks
        self._by_stem: dict[str | None, dict[str, list[Path]]] = {}

    def find(self, name: str, split: str | None) -> Path | None:
        """Return the picture of a row of a split; None where it is not there.

        A name leads to the only picture of that name here whose folders agree with it most, from the last one on, but
        never into another split's folder. Where no folder agrees it must be the only picture of that name, and it is
        not taken from another folder when the one that is named is here, or names another emotion. Where none has the
        name, one with another suffix (.jpg for .png) does.
        """
        try:
            if name and (self.folder / name).is_file():
                return self.folder / name
        except OSError:  # longer than any name
            return None
        key = _key(name)
        folder, _, file = key.rpartition("/")
        if key in self._by_path:
            return self._by_path[key]
        split = split or next(filter(None, map(_split_of, reversed(folder.split("/")))), None)
        if split not in self._by_name:
            by_name, by_stem = self._by_name[split], self._by_stem[split] = defaultdict(list), defaultdict(list)
            for path in self.files:
                if split is None or self._splits(path) <= {split}:
                    by_name[_key(path.name)].append(path)
                    by_stem[_stem(_key(path.name))].append(path)
        found = self._by_name[split].get(file) or self._by_stem[split].get(_stem(file), [])
        folders = folder.split("/") if folder else []
        agreement = {path: count_same_at_end(folders, self._parents(path)) for path in found}
        best = [path for path in found if agreement[path] == max(agreement.values())]
        if len(best) != 1:
            return None
        picture = best[0]
        if agreement[picture] or not folders:
            return picture
        own = self._parents(picture)
        if folders[-1] in self._folders and folders[-1] not in own:
            return None
        emotions = {emotion_of(folders[-1]), emotion_of(picture.parent.name)} - {None}
        is_free = not own or ELSEWHERE.match(folder)
        return picture if is_free and len(emotions) < 2 else None

    def _parents(self, path: Path) -> list[str]:
        """Return the folders that a picture is in, below the table's, as they are compared."""
        return [_key(part) for part in path.relative_to(self.folder).parts[:-1]]

    def _splits(self, path: Path) -> set[str]:
        """Return the splits whose folders a picture is in."""
        return set(filter(None, map(_split_of, self._parents(path))))


def _stem(key: str) -> str:
    """Return the name of a picture without its suffix; other names as they are."""
    return PurePosixPath(key).stem if is_picture_name(key) else key


def count_same_at_end(one: Sequence[str], other: Sequence[str], same: Callable[[str, str], bool] = operator.eq) -> int:
    """Count the folders of two paths that are the same, from the last one on: on another machine the first differ."""
    return sum(takewhile(bool, map(same, reversed(one), reversed(other))))


def composed(name: str) -> str:
    """Return a name with its accents in their letters (NFC); in some names they are letters of their own (NFD)."""
    return unicodedata.normalize("NFC", name)


def _key(name: str) -> str:
    """Return the path of a picture as it is compared."""
    return composed(PurePosixPath(name).as_posix()).lower()


def _read_table(
    path: Path, split: str | None, listing: Listing, columns: Mapping[str, str], words: Mapping[str, str]
) -> NamedFaces:
    """Read file and label of every row of a table, or of those of a split."""
    header = read_header(path)
    file = find_file_column(path, header, columns)
    label, part = find_column(header, "label", LABEL, columns, path), _split_column(path, columns)
    if split is not None and part is None:
        raise DatasetError(
            f"{path} has no column that says which rows are {split}; expected a column split, or one mapped to it by "
            f"--columns, or a table of its own for every split ({SPLITS[split][0]}.csv)"
        )
    pictures, own = _Pictures(path.parent), _split_of(path.stem)
    lines: dict[str, int] = {}
    rows: list[tuple[Path, str]] = []
    emotions, absent, values = set(), [], Counter()
    for number, row in table_rows(path, [file, label, *([part] if part else [])]):
        emotion = emotion_of(row[label], words)
        if emotion is None:
            listing.left_out[f"rows labelled {printable(row[label]) or 'with nothing'}, no emotion"] += 1
            continue
        emotions.add(emotion)
        values[row[part] if part else ""] += 1
        if split is not None and _split_of(row[part]) != split:
            if _split_of(row[part]) is None:
                listing.left_out[f"rows whose {printable(part)} is {printable(row[part]) or 'empty'}, no split"] += 1
            continue
        name = row[file].replace("\\", "/")
        picture = pictures.find(name, (_split_of(row[part]) if part else None) or own)
        if picture is None:
            absent.append(name)
            continue
        note_line(lines, str(picture), path, number, name)
        rows.append((picture, emotion))
    if absent:
        raise DatasetError(
            f"{len(absent):,} pictures that {path} names are not there (first: {printable(absent[0], 200)}); names "
            f"are relative to {path.parent.absolute()}{encoding_hint(path, absent)}"
        )
    class_names = _in_order(emotions, path, listing)
    if not rows:
        rows_of = f" of {split}" if split else ""
        also = f" (its column {part} says {_shown(values)})" if any(values) else ""
        raise DatasetError(f"{path} has no rows{rows_of} with a label{also}; expected one per picture")
    paths = [picture for picture, _ in rows]
    listing.files += paths
    if part is None:
        listing.left_out["pictures without a row"] += len(set(pictures.files) - set(paths))
    labels = [class_names.index(emotion) for _, emotion in rows]
    return NamedFaces(paths, labels, class_names, f"table {path.name}, {file} and {label}")


def _in_order(emotions: set[str], where: Path, listing: Listing) -> tuple[str, ...]:
    if len(emotions) < 2:
        found = "; ".join([", ".join(emotions) or "none", *filter(None, [printable(str(listing), 300)])])
        raise DatasetError(
            f"{where} has faces of fewer than two emotions ({found}); expected {LAYOUT}. Other names are mapped by "
            "--names THEIRS=OURS, as in --names joy=Happiness"
        )
    return tuple(name for name in EMOTIONS if name in emotions)
