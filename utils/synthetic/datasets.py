"""Data sets of synthetic faces in the on-disk formats of AffectNet (preprocessed and raw), FER+ and RAF-DB.

The people of training, validation and test are different ones; within a class identity, head pose, light, intensity and
background vary, and a few faces are partly hidden. A folder is written once: it appears complete or not at all, a
second call with the same arguments leaves it alone, and a folder with anything else in it raises FileExistsError. Its
`.synthetic.json` says what it was written with.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diversified_fer.writing import replacing
from utils.preparing.annotations import COLUMNS
from utils.preparing.ferplus import FERPLUS_VOTES_TO_EMOTIONS
from utils.preparing.rafdb import RAFDB_TO_EMOTIONS
from utils.synthetic.faces import OCCLUSIONS, Face, FaceBox, draw_face, draw_photograph

# Valence and arousal of each emotion at full intensity (Russell's circumplex), in our label order.
CIRCUMPLEX = ((0, 0), (0.85, 0.3), (-0.75, -0.4), (0.25, 0.8), (-0.45, 0.85), (-0.75, 0.45), (-0.6, 0.75), (-0.6, 0.35))
# What people confuse with each emotion (our labels): the wrong votes of the simulated voters.
NEIGHBOURS = ((2, 7, 6), (0, 3), (0, 4, 5), (4, 1), (3, 2), (6, 7, 2), (5, 0, 7), (0, 5, 6))
UNCERTAIN, NO_FACE = 9, 10  # AffectNet's labels after 8, None
PEOPLE = {"train": 0, "valid": 500, "test": 1000, "unlabeled": 1500, "rejected": 2000}  # first of each split's 500


def _written_once(write: Callable[..., Path]) -> Callable[..., Path]:
    """Let a writer fill a temporary sibling of its `root`, renamed when complete; a root that has the set is left."""

    @wraps(write)
    def write_once(*arguments: Any, **options: Any) -> Path:
        call = signature(write).bind(*arguments, **options)
        call.apply_defaults()
        root = Path(call.arguments.pop("root"))
        stamp = json.dumps({"set": write.__name__.removeprefix("write_"), **call.arguments}, sort_keys=True)

        def finished() -> bool:
            mark = root / ".synthetic.json"
            return mark.is_file() and mark.read_text("utf-8") == stamp

        if finished():
            return root
        if root.is_file() or (root.is_dir() and any(root.iterdir())):
            raise FileExistsError(
                f"{root} exists and is not the set of synthetic faces asked for ({stamp}); nothing was changed. "
                "Choose another folder, or remove this one."
            )
        try:
            with replacing(root) as partial:
                partial.mkdir(parents=True)
                write(partial, **call.arguments)
                (partial / ".synthetic.json").write_text(stamp, "utf-8")
        except OSError:
            if not finished():  # by another process
                raise
        return root

    return write_once


def _save(path: Path, picture: np.ndarray, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).convert(mode).save(path, quality=95)


def _write_table(path: Path, rows: Iterable[Sequence]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _render(face: Face, size: int) -> np.ndarray:
    return draw_face(*face[:3], size, intensity=face.intensity, occlusion=face.occlusion)


def _sample_faces(emotions: int, per_class: int, split: str, rng: np.random.Generator) -> list[Face]:
    """Return `per_class` random faces of each of the first `emotions`, shuffled; identities are those of the split."""
    if per_class < 0:
        raise ValueError(f"the number of images per class must not be negative, not {per_class}")
    faces = [
        Face(
            emotion=emotion,
            identity=PEOPLE[split] + int(rng.integers(500)),
            seed=int(rng.integers(2**31)),
            intensity=round(float(rng.uniform(0.5, 1.0)), 3),
            occlusion=str(rng.choice(OCCLUSIONS)) if rng.random() < 0.04 else None,
        )
        for emotion in np.repeat(np.arange(emotions), per_class).tolist()
    ]
    return [faces[index] for index in rng.permutation(len(faces))]


def _affect(face: Face, rng: np.random.Generator) -> list[float]:
    """Return valence and arousal in [-1, 1]: the emotion's point on the circumplex, scaled by intensity, with noise."""
    point = np.array(CIRCUMPLEX[face.emotion]) * face.intensity + rng.normal(0, 0.05, 2)
    return np.clip(point, -1, 1).round(3).tolist()


