"""Data sets of drawn faces in the on-disk formats of AffectNet (preprocessed and raw), FER+ and RAF-DB.

The people of training, validation and test are different ones; within a class identity, head pose, light, intensity and
background vary, and a few faces are partly hidden. A folder is written once: it appears complete or not at all, and a
second call with the same arguments leaves it alone. What a folder was written with stands in its `.drawn.json`.
"""

import csv
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from utils.udemo import OCCLUSIONS, Box, Face, draw_face, draw_photograph

# Valence and arousal of each emotion at full intensity (Russell's circumplex), in our label order.
CIRCUMPLEX = ((0, 0), (0.85, 0.3), (-0.75, -0.4), (0.25, 0.8), (-0.45, 0.85), (-0.75, 0.45), (-0.6, 0.75), (-0.6, 0.35))
# The eight emotions in FER+'s order of votes, as our labels, and RAF-DB's official labels 1..7 as ours.
FER_PLUS_ORDER = (0, 1, 3, 2, 6, 5, 4, 7)
RAFDB_ORDER = (3, 4, 5, 1, 2, 6, 0)
# What people confuse with each emotion (our labels): the wrong votes of the simulated voters.
NEIGHBOURS = ((2, 7, 6), (0, 3), (0, 4, 5), (4, 1), (3, 2), (6, 7, 2), (5, 0, 7), (0, 5, 6))
AFFECTNET_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
)
NONE, UNCERTAIN, NO_FACE = 8, 9, 10
OCCLUDED_SHARE = 0.04
# First identity of each split: 500 people each, so that no one is in two splits.
PEOPLE = {"train": 0, "valid": 500, "test": 1000, "unlabeled": 1500}


