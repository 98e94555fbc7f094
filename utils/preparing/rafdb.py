"""Reads RAF-DB's list, or its class folders, whose names tell the order of the labels."""

import re
from pathlib import Path

from diversified_fer.folder import NOT_ENTERED, Listing, folders_in, list_files, one_named
from diversified_fer.media.picture import PHOTO_SUFFIXES
from utils.preparing.layout import find_listed, list_pictures, missing, no_pictures
from utils.preparing.table import DatasetError, cells_or_none, note_line, printable, separator_of, text_lines

# Surprise, Fear, Disgust, Happiness, Sadness, Anger, Neutral
RAFDB_TO_EMOTIONS = {1: 3, 2: 4, 3: 5, 4: 1, 5: 2, 6: 6, 7: 0}
LAYOUT = (
    "train/ and test/ with class folders 0..6 (Neutral, Happiness, Sadness, Surprise, Fear, Disgust, Anger) or "
    "1..7 (the official order), or EmoLabel/list_patition_label.txt with Image/aligned/*_aligned.jpg"
)


def read_list(list_file: Path, folder: Path, split: str, found: Listing) -> tuple[list[Path], list[int]]:
    """Read the pictures of a split and their labels, in our order, from the official list; counts what is left out.

    Raises:
        DatasetError: when the list is no text, a row is malformed, or a picture is missing or has two rows.
    """
    listing = list_pictures(folder, "RAF-DB", LAYOUT)
    stems = {path.stem.lower() for path in listing.files}
    lines: dict[str, int] = {}  # the line that a picture is on
    labels = []
    for number, line in text_lines(list_file, "list_patition_label.txt"):
        name, *rest = _cells(line)
        if not name.startswith(("train_", "test_")):
            found.left_out["rows of neither train nor test"] += 1
        if not name.startswith(split + "_"):
            continue
        if len(rest) != 1 or not re.fullmatch("[1-7]", rest[0]):
            raise DatasetError(
                f"{list_file}, line {number}: {printable(line)!r}; expected a name and a label from 1 to 7"
            )
        stem = Path(name).stem.removesuffix("_aligned")
        is_plain = stem.lower() in stems and f"{stem}_aligned".lower() not in stems  # cut out by other programs
        note_line(lines, f"{stem}.jpg" if is_plain else f"{stem}_aligned.jpg", list_file, number, name)
        labels.append(RAFDB_TO_EMOTIONS[int(rest[0])])
    if not lines:
        raise DatasetError(f"{list_file} lists no picture whose name begins with {split}_")
    paths = find_listed(list(lines), listing, list_file, LAYOUT)
    found.leave_out(listing)
    of_split = sum(path.name.startswith(split + "_") for path in listing.files)
    found.left_out["pictures that the list does not name"] += max(0, of_split - len(set(paths)))
    found.files += paths
    return paths, labels


def _cells(line: str) -> list[str]:
    """Return name and label of a row, separated by blanks or otherwise."""
    cells = line.split()
    if len(cells) == 1:
        cells = cells_or_none(line, separator_of(line, lambda cells: len(cells) == 2)) or cells
    return [cell.strip() for cell in cells] or [""]


def read_class_folders(root: Path, split: str, found: Listing) -> tuple[list[Path], list[int], str]:
    """Read the pictures of a split, their labels in our order, and the order of the folders; counts what is left out.

    Folder 0 says that it is ours, 7 that it is the official one. A class may be absent, and empty folders decide only
    where those with pictures do not; then the other split does.

    Raises:
        DatasetError: when there are no pictures, or the order cannot be told.
    """
    folder, other = one_named(root, split), one_named(root, {"train": "test", "test": "train"}[split])
    if not folder.is_dir():
        raise DatasetError(missing(folder, "RAF-DB", LAYOUT))
    pictures = _list_classes(folder, found)
    paths = sorted(path for files in pictures.values() for path in files)
    if not paths:
        raise no_pictures(folder, "RAF-DB", LAYOUT, found)
    found.files += paths
    filled = {name for name, files in pictures.items() if files}
    of_other = {name for name, files in _list_classes(other, Listing()).items() if files} if other.is_dir() else set()
    if filled <= {str(label) for label in range(8)}:
        orders = (names & {"0", "7"} for names in (filled, set(pictures), of_other))
        order = next(filter(None, orders), None)
        labels = [int(path.parent.name) for path in paths]
        if order == {"0"}:
            return paths, labels, "class folders 0..6, our order"
        if order == {"7"}:
            return paths, [RAFDB_TO_EMOTIONS[label] for label in labels], "class folders 1..7, the official order"
    raise DatasetError(
        f"{folder} has the class folders {', '.join(map(printable, sorted(filled)))}; their order cannot be told from "
        f"such names. Expected {LAYOUT}: rename the folders to the number of their emotion, and move others away"
    )


def _list_classes(folder: Path, found: Listing) -> dict[str, list[Path]]:
    """List the pictures of every folder in a folder."""
    try:
        beside = list_files(folder, PHOTO_SUFFIXES, depth=0)
        listings = {path.name: list_files(path, PHOTO_SUFFIXES, depth=0) for path in folders_in(folder)}
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read: {error.strerror}") from None
    for listing in (beside, *listings.values()):
        found.leave_out(listing)
    found.left_out[NOT_ENTERED] -= beside.left_out[NOT_ENTERED]  # those are entered
    found.left_out["pictures beside the class folders"] += len(beside.files)
    found.left_out["empty folders"] += sum(not listing.files for listing in listings.values())
    return {name: listing.files for name, listing in listings.items()}
