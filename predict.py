"""Label the faces in photos, folders, videos or a webcam.

Run:  python predict.py photo.jpg folder video.mp4 '*.png' --annotate
      python predict.py --webcam 0
      python predict.py faces --detector none --checkpoint checkpoint/esr_ferplus/demo/best.pt --explain
Writes, into --output: predictions.csv, a row per face (file, seconds from the start of a video, box in pixels, label,
probability of each class, valence and arousal where the network has them; with --branches what each branch says), and
a row for a picture without a face and for a file that cannot be read; annotated/ (--annotate): the pictures and videos
with boxes and labels; explained/ (--explain): each face with the heat maps of the ensemble and of every branch. A file
appears when it is complete.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from os.path import normpath
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from diversified_fer.console import one_line_errors
from diversified_fer.faces import NO_FACE, UNREADABLE, FaceTable, LabelledFace, label_faces
from diversified_fer.media.inputs import describe_left_out, list_media
from diversified_fer.media.media import (
    VIDEO_SUFFIXES,
    Frame,
    LiveWindow,
    MediaError,
    VideoFile,
    annotate,
    annotated_path,
    read_media,
    stream_webcam,
    write_picture,
)
from diversified_fer.media.output import naming, plan_places
from diversified_fer.writing import replacing
from models import load_model, optimize_for_inference
from models.classifier import ExpressionClassifier
from utils.uaffect import DIMENSIONS
from utils.uhardware import choose_hardware

EXPLAINED_AT_ONCE = 8  # faces whose heat maps are in memory at a time
FEW_PHOTOS = 10  # photos up to which each is spoken of; for more, and for videos, a bar shows how far it is


@dataclass
class Prediction:
    """What to label, with which network, and what to write."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()  # photos, videos, and folders of them
    webcam: int | None = None  # number of a webcam, in place of inputs; q, Esc or Ctrl-C ends it
    checkpoint: Path | None = None  # network; default: the weights that come with the project
    detector: str = "haar"  # "haar", the path of YuNet's .onnx file, or "none" for pictures that are crops of faces
    margin: float = 0.0  # share of a box's side added on each side; 0 is that of the training crops
    every: int = 1  # look at every n-th picture of a video or webcam
    branches: bool = False  # write what each branch says into the table
    annotate: bool = False  # write pictures and videos with boxes and labels
    explain: bool = False  # write class-activation maps of every face
    window: bool = True  # show the webcam's pictures
    output: Path = Path("predictions")  # folder for the results
    batch_size: int = 32  # faces in the network at a time
    device: str = "auto"  # "auto", "cpu", "cuda", ...


def draw(frame: Frame, faces: list[LabelledFace]) -> np.ndarray:
    """Return the picture with a box and a label at every face."""
    captions = [f"{face.label} {100 * float(face.probabilities[face.target]):.0f} %" for face in faces]
    return annotate(frame.picture, [face.box for face in faces], captions, [face.target for face in faces])


def write_explanations(model: ExpressionClassifier, frame: Frame, faces: list[LabelledFace], stem: Path) -> None:
    """Write a picture of heat maps for every face of a frame."""
    from utils.evaluation.explain import explain, plot_explanation  # captum and matplotlib take seconds to import
    from utils.uplot import write_figure

    moment = "" if frame.seconds is None else f"_{frame.seconds:.3f}s"
    with naming(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(faces), EXPLAINED_AT_ONCE):
        explanation = explain(model, [face.crop for face in faces[start : start + EXPLAINED_AT_ONCE]])
        for number in range(len(explanation.targets)):
            path = stem.with_name(f"{stem.name}{moment}_face{start + number + 1}.png")
            with naming(path):
                write_figure(plot_explanation(explanation, number, model.labels), path)


