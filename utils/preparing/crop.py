"""Cuts a face out of a photograph: decoded no larger than needed, exact to the pixel."""

import cv2
import numpy as np

from diversified_fer.media.picture import MediaError, decode, decode_by_opencv, is_ordinary
from diversified_fer.media.pngjpeg import jpeg_header
from utils.preparing.annotations import BadRow, Box

# The boxes count pixels as they are stored, so a camera's note to turn the picture (EXIF orientation) is not followed.
DECODING = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
PIXELS_LEFT = {1: 0.0, 2: 1.0, 4: 1.25, 8: 1.25}
"""Pixels per pixel of the result, along each side, that decoding at 1/2, 1/4 or 1/8 must leave.

At 1/2 a JPEG is decoded in about half the time, at 1/4 and 1/8 in little less than that, so they must leave more. Faces
of 450 to 500 pixels decoded at 1/2 and scaled to 224 have a peak signal-to-noise ratio of 43 dB to those decoded whole.
"""


def crop_face(data: bytes, box: Box | None, image_size: int) -> np.ndarray:
    """Decode a picture, cut out the box (None: all of it) and scale it to a square.

    Args:
        data: the picture's file, of any kind that `media.picture` decodes; transparency is blended over white.
        box: in pixels of the stored picture; what is outside of the picture is cut off.
        image_size: pixels along each side of the result.

    Returns:
        (image_size, image_size, 3) BGR, uint8.

    Raises:
        BadRow: when the picture is corrupt or the box does not meet it.
    """
    try:
        header = jpeg_header(data) if data and is_ordinary(data) else None
    except MediaError as error:
        raise BadRow(f"the picture is corrupt: {error}") from error
    if header is None:  # no JPEG, or a peculiar one
        image = _decode(data, 1)
        face, reduction = _clip(box, *image.shape[:2]), 1
    else:
        face = _clip(box, header.height, header.width)
        reduction = max(k for k, pixels in PIXELS_LEFT.items() if min(face[2:]) >= pixels * k * image_size)
        image = _decode(data, reduction)
        if image.shape[:2] != (-(-header.height // reduction), -(-header.width // reduction)):
            raise BadRow("the picture is corrupt: its size is not the one it states")
    if reduction > 1:
        return _resize_reduced(image, face, reduction, image_size)
    image = image[face.top : face.top + face.height, face.left : face.left + face.width]
    # average along sides that shrink, then interpolate along sides that grow
    image = cv2.resize(image, np.minimum(face[2:], image_size).tolist(), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (image_size, image_size), interpolation=cv2.INTER_LINEAR)


def _decode(data: bytes, reduction: int) -> np.ndarray:
    """Decode a picture to BGR, uint8, at 1 / reduction of its size; raises BadRow."""
    if reduction > 1:  # of an ordinary JPEG alone
        image = decode_by_opencv(data, DECODING[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise BadRow("the picture is corrupt: OpenCV cannot decode it")
        return image
    try:
        return cv2.cvtColor(decode(data, upright=False).pixels, cv2.COLOR_RGB2BGR)
    except MediaError as error:
        raise BadRow(f"the picture is corrupt: {error}") from error


def _clip(box: Box | None, height: int, width: int) -> Box:
    """Return the part of a box that is in the picture; raises BadRow when there is none."""
    if box is None:
        return Box(0, 0, width, height)
    if box.width <= 0 or box.height <= 0:
        raise BadRow(f"the face box has no area: {box.width} x {box.height}")
    left, right = max(box.left, 0), min(box.left + box.width, width)
    top, bottom = max(box.top, 0), min(box.top + box.height, height)
    if left >= right or top >= bottom:
        raise BadRow(
            f"the face box (x {box.left}, y {box.top}, {box.width} x {box.height}) is outside of the picture "
            f"({width} x {height})"
        )
    return Box(left, top, right - left, bottom - top)


def _resize_reduced(image: np.ndarray, box: Box, reduction: int, size: int) -> np.ndarray:
    """Cut a box out of a picture decoded at 1 / reduction and scale it to a square, without rounding the box.

    Pixel i of the reduced picture stands for the stored pixels [i * reduction, (i + 1) * reduction), so the box's edges
    are between its pixels. A grid with one to two pixels per sample starts exactly at them, and is averaged.
    """
    columns, rows = (side // (reduction * size) * size for side in (box.width, box.height))
    step_x, step_y = box.width / columns / reduction, box.height / rows / reduction
    # OpenCV counts from the centre of the first pixel, half a pixel from the picture's edge
    first_x, first_y = box.left / reduction + step_x / 2 - 0.5, box.top / reduction + step_y / 2 - 0.5
    grid_to_image = np.array([[step_x, 0, first_x], [0, step_y, first_y]])
    interpolation = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    grid = cv2.warpAffine(image, grid_to_image, (columns, rows), flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_AREA)
