"""Photos, videos and a webcam as a stream of RGB pictures, and the way back: annotated pictures, videos, a window."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its complaints about damaged files are said here, once
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from models.writing import write_atomically
from utils.udata import read_image

PHOTO_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
USUAL_RATE = 25.0  # frames per second of a video or webcam that does not tell
COMPLETE = 0.9  # a video with fewer of the frames it announces is damaged; containers round, so a few may be missing
COLOURS = (  # of boxes, one per class; dark enough for white letters
    (96, 96, 96), (200, 120, 0), (40, 90, 200), (190, 40, 140), (110, 60, 180), (50, 125, 50), (205, 35, 35),
    (0, 125, 135),
)  # fmt: skip


class MediaError(ValueError):
    """A photo, video or webcam that cannot be read or written; the message names it and what to do."""


class Frame(NamedTuple):
    """A picture and where it is from.

    Attributes:
        picture: RGB (H, W, 3), uint8; None for what could not be read.
        source: the file, or the name of the webcam.
        seconds: from the start of a video or webcam; None for a photo.
        rate: pictures per second of a video or webcam, as far as they are looked at; None for a photo.
        error: why there is no picture.
    """

    picture: np.ndarray | None
    source: str | Path = "picture"
    seconds: float | None = None
    rate: float | None = None
    error: str | None = None


def find_media(inputs: Sequence[Path], exclude: Sequence[Path] = ()) -> list[Path]:
    """List photos and videos: files as they are named, folders with all their sub-folders, sorted, each file once.

    Args:
        inputs: files and folders.
        exclude: folders to leave out, where results are written.

    Raises:
        FileNotFoundError: for an input that does not exist.
        MediaError: for a folder that holds neither photos nor videos.
    """
    suffixes = PHOTO_SUFFIXES | VIDEO_SUFFIXES
    results = [folder.resolve() for folder in exclude]
    found: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise FileNotFoundError(f"no file or folder at {path.absolute()}; expected a photo, a video or a folder")
        if not path.is_dir():
            found.append(path)
            continue
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
        )
        files = [file for file in files if not any(file.resolve().is_relative_to(folder) for folder in results)]
        if not files:
            raise MediaError(f"{path.absolute()} holds no photos or videos ({', '.join(sorted(suffixes))})")
        found += files
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.resolve(), path)
    return list(once.values())


def read_media(paths: Sequence[Path], every: int = 1) -> Iterator[Frame]:
    """Read photos and videos one picture at a time; what cannot be read becomes a frame with an `error`."""
    for path in paths:
        try:
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield from stream_video(path, every)
            else:
                yield Frame(read_photo(path), path)
        except (MediaError, OSError) as error:
            yield Frame(None, path, error=str(error))


def read_photo(path: Path) -> np.ndarray:
    """Decode a photo, turned upright, to RGB (H, W, 3), uint8.

    Pillow decodes, because it refuses a file that lost its end; OpenCV fills the rest of the picture with grey.

    Raises:
        MediaError: for anything that is not a whole picture.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith(("I", "F")):  # 16 bits and more, which OpenCV scales to 8
                return read_image(path)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # a damaged file raises whatever its first wrong byte leads to
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise MediaError(f"{path} ({path.stat().st_size:,} bytes) cannot be read as a picture: {reason}") from error


def stream_video(path: Path, every: int = 1) -> Iterator[Frame]:
    """Yield every n-th picture of a video; only one is in memory at a time.

    Raises:
        MediaError: for a file that is no video, holds no pictures, or ends before its time (after those it has).
    """
    with _capture(str(path)) as capture:
        if not capture.isOpened():
            raise MediaError(
                f"{path} ({path.stat().st_size:,} bytes) cannot be opened as a video: it is empty, truncated, or of a "
                "kind that OpenCV does not decode"
            )
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        rate = _rate(capture)
        number = 0
        while capture.grab():
            if number % every == 0:
                milliseconds = capture.get(cv2.CAP_PROP_POS_MSEC)
                seconds = milliseconds / 1000 if milliseconds > 0 else number / rate
                ok, picture = capture.retrieve()
                if not ok:
                    raise MediaError(f"{path}: picture {number} cannot be decoded; the video is damaged")
                yield Frame(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), path, seconds, rate / every)
            number += 1
        if number == 0:
            raise MediaError(f"{path} is a video without pictures")
        if number < COMPLETE * announced:
            raise MediaError(f"{path} is damaged: it ends after {number:,} of {announced:,.0f} pictures")


def stream_webcam(index: int, every: int = 1) -> Iterator[Frame]:
    """Yield every n-th picture of a webcam until it stops.

    Raises:
        MediaError: when there is none, or it gives no pictures.
    """
    with _capture(index) as capture:
        if not capture.isOpened():
            raise MediaError(
                f"no webcam {index}: check that it is plugged in, that no other program uses it and that this one may; "
                "--webcam 1 is the second one"
            )
        began = time.monotonic()
        number = 0
        while capture.grab():
            if number % every == 0:
                ok, picture = capture.retrieve()
                if ok:
                    picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
                    yield Frame(picture, f"webcam {index}", time.monotonic() - began, _rate(capture) / every)
            number += 1
        if number == 0:
            raise MediaError(f"webcam {index} gives no pictures: another program may be using it")


