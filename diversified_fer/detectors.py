"""Face detectors, and crops as the training crops were.

A detector is any function from a picture, RGB (H, W, 3) uint8, to boxes (n, 4): x, y, width, height in pixels.

**Margin.** FER2013 (so FER+) and AffectNet were cut out with the boxes of OpenCV's face detector. A crop here is
therefore such a box, made square around its centre by its longer side, with margin 0. Measured on FER+ Valid (241 of
299 faces, on which the cascade finds one): its box has 0.97 of the training crop's side (median; quartiles 0.90 and
1.04) and the same centre to 0.01 of it. `margin` adds a share of the side on each of the four sides, for weights
trained on wider crops.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

Detector = Callable[[np.ndarray], np.ndarray]
"""From a picture, RGB (H, W, 3) uint8, to boxes (n, 4): x, y, width, height in pixels."""

LONGEST_SIDE = 1280  # pixels; larger pictures are searched at this size: a cascade takes seconds for a large photo
SMALLEST_FACE = 30  # pixels, in the picture that is searched
YUNET = "face_detection_yunet_2023mar.onnx of the OpenCV Zoo (github.com/opencv/opencv_zoo, Apache 2.0)"


def make_detector(detector: str | Path | Detector) -> Detector:
    """Return a detector: "haar", "none" for pictures that are face crops already, the path of YuNet, or a function.

    Raises:
        FileNotFoundError: when the file of YuNet is missing.
        ValueError: for any other name, and for a file that is not YuNet.
    """
    if callable(detector):
        return detector
    if detector == "haar":
        return HaarDetector()
    if detector == "none":
        return whole_picture
    if Path(detector).suffix.lower() == ".onnx":
        return YuNetDetector(Path(detector))
    raise ValueError(
        f"unknown detector {str(detector)!r}; expected 'haar', 'none' (the pictures are crops of faces), or the path "
        f"of {YUNET}"
    )


def whole_picture(picture: np.ndarray) -> np.ndarray:
    """Take the picture itself for a face: the detector "none". Its crop keeps its shape, as training crops do."""
    height, width = picture.shape[:2]
    return np.array([(0, 0, width, height)])


class HaarDetector:
    """OpenCV's bundled cascade for frontal faces (Viola and Jones, CVPR 2001; Lienhart's training)."""

    def __init__(self) -> None:
        path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
        self.cascade = cv2.CascadeClassifier(str(path))
        if self.cascade.empty():
            raise FileNotFoundError(f"no cascade at {path}; it comes with opencv-python 4: install requirements.txt")

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Find frontal faces of 30 pixels or more, in a picture shrunk to 1280 pixels where it is larger."""
        small, scale = _shrink(picture)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        boxes = self.cascade.detectMultiScale(
            grey, scaleFactor=1.1, minNeighbors=5, minSize=(SMALLEST_FACE, SMALLEST_FACE)
        )
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) / scale


class YuNetDetector:
    """YuNet (Wu, Peng, Yu, "YuNet: a tiny millisecond-level face detector", 2023), from its ONNX file."""

    def __init__(self, path: Path, threshold: float = 0.8) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"no file at {path.absolute()}; expected {YUNET}")
        try:
            self.network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)
            self(np.zeros((320, 320, 3), dtype=np.uint8))
        except cv2.error as error:
            raise ValueError(f"{path} is not a YuNet that OpenCV can run ({error.err}); expected {YUNET}") from error

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Find faces, turned ones too, in a picture shrunk to 1280 pixels where it is larger."""
        small, scale = _shrink(picture)
        self.network.setInputSize(small.shape[1::-1])
        _, found = self.network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        return np.zeros((0, 4)) if found is None else found[:, :4].astype(np.float64) / scale


def _shrink(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """Return a picture of at most `LONGEST_SIDE` pixels, and its size as a share of the original's."""
    scale = min(1.0, LONGEST_SIDE / max(picture.shape[:2]))
    if scale == 1:
        return picture, scale
    size = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA), scale


def find_faces(picture: np.ndarray, detector: Detector) -> np.ndarray:
    """Return the boxes (n, 4) of all faces in whole pixels, from left to right, then from top to bottom.

    Raises:
        ValueError: when the detector returns anything but boxes that meet the picture.
    """
    boxes = np.asarray(detector(picture), dtype=np.float64)
    if boxes.size == 0:
        return np.zeros((0, 4), dtype=np.int64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError(
            f"the detector returned an array of shape {boxes.shape}; expected finite boxes (n, 4): x, y, width, height"
        )
    corners = np.floor(np.hstack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:])) + 0.5).astype(np.int64)
    height, width = picture.shape[:2]
    for left, top, right, bottom in corners.tolist():
        if left >= right or top >= bottom or left >= width or top >= height or right <= 0 or bottom <= 0:
            raise ValueError(
                f"the detector returned the box x {left}, y {top}, width {right - left}, height {bottom - top}, which "
                f"is empty or outside of the picture ({width} x {height}); expected x, y, width, height in pixels"
            )
    boxes = np.hstack((corners[:, :2], corners[:, 2:] - corners[:, :2]))
    return boxes[np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0]))]


def cut_face(picture: np.ndarray, box: Iterable[int], margin: float = 0.0) -> np.ndarray:
    """Cut a square around the centre of a box (x, y, width, height) out of a picture, RGB (S, S, 3), uint8.

    S is the box's longer side and `margin` times that side more on each side. What lies outside of the picture
    repeats the pixels at its border.
    """
    x, y, width, height = box
    side = max(1, round(max(width, height) * (1 + 2 * margin)))
    left, top = math.floor(x + (width - side) / 2 + 0.5), math.floor(y + (height - side) / 2 + 0.5)
    rows = np.clip(np.arange(top, top + side), 0, picture.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, picture.shape[1] - 1)
    return picture[rows[:, None], columns]
