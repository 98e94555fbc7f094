"""Measures the face detectors: how YuNet's boxes become training crops, what is found, and what it costs in accuracy.

Run:  python -m benchmarks.detectors --base-path-to-dataset data/FER_2013/Dataset     about 15 minutes on two CPU cores
      python -m benchmarks.detectors --faces 0                                        the drawn crowd alone, 1 minute
Faces of FER+, which are training crops, are pasted into drawn backgrounds of 480 x 400 pixels, 48 to 320 pixels large,
every second one with its border continued and faded out. A face is found where a box has its centre to 0.3 of its side,
and 0.4 to 1.6 times its side. The crop rule in diversified_fer/detectors.py is fitted on Train and measured on Valid.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tyro
from PIL import Image
from tqdm.auto import tqdm

from diversified_fer.classifier import OnnxClassifier
from diversified_fer.detectors import YuNetDetector, cut_face, find_faces, make_detector, square_up
from utils.synthetic.faces import Face, draw_photograph
from utils.udata import FERPlus

WIDTH, HEIGHT = 480, 400  # pixels of a scene
SIDES = (48, 320)  # pixels of a pasted face
CROWD = {400: 1, 250: 1, 160: 1, 100: 2, 64: 2, 48: 2, 32: 2, 24: 2}  # rows of heads in the crowd, by pixels
PATCH = 2.2  # of a head's size, what is drawn around it


@dataclass
class Benchmark:
    """What to measure."""

    base_path_to_dataset: Path = Path("data/FER_2013/Dataset")  # FER+
    faces: int = 2000  # of Valid; 0 for the drawn crowd alone
    faces_to_fit: int = 600  # of Train, for the crop rule; 0 to leave it out
    seed: int = 0


class Scene(NamedTuple):
    """A face in a larger picture, uint8 RGB (H, W, 3), and its box: x, y, width, height."""

    picture: np.ndarray
    box: tuple[int, int, int, int]


def blend(picture: np.ndarray, patch: np.ndarray, left: int, top: int, fade: int) -> None:
    """Paste a patch into a picture, faded out over `fade` pixels at its border; what lies outside is left out."""
    away = [np.minimum(np.arange(length) + 1, np.arange(length, 0, -1)) for length in patch.shape[:2]]
    opacity = np.clip(np.minimum.outer(*away) / (fade + 1), 0, 1)[..., None]
    rows = slice(max(0, top), min(picture.shape[0], top + patch.shape[0]))
    columns = slice(max(0, left), min(picture.shape[1], left + patch.shape[1]))
    inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    opacity, under = opacity[inside], picture[rows, columns]
    picture[rows, columns] = np.rint(opacity * patch[inside] + (1 - opacity) * under).astype(np.uint8)


def paste_face(face: np.ndarray, backgrounds: Sequence[np.ndarray], seed: int, number: int) -> Scene:
    """Return a scene with a training crop in it."""
    rng = np.random.default_rng([seed, number])
    side = round(float(np.exp(rng.uniform(*np.log(SIDES)))))
    left, top = int(rng.integers(WIDTH - side + 1)), int(rng.integers(HEIGHT - side + 1))
    picture = backgrounds[int(rng.integers(len(backgrounds)))].copy()
    face = cv2.resize(face, (side, side), interpolation=cv2.INTER_CUBIC)
    around = side // 2 if number % 2 else 0
    patch = cv2.copyMakeBorder(face, around, around, around, around, cv2.BORDER_REPLICATE)
    blend(picture, patch, left - around, top - around, fade=around)
    return Scene(picture, (left, top, side, side))


def scenes(root: Path, split: str, count: int, seed: int) -> Iterator[tuple[int, np.ndarray, Scene]]:
    """Yield faces of FER+ in an order given by the seed: the label, the face, and the scene it is in."""
    dataset = FERPlus(root, split)
    backgrounds = [draw_photograph([], None, WIDTH, HEIGHT, seed + k).picture for k in range(40)]
    chosen = np.random.default_rng(seed).permutation(len(dataset.paths))[:count].tolist()
    for number, index in enumerate(tqdm(chosen, desc=split, unit=" faces")):
        face = np.asarray(Image.open(dataset.paths[index]).convert("RGB"))
        yield int(dataset.labels[index]), face, paste_face(face, backgrounds, seed, number)


def place(boxes: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Return where boxes (n, 4) are seen from a box: offset of the centre, right and down, and side, as its shares."""
    x, y, width, height = box
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    across, down = boxes[:, 0] + boxes[:, 2] / 2 - x - width / 2, boxes[:, 1] + boxes[:, 3] / 2 - y - height / 2
    return np.column_stack((across / width, down / height, boxes[:, 2:].max(axis=1) / max(width, height)))


