"""Reads FER+ as it is released: a table of votes on the pictures of FER2013, which are another table.

Barsoum, Zhang, Canton Ferrer, Zhang, "Training deep networks for facial expression recognition with crowd-sourced label
distribution", ICMI 2016.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.preparing.table import (
    BadRow,
    DatasetError,
    Table,
    cells_or_none,
    note_line,
    printable,
    separator_of,
    text_lines,
)

FER_SIZE = 48  # pixels along each side of a FER2013 face
FER_FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
FER_VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
FER_NAMES = ("image name", "image_name", "name", "file", "filename", "image")  # of the column with a picture's name
FERPLUS_VOTES_TO_EMOTIONS = [0, 1, 3, 2, 6, 5, 4, 7]  # column of votes -> our class
VOTE = re.compile(r"\d{1,6}(\.0+)?", re.ASCII)  # a count; tables that went through other programs write 4.0
FER_WHERE = (
    "fer2013.csv is in Kaggle's 'Challenges in Representation Learning: Facial Expression Recognition Challenge', "
    "fer2013new.csv at github.com/microsoft/FERPlus"
)


class FERPlusRow(NamedTuple):
    """One face of FER+."""

    name: str
    folder: str
    votes: list[int]  # ten, in the order of FER_VOTES
    pixels: str  # grey values, row by row

    def image(self) -> np.ndarray:
        """Return the picture (48, 48), uint8; raises BadRow."""
        try:
            values = bytes(map(int, self.pixels.strip("[]() ").replace(",", " ").split()))
        except ValueError:
            raise BadRow("a pixel is not a number from 0 to 255") from None
        if len(values) != FER_SIZE**2:
            raise BadRow(f"the row has {len(values):,} pixels instead of {FER_SIZE**2:,}")
        return np.frombuffer(values, np.uint8).reshape(FER_SIZE, FER_SIZE)


class FERPlusTables:
    """Kaggle's table of pictures and Microsoft's table of votes, row by row. Iterating yields pairs of lines.

    Raises:
        FileNotFoundError: when a table is missing.
        DatasetError: when a table is no text or has other columns, or the two differ in their number of rows or in a
            row's Usage.
    """

    def __init__(self, path_to_pixels: Path, path_to_votes: Path) -> None:
        for path in (path_to_pixels, path_to_votes):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is not a file; {FER_WHERE}")
        self.pixels = Table(path_to_pixels, ("pixels", "Usage"), wanted="fer2013.csv")
        self.votes = Table(path_to_votes, ("Usage", "Image name", *FER_VOTES), wanted="fer2013new.csv")
        expected = f"expected the same faces in the same order, 35,887 in the released files. {FER_WHERE}"
        if len(self.pixels) != len(self.votes):
            lengths = (f"{len(table):,} rows in {table.path}" for table in (self.pixels, self.votes))
            raise DatasetError(f"there are {' and '.join(lengths)}; {expected}")
        for number, (pixel_line, vote_line) in enumerate(self):
            try:
                usages = self.pixels.parse(pixel_line)["Usage"], self.votes.parse(vote_line)["Usage"]
            except BadRow:
                continue  # a malformed row is for errors.csv
            if usages[0] != usages[1]:
                first, second = (repr(printable(usage)) for usage in usages)
                where = f"{first} in {path_to_pixels} and {second} in {path_to_votes}"
                raise DatasetError(f"the Usage of row {number} is {where}; {expected}")

    def __len__(self) -> int:
        return len(self.pixels)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.pixels, self.votes, strict=True)

    def file_name(self, lines: tuple[str, str]) -> str:
        """Return the picture's name, "" when it has none or the row is malformed."""
        try:
            return self.votes.parse(lines[1])["Image name"]
        except BadRow:
            return ""

    def parse(self, lines: tuple[str, str]) -> FERPlusRow | None:
        """Return the face of a row, None when FER+ took it out (its picture has no name); raises BadRow."""
        row = self.votes.parse(lines[1])
        name, usage, votes = row["Image name"], row["Usage"], [row[vote] for vote in FER_VOTES]
        if not name:
            return None
        if not re.fullmatch(r"\w{1,100}\.png", name, re.ASCII):
            raise BadRow("the picture's name is not like fer0000000.png")
        if usage not in FER_FOLDERS:
            raise BadRow(f"Usage is {printable(repr(usage))}, not one of {', '.join(FER_FOLDERS)}")
        if not all(VOTE.fullmatch(vote) for vote in votes):
            raise BadRow(f"the votes are {printable(','.join(votes))}, not ten counts")
        pixels = self.pixels.parse(lines[0])["pixels"]
        return FERPlusRow(name, FER_FOLDERS[usage], [int(float(vote)) for vote in votes], pixels)


