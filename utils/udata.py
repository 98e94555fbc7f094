"""The three data sets, read in every layout they are found in, with one label order: that of `EMOTIONS`.

`dataset[i]` is an RGB picture (3, H, W), uint8, as it lies on disk, and its label; nothing is decoded before it is
asked for. `pre_process_affect_net` and `pre_process_fer_plus` write the layouts that are read here.
"""

import csv
import os
import re
import runpy
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.classifier import EMOTIONS
from utils.upicture import MediaError, read_picture
from utils.upreprocess import pre_process_affect_net, pre_process_fer_plus

__all__ = [
    "EMOTIONS",
    "RAFDB",
    "AffectNet",
    "DatasetError",
    "FERPlus",
    "FaceDataset",
    "at_most",
    "at_most_per_label",
    "pre_process_affect_net",
    "pre_process_fer_plus",
    "read_image",
    "stratified_holdout",
]

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
AFFECTNET_NAME = re.compile(r"^(\d+)[_s](\d+)[_s](-?\d+)[_s](-?\d+)$")
FERPLUS_VOTES_TO_EMOTIONS = [0, 1, 3, 2, 6, 5, 4, 7]  # column of label.csv -> our class
RAFDB_TO_EMOTIONS = {
    1: 3,
    2: 4,
    3: 5,
    4: 1,
    5: 2,
    6: 6,
    7: 0,
}  # Surprise, Fear, Disgust, Happiness, Sadness, Anger, ...
WHERE = {
    "AffectNet": "AffectNet is requested at http://mohammadmahoor.com/databases/affectnet/",
    "FER+": "the images are FER2013 (Kaggle), the votes FER+ (github.com/microsoft/FERPlus); see pre_process_fer_plus",
    "RAF-DB": "RAF-DB is requested at http://www.whdeng.cn/raf/model1.html",
}


class DatasetError(ValueError):
    """A data set that is missing, laid out otherwise, or labelled otherwise; the message names path and remedy."""


def read_image(path: Path) -> np.ndarray:
    """Decode a picture to RGB (H, W, 3), uint8; grey pictures get three equal channels, transparent ones white.

    Raises:
        FileNotFoundError: when there is no such file.
        DatasetError: when it cannot be decoded.
    """
    try:
        return read_picture(path)
    except MediaError as error:
        raise DatasetError(str(error)) from error


class FaceDataset(Dataset):
    """Faces on disk with one label each.

    Attributes:
        name: data set, split and label rule, as results should name them.
        paths: the picture files.
        labels: one class index per face, (N,) int64; for soft label rules one row per face, (N, K) float32.
        class_names: the names of the classes, in our order.
    """

    def __init__(self, name: str, paths: Sequence[Path], labels: Any, num_classes: int) -> None:
        self.name = name
        self.paths = list(paths)
        self.labels = np.asarray(labels)
        self.class_names = EMOTIONS[:num_classes]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return torch.from_numpy(read_image(self.paths[index])).permute(2, 0, 1).contiguous(), self.target(index)

    def target(self, index: int) -> Any:
        """Return the label of a face: a class index, or a row (K,) for soft label rules."""
        target = self.targets(np.array([index]))[0]
        return int(target) if target.ndim == 0 else target

    def targets(self, indices: np.ndarray) -> Tensor:
        """Return the labels of several faces, (N,) int64, or (N, K) float32 for soft label rules."""
        return torch.from_numpy(self.labels[indices])

    def subset(self, indices: Sequence[int], name: str | None = None) -> "FaceDataset":
        """Return the same data set with only these faces, in this order."""
        part = copy(self)
        part.paths = [self.paths[index] for index in indices]
        part.labels = self.labels[np.asarray(indices, dtype=np.int64)]
        part.name = name or self.name
        return part


def at_most_per_label(labels: np.ndarray, maximum: int, seed: int) -> np.ndarray:
    """Draw at most `maximum` faces of every class without replacement; returns sorted indices."""
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == label][:maximum] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def at_most(dataset: FaceDataset, maximum: int | None, seed: int) -> FaceDataset:
    """Return a random part of a data set, in its order; the whole where `maximum` is None or not below its size."""
    if maximum is None or maximum >= len(dataset):
        return dataset
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:maximum]
    return dataset.subset(np.sort(chosen), f"{dataset.name}, {maximum:,} of {len(dataset):,} faces")


