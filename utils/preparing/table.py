"""Opens text tables and lists, whatever program wrote them, and says what a file is that is no text.

Encodings are known by their marks (UTF-8, UTF-16 and UTF-32), and UTF-16 and UTF-32 without a mark by their NULs. Bytes
that are not UTF-8 stay as they are, so that a name still leads to the file of that name. Lines end in LF, CR LF or CR.
Blank lines, and lines of nothing but separators, are no rows. Archives and other files that are no text are refused.
"""

import codecs
import csv
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from diversified_fer.contents import ARCHIVE, ELSEWHERE, WORKBOOK, recognize

HEAD = 65_536  # bytes looked at to tell what a file is
SEPARATORS = (",", ";", "\t")
STATED_SEPARATOR = re.compile(r'"?sep=.?"?', re.IGNORECASE)  # a first line that tells spreadsheets the separator
MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


class DatasetError(ValueError):
    """A data set that is missing, laid out otherwise, or labelled otherwise; the message names path and remedy."""


class BadRow(Exception):
    """A row that cannot be used; the message is the reason given in `errors.csv`."""


def printable(text: str, limit: int = 100) -> str:
    """Return a text of unknown origin as a message may show it: cut, and without control characters."""
    shown = text if len(text) <= limit else text[:limit] + "..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)


def encoding_of(path: Path, wanted: str) -> str:
    """Return the encoding of a text file, by its first bytes.

    Args:
        path: the file.
        wanted: what the file should be, to end the sentence "unpack it and name ...".

    Raises:
        DatasetError: when it is no text.
        OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    kind = _kind_of(head, wanted)
    if kind:
        raise DatasetError(f"{printable(str(path), 1000)} {kind}")
    encoding = next((encoding for mark, encoding in MARKS if head.startswith(mark)), None) or _by_nuls(head)
    if encoding:
        return encoding
    nuls = head.count(0)
    control = sum(head.count(byte) for byte in (*range(1, 9), *range(14, 32), 127)) + nuls
    if nuls == len(head) > 0:
        kind = "holds nothing but NUL bytes: its content was lost, copy it again"
    elif control > 2 + len(head) / 100:  # a few in a damaged row are that row's fault
        kind = f"is no text file ({control:,} of its first {len(head):,} bytes are control characters): name {wanted}"
    if kind:
        raise DatasetError(f"{printable(str(path), 1000)} {kind}")
    return "utf-8"


def _kind_of(head: bytes, wanted: str) -> str:
    """Say what a file is that is known by its first bytes, and what to do; an empty text for all others."""
    kind, what = recognize(head)
    if kind == ARCHIVE:
        return f"is an archive ({what.split()[1]}): unpack it and name {wanted}"
    if kind == WORKBOOK:
        return f"is {what}: save it as CSV (UTF-8) and name {wanted}"
    if kind in ("", ELSEWHERE):
        return f"is {what}" if what else ""
    return f"is {what}, no text: name {wanted}"


def _by_nuls(head: bytes) -> str | None:
    """Return the encoding of a text in UTF-16 or UTF-32 without a mark, whose ASCII letters have NULs between them."""
    if len(head) < 8:
        return None
    shares = [head[offset::4].count(0) / len(head[offset::4]) for offset in range(4)]
    pattern = "".join("0" if share > 0.7 else "x" if share < 0.05 else "?" for share in shares)
    return {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}.get(pattern)


def text_lines(path: Path, wanted: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that hold something, with their numbers, from 1; without their ends.

    Raises:
        DatasetError: when it is no text, or not in the encoding that it states; see `encoding_of`.
        OSError: when it cannot be read.
    """
    encoding = encoding_of(path, wanted)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    try:
        with path.open(encoding=encoding, errors=errors, newline=None) as file:
            for number, line in enumerate(file, start=1):
                line = line.rstrip("\n").lstrip("\ufeff")  # tables that were joined bring their marks
                if line.strip(' \t\v\f,;"') and not (number == 1 and STATED_SEPARATOR.fullmatch(line)):
                    yield number, line
    except UnicodeError:
        raise DatasetError(
            f"{printable(str(path), 1000)} begins like {encoding.upper()} but is no text file in it, or lost its end: "
            "copy it again, or save it as UTF-8"
        ) from None


