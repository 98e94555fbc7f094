"""The three data sets, read in every layout they are found in, with one label order: that of `EMOTIONS`.

`dataset[i]` is an RGB picture (3, H, W), uint8, as it is on disk, and its label; nothing is decoded before it is
asked for. `pre_process_affect_net` and `pre_process_fer_plus` write the layouts that are read here.
"""

import re
import runpy
from collections import Counter
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diversified_fer.folder import Listing, one_named
from diversified_fer.media.picture import MediaError, read_picture
from models.classifier import EMOTIONS
from utils.preparing.annotations import EXPRESSIONS
from utils.preparing.ferplus import FERPLUS_VOTES_TO_EMOTIONS, labels_from_votes, read_votes
from utils.preparing.kaggle import TABLES, find_labels, read_labels, why_missing
from utils.preparing.layout import below, find_listed, find_root, list_pictures, missing, print_found
from utils.preparing.named import SPLITS, is_named, read_named, splits_in
from utils.preparing.preprocess import OWN_FILES, pre_process_affect_net, pre_process_fer_plus
from utils.preparing.rafdb import RAFDB_TO_EMOTIONS, read_class_folders, read_list
from utils.preparing.table import DatasetError, printable

__all__ = [
    "EMOTIONS", "FERPLUS_VOTES_TO_EMOTIONS", "RAFDB", "RAFDB_TO_EMOTIONS", "AffectNet", "DatasetError",
    "EmotionFolders", "FERPlus", "FaceDataset", "at_most", "at_most_per_label", "labels_from_votes",
    "pre_process_affect_net", "pre_process_fer_plus", "read_image", "read_votes", "stratified_holdout",
]  # fmt: skip

