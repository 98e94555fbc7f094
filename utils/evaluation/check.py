"""Looks a data set over before a night of training is spent on it: `python -m utils.udata check DATASET ROOT`.

Says which layout was found, how many faces each class of each split has beside the published numbers, which pictures
cannot be read whole, which are there twice or in two splits, whether the labels seem to follow another order, and
what to do about each.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro
from PIL import Image
from tqdm.auto import tqdm
from tyro.extras import subcommand_cli_from_dict

from diversified_fer.console import is_watched, one_line_errors
from diversified_fer.folder import Listing
from models import load_model
from models.classifier import EMOTIONS, ExpressionClassifier
from models.weights import SHIPPED, CheckpointError
from utils.evaluation.classes import canonical
from utils.evaluation.copies import Content, Finding, Split, check_copies, content_of, some
from utils.preparing.annotations import find_affect_net
from utils.preparing.named import splits_in
from utils.preparing.table import printable
from utils.udata import (
    FERPLUS_VOTES_TO_EMOTIONS,
    RAFDB,
    RAFDB_TO_EMOTIONS,
    AffectNet,
    DatasetError,
    EmotionFolders,
    FaceDataset,
    FERPlus,
    at_most_per_label,
    read_image,
)

SAMPLE = 800  # faces of a split that the network is asked about
FEWEST = 5  # faces of a class from which its recall counts
LOST = ("links to nothing", "folders that cannot be read", "special files")  # `Listing.lost`
CROSSED = 0.15  # how much more of each class a network finds under another's label for the two to be exchanged
FER2013_ORDER = (6, 5, 4, 1, 2, 3, 0)  # the classes of Kaggle's fer2013.csv as ours
PLEASANT = {1: 1, 2: -1, 4: -1, 5: -1, 6: -1, 7: -1}  # sign of an emotion's mean valence, where it has a clear one


class PublishedDataset(NamedTuple):
    """A data set as it is published.

    Attributes:
        read: opens a split.
        published: faces per class of each split, in our order; None where that is not known.
        source: where the numbers are from.
    """

    read: Callable[[Path, str], FaceDataset]
    published: dict[str, tuple[int, ...] | None]
    source: str


DATASETS = {
    "affectnet": PublishedDataset(
        AffectNet,
        {"train": (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750), "validation": (500,) * 8, "unlabeled": None},
        "Mollahosseini et al. 2019",
    ),
    "ferplus": PublishedDataset(
        FERPlus,
        {
            "train": (8733, 7284, 3022, 3136, 536, 116, 2098, 120),
            "valid": (1180, 862, 348, 411, 60, 25, 289, 16),
            "test": (1083, 892, 382, 394, 86, 16, 269, 15),
        },
        "label.csv as published, majority rule",
    ),
    "rafdb": PublishedDataset(
        RAFDB,
        {"train": (2524, 4772, 1982, 1290, 281, 717, 705), "test": (680, 1185, 478, 329, 74, 160, 162)},
        "Li et al. 2017",
    ),
}


def check(dataset: str, root: Path, network: Path | None, columns: str = "", names: str = "") -> list[Finding]:
    """Look a data set over, print what was found, and return what is not as it should be.

    Args:
        dataset: a name in `DATASETS`, or "folder" for faces whose labels are words (`utils.udata.EmotionFolders`).
        root: its folder, as in the training scripts.
        network: a trained network whose answers the labels are compared with; None leaves that out.
        columns, names: as `EmotionFolders` takes them.
    """
    known = _named_dataset(root, columns, names) if dataset == "folder" else DATASETS[dataset]
    model = load_model(network) if network else None
    findings: list[Finding] = []
    splits = []
    for name in known.published:
        if known.read is AffectNet and name == "unlabeled" and not AffectNet.has_split(root, name):
            continue  # training does without it
        try:
            faces = known.read(root, name)
        except DatasetError as error:
            findings.append(Finding("error", f"{name}: {error}", _remedy_for_missing(dataset, root)))
        else:
            splits.append(Split(name, faces, [*faces.listing.files, *faces.listing.lost]))
    published = {  # of the same classes: RAF-DB's loader reads any faces in folders named after emotions
        split.name: known.published[split.name] if _has_own_order(split.faces) else None for split in splits
    }
    for split in splits:
        findings += check_counts(split, published[split.name], known.source)
    content, unreadable = read_all(list(dict.fromkeys(path for split in splits for path in split.files)))
    findings += unreadable + check_copies(splits, content)
    for split in splits:
        findings += check_labels(split, published[split.name], model, set(content))
    errors = sum(finding.level == "error" for finding in findings)
    for finding in sorted(findings, key=lambda finding: finding.level):
        print(printable(f"{finding.level}: {finding.text}", 4000) + f"\n    what to do: {finding.remedy}")
    print(f"{root}: {errors} errors, {len(findings) - errors} notes")
    return findings


def _named_dataset(root: Path, columns: str, names: str) -> PublishedDataset:
    """Return a data set of which nothing is published, with the splits that it has."""
    splits = splits_in(root, columns, names)
    if splits == [None]:
        EmotionFolders(root, None, columns, names)  # or says what is wrong
    return PublishedDataset(
        lambda root, split: EmotionFolders(root, None if split == "all" else split, columns, names),
        {split or "all": None for split in splits},
        "",
    )


def check_counts(split: Split, published: Sequence[int] | None, source: str) -> list[Finding]:
    """Print the faces per class next to the published numbers, compare them, and say which files are not read."""
    names, found, findings = split.faces.class_names, _per_class(split.faces), []
    print(f"{split.faces.name}: {len(split.files):,} pictures, {len(split.faces):,} of them labelled")
    print(f"  {'':10s} {'found':>9s}" + (f" {'published':>9s}   ({source})" if published else ""))
    for k, (name, count) in enumerate(zip(names, found, strict=True)):
        print(f"  {name:10s} {count:9,}" + (f" {published[k]:9,}" if published else ""))
    if 0 in found:
        empty = ", ".join(name for name, count in zip(names, found, strict=True) if count == 0)
        remedy = f"look whether the labels begin at 0 and follow the order {', '.join(EMOTIONS)}"
        findings.append(Finding("error", f"{split.name}: no face of {empty}", remedy))
    if published and tuple(found) != published:
        text = f"{split.name}: {sum(found):,} labelled faces, {sum(published):,} are published"
        remedy = (
            "unless this is a part of the data set on purpose, unpack or preprocess it again and look into errors.csv "
            "for rows that could not be used"
        )
        findings.append(Finding("note", text, remedy))
    left_out = split.faces.listing.left_out
    others = str(Listing(left_out=Counter({why: n for why, n in left_out.items() if why not in LOST})))
    if others:
        remedy = "look whether pictures are among them; what does not belong there does no harm"
        findings.append(Finding("note", f"{split.name}: left out {others}", remedy))
    return findings


def read_all(paths: Sequence[Path]) -> tuple[dict[Path, Content], list[Finding]]:
    """Decode every picture to its end; returns what they show, and a finding for those that cannot be read."""

    animated: list[Path] = []

    def read(path: Path) -> Content | str:
        if not path.is_file():  # a pipe would be waited for
            return printable(f"{path} is a link to nothing, or no file", 400)
        try:
            with Image.open(path) as image:
                if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                    animated.append(path)
                image.load()  # refuses a file that lost its end, which OpenCV fills with grey
                return content_of(image)
        except Exception as error:  # a damaged file raises whatever its first wrong byte leads to
            size = f"{path.stat().st_size:,}" if path.is_file() else "no"
            return printable(f"{path} ({size} bytes): {error}", 400)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
        contents = pool.map(read, paths)
        bar = tqdm(contents, "read every picture", len(paths), False, unit=" pictures", disable=not is_watched())
        contents = list(bar)
    content = {path: value for path, value in zip(paths, contents, strict=True) if isinstance(value, Content)}
    broken = [value for value in contents if isinstance(value, str)]
    text = f"{len(broken):,} of {len(paths):,} pictures cannot be read whole: {some(broken)}"
    remedy = "restore them from the archive, or preprocess those rows again"
    findings = [Finding("error", text, remedy)] if broken else []
    if animated:
        listed = some(printable(str(path), 300) for path in sorted(animated))
        text = f"{len(animated):,} files hold several pictures (animations, documents): {listed}"
        findings.append(Finding("note", text, "the first picture of each is taken; split them if you want the others"))
    return content, findings


def check_labels(
    split: Split, published: Sequence[int] | None, model: ExpressionClassifier | None, readable: set[Path]
) -> list[Finding]:
    """Look whether labels seem to be in another order, by class sizes, valence and a network's answers.

    Each kind of evidence is a fit of the labels to the emotions. Where the labels as they are fit badly and another
    order fits far better, that order is named.
    """
    faces, K = split.faces, len(split.faces.class_names)
    findings = []

    def judge(fit: Callable[[np.ndarray], float], evidence: str, bad: float, better: float) -> None:
        if not _has_own_order(faces):  # labels that are words have no order
            return
        own = fit(np.arange(K))
        name, best = max(((name, fit(np.array(order))) for name, order in orders(K).items()), key=lambda pair: pair[1])
        if own < bad <= best and best > own + better:
            text = f"the labels look like {name}, not our order ({evidence}: {best:.2f} against {own:.2f})"
            remedy = (
                f"put the labels into the order {', '.join(EMOTIONS)}; for RAF-DB keep the official layout or name the "
                "folders 1..7, which is read as the official order"
            )
            findings.append(Finding("error", f"{split.name}: {text}", remedy))

    found = np.array(_per_class(faces))
    if published and found.sum():
        shares, expected = found / found.sum(), np.array(published) / sum(published)
        fit = lambda order: 1 - np.abs(shares - expected[order]).sum() / 2  # noqa: E731
        judge(fit, "overlap with the published class sizes", 0.8, 0.1)
    if faces.affect is not None:
        known = np.abs(faces.affect[:, 0]) <= 1
        valence = [faces.affect[known & (faces.labels == label), 0] for label in range(K)]
        means = {label: values.mean() for label, values in enumerate(valence) if len(values) >= FEWEST}
        if set(means) >= set(PLEASANT) & set(range(K)):
            judge(
                lambda order: np.mean([PLEASANT[order[k]] * v for k, v in means.items() if order[k] in PLEASANT]),
                "mean valence in the direction of the emotion", 0.2, 0.2,
            )  # fmt: skip
    if model is None:
        return findings
    answers = ask(model, faces, readable)
    own = [canonical(label) for label in model.labels]
    enough = (answers.sum(axis=1) >= FEWEST) & np.isin([canonical(name) for name in faces.class_names], own)
    if enough.sum() < K / 2:  # too few faces to tell
        return findings
    answers = answers / np.maximum(answers.sum(axis=1, keepdims=True), 1)  # of each class, what it looks like
    recall = lambda order: float(answers[enough, order[enough]].mean())  # noqa: E731
    judge(recall, "recall of a network", 0.3, 0.2)
    if not findings and recall(np.arange(K)) < 1.5 / K:
        text = (
            f"{split.name}: the labels fit the faces no better than chance (mean recall of the network "
            f"{recall(np.arange(K)):.2f})"
        )
        remedy = (
            "look whether the rows of the label file have moved against the pictures; on pictures unlike photographs "
            "of faces, leave this out with --network None"
        )
        findings.append(Finding("error", text, remedy))
    return findings or check_exchanged(split, answers, enough)


def check_exchanged(split: Split, answers: np.ndarray, enough: np.ndarray) -> list[Finding]:
    """Find classes that a network says are exchanged, while the others are where they should be.

    Args:
        split: the faces.
        answers: of the faces of each label (row) the share that the network takes for each class, (K, K).
        enough: which labels have enough faces, (K,).
    """
    names, findings = split.faces.class_names, []
    K = len(names)
    moves = np.array([move for move in permutations(range(K)) if all(enough[k] or move[k] == k for k in range(K))])
    best = moves[answers[np.arange(K), moves].sum(axis=1).argmax()]
    for first in range(K):
        cycle = [first]
        while best[cycle[-1]] != first:
            cycle.append(int(best[cycle[-1]]))
        gain = sum(answers[k, best[k]] - answers[k, k] for k in cycle) / len(cycle)
        if first == min(cycle) and len(cycle) > 1 and gain > CROSSED:
            looks = ", ".join(f"{answers[k, best[k]]:.0%} of {names[k]} as {names[best[k]]}" for k in cycle)
            text = (
                f"{split.name}: {' and '.join(names[k] for k in cycle)} look exchanged to the network, which sees "
                f"{looks}, while the other classes are where they should be"
            )
            remedy = "look at some faces of these classes, and exchange their folders or labels where they are wrong"
            findings.append(Finding("note", text, remedy))
    return findings


def orders(K: int) -> dict[str, Sequence[int]]:
    """Return the orders that labels of K classes are found in, as lists of our classes."""
    names = list(EMOTIONS[:K])
    found = {
        "our order shifted by one (they begin at 1)": [(label - 1) % K for label in range(K)],
        "our order shifted back by one": [(label + 1) % K for label in range(K)],
        "the alphabetical order of the emotions": [names.index(name) for name in sorted(names)],
    }
    if K == 7:
        return found | {
            "RAF-DB's official order, counted from 0": [RAFDB_TO_EMOTIONS[label] for label in range(1, 8)],
            "FER2013's order": FER2013_ORDER,
        }
    return found | {"FER+'s order of votes": FERPLUS_VOTES_TO_EMOTIONS}


def ask(model: ExpressionClassifier, faces: FaceDataset, readable: set[Path]) -> np.ndarray:
    """Show a network a sample of the faces, as many of each class where there are.

    It chooses among the classes that it shares with the data.

    Returns:
        how many faces of each label (row) it takes for each class (column), (K, K).
    """
    K = len(faces.class_names)
    known = np.array([index for index, path in enumerate(faces.paths) if path in readable], dtype=np.int64)
    sample = known[at_most_per_label(faces.labels[known], SAMPLE // K, seed=0)]
    if not len(sample):
        return np.zeros((K, K), dtype=np.int64)
    answers = np.asarray(model.predict([read_image(faces.paths[index]) for index in sample]))
    own = [canonical(label) for label in model.labels]
    shared = [k for k, name in enumerate(faces.class_names) if canonical(name) in own]
    if not shared:
        raise CheckpointError(
            f"the network predicts {', '.join(model.labels[:8])}, {faces.name} has {', '.join(faces.class_names)}: no "
            "class is shared; name another with --network, or --network None"
        )
    columns = [own.index(canonical(faces.class_names[k])) for k in shared]
    cells = faces.labels[sample].astype(np.int64) * K + np.array(shared)[answers[:, columns].argmax(1)]
    return np.bincount(cells, minlength=K * K).reshape(K, K)


def _has_own_order(faces: FaceDataset) -> bool:
    """Tell whether labels are numbers in our order, and not words for whatever classes there are."""
    names = tuple(map(canonical, faces.class_names))
    return not isinstance(faces, EmotionFolders) and names in (EMOTIONS[:7], EMOTIONS)


def _per_class(faces: FaceDataset) -> list[int]:
    return np.bincount(faces.labels, minlength=len(faces.class_names)).tolist()


def _remedy_for_missing(dataset: str, root: Path) -> str:
    if dataset == "affectnet":
        try:
            find_affect_net(root, root, 1)
        except (OSError, ValueError):
            return "name the folder that holds the layout named above"
        return "this is AffectNet as it is released: run pre_process_affect_net on it first (docs/data.md)"
    return "name the folder that holds the layout named above, or unpack the part that is missing into it"


def command(
    dataset: tyro.conf.Positional[Literal["affectnet", "ferplus", "rafdb", "folder"]],
    root: tyro.conf.Positional[Path],
    network: Path | None = SHIPPED,
    columns: str = "",
    names: str = "",
) -> int:
    """Look a data set over: layout, counts, unreadable and doubled pictures, order of the labels.

    Args:
        dataset: which one it should be; "folder" for folders named after emotions, or a table of files and labels.
        root: the folder that the scripts take as base_path_to_dataset.
        network: a trained network whose answers the labels are compared with; None leaves that out.
        columns: names of columns in your table, "image=file,emotion=label".
        names: names of classes in your folders or table, "joy=Happiness".
    """
    return int(any(finding.level == "error" for finding in check(dataset, root, network, columns, names)))


if __name__ == "__main__":
    with one_line_errors(command="utils.udata check"):
        sys.exit(subcommand_cli_from_dict({"check": command}))
