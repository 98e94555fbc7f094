"""Writes files and folders as a whole or not at all: beside their place first, then renamed into it.

No reader ever sees half of one, and what was there before stays until the new one is complete.
"""

import contextlib
import csv
import glob
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DAY = 86_400  # seconds
TORCH_WRITER = re.compile("inline_container|PytorchStreamWriter|iostream")  # what torch.save says when a disk is full


def names_its_file(error: BaseException) -> bool:
    """Tell whether an error is `replacing`'s own, which names its file: nothing around needs to name one again."""
    return getattr(error, "names_its_file", False)


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a path in the same folder to write to, and put what was written there in the place of `path` at the end.

    Args:
        path: the file to write, or an empty or missing folder.
        durable: remove what a killed process left of it a day ago, and wait until it is on the disk, so that it
            survives a loss of power; slow for thousands of files.

    Raises:
        OSError: when it cannot be written or put in its place; it names the file. What was there before stays, and
            nothing unfinished is left.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")  # of this process alone
    what_to_do = "free space or name another folder"
    if durable:
        remove_unfinished(path.parent, f".{glob.escape(path.stem)}.*.partial*", older_than=DAY)
    try:
        yield temporary
        if durable and temporary.is_file():
            with temporary.open("r+b") as file:  # Windows flushes what is open for writing only
                os.fsync(file.fileno())
        what_to_do = "close it where another program has it open, and start again"
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, RuntimeError) and TORCH_WRITER.search(str(error)):
            error = _reason_of_torch(temporary)
        shutil.rmtree(temporary, ignore_errors=True)  # which leaves a file alone
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and not names_its_file(error):  # as that of a file written meanwhile does
            raise _named(path, error, what_to_do) from error
        raise


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` with a path beside `path`, then put the file in its place; see `replacing`."""
    with replacing(path) as temporary:
        write(temporary)


@contextlib.contextmanager
def new_table(path: Path, lineterminator: str = "\r\n") -> Iterator[Any]:
    """Yield a CSV writer, and put the table in its place when all rows are written without an error; see `replacing`.

    Names of files that are not UTF-8 are written as they are on disk.
    """
    with replacing(path) as temporary, temporary.open("w", -1, "utf-8", "surrogateescape", newline="") as file:
        yield csv.writer(file, lineterminator=lineterminator)


def write_json(content: Any, path: Path) -> None:
    """Write plain values as indented JSON, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8"))


def remove_unfinished(folder: Path, pattern: str = ".*.partial*", older_than: float = 0) -> None:
    """Remove what processes that were killed left half written in a folder.

    Args:
        folder: where to look.
        pattern: of the names.
        older_than: seconds; younger files may belong to another process that runs now.
    """
    for leftover in folder.glob(pattern):
        with contextlib.suppress(OSError):  # another process may have removed it, or hold it open
            if time.time() - leftover.stat().st_mtime >= older_than:
                leftover.unlink()


def _reason_of_torch(path: Path) -> OSError:
    """Return why torch.save could not write a file, where it reports the place where its writer stood instead."""
    try:
        with path.open("ab"):
            return OSError("the disk took no more")
    except OSError as error:
        return error


def _named(path: Path, error: OSError, what_to_do: str) -> OSError:
    """Return the error of a file that could not be written, of the same kind, with the file's name."""
    number, reason = error.errno, error.strerror or str(error)
    message = f"{path.absolute()} could not be written: {reason}. What was there before is untouched; {what_to_do}"
    named = OSError(number, message) if number else OSError(message)  # a FileNotFoundError stays one
    named.names_its_file = True
    return named
