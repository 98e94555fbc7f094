"""Where the results of files go, whatever their names are."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from diversified_fer.writing import names_its_file

LONGEST_NAME = 160  # bytes; file systems take 255, and results add to the name


def common_folder(folders: Sequence[PurePath]) -> PurePath | None:
    """Return the deepest folder that holds all of them, or is one of them; None where they are on several drives."""
    first = folders[0]
    candidates = (first, *first.parents)
    return next((place for place in candidates if all(folder.is_relative_to(place) for folder in folders)), None)


def plan_places(paths: Sequence[PurePath]) -> list[PurePath]:
    """Return where the results of each file go, inside of the folder for results: no two at the same place.

    The folders of the files are kept below the one that holds all of them. Files on several drives go below their
    drive's letter. A name too long to be added to is cut, and ends in a part of its hash.

    Args:
        paths: absolute, without "..", each of them once.
    """
    if not paths:
        return []
    root = common_folder([path.parent for path in paths])
    places: list[PurePath] = []
    for path in paths:
        if root is not None:
            place = path.relative_to(root)
        else:
            drive = re.sub(r"[^\w.-]+", "_", path.drive).strip("_") or "root"
            place = type(path)(drive, path.relative_to(path.anchor))
        places.append(place.with_name(_short_name(place)))
    return places


def _short_name(place: PurePath) -> str:
    name = os.fsencode(place.name)
    if len(name) <= LONGEST_NAME:
        return place.name
    suffix = place.suffix if len(os.fsencode(place.suffix)) <= 8 else ""
    digest = hashlib.sha256(name).hexdigest()[:12]
    return name[: LONGEST_NAME - 24].decode("utf-8", "ignore") + f"~{digest}{suffix}"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have what fails inside, such as a full disk, name the file that is written."""
    try:
        yield
    except OSError as error:
        if error.errno is None or names_its_file(error):  # says so already
            raise
        named = OSError(f"{path} cannot be written: {error.strerror or error}")
        named.names_its_file = True
        raise named from error
