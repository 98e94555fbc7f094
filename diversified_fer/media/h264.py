"""Annotated videos that browsers play: H.264 with the sound of their source, by PyAV where it is installed.

The pictures are encoded here. The sound is read out of a file that may be damaged, so that is done by `soundworker.py`
in a process of its own, as videos are decoded: what goes wrong there costs the sound and nothing else.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from diversified_fer.media.media import VideoFile
from diversified_fer.media.output import naming
from diversified_fer.media.picture import MediaError
from diversified_fer.media.video import DEMUXERS, plain_name

H264_REMEDY = (
    'annotated videos are MPEG-4 Part 2 without sound, which browsers do not play; with PyAV (pip install "av>=16") '
    "they are H.264 with the sound of their source"
)
WORKER = [sys.executable, str(Path(__file__).with_name("soundworker.py"))]
OLDEST = 16  # version of PyAV; those before write a picture less when they copy a video
PATIENCE = 1800.0  # seconds after which the sound is given up
CLOCK = 90_000  # ticks per second
QUALITY = {"crf": "20", "preset": "veryfast"}
COLOURS = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "smpte170m", "color_range": "tv"}


@cache
def _import_av() -> ModuleType | None:
    """Return PyAV, None where it is not installed, too old, or without an encoder for H.264."""
    try:
        import av

        av.codec.Codec("h264", "w")
    except (ImportError, ValueError):  # it calls a codec that is missing an error of a value
        return None
    return av if int(av.__version__.split(".")[0]) >= OLDEST else None


def writes_h264() -> bool:
    """Tell whether videos are written as H.264."""
    return _import_av() is not None


def make_video(path: Path, source: str | Path | None = None, say: Callable[[str], None] = print) -> VideoFile:
    """Return a writer of an MP4: `with make_video(path, source) as video: video.write(picture, seconds, rate)`.

    Args:
        path: of the file.
        source: the video whose pictures these are, for its sound.
        say: what to call with a line about sound that could not be kept.
    """
    return H264File(path, source, say) if writes_h264() else VideoFile(path)


class H264File(VideoFile):
    """An MP4 of H.264 (4:2:0), with its tables in front; every picture keeps its own time.

    Sides of an odd number of pixels become one longer, which repeats the border.
    """

    def __init__(self, path: Path, source: str | Path | None = None, say: Callable[[str], None] = print) -> None:
        super().__init__(path)
        self._source, self._say = source, say

    def _open(self) -> None:
        av = _import_av()
        self._ticks = -1
        with self._explaining():
            self.writer = av.open(str(self.temporary), "w", format="mp4", options={"movflags": "faststart"})
            self._stream = self.writer.add_stream("h264", rate=Fraction(self.rate).limit_denominator(1000))
            context = self._stream.codec_context
            context.width, context.height = (side + side % 2 for side in self.size)
            context.pix_fmt, context.time_base = "yuv420p", Fraction(1, CLOCK)
            context.options = QUALITY | COLOURS
            context.open()

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn what PyAV raises into one of two errors: the disk's, or that of these pictures."""
        try:
            with naming(self.path):
                yield
        except OSError:
            raise
        except (_import_av().FFmpegError, ValueError, OverflowError) as error:
            width, height = self.size
            raise MediaError(f"{self.path} cannot be written as H.264 of {width} x {height} pixels: {error}") from error

    def _append(self, picture: np.ndarray, seconds: float) -> None:
        ticks = round(seconds * CLOCK)
        if ticks <= self._ticks:  # times of a damaged video may go back
            return
        av = _import_av()
        height, width = picture.shape[:2]
        even = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420), format="yuv420p")  # of BT.601
        frame.pts, frame.time_base = ticks, Fraction(1, CLOCK)
        self._ticks = ticks
        self._mux(frame)
        self.written += 1

    def _mux(self, frame: object) -> None:
        with self._explaining():
            self.writer.mux(self._stream.encode(frame))

    def _close(self, is_wanted: bool) -> None:
        if not is_wanted:
            with contextlib.suppress(_import_av().FFmpegError):
                self.writer.close()
            return
        self._mux(None)  # what the encoder still holds
        with self._explaining():
            self.writer.close()
        if isinstance(self._source, Path):
            self._add_sound(self._source)

    def _add_sound(self, source: Path) -> None:
        """Put the sound of the source under the pictures, where it has any."""
        target = self.temporary.with_name(self.temporary.name.replace(".partial", ".sound.partial"))
        length = self._ticks / CLOCK + 1 / self.rate
        try:
            with plain_name(source) as plain:
                files = [str(self.temporary), str(plain.absolute()), str(target)]
                command = [*WORKER, *files, str(self.began), str(length), DEMUXERS]
                done = subprocess.run(command, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
            if done.returncode:
                said = done.stderr.decode("utf-8", "replace").strip().splitlines()
                reason = said[-1] if said else "its decoder crashes"
                self._say(f"{self.path}: without sound; that of {source} cannot be read ({reason})")
            elif target.exists():
                target.replace(self.temporary)
        except subprocess.TimeoutExpired:
            self._say(f"{self.path}: without sound; that of {source} takes more than {PATIENCE:,.0f} s to read")
        finally:
            target.unlink(missing_ok=True)