@contextlib.contextmanager
def _capture(source: str | int) -> Iterator[cv2.VideoCapture]:
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # one message is enough
    capture = cv2.VideoCapture(source)
    try:
        yield capture
    finally:
        capture.release()
        cv2.utils.logging.setLogLevel(level)


def _rate(capture: cv2.VideoCapture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 1 <= rate <= 1000 else USUAL_RATE


def annotate(
    picture: np.ndarray, boxes: Sequence[Sequence[int]], captions: Sequence[str], classes: Sequence[int]
) -> np.ndarray:
    """Draw boxes (x, y, width, height) with captions on a copy of a picture, RGB (H, W, 3), uint8.

    A caption stands above its box, or inside where the picture ends there; the class chooses the colour.
    """
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    thickness = max(2, round(max(picture.shape[:2]) / 400))
    for (x, y, width, height), caption, number in zip(boxes, captions, classes, strict=True):
        colour = COLOURS[number % len(COLOURS)]
        draw.rectangle((x, y, x + width - 1, y + height - 1), outline=colour, width=thickness)
        font = ImageFont.load_default(size=float(np.clip(width / 8, 12, max(picture.shape[:2]) / 20 + 8)))
        left, top, right, bottom = draw.textbbox((0, 0), caption, font)
        wide, high = right - left + 2 * thickness, bottom - top + 2 * thickness
        corner_x = max(0, min(x, picture.shape[1] - wide))
        corner_y = y - high if y >= high else max(0, y)
        draw.rectangle((corner_x, corner_y, corner_x + wide - 1, corner_y + high - 1), fill=colour)
        draw.text((corner_x + thickness - left, corner_y + thickness - top), caption, (255, 255, 255), font)
    return np.asarray(image)


def annotated_path(path: Path, is_video: bool) -> Path:
    """Return a path whose suffix is that of a format that can be written: its own, or one added to it."""
    if path.suffix.lower() in ({".mp4"} if is_video else PHOTO_SUFFIXES):
        return path
    return path.with_name(path.name + (".mp4" if is_video else ".png"))


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write RGB (H, W, 3), uint8, in the format of the path's suffix, in one step; folders are made.

    Raises:
        MediaError: when its format does not hold such a picture.
        OSError: when it cannot be written.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix.lower() in (".jpg", ".jpeg") else []
    ok, encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not ok:
        raise MediaError(f"{path}: a picture of {picture.shape[1]} x {picture.shape[0]} cannot be encoded")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_bytes(encoded.tobytes()))


class VideoFile:
    """An MP4 that appears when it is complete: `with VideoFile(path) as video: video.write(picture, seconds, rate)`.

    It is written beside its place and renamed at the end; an exception removes it. Sound is not kept.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f".{path.stem}.partial.mp4")
        self.writer: cv2.VideoWriter | None = None
        self.written = 0

    def write(self, picture: np.ndarray, seconds: float, rate: float) -> None:
        """Append RGB (H, W, 3), uint8; repeated where pictures are missing, so that the video keeps its time.

        Raises:
            MediaError: when the file cannot be opened for such pictures, or their size changes.
        """
        height, width = picture.shape[:2]
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rate = round(rate, 2)  # a finer time base is more than MPEG-4 takes
            self.writer = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
            if not self.writer.isOpened():
                raise MediaError(
                    f"{self.path} cannot be written as an MP4 of {width} x {height} pixels, {rate:.2f} pictures/s"
                )
            self.began, self.rate, self.size = seconds, rate, (width, height)
        if (width, height) != self.size:
            raise MediaError(f"{self.path}: the pictures change from {self.size} to {(width, height)} pixels")
        due = round((seconds - self.began) * self.rate) + 1
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        while self.written < due:
            self.writer.write(bgr)
            self.written += 1

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.writer is None:
            return
        self.writer.release()
        try:
            if kind is None:
                self._publish()
        finally:
            self.temporary.unlink(missing_ok=True)

    def _publish(self) -> None:
        """Rename the file, after a look whether all pictures are in it: OpenCV does not report a full disk."""
        with _capture(str(self.temporary)) as capture:
            found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        if found != self.written:
            raise OSError(f"{self.path}: {found} of {self.written} pictures could be written; is the disk full?")
        self.temporary.replace(self.path)


class LiveWindow:
    """A window that shows pictures until q or Esc is pressed or it is closed.

    Raises:
        MediaError: when there is no display. OpenCV ends the whole program then, so another one tries first.
    """

    def __init__(self, title: str) -> None:
        trial = subprocess.run(
            [sys.executable, "-c", "import cv2; cv2.namedWindow('trial'); cv2.destroyAllWindows()"],
            capture_output=True,
        )
        if trial.returncode:
            raise MediaError(
                "no window can be opened: there is no display, or OpenCV was installed without windows "
                "(opencv-python-headless); --no-window goes without, and writes the table only"
            )
        self.title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL)

    def show(self, picture: np.ndarray) -> bool:
        """Show RGB (H, W, 3), uint8; returns False when the user has had enough."""
        cv2.imshow(self.title, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        pressed = cv2.waitKey(1) & 0xFF
        return pressed not in (ord("q"), 27) and cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1
