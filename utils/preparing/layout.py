"""Finds the folders of a data set, lists its pictures, and says what is missing and what was left out."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path, PureWindowsPath

from diversified_fer.contents import ARCHIVE, recognize
from diversified_fer.folder import Listing, folders_in, list_files, one_named
from diversified_fer.media.picture import PHOTO_SUFFIXES
from utils.preparing.table import DatasetError, encoding_hint, printable

WHERE = {
    "AffectNet": "AffectNet is requested at http://mohammadmahoor.com/databases/affectnet/",
    "FER+": "the images are FER2013 (Kaggle), the votes FER+ (github.com/microsoft/FERPlus); see pre_process_fer_plus",
    "RAF-DB": "RAF-DB is requested at http://www.whdeng.cn/raf/model1.html",
}


def below(root: Path, path: str) -> Path:
    """Return a path below a folder; names count in another case where only one entry has them."""
    for name in path.split("/"):
        root = one_named(root, name)
    return root


def find_root(root: Path, marks: Collection[str]) -> Path:
    """Return the folder that holds one of the paths a data set is known by: this one, or one level below or above it.

    The level above counts only where this folder itself is a part of such a path. Without any, `root` is returned.

    Raises:
        DatasetError: when several folders in it hold the data set.
    """

    def holds(folder: Path) -> bool:
        return any(below(folder, mark).exists() for mark in marks)

    above, own = root.absolute().parent, root.absolute().name.lower()  # also of "."
    if any(mark.lower().startswith(own + "/") and below(above, mark).exists() for mark in marks):
        return above  # this is a part of the data set; it may look like another layout of the whole
    if holds(root):
        return root
    try:
        found = [folder for folder in folders_in(root) if holds(folder)] if root.is_dir() else []
    except OSError:
        found = []
    if len(found) > 1:
        names = ", ".join(printable(folder.name) for folder in found)
        raise DatasetError(f"{root} holds the data set more than once, in {names}: name one of these folders")
    parts = {part.lower() for mark in marks for part in mark.split("/")}
    if not found and own in parts and holds(above):
        found = [above]
    return found[0] if found else root


def list_pictures(folder: Path, dataset: str, layout: str, depth: int = 0, known: Collection[str] = ()) -> Listing:
    """List the pictures of a folder, and of its sub-folders to a depth; refuse a folder without any.

    Raises:
        DatasetError: when the folder is missing, cannot be read or holds no pictures.
    """
    if not folder.is_dir():
        raise DatasetError(missing(folder, dataset, layout))
    try:
        listing = list_files(folder, PHOTO_SUFFIXES, depth, known)
    except OSError as error:
        raise DatasetError(f"{folder.absolute()} cannot be read: {error.strerror}") from None
    if not listing.files:
        raise no_pictures(folder, dataset, layout, listing)
    return listing


def no_pictures(folder: Path, dataset: str, layout: str, listing: Listing) -> DatasetError:
    """Return the error of a folder that is there but holds no pictures."""
    also = f" (it holds {listing})" if str(listing) else ""
    return DatasetError(f"{folder.absolute()} holds no pictures{also}. Expected {layout}; {WHERE[dataset]}")


def missing(path: Path, dataset: str, layout: str) -> str:
    """Say that a part of a data set is not there, and what is there instead."""
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if existing.is_file():
        with existing.open("rb") as file:
            kind, what = recognize(file.read(512))
        also = f" ({what}: unpack it)" if kind == ARCHIVE else ""
        return f"{dataset} is not at {path.absolute()}: {existing} is a file{also}; name the folder that holds the data"
    try:
        inside = sorted(printable(entry.name) for entry in existing.iterdir())[:6]
    except OSError:
        inside = ["what cannot be listed"]
    return (
        f"{dataset} is not at {path.absolute()} ({existing} exists and holds {', '.join(inside) or 'nothing'}). "
        f"Expected {layout}; {WHERE[dataset]}. Set base_path_to_dataset to the folder that holds it, or try --demo"
    )


def print_found(name: str, faces: int, root: Path, left_out: Counter[str], found: str = "") -> None:
    """Print how many faces there are and, by reason, what was left out."""
    also = f"; left out: {Listing(left_out=left_out)}" if +left_out else ""
    print(printable(f"{name}: {faces:,} faces in {root}{f' ({found})' if found else ''}{also}", 2000))


def find_listed(names: Sequence[str], listing: Listing, list_file: Path, layout: str) -> list[Path]:
    """Return the pictures that a table names, in its order; names count in another case and with another suffix.

    Raises:
        DatasetError: when pictures are missing.
    """
    by_name = {path.name: path for path in listing.files}
    by_stem = only_ones(listing.files, lambda path: path.stem.lower())
    found = [by_name.get(name) or by_stem.get(PureWindowsPath(name).stem.lower()) for name in names]
    absent = [name for name, path in zip(names, found, strict=True) if path is None]
    if absent:
        folder = listing.files[0].parent
        dead = " is a link to nothing" if absent[0] in {path.name for path in listing.lost} else ""
        raise DatasetError(
            f"{len(absent)} of the {len(names)} pictures listed in {list_file} are not in {folder} "
            f"(first: {printable(absent[0])}{dead}); expected {layout}{encoding_hint(list_file, absent)}"
        )
    return [path for path in found if path is not None]


def only_ones(paths: Iterable[Path], key: Callable[[Path], str]) -> dict[str, Path]:
    """Return paths by their key, without those that share it with another."""
    paths = {path: key(path) for path in paths}
    times = Counter(paths.values())
    return {key: path for path, key in paths.items() if times[key] == 1}
