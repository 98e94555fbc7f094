"""Lists the files of a folder, and says what it left out and why: nothing is skipped in silence.

Every part of the project that walks through folders does it here, so that all of them take a suffix in any case,
follow links, and leave out what file managers, network drives and notebooks put beside the pictures.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

FOREIGN_FOLDERS = {  # lower case; besides those whose names begin with a dot
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found",
    "__pycache__",
}  # fmt: skip
NOT_ENTERED = "folders inside"  # why files below the depth asked for are left out
FOREIGN_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}  # lower case; besides those that begin with a dot


@dataclass
class Listing:
    """The files of a folder, and what was left out.

    Attributes:
        files: in order.
        left_out: how many by reason, such as "hidden files" or ".heic".
        lost: those of them that should have led to files: links to nothing, folders that cannot be read.
    """

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    lost: list[Path] = field(default_factory=list)

    def leave_out(self, other: "Listing") -> None:
        """Count what another listing left out as left out here."""
        self.left_out.update(other.left_out)
        self.lost += other.lost

    def __str__(self) -> str:
        """Say how many were left out, by reason; an empty text where nothing was."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()) if count)


def is_foreign(name: str) -> bool:
    """Tell whether a file or folder of this name was put there by a file manager, a network drive or a notebook."""
    return name.startswith(".") or name.lower() in FOREIGN_FOLDERS | FOREIGN_FILES


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, links to folders included, without foreign ones.

    Raises:
        OSError: when the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if not is_foreign(path.name) and path.is_dir())


def one_named(folder: Path, name: str) -> Path:
    """Return the entry of a folder that has this name, otherwise the only one that differs from it in case alone.

    Without either, return where it should be. A folder that cannot be read has no entries.
    """
    if not (folder / name).exists():
        try:
            same = [entry.name for entry in folder.iterdir() if entry.name.lower() == name.lower()]
        except OSError:
            same = []
        if len(same) == 1:
            return folder / same[0]
    return folder / name


def list_files(
    folder: Path, suffixes: Collection[str], depth: int | None = None, known: Collection[str] = ()
) -> Listing:
    """List the files of a folder and its sub-folders whose suffix is one of `suffixes`, sorted by folder and name.

    Links are followed, each folder once; a link to a folder that holds the one it is in is left out.

    Args:
        folder: where to look.
        suffixes: in lower case, with their dot.
        depth: levels of sub-folders to enter: 0 for the folder alone, None for all. Folders that are not entered count.
        known: names of files that belong there, and are neither listed nor counted.

    Raises:
        OSError: when the folder itself cannot be read; a sub-folder that cannot is counted.
    """
    listing = Listing()
    for entry in _walk(folder, depth, listing, {os.path.realpath(folder)}, known):
        suffix = entry.suffix.lower()
        if suffix in suffixes:
            listing.files.append(entry)
        else:
            listing.left_out[suffix or "files without a suffix"] += 1
    listing.files.sort()
    return listing


def _walk(
    folder: Path, depth: int | None, listing: Listing, entered: set[str], known: Collection[str]
) -> Iterator[Path]:
    """Yield the files below a folder; what is left out goes into the listing."""
    left_out, inner = listing.left_out, []
    with os.scandir(folder) as found:  # knows what an entry is without asking the disk again
        entries = sorted((entry for entry in found if entry.name not in known), key=lambda entry: entry.name)
    for entry in entries:
        if is_foreign(entry.name):
            left_out["hidden or foreign " + ("folders" if _is(entry.is_dir) else "files")] += 1
        elif _is(entry.is_dir):
            inner.append(folder / entry.name)
        elif _is(entry.is_file):
            yield folder / entry.name
        else:
            left_out["links to nothing" if entry.is_symlink() else "special files"] += 1
            listing.lost.append(folder / entry.name)
    if depth == 0 and inner:
        left_out[NOT_ENTERED] += len(inner)
    for path in inner if depth != 0 else ():
        real = os.path.realpath(path)
        if real in entered or Path(os.path.realpath(folder)).is_relative_to(real):
            left_out["links to folders that are listed already"] += 1
            continue
        entered.add(real)
        try:
            yield from _walk(path, None if depth is None else depth - 1, listing, entered, known)
        except OSError:
            left_out["folders that cannot be read"] += 1
            listing.lost.append(path)


def _is(asked: Callable[[], bool]) -> bool:
    """Return what an entry of a folder says of itself; a link that goes in a circle is nothing."""
    try:
        return asked()
    except OSError:
        return False
