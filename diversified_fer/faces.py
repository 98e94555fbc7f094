"""Labels for the faces of a stream of pictures, and the rows they are written as."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from diversified_fer.detectors import (
    NOTHING,
    Detector,
    Found,
    cut_face,
    find_faces,
    keep_faces,
    make_detector,
    whole_picture,
)
from diversified_fer.media.media import Frame
from diversified_fer.scores import Classifier

PENDING_BYTES = 2**28  # pictures that wait until the network's batch is full
NO_FACE, UNREADABLE = "no face", "unreadable"  # labels of rows without a face
UNSURE = "unsure"  # label of a face whose most probable class is less probable than asked for
PLACE = ("file", "seconds", "frame", "person", "x", "y", "width", "height", "face_score")


class LabelledFace(NamedTuple):
    """A face and what a network says about it.

    Attributes:
        box: x, y, width, height in pixels, as the detector found it.
        crop: what the network was given, RGB (S, S, 3), uint8.
        label: name of the most probable class, or `UNSURE`.
        target: index of the most probable class.
        probabilities: of every class, (K,) float32.
        branch_labels: what each branch would say.
        affect: valence and arousal in [-1, 1], of a network that has heads for them.
        score: how sure the detector is that this is a face; None where it does not say.
        person: in a video, who it is: 1 for who was seen first, and so on; from `tracking.follow_people`.
        smoothed: in a video, the person's probabilities over a window of time, (K,) float32; from the same.
    """

    box: tuple[int, int, int, int]
    crop: np.ndarray
    label: str
    target: int
    probabilities: np.ndarray
    branch_labels: tuple[str, ...]
    affect: tuple[float, ...] = ()
    score: float | None = None
    person: int | None = None
    smoothed: np.ndarray | None = None


def rows_of(
    frame: Frame, faces: Sequence[LabelledFace], model: Classifier, branches: bool = False, smoothed: bool = False
) -> list[dict[str, Any]]:
    """Return a picture's faces as plain rows, or one row that says why there is none; None where a value is missing.

    The columns are those of `columns_of`.
    """
    columns = columns_of(model, branches, smoothed)
    place = {"file": str(frame.source), "seconds": frame.seconds, "frame": frame.number}
    if not faces:
        return [dict.fromkeys(columns) | place | {"label": UNREADABLE if frame.error else NO_FACE}]
    rows = []
    for face in faces:
        numbers = [float(value) for value in (*face.probabilities, *face.affect)]
        if smoothed:
            numbers += [None] * len(model.labels) if face.smoothed is None else face.smoothed.tolist()
        answers = [face.label, *numbers, *(face.branch_labels if branches else ())]
        rows.append(place | dict(zip(columns[3:], [face.person, *face.box, face.score, *answers], strict=True)))
    return rows


def columns_of(model: Classifier, branches: bool = False, smoothed: bool = False) -> list[str]:
    """Return the columns of a network's rows: place, label, probabilities, affect and, where asked for, more."""
    window = [f"smoothed_{label}" for label in model.labels] if smoothed else []
    said = [f"branch_{number}" for number in range(1, model.num_branches + 1)] if branches else []
    return [*PLACE, "label", *(f"probability_{label}" for label in model.labels), *model.dimensions, *window, *said]


def round_row(row: Mapping[str, Any], times: Collection[str]) -> dict[str, Any]:
    """Return a row as a table has it: times, by their columns' names, in milliseconds, other fractions to 6 digits."""
    digits = {name: 3 if name in times else 6 for name, value in row.items() if isinstance(value, float)}
    return {**row, **{name: f"{row[name]:.{number}f}" for name, number in digits.items()}}


def name_expression(probabilities: np.ndarray, labels: Sequence[str], min_confidence: float) -> tuple[str, int]:
    """Return the most probable class's name, or `UNSURE` where it is less probable than asked for, and its index."""
    target = int(probabilities.argmax())
    return labels[target] if probabilities[target] >= min_confidence else UNSURE, target


class FaceTable:
    """Labelled faces as rows of CSV, written one by one, and what they count.

    Args:
        file: where to write, a text file.
        model: the network.
        branches: write what every branch says.
        smoothed: write the smoothed probabilities of people in videos.

    Attributes:
        labels: rows per label.
        pictures: pictures read.
        unreadable: files that could not be read, or not to their end.
        undrawable: files that could not be written with boxes.
    """

    def __init__(self, file: TextIO, model: Classifier, branches: bool = False, smoothed: bool = False) -> None:
        self._writer = csv.DictWriter(file, columns_of(model, branches, smoothed), lineterminator="\n")
        self._model, self._branches, self._smoothed = model, branches, smoothed
        self.labels: Counter[str] = Counter()
        self.pictures = self.unreadable = self.undrawable = 0
        self._writer.writeheader()

    def add(self, frame: Frame, faces: list[LabelledFace]) -> None:
        """Write a picture's faces, or one row that says why there is none."""
        self.pictures += frame.error is None
        self.unreadable += frame.error is not None
        for row in rows_of(frame, faces, self._model, self._branches, self._smoothed):
            self.labels[row["label"]] += 1
            self._writer.writerow(round_row(row, times=("seconds",)))


