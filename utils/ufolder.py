"""Lists the files of a folder, and says what it left out and why: nothing is skipped in silence.

Every part of the project that walks through folders does it here, so that all of them take a suffix in any case,
follow links, and leave out what file managers, network drives and notebooks put beside the pictures.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

FOREIGN_FOLDERS = {  # lower case; besides those whose names begin with a dot
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found",
    "__pycache__",
}  # fmt: skip
FOREIGN_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}  # lower case; besides those that begin with a dot


@dataclass
class Listing:
    """The files of a folder, and what was left out.

    Attributes:
        files: in order.
        left_out: how many by reason, such as "hidden files" or ".heic".
    """

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """Say how many were left out, by reason; an empty text where nothing was."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))


def is_foreign(name: str) -> bool:
    """Tell whether a file or folder of this name was put there by a file manager, a network drive or a notebook."""
    return name.startswith(".") or name.lower() in FOREIGN_FOLDERS | FOREIGN_FILES


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, links to folders included, without foreign ones.

    Raises:
        OSError: when the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if not is_foreign(path.name) and path.is_dir())


def list_files(folder: Path, suffixes: Collection[str], depth: int | None = None) -> Listing:
    """List the files of a folder and its sub-folders whose suffix is one of `suffixes`, sorted by folder and name.

    Links are followed, each folder once; a link to a folder that holds the one it is in is left out.

    Args:
        folder: where to look.
        suffixes: in lower case, with their dot.
        depth: levels of sub-folders to enter: 0 for the folder alone, None for all.

    Raises:
        OSError: when the folder itself cannot be read; a sub-folder that cannot is counted.
    """
    listing = Listing()
    for entry in _walk(folder, depth, listing.left_out, {os.path.realpath(folder)}):
        suffix = entry.suffix.lower()
        if suffix in suffixes:
            listing.files.append(entry)
        else:
            listing.left_out[suffix or "files without a suffix"] += 1
    listing.files.sort()
    return listing


def _walk(folder: Path, depth: int | None, left_out: Counter[str], entered: set[str]) -> Iterator[Path]:
    """Yield the files below a folder."""
    inner: list[Path] = []
    for path in sorted(folder.iterdir()):
        if is_foreign(path.name):
            left_out["hidden or foreign " + ("folders" if path.is_dir() else "files")] += 1
        elif path.is_dir():
            inner.append(path)
        elif path.is_file():
            yield path
        else:
            left_out["links to nothing" if path.is_symlink() else "special files"] += 1
    for path in inner if depth != 0 else ():
        real = os.path.realpath(path)
        if real in entered or Path(os.path.realpath(folder)).is_relative_to(real):
            left_out["links to folders that are listed already"] += 1
            continue
        entered.add(real)
        try:
            yield from _walk(path, None if depth is None else depth - 1, left_out, entered)
        except OSError:
            left_out["folders that cannot be read"] += 1
