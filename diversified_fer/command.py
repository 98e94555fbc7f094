"""Labels the faces in photos, folders, videos or a webcam from the command line; also behind predict.py.

Run:  diversified-fer photo.jpg folder video.mp4 '*.png' --annotate
      diversified-fer --webcam 0
      diversified-fer faces --detector none --network face.onnx
Writes, into --output: predictions.csv, a row per face (file, seconds from the start of a video, number of its picture,
person, box in pixels, the detector's score, label, probability of each class, valence and arousal where the network has
them; for videos the smoothed probabilities; with --branches what each branch says), and a row for a picture without a
face and for a file that cannot be read; people.csv, for videos a row per person; timelines/, for each video a picture
of who showed what when; annotated/ (--annotate): the pictures and videos with boxes and labels. A file appears when it
is complete; the rows of a run that is interrupted are in predictions.unfinished.csv.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from os.path import normpath
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from diversified_fer.classifier import SHIPPED, OnnxClassifier
from diversified_fer.console import is_watched, one_line_errors
from diversified_fer.faces import NO_FACE, UNREADABLE, UNSURE, FaceTable, LabelledFace, label_faces, name_expression
from diversified_fer.media.h264 import H264_REMEDY, make_video, writes_h264
from diversified_fer.media.inputs import RESULTS, TABLE, UNFINISHED_TABLE, describe_left_out, list_media
from diversified_fer.media.media import (
    VIDEO_SUFFIXES,
    Frame,
    LiveWindow,
    MediaError,
    annotate,
    annotated_path,
    read_media,
    stream_webcam,
    write_picture,
)
from diversified_fer.media.output import naming, plan_places
from diversified_fer.people import PeopleTable
from diversified_fer.scores import Classifier
from diversified_fer.tracking import SMOOTHING, follow_people
from diversified_fer.writing import replacing

FEW_PHOTOS = 10  # photos up to which each is spoken of; for more, and for videos, a bar shows how far it is
INTERRUPTED = "interrupted; no predictions.csv was written"

Explain = Callable[[Frame, list[LabelledFace], Path], None]
"""Writes pictures that explain the labels of a frame's faces, to names that begin with a path."""


