"""Which faces of Valid are also among the training faces, so that results can be stated without them."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diversified_fer.writing import write_json
from utils.evaluation.check import read_all
from utils.evaluation.copies import find_alike, find_same
from utils.udata import FERPlus


class Copies(NamedTuple):
    """Faces of Valid, as a mask over its order on disk (N,): whose pixels, or looks alone, a training picture has."""

    same: np.ndarray
    alike: np.ndarray

    @property
    def any(self) -> np.ndarray:
        """Faces that are either, (N,)."""
        return self.same | self.alike


def find_copies(root: Path) -> Copies:
    """Compare Valid with the training faces, by all pixels and by looks; see `utils.evaluation.copies` for the limits.

    Every training face with a soft label counts, whichever part of them a run learns from.
    """
    train, valid = FERPlus(root, "train", "crossentropy").paths, FERPlus(root, "valid").paths
    content, _ = read_all([*train, *valid])
    return Copies(*(np.isin(np.array(valid), list(f(train, valid, content))) for f in (find_same, find_alike)))


def write_copies(root: Path, path: Path) -> None:
    """Write which faces are copies, as their places in Valid, unless that is known already."""
    if not path.exists():
        copies = find_copies(root)
        places = {name: np.flatnonzero(mask).tolist() for name, mask in copies._asdict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json({"faces": len(copies.same)} | places, path)


def read_copies(path: Path) -> Copies:
    """Read what `write_copies` wrote."""
    content = json.loads(path.read_text("utf-8"))
    return Copies(*(np.isin(np.arange(content["faces"]), content[name]) for name in Copies._fields))