def write_results(
    prediction: Prediction,
    model: ExpressionClassifier,
    labelled: Iterator[tuple[Frame, list[LabelledFace]]],
    paths: list[Path],
    table: FaceTable,
) -> None:
    """Write what was asked for, source by source, as the pictures come."""
    photos = all(path.suffix.lower() not in VIDEO_SUFFIXES for path in paths)
    live, talkative = prediction.webcam is not None, photos and len(paths) <= FEW_PHOTOS
    window = None
    whole = [Path(normpath(path.absolute())) for path in paths]  # without "..": results never leave their folder
    places = dict(zip(paths, plan_places(whole), strict=True))
    progress = tqdm(total=len(paths) if photos and paths else None, unit=" pictures", disable=talkative or None)
    for source, group in groupby(labelled, key=lambda pair: pair[0].source):
        inner = places.get(source, Path(source))
        drawable = True
        with VideoFile(annotated_path(prediction.output / "annotated" / inner, is_video=True)) as video:
            try:
                for frame, faces in group:
                    table.add(frame, faces)
                    progress.update()
                    if frame.error:
                        tqdm.write(f"{UNREADABLE}: {frame.error}", sys.stderr)
                        continue
                    if frame.note:
                        tqdm.write(f"{source}: {frame.note}", sys.stderr)
                    if talkative and frame.rate is None:
                        print(*describe_faces(frame, faces), sep="\n")
                    if prediction.explain and faces:
                        write_explanations(model, frame, faces, prediction.output / "explained" / inner)
                    try:
                        if prediction.annotate and frame.rate is None:
                            path = annotated_path(prediction.output / "annotated" / inner, is_video=False)
                            write_picture(draw(frame, faces), path)
                        elif prediction.annotate and drawable:
                            video.write(draw(frame, faces), frame.seconds, frame.rate)
                    except MediaError as error:  # of this file alone: the table goes on
                        drawable = False
                        table.undrawable += 1
                        tqdm.write(f"not annotated: {error}", sys.stderr)
                    if live and prediction.window:
                        window = window or LiveWindow("Faces (q ends)")
                        if not window.show(draw(frame, faces)):
                            return
            except KeyboardInterrupt:
                if not live:
                    raise
                return
    progress.close()


def describe_faces(frame: Frame, faces: list[LabelledFace]) -> Iterator[str]:
    """Say in a line per face what was found in a photo."""
    for face in faces:
        x, y, width, height = face.box
        probability = float(face.probabilities[face.target])
        affect = "".join(f", {name} {value:+.2f}" for name, value in zip(DIMENSIONS, face.affect, strict=False))
        yield f"{frame.source}: {face.label} ({probability:.0%}){affect}, box x {x}, y {y}, {width} x {height}"
    if not faces:
        yield f"{frame.source}: {NO_FACE}"


def main(prediction: Prediction) -> None:
    """Find the pictures, label their faces, and say how many and how fast."""
    if bool(prediction.inputs) == (prediction.webcam is not None):
        raise ValueError("name photos, videos or folders, or a webcam with --webcam 0: one of the two")
    if prediction.every < 1:
        raise ValueError(f"every is {prediction.every}; expected 1 for every picture, 2 for every second one, ...")
    results = [prediction.output / "annotated", prediction.output / "explained"]
    media = list_media(prediction.inputs, exclude=results)
    paths = media.files
    try:
        prediction.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{prediction.output} cannot be made a folder for results ({error.strerror}); name another with --output"
        ) from error
    hardware = choose_hardware(prediction.device, "float32", compile="off", alone=True)
    path = prediction.checkpoint
    model = load_model(path, hardware.device) if path else load_model(device=hardware.device)
    live = prediction.webcam is not None
    frames = stream_webcam(prediction.webcam, prediction.every) if live else read_media(paths, prediction.every)
    batch_size = 1 if live else prediction.batch_size  # a webcam is answered at once
    labelled = label_faces(optimize_for_inference(model), frames, prediction.detector, prediction.margin, batch_size)
    grey = np.full((model.image_size, model.image_size, 3), 128, dtype=np.uint8)
    num_branches = len(model.predict_branches(grey)) if prediction.branches else 0
    began = time.perf_counter()
    place = prediction.output / "predictions.csv"
    with naming(place):
        place.unlink(missing_ok=True)  # of an earlier run
        with replacing(place) as temporary, temporary.open("w", -1, "utf-8", "surrogateescape", newline="") as file:
            table = FaceTable(file, model.labels, num_branches, DIMENSIONS if model.predicts_affect else ())
            write_results(prediction, model, labelled, paths, table)
    seconds = time.perf_counter() - began
    faces = sum(table.labels[label] for label in model.labels)
    found = ", ".join(f"{label} {table.labels[label]:,}" for label in model.labels if table.labels[label])
    print(
        f"{table.pictures:,} pictures, {faces:,} faces{f' ({found})' if found else ''}, "
        f"{table.labels[NO_FACE]:,} pictures without a face, {table.unreadable:,} files unreadable; "
        f"{seconds:.1f} s, {table.pictures / seconds:.1f} pictures/s"
    )
    if media.left_out:
        print(f"left out: {describe_left_out(media.left_out)}")
    asked = {"predictions.csv": True, "annotated": prediction.annotate, "explained": prediction.explain}
    written = [name for name, wanted in asked.items() if wanted and (prediction.output / name).exists()]
    print(f"wrote {prediction.output}: {', '.join(written)}")
    if table.undrawable:
        print(f"{table.undrawable:,} files could not be annotated, see above; their rows are in the table")
    if not table.pictures:
        raise ValueError(f"none of the {table.unreadable:,} files could be read")


if __name__ == "__main__":
    with one_line_errors("interrupted; no predictions.csv was written"):
        main(tyro.cli(Prediction))
