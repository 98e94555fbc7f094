"""Face detectors, and crops as the training crops were.

A detector is any function from a picture, RGB (H, W, 3) uint8, to boxes (n, 4): x, y, width, height in pixels, or to
(n, 5) with a score. `find_faces` keeps one box per face.

**Crops.** FER2013 (so FER+) and AffectNet were cut out with the boxes of OpenCV's face detector, and a crop here is
such a box, made square around its centre by its longer side, with margin 0. YuNet's boxes are higher than wide, and
become squares as training crops are: of 1.10 times the root of their area, 0.01 of that higher. Fitted on 600 faces of
FER+ Train in drawn scenes, where that root varies as little around the crop's side as width and height do, and less
than the distances of eyes and mouth. Measured on 2,000 faces of Valid by `benchmarks/detectors.py` (seed 0; medians,
with quartiles): the square has 1.00 of the crop's side (0.91 to 1.09) and its centre to 0.003; Haar's box has 0.97
(0.90 to 1.03) and the same centre. Turning faces until their eyes are level was tried and left out: the network that
ships is right for 86.8 % of them in place of 86.7 %.

`margin` adds a share of the side on each of the four sides, for weights trained on wider crops.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

Detector = Callable[[np.ndarray], np.ndarray]
"""From a picture, RGB (H, W, 3) uint8, to boxes (n, 4): x, y, width, height in pixels; (n, 5) with their scores."""

YUNET = Path(__file__).with_name("weights") / "face_detection_yunet_2023mar.onnx"
LEAST_SCORE = 0.7  # of YuNet; a box below it is not a face
PHOTO_PIXELS = 4000 * 3000  # a photo is searched at this size at most
SMALL_PIXELS = 1280 * 960  # a photo below it is enlarged up to twice; a picture of a video is shrunk to it
COARSE_SIDE = 640  # pixels; a picture is halved until it is this long, for faces that fill it
LEAST_SIDE = 64  # pixels; for a picture of 6 x 4 pixels OpenCV's YuNet answers with boxes of 1e30 and score 1
TILE, OVERLAP = 1280, 192  # pixels; a face larger than the overlap is found in a coarser level
EASY_FACE = 48  # pixels; a face of this size is found without a finer level
SIDE, DOWN = 1.10, -0.01  # a training crop has 1.10 times the root of the box's area, and lies 0.01 of that higher
SAME_FACE = 0.5  # share of the smaller of two boxes that lies in the other, above which both are of one face
LONGEST_SIDE = 1280  # pixels; larger pictures are searched by the cascade at this size: it takes seconds otherwise
SMALLEST_FACE = 30  # pixels, in the picture that the cascade searches


class Found(NamedTuple):
    """The faces of a picture.

    Attributes:
        boxes: x, y, width, height in whole pixels, (n, 4).
        scores: how sure the detector is of each, (n,); not a number where it does not say.
    """

    boxes: np.ndarray
    scores: np.ndarray


NOTHING = Found(np.zeros((0, 4), dtype=np.int64), np.zeros(0))


def make_detector(
    detector: str | Path | Detector = "yunet",
    least_score: float | None = None,
    least_size: int = 0,
    video: bool = False,
) -> Detector:
    """Return a detector: "yunet", "haar", "none" for pictures that are face crops already, or a function as it is.

    Args:
        detector: its name, the path of another YuNet's .onnx file, or a function.
        least_score: of YuNet's boxes; None for its own, 0.7.
        least_size: pixels of the faces that are asked for; YuNet leaves out finer levels than they need.
        video: YuNet searches pictures of at most 1280 x 960 pixels, and enlarges none.

    Raises:
        FileNotFoundError: when the file of a YuNet is missing.
        ValueError: for any other name, a file that is not YuNet, and "haar" where OpenCV has no cascades.
    """
    if callable(detector):
        return detector
    if detector == "haar":
        return HaarDetector()
    if detector == "none":
        return whole_picture
    if isinstance(detector, str | Path) and (detector == "yunet" or Path(detector).suffix.lower() == ".onnx"):
        path = YUNET if detector == "yunet" else Path(detector)
        return YuNetDetector(path, LEAST_SCORE if least_score is None else least_score, least_size, video)
    raise ValueError(
        f"unknown detector {str(detector)!r}; expected 'yunet', 'haar', 'none' (the pictures are crops of faces), or "
        "the path of another YuNet's .onnx file"
    )


def whole_picture(picture: np.ndarray) -> np.ndarray:
    """Take the picture itself for a face: the detector "none". Its crop keeps its shape, as training crops do."""
    height, width = picture.shape[:2]
    return np.array([(0, 0, width, height)])


class YuNetDetector:
    """YuNet (Wu, Peng, Yu, "YuNet: a tiny millisecond-level face detector", 2023), from its ONNX file.

    Args:
        path: the file; default: the one that comes with the package (weights/README.md).
        least_score: boxes below it are left out, in [0, 1].
        least_size: pixels of the smallest face that is asked for; 0 for as small as it finds.
        video: for pictures of a video, see `levels`.

    Raises:
        FileNotFoundError: when the file is missing.
        ValueError: when it is not YuNet, and for a score outside of [0, 1].
    """

    def __init__(
        self, path: Path = YUNET, least_score: float = LEAST_SCORE, least_size: int = 0, video: bool = False
    ) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"no file at {path.absolute()}; expected YuNet's .onnx file, of the OpenCV Zoo")
        if not 0 <= least_score <= 1:
            raise ValueError(f"min_face_score is {least_score}; YuNet's scores are from 0 to 1")
        self.least_size, self.video = least_size, video
        before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns of its own engine
        try:
            content = np.frombuffer(path.read_bytes(), np.uint8)  # OpenCV opens no path beyond ASCII on Windows
            self.network = cv2.FaceDetectorYN.create("onnx", content, np.zeros(0, np.uint8), (320, 320), least_score)
            self.network.setInputSize((64, 64))
            self.network.detect(np.zeros((64, 64, 3), dtype=np.uint8))
        except cv2.error as error:
            reason = " ".join(str(error.err).split())[:200]
            raise ValueError(f"{path} is not a YuNet that OpenCV can run ({reason})") from error
        finally:
            cv2.utils.logging.setLogLevel(before)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Find faces whose middle is in the picture; return squares as training crops are, with scores (n, 5)."""
        found = self.search(picture)
        squares = square_up(found[:, :4])
        middles = squares[:, :2] + squares[:, 2:] / 2
        inside = ((middles >= 0) & (middles < picture.shape[1::-1])).all(axis=1)
        return np.column_stack((squares, found[:, 14]))[inside]

    def search(self, picture: np.ndarray) -> np.ndarray:
        """Return what YuNet says about each face (n, 15): its box, five points (eyes, nose, mouth), and the score."""
        parts = [np.zeros((0, 15))]
        for scale in levels(picture.shape, self.least_size, self.video):
            level = _resize(picture, scale)
            size = np.array(level.shape[1::-1])
            for left, top, tile in tiles(level):
                padded = _pad(tile, LEAST_SIDE)
                self.network.setInputSize(padded.shape[1::-1])
                _, found = self.network.detect(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))
                if found is None:
                    continue
                found = found.astype(np.float64)
                found[:, 0:14] += np.concatenate(((left, top, 0, 0), np.tile((left, top), 5)))
                corners = np.hstack((found[:, :2], found[:, :2] + found[:, 2:4])).reshape(-1, 2, 2)
                first, last = np.array((left, top)), np.array((left, top)) + tile.shape[1::-1]
                cut = ((corners[:, 0] < first) & (first > 0)) | ((corners[:, 1] > last) & (last < size))
                found[:, :14] *= np.tile(np.array(picture.shape[1::-1]) / size, 7)
                parts.append(found[~cut.any(axis=1)])
        found = np.concatenate(parts)
        return found[keep_best(found[:, :4], found[:, 14])]


