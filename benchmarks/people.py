"""Measures how well people in a video are told apart, on drawn ones who cross, and that memory does not grow with time.

Run:  python -m benchmarks.people                 two minutes of three people, about 6 minutes on two CPU cores
      python -m benchmarks.people --seconds 20
Three people walk to and fro in 480 x 270 pixels at 10 pictures a second and change their expression every few seconds.
They are labelled by the network that ships, once with the true boxes, noisy, each person out of sight for a second now
and then, and once with the detector that is the default. Then the command labels the video, and one of ten times its
length. Writes benchmarks/results/<date>_people.md.
"""

import csv
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from tqdm.auto import tqdm

from diversified_fer.classifier import OnnxClassifier
from diversified_fer.console import is_watched
from diversified_fer.faces import LabelledFace, label_faces
from diversified_fer.media.h264 import make_video
from diversified_fer.media.media import Frame, stream_video
from diversified_fer.people import PeopleSummary
from diversified_fer.tracking import PATIENCE, assign, follow_people
from utils.synthetic.faces import EMOTION_NAMES, Face, draw_photograph

HERE = Path(__file__).parent
WIDTH, HEIGHT, RATE = 480, 270, 10
SIDES = np.array([70, 80, 90])  # pixels, of the faces from crown to chin; the largest is nearest
NOISE = 0.04  # of a given box, in its sides
HIDDEN = 0.001  # chance in each picture to be out of sight for a second
PEAK = """
import json, resource, sys
from pathlib import Path
from diversified_fer.classifier import OnnxClassifier
from diversified_fer.command import Labelling, label_media
label_media(Labelling((Path(sys.argv[1]),), annotate=True, output=Path(sys.argv[2])), OnnxClassifier)
who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
print(json.dumps([resource.getrusage(each).ru_maxrss / 1024 for each in who]))
"""


@dataclass
class Benchmark:
    """What to draw."""

    seconds: float = 120.0  # length of the video; the second one is ten times as long
    seed: int = 0  # of the paths
    output: Path = HERE / "results"  # folder of the table


class Truth(NamedTuple):
    """What is drawn: x and y of the centres (T, 3), who is in sight (T, 3), and the expressions (T, 3)."""

    x: np.ndarray
    y: np.ndarray
    in_sight: np.ndarray
    expressions: np.ndarray

    def boxes(self, number: int) -> np.ndarray:
        """Return the boxes of a picture, (3, 4)."""
        corner = np.stack([self.x[number], self.y[number]], axis=1) - SIDES[:, None] / 2
        return np.hstack([corner, SIDES[:, None], SIDES[:, None]])

    def crossings(self) -> int:
        """Count how often one person passes another."""
        return sum(int((np.diff(np.sign(self.x[:, i] - self.x[:, j])) != 0).sum()) for i, j in ((0, 1), (0, 2), (1, 2)))

    def absences(self) -> int:
        """Count how often somebody is away for so long that they come back as somebody else."""
        found = 0
        for person in range(3):
            gaps = np.diff(np.flatnonzero(self.in_sight[:, person])) / RATE
            found += int((gaps > PATIENCE + 1e-6).sum())
        return found