def are_on(boxes: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Tell which boxes (n, 4) are on the face in a box."""
    across, down, side = place(boxes, box).T
    return (np.hypot(across, down) < 0.3) & (side > 0.4) & (side < 1.6)


def quartiles(values: Sequence[float]) -> str:
    """Return the median and, in brackets, the lower and upper quartile."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def turn(picture: np.ndarray, box: Sequence[int], eyes: np.ndarray) -> np.ndarray:
    """Cut a square box out of a picture that is turned around its middle until the eyes (2, 2) are level."""
    x, y, side, _ = box
    (first, second) = eyes[np.argsort(eyes[:, 0])]
    degrees = float(np.degrees(np.arctan2(second[1] - first[1], second[0] - first[0])))
    matrix = cv2.getRotationMatrix2D((x + side / 2 - 0.5, y + side / 2 - 0.5), degrees, 1.0)
    matrix[:, 2] -= (x, y)
    return cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def fit(benchmark: Benchmark) -> list[str]:
    """Compare lengths of YuNet's answer as measures of the training crop's side: the one that varies least is taken."""
    yunet, measures, downs = YuNetDetector(), [], []
    for _, _, scene in scenes(benchmark.base_path_to_dataset, "train", benchmark.faces_to_fit, benchmark.seed):
        found = yunet.search(scene.picture)
        for row in found[are_on(found[:, :4], scene.box)][:1]:
            points, (width, height), side = row[4:14].reshape(5, 2), row[2:4], scene.box[2]
            eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
            between = np.linalg.norm(points[0] - points[1])
            lengths = (width, height, np.sqrt(width * height), between, np.linalg.norm(eyes - mouth))
            measures.append([side / max(1e-9, length) for length in lengths])
            middles = (row[1] + height / 2, points[:, 1].mean(), (eyes[1] + mouth[1]) / 2)
            downs.append([(scene.box[1] + side / 2 - middle) / side for middle in middles])
    lines = ["| a training crop's side, in | median (quartiles) |", "|---|---|"]
    names = ("widths of the box", "heights", "roots of its area", "distances of the eyes", "distances eyes to mouth")
    lines += [f"| {name} | {quartiles(values)} |" for name, values in zip(names, np.transpose(measures), strict=True)]
    names = ("the box", "the five points", "eyes and mouth")
    rows = zip(names, np.transpose(downs), strict=True)
    lines += [f"| its middle, in sides below that of {name} | {quartiles(values)} |" for name, values in rows]
    return [f"{len(measures):,} of {benchmark.faces_to_fit:,} faces of Train", "", *lines]


def measure_scenes(benchmark: Benchmark) -> list[str]:
    """Return the table of recall, false boxes, crops, and accuracy of the network that ships."""
    yunet = YuNetDetector()
    detectors = {"YuNet": yunet, "Haar": make_detector("haar")}
    labels, given = [], []
    found: dict[str, dict[int, np.ndarray]] = {name: {} for name in detectors}  # crops by face
    turned: dict[int, np.ndarray] = {}
    places: dict[str, list[np.ndarray]] = {name: [] for name in detectors}
    false, seconds = dict.fromkeys(detectors, 0), dict.fromkeys(detectors, 0.0)
    for label, face, scene in scenes(benchmark.base_path_to_dataset, "valid", benchmark.faces, benchmark.seed):
        number = len(labels)
        labels.append(label)
        given.append(face)
        for name, detector in detectors.items():
            began = time.perf_counter()
            rows = yunet.search(scene.picture) if name == "YuNet" else np.zeros((0, 15))
            answer = (
                np.column_stack((square_up(rows[:, :4]), rows[:, 14])) if name == "YuNet" else detector(scene.picture)
            )
            seconds[name] += time.perf_counter() - began
            boxes = find_faces(scene.picture, lambda _, answer=answer: answer).boxes
            hits = are_on(boxes, scene.box)
            false[name] += int((~hits).sum())
            for box in boxes[hits][:1]:
                places[name].append(place(box, scene.box)[0])
                found[name][number] = cut_face(scene.picture, box)
                if name == "YuNet":
                    best = rows[np.abs(square_up(rows[:, :4]) - box).sum(axis=1).argmin()]
                    turned[number] = turn(scene.picture, box, best[4:8].reshape(2, 2))
    network = OnnxClassifier()
    truth = np.array(labels)
    right = network.score(given).probabilities.argmax(axis=1) == truth

    def accuracy(crops: dict[int, np.ndarray]) -> str:
        chosen = network.score(list(crops.values())).probabilities.argmax(axis=1)
        return f"{100 * (chosen == truth[list(crops)]).mean():.1f}"

    lines = [
        f"Accuracy on all {len(truth):,} given crops: {100 * right.mean():.1f} %",
        "",
        "| | found (%) | false boxes | right by | down by | side | given crops (%) | re-detected | turned | ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, crops in found.items():
        cells = [name, f"{100 * len(crops) / len(truth):.1f}", f"{false[name]:,}"]
        cells += [quartiles(values) for values in np.transpose(places[name])]
        cells += [f"{100 * right[list(crops)].mean():.1f}", accuracy(crops)]
        cells += [accuracy(turned) if name == "YuNet" else "", f"{1000 * seconds[name] / len(truth):.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw_crowd(seed: int, width: int = 4000, height: int = 3000) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Draw a photograph, uint8 RGB (H, W, 3), with rows of people of every size in `CROWD`, and their heads' boxes."""
    rng = np.random.default_rng(seed)
    picture, boxes, top = draw_photograph([], None, width, height, seed).picture, [], 0
    for size, rows in CROWD.items():
        step, margin = int(PATCH * size), int((PATCH - 1) / 2 * size)
        for _ in range(rows):
            for left in range(0, width - step + 1, step):
                who = Face(int(rng.integers(8)), int(rng.integers(2500)), int(rng.integers(2**31)), 0.8)
                patch = draw_photograph([who], [(margin, margin, size, size)], step, step, int(rng.integers(2**31)))
                blend(picture, patch.picture, left, top, fade=size // 4)
                boxes.append((left + margin, top + margin, size, size))
            top += step
    return picture, boxes


def measure_crowd(seed: int) -> list[str]:
    """Return the table of recall by size, false boxes and time in a large photograph."""
    picture, heads = draw_crowd(seed)
    lines = [
        f"| | {' | '.join(f'{size} px' for size in CROWD)} | false boxes | s | CPU s |",
        "|---" * (len(CROWD) + 4) + "|",
    ]
    detectors = {"YuNet": make_detector("yunet"), "YuNet, as a video": make_detector("yunet", video=True)}
    for name, detector in (detectors | {"Haar": make_detector("haar")}).items():
        detector(picture)  # to warm up
        began, busy = time.perf_counter(), time.process_time()
        boxes = find_faces(picture, detector).boxes
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        on = np.array([are_on(boxes, head) for head in heads])  # (heads, boxes)
        shares = []
        for size in CROWD:
            of_size = [row.any() for row, head in zip(on, heads, strict=True) if head[2] == size]
            shares.append(f"{sum(of_size)} of {len(of_size)}")
        cells = [name, *shares, f"{int((~on.any(axis=0)).sum())}", f"{seconds:.1f}", f"{busy:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(benchmark: Benchmark) -> None:
    """Measure and print the tables."""
    print(f"OpenCV {cv2.__version__}, {cv2.getNumThreads()} threads, seed {benchmark.seed}")
    print("", *measure_crowd(benchmark.seed), "", sep="\n", flush=True)
    if benchmark.faces_to_fit and benchmark.faces:
        print("", *fit(benchmark), "", sep="\n", flush=True)
    if benchmark.faces:
        print("", *measure_scenes(benchmark), sep="\n")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
