"""Makes an ONNX file smaller and faster: convolutions in int8, refused where that costs too much accuracy."""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from diversified_fer.writing import replacing

CALIBRATION_FACES = 256  # whose ranges of values are taken; spread over those given
SMALLEST_CHECK = 50  # other faces, at the least, that the accuracy is measured on
BATCH_SIZE = 32


class QuantizationError(ValueError):
    """A network that loses too much in int8, or faces that this cannot be told from; the message says what to do."""


class Quantized(NamedTuple):
    """What int8 cost: accuracy before and after, on this number of faces that the ranges were not taken from."""

    before: float
    after: float
    faces: int

    @property
    def loss(self) -> float:
        """Percentage points of accuracy; negative for a gain."""
        return 100 * (self.before - self.after)


class _Batches(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self._batches = iter([images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by the name of the network's input."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def quantize_onnx(
    write: Callable[[Path], object], path: Path, images: np.ndarray, targets: np.ndarray, max_loss: float = 0.5
) -> Quantized:
    """Write a network as ONNX with its convolutions in int8: symmetric weights per channel, QDQ, static ranges.

    Args:
        write: writes the network in float32, to the path it is given.
        path: the file to write; it appears when it is complete and good enough.
        images: faces (N, 3, S, S) as the file takes them. Every n-th gives ranges, the others the accuracy.
        targets: class indices (N,).
        max_loss: percentage points of accuracy that may be lost.

    Raises:
        QuantizationError: for a larger loss, and for too few faces; no file is left.
    """
    if len(images) < 2 * SMALLEST_CHECK:
        raise QuantizationError(
            f"there are {len(images)} labelled faces; expected at least {2 * SMALLEST_CHECK}, of which some give the "
            "ranges of int8 and the others the accuracy"
        )
    number = min(CALIBRATION_FACES, len(images) // 2)
    for_ranges = np.zeros(len(images), dtype=bool)
    for_ranges[np.linspace(0, len(images) - 1, number).round().astype(int)] = True
    with tempfile.TemporaryDirectory() as folder, replacing(path) as unchecked:
        plain, prepared = Path(folder) / "float32.onnx", Path(folder) / "prepared.onnx"
        write(plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        logging.disable(logging.WARNING)  # that the graph should be prepared, which it is
        try:
            quantize_static(
                prepared,
                unchecked,
                _Batches(images[for_ranges]),
                QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        content = onnx.load(unchecked)
        about = {entry.key: entry.value for entry in onnx.load(plain).metadata_props}
        onnx.helper.set_model_props(content, about | {"weights": "int8"})
        onnx.save(content, unchecked)
        before, after = (_accuracy(file, images[~for_ranges], targets[~for_ranges]) for file in (plain, unchecked))
        found = Quantized(before, after, int((~for_ranges).sum()))
        if found.loss > max_loss:
            raise QuantizationError(
                f"int8 costs {found.loss:.2f} percentage points of accuracy ({before:.2%} before, {after:.2%} after, "
                f"{found.faces:,} faces), more than {max_loss:g}; {path} was not written. Allow more with --max-loss, "
                "or export without --int8"
            )
    return found


def _accuracy(path: Path, images: np.ndarray, targets: np.ndarray) -> float:
    """Return the share of faces whose most probable class is their label."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    starts = range(0, len(images), BATCH_SIZE)
    found = [session.run(["probabilities"], {"images": images[n : n + BATCH_SIZE]})[0].argmax(axis=1) for n in starts]
    return float((np.concatenate(found) == targets).mean())