def levels(shape: tuple[int, ...], least_size: int = 0, video: bool = False) -> list[float]:
    """Return the sizes, as shares of a picture's (H, W), at which it is searched, from fine to coarse.

    The finest is the picture's own, shrunk to at most 4000 x 3000 pixels. Small photos are enlarged, up to twice and
    up to 1280 x 960 pixels. Pictures of a video are shrunk to as many, and not enlarged. Each further level is half
    as large, until the picture is at most 640 pixels long. All levels together have at most 4/3 of the finest's pixels.
    """
    pixels = shape[0] * shape[1]
    small = math.sqrt(SMALL_PIXELS / pixels)
    finest = min(1.0, small) if video else min(max(1.0, min(2.0, small)), math.sqrt(PHOTO_PIXELS / pixels))
    if least_size:
        finest = min(finest, EASY_FACE / least_size)
    halvings = math.ceil(math.log2(max(1.0, finest * max(shape[:2]) / COARSE_SIDE)))
    return [finest / 2**k for k in range(halvings + 1)]


def tiles(picture: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Cut a picture into tiles of one size, at most 1280 x 1280, that overlap; with the column and row of each."""
    starts, sizes = [], []
    for length in picture.shape[:2]:
        count = max(1, math.ceil((length - OVERLAP) / (TILE - OVERLAP)))
        sizes.append(math.ceil((length + (count - 1) * OVERLAP) / count))
        starts.append(np.linspace(0, length - sizes[-1], count).round().astype(int).tolist())
    for top in starts[0]:
        for left in starts[1]:
            yield left, top, picture[top : top + sizes[0], left : left + sizes[1]]


def square_up(boxes: np.ndarray) -> np.ndarray:
    """Return the squares (n, 4) that training crops have around YuNet's boxes (n, 4)."""
    side = SIDE * np.sqrt(boxes[:, 2:3] * boxes[:, 3:4])
    centre = boxes[:, :2] + boxes[:, 2:] / 2 + side * (0, DOWN)
    return np.hstack((centre - side / 2, side, side))


def keep_best(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return which of the boxes (n, 4) are kept (k,): of those of one face, the one with the highest score.

    Two boxes are of one face when half of the smaller one lies in the other. Without scores (not a number) the larger
    one is kept.
    """
    boxes = np.asarray(boxes, np.float64)
    areas = boxes[:, 2] * boxes[:, 3]
    left = np.lexsort((areas, np.nan_to_num(scores)))[::-1]
    kept = []
    while left.size:
        best, left = left[0], left[1:]
        kept.append(best)
        start = np.maximum(boxes[best, :2], boxes[left, :2])
        end = np.minimum(boxes[best, :2] + boxes[best, 2:], boxes[left, :2] + boxes[left, 2:])
        shared = np.clip(end - start, 0, None).prod(axis=1) / np.minimum(areas[best], areas[left])
        left = left[shared <= SAME_FACE]
    return np.array(kept, dtype=np.int64)


class HaarDetector:
    """OpenCV's bundled cascade for frontal faces (Viola and Jones, CVPR 2001; Lienhart's training); not in OpenCV 5."""

    def __init__(self) -> None:
        if not hasattr(cv2, "CascadeClassifier"):
            raise ValueError(
                f"detector 'haar' is not in OpenCV {cv2.__version__}; take 'yunet', or install 'opencv-python<5'"
            )
        path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
        self.cascade = cv2.CascadeClassifier(str(path))
        if self.cascade.empty():
            raise FileNotFoundError(f"no cascade at {path}; it comes with opencv-python 4: install requirements.txt")

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Find frontal faces of 30 pixels or more, in a picture shrunk to 1280 pixels where it is larger."""
        scale = min(1.0, LONGEST_SIDE / max(picture.shape[:2]))
        grey = cv2.cvtColor(_resize(picture, scale), cv2.COLOR_RGB2GRAY)
        boxes = self.cascade.detectMultiScale(
            grey, scaleFactor=1.1, minNeighbors=5, minSize=(SMALLEST_FACE, SMALLEST_FACE)
        )
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) / scale


