"""Finds the photos and videos that a user names: files, folders, wildcards; and says what it left out."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from diversified_fer.folder import Listing, list_files
from diversified_fer.media.picture import HEIC_REMEDY, PHOTO_SUFFIXES, MediaError
from diversified_fer.media.video import VIDEO_SUFFIXES

REMEDIES = dict.fromkeys((".heic", ".heif", ".hif"), HEIC_REMEDY) | dict.fromkeys(
    (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"), "export as JPEG with the camera's program"
)  # fmt: skip
TABLE = "predictions.csv"
UNFINISHED_TABLE = "predictions.unfinished.csv"  # of a run that was interrupted
KILLED_TABLE = ".predictions.*.partial.csv"  # pattern; of one that was killed, or runs now
RESULTS = ("annotated", "explained", "timelines")  # folders that predict.py writes beside its table
ADDRESS = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:[/\\]")  # two letters or more: C:\ is a drive


def find_media(inputs: Sequence[Path], exclude: Sequence[Path] = ()) -> list[Path]:
    """List photos and videos as `list_media` does, without what was left out."""
    return list_media(inputs, exclude).files


def list_media(inputs: Sequence[Path], exclude: Sequence[Path] = ()) -> Listing:
    """List photos and videos: files as they are named, folders with all their sub-folders, sorted, each file once.

    The results of earlier runs in these folders are left out. A name with *, ? or [ that is no file's is a
    pattern (** for all sub-folders), because not every shell replaces it.

    Args:
        inputs: files, folders and patterns.
        exclude: folders to leave out, where results are written.

    Returns:
        The files, and how many others the folders hold, by suffix or reason.

    Raises:
        FileNotFoundError: for an input that does not exist, and a pattern that matches nothing.
        MediaError: for an address, and for a folder that holds neither photos nor videos.
    """
    results = [os.path.realpath(folder) for folder in exclude]
    once: dict[str, Path] = {}
    left_out: Counter[str] = Counter()
    for named in inputs:
        for path, is_match in _expand(named):
            if not path.is_dir():
                if is_match and _holds_results(path.parent, _fixed_part(named), results):
                    left_out["results of predict.py"] += 1
                elif is_match and path.suffix.lower() not in PHOTO_SUFFIXES | VIDEO_SUFFIXES:
                    left_out[path.suffix.lower() or "files without a suffix"] += 1
                else:
                    once.setdefault(os.path.realpath(path), path)
                continue
            inner = _list_folder(path, results)
            if not inner.files and not is_match:
                others = f"; left out: {describe_left_out(inner.left_out)}" if inner.left_out else ""
                raise MediaError(
                    f"{path.absolute()} holds no photos or videos "
                    f"({', '.join(sorted(PHOTO_SUFFIXES | VIDEO_SUFFIXES))}){others}"
                )
            left_out += inner.left_out
            for file in inner.files:
                once.setdefault(os.path.realpath(file), file)
    if inputs and not once:
        raise MediaError(f"{', '.join(map(str, inputs))}: no photos or videos; left out: {describe_left_out(left_out)}")
    return Listing(list(once.values()), left_out)


def describe_left_out(left_out: Counter[str]) -> str:
    """Say how many files were left out, by suffix or reason, and what can be done about some."""
    return ", ".join(
        f"{count:,} {reason}" + (f" ({REMEDIES[reason]})" if reason in REMEDIES else "")
        for reason, count in sorted(left_out.items())
    )


def _expand(named: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the files and folders that a name stands for, and whether it is a pattern that they match."""
    if os.path.exists(named):  # noqa: PTH110 - Path.exists raises for a name that is too long
        yield named, False
        return
    if ADDRESS.match(str(named)):
        address = re.sub(r":[/\\]+", "://", str(named), count=1)  # as it was before it became a path
        raise MediaError(f"{address}: addresses are not read; download it first, and name the file")
    if not glob.has_magic(str(named)):
        raise FileNotFoundError(f"no file or folder at {named.absolute()}; expected a photo, a video or a folder")
    matches = sorted(glob.glob(str(named), recursive=True))  # noqa: PTH207
    if not matches:
        raise FileNotFoundError(f"no file or folder matches {str(named)!r} in {Path.cwd()}")
    if "**" in named.parts:  # matches the folders on the way too, whose files are matched themselves
        matches = [match for match in matches if not Path(match).is_dir()]
    yield from ((Path(match), True) for match in matches)


def _fixed_part(pattern: Path) -> Path:
    """Return the folder that a pattern names before its first wildcard."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1]))


def _list_folder(folder: Path, results: Sequence[str]) -> Listing:
    """List a folder without the results of this run and of earlier ones."""
    listing = list_files(folder, PHOTO_SUFFIXES | VIDEO_SUFFIXES)
    is_result = {place: _holds_results(place, folder, results) for place in {file.parent for file in listing.files}}
    kept = [file for file in listing.files if not is_result[file.parent]]
    if len(kept) < len(listing.files):
        listing.left_out["results of predict.py"] += len(listing.files) - len(kept)
    return Listing(kept, listing.left_out)


def _holds_results(place: Path, folder: Path, results: Sequence[str]) -> bool:
    """Tell whether a folder inside of `folder` is part of results: those of `RESULTS` beside a table, whole or not."""
    if any(Path(os.path.realpath(place)).is_relative_to(result) for result in results):
        return True
    between = [place, *place.parents][: len(place.relative_to(folder).parts)]
    tables = (TABLE, UNFINISHED_TABLE, KILLED_TABLE)
    return any(inner.name in RESULTS and any(any(inner.parent.glob(table)) for table in tables) for inner in between)
