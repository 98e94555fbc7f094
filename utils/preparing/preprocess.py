"""Writes AffectNet and FER+ as their data sets in `utils.udata` read them.

Both conversions can be stopped at any moment, also by SIGKILL, and started again: files are written under a temporary
name and renamed, what is there is not made again, and the folder ends byte for byte as if nothing had happened. A row
that cannot be used never stops them; it is listed in `errors.csv` with the reason.
"""

import json
import os
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from tqdm.auto import tqdm

from diversified_fer.console import is_watched
from diversified_fer.writing import new_table, remove_unfinished, replacing
from utils.preparing.annotations import EXPRESSIONS, RELEASED_SETS, CurrentRelease, FirstRelease, find_affect_net
from utils.preparing.crop import crop_face
from utils.preparing.ferplus import FER_FOLDERS, FER_SIZE, FERPlusTables
from utils.preparing.table import BadRow, DatasetError
from utils.uhardware import keep_freed_memory

IMAGES_PER_FOLDER = 500  # keeps folders small enough for file browsers and network drives; the published layout
JPEG_QUALITY = 95  # of 100: the faces are compressed a second time, which should not show
ROWS_AHEAD = 16  # rows per thread handed out before the oldest is done: hides slow ones, bounds memory
STAMP = ".preprocessed.json"  # what a folder was made from, so that two sources never mix in one folder
ERRORS = "errors.csv"  # every row that could not be used, and why
SOURCES = "sources.csv"  # the source picture of every face, which lists of other projects name
FACE = re.compile(r"(\d{7,9})_\d{1,2}_-?\d{1,4}_-?\d{1,4}", re.ASCII)  # how AffectNet's are named, without the suffix
OWN_FILES = (STAMP, ERRORS, SOURCES)


class Preprocessed(NamedTuple):
    """What a conversion left behind. Rows that are in none of the three counts name no picture (FER+ only)."""

    destination: Path
    rows: int
    written: int
    already_there: int
    errors: int
    counts: dict[str, int]  # pictures now there, by expression (AffectNet) or by split (FER+)


class Outcome(NamedTuple):
    """What became of a row: a group in `counts`, or the reason why it cannot be used."""

    row: int
    file: str
    group: str = ""
    written: bool = False
    reason: str = ""
    replaced: str = ""  # an earlier run's picture of the row, with other labels, and the one in its place


def pre_process_affect_net(
    base_path_to_images: str | Path,
    base_path_to_annotations: str | Path,
    base_destination_path: str | Path,
    set_index: int = 1,
    image_size: int = 96,
    *,
    num_workers: int | None = None,
) -> Preprocessed:
    """Cut the faces out of AffectNet's photographs and write them as `utils.udata.AffectNet` reads them.

    Writes `base_destination_path/Training_Labeled/[id // 500]/[id]_[emotion]_[valence*1000]_[arousal*1000].jpg`. The id
    is the number of the row in the annotation file (from 0, the header not counted), or N in the current release. All
    expressions are written, also None, Uncertain and No-Face (8, 9, 10), which the data set class leaves out.

    The crop is rows `face_y : face_y + face_height`, columns `face_x : face_x + face_width`, clipped to the photograph,
    and is scaled to a square. `errors.csv` in the same folder lists each unusable row: its number, picture and reason.
    `sources.csv` has the row and the picture of every face written, by which lists of them find it.
    Where a label of the current release was corrected since an earlier run, the face of the old label is replaced, and
    how many were is printed.
    A JPEG that lost its end is an unusable row; damage inside a picture that still ends properly cannot be told.

    Args:
        base_path_to_images: first release: the folder with `Manually_Annotated_*/` and `Automatically_Annotated_*/`, or
            one of these itself, sub-directories kept or flattened. Current release: the folder with `train_set/` and
            `val_set/`, or one of these itself.
        base_path_to_annotations: the annotation table or the folder that holds it; in the current release as above.
        base_destination_path: the folder to write into.
        set_index: 0 automatically annotated -> Training_Unlabeled, 1 training -> Training_Labeled, 2 validation ->
            Validation.
        image_size: pixels along each side of the faces written: 96 for ESR, 224 for MA-Net.
        num_workers: number of threads; None uses every core available.

    Raises:
        ValueError: when an argument is out of range, the release lacks the set, the table is another set's, or the
            destination holds pictures of another size or from other annotations.
        DatasetError: when no row at all could be used; errors.csv is written then.
        FileNotFoundError: when neither release is there.
    """
    if set_index not in range(len(RELEASED_SETS)):
        raise ValueError(
            f"set_index is {set_index!r}; expected 0 (automatically annotated), 1 (training), 2 (validation)"
        )
    if not isinstance(image_size, int) or image_size < 1:
        raise ValueError(f"image_size is {image_size!r}; expected a number of pixels, 96 for ESR or 224 for MA-Net")
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}; expected at least 1, or None for every core available")
    release = find_affect_net(
        Path(base_path_to_images).expanduser(), Path(base_path_to_annotations).expanduser(), set_index
    )
    folder = Path(base_destination_path).expanduser() / RELEASED_SETS[set_index].destination
    stamp = {"annotations": release.name, "image_size": image_size, "rows": len(release), "sha256": release.sha256}
    _claim(folder, stamp, ("*/[0-9]*.jpg",), [folder, *folder.glob("*")])

    title = f"AffectNet {folder.name}, set_index {set_index}"
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    num_workers = num_workers or len(usable)
    jobs = _faces_to_write(release, folder, image_size)
    keep_freed_memory()
    num_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # every core has a picture of its own
    try:
        with ThreadPoolExecutor(num_workers) as executor:
            outcomes = _in_order(executor, _write_face, jobs, ROWS_AHEAD * num_workers)
            return _record(outcomes, folder, len(release), EXPRESSIONS, title, with_sources=True)
    finally:
        cv2.setNumThreads(num_threads)


