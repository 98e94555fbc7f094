"""What a network says about faces, in plain arrays: the form that every classifier answers in."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

DIMENSIONS = ("valence", "arousal")


class Scores(NamedTuple):
    """What a network says about N faces.

    Attributes:
        probabilities: of every class, (N, K) float32; rows sum to 1.
        branches: index of the class that each branch chooses, (N, B).
        affect: valence and arousal in [-1, 1], (N, 2) float32; (N, 0) of a network without heads for them.
    """

    probabilities: np.ndarray
    branches: np.ndarray
    affect: np.ndarray


class Classifier(Protocol):
    """What labels faces: `diversified_fer.classifier.OnnxClassifier`, and every network of `models`."""

    labels: Sequence[str]
    image_size: int
    dimensions: Sequence[str]
    num_branches: int

    def score(self, faces: Sequence[np.ndarray], batch_size: int = 32, flip: bool = False) -> Scores:
        """Score crops of faces, RGB (H, W, 3) uint8 of any size; `flip` averages each with its mirror image."""


def sharpen(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities (N, K) whose logarithms are divided by a temperature; which is highest stays.

    Above 1 they become less sure, below 1 surer (Guo et al., "On calibration of modern neural networks", ICML 2017,
    there for the scores of a single network).
    """
    if temperature == 1:
        return probabilities
    powers = (probabilities / probabilities.max(axis=1, keepdims=True)) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)
