"""Opens pictures: any kind of file to RGB (H, W, 3) uint8, or one error that says what is wrong with it.

Ordinary JPEGs and PNGs, which is what faces for training are, go through OpenCV. Everything with a peculiarity
(transparency, more than 8 bits, CMYK, an animation, a checksum that is wrong) goes through Pillow, which tells more
about a file. The header is read first in both cases: no memory is asked for by what a damaged one states.

Transparency is blended over white, so that what somebody erased stays erased: the colours are still in the file, and
a decoder that drops the transparency brings them back.
"""

import io
import os
import re
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from diversified_fer.contents import ARCHIVE, ELSEWHERE, PDF, PICTURE, recognize
from diversified_fer.media.pngjpeg import jpeg_header, png_header

MAX_PIXELS = 2**28  # 16,384 x 16,384; as RGB 0.8 GB. The largest cameras of telephones have 200 megapixels
MAX_BYTES = 2**31  # of a file; more is no picture of that many pixels

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Of Pillow's; others run programs (EPS), take any bytes for a picture (TGA) or are no pictures of people (icons)."""

HEIC_REMEDY = (
    "convert to JPEG, for example with `heif-convert a.heic a.jpg` or on a Mac `sips -s format jpeg a.heic --out a.jpg`"
)
HEIC = re.compile(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)
REMEDIES = {ARCHIVE: ": unpack it", PDF: ": export its pictures as PNG or JPEG", ELSEWHERE: ""}