def _write_once(root: Path, arguments: dict, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary sibling folder and rename it to `root`, unless `root` already holds the same set."""
    root = Path(root)
    stamp = json.dumps(arguments, sort_keys=True)

    def finished() -> bool:
        mark = root / ".drawn.json"
        return mark.is_file() and mark.read_text("utf-8") == stamp

    if finished():
        return root
    occupied = FileExistsError(
        f"{root} exists and is not the set of drawn faces asked for ({stamp}); nothing was changed. "
        "Choose another folder, or remove this one."
    )
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise occupied
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{root.absolute()} cannot be made a folder for drawn faces ({error.strerror}); run from another "
            "folder, or remove what is in the way"
        ) from error
    partial = root.with_name(f".{root.name}.{uuid.uuid4().hex}.partial")
    try:
        write(partial)
        (partial / ".drawn.json").write_text(stamp, "utf-8")
        try:
            partial.rename(root)
        except OSError as error:
            # Another process may have finished first.
            if not finished():
                raise (occupied if root.exists() else error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _write_images(pictures: Iterable[tuple[Path, Callable[[], np.ndarray]]]) -> None:
    """Draw and write the pictures (uint8 RGB or grey), in threads; every folder is created."""

    def write(job: tuple[Path, Callable[[], np.ndarray]]) -> None:
        path, draw = job
        picture = draw()
        options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix == ".jpg" else []
        ok, encoded = cv2.imencode(path.suffix, picture if picture.ndim == 2 else picture[..., ::-1], options)
        if not ok:
            raise OSError(f"{path} could not be encoded")
        path.write_bytes(encoded.tobytes())

    jobs = list(pictures)
    for folder in {path.parent for path, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads:
        for _ in threads.map(write, jobs):
            pass


def _plan(emotions: Sequence[int], per_class: int, split: str, rng: np.random.Generator) -> list[Face]:
    """Return `per_class` random faces of every emotion, shuffled; identities are those of the split."""
    if per_class < 0:
        raise ValueError(f"the number of images per class must not be negative, not {per_class}")
    faces = [
        Face(
            emotion=emotion,
            identity=PEOPLE[split] + int(rng.integers(500)),
            seed=int(rng.integers(2**31)),
            intensity=round(float(rng.uniform(0.5, 1.0)), 3),
            occlusion=str(rng.choice(OCCLUSIONS)) if rng.random() < OCCLUDED_SHARE else None,
        )
        for emotion in emotions
        for _ in range(per_class)
    ]
    return [faces[index] for index in rng.permutation(len(faces))]


def _drawing(face: Face, size: int) -> Callable[[], np.ndarray]:
    return lambda: draw_face(
        face.emotion, face.identity, face.seed, size, intensity=face.intensity, occlusion=face.occlusion
    )


def _affect(face: Face, rng: np.random.Generator) -> tuple[float, float]:
    """Return valence and arousal in [-1, 1]: the emotion's place on the circumplex, scaled by intensity, with noise."""
    point = np.array(CIRCUMPLEX[face.emotion]) * face.intensity + rng.normal(0, 0.05, 2)
    valence, arousal = np.clip(point, -1, 1).round(3).tolist()
    return valence, arousal


def write_affectnet(
    root: Path,
    images_per_class: int = 40,
    validation_per_class: int = 10,
    seed: int = 0,
    image_size: int = 96,
) -> Path:
    """Write AffectNet as `pre_process_affect_net` leaves it and return `root`.

    `Training_Labeled/`, `Validation/` and a few `Training_Unlabeled/`, each with folders 0, 1, .. of 500 images named
    `[id]_[emotion]_[valence * 1000]_[arousal * 1000].jpg`. Raises FileExistsError when `root` holds anything else.
    """
    arguments = {
        "set": "affectnet",
        "images_per_class": images_per_class,
        "validation_per_class": validation_per_class,
        "seed": seed,
        "image_size": image_size,
    }

    def write(folder: Path) -> None:
        rng = np.random.default_rng([seed, 1])
        for name, split, per_class in (
            ("Training_Labeled", "train", images_per_class),
            ("Validation", "valid", validation_per_class),
            ("Training_Unlabeled", "unlabeled", min(2, images_per_class)),
        ):
            (folder / name / "0").mkdir(parents=True)
            jobs = []
            for index, face in enumerate(_plan(range(8), per_class, split, rng)):
                valence, arousal = (round(1000 * value) for value in _affect(face, rng))
                file_name = f"{index:07d}_{face.emotion}_{valence}_{arousal}.jpg"
                jobs.append((folder / name / str(index // 500) / file_name, _drawing(face, image_size)))
            _write_images(jobs)

    return _write_once(root, arguments, write)


class RawRow(NamedTuple):
    """A row of a raw annotation file and the photograph it is about."""

    path: str
    box: Box
    expression: int
    valence: float
    arousal: float
    draw: Callable[[], np.ndarray]


def _landmarks(box: Box) -> list[tuple[float, float]]:
    """Return 68 points (x, y) in pixels where an average, calm, frontal face in the box has them.

    In the usual order: jaw 17, brows 5 and 5, nose 9, eyes 6 and 6, lips 12 and 8.
    """

    def arc(x: float, y: float, width: float, height: float, angles: np.ndarray) -> list[tuple[float, float]]:
        return [(x + width * np.cos(a), y + height * np.sin(a)) for a in np.radians(angles)]

    points = arc(0.5, 0.49, 0.32, 0.42, np.linspace(190, -10, 17))
    brow, eye = np.linspace(190, 350, 5), np.array((180, 240, 300, 0, 60, 120))
    points += arc(0.37, 0.42, 0.1, 0.06, brow) + arc(0.63, 0.42, 0.1, 0.06, brow)
    points += [(0.5, y) for y in np.linspace(0.48, 0.61, 4)] + arc(0.5, 0.63, 0.06, 0.02, np.linspace(180, 0, 5))
    points += arc(0.37, 0.49, 0.07, 0.03, eye) + arc(0.63, 0.49, 0.07, 0.03, eye)
    points += arc(0.5, 0.74, 0.12, 0.04, np.arange(180, 540, 30)) + arc(0.5, 0.74, 0.09, 0.015, np.arange(180, 540, 45))
    return [(round(box[0] + u * box[2], 2), round(box[1] + v * box[3], 2)) for u, v in points]


def _plan_raw(faces: list[Face], rejected: Sequence[int], rng: np.random.Generator) -> list[RawRow]:
    """Return a photograph per face, and one per rejected label (8 None, 9 Uncertain, 10 No-Face), shuffled."""
    rows = []
    people = [(face, face.emotion) for face in faces]
    people += [(Face(0, int(rng.integers(2000, 2500)), int(rng.integers(2**31)), 0.3), label) for label in rejected]
    for index in rng.permutation(len(people)):
        face, label = people[index]
        width, height = (int(value) for value in rng.integers(300, 601, 2))
        side = int(min(width, height) * rng.uniform(0.35, 0.6))
        # Off the centre: near the left or right margin.
        x = int((width - side) * rng.choice([rng.uniform(0, 0.3), rng.uniform(0.7, 1)]))
        y = int((height - side) * rng.uniform(0, 0.8))
        box, photograph_seed = (x, y, side, side), int(rng.integers(2**31))
        valence, arousal = (-2.0, -2.0) if label in (UNCERTAIN, NO_FACE) else _affect(face, rng)
        name = hashlib.sha224(f"{photograph_seed} {index}".encode()).hexdigest()
        draw = _photograph(face, box, width, height, photograph_seed, empty=label == NO_FACE)
        rows.append(RawRow(f"{int(rng.integers(1, 1400))}/{name}.jpg", box, label, valence, arousal, draw))
    return rows


def _photograph(face: Face, box: Box, width: int, height: int, seed: int, empty: bool) -> Callable[[], np.ndarray]:
    people, boxes = ([], []) if empty else ([face], [box])
    return lambda: draw_photograph(people, boxes, width, height, seed).picture


def write_affectnet_raw(
    root: Path,
    images_per_class: int = 6,
    validation_per_class: int = 2,
    seed: int = 0,
    release: Literal["first", "current"] = "first",
) -> Path:
    """Write AffectNet as it is distributed and return `root`.

    "first": photographs with the face at an off-centre box in `Manually_Annotated_Images/<number>/` and
    `Automatically_Annotated_Images/<number>/`, and `training.csv`, `validation.csv`, `automatically_annotated.csv`; the
    first has a row of expression 8 (None), 9 (Uncertain) and 10 (No-Face) each. "current": crops, 224 x 224, in
    `{train,val}_set/images/N.jpg` and `annotations/N_{exp,val,aro,lnd}.npy`. Raises FileExistsError when `root` holds
    anything else.
    """
    if release not in ("first", "current"):
        raise ValueError(f'release must be "first" or "current", not {release!r}')
    arguments = {
        "set": "affectnet_raw",
        "images_per_class": images_per_class,
        "seed": seed,
        "validation_per_class": validation_per_class,
        "release": release,
    }

    def write_first(folder: Path) -> None:
        rng = np.random.default_rng([seed, 2])
        for file_name, images, split, per_class in (
            ("training.csv", "Manually_Annotated_Images", "train", images_per_class),
            ("validation.csv", "Manually_Annotated_Images", "valid", validation_per_class),
            ("automatically_annotated.csv", "Automatically_Annotated_Images", "unlabeled", min(2, images_per_class)),
        ):
            rejected = (NONE, UNCERTAIN, NO_FACE) if file_name == "training.csv" else ()
            rows = _plan_raw(_plan(range(8), per_class, split, rng), rejected, rng)
            (folder / images).mkdir(parents=True, exist_ok=True)
            _write_images((folder / images / row.path, row.draw) for row in rows)
            with (folder / file_name).open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file, lineterminator="\n")
                table.writerow(AFFECTNET_HEADER.split(","))
                for row in rows:
                    landmarks = ";".join(f"{x:.2f};{y:.2f}" for x, y in _landmarks(row.box))
                    table.writerow([row.path, *row.box, landmarks, row.expression, row.valence, row.arousal])

    def write_current(folder: Path) -> None:
        rng = np.random.default_rng([seed, 3])
        for name, split, per_class in (
            ("train_set", "train", images_per_class),
            ("val_set", "valid", validation_per_class),
        ):
            annotations = folder / name / "annotations"
            annotations.mkdir(parents=True)
            (folder / name / "images").mkdir()
            jobs = []
            for index, face in enumerate(_plan(range(8), per_class, split, rng)):
                valence, arousal = _affect(face, rng)
                jobs.append((folder / name / "images" / f"{index}.jpg", _drawing(face, 224)))
                np.save(annotations / f"{index}_exp.npy", np.array(str(face.emotion)))
                np.save(annotations / f"{index}_val.npy", np.array(str(valence)))
                np.save(annotations / f"{index}_aro.npy", np.array(str(arousal)))
                np.save(annotations / f"{index}_lnd.npy", np.array(_landmarks((0, 0, 224, 224))).reshape(-1))
            _write_images(jobs)

    return _write_once(root, arguments, write_first if release == "first" else write_current)


def _vote(emotion: int, clarity: float, rng: np.random.Generator) -> list[int]:
    """Return the ten counts of ten voters in FER+'s order; `clarity` is the probability of the right answer."""
    chances = np.zeros(10)
    chances[FER_PLUS_ORDER.index(emotion)] = clarity
    for share, neighbour in zip((0.65, 0.25, 0.1), NEIGHBOURS[emotion], strict=False):
        chances[FER_PLUS_ORDER.index(neighbour)] = share * (1 - clarity)
    chances[8] += 0.01
    return rng.multinomial(10, chances / chances.sum()).tolist()


def _no_vote(column: int, rng: np.random.Generator) -> list[int]:
    """Return ten votes with most of them for column 8 (unknown) or 9 (not a face)."""
    votes = [0] * 10
    votes[column] = int(rng.integers(7, 10))
    votes[0] += 10 - votes[column]
    return votes


def write_fer_plus(
    root: Path,
    images_per_class: int = 40,
    validation_per_class: int = 10,
    test_per_class: int = 10,
    seed: int = 0,
) -> Path:
    """Write FER+ and return `root`.

    `Images/FER2013{Train,Valid,Test}/fer0000000.png`, grey, 48 x 48, and `Labels/FER2013{Train,Valid,Test}/label.csv`:
    name, box and ten votes in FER+'s order, no header. About one face in sixteen is ambiguous, so that the majority
    rule may drop it, and each split has some rows that most voters call unknown or not a face. Raises FileExistsError
    when `root` holds anything else.
    """
    arguments = {
        "set": "fer_plus",
        "images_per_class": images_per_class,
        "validation_per_class": validation_per_class,
        "test_per_class": test_per_class,
        "seed": seed,
    }

    def write(folder: Path) -> None:
        rng = np.random.default_rng([seed, 4])
        number = 0
        for split, per_class in (
            ("train", images_per_class),
            ("valid", validation_per_class),
            ("test", test_per_class),
        ):
            name = f"FER2013{split.capitalize()}"
            rows: list[tuple[list[int], Callable[[], np.ndarray]]] = []
            for face in _plan(range(8), per_class, split, rng):
                ambiguous = rng.random() < 1 / 16
                face = face._replace(intensity=0.3) if ambiguous else face
                clarity = 0.45 if ambiguous else min(0.95, 0.72 + 0.22 * (1 if face.emotion == 0 else face.intensity))
                rows.append((_vote(face.emotion, clarity, rng), _grey(_drawing(face, 48))))
            for _ in range(1 + per_class // 20):
                hidden = Face(0, PEOPLE[split] + int(rng.integers(500)), int(rng.integers(2**31)), 0.0, "hand")
                empty = _photograph(hidden, (0, 0, 48, 48), 48, 48, int(rng.integers(2**31)), empty=True)
                rows += [(_no_vote(8, rng), _grey(_drawing(hidden, 48))), (_no_vote(9, rng), _grey(empty))]
            order = rng.permutation(len(rows))
            names = [f"fer{number + index:07d}.png" for index in range(len(rows))]
            number += len(rows)
            _write_images((folder / "Images" / name / file, rows[i][1]) for file, i in zip(names, order, strict=True))
            (folder / "Labels" / name).mkdir(parents=True)
            with (folder / "Labels" / name / "label.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file, lineterminator="\n")
                table.writerows([names[k], "(0, 0, 48, 48)", *rows[i][0]] for k, i in enumerate(order))

    return _write_once(root, arguments, write)


def _grey(draw: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    return lambda: cv2.cvtColor(draw(), cv2.COLOR_RGB2GRAY)


def write_rafdb(
    root: Path,
    images_per_class: int = 40,
    test_per_class: int = 10,
    seed: int = 0,
    layout: Literal["folders", "official", "official_folders"] = "folders",
) -> Path:
    """Write RAF-DB (seven classes, 100 x 100) in one of its three layouts and return `root`.

    "folders": `{train,test}/0..6` in our label order. "official": `EmoLabel/list_patition_label.txt` (the data set's
    spelling) and `Image/aligned/*_aligned.jpg`, labels 1..7 in RAF-DB's order. "official_folders": `{train,test}/1..7`
    in RAF-DB's order. Raises FileExistsError when `root` holds anything else.
    """
    if layout not in ("folders", "official", "official_folders"):
        raise ValueError(f'layout must be "folders", "official" or "official_folders", not {layout!r}')
    arguments = {
        "set": "rafdb",
        "images_per_class": images_per_class,
        "test_per_class": test_per_class,
        "seed": seed,
        "layout": layout,
    }

    def write(folder: Path) -> None:
        rng = np.random.default_rng([seed, 5])
        jobs, lines = [], []
        for split, per_class in (("train", images_per_class), ("test", test_per_class)):
            for index, face in enumerate(_plan(range(7), per_class, split, rng), start=1):
                label = face.emotion if layout == "folders" else RAFDB_ORDER.index(face.emotion) + 1
                parent = folder / "Image" / "aligned" if layout == "official" else folder / split / str(label)
                jobs.append((parent / f"{split}_{index:05d}_aligned.jpg", _drawing(face, 100)))
                lines.append(f"{split}_{index:05d}.jpg {label}\n")
        _write_images(jobs)
        if layout == "official":
            (folder / "EmoLabel").mkdir()
            (folder / "EmoLabel" / "list_patition_label.txt").write_text("".join(lines), "utf-8", newline="\n")

    return _write_once(root, arguments, write)