def choose_paths(seconds: float, seed: int) -> Truth:
    """Let three people walk to and fro, each at a pace of their own; who is behind somebody is out of sight."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    periods, phases, reach = rng.uniform(8, 14, 3), rng.uniform(0, 2 * math.pi, 3), rng.uniform(140, 180, 3)
    x = WIDTH / 2 + reach * np.sin(2 * math.pi * times[:, None] / periods + phases)
    y = HEIGHT / 2 + np.array([-24, 0, 24]) + 4 * np.sin(times[:, None] * rng.uniform(0.5, 1.5, 3))
    in_sight = np.ones((len(times), 3), dtype=bool)
    for person, nearer in ((0, 1), (0, 2), (1, 2)):
        in_sight[:, person] &= np.abs(x[:, person] - x[:, nearer]) >= SIDES[nearer] / 2
    expressions = np.stack([(times / (4 + person)).astype(int) * 3 % 8 for person in range(3)], axis=1)
    return Truth(x, y, in_sight, expressions)


def draw(truth: Truth) -> Iterator[np.ndarray]:
    """Draw the pictures."""
    for number in tqdm(range(len(truth.x)), desc="drawn", disable=not is_watched()):
        faces = [Face(int(truth.expressions[number, p]), (51, 54, 16)[p], 1, 0.9) for p in range(3)]
        boxes = [tuple(map(round, box)) for box in truth.boxes(number).tolist()]
        yield draw_photograph(faces, boxes, WIDTH, HEIGHT, 0, frontal=True).picture


def noisy_boxes(truth: Truth, seed: int) -> list[np.ndarray]:
    """Return boxes (n, 4) of those in sight in each picture; now and then somebody is out of sight for a second."""
    rng = np.random.default_rng(seed + 1)
    until = np.zeros(3)
    found = []
    for number in range(len(truth.x)):
        until[rng.random(3) < HIDDEN] = number + RATE
        truth.in_sight[number] &= until <= number
        boxes = truth.boxes(number) + rng.normal(0, NOISE, (3, 4)) * SIDES[:, None]
        found.append(boxes[truth.in_sight[number]])
    return found


def match(faces: list[LabelledFace], truth: Truth, number: int) -> list[int]:
    """Return which drawn person each face is, -1 for none: those who are nearest in sum, rather those in sight."""
    boxes = np.array([face.box for face in faces], dtype=float).reshape(-1, 4)
    across = boxes[:, :1] + boxes[:, 2:3] / 2 - truth.x[number]
    down = boxes[:, 1:2] + boxes[:, 3:] / 2 - truth.y[number]
    costs = np.hypot(across, down) / SIDES + 0.25 * ~truth.in_sight[number]  # (faces, 3)
    people = dict(assign(costs, limit=0.75))
    return [people.get(row, -1) for row in range(len(faces))]


def follow(labelled: Iterator[tuple[Frame, list[LabelledFace]]], truth: Truth, labels: tuple[str, ...]) -> dict:
    """Follow the people through the video, and compare with what was drawn."""
    summary = PeopleSummary(labels)
    owner: dict[int, int] = {}
    swaps = rows = strangers = right = 0
    shown: dict[tuple[int, int], int] = {}  # rows per number and expression: the oracle of the summary
    for frame, faces in follow_people(labelled):
        summary.add(frame, faces)
        for face, person in zip(faces, match(faces, truth, frame.number), strict=True):
            rows += 1
            target = int(face.smoothed.argmax())
            shown[face.person, target] = shown.get((face.person, target), 0) + 1
            if person < 0:
                strangers += 1
                continue
            swaps += owner.get(face.person, person) != person
            owner[face.person] = person
            right += labels[target].lower() == EMOTION_NAMES[truth.expressions[frame.number, person]].lower()
    people = summary.finish()
    errors = [
        abs(row[f"share_{label}"] - shown.get((row["person"], target), 0) / row["rows"])
        for row in people
        for target, label in enumerate(labels)
    ]
    seconds = sum(row["seconds"] for row in people)
    return {
        "crossings": truth.crossings(),
        "rows, and faces in sight": f"{rows:,}, {int(truth.in_sight.sum()):,}",
        "rows that are nobody drawn": strangers,
        "people in people.csv": len(people),
        "people drawn, and absences of more than 2 s": f"3, {truth.absences()}",
        "swaps (a number goes to somebody else)": swaps,
        "seconds seen in people.csv, and rows / 10": f"{seconds:.1f}, {rows / RATE:.1f}",
        "greatest error of a share in people.csv": f"{max(errors):.4f}",
        "smoothed label is the expression drawn": f"{right / max(1, rows):.1%}",
    }


def measure_peak(video: Path, output: Path) -> tuple[float, float, int]:
    """Return the most memory of the command and of its decoder, in MiB, and the rows it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, video, output], capture_output=True, encoding="utf-8", cwd=HERE.parent
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2000:])
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = sum(1 for _ in csv.DictReader(file))
    own, child = json.loads(done.stdout.splitlines()[-1])
    return own, child, rows


def main(wanted: Benchmark) -> None:
    """Draw, label and compare."""
    network = OnnxClassifier()
    tables: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "once.mp4", Path(folder) / "ten_times.mp4"
        truth = choose_paths(wanted.seconds, wanted.seed)
        with make_video(short) as once:
            for number, picture in enumerate(draw(truth)):
                once.write(picture, number / RATE, RATE)
        given = choose_paths(wanted.seconds, wanted.seed)
        boxes, number = noisy_boxes(given, wanted.seed), count()
        labelled = label_faces(network, stream_video(short), lambda _: boxes[next(number)])
        tables["true boxes, noisy"] = follow(labelled, given, network.labels)
        tables["default detector"] = follow(label_faces(network, stream_video(short)), truth, network.labels)
        with make_video(long) as ten:
            for turn in range(10):
                for frame in stream_video(short):
                    ten.write(frame.picture, turn * wanted.seconds + frame.seconds, RATE)
        peaks = {path.stem: measure_peak(path, Path(folder) / path.stem) for path in (short, long)}
    lines = [
        f"# People in a drawn video of {wanted.seconds:g} s",
        "",
        f"| | {' | '.join(tables)} |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {' | '.join(str(table[name]) for table in tables.values())} |"
        for name in next(iter(tables.values()))
    ]
    lines += ["", "| video | most memory, MiB | of its decoder, MiB | rows |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {own:,.0f} | {child:,.0f} | {rows:,} |" for name, (own, child, rows) in peaks.items()]
    text = "\n".join(lines) + "\n"
    print(text)
    wanted.output.mkdir(parents=True, exist_ok=True)
    (wanted.output / f"{date.today()}_people.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
