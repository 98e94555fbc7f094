"""Decodes videos in a process of its own: what crashes or hangs FFmpeg does not take the program with it.

Started by `video.py` with a folder for the shared memory as its argument. It is told on stdin, in lines of
JSON, which video to decode, and answers on stdout, in lines of JSON:

    {"rate": ..., "announced": ..., "aspect": ...}   a video was opened
    {"alive": n}                                     n pictures were passed over
    {"number": n, "seconds": s, "slot": k, "shape": [h, w, 3], "file": name, "size": bytes}
                                                     a picture is in the k-th part of that file, BGR
    {"number": n, "seconds": s, "shape": [h, w, 3], "follows": bytes}   the picture follows this line
    {"end": n, "seconds": s, "first": s, "zero": s, "coded": m, "last": s, "codec": text}
                                                     the video ended after n pictures, the first one at `first`; times
                                                     count from the file's time `zero`; the file holds m coded ones,
                                                     the last one at `last` (counted where n is far below announced)
    {"error": text}                                  it cannot be decoded

A line {} on stdin says that a picture was taken: its slot is free again. It imports nothing but OpenCV and NumPy.
"""

import contextlib
import json
import math
import mmap
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

SLOTS = 3  # pictures that are decoded ahead
COMPLETE = 0.9  # share of the announced pictures from which on nobody asks how many the file holds
SURVEYED = 100  # pictures whose times tell the rate of a video that states an unlikely one
LIKELY_RATES = (1.0, 70.0)  # per second; containers with variable times state the clock's: 1000, 90,000
USUAL_RATE = 25.0


class Slots:
    """Memory that both processes map, in parts for one picture each; a file, so that it works on every system."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.size, self.number = folder, 0, 0
        self.memory: mmap.mmap | None = None
        self.file = ""

    def resize(self, size: int) -> None:
        """Make room for pictures of `size` bytes. Without room (a full disk) pictures go through the pipe."""
        self.size, self.number = size, self.number + 1
        self.memory = None  # unmapped when its last picture is
        path = self.folder / f"slots{self.number}"
        try:
            with path.open("wb+") as file:
                if hasattr(os, "posix_fallocate"):  # otherwise a full /dev/shm kills at the first access
                    os.posix_fallocate(file.fileno(), 0, SLOTS * size)
                else:
                    file.truncate(SLOTS * size)
                self.memory = mmap.mmap(file.fileno(), SLOTS * size)
            self.file = path.name
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()

    def place(self, slot: int, shape: tuple[int, int, int]) -> Any:
        """Return a slot as a picture; None where there is no room for it."""
        import numpy as np

        size = math.prod(shape)
        if self.memory is None or size > self.size:
            return None
        return np.frombuffer(self.memory, np.uint8, size, slot * self.size).reshape(shape)


class Answers:
    """The pipe to the program that asked."""

    def __init__(self, folder: Path) -> None:
        self.out = os.fdopen(os.dup(1), "wb")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print there
        self.slots, self.free, self.next = Slots(folder), SLOTS, 0
        self.spoke = time.monotonic()

    def say(self, **answer: object) -> None:
        """Write a line."""
        self.out.write(json.dumps(answer).encode() + b"\n")
        self.out.flush()
        self.spoke = time.monotonic()

    def wait(self, free: int) -> None:
        """Wait until so many slots are free; raises BrokenPipeError when nobody listens any more."""
        while self.free < free:
            if not sys.stdin.readline():
                raise BrokenPipeError
            self.free += 1

    def picture(self, capture: object, number: int, seconds: float, shape: tuple[int, int, int]) -> bool:
        """Decode into a slot, and say so; returns False when the picture cannot be decoded."""
        import numpy as np

        self.wait(1)
        ok, picture = capture.retrieve(self.slots.place(self.next, shape))
        if not ok or picture is None:
            return False
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(f"its pictures are {picture.dtype} of shape {picture.shape}; expected colours of 8 bits")
        if picture.nbytes > self.slots.size:  # the first one, or one that is larger than those before
            self.wait(SLOTS)
            self.slots.resize(picture.nbytes)
        place = self.slots.place(self.next, picture.shape)
        if place is not None and not np.shares_memory(place, picture):
            place[:] = picture
        about = {"number": number, "seconds": seconds, "shape": picture.shape}
        if place is None:
            self.say(**about, follows=picture.nbytes)
            self.out.write(np.ascontiguousarray(picture).data)
            self.out.flush()
        else:
            self.say(**about, slot=self.next, file=self.slots.file, size=self.slots.size)
        self.free, self.next = self.free - 1, (self.next + 1) % SLOTS
        return True


def survey(path: str, options: list[int]) -> float:
    """Return the mean rate of a video's first pictures, 0 where their times tell nothing."""
    import cv2

    capture = cv2.VideoCapture(path, *options)
    times = []
    while len(times) < SURVEYED and capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    capture.release()
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0


