"""A network in an ONNX file, run by ONNX Runtime: scores for crops of faces, without PyTorch.

The file comes from `python -m models.export CHECKPOINT --onnx FILE`: its metadata name the classes, the size of the
pictures and the temperature. Pictures are scaled as `models.classifier.resize` scales them, so that both ways give the
same probabilities to 1e-3.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from diversified_fer.contents import recognize
from diversified_fer.scores import DIMENSIONS, Scores, sharpen

SHIPPED = Path(__file__).with_name("weights") / "ferplus_small.onnx"


class OnnxClassifier:
    """A network from an ONNX file that `models.export` wrote.

    Args:
        path: the file; default: the one that comes with the package, trained on FER+ (weights/README.md).
        threads: of the CPU; None for as many as there are cores.

    Attributes:
        labels: class names, in the order of the probabilities.
        image_size: height and width in pixels that the network sees.
        dimensions: "valence" and "arousal", or none.
        num_branches: members of the ensemble.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that is no such network; it names the file and what is missing.
    """

    def __init__(self, path: str | Path = SHIPPED, threads: int | None = None) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no network at {path.absolute()}; expected an .onnx file that models.export wrote")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        if threads is not None:
            options.intra_op_num_threads = threads
        content = path.read_bytes()  # as a path it takes UTF-8 alone
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class of its own for every kind of failure, and no common one
            _, what = recognize(content[:512])
            if what:
                raise ValueError(f"{path} is {what}; expected an .onnx file that models.export wrote") from error
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"{path} cannot be run by ONNX Runtime {onnxruntime.__version__} ({reason}); expected an .onnx file "
                "that python -m models.export wrote: write or copy it again"
            ) from error
        about = self._session.get_modelmeta().custom_metadata_map
        missing = [name for name in ("labels", "image_size") if name not in about]
        if missing:
            raise ValueError(
                f"{path} does not say its {' and '.join(missing)}; expected a file that models.export wrote"
            )
        self.labels: tuple[str, ...] = tuple(json.loads(about["labels"]))
        self.image_size = int(about["image_size"])
        self.temperature = float(about.get("temperature", 1))
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        self.num_branches = int(outputs["logits"][0])
        self.dimensions = DIMENSIONS if "affect" in outputs else ()
        self._names = [name for name in ("probabilities", "logits", "affect") if name in outputs]
        self._is_uint8 = self._session.get_inputs()[0].type == "tensor(uint8)"

    def score(self, faces: Sequence[np.ndarray], batch_size: int = 32, flip: bool = False) -> Scores:
        """Score crops of faces.

        Args:
            faces: RGB (H, W, 3), uint8, of any sizes.
            batch_size: faces in the network at a time.
            flip: score each face and its mirror image, and average their probabilities.
        """
        parts = [self._score(faces[start : start + batch_size], flip) for start in range(0, len(faces), batch_size)]
        return Scores(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _score(self, faces: Sequence[np.ndarray], flip: bool) -> Scores:
        images = np.stack([scale_face(face, self.image_size) for face in faces]).transpose(0, 3, 1, 2)  # (n, 3, S, S)
        views = [images, images[..., ::-1]] if flip else [images]
        if self._is_uint8:
            views = [np.rint(255 * view).astype(np.uint8) for view in views]
        found = [self._session.run(self._names, {"images": np.ascontiguousarray(view)}) for view in views]
        probabilities, logits, *affect = (np.mean(arrays, axis=0) for arrays in zip(*found, strict=True))
        return Scores(
            sharpen(probabilities, self.temperature),
            logits.argmax(axis=2).T,
            affect[0] if affect else np.zeros((len(faces), 0), dtype=np.float32),
        )


def scale_face(face: np.ndarray, size: int) -> np.ndarray:
    """Scale RGB (H, W, 3), uint8, to (size, size, 3) float32 in [0, 1]: bilinear, over as many pixels as it shrinks."""
    if face.shape[:2] == (size, size):
        return face.astype(np.float32) / 255
    channels = [Image.fromarray(face[..., number].astype(np.float32)) for number in range(3)]
    scaled = [np.asarray(channel.resize((size, size), Image.Resampling.BILINEAR)) for channel in channels]
    return np.stack(scaled, axis=-1).clip(0, 255) / 255