ORIENTATION, PHOTOMETRIC, WHITE_IS_ZERO = 0x0112, 262, 0  # tags of EXIF and TIFF, and a value of the latter
BITS_PER_SAMPLE = 258  # another tag of TIFF
TURNS = {  # to an upright picture, from one with that orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
TURNED_BACK = TURNS | {6: TURNS[8], 8: TURNS[6]}  # the way back; all but the quarter turns are their own

Image.init()
FORMATS = tuple(name for name in FORMATS if name in Image.OPEN)  # AVIF depends on how Pillow was built
PHOTO_SUFFIXES = {".jif", ".mpo"}
PHOTO_SUFFIXES |= {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}

# Pillow's own limit is half of what a telephone's camera takes, and calls it an attack; `_check_size` is asked instead.
# A GIF or TIFF may still grow while it is decoded, beyond what its header says: then this one holds.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # an error beyond twice as many
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")  # a damaged file is reported once, by the error


class MediaError(ValueError):
    """A photo, video or webcam that cannot be read or written; the message names it and what to do."""


class Picture(NamedTuple):
    """What was decoded.

    Attributes:
        pixels: RGB (H, W, 3), uint8.
        count: pictures in the file, an animation's or a document's; `pixels` is the first.
    """

    pixels: np.ndarray
    count: int = 1


def read_bytes(path: Path, expected: str = "a picture") -> bytes:
    """Return the content of a regular file; anything else (a pipe, a device) could be endless, and is not opened.

    Raises:
        FileNotFoundError: when there is no such file.
        MediaError: for anything but a regular file that may be read.
    """
    if check_regular(path, expected) > MAX_BYTES:
        raise MediaError(f"{path} has more than {MAX_BYTES:,} bytes; expected {expected}")
    try:
        with path.open("rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror or error}") from error


def check_regular(path: Path, expected: str) -> int:
    """Return the size of a file in bytes; raises FileNotFoundError where there is none, MediaError if it is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MediaError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISREG(found.st_mode):
        return found.st_size
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
    raise MediaError(f"{path} is a {kinds.get(stat.S_IFMT(found.st_mode), 'device')}; expected {expected} in a file")


def read_picture(path: Path) -> np.ndarray:
    """Decode a picture, turned upright, to RGB (H, W, 3), uint8.

    Transparent pictures are blended over white, grey ones get three equal channels, of several pictures in a file the
    first is taken.

    Raises:
        FileNotFoundError: when there is no such file.
        MediaError: for anything that is not a whole picture.
    """
    return open_picture(path).pixels


def open_picture(path: Path) -> Picture:
    """Read as `read_picture`, and tell how many pictures the file holds."""
    data = read_bytes(path)
    try:
        return decode(data)
    except MediaError as error:
        raise MediaError(f"{path} ({len(data):,} bytes) is no picture that can be read: {error}") from error


def decode(data: bytes, upright: bool = True) -> Picture:
    """Decode the content of a picture's file.

    Args:
        data: the file.
        upright: turn it as the camera noted (EXIF orientation); off keeps the pixels as they are stored.

    Raises:
        MediaError: for anything that is not a whole picture; it tells the reason only, not which file it is.
    """
    if not data:
        raise MediaError("it is an empty file")
    try:
        flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = decode_by_opencv(data, flags) if is_ordinary(data) else None
        if image is not None:
            return Picture(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        return _decode_carefully(data, upright)
    except MediaError:
        raise
    except Image.UnidentifiedImageError:
        raise MediaError(describe_content(data)) from None
    except Exception as error:  # a damaged file raises whatever its first wrong byte leads to
        raise MediaError(re.sub(r"\s+", " ", str(error)).strip()[:200] or type(error).__name__) from error


def decode_by_opencv(data: bytes, flags: int) -> np.ndarray | None:
    """Decode to OpenCV's BGR, None where it cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # for sizes beyond its limits, which depend on the build
        return None


def is_ordinary(data: bytes) -> bool:
    """Tell whether OpenCV shows all there is to a file: a whole JPEG or PNG of 8 bits, grey or RGB, opaque, alone.

    Raises:
        MediaError: when it is a JPEG or PNG and its header states more than `MAX_PIXELS`, or its end is missing.
    """
    header = jpeg_header(data) or png_header(data)
    if header is None:
        return False
    _check_size(header.width, header.height)
    if header.lacks:
        raise MediaError(header.lacks)
    return header.ordinary


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(f"{width:,} x {height:,} pixels, more than {MAX_PIXELS:,}: reduce it first")
    if not width * height:
        raise MediaError(f"it states a size of {width} x {height} pixels")


def describe_content(data: bytes) -> str:
    """Say what a file is that is no picture, and what to do, as far as its first bytes tell."""
    if HEIC.match(data):
        return f"it is a HEIC picture, which is not read here: {HEIC_REMEDY}"
    kind, what = recognize(data[:512])
    if kind not in ("", PICTURE):
        return f"it is {what}{REMEDIES.get(kind, ', no picture: restore or remove it')}"
    if is_picture(data):
        return (
            "it is damaged, or of a rare variety (such as 32 bits per colour): save it as PNG with 8 bits, or remove it"
        )
    return f"its content is of no known kind ({', '.join(FORMATS)}); restore or remove it"


def is_other_content(data: bytes) -> bool:
    """Tell from the first bytes of a file (512 are enough) whether `describe_content` knows what it is."""
    return bool(HEIC.match(data)) or recognize(data[:512])[0] not in ("", PICTURE)


def is_picture(data: bytes) -> bool:
    """Tell from the first bytes of a file (64 are enough) whether a decoder of pictures would take it."""
    head = data[:16].ljust(16, b"\0")  # some expect so many
    return any(accept and accept(head) is True for _, accept in map(Image.OPEN.get, FORMATS))


def _decode_carefully(data: bytes, upright: bool) -> Picture:
    """Decode whatever Pillow reads, with the transparency of each mode and format taken into account."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(*image.size)
        count = _count(image)
        image.seek(0)
        turned = image.getexif().get(ORIENTATION) if image.format == "TIFF" and not upright else None
        image.load()
        _check_size(*image.size)  # a GIF's grows with its first picture
        visible = _to_rgb(image, data)
        if upright:
            visible = turn_upright(visible, image)
        elif turned in TURNED_BACK:  # Pillow turns a TIFF upright when it loads it
            visible = visible.transpose(TURNED_BACK[turned])
    return Picture(np.array(visible), count)


def _count(image: Image.Image) -> int:
    """Return how many pictures a file holds; of cameras' MPO the further ones are views of the same scene."""
    if image.format == "MPO":
        return 1
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # a file damaged behind its first picture, which is the one that is read
        return 1


def turn_upright(picture: Image.Image, notes: Image.Image) -> Image.Image:
    """Turn a picture upright, as the orientation in the notes of an image says; damaged notes say nothing."""
    try:
        orientation = notes.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's reader of notes raises what the first wrong byte leads to
        return picture
    how = TURNS.get(orientation) if isinstance(orientation, int) else None
    return picture if how is None else picture.transpose(how)


def _to_rgb(image: Image.Image, data: bytes) -> Image.Image:
    """Convert a picture of any mode to RGB, blended over white where it is transparent; raises MediaError."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _shade(_grey(image), image.info.get("transparency"))
    if mode == "RGB" and "transparency" in image.info and image.format == "PNG" and data[24] == 16:
        deep = decode_by_opencv(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        if deep is None or deep.shape[2:] != (4,):
            raise MediaError("its transparency cannot be read: save it with 8 bits")
        return _over_white(Image.fromarray(cv2.cvtColor((deep >> 8).astype(np.uint8), cv2.COLOR_BGRA2RGBA)))
    if mode in ("1", "L") and isinstance(image.info.get("transparency"), int) and image.format == "PNG":
        key, white = image.info["transparency"], 2 ** data[24] - 1  # in the file's bits, of which Pillow makes 8
        key = (key & white) * (255 // white) if mode == "L" else key
        return _shade(np.array(image.convert("L")), key)
    if image.format in ("BMP", "DIB") and mode == "RGBA" and image.getextrema()[3] == (0, 0):
        return image.convert("RGB")  # an empty fourth byte is no transparency
    if mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")  # LAB through its colour profile, CMYK, YCbCr, HSV, palettes


def _grey(image: Image.Image) -> np.ndarray:
    """Return a picture of one channel with more than 8 bits as numbers whose white is 65,535; raises MediaError."""
    values = np.array(image)
    if image.mode == "F":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise MediaError(
                f"its numbers are floats from {values.min():.4g} to {values.max():.4g}; expected 0 (black) to 1 "
                "(white): scale them, or save it with 8 bits"
            )
        values = values * 65535
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # those two hold 16 bits at most, which are scaled
        raise MediaError("it has 32 bits per pixel, and which of them is white is not known: save it with 8 or 16 bits")
    if image.format == "TIFF" and image.mode != "F":
        bits = image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0]
        values = values.astype(np.int64) * 65535 // (2**bits - 1)  # 12 bits are read as they are
    is_negative = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    return 65535 - values if is_negative else values


def _shade(values: np.ndarray, transparent: int | None) -> Image.Image:
    """Return grey values of 8 bits or 16, white where they are the transparent one, as RGB."""
    is_deep = values.dtype != np.uint8
    grey = np.clip(values.astype(np.int64) >> 8, 0, 255).astype(np.uint8) if is_deep else values
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Blend RGBA over white."""
    background = Image.new("RGB", image.size, "white")
    background.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return background


def is_sayable(path: str | os.PathLike) -> bool:
    """Tell whether a path can be given to OpenCV, which takes UTF-8 only and crashes at anything else."""
    try:
        return len(os.fspath(path).encode()) < 1000  # some of FFmpeg's buffers have 1,024 bytes
    except UnicodeEncodeError:
        return False
