"""Opens videos: pictures in order with their times, decoded by `videoworker.py` in a process of its own.

FFmpeg, which decodes them, can crash, hang or ask for any amount of memory at a damaged file. That process may do so:
the file becomes one `MediaError`, and the run goes on. Its pictures come through memory that both processes map.
"""

import contextlib
import json
import mmap
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np

from diversified_fer.media.container import examine_container
from diversified_fer.media.picture import MAX_PIXELS, MediaError, check_regular, is_sayable

VIDEO_SUFFIXES = {  # whose contents OpenCV's FFmpeg decodes
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg",
    ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".tod", ".ts",
    ".vob", ".webm", ".wmv", ".wtv", ".y4m",
}  # fmt: skip
DEMUXERS = (  # FFmpeg's; others show text as a video (tty), open further files (concat, hls) or take pictures
    "aac,asf,av1,avi,dv,flv,gxf,h261,h263,h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mxf,nsv,"
    "nut,obu,ogg,rm,swf,vc1,webm,wtv,yuv4mpegpipe"
)
WORKER = [sys.executable, str(Path(__file__).with_name("videoworker.py"))]
PATIENCE = 60.0  # seconds without an answer, after which the process is given up; it answers every second
START = 120.0  # the same until a video is open: a busy machine takes long to start a process
COMPLETE = 0.9  # a video that ends before this share of what it states is damaged; containers round; as in the worker
CUT = 0.995  # the same for a file whose container lost its end
ASPECTS = (0.1, 10.0)  # width of a pixel by its height; others are mistakes
SLOTS = 3  # as in the worker


class Frame(NamedTuple):
    """A picture and where it is from.

    Attributes:
        picture: RGB (H, W, 3), uint8; None for what could not be read.
        source: the file, or the name of the webcam.
        seconds: from the start of a video or webcam; None for a photo.
        rate: pictures per second of a video or webcam, as far as they are looked at; None for a photo.
        error: why there is no picture.
        note: what else is to be said about it.
        number: of the picture in its video or webcam, from 0; None for a photo.
    """

    picture: np.ndarray | None
    source: str | Path = "picture"
    seconds: float | None = None
    rate: float | None = None
    error: str | None = None
    note: str | None = None
    number: int | None = None