def stratified_holdout(labels: np.ndarray, fraction: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Set a share of every class apart for selection (at least one face of each); returns kept and held-out indices."""
    order = np.random.default_rng(seed).permutation(len(labels))
    held = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        held.append(members[: max(1, round(fraction * len(members)))])
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


class AffectNet(FaceDataset):
    """AffectNet as `pre_process_affect_net` writes it (Mollahosseini, Hasani, Mahoor, IEEE TAC 2019).

    Args:
        root: folder with Training_Labeled/, Training_Unlabeled/, Validation/, each with folders 0..n of pictures named
            `[id]_[emotion]_[valence*1000]_[arousal*1000].jpg` (the older separator `s` is read too).
        split: "train", "unlabeled" (automatically annotated) or "validation".
        num_classes: 8, or 7 without Contempt. None, Uncertain and No-Face (8, 9, 10) are always left out.
        max_images_per_label: draw at most this many faces of every class.
        seed: seed of that draw.

    Raises:
        DatasetError: when the layout is another, names carry no label, or labels are unknown.
    """

    FOLDERS = {"train": "Training_Labeled", "unlabeled": "Training_Unlabeled", "validation": "Validation"}  # noqa: RUF012

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        num_classes: int = 8,
        max_images_per_label: int | None = None,
        seed: int = 0,
    ) -> None:
        _check_split(split, tuple(self.FOLDERS))
        if num_classes not in (7, 8):
            raise ValueError(f"num_classes is {num_classes}; AffectNet is used with 8 classes, or 7 without Contempt")
        layout = (
            "Training_Labeled/, Training_Unlabeled/ and Validation/, each with folders 0..n of pictures named "
            "[id]_[emotion]_[valence*1000]_[arousal*1000].jpg; pre_process_affect_net writes it from the released data"
        )
        folder = Path(root) / self.FOLDERS[split]
        paths = _list_images(folder, "*", "AffectNet", layout)
        matches = [AFFECTNET_NAME.match(path.stem) for path in paths]
        unnamed = [path for path, match in zip(paths, matches, strict=True) if match is None]
        if unnamed:
            raise DatasetError(
                f"{len(unnamed)} of {len(paths)} pictures in {folder} carry no label in their name "
                f"(first: {unnamed[0].name}); expected {layout}"
            )
        labels = np.array([int(match[2]) for match in matches], dtype=np.int64)
        if labels.max() > 10:
            raise DatasetError(f"{paths[int(labels.argmax())]} has the emotion {labels.max()}; AffectNet's are 0 to 10")
        keep = np.flatnonzero(labels < num_classes)
        if not len(keep):
            raise DatasetError(f"{folder} holds {len(paths)} pictures, none of the emotions 0 to {num_classes - 1}")
        if max_images_per_label is not None:
            keep = keep[at_most_per_label(labels[keep], max_images_per_label, seed)]
        name = f"AffectNet-{num_classes} {split}"
        super().__init__(name, [paths[index] for index in keep], labels[keep], num_classes)
        # valence and arousal of every face, (N, 2) float32 in [-1, 1]; -2 where AffectNet has none
        self.affect = np.array([(int(matches[i][3]), int(matches[i][4])) for i in keep], dtype=np.float32) / 1000

    def subset(self, indices: Sequence[int], name: str | None = None) -> "AffectNet":
        """Return the same data set with only these faces, in this order."""
        part = super().subset(indices, name)
        part.affect = self.affect[np.asarray(indices, dtype=np.int64)]
        return part

    def with_affect(self) -> "AffectNet":
        """Return the faces whose valence and arousal are known, with those, (N, 2) float32, in place of the class."""
        known = np.flatnonzero((np.abs(self.affect) <= 1).all(axis=1))
        part = self.subset(known, f"{self.name}, valence and arousal")
        part.labels = part.affect
        return part


class FERPlus(FaceDataset):
    """FER+ (Barsoum, Zhang, Canton Ferrer, Zhang, ICMI 2016) on the images of FER2013.

    Votes of a single annotator are dropped as outliers first. Then "majority" keeps a face whose most frequent choice
    holds more than half of the votes left and is an emotion. The other rules keep a face whose emotions together hold
    more than half of the votes left: "crossentropy" gives the distribution of its emotion votes, "probability" draws
    one label from that distribution at each access, "multi_target" marks every emotion with at least 30 % of the
    votes left, and drops a face where none has them.

    Args:
        root: folder with `Images/FER2013{Train,Valid,Test}/*.png` and `Labels/FER2013{Train,Valid,Test}/label.csv`
            (name, box, ten vote counts).
        split: "train", "valid" or "test".
        label_rule: how votes become training labels; validation and test are always "majority".

    Raises:
        DatasetError: when folders or pictures are missing, or a row has no ten vote counts.
    """

    RULES = ("majority", "probability", "crossentropy", "multi_target")

    def __init__(self, root: str | Path, split: str = "train", label_rule: str = "majority") -> None:
        _check_split(split, ("train", "valid", "test"))
        if label_rule not in self.RULES:
            raise ValueError(f"label_rule is {label_rule!r}; expected one of {', '.join(self.RULES)}")
        self.label_rule = label_rule if split == "train" else "majority"
        folder = f"FER2013{split.capitalize()}"
        images, label_file = Path(root) / "Images" / folder, Path(root) / "Labels" / folder / "label.csv"
        layout = "Images/FER2013{Train,Valid,Test}/*.png with Labels/FER2013{Train,Valid,Test}/label.csv"
        paths = {path.name: path for path in _list_images(images, "", "FER+", layout)}
        if not label_file.is_file():
            raise DatasetError(_missing(label_file, "FER+", layout))
        names, votes = read_votes(label_file)
        absent = [name for name in names if name not in paths]
        if absent:
            raise DatasetError(
                f"{len(absent)} of the {len(names)} pictures listed in {label_file} are not in {images} "
                f"(first: {absent[0]}); expected {layout}"
            )
        keep, labels = labels_from_votes(votes, self.label_rule)
        super().__init__(f"FER+ {split} ({self.label_rule} rule)", [paths[names[i]] for i in keep], labels, 8)

    def targets(self, indices: np.ndarray) -> Tensor:
        """Return the labels of several faces; under "probability" they are drawn anew, from PyTorch's random state."""
        if self.label_rule == "probability":
            return torch.multinomial(torch.from_numpy(self.labels[indices]), 1).squeeze(1)
        return super().targets(indices)


def read_votes(label_file: Path) -> tuple[list[str], np.ndarray]:
    """Read picture names and votes (N, 10) of a FER+ label file; rows without a picture name are left out."""
    names, votes = [], []
    with label_file.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            counts = [cell.strip() for cell in row[2:]]
            if len(counts) != 10 or not all(cell.isdigit() for cell in counts):
                raise DatasetError(
                    f"{label_file}, line {number}: expected name, box and ten vote counts, found {','.join(row)!r}"
                )
            if row[0]:
                names.append(row[0])
                votes.append([int(cell) for cell in counts])
    if not names:
        raise DatasetError(f"{label_file} is empty; expected a row per picture: name, box and ten vote counts")
    return names, np.array(votes, dtype=np.int64)


def labels_from_votes(votes: np.ndarray, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Turn FER+ votes (N, 10) into the indices of the faces kept and their labels in our order, see `FERPlus`.

    Labels are (M,) int64 under "majority", else (M, 8) float32.
    """
    votes = np.where(votes > 1, votes, 0)
    total = votes.sum(axis=1)
    emotions = np.empty((len(votes), 8), dtype=np.float32)  # in our order
    emotions[:, FERPLUS_VOTES_TO_EMOTIONS] = votes[:, :8]
    if rule == "majority":
        keep = np.flatnonzero((2 * votes.max(axis=1) > total) & (votes.argmax(axis=1) < 8))
        return keep, emotions[keep].argmax(axis=1)
    labelled = 2 * emotions.sum(axis=1) > total
    if rule == "multi_target":
        marked = 10 * emotions >= 3 * total[:, None]
        keep = np.flatnonzero(labelled & marked.any(axis=1))
        return keep, marked[keep].astype(np.float32)
    keep = np.flatnonzero(labelled)
    return keep, emotions[keep] / emotions[keep].sum(axis=1, keepdims=True)


class RAFDB(FaceDataset):
    """RAF-DB, basic emotions (Li, Deng, Du, CVPR 2017). The layout found is printed in one line.

    Args:
        root: folder with `train/0..6` and `test/0..6` (our order), `train/1..7` and `test/1..7` (the official order),
            or the official release: `EmoLabel/list_patition_label.txt` with `Image/aligned/*_aligned.jpg`.
        split: "train" or "test".

    Raises:
        DatasetError: when the layout is another, in particular class folders of other names.
    """

    LAYOUT = (
        "train/ and test/ with class folders 0..6 (Neutral, Happiness, Sadness, Surprise, Fear, Disgust, Anger) or "
        "1..7 (the official order), or EmoLabel/list_patition_label.txt with Image/aligned/*_aligned.jpg"
    )

    def __init__(self, root: str | Path, split: str = "train") -> None:
        _check_split(split, ("train", "test"))
        root = Path(root)
        official = root / "basic" if (root / "basic").is_dir() else root
        if (official / "EmoLabel" / "list_patition_label.txt").is_file():
            paths, labels = self._read_official(official, split)
            found = "the official list, labels 1..7"
        else:
            paths, labels, found = self._read_folders(root, split)
        print(f"RAF-DB {split}: {len(paths):,} faces in {root} ({found})")
        super().__init__(f"RAF-DB {split}", paths, np.array(labels, dtype=np.int64), 7)

    def _read_official(self, root: Path, split: str) -> tuple[list[Path], list[int]]:
        list_file = root / "EmoLabel" / "list_patition_label.txt"
        on_disk = {path.name: path for path in _list_images(root / "Image" / "aligned", "", "RAF-DB", self.LAYOUT)}
        paths, labels = [], []
        for number, line in enumerate(list_file.read_text().splitlines(), start=1):
            name, _, label = line.strip().partition(" ")
            if not name.startswith(split + "_"):
                continue
            if not label.isdigit() or int(label) not in RAFDB_TO_EMOTIONS:
                raise DatasetError(f"{list_file}, line {number}: {line!r}; expected a name and a label from 1 to 7")
            aligned = name.removesuffix(".jpg") + "_aligned.jpg"
            if aligned not in on_disk:
                raise DatasetError(f"{list_file}, line {number}: {aligned} is not in {root / 'Image' / 'aligned'}")
            paths.append(on_disk[aligned])
            labels.append(RAFDB_TO_EMOTIONS[int(label)])
        if not paths:
            raise DatasetError(f"{list_file} lists no picture whose name begins with {split}_")
        return paths, labels

    def _read_folders(self, root: Path, split: str) -> tuple[list[Path], list[int], str]:
        folder = root / split
        paths = _list_images(folder, "*", "RAF-DB", self.LAYOUT)
        names = {entry.name for entry in folder.iterdir() if entry.is_dir()}
        if names == {str(label) for label in range(7)}:
            return paths, [int(path.parent.name) for path in paths], "class folders 0..6, our order"
        if names == {str(label) for label in range(1, 8)}:
            labels = [RAFDB_TO_EMOTIONS[int(path.parent.name)] for path in paths]
            return paths, labels, "class folders 1..7, the official order"
        raise DatasetError(
            f"{folder} has the class folders {', '.join(sorted(names))}; their order cannot be told from such names. "
            f"Expected {self.LAYOUT}: rename the folders to the number of their emotion"
        )


def _check_split(split: str, splits: tuple[str, ...]) -> None:
    if split not in splits:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(splits)}")


def _list_images(folder: Path, inside: str, dataset: str, layout: str) -> list[Path]:
    """List the pictures in a folder (`inside` "") or in its sub-folders ("*"), sorted; refuse a folder without any."""
    if not folder.is_dir():
        raise DatasetError(_missing(folder, dataset, layout))
    folders = [folder] if not inside else sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    names = ((parent, entry.name) for parent in folders for entry in os.scandir(parent))
    paths = sorted(parent / name for parent, name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DatasetError(f"{folder.absolute()} holds no pictures. Expected {layout}; {WHERE[dataset]}")
    return paths


def _missing(path: Path, dataset: str, layout: str) -> str:
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    inside = sorted(entry.name for entry in existing.iterdir())[:6]
    return (
        f"{dataset} is not at {path.absolute()} ({existing} exists and holds {', '.join(inside) or 'nothing'}). "
        f"Expected {layout}; {WHERE[dataset]}. Set base_path_to_dataset to the folder that holds it, or try --demo"
    )


if __name__ == "__main__":  # python -m utils.udata check DATASET ROOT
    runpy.run_module("utils.ucheck", run_name="__main__")