@_written_once
def write_affectnet(
    root: Path, images_per_class: int = 40, validation_per_class: int = 10, seed: int = 0, image_size: int = 96
) -> Path:
    """Write AffectNet as `pre_process_affect_net` leaves it and return `root`.

    `Training_Labeled/`, `Validation/` and a few `Training_Unlabeled/`, each with folders 0, 1, .. of 500 images named
    `[id]_[emotion]_[valence * 1000]_[arousal * 1000].jpg`.
    """
    rng = np.random.default_rng([seed, 1])
    for name, split, per_class in (
        ("Training_Labeled", "train", images_per_class),
        ("Validation", "valid", validation_per_class),
        ("Training_Unlabeled", "unlabeled", min(2, images_per_class)),
    ):
        (root / name / "0").mkdir(parents=True)
        for index, face in enumerate(_sample_faces(8, per_class, split, rng)):
            valence, arousal = (round(1000 * value) for value in _affect(face, rng))
            file_name = f"{index:07d}_{face.emotion}_{valence}_{arousal}.jpg"
            _save(root / name / str(index // 500) / file_name, _render(face, image_size))
    return root


def _landmarks(box: FaceBox) -> np.ndarray:
    """Return x and y of 68 points in turn, on the outline of the face in the box (the project reads none of them)."""
    angles = np.linspace(0, 2 * np.pi, 68)
    points = np.stack([0.5 + 0.32 * np.cos(angles), 0.5 + 0.42 * np.sin(angles)], axis=1)
    return (points * box[2:] + box[:2]).round(2).ravel()


def _write_photographs(table: Path, images: Path, faces: list[tuple[Face, int]], rng: np.random.Generator) -> None:
    """Write a photograph per face and label, with the face off the centre, and the table of them."""
    images.mkdir(exist_ok=True)
    rows = [COLUMNS]
    for face, label in faces:
        width, height = rng.integers(300, 601, 2).tolist()
        side = int(min(width, height) * rng.uniform(0.35, 0.6))
        x = int((width - side) * rng.choice([rng.uniform(0, 0.3), rng.uniform(0.7, 1)]))
        box = (x, int((height - side) * rng.uniform(0, 0.8)), side, side)
        affect = (-2.0, -2.0) if label in (UNCERTAIN, NO_FACE) else _affect(face, rng)
        name = f"{rng.integers(1, 1400)}/{hashlib.sha224(repr(face).encode()).hexdigest()}.jpg"
        people = [] if label == NO_FACE else [face]
        _save(images / name, draw_photograph(people, [box] * len(people), width, height, face.seed).picture)
        rows.append([name, *box, ";".join(f"{value:.2f}" for value in _landmarks(box)), label, *affect])
    _write_table(table, rows)


def _write_crops(folder: Path, faces: list[Face], rng: np.random.Generator) -> None:
    """Write crops, 224 x 224, and four arrays per crop."""
    (folder / "annotations").mkdir(parents=True)
    for index, face in enumerate(faces):
        valence, arousal = map(str, _affect(face, rng))
        notes = {"exp": str(face.emotion), "val": valence, "aro": arousal, "lnd": _landmarks((0, 0, 224, 224))}
        for key, value in notes.items():
            np.save(folder / "annotations" / f"{index}_{key}.npy", value)
        _save(folder / "images" / f"{index}.jpg", _render(face, 224))


@_written_once
def write_affectnet_raw(
    root: Path, images_per_class: int = 6, validation_per_class: int = 2, seed: int = 0, release: str = "first"
) -> Path:
    """Write AffectNet as it is distributed and return `root`.

    "first": photographs with the face at an off-centre box in `Manually_Annotated_Images/<number>/` and
    `Automatically_Annotated_Images/<number>/`, and `training.csv`, `validation.csv`, `automatically_annotated.csv`; the
    first has a row of expression 8 (None), 9 (Uncertain) and 10 (No-Face) each. "current": crops, 224 x 224, in
    `{train,val}_set/images/N.jpg` and `annotations/N_{exp,val,aro,lnd}.npy`.
    """
    if release not in ("first", "current"):
        raise ValueError(f'release must be "first" or "current", not {release!r}')
    rng = np.random.default_rng([seed, 2])
    for split, per_class, folder, table in (
        ("train", images_per_class, "Manually_Annotated_Images", "training.csv"),
        ("valid", validation_per_class, "Manually_Annotated_Images", "validation.csv"),
        ("unlabeled", min(2, images_per_class), "Automatically_Annotated_Images", "automatically_annotated.csv"),
    ):
        faces = _sample_faces(8, per_class, split, rng)
        if release == "first":
            labelled = [(face, face.emotion) for face in faces]
            if split == "train":
                labelled += zip(_sample_faces(1, 3, "rejected", rng), (8, UNCERTAIN, NO_FACE), strict=True)
            _write_photographs(root / table, root / folder, labelled, rng)
        elif split != "unlabeled":
            _write_crops(root / ("train_set" if split == "train" else "val_set"), faces, rng)
    return root


def _vote(emotion: int, clarity: float, rng: np.random.Generator) -> list[int]:
    """Return the ten counts of ten voters in FER+'s order; `clarity` is the probability of the right answer."""
    chances = np.zeros(10)
    chances[FERPLUS_VOTES_TO_EMOTIONS.index(emotion)] = clarity
    for share, neighbour in zip((0.65, 0.25, 0.1), NEIGHBOURS[emotion], strict=False):
        chances[FERPLUS_VOTES_TO_EMOTIONS.index(neighbour)] = share * (1 - clarity)
    chances[8] = 0.01
    return rng.multinomial(10, chances / chances.sum()).tolist()


@_written_once
def write_fer_plus(
    root: Path, images_per_class: int = 40, validation_per_class: int = 10, test_per_class: int = 10, seed: int = 0
) -> Path:
    """Write FER+ and return `root`.

    `Images/FER2013{Train,Valid,Test}/fer0000000.png`, grey, 48 x 48, and `Labels/FER2013{Train,Valid,Test}/label.csv`:
    name, box and ten votes in FER+'s order, no header. About one face in sixteen is ambiguous, so that the majority
    rule may drop it, and each split has some rows that most voters call unknown or not a face.
    """
    rng = np.random.default_rng([seed, 4])
    number = 0
    for split, per_class in (("train", images_per_class), ("valid", validation_per_class), ("test", test_per_class)):
        rows = []
        for face in _sample_faces(8, per_class, split, rng):
            ambiguous = rng.random() < 1 / 16
            face = face._replace(intensity=0.3) if ambiguous else face
            clarity = 0.45 if ambiguous else min(0.95, 0.72 + 0.22 * (1 if face.emotion == 0 else face.intensity))
            rows.append((_vote(face.emotion, clarity, rng), _render(face, 48)))
        for face in _sample_faces(1, 1 + per_class // 20, split, rng):
            hidden = _render(face._replace(intensity=0.0, occlusion="hand"), 48)
            empty = draw_photograph([], [], 48, 48, face.seed).picture
            rows += [([2, 0, 0, 0, 0, 0, 0, 0, 8, 0], hidden), ([1, 0, 0, 0, 0, 0, 0, 0, 0, 9], empty)]
        folder, table = f"FER2013{split.capitalize()}", []
        for index in rng.permutation(len(rows)):
            votes, picture = rows[index]
            table.append([f"fer{number:07d}.png", "(0, 0, 48, 48)", *votes])
            _save(root / "Images" / folder / table[-1][0], picture, mode="L")
            number += 1
        _write_table(root / "Labels" / folder / "label.csv", table)
    return root


@_written_once
def write_rafdb(
    root: Path, images_per_class: int = 40, test_per_class: int = 10, seed: int = 0, layout: str = "folders"
) -> Path:
    """Write RAF-DB (seven classes, 100 x 100) in one of its three layouts and return `root`.

    "folders": `{train,test}/0..6` in our label order. "official": `EmoLabel/list_patition_label.txt` (the data set's
    spelling) and `Image/aligned/*_aligned.jpg`, labels 1..7 in RAF-DB's order. "official_folders": `{train,test}/1..7`
    in RAF-DB's order.
    """
    if layout not in ("folders", "official", "official_folders"):
        raise ValueError(f'layout must be "folders", "official" or "official_folders", not {layout!r}')
    official = {emotion: label for label, emotion in RAFDB_TO_EMOTIONS.items()}
    rng = np.random.default_rng([seed, 5])
    lines = []
    for split, per_class in (("train", images_per_class), ("test", test_per_class)):
        for index, face in enumerate(_sample_faces(7, per_class, split, rng), start=1):
            label = face.emotion if layout == "folders" else official[face.emotion]
            folder = root / "Image" / "aligned" if layout == "official" else root / split / str(label)
            _save(folder / f"{split}_{index:05d}_aligned.jpg", _render(face, 100))
            lines.append((f"{split}_{index:05d}.jpg {label}",))
    if layout == "official":
        _write_table(root / "EmoLabel" / "list_patition_label.txt", lines)
    return root