def _resize(picture: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return picture
    size = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _pad(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture that is black to the right and below, so that it is at least `side` pixels wide and high."""
    missing = [max(0, side - length) for length in picture.shape[:2]]
    return cv2.copyMakeBorder(picture, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT) if any(missing) else picture


def find_faces(picture: np.ndarray, detector: Detector) -> Found:
    """Return all faces, each once, from left to right, then from top to bottom.

    Raises:
        ValueError: when the detector returns anything but boxes that meet the picture.
    """
    found = np.asarray(detector(picture), dtype=np.float64)
    if found.size == 0:
        return NOTHING
    if found.ndim != 2 or found.shape[1] not in (4, 5) or not np.isfinite(found).all():
        raise ValueError(
            f"the detector returned an array of shape {found.shape}; expected finite boxes (n, 4): x, y, width, "
            "height, or (n, 5) with their scores"
        )
    boxes, scores = found[:, :4], found[:, 4] if found.shape[1] == 5 else np.full(len(found), np.nan)
    corners = np.floor(np.hstack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:])) + 0.5).astype(np.int64)
    height, width = picture.shape[:2]
    for left, top, right, bottom in corners.tolist():
        if left >= right or top >= bottom or left >= width or top >= height or right <= 0 or bottom <= 0:
            raise ValueError(
                f"the detector returned the box x {left}, y {top}, width {right - left}, height {bottom - top}, which "
                f"is empty or outside of the picture ({width} x {height}); expected x, y, width, height in pixels"
            )
    boxes = np.hstack((corners[:, :2], corners[:, 2:] - corners[:, :2]))
    kept = keep_best(boxes, scores)
    boxes, scores = boxes[kept], scores[kept]
    order = np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 1], boxes[:, 0]))
    return Found(boxes[order], scores[order])


def keep_faces(found: Found, least_score: float | None, least_size: int) -> Found:
    """Return the faces of at least this score (None for any), and whose box is at least so many pixels long.

    Raises:
        ValueError: when a score is asked for, and the detector gives none.
    """
    if least_score is not None and np.isnan(found.scores).any():
        raise ValueError(f"min_face_score is {least_score}, but this detector gives no scores; leave it out")
    kept = found.boxes[:, 2:].max(axis=1, initial=0) >= least_size
    if least_score is not None:
        kept &= found.scores >= least_score
    return Found(found.boxes[kept], found.scores[kept])


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
