"""How the videos here were made, with PyAV 18 (pip install av, in an environment of its own): `python make_samples.py`.

Pictures of 96 x 72 pixels, a bright square that moves over grey, at steps of 0.1 s plus or minus 0.03, but 0.004
after two of them: healthy videos of variable rate, whose containers state 1000 or 30 pictures per second.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEPS = 0.1 + np.random.default_rng(0).uniform(-0.03, 0.03, 60)
STEPS[[3, 7]] = 0.004
TIMES = np.cumsum(STEPS) - STEPS[0]


def write(name: str, form: str, codec: str, rate: int, count: int) -> None:
    with av.open(str(Path(__file__).with_name(name)), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 72, "yuv420p", 20_000
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, seconds in enumerate(TIMES[:count]):
            picture = np.full((72, 96, 3), 90, np.uint8)
            picture[20:50, number % 60 : number % 60 + 30] = (240, 200, 60)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


write("variable.webm", "webm", "libvpx", 30, 60)
write("variable.avi", "avi", "mpeg4", 1000, 20)  # a container that has room for every thousandth