def label_faces(
    model: Classifier,
    frames: Iterable[Frame],
    detector: str | Path | Detector = "yunet",
    margin: float = 0.0,
    batch_size: int = 32,
    min_face_score: float | None = None,
    min_face_size: int = 0,
    min_confidence: float = 0.0,
    flip: bool = False,
) -> Iterator[tuple[Frame, list[LabelledFace]]]:
    """Find and label all faces of a stream of pictures; faces of several pictures share the network's batches.

    Args:
        model: an `OnnxClassifier`, or a network from `models.load_model`.
        frames: pictures, from `media.media.read_media` or made as `Frame(picture)`; few are held at a time.
        detector: as in `make_detector`.
        margin: as in `cut_face`; 0 is that of the training crops.
        batch_size: faces, and pictures, that are gathered before the network is called; 1 answers at once.
        min_face_score: faces of which the detector is less sure are left out; None for its own threshold.
        min_face_size: pixels; faces whose box is less wide and less high are left out.
        min_confidence: faces whose most probable class is less probable are labelled `UNSURE`.
        flip: average the probabilities of each face and of its mirror image; takes twice as long.

    Returns:
        Every frame, in order, with its faces from left to right; none for a frame without a picture.

    Raises:
        ValueError: as `make_detector` and `find_faces`; for a margin outside of [0, 2], a batch without faces, a size
            below 0, a confidence outside of [0, 1], and a score asked of a detector that gives none.
    """
    if not 0 <= margin <= 2:
        raise ValueError(f"margin is {margin}; expected a share of the box's side from 0 to 2")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1 face")
    if min_face_size < 0:
        raise ValueError(f"min_face_size is {min_face_size}; expected pixels, 0 for faces of every size")
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence is {min_confidence}; expected a probability from 0 to 1")
    photos = make_detector(detector, min_face_score, min_face_size)
    videos = cache(lambda: make_detector(detector, min_face_score, min_face_size, video=True))  # few inputs have any

    def find(frame: Frame) -> Found:
        found = find_faces(frame.picture, photos if frame.rate is None else videos())
        return keep_faces(found, min_face_score, min_face_size)

    def label(crops: list[np.ndarray]) -> Iterator[LabelledFace]:
        answers = zip(crops, *model.score(crops, batch_size, flip), strict=True)
        return (_labelled(model.labels, min_confidence, *answer) for answer in answers)

    return _stream(label, frames, find, photos is whole_picture, margin, batch_size)


def _stream(
    label: Callable[[list[np.ndarray]], Iterator[LabelledFace]],
    frames: Iterable[Frame],
    find: Callable[[Frame], Found],
    are_crops: bool,
    margin: float,
    batch_size: int,
) -> Iterator[tuple[Frame, list[LabelledFace]]]:
    pending: list[tuple[Frame, Found]] = []
    crops: list[np.ndarray] = []  # of all their boxes
    held = 0
    for frame in frames:
        found = NOTHING
        if frame.picture is not None:
            try:
                found = find(frame)
            except ValueError as error:
                raise ValueError(f"{frame.source}: {error}") from error
            boxes = found.boxes.tolist()
            crops += [frame.picture if are_crops else cut_face(frame.picture, box, margin) for box in boxes]
            held += frame.picture.nbytes
        pending.append((frame, found))
        if max(len(crops), len(pending)) >= batch_size or held >= PENDING_BYTES:
            yield from _label(label, pending, crops)
            pending, crops, held = [], [], 0
    yield from _label(label, pending, crops)


def _label(
    label: Callable[[list[np.ndarray]], Iterator[LabelledFace]],
    pending: list[tuple[Frame, Found]],
    crops: list[np.ndarray],
) -> Iterator[tuple[Frame, list[LabelledFace]]]:
    faces: Iterator[LabelledFace] = iter(())
    if crops:
        boxes = [tuple(box) for _, found in pending for box in found.boxes.tolist()]
        scores = [None if math.isnan(score) else score for _, found in pending for score in found.scores.tolist()]
        labelled = zip(label(crops), boxes, scores, strict=True)
        faces = (face._replace(box=box, score=score) for face, box, score in labelled)
    for frame, found in pending:
        yield frame, list(islice(faces, len(found.boxes)))


def _labelled(
    labels: Sequence[str],
    min_confidence: float,
    crop: np.ndarray,
    probabilities: np.ndarray,
    branches: np.ndarray,
    affect: np.ndarray,
) -> LabelledFace:
    label, target = name_expression(probabilities, labels, min_confidence)
    said = tuple(labels[choice] for choice in branches)
    return LabelledFace((0, 0, 0, 0), crop, label, target, probabilities, said, tuple(affect.tolist()))
