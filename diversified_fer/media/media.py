"""Photos, videos and a webcam as a stream of RGB pictures, and the way back: annotated pictures, videos, a window."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its complaints about damaged files are said here, once
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diversified_fer.media.inputs import find_media as find_media
from diversified_fer.media.output import naming
from diversified_fer.media.picture import (
    PHOTO_SUFFIXES,
    MediaError,
    check_regular,
    is_other_content,
    is_picture,
    is_sayable,
    open_picture,
    read_picture,
)
from diversified_fer.media.video import VIDEO_SUFFIXES, Decoder, Frame
from diversified_fer.writing import write_atomically

BARE_PICTURES = {".mjpeg", ".mjpg"}  # videos that begin as a JPEG does
JPEG = {".jfif", ".jpe", ".jpeg", ".jpg"}
WRITTEN = JPEG | {".bmp", ".dib", ".png", ".tif", ".tiff", ".webp"}
USUAL_RATE = 25.0  # pictures per second of a webcam that does not tell
LONGEST_GAP = 600.0  # seconds between two pictures of a video, beyond which their times are wrong
COLOURS = (  # of boxes, one per class; dark enough for white letters
    (96, 96, 96), (200, 120, 0), (40, 90, 200), (190, 40, 140), (110, 60, 180), (50, 125, 50), (205, 35, 35),
    (0, 125, 135),
)  # fmt: skip

read_photo = read_picture


def read_media(paths: Sequence[Path], every: int = 1) -> Iterator[Frame]:
    """Read photos and videos one picture at a time; what cannot be read becomes a frame with an `error`.

    The content decides what a file is, and only then its suffix: people rename files, and programs name them wrongly.
    """
    with Decoder() as decoder:
        for path in paths:
            try:
                yield from _read(decoder, path, every)
            except (MediaError, OSError) as error:
                yield Frame(None, path, error=str(error))


def _read(decoder: Decoder, path: Path, every: int) -> Iterator[Frame]:
    suffix = path.suffix.lower()
    size = check_regular(path, "a photo or a video")
    with path.open("rb") as file:
        head = file.read(512)
    is_other = size > 0 and is_other_content(head)
    if suffix in VIDEO_SUFFIXES and not is_other and (suffix in BARE_PICTURES or not is_picture(head)):
        yield from decoder.pictures(path, every)
        return
    if size and not is_picture(head) and not is_other:
        begun = False
        try:
            for frame in decoder.pictures(path, every):
                begun = True
                yield frame
            return
        except MediaError as error:
            if begun:
                raise
            if suffix not in PHOTO_SUFFIXES:
                raise MediaError(
                    f"{path} ({size:,} bytes) is neither a picture nor a video of a kind that is read here"
                ) from error
    picture = open_picture(path)
    note = f"first of {picture.count:,} pictures; the others are not looked at" if picture.count > 1 else None
    yield Frame(picture.pixels, path, note=note)


def stream_video(path: Path, every: int = 1) -> Iterator[Frame]:
    """Yield every n-th picture of a video; few are in memory at a time.

    Raises:
        FileNotFoundError: when there is no such file.
        MediaError: for a file that is no video, holds no pictures, or ends before its time (after those it has).
    """
    with Decoder() as decoder:
        yield from decoder.pictures(path, every)


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
                    picture, rate = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), capture.get(cv2.CAP_PROP_FPS)
                    rate = rate if 1 <= rate <= 1000 else USUAL_RATE
                    seconds = time.monotonic() - began
                    yield Frame(picture, f"webcam {index}", seconds, rate / every, number=number)
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


def annotate(
    picture: np.ndarray, boxes: Sequence[Sequence[int]], captions: Sequence[str], classes: Sequence[int]
) -> np.ndarray:
    """Draw boxes (x, y, width, height) with captions on a copy of a picture, RGB (H, W, 3), uint8.

    A caption is above its box, or inside where the picture ends there; the class chooses the colour.
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