def _faces_to_write(release: FirstRelease | CurrentRelease, folder: Path, image_size: int) -> Iterator[tuple]:
    """Yield what `_write_face` takes for every row: rows of the same folder follow each other, so each is listed once.

    A folder is listed before any of its rows is handed out, so that the list has the pictures of earlier runs alone.
    """
    place, earlier = None, {}
    for number, row in release:
        if place != folder / str(number // IMAGES_PER_FOLDER):
            place = folder / str(number // IMAGES_PER_FOLDER)
            earlier = defaultdict(list)
            for path in sorted(place.glob("[0-9]*_*.jpg")):
                if match := FACE.fullmatch(path.stem):
                    earlier[int(match[1])].append(path)
        yield release, number, row, place, earlier.get(number, []), image_size


def _write_face(
    release: FirstRelease | CurrentRelease, number: int, row: Any, folder: Path, earlier: list[Path], image_size: int
) -> Outcome:
    """Write one face, unless it is there, and remove those that an earlier run wrote of the row with other labels."""
    try:
        face = release.parse(row)
        name = f"{number:07d}_{face.expression}_{face.valence}_{face.arousal}.jpg"
        path = folder / name
        is_new = not _is_written(path)
        if is_new:
            try:
                data = release.find(face.file).read_bytes()
            except OSError as error:
                raise BadRow(f"the picture cannot be read: {error.strerror}") from None
            image = crop_face(data, face.box, image_size)
            _write(path, cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
    except BadRow as error:
        return Outcome(number, release.file_name(row), reason=str(error))
    outdated = [old for old in earlier if old != path]
    for old in outdated:
        old.unlink(missing_ok=True)
    replaced = f"{' and '.join(old.name for old in outdated)} by {name}" if outdated else ""
    return Outcome(number, release.file_name(row), EXPRESSIONS[face.expression], is_new, replaced=replaced)


def pre_process_fer_plus(
    path_to_fer2013_csv: str | Path, path_to_fer2013new_csv: str | Path, base_destination_path: str | Path
) -> Preprocessed:
    """Write FER2013's pictures and FER+'s votes as `utils.udata.FERPlus` reads them.

    Writes `Images/FER2013{Train,Valid,Test}/ferXXXXXXX.png` (48 x 48, grey) and, without a header,
    `Labels/FER2013{Train,Valid,Test}/label.csv`: name, box, ten votes. Rows without a picture's name, which FER+ took
    out of FER2013, are left out. `errors.csv` lists each unusable row: its number (from 0), picture and reason.

    Args:
        path_to_fer2013_csv: Kaggle's table with the columns pixels and Usage.
        path_to_fer2013new_csv: Microsoft's table with Usage, Image name and ten columns of votes, in the same order.
        base_destination_path: the folder to write into.

    Raises:
        FileNotFoundError: when a table is missing.
        ValueError: when the tables do not belong together, or the destination holds pictures made from others. Nothing
            is written then.
        DatasetError: when no row at all could be used; errors.csv is written then.
    """
    tables = FERPlusTables(Path(path_to_fer2013_csv).expanduser(), Path(path_to_fer2013new_csv).expanduser())
    root = Path(base_destination_path).expanduser()
    label_files = {folder: root / "Labels" / folder / "label.csv" for folder in FER_FOLDERS.values()}
    folders = [root, *(root / "Images" / folder for folder in label_files), *(f.parent for f in label_files.values())]
    sources = {"fer2013": tables.pixels, "fer2013new": tables.votes}
    stamp = {name: {"rows": len(table), "sha256": table.sha256} for name, table in sources.items()}
    _claim(root, stamp, ("Images/FER2013*/fer*.png", "Labels/FER2013*/label.csv"), folders)

    votes: dict[str, dict[str, list[int]]] = {folder: {} for folder in label_files}  # by picture

    def outcomes() -> Iterator[Outcome]:
        for number, lines in enumerate(tables):
            yield _write_fer_face(tables, number, lines, root, votes)
        for folder, label_file in label_files.items() if any(votes.values()) else ():
            rows = ([name, f"(0, 0, {FER_SIZE}, {FER_SIZE})", *counts] for name, counts in votes[folder].items())
            label_file.parent.mkdir(parents=True, exist_ok=True)
            with new_table(label_file, "\n") as table:
                table.writerows(rows)

    return _record(outcomes(), root, len(tables), tuple(label_files), "FER+")


def _write_fer_face(
    tables: FERPlusTables, number: int, lines: tuple[bytes, bytes], root: Path, votes: dict[str, dict[str, list[int]]]
) -> Outcome:
    """Write one face, unless it is there, and add its votes to those of its folder."""
    name = tables.file_name(lines)
    try:
        face = tables.parse(lines)
        if face is None:
            return Outcome(number, name)
        if any(name in faces for faces in votes.values()):
            raise BadRow("an earlier row has the same name")
        path = root / "Images" / face.folder / name
        is_new = not _is_written(path)
        if is_new:
            _write(path, cv2.imencode(".png", face.image())[1].tobytes())
    except BadRow as error:
        return Outcome(number, name, reason=str(error))
    votes[face.folder][name] = face.votes
    return Outcome(number, name, face.folder, is_new)


def _claim(folder: Path, stamp: dict[str, Any], written: Iterable[str], folders: Iterable[Path]) -> None:
    """Make a folder ready: remove what an interrupted run left half written, and note what the pictures are made from.

    Raises ValueError when there are files that match a pattern of what is written and were made from something else.
    """
    stamp_file = folder / STAMP
    text = json.dumps(stamp, indent=2, sort_keys=True) + "\n"
    found = stamp_file.read_text(encoding="utf-8", errors="replace") if stamp_file.is_file() else None
    there = next((path for pattern in written for path in folder.glob(pattern)), None)
    if found != text and there is not None:
        origin = f"of unknown origin (there is no {STAMP})" if found is None else f"made from {' '.join(found.split())}"
        what = "labels" if there.suffix == ".csv" else "pictures"
        raise ValueError(
            f"{folder} holds {what} {origin}; asked for are {what} made from {' '.join(text.split())}. Nothing was "
            "changed: choose another destination, or remove that folder"
        )
    for directory in folders:
        remove_unfinished(directory)
    _write(stamp_file, text.encode())


def _write(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all; its folder is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as partial:
        partial.write_bytes(data)


def _is_written(path: Path) -> bool:
    """Whether a file is there; renaming makes files whole, but a machine that lost power may leave empty ones."""
    return path.is_file() and path.stat().st_size > 0


def _in_order(
    executor: ThreadPoolExecutor, function: Callable[..., Outcome], jobs: Iterable[tuple], ahead: int
) -> Iterator[Outcome]:
    """Yield the function's results in the order of the jobs, with at most `ahead` jobs handed out at a time."""
    pending: deque[Future[Outcome]] = deque()
    for job in jobs:
        pending.append(executor.submit(function, *job))
        if len(pending) == ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _record(
    outcomes: Iterable[Outcome],
    folder: Path,
    num_rows: int,
    groups: tuple[str, ...],
    title: str,
    with_sources: bool = False,
) -> Preprocessed:
    """Go through the outcomes with a progress bar, write the tables at the end, and print and return the counts."""
    counts, written, num_errors, first, replaced = dict.fromkeys(groups, 0), 0, 0, "", []
    with ExitStack() as stack:
        table = stack.enter_context(new_table(folder / ERRORS, "\n"))
        table.writerow(["row", "file", "reason"])
        sources = None
        if with_sources:
            sources = stack.enter_context(new_table(folder / SOURCES, "\n"))
            sources.writerow(["row", "file"])
        for outcome in tqdm(outcomes, folder.name, num_rows, unit=" rows", disable=not is_watched()):
            written += outcome.written
            replaced += [outcome.replaced] if outcome.replaced else []
            if outcome.reason:
                num_errors += 1
                first = first or f"row {outcome.row}: {outcome.reason}"
                table.writerow([outcome.row, outcome.file, outcome.reason])
            elif outcome.group:
                counts[outcome.group] += 1
                if sources:
                    sources.writerow([outcome.row, outcome.file])
    used = sum(counts.values())
    if not used:
        raise DatasetError(
            f"{title}: 0 of {num_rows:,} rows could be used ({first or 'none names a picture'}); see {folder / ERRORS}"
        )
    print(f"{title} -> {folder}")
    see = f" (see {folder / ERRORS})" if num_errors else ""
    print(f"  {num_rows:,} rows: {written:,} written, {used - written:,} already there, {num_errors:,} unusable{see}")
    if replaced:
        print(f"  {len(replaced):,} faces had other labels before and were replaced (first: {replaced[0]})")
    if num_rows > used + num_errors:
        print(f"  {num_rows - used - num_errors:,} rows name no picture and are left out")
    print("  " + ", ".join(f"{group} {count:,}" for group, count in counts.items() if count))
    return Preprocessed(folder, num_rows, written, used - written, num_errors, counts)