class Decoder:
    """Decodes one video after the other: `with Decoder() as decoder: for picture in decoder.pictures(path): ...`."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.folder: Path | None = None
        self.answers: queue.Queue[tuple[dict[str, Any], bytes] | None] = queue.Queue()
        self.mapped: tuple[str, mmap.mmap] | None = None
        self.is_idle = True  # the process waits for a video

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it does, and remove its memory."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            with contextlib.suppress(OSError):  # of a line that could not be sent
                self.process.stdin.close()
        self.process, self.mapped = None, None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def pictures(self, path: Path, every: int = 1) -> Iterator[Frame]:
        """Yield every n-th picture of a video; few are in memory at a time.

        Pixels that are not square are made so. The rate is that of the pictures that are yielded.

        Raises:
            FileNotFoundError: when there is no such file.
            MediaError: for a file that is no video, holds no pictures, ends before its time (after those it has), or
                that the decoder crashes or hangs at.
        """
        size = check_regular(path, "a video")
        begun = False
        with plain_name(path) as plain:
            try:
                for picture in self._pictures(path, plain, size, every):
                    begun = True
                    yield picture
            except _DecoderError as error:
                what = "read to its end" if begun else "opened as a video"
                raise MediaError(f"{path} ({size:,} bytes) cannot be {what}: {error}") from None
            finally:
                if not self.is_idle:  # it is in the middle of something
                    self.close()

    def _pictures(self, path: Path, plain: Path, size: int, every: int) -> Iterator[Frame]:
        if not size:
            raise _DecoderError("it is an empty file")
        self._start()
        self.is_idle = False
        self._ask(path=str(plain.absolute()), every=every, max_pixels=MAX_PIXELS)
        about, _ = self._answer(0, START)
        if "error" in about:
            raise _DecoderError(about["error"])
        try:
            rate, aspect = float(about["rate"]), float(about["aspect"])
            announced, duration = float(about["announced"]), float(about["duration"])
        except (KeyError, TypeError, ValueError):
            raise self._nonsense() from None
        taken = 0
        while True:
            answer, payload = self._answer(taken, PATIENCE)
            if "error" in answer:
                raise MediaError(f"{path}: {answer['error']}")
            if "end" in answer:
                break
            if "alive" in answer:
                continue
            pixels = cv2.cvtColor(self._pixels(answer, payload), cv2.COLOR_BGR2RGB)  # a copy: the slot is free again
            self._ask()
            taken += 1
            square = _with_square_pixels(pixels, aspect, path)
            yield Frame(square, path, float(answer["seconds"]), rate / every, number=(taken - 1) * every)
        _check_end(path, answer, announced, duration)

    def _start(self) -> None:
        """Start the process, unless it runs already."""
        if self.process is not None and self.process.poll() is None:
            return
        self.close()
        self.folder = _shared_folder()
        self.answers = queue.Queue()
        options = f"protocol_whitelist;file|format_whitelist;{DEMUXERS}"
        environment = {"OPENCV_FFMPEG_CAPTURE_OPTIONS": options, "OPENBLAS_NUM_THREADS": "1"} | os.environ
        environment |= {"OPENCV_FFMPEG_LOGLEVEL": "-8", "PYTHONIOENCODING": "utf-8"}
        try:
            self.process = subprocess.Popen(
                [*WORKER, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise _DecoderError(f"its decoder, {WORKER[0]}, does not start ({error})") from error
        threading.Thread(target=_listen, args=(self.process.stdout, self.answers), daemon=True).start()

    def _ask(self, **question: Any) -> None:
        """Send a line; a process that is gone is noticed when no answer comes."""
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()

    def _answer(self, taken: int, patience: float) -> tuple[dict[str, Any], bytes]:
        """Wait for an answer; raises _DecoderError when there will be none."""
        try:
            answer = self.answers.get(timeout=patience)
        except queue.Empty:
            raise _DecoderError(
                f"its decoder gives no answer for {patience:.0f} s after {taken:,} pictures; the file is damaged"
            ) from None
        self.is_idle = answer is not None and ("error" in answer[0] or "end" in answer[0])
        if answer is None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may have closed the pipe and live on
                self.process.wait(2)
            self.process.kill()
            raise _DecoderError(
                f"its decoder crashed ({_how_it_ended(self.process)}) after {taken:,} pictures; the file is damaged, "
                "or of a kind that OpenCV does not decode"
            )
        return answer

    def _pixels(self, answer: dict[str, Any], payload: bytes) -> np.ndarray:
        """Return the picture of an answer, BGR (H, W, 3), in memory that is used again."""
        try:
            height, width, channels = (int(length) for length in answer["shape"])
            is_late = not abs(float(answer["seconds"])) < 1e9
            if is_late or min(height, width) < 1 or channels != 3 or height * width > MAX_PIXELS:
                raise ValueError
            size = height * width * 3
            if "follows" in answer:
                return np.frombuffer(payload, np.uint8, size).reshape(height, width, 3)
            slot, part, name = int(answer["slot"]), int(answer["size"]), str(answer["file"])
            if not 0 <= slot < SLOTS or size > part or not re.fullmatch(r"slots\d+", name):
                raise ValueError
            if self.mapped is None or self.mapped[0] != name:
                with (self.folder / name).open("rb") as file:
                    self.mapped = name, mmap.mmap(file.fileno(), SLOTS * part, access=mmap.ACCESS_READ)
                with contextlib.suppress(OSError):  # both have it now; Windows keeps it until the end
                    (self.folder / name).unlink()
            return np.frombuffer(self.mapped[1], np.uint8, size, slot * part).reshape(height, width, 3)
        except (KeyError, TypeError, ValueError, OSError):
            raise self._nonsense() from None

    def _nonsense(self) -> "_DecoderError":
        return _DecoderError("its decoder answers nonsense; the file is damaged")


class _DecoderError(Exception):
    """Why a video cannot be decoded, without its name."""


def _listen(stream: IO[bytes], answers: queue.Queue) -> None:
    """Put the lines of a process, and what follows them, into a queue; None at its end."""
    try:
        while line := stream.readline(2**16):
            answer = json.loads(line)
            if not isinstance(answer, dict):
                break
            follows = min(int(answer.get("follows", 0)), 3 * MAX_PIXELS)
            answers.put((answer, stream.read(follows) if follows > 0 else b""))
    except (ValueError, TypeError, OSError):  # no JSON, or closed
        answers.put(({"shape": None}, b""))  # nonsense, whatever was expected
    answers.put(None)


def _how_it_ended(process: subprocess.Popen) -> str:
    code = process.wait()
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}" if code < 2**16 else f"exit code {code:#x}"  # of Windows


def _shared_folder() -> Path:
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where Linux keeps files in memory
    return Path(tempfile.mkdtemp(prefix="fer_video_", dir=in_memory))


@contextlib.contextmanager
def plain_name(path: Path) -> Iterator[Path]:
    """Give a file a name that OpenCV takes: its own, or that of a link, or of a copy where links are not allowed."""
    if is_sayable(path.absolute()):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fer_video_") as folder:
        suffix = path.suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", path.suffix) else ""
        plain = Path(folder) / f"video{suffix}"
        try:
            plain.symlink_to(path.absolute())
        except OSError:  # Windows lets few people make links
            try:
                shutil.copyfile(path, plain)
            except OSError as error:
                raise MediaError(
                    f"{path} has a name that OpenCV cannot open and cannot be copied to {plain} "
                    f"({error.strerror}): rename it"
                ) from error
        yield plain


def _with_square_pixels(pixels: np.ndarray, aspect: float, path: Path) -> np.ndarray:
    """Stretch a picture along one side, where its pixels are wider or higher than they are long."""
    if not ASPECTS[0] <= aspect <= ASPECTS[1] or abs(aspect - 1) < 1e-3:
        return pixels
    height, width = pixels.shape[:2]
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    if size[0] * size[1] > MAX_PIXELS:
        raise MediaError(f"{path}: {size[0]:,} x {size[1]:,} pixels, more than {MAX_PIXELS:,}: reduce it first")
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)


def _check_end(path: Path, answer: dict[str, Any], announced: float, duration: float) -> None:
    """Raise MediaError when a video that ended as `answer` says should have had more pictures.

    OpenCV's count of pictures is the duration times the rate in many containers, and in others counts pictures that
    are not shown (before the start of an edit list). The duration may be that of the sound, or of a last picture that
    stands long, and that of a Matroska file counts from its own zero. So a video is whole when it has its pictures or
    its time, or, in a file that is not cut, the coded pictures that are there.
    """
    number, coded = int(answer["end"]), int(answer["coded"])
    seconds, first, zero, last = (float(answer[name]) for name in ("seconds", "first", "zero", "last"))
    if number == 0:
        raise MediaError(f"{path} {_without_pictures(str(answer['codec']), announced)}")
    container = examine_container(path)
    if container.duration:
        duration = min(duration, container.duration) if duration > 0 else container.duration
    if container.is_matroska and zero > 0:
        duration -= zero
    mean_step = (seconds - first) / (number - 1) if number > 1 else 0
    reached = seconds + mean_step
    needed = CUT if container.is_cut else COMPLETE
    if number >= needed * announced or reached - first >= needed * (duration - first):
        return
    expected = round((duration - first) / mean_step) if mean_step else round(announced)
    if coded and not container.is_cut:
        if number >= COMPLETE * coded or (seconds > first and seconds - first >= COMPLETE * (last - first) > 0):
            return
        expected, duration = coded, last + mean_step
    raise MediaError(
        f"{path} is damaged: it ends after {number:,} of {max(expected, number):,} pictures, {reached:.1f} of "
        f"{duration:.1f} s"
    )


def _without_pictures(codec: str, announced: float) -> str:
    """Say why a video that was opened gives no pictures."""
    if announced < 1:
        return "is a video without pictures"
    kind = f" ({codec})" if codec.strip().isprintable() and codec.strip() else ""
    return (
        f"has pictures{kind} of which none can be decoded: it is damaged, or this OpenCV has no decoder for them; "
        "convert it to H.264"
    )
