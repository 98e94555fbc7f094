"""One call: a photo, a folder, a video, an array or a list of them in; a plain row per face out."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from diversified_fer.classifier import SHIPPED, OnnxClassifier
from diversified_fer.detectors import Detector
from diversified_fer.faces import label_faces, rows_of
from diversified_fer.media.arrays import ImageInput, as_rgb, check_range
from diversified_fer.media.inputs import list_media
from diversified_fer.media.media import VIDEO_SUFFIXES, Frame, read_media
from diversified_fer.scores import Classifier
from diversified_fer.tracking import SMOOTHING, follow_people

BATCH_SIZE = 32


@lru_cache(maxsize=2)
def load_classifier(path: Path, written: tuple[int, int]) -> OnnxClassifier:
    """Read a network; once, until the file is written again, of which its time and size tell."""
    return OnnxClassifier(path)


def analyze(
    inputs: ImageInput | Sequence[ImageInput],
    network: Classifier | str | Path = SHIPPED,
    detector: str | Path | Detector = "yunet",
    margin: float = 0.0,
    every: int = 1,
    smooth: float = SMOOTHING,
    branches: bool = False,
    min_face_score: float | None = None,
    min_face_size: int = 0,
    min_confidence: float = 0.0,
    flip: bool = False,
) -> list[dict[str, Any]]:
    """Find and label all faces; `pandas.DataFrame(analyze(...))` is a table of them.

    Args:
        inputs: the path of a photo, a video or a folder of them; a picture as a PIL image or an array, RGB (H, W, 3),
            uint8 or float in [0, 1], grey (H, W), or several of one size (N, H, W, 3); or a list of these.
        network: the path of an .onnx file that `models.export` wrote, or a network; default: the one that ships.
        detector: as in `diversified_fer.detectors.make_detector`; "none" for pictures that are crops of faces.
        margin: share of a box's side that is added on each of the four sides.
        every: look at every n-th picture of a video.
        smooth: seconds over which a person's probabilities in a video are averaged; 0 leaves them out.
        branches: also say what each branch chooses.
        min_face_score: leave out faces of which the detector is less sure; None for its own threshold.
        min_face_size: pixels; leave out smaller faces.
        min_confidence: a face whose most probable class is less probable is labelled "unsure".
        flip: average each face with its mirror image.

    Returns:
        A row per face, in the order of the inputs and from left to right, with the columns of predictions.csv: file
        ("images[2]" for an array), seconds, frame and person in a video, box in pixels, face_score, label,
        probabilities; where an input is named as a video is, also the smoothed ones, as columns of all rows. A picture
        without a face and a file that cannot be read are a row each, labelled "no face" and "unreadable"; values that
        they lack are None.

    Raises:
        FileNotFoundError: for a path that does not exist.
        ValueError: for an array of another shape, type or range, an empty list, and options out of range.
        MediaError: for a folder without photos and videos.
    """
    if every < 1:
        raise ValueError(f"every is {every}; expected 1 for every picture of a video, 2 for every second one, ...")
    listed = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    if not listed:
        raise ValueError("inputs is an empty list; expected a path, a picture, or a list of them")
    if "" in [image for image in listed if isinstance(image, str)]:
        raise ValueError('inputs holds an empty path; expected that of a photo, a video or a folder ("." for this one)')
    several = len(listed) > 1 or isinstance(inputs, list | tuple)
    pictures = [
        image if isinstance(image, str | Path) else as_pictures(image, f"images[{place}]" if several else "images")
        for place, image in enumerate(listed)
    ]
    files = [list_media([Path(image)]).files if isinstance(image, str | Path) else [] for image in pictures]
    model = _read_network(Path(network)) if isinstance(network, str | Path) else network
    if not hasattr(model, "score"):
        raise ValueError(f"network is {model!r}; expected the path of an .onnx file or a network, or leave it out")

    def frames() -> Iterator[Frame]:
        for image, paths in zip(pictures, files, strict=True):
            yield from read_media(paths, every) if paths else image

    found = label_faces(
        model, frames(), detector, margin, BATCH_SIZE, min_face_score, min_face_size, min_confidence, flip
    )
    smoothed = smooth > 0 and any(path.suffix.lower() in VIDEO_SUFFIXES for paths in files for path in paths)
    labelled = follow_people(found, smooth)
    return [row for frame, faces in labelled for row in rows_of(frame, faces, model, branches, smoothed)]


def _read_network(path: Path) -> OnnxClassifier:
    if not path.is_file():  # the message is the class's
        return OnnxClassifier(path)
    state = path.stat()
    return load_classifier(path.resolve(), (state.st_mtime_ns, state.st_size))


def as_pictures(image: ImageInput, name: str) -> list[Frame]:
    """Turn an array or a PIL image into frames of RGB, uint8; several where it is (N, H, W, C)."""
    pictures = as_rgb(image, name)
    if 0 in pictures.shape:
        raise ValueError(f"{name} has shape {pictures.shape}; expected at least one picture with at least one pixel")
    if pictures.dtype.kind == "f":
        check_range(float(pictures.min()), float(pictures.max()), name)
        pictures = np.rint(255 * pictures.clip(0, 1)).astype(np.uint8)
    if pictures.dtype != np.uint8:
        raise ValueError(f"{name} has type {pictures.dtype}; expected uint8, or float with values in [0, 1]")
    if pictures.ndim == 3:
        return [Frame(pictures, name)]
    return [Frame(picture, f"{name}[{number}]") for number, picture in enumerate(pictures)]
