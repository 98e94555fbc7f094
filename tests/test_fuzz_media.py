"""Damaged pictures and videos, many and seeded: out comes a picture or a MediaError, soon, and nothing else.

FER_FUZZ=20000 python -m pytest tests/test_fuzz_media.py tries more of them, FER_FUZZ_SEED=1 others.
"""

import io
import os
import random
import struct
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from diversified_fer.media import picture as opening
from diversified_fer.media.media import VideoFile, read_media
from diversified_fer.media.picture import MediaError, decode

MUTATIONS = int(os.environ.get("FER_FUZZ", "400"))
SEED = int(os.environ.get("FER_FUZZ_SEED", "0"))
SECONDS = 10.0  # for one picture of 40 x 30 pixels, on a busy machine
PIXELS = 2**22  # that a header may ask for here, so that a test asks for no gigabytes


def valid_pictures() -> dict[str, bytes]:
    """Return small pictures of every format, with what their decoders know beside pixels."""
    rng = np.random.default_rng(0)
    colour = cv2.resize(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), (40, 30), interpolation=cv2.INTER_CUBIC)
    alpha = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))
    rgb, rgba = Image.fromarray(colour), Image.fromarray(np.dstack([colour, alpha]))
    palette, grey = rgb.quantize(32), rgb.convert("L")
    exif = rgb.getexif()
    exif[274], exif[305] = 6, "a camera"
    frames = {"save_all": True, "append_images": [rgb.rotate(180), rgb.rotate(90)]}
    kinds = {
        "jpeg": (rgb, "JPEG", {"exif": exif, "dpi": (72, 72)}),
        "jpeg progressive": (rgb, "JPEG", {"progressive": True}),
        "jpeg grey": (grey, "JPEG", {"restart_marker_blocks": 2}),
        "jpeg cmyk": (rgb.convert("CMYK"), "JPEG", {}),
        "png": (rgb, "PNG", {}),
        "png rgba": (rgba, "PNG", {"exif": exif}),
        "png palette": (palette, "PNG", {"transparency": 3}),
        "apng": (rgb, "PNG", frames),
        "gif": (palette, "GIF", {"transparency": 3}),
        "gif frames": (rgb, "GIF", frames | {"duration": 100}),
        "webp": (rgb, "WEBP", {"exif": exif}),
        "webp lossless": (rgba, "WEBP", {"lossless": True}),
        "webp frames": (rgb, "WEBP", frames),
        "tiff": (rgb, "TIFF", {"exif": exif}),
        "tiff lzw": (rgba, "TIFF", {"compression": "tiff_lzw"}),
        "tiff deflate": (grey, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "tiff jpeg": (rgb, "TIFF", {"compression": "jpeg"}),
        "tiff fax": (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        "tiff pages": (rgb, "TIFF", frames),
        "tiff 16": (Image.fromarray(np.array(grey).astype(np.uint16) * 257), "TIFF", {}),
        "bmp": (rgb, "BMP", {}),
        "bmp palette": (palette, "BMP", {}),
        "jp2": (rgb, "JPEG2000", {}),
        "ppm": (rgb, "PPM", {}),
        "png 16": (Image.fromarray(np.array(grey).astype(np.uint16) * 257), "PNG", {}),
    }
    if "AVIF" in opening.FORMATS:
        kinds["avif"] = (rgba, "AVIF", {})
    contents = {}
    for kind, (image, form, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, form, **options)
        contents[kind] = file.getvalue()
    contents["png rgb 16"] = cv2.imencode(".png", colour.astype(np.uint16) * 257)[1].tobytes()
    return contents


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Damage a file as disks, networks and programs do, and as nobody does; once or several times."""
    content = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place = draw.randrange(len(content)) if draw.random() < 0.5 else draw.randrange(min(len(content), 80))
        kind = draw.randrange(8)
        if kind == 0:  # bits
            content[place] ^= 1 << draw.randrange(8)
        elif kind == 1:  # bytes
            for at in range(place, min(place + draw.randrange(1, 6), len(content))):
                content[at] = draw.choice((0, 255, 127, draw.randrange(256)))
        elif kind == 2:  # the end is lost
            del content[max(place, 1) :]
        elif kind == 3:  # something comes between
            content[place:place] = draw.randbytes(draw.randrange(1, 40))
        elif kind == 4:  # a part is lost
            del content[place : place + draw.randrange(1, 60)]
            content = content or bytearray(1)
        elif kind == 5:  # two parts are exchanged
            length, other = draw.randrange(1, 64), draw.randrange(len(content))
            first, second = content[place : place + length], content[other : other + length]
            content[place : place + length], content[other : other + length] = second, first
        elif kind == 6:  # a number is another: a size, an offset, a count
            form = draw.choice((">H", "<H", ">I", "<I"))
            value = draw.choice((0, 1, 2, 4096, 30_000, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1))
            value &= 0xFFFF if form[1] == "H" else 0xFFFFFFFF
            content[place : place + struct.calcsize(form)] = struct.pack(form, value)
        else:  # a part comes twice
            content[place:place] = content[place : place + draw.randrange(1, 200)]
    return bytes(content)


def test_damaged_pictures(monkeypatch):
    monkeypatch.setattr(opening, "MAX_PIXELS", PIXELS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS // 2)
    pictures = valid_pictures()
    outcomes: Counter[str] = Counter()
    slowest = (0.0, "")
    for kind, data in pictures.items():
        assert decode(data).pixels.shape[2] == 3, f"{kind} as it is"
    for number in range(MUTATIONS):
        draw = random.Random(f"{SEED} {number}")
        kind = draw.choice(sorted(pictures))
        data = mutate(pictures[kind], draw)
        name = f"{kind}, mutation {number} of seed {SEED}"
        trace = os.environ.get("FER_FUZZ_TRACE")  # a file that tells which one was the last, should the process die
        if trace:
            Path(trace).write_bytes(name.encode() + b"\n" + data)
        began = time.perf_counter()
        try:
            found = decode(data, upright=draw.random() < 0.7)
        except MediaError as error:
            assert str(error) and "\n" not in str(error), name
            outcomes[f"{kind}: refused"] += 1
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__} passed: {error}") from error
        else:
            pixels = found.pixels
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size, name
            assert pixels.shape[0] * pixels.shape[1] <= PIXELS and found.count >= 1, name
            outcomes[f"{kind}: read"] += 1
        slowest = max(slowest, (time.perf_counter() - began, name))
    assert slowest[0] < SECONDS, slowest
    if MUTATIONS > 400:
        print(f"\n{sum(outcomes.values()):,} pictures, slowest {slowest[0]:.2f} s ({slowest[1]})")
        print("\n".join(f"{key}: {count}" for key, count in sorted(outcomes.items())))
    assert sum(count for key, count in outcomes.items() if key.endswith("read")) > MUTATIONS / 20
    assert sum(count for key, count in outcomes.items() if key.endswith("refused")) > MUTATIONS / 20


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
def test_damaged_videos(suffix, tmp_path):
    source = Path(__file__).parent / "samples" / f"variable{suffix}"
    if suffix == ".mp4":
        source = tmp_path / "whole.mp4"
        with VideoFile(source) as video:
            for number in range(12):
                video.write(np.full((48, 64, 3), 20 * number, np.uint8), number / 10, 10.0)
    data = source.read_bytes()
    paths = []
    for number in range(max(7, MUTATIONS // 60)):
        path = tmp_path / f"damaged_{number}{suffix}"
        path.write_bytes(mutate(data, random.Random(f"{SEED} {suffix} {number}")))
        paths.append(path)
    paths.append(source)
    began = time.perf_counter()
    errors = read = 0
    last = None
    for frame in read_media(paths):
        last = frame
        if frame.error:
            errors += 1
            assert frame.source.name in frame.error and "\n" not in frame.error
        else:
            read += 1
            assert frame.picture.dtype == np.uint8 and frame.picture.shape[2] == 3 and frame.seconds < 1e9
    assert last.source == source and not last.error, "the run goes on after all of them"
    assert errors >= 1 and read > 12
    assert time.perf_counter() - began < 10 + SECONDS * len(paths) / 5