def annotated_path(path: PurePath, is_video: bool, taken: Collection[PurePath] = ()) -> PurePath:
    """Return a path whose suffix is that of a format that can be written: its own, or one added to it.

    Args:
        path: of the picture or video.
        is_video: whether it is one.
        taken: paths of others, which what is added must not lead to: beside `a.gif.png`, `a.gif` is `a.gif.png.png`.
    """
    if path.suffix.lower() in ({".mp4"} if is_video else WRITTEN):
        return path
    added = path
    while added == path or added in taken:
        added = added.with_name(added.name + (".mp4" if is_video else ".png"))
    return added


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write RGB (H, W, 3), uint8, in the format of the path's suffix, in one step; folders are made.

    Raises:
        MediaError: when its format does not hold such a picture.
        OSError: when it cannot be written.
    """
    suffix, options = path.suffix.lower(), []
    if suffix in JPEG:
        suffix, options = ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92]
    try:
        ok, encoded = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    except cv2.error:  # for a side that the format does not hold, as False is
        ok = False
    if not ok:
        raise MediaError(f"{path}: a picture of {picture.shape[1]} x {picture.shape[0]} cannot be encoded")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_bytes(encoded.tobytes()))


class VideoFile:
    """An MP4 that appears when it is complete: `with VideoFile(path) as video: video.write(picture, seconds, rate)`.

    It is written beside its place and renamed at the end; an exception removes it. By OpenCV: MPEG-4 Part 2 at a
    constant rate, without sound; see `media.h264` for what browsers play.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: Any = None
        self.written = 0
        self.is_whole = True  # until its pictures cannot be written any more
        self.link: Path | None = None

    def write(self, picture: np.ndarray, seconds: float, rate: float) -> None:
        """Append RGB (H, W, 3), uint8; repeated where pictures are missing, so that the video keeps its time.

        Raises:
            MediaError: when the file cannot be opened for such pictures, their size changes or their times jump.
        """
        height, width = picture.shape[:2]
        if self.writer is None:
            with naming(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.temporary = self._temporary()
            self.began, self.rate, self.size = seconds, round(rate, 2), (width, height)  # MPEG-4 takes no finer rate
            self.reached = seconds
            try:
                self._open()
            except MediaError:
                self.writer = None
                self._tidy()
                raise
        if (width, height) != self.size:
            raise MediaError(f"{self.path}: the pictures change from {self.size} to {(width, height)} pixels")
        if seconds - self.reached > max(LONGEST_GAP, 2 / self.rate):
            raise MediaError(f"{self.path}: the times of the pictures jump to {seconds:,.1f} s")
        self.reached = max(self.reached, seconds)
        try:
            self._append(picture, seconds - self.began)
        except MediaError:
            self.is_whole = False
            raise

    def _open(self) -> None:
        """Begin `self.temporary`; raises MediaError where such pictures cannot be written."""
        self.writer = cv2.VideoWriter(str(self.temporary), cv2.VideoWriter_fourcc(*"mp4v"), self.rate, self.size)
        if not self.writer.isOpened():
            raise MediaError(
                f"{self.path} cannot be written as an MP4 of {self.size[0]} x {self.size[1]} pixels, "
                f"{self.rate:.2f} pictures/s"
            )

    def _append(self, picture: np.ndarray, seconds: float) -> None:
        """Write a picture as often as the constant rate asks for until `seconds` from the start."""
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        while self.written < round(seconds * self.rate) + 1:
            self.writer.write(bgr)
            self.written += 1

    def _close(self, is_wanted: bool) -> None:
        """End `self.temporary`."""
        self.writer.release()

    def _temporary(self) -> Path:
        """Return where to write: in the same folder, through a link to it where OpenCV cannot be told its name."""
        name = f".{zlib.crc32(os.fsencode(self.path.name)):08x}.partial.mp4"
        if is_sayable(self.path.parent.absolute()):
            return self.path.absolute().with_name(name)  # FFmpeg takes 12:30/v.mp4 for an address
        self.link = Path(tempfile.mkdtemp(prefix="fer_video_"))
        with contextlib.suppress(OSError):  # Windows lets few people make links; it is moved at the end
            (self.link / "folder").symlink_to(self.path.parent.absolute(), target_is_directory=True)
            return self.link / "folder" / name
        return self.link / name

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.writer is None:
            return
        try:
            is_wanted = kind is None and self.is_whole
            self._close(is_wanted)
            if is_wanted:
                self._publish()
        finally:
            self._tidy()

    def _tidy(self) -> None:
        self.temporary.unlink(missing_ok=True)
        if self.link is not None:
            shutil.rmtree(self.link, ignore_errors=True)  # the link, not the folder it leads to

    def _publish(self) -> None:
        """Rename the file, after a look whether all pictures are in it: OpenCV does not report a full disk."""
        with _capture(str(self.temporary)) as capture:
            found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        if found != self.written:
            raise OSError(f"{self.path}: {found} of {self.written} pictures could be written; is the disk full?")
        with naming(self.path):
            shutil.move(self.temporary, self.path)  # renames, or copies from another disk


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
