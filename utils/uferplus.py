"""Reads FER+ as it is released: a table of votes on the pictures of FER2013, which are another table.

Barsoum, Zhang, Canton Ferrer, Zhang, "Training deep networks for facial expression recognition with crowd-sourced label
distribution", ICMI 2016.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.uannotations import BadRow, Table

FER_SIZE = 48  # pixels along each side of a FER2013 face
FER_FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
FER_VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
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
            values = bytes(map(int, self.pixels.split()))
        except ValueError:
            raise BadRow("a pixel is not a number from 0 to 255") from None
        if len(values) != FER_SIZE**2:
            raise BadRow(f"the row has {len(values):,} pixels instead of {FER_SIZE**2:,}")
        return np.frombuffer(values, np.uint8).reshape(FER_SIZE, FER_SIZE)


class FERPlusTables:
    """Kaggle's table of pictures and Microsoft's table of votes, row by row. Iterating yields pairs of lines.

    Raises:
        FileNotFoundError: when a table is missing.
        ValueError: when a table has other columns, or the two differ in their number of rows or in a row's Usage.
    """

    def __init__(self, path_to_pixels: Path, path_to_votes: Path) -> None:
        for path in (path_to_pixels, path_to_votes):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is not a file; {FER_WHERE}")
        self.pixels = Table(path_to_pixels, ("pixels", "Usage"))
        self.votes = Table(path_to_votes, ("Usage", "Image name", *FER_VOTES))
        expected = f"expected the same faces in the same order, 35,887 in the released files. {FER_WHERE}"
        if len(self.pixels) != len(self.votes):
            lengths = (f"{len(table):,} rows in {table.path}" for table in (self.pixels, self.votes))
            raise ValueError(f"there are {' and '.join(lengths)}; {expected}")
        for number, (pixel_line, vote_line) in enumerate(self):
            try:
                usages = self.pixels.parse(pixel_line)["Usage"], self.votes.parse(vote_line)["Usage"]
            except BadRow:
                continue  # a malformed row is for errors.csv
            if usages[0] != usages[1]:
                where = f"{usages[0]!r} in {path_to_pixels} and {usages[1]!r} in {path_to_votes}"
                raise ValueError(f"the Usage of row {number} is {where}; {expected}")

    def __len__(self) -> int:
        return len(self.pixels)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return zip(self.pixels, self.votes, strict=True)

    def file_name(self, lines: tuple[bytes, bytes]) -> str:
        """Return the picture's name, "" when it has none or the row is malformed."""
        try:
            return self.votes.parse(lines[1])["Image name"]
        except BadRow:
            return ""

    def parse(self, lines: tuple[bytes, bytes]) -> FERPlusRow | None:
        """Return the face of a row, None when FER+ took it out (its picture has no name); raises BadRow."""
        row = self.votes.parse(lines[1])
        name, usage, votes = row["Image name"], row["Usage"], [row[vote] for vote in FER_VOTES]
        if not name:
            return None
        if not re.fullmatch(r"\w+\.png", name):
            raise BadRow("the picture's name is not like fer0000000.png")
        if usage not in FER_FOLDERS:
            raise BadRow(f"Usage is {usage!r}, not one of {', '.join(FER_FOLDERS)}")
        if not all(re.fullmatch(r"\d+", vote, re.ASCII) for vote in votes):
            raise BadRow(f"the votes are {','.join(votes)}, not ten counts")
        pixels = self.pixels.parse(lines[0])["pixels"]
        return FERPlusRow(name, FER_FOLDERS[usage], [int(vote) for vote in votes], pixels)