AFFECTNET_NAME = re.compile(r"(\d{1,9})[_s](\d{1,2})[_s](-?\d{1,4})[_s](-?\d{1,4})", re.ASCII)


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
        listing: all pictures of the split, those without a label too, and how many files and rows were left out.
        split: which part of the data set these faces are, such as "train" or "holdout".
        affect: valence and arousal of every face, (N, 2) float32 in [-1, 1], -2 where there are none; AffectNet alone.
    """

    source: str
    """The data set, as results should name it."""
    affect: np.ndarray | None = None

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        labels: Any,
        num_classes: int,
        listing: Listing | None = None,
        split: str = "",
    ) -> None:
        self.name, self.split = name, split
        self.paths = list(paths)
        self.labels = np.asarray(labels)
        self.class_names = EMOTIONS[:num_classes]
        self.listing = listing or Listing(list(paths))
        self.listing.left_out = +self.listing.left_out  # without reasons that no file had

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

    def subset(self, indices: Sequence[int], name: str | None = None, split: str | None = None) -> "FaceDataset":
        """Return the same data set with only these faces, in this order.

        Args:
            indices: their positions in this data set.
            name: what to call it; default as before.
            split: for faces that are a split of their own from now on; they are named after it.
        """
        part = copy(self)
        part.paths = [self.paths[index] for index in indices]
        indices = np.asarray(indices, dtype=np.int64)
        part.labels, part.affect = self.labels[indices], None if self.affect is None else self.affect[indices]
        part.name = name or (self.name if split is None else f"{self.source} {split}")
        part.split = split or self.split
        return part


def at_most_per_label(labels: np.ndarray, maximum: int, seed: int) -> np.ndarray:
    """Draw at most `maximum` faces of every class without replacement; returns sorted indices."""
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = [order[labels[order] == label][:maximum] for label in np.unique(labels)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))


def at_most(dataset: FaceDataset, maximum: int | None, seed: int) -> FaceDataset:
    """Return a random part of a data set, in its order; the whole where `maximum` is None or not below its size."""
    if maximum is None or maximum >= len(dataset):
        return dataset
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:maximum]
    return dataset.subset(np.sort(chosen), f"{dataset.name}, {maximum:,} of {len(dataset):,} faces")


def stratified_holdout(
    labels: np.ndarray, fraction: float = 0.1, seed: int = 0, class_names: Sequence[str] = EMOTIONS
) -> tuple[np.ndarray, np.ndarray]:
    """Set a share of every class apart for selection, at least one face of each; returns kept and held-out indices.

    Training keeps at least one face of every class: a class of a single face is not held out, and this is printed.

    Raises:
        DatasetError: when no class has two faces.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    held, single = [], []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        held.append(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
        single += [class_names[label]] if len(members) == 1 else []
    held_out = np.sort(np.concatenate([np.empty(0, np.int64), *held]))
    if not len(held_out):
        raise DatasetError(f"none of {len(labels):,} faces can be held out for selection: no class has two of them")
    if single:
        print(f"no face of {', '.join(single)} is held out for selection: there is one, which stays in training")
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


class AffectNet(FaceDataset):
    """AffectNet as `pre_process_affect_net` writes it (Mollahosseini, Hasani, Mahoor, IEEE TAC 2019).

    Args:
        root: folder with Training_Labeled/, Training_Unlabeled/, Validation/, each with folders 0..n of pictures named
            `[id]_[emotion]_[valence*1000]_[arousal*1000].jpg` (the older separator `s` is read too). Or a folder with
            `labels.csv` (columns pth and label, a class by name) and the pictures, as AffectNet circulates on Kaggle;
            valence and arousal are unknown then.
        split: "train", "unlabeled" (automatically annotated) or "validation".
        num_classes: 8, or 7 without Contempt. None, Uncertain and No-Face (8, 9, 10) are always left out.
        max_images_per_label: take at most this many faces of every class.
        seed: seed of that choice.

    Raises:
        DatasetError: when the layout is another, names carry no label, or labels are unknown.
    """

    source = "AffectNet"
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
        name = f"AffectNet-{num_classes} {split}"
        root = find_root(Path(root), (*self.FOLDERS.values(), *TABLES["train"], *TABLES["validation"]))
        folder, label_file = one_named(root, self.FOLDERS[split]), find_labels(root, split)
        if folder.is_dir() or label_file is None:
            if not folder.is_dir() and (why := why_missing(root, split)):
                raise DatasetError(why)
            listing = list_pictures(folder, "AffectNet", layout, depth=1, known=OWN_FILES)
            labels, affect = self._read_names(listing.files, folder, layout)
        else:
            listing, labels = read_labels(label_file)
            labels, affect = np.array(labels, dtype=np.int64), np.full((len(labels), 2), -2, dtype=np.float32)
        files = listing.files
        keep = np.flatnonzero(labels < num_classes)
        dropped = Counter(f"of the class {EXPRESSIONS[label]}" for label in labels[labels >= num_classes].tolist())
        if not len(keep):
            classes = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
            raise DatasetError(
                f"{name} has no face: {len(files):,} of {len(files):,} pictures in {label_file or folder} "
                f"are none of the emotions 0 to {num_classes - 1} ({classes})"
            )
        print_found(name, len(keep), root, listing.left_out + dropped)
        if max_images_per_label is not None:
            keep = keep[at_most_per_label(labels[keep], max_images_per_label, seed)]
        super().__init__(name, [files[index] for index in keep], labels[keep], num_classes, listing, split)
        self.affect = affect[keep]

    @classmethod
    def has_split(cls, root: str | Path, split: str) -> bool:
        """Tell whether the folder of a split is there."""
        return one_named(find_root(Path(root), tuple(cls.FOLDERS.values())), cls.FOLDERS[split]).is_dir()

    def _read_names(self, files: list[Path], folder: Path, layout: str) -> tuple[np.ndarray, np.ndarray]:
        """Return emotion (N,) and valence and arousal (N, 2) that are in the pictures' names."""
        matches = [AFFECTNET_NAME.fullmatch(path.stem) for path in files]
        unnamed = [path for path, match in zip(files, matches, strict=True) if match is None]
        if unnamed:
            raise DatasetError(
                f"{len(unnamed)} of {len(files)} pictures in {folder} carry no label in their name "
                f"(first: {printable(unnamed[0].name)}); expected {layout}"
            )
        labels = np.array([int(match[2]) for match in matches], dtype=np.int64)
        if labels.max() > 10:
            raise DatasetError(f"{files[int(labels.argmax())]} has the emotion {labels.max()}; AffectNet's are 0 to 10")
        return labels, np.array([(int(match[3]), int(match[4])) for match in matches], dtype=np.float32) / 1000

    def with_affect(self) -> "AffectNet":
        """Return the faces whose valence and arousal are known, with those, (N, 2) float32, in place of the class."""
        known = np.flatnonzero((np.abs(self.affect) <= 1).all(axis=1))
        if not len(known):
            raise DatasetError(f"{self.name}: valence and arousal of none of {len(self):,} faces are known")
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
            (name, box, ten vote counts), or `FER2013{Train,Valid,Test}/` with the pictures and their label.csv. The
            folder above or below is taken too.
        split: "train", "valid" or "test".
        label_rule: how votes become training labels; validation and test are always "majority".

    Raises:
        DatasetError: when folders or pictures are missing, a row has no ten vote counts, a picture has two rows, or no
            face is left under the rule.
    """

    source = "FER+"
    RULES = ("majority", "probability", "crossentropy", "multi_target")

    def __init__(self, root: str | Path, split: str = "train", label_rule: str = "majority") -> None:
        _check_split(split, ("train", "valid", "test"))
        if label_rule not in self.RULES:
            raise ValueError(f"label_rule is {label_rule!r}; expected one of {', '.join(self.RULES)}")
        self.label_rule = label_rule if split == "train" else "majority"
        name, folder = f"FER+ {split} ({self.label_rule} rule)", f"FER2013{split.capitalize()}"
        layout = (
            "Images/FER2013{Train,Valid,Test}/*.png with Labels/FER2013{Train,Valid,Test}/label.csv, or "
            "FER2013{Train,Valid,Test}/ with pictures and label.csv"
        )
        folders = [f"FER2013{part}" for part in ("Train", "Valid", "Test")]
        marks = [mark.format(part) for mark in ("Images/{}", "Labels/{}", "{}/label.csv") for part in folders]
        root = find_root(Path(root), marks)
        images, label_file = below(root, f"Images/{folder}"), below(root, f"Labels/{folder}/label.csv")
        if not images.is_dir() and one_named(root, folder).is_dir():
            images = one_named(root, folder)
        if not label_file.is_file() and one_named(images, "label.csv").is_file():
            label_file = one_named(images, "label.csv")
        listing = list_pictures(images, "FER+", layout, known=[label_file.name])
        if not label_file.is_file():
            raise DatasetError(missing(label_file, "FER+", layout))
        names, votes, unnamed = read_votes(label_file)
        paths = find_listed(names, listing, label_file, layout)
        keep, labels = labels_from_votes(votes, self.label_rule)
        why = "tie or are unknown" if self.label_rule == "majority" else "are unknown or none of the emotions"
        if not len(keep):
            raise DatasetError(f"{name} has no face: {len(names):,} of {len(names):,} rows {why}, in {label_file}")
        listing.left_out["rows without a picture's name"] = unnamed
        listing.left_out["pictures without a row"] = len(listing.files) - len(set(paths))
        super().__init__(name, [paths[i] for i in keep], labels, 8, listing, split)
        dropped = Counter({f"faces whose votes {why}": len(names) - len(keep)})
        print_found(name, len(keep), root, listing.left_out + dropped)

    @staticmethod
    def has_split(root: str | Path, split: str) -> bool:
        """Tell whether a split is there, in either layout; FER+ is often kept without its Test."""
        folder = f"FER2013{split.capitalize()}"
        root = find_root(Path(root), (f"Images/{folder}", folder))
        return below(root, f"Images/{folder}").is_dir() or one_named(root, folder).is_dir()

    def targets(self, indices: np.ndarray) -> Tensor:
        """Return the labels of several faces; under "probability" they are sampled, from PyTorch's random state."""
        if self.label_rule == "probability":
            return torch.multinomial(torch.from_numpy(self.labels[indices]), 1).squeeze(1)
        return super().targets(indices)


class RAFDB(FaceDataset):
    """RAF-DB, basic emotions (Li, Deng, Du, CVPR 2017). The layout found is printed in one line.

    Args:
        root: folder with `train/0..6` and `test/0..6` (our order), `train/1..7` and `test/1..7` (the official order),
            or the official release: `EmoLabel/list_patition_label.txt` with `Image/aligned/*_aligned.jpg`. Or any
            faces with an emotion's name each, in a layout of `EmotionFolders`; their classes are those that occur.
        split: "train" or "test".

    Raises:
        DatasetError: when the layout is another, in particular class folders whose names tell no emotion.
    """

    source = "RAF-DB"

    def __init__(self, root: str | Path, split: str = "train") -> None:
        _check_split(split, ("train", "test"))
        marks = ("EmoLabel/list_patition_label.txt", "basic/EmoLabel/list_patition_label.txt", "train", "test")
        root = find_root(Path(root), marks)
        official = one_named(root, "basic") if one_named(root, "basic").is_dir() else root
        list_file = below(official, "EmoLabel/list_patition_label.txt")
        listing, class_names = Listing(), EMOTIONS[:7]
        if not list_file.is_file() and is_named(root, split):
            paths, labels, class_names, found = read_named(root, split, listing)
            self.source = root.absolute().stem
        elif list_file.is_file():
            paths, labels = read_list(list_file, below(official, "Image/aligned"), split, listing)
            found = "the official list, labels 1..7"
        else:
            paths, labels, found = read_class_folders(root, split, listing)
        super().__init__(f"{self.source} {split}", paths, np.array(labels, dtype=np.int64), 7, listing, split)
        self.class_names = class_names
        print_found(self.name, len(paths), root, listing.left_out, found)
        absent = [name for label, name in enumerate(self.class_names) if label not in set(labels)]
        if absent and found.startswith("class folders"):
            print(f"{self.name}: no face of {', '.join(absent)}")


class EmotionFolders(FaceDataset):
    """Faces in folders named after emotions, or named with their label in a table; any data set can be brought so.

    The names are those of `EMOTIONS` and common words for them (happy, sad, angry, ...), in any case. The classes are
    the emotions that occur in any split, in our order.

    Args:
        root: folder with `Happiness/`, `sad/`, ...; or with `train/`, `valid/` and `test/` of such folders; or a table
            (CSV) with the columns file and label, and possibly split; or a folder with such tables (`test.csv`).
        split: "train", "valid" or "test"; None for all faces of a data set without splits, otherwise for "test".
        columns: "theirs=ours" for names of a table's columns, with commas between: "image=file,emotion=label".
        names: "theirs=ours" for other names of classes: "joy=Happiness".

    Raises:
        DatasetError: when there are fewer than two emotions, pictures of the table are missing, or no split is asked
            for and there are splits, but no "test".
    """

    def __init__(self, root: str | Path, split: str | None = None, columns: str = "", names: str = "") -> None:
        if split is not None:
            _check_split(split, tuple(SPLITS))
        root, listing = Path(root), Listing()
        if split is None and "test" in splits_in(root, columns, names):
            split = "test"
        paths, labels, class_names, found = read_named(root, split, listing, columns, names)
        self.source = root.absolute().stem
        name = f"{self.source} {split}" if split else self.source
        super().__init__(name, paths, np.array(labels, dtype=np.int64), len(class_names), listing, split or "all")
        self.class_names = class_names
        print_found(name, len(paths), root, listing.left_out, found)


def _check_split(split: str, splits: tuple[str, ...]) -> None:
    if split not in splits:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(splits)}")


if __name__ == "__main__":  # python -m utils.udata check DATASET ROOT
    runpy.run_module("utils.evaluation.check", run_name="__main__")