def count_coded(answers: Answers, path: str, options: list[int]) -> tuple[int, float]:
    """Return how many coded pictures a file holds, and when the last one is shown in seconds; nothing is decoded."""
    import cv2

    capture = cv2.VideoCapture(path, *options)
    number, last = 0, 0.0
    if capture.set(cv2.CAP_PROP_FORMAT, -1):  # packets as they are
        while capture.grab():
            number, last = number + 1, max(last, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            if time.monotonic() - answers.spoke > 1:
                answers.say(alive=number)
    capture.release()
    return number, last


def decode(answers: Answers, path: str, every: int, max_pixels: int) -> None:
    """Decode a video and answer with every n-th of its pictures."""
    import cv2

    options = [cv2.CAP_FFMPEG] if cv2.CAP_FFMPEG in cv2.videoio_registry.getBackends() else []
    capture = cv2.VideoCapture(path, *options)
    if not capture.isOpened():
        answers.say(error="it is empty, truncated, or of a kind that OpenCV does not decode")
        return
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > max_pixels:
        answers.say(error=f"{width:,} x {height:,} pixels, more than {max_pixels:,}: reduce it first")
        return
    stated, announced = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rate = stated
    if not LIKELY_RATES[0] <= rate <= LIKELY_RATES[1]:
        rate = survey(path, options) or rate
    if not 0.01 <= rate <= 1000:
        rate = USUAL_RATE
    aspect = capture.get(cv2.CAP_PROP_SAR_NUM) / (capture.get(cv2.CAP_PROP_SAR_DEN) or 1)
    if int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 180 == 90 and aspect > 0:
        aspect = 1 / aspect  # it is stated for the pictures before they are turned
    answers.say(rate=rate, announced=announced, duration=announced / stated if stated > 0 else 0, aspect=aspect)
    number, seconds, first, zero = 0, 0.0, 0.0, 0.0
    while capture.grab():
        milliseconds = capture.get(cv2.CAP_PROP_POS_MSEC)
        seconds = milliseconds / 1000 if milliseconds > 0 else number / rate
        if number == 0:
            first, zero = seconds, capture.get(cv2.CAP_PROP_PTS) / stated - seconds if stated > 0 else 0.0
        if number % every == 0:
            if not answers.picture(capture, number, seconds, (height, width, 3)):
                answers.say(error=f"picture {number} cannot be decoded; the video is damaged")
                return
        elif time.monotonic() - answers.spoke > 1:
            answers.say(alive=number)
        number += 1
    codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("latin-1")
    coded, last = count_coded(answers, path, options) if number < COMPLETE * announced else (number, seconds)
    answers.say(end=number, seconds=seconds, first=first, zero=zero, coded=coded, last=last, codec=codec)


def main() -> None:
    """Decode the videos that are asked for, until nobody asks."""
    with contextlib.suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the program's to answer
    answers = Answers(Path(sys.argv[1]))
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        while line := sys.stdin.readline():
            answers.free, answers.next = SLOTS, 0
            request = json.loads(line)
            try:
                decode(answers, request["path"], request["every"], request["max_pixels"])
            except BrokenPipeError:
                raise
            except (cv2.error, ValueError, MemoryError, OSError) as error:
                answers.say(error=" ".join(str(error).split())[:200] or type(error).__name__)
            answers.wait(SLOTS)
    if answers.slots.folder.name.startswith("fer_video_"):
        shutil.rmtree(answers.slots.folder, ignore_errors=True)  # the program was killed, and did not


if __name__ == "__main__":
    main()
