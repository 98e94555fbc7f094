"""Pictures as people hold them in Python - arrays, PIL images, paths - as arrays of RGB."""

from pathlib import Path

import numpy as np
from PIL import Image

from diversified_fer.media.picture import read_picture, turn_upright

ImageInput = np.ndarray | Image.Image | str | Path


def as_rgb(image: ImageInput, name: str = "images") -> np.ndarray:
    """Turn a picture, or an array of several, into RGB (..., H, W, 3): uint8, or float in [0, 1].

    Args:
        image: the path of a picture; a PIL image of any colour mode, turned upright where its camera noted how it was
            held; or an array. An array (H, W) is grey; the last of three or four dimensions is the channels: 1 for
            grey, 3 for RGB, 4 for RGB and alpha, straight as in files. Transparent pictures are put on white, so that
            what transparency hides stays hidden. Boolean arrays are black and white.
        name: what to call it in messages.

    Raises:
        ValueError: for another shape, type or range of values, and for a PIL image that cannot be decoded.
        OSError, MediaError: for a path that is no picture.
    """
    if isinstance(image, str | Path):
        return read_picture(Path(image))
    if isinstance(image, Image.Image):
        image = _decode(image, name)
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"{name} is a {type(image).__name__}; expected the path of a picture, a NumPy array, a PIL image, a "
            "PyTorch tensor where a network of models takes it, or a list of such pictures"
        )
    return _as_rgb(image, name)


def check_range(low: float, high: float, name: str) -> None:
    """Raise ValueError unless the lowest and the highest value of float pictures are in [0, 1]."""
    if np.isnan(low):
        raise ValueError(f"float {name} hold values that are not numbers (NaN); expected values in [0, 1]")
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"float {name} lie in [{low:.4g}, {high:.4g}]; expected [0, 1]: "
            "hand over uint8 or divide by 255; mean and deviation are applied by the network"
        )


def _decode(image: Image.Image, name: str) -> np.ndarray:
    """Return a PIL image as RGB (H, W, 3) or, where it is transparent, with alpha (H, W, 4); uint8, upright."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{name} is a PIL image of mode {image.mode}; expected 8 bits per channel (RGB, L, ...)")
    try:
        image.load()  # which turns a TIFF upright; before, its orientation would be followed twice
        upright = turn_upright(image, image)
        transparent = upright.mode in ("LA", "La", "PA", "RGBA", "RGBa")
        transparent |= upright.mode in ("1", "L", "P", "RGB") and "transparency" in upright.info  # one colour is
        if upright.mode == "La":
            upright = upright.convert("LA")
        return np.array(upright.convert("RGBA" if transparent else "RGB"))
    except Exception as error:  # a file is decoded here, and a damaged one raises whatever its wrong bytes lead to
        raise ValueError(
            f"{name} is a PIL image of mode {image.mode} that cannot be read as RGB: {error or type(error).__name__}"
        ) from error


def _as_rgb(image: np.ndarray, name: str) -> np.ndarray:
    """Return a grey, RGB or transparent array (..., H, W[, C]) as RGB (..., H, W, 3), in memory that PyTorch takes."""
    channels_last = image[..., None] if image.ndim == 2 else image
    if channels_last.ndim not in (3, 4) or channels_last.shape[-1] not in (1, 3, 4) or image.dtype.kind not in "buif":
        raise ValueError(
            f"{name} is a NumPy array of shape {image.shape} and type {image.dtype}; expected (H, W, 3) or "
            "(N, H, W, 3), RGB, uint8 or float in [0, 1]; only PyTorch tensors have their channels first. One grey "
            "face is (H, W), several are (N, H, W, 1): images[..., None]"
        )
    if isinstance(image, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; expected what is behind the mask to be filled: images.filled(255)")
    if image.dtype.kind == "b":
        channels_last = channels_last.astype(np.uint8) * 255
    elif image.dtype.kind == "f" and image.dtype != np.float16:
        channels_last = channels_last.astype(np.float32 if image.dtype.itemsize <= 4 else np.float64)  # native order
    elif image.dtype.byteorder not in "=|":
        channels_last = channels_last.astype(image.dtype.newbyteorder("="))
    if channels_last.shape[-1] == 4:
        channels_last = _on_white(channels_last, name)
    shape = (*channels_last.shape[:-1], 3)
    return np.require(np.broadcast_to(channels_last, shape), requirements=("C", "W"))


def _on_white(image: np.ndarray, name: str) -> np.ndarray:
    """Blend pictures with alpha (..., H, W, 4), uint8 or float in [0, 1], over white: (..., H, W, 3)."""
    if image.dtype != np.uint8:
        check_range(float(image.min()), float(image.max()), name)
        return 1 - (1 - image[..., :3]) * image[..., 3:]
    blended = 255 - (255 - image[..., :3].astype(np.float32)) * (image[..., 3:] / np.float32(255))
    return np.rint(blended).astype(np.uint8)
