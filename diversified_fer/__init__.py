"""Labels the faces in photos and videos by their expression; light: NumPy, OpenCV and ONNX Runtime, no PyTorch.

from diversified_fer import analyze

rows = analyze("photo.jpg")
"""

import os
from typing import Any

__all__ = ["OnnxClassifier", "analyze"]

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # from 1.29 on ONNX Runtime reports its use; faces are private


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: the inner modules are also used without it."""
    if name == "analyze":
        from diversified_fer.analysis import analyze

        return analyze
    if name == "OnnxClassifier":
        from diversified_fer.classifier import OnnxClassifier

        return OnnxClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