@dataclass
class Labelling:
    """What to label, and what to write."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()  # photos, videos, and folders of them
    webcam: int | None = None  # number of a webcam, in place of inputs; q, Esc or Ctrl-C ends it
    detector: str = "yunet"  # "yunet", a YuNet's .onnx file, "haar", or "none" for pictures that are crops of faces
    min_face_score: float | None = None  # leave out faces of which the detector is less sure; default: YuNet's own, 0.7
    min_face_size: int = 0  # pixels; leave out smaller faces
    margin: float = 0.0  # share of a box's side added on each side; 0 is that of the training crops
    smooth: float = SMOOTHING  # seconds over which a person's probabilities in a video are averaged; 0 for none
    every: int = 1  # look at every n-th picture of a video or webcam
    min_confidence: float = 0.0  # a face whose most probable class is less probable is labelled "unsure"
    flip: bool = False  # average each face with its mirror image: a little more often right, twice the time
    branches: bool = False  # write what each branch says into the table
    annotate: bool = False  # write pictures and videos with boxes and labels
    window: bool = True  # show the webcam's pictures
    output: Path = Path("predictions")  # folder for the results
    batch_size: int = 32  # faces in the network at a time


@dataclass
class Command(Labelling):
    """What to label, with which network, and what to write."""

    network: Path = SHIPPED  # .onnx file that models.export wrote; default: the one that comes with the package


def draw(frame: Frame, faces: list[LabelledFace], labels: Sequence[str], min_confidence: float = 0.0) -> np.ndarray:
    """Return the picture with a box and a label at every face; in videos people are numbered, and labels smoothed."""
    captions, targets = [], []
    for face in faces:
        label, target, probabilities = face.label, face.target, face.probabilities
        if face.smoothed is not None:
            probabilities = face.smoothed
            label, target = name_expression(probabilities, labels, min_confidence)
        who = "" if face.person is None else f"{face.person}: "
        captions.append(f"{who}{label} {100 * float(probabilities[target]):.0f} %")
        targets.append(target)
    return annotate(frame.picture, [face.box for face in faces], captions, targets)


def write_results(
    wanted: Labelling,
    labelled: Iterator[tuple[Frame, list[LabelledFace]]],
    paths: list[Path],
    table: FaceTable,
    people: PeopleTable,
    model: Classifier,
    explain: Explain | None,
) -> None:
    """Write what was asked for, source by source, as the pictures come."""
    photos = all(path.suffix.lower() not in VIDEO_SUFFIXES for path in paths)
    live, talkative = wanted.webcam is not None, photos and len(paths) <= FEW_PHOTOS
    window, say = None, partial(tqdm.write, file=sys.stderr)
    whole = [Path(normpath(path.absolute())) for path in paths]  # without "..": results never leave their folder
    places = dict(zip(paths, plan_places(whole), strict=True))
    taken = set(places.values())
    hidden = talkative or not is_watched()
    progress = tqdm(total=len(paths) if photos and paths else None, unit=" pictures", disable=hidden)
    for source, group in groupby(labelled, key=lambda pair: pair[0].source):
        inner = places.get(source, Path(source))
        drawable = True
        annotated = wanted.output / "annotated" / annotated_path(inner, is_video=True, taken=taken)
        with people.video(source, inner) as summary, make_video(annotated, source, say) as video:
            try:
                for frame, faces in group:
                    table.add(frame, faces)
                    progress.update()
                    if frame.error:
                        tqdm.write(f"{UNREADABLE}: {frame.error}", sys.stderr)
                        continue
                    if frame.seconds is not None:
                        summary.add(frame, faces)
                    if frame.note:
                        tqdm.write(f"{source}: {frame.note}", sys.stderr)
                    if talkative and frame.rate is None:
                        print(*describe_faces(frame, faces, model.dimensions), sep="\n")
                    if explain is not None and faces:
                        explain(frame, faces, wanted.output / "explained" / inner)
                    try:
                        if wanted.annotate and frame.rate is None:
                            path = wanted.output / "annotated" / annotated_path(inner, is_video=False, taken=taken)
                            write_picture(draw(frame, faces, model.labels, wanted.min_confidence), path)
                        elif wanted.annotate and drawable:
                            video.write(
                                draw(frame, faces, model.labels, wanted.min_confidence), frame.seconds, frame.rate
                            )
                    except MediaError as error:  # of this file alone: the table goes on
                        drawable = False
                        table.undrawable += 1
                        tqdm.write(f"not annotated: {error}", sys.stderr)
                    if live and wanted.window:
                        window = window or LiveWindow("Faces (q ends)")
                        if not window.show(draw(frame, faces, model.labels, wanted.min_confidence)):
                            return
            except KeyboardInterrupt:
                if not live:
                    raise
                return
    progress.close()


def describe_faces(frame: Frame, faces: list[LabelledFace], dimensions: Sequence[str]) -> Iterator[str]:
    """Say in a line per face what was found in a photo."""
    for face in faces:
        x, y, width, height = face.box
        probability = float(face.probabilities[face.target])
        affect = "".join(f", {name} {value:+.2f}" for name, value in zip(dimensions, face.affect, strict=True))
        yield f"{frame.source}: {face.label} ({probability:.0%}){affect}, box x {x}, y {y}, {width} x {height}"
    if not faces:
        yield f"{frame.source}: {NO_FACE}"


def label_media(wanted: Labelling, load: Callable[[], Classifier], explain: Explain | None = None) -> None:
    """Find the pictures, label their faces, and say how many and how fast.

    Args:
        wanted: what to label and to write.
        load: gives the network; called once it is known that there is something to label.
        explain: called for every picture with faces.
    """
    if bool(wanted.inputs) == (wanted.webcam is not None):
        raise ValueError("name photos, videos or folders, or a webcam with --webcam 0: one of the two")
    if wanted.every < 1:
        raise ValueError(f"every is {wanted.every}; expected 1 for every picture, 2 for every second one, ...")
    results = [wanted.output / name for name in RESULTS]
    media = list_media(wanted.inputs, exclude=results)
    paths = media.files
    try:
        wanted.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{wanted.output} cannot be made a folder for results ({error.strerror}); name another with --output"
        ) from error
    model = load()
    live = wanted.webcam is not None
    frames = stream_webcam(wanted.webcam, wanted.every) if live else read_media(paths, wanted.every)
    batch_size = 1 if live else wanted.batch_size  # a webcam is answered at once
    labelled = label_faces(
        model, frames, wanted.detector, wanted.margin, batch_size, wanted.min_face_score, wanted.min_face_size,
        wanted.min_confidence, wanted.flip,
    )  # fmt: skip
    labelled = follow_people(labelled, wanted.smooth)
    smoothed = wanted.smooth > 0 and (live or any(path.suffix.lower() in VIDEO_SUFFIXES for path in paths))
    began = time.perf_counter()
    place, unfinished = wanted.output / TABLE, wanted.output / UNFINISHED_TABLE
    table = None
    with naming(place), replacing(place) as temporary:
        try:
            with temporary.open("w", -1, "utf-8", "surrogateescape", newline="") as file:
                table = FaceTable(file, model, wanted.branches, smoothed)
                with PeopleTable(wanted.output, model) as people:
                    write_results(wanted, labelled, paths, table, people, model, explain)
        except KeyboardInterrupt:
            if table and (table.pictures or table.unreadable):
                temporary.replace(unfinished)
                print(f"the rows so far are in {unfinished}", file=sys.stderr)
            raise
    unfinished.unlink(missing_ok=True)  # an earlier run's
    seconds = time.perf_counter() - began
    given = [label for label in (*model.labels, UNSURE) if table.labels[label]]
    faces = sum(table.labels[label] for label in given)
    found = ", ".join(f"{label} {table.labels[label]:,}" for label in given)
    print(
        f"{table.pictures:,} pictures, {faces:,} faces{f' ({found})' if found else ''}, "
        f"{table.labels[NO_FACE]:,} pictures without a face, {table.unreadable:,} files unreadable; "
        f"{seconds:.1f} s, {table.pictures / seconds:.1f} pictures/s"
    )
    if media.left_out:
        print(f"left out: {describe_left_out(media.left_out)}")
    asked = {"predictions.csv": True, "people.csv": people.is_written, "timelines": people.is_written}
    asked |= {"annotated": wanted.annotate, "explained": explain is not None}
    written = [name for name, is_asked in asked.items() if is_asked and (wanted.output / name).exists()]
    print(f"wrote {wanted.output}: {', '.join(written)}")
    if wanted.annotate and people.is_written and not writes_h264():
        print(H264_REMEDY)
    if table.undrawable:
        print(f"{table.undrawable:,} files could not be annotated, see above; their rows are in the table")
    if not table.pictures:
        raise ValueError(f"none of the {table.unreadable:,} files could be read")


def refuse_empty_names() -> None:
    """Raise ValueError for an empty argument, as an unset variable of the shell leaves: as a path it would be "."."""
    if "" in sys.argv[1:]:
        raise ValueError("one of the names is empty; name photos, videos or folders, or . for the current folder")


def main() -> None:
    """Run the console command."""
    with one_line_errors(INTERRUPTED):
        refuse_empty_names()
        wanted = tyro.cli(Command)
        label_media(wanted, lambda: OnnxClassifier(wanted.network))


if __name__ == "__main__":
    main()