def read_votes(label_file: Path) -> tuple[list[str], np.ndarray, int]:
    """Read picture names and votes (N, 10) of a FER+ label file, and the number of rows without a picture's name.

    A header that names the ten votes is followed, in whatever order they and the names are. A picture has one row.

    Raises:
        DatasetError: when the file is no text or fer2013new.csv, a row has no ten vote counts, or a picture has two
            rows.
    """
    names: dict[str, int] = {}  # the line it is on
    votes, unnamed, separator, order, name_column = [], 0, None, None, 0
    for number, line in text_lines(label_file, "label.csv"):
        if separator is None:
            separator = separator_of(line, lambda cells: len(cells) >= 12)
            header = [cell.strip().lower() for cell in cells_or_none(line, separator)]
            if all(vote.lower() in header for vote in FER_VOTES):
                if "usage" in header:
                    raise DatasetError(
                        f"{label_file} is like fer2013new.csv, with the votes of all parts of FER+; expected "
                        "those of this part: a row per picture with name, box and ten vote counts. "
                        "pre_process_fer_plus makes it of fer2013.csv and fer2013new.csv"
                    )
                order = [header.index(vote.lower()) for vote in FER_VOTES]
                name_column = next((header.index(name) for name in FER_NAMES if name in header), 0)
                continue
            if header == [str(place) for place in range(len(header))]:  # what pandas writes for columns without names
                continue
        row = [cell.strip() for cell in cells_or_none(line, separator)]
        while len(row) > 12 and not row[-1]:
            row.pop()
        counts = [row[column] for column in order if column < len(row)] if order else row[2:]
        if len(counts) != 10 or not all(map(VOTE.fullmatch, counts)):
            raise DatasetError(
                f"{label_file}, line {number}: expected name, box and ten vote counts, found {printable(line)!r}"
            )
        name = row[name_column] if name_column < len(row) else ""
        if not name:
            unnamed += 1
            continue
        note_line(names, name, label_file, number, name)
        votes.append(list(map(float, counts)))
    if not names:
        raise DatasetError(f"{label_file} is empty; expected a row per picture: name, box and ten vote counts")
    return list(names), np.array(votes).astype(np.int64), unnamed


def labels_from_votes(votes: np.ndarray, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Turn FER+ votes (N, 10) into the indices of the faces kept and their labels in our order, see `udata.FERPlus`.

    Labels are (M,) int64 under "majority", otherwise (M, 8) float32.
    """
    votes = np.where(votes > 1, votes, 0)
    total = votes.sum(axis=1)
    emotions = np.empty((len(votes), 8), dtype=np.float32)  # in our order
    emotions[:, FERPLUS_VOTES_TO_EMOTIONS] = votes[:, :8]
    if rule == "majority":
        labels = emotions.argmax(axis=1)
        kept = (2 * votes.max(axis=1) > total) & (votes.argmax(axis=1) < 8)
    elif rule == "multi_target":
        labels = (10 * emotions >= 3 * total[:, None]).astype(np.float32)
        kept = (2 * emotions.sum(axis=1) > total) & labels.any(axis=1)
    else:
        sums = emotions.sum(axis=1, keepdims=True)
        labels, kept = emotions / np.maximum(sums, 1), 2 * sums[:, 0] > total
    return np.flatnonzero(kept), labels[kept]