def is_utf8(name: str) -> bool:
    """Tell whether a text that `text_lines` read was UTF-8: other bytes are kept as lone surrogates."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def encoding_hint(path: Path, names: Iterable[str]) -> str:
    """Return what a message on names of a table that lead nowhere says of its encoding; an empty text for UTF-8."""
    if not all(map(is_utf8, names)):
        return f"; {printable(path.name)} has letters that are not UTF-8: save it as UTF-8"
    return ""


def cells_of(line: str, separator: str = ",") -> list[str]:
    """Return the cells of a line, their quotation marks undone; raises BadRow."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error as error:
        raise BadRow(f"the row is no CSV: {error}") from None


def cells_or_none(line: str, separator: str = ",") -> list[str]:
    """Return the cells of a line, none when it is malformed."""
    try:
        return cells_of(line, separator)
    except BadRow:
        return []


def separator_of(line: str, fits: Callable[[list[str]], bool]) -> str:
    """Return the separator whose cells fit; a comma when none does."""
    return next((separator for separator in SEPARATORS if fits(cells_or_none(line, separator))), ",")


def note_line(lines: dict[str, int], key: str, path: Path, number: int, name: str) -> None:
    """Note on which line of a list a picture is; raises DatasetError when it is on another already."""
    if key in lines:
        raise DatasetError(
            f"{path}, line {number}: {printable(name)} is on line {lines[key]} already; expected a row per "
            "picture: restore the file, or remove the rows that come twice"
        )
    lines[key] = number


class Table:
    """A table with a cell per column, read line by line so that neither its size nor a stray quotation mark does harm.

    Separated by commas, semicolons or tabs. The names of columns are found without regard to case.

    Args:
        path: the file.
        columns: the columns needed.
        default_columns: all columns in order, for a file that begins with a row instead of a header.
        wanted: what the file should be, as in `encoding_of`.

    Raises:
        DatasetError: when the file is no text, or its header lacks a column or names one twice.
        OSError: when it cannot be read.
    """

    def __init__(
        self, path: Path, columns: tuple[str, ...], default_columns: tuple[str, ...] = (), wanted: str = ""
    ) -> None:
        self.path = path
        self.wanted = wanted or f"the table with the columns {', '.join(columns)}"
        first, lines = "", 0
        for _, line in text_lines(path, self.wanted):
            first = first or line
            lines += 1
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        self.sha256 = digest.hexdigest()
        needed = {name.lower() for name in columns}
        self.separator = separator_of(first, lambda cells: needed <= set(_names(cells)) or len(cells) == len(
            default_columns))  # fmt: skip
        header = _names(cells_or_none(first, self.separator))
        missing = [name for name in columns if name.lower() not in header]
        self.has_header = not (len(header) == len(default_columns) and any(_is_number(name) for name in header))
        if not self.has_header:
            header = [name.lower() for name in default_columns]
        elif missing:
            found = repr(printable(first, 200).strip()) if first else "an empty file"
            raise DatasetError(
                f"{printable(str(path), 1000)} has no column {', '.join(missing)}; expected a header with "
                f"{', '.join(columns)}, found {found}"
            )
        twice = [name for name in columns if header.count(name.lower()) > 1]
        if twice:
            raise DatasetError(f"{printable(str(path), 1000)} has two columns {twice[0]}; expected one of each")
        self.num_columns = len(header)
        self.positions = {name: header.index(name.lower()) for name in columns}
        self.num_rows = lines - self.has_header

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[str]:
        """Yield the lines of the rows, without the header."""
        return (line for _, line in self.numbered())

    def numbered(self) -> Iterator[tuple[int, str]]:
        """Yield the lines of the rows, without the header, with their numbers in the file, from 1."""
        lines = text_lines(self.path, self.wanted)
        if self.has_header:
            next(lines, None)
        yield from lines

    def parse(self, line: str) -> dict[str, str]:
        """Return a row's cells by column; raises BadRow when their number is not the header's."""
        cells = cells_of(line, self.separator)
        while len(cells) > self.num_columns and not cells[-1].strip():
            cells.pop()
        if len(cells) != self.num_columns:
            raise BadRow(f"the row has {len(cells)} columns instead of {self.num_columns}")
        return {name: cells[position].strip() for name, position in self.positions.items()}


def _names(cells: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
