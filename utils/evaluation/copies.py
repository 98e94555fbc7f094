"""Finds pictures that are in a data set more than once: the same pixels, nearly the same, or names that tell it.

A face that was learnt from must not be scored, not even mirrored, brighter or compressed again.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from utils.udata import FaceDataset, read_image

EXAMPLES = 3  # files named per finding
SIDE = 16  # pixels along each side of the grey thumbnails that are compared
ALIKE = 0.985  # correlation of two thumbnails from which the pictures are looked at closer
CLOSER = 32, 0.95  # pixels along each side then, and their correlation from which one is a copy of the other
"""On the real FER+ 59 of 3,579 validation faces are beyond these, beside those of equal pixels; looked at side by side,
all 59 are a training photograph that was cut, sized or compressed otherwise. Pairs of different faces begin below 0.955
(16 pixels); the closest pair of synthetic faces reached 0.978.
"""
FLAT = 4.0  # grey values: a thumbnail whose standard deviation is less shows nothing to compare
BLOCK = 4096  # thumbnails compared at a time: bounds memory
KEPT = (
    "a face that was learnt from must not be scored. Where the set is published with such copies and the protocol "
    "keeps them (FER+ does), say so beside the number"
)


class Finding(NamedTuple):
    """Something that is not as it should be: "error" spoils a training, "note" is worth knowing; and what to do."""

    level: str
    text: str
    remedy: str


class Split(NamedTuple):
    """One split as it was found: the labelled faces, and all its picture files."""

    name: str
    faces: FaceDataset
    files: list[Path]


class Copy(NamedTuple):
    """A training picture that another one looks like: their correlation, its file, and whether it is mirrored."""

    alike: float
    other: Path
    mirrored: bool


class Content(NamedTuple):
    """What a picture shows: a digest of its pixels, and a small grey copy, SIDE * SIDE bytes."""

    digest: bytes
    thumbnail: bytes


def content_of(image: Image.Image) -> Content:
    """Return what a picture shows, opened from its file; decodes it to its end."""
    image = _as_seen(image)
    pixels = np.asarray(image)
    digest = hashlib.blake2b(pixels.tobytes() + str(pixels.shape).encode(), digest_size=16).digest()
    return Content(digest, _grey(image, SIDE).tobytes())


def some(items: Iterable[str]) -> str:
    """Return the first few of many."""
    items = list(items)
    return "; ".join(items[:EXAMPLES]) + ("; ..." if len(items) > EXAMPLES else "")


def check_copies(splits: Sequence[Split], content: dict[Path, Content]) -> list[Finding]:
    """Find copies across and within splits, by pixels, by looks and by names."""
    findings = check_same(splits, content)
    for train in (split for split in splits if split.name == "train"):
        for scored in (split for split in splits if split.name not in ("train", "unlabeled")):
            findings += check_alike(train, scored, content) + check_names(train, scored)
    return findings


def check_same(splits: Sequence[Split], content: dict[Path, Content]) -> list[Finding]:
    """Find pictures of the same pixels, in two splits and within one; faces labelled differently are told apart."""
    pictures: dict[bytes, list[tuple[str, Path]]] = defaultdict(list)  # by their pixels
    for split in splits:
        for path in split.files:
            if path in content:
                pictures[content[path].digest].append((split.name, path))
    labels = {path: split.faces.labels[i].tolist() for split in splits for i, path in enumerate(split.faces.paths)}
    across, within, contradicting = defaultdict(list), defaultdict(list), Counter()
    for copies in pictures.values():
        names = sorted({name for name, _ in copies})
        listing = " = ".join(f"{name}/{path.name}" for name, path in copies)
        if len(names) > 1:
            across[" and ".join(names)].append(listing)
        for name in names:
            own = [path for split, path in copies if split == name]
            if len(own) > 1:
                within[name].append(listing)
                contradicting[name] += len({labels[path] for path in own if path in labels}) > 1
    findings = []
    for names, listings in across.items():
        text = f"{len(listings):,} pictures are in {names}, by content: {some(listings)}"
        remedy = f"remove them from {'train' if 'train' in names else names.split(' and ')[-1]}: {KEPT}"
        findings.append(Finding("error", text, remedy))
    for name, listings in within.items():
        text = (
            f"{name}: {len(listings):,} pictures are there more than once, {contradicting[name]:,} of them with "
            f"different labels: {some(listings)}"
        )
        remedy = "keep one of each, or know that these faces weigh more (FER2013 was published with such copies)"
        findings.append(Finding("note", text, remedy))
    return findings


def check_alike(train: Split, scored: Split, content: dict[Path, Content]) -> list[Finding]:
    """Find pictures of a scored split that training shows nearly as they are, or mirrored, but not pixel by pixel."""
    found = find_alike(train.files, scored.files, content)
    examples = (
        f"{scored.name}/{path.name} ~ train/{copy.other.name}{' (mirrored)' if copy.mirrored else ''}"
        for path, copy in sorted(found.items(), key=lambda item: item[1].alike, reverse=True)
    )
    text = (
        f"{len(found):,} pictures of {scored.name} look like one of train that was mirrored, sized, made brighter or "
        f"compressed again: {some(examples)}"
    )
    remedy = f"look at them side by side, and remove those that are the same photograph from train: {KEPT}"
    return [Finding("error", text, remedy)] if found else []


def find_same(train: Sequence[Path], scored: Sequence[Path], content: dict[Path, Content]) -> set[Path]:
    """Return the scored pictures whose pixels are those of a training picture."""
    known = {content[path].digest for path in train if path in content}
    return {path for path in scored if path in content and content[path].digest in known}


def find_alike(train: Sequence[Path], scored: Sequence[Path], content: dict[Path, Content]) -> dict[Path, Copy]:
    """Return the scored pictures that look like a training picture without having its pixels, each with the closest."""
    train = [path for path in train if path in content]
    same = find_same(train, scored, content)
    scored = [path for path in scored if path in content and path not in same]
    found: dict[Path, Copy] = {}
    thumbnails = ([content[path].thumbnail for path in paths] for paths in (scored, train))
    for alike, i, j, mirrored in _pairs(*thumbnails):
        if (scored[i] not in found or alike > found[scored[i]].alike) and _are_copies(scored[i], train[j], mirrored):
            found[scored[i]] = Copy(alike, train[j], mirrored)
    return found


def _pairs(scored: Sequence[bytes], train: Sequence[bytes]) -> Iterator[tuple[float, int, int, bool]]:
    """Yield of all pairs of thumbnails that are alike the correlation, both positions and whether one is mirrored."""
    for first in range(0, len(train), BLOCK):
        against = _normalized(train[first : first + BLOCK]).reshape(-1, SIDE * SIDE).T
        for begin in range(0, len(scored), BLOCK):
            block = _normalized(scored[begin : begin + BLOCK])  # (N, SIDE, SIDE)
            for mirrored, thumbnails in ((False, block), (True, block[:, :, ::-1])):
                alike = thumbnails.reshape(len(block), -1) @ against
                for i, j in zip(*np.nonzero(alike > ALIKE), strict=True):
                    yield float(alike[i, j]), begin + int(i), first + int(j), mirrored


def _normalized(thumbnails: Sequence[bytes]) -> np.ndarray:
    """Return thumbnails (N, SIDE, SIDE) of mean 0 and length 1, so that products are correlations; 0 where flat."""
    pixels = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, SIDE, SIDE).astype(np.float32)
    pixels -= pixels.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt((pixels**2).sum(axis=(1, 2), keepdims=True))
    return np.where(length < FLAT * SIDE, 0, pixels / np.maximum(length, 1e-6)).astype(np.float32)


def _are_copies(path: Path, other: Path, mirrored: bool) -> bool:
    """Look closer at two pictures whose thumbnails are alike."""
    side, limit = CLOSER
    try:
        with Image.open(path) as first, Image.open(other) as second:
            one, two = (_grey(_as_seen(image), side).astype(np.float32) for image in (first, second))
    except Exception:  # read whole a moment ago: it changed meanwhile, and there is nothing to compare
        return False
    return bool(np.corrcoef(one[:, ::-1].ravel() if mirrored else one.ravel(), two.ravel())[0, 1] >= limit)


def _as_seen(image: Image.Image) -> Image.Image:
    """Return a picture opened from its file as RGB; deep and transparent ones as training sees them.

    Pillow's own conversion turns nearly all pixels of more than 8 bits white, and shows colours that are transparent.
    """
    if image.mode[0] in "IF" or image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return Image.fromarray(read_image(Path(image.filename)))
    return image.convert("RGB")


def _grey(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX))


def check_names(train: Split, scored: Split) -> list[Finding]:
    """Find pictures of train whose names hold the name of a picture that is scored, such as aug_test_0001.jpg."""
    stems = {path.stem.lower() for path in scored.files}
    stems = {stem for stem in stems if len(stem) >= 6 and re.search(r"\d", stem)}  # 1.jpg says nothing
    found = []
    for path in train.files:
        words = re.split(r"([^0-9a-z]+)", path.stem.lower())  # words at even indices, what separates them between
        n = len(words)
        parts = ("".join(words[i:j]) for i in range(0, n, 2) for j in range(i + 1, n + 1, 2) if j - i < n)
        found += [f"train/{path.name} and {scored.name}/{part}" for part in parts if part in stems][:1]
    text = f"{len(found):,} pictures of train have the name of one of {scored.name} in theirs: {some(found)}"
    remedy = f"look whether they were made from the faces of {scored.name}, and remove those"
    return [Finding("note", text, remedy)] if found else []
