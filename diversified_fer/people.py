"""What a video says about each of its people: a row of people.csv, and a band of its timeline."""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diversified_fer.faces import LabelledFace, round_row
from diversified_fer.media.media import Frame, write_picture
from diversified_fer.scores import Classifier
from diversified_fer.timeline import Timeline
from diversified_fer.writing import replacing

LONGEST_STEP = 1.0  # seconds that a picture stands for at most, and that an episode may be out of sight
TIMES = ("first", "last", "seconds", "episode_start", "episode_seconds")  # columns in seconds


@dataclass
class _Person:
    """What is kept of a person: sums, and the longest stretch of one expression."""

    seconds: np.ndarray  # with each expression, (K,)
    probabilities: np.ndarray  # summed over the pictures, (K,)
    affect: np.ndarray  # the same, (2,) or (0,)
    first: float
    last: float
    rows: int = 0
    episode: tuple[int, float, float] = (-1, 0.0, 0.0)  # expression, start and end of the present one
    longest: tuple[int, float, float] = (-1, 0.0, 0.0)

    def show(self, target: int, start: float, seconds: float) -> None:
        """Add the time that a picture stands for."""
        self.seconds[target] += seconds
        current, begin, end = self.episode
        is_same = target == current and start - end <= LONGEST_STEP
        self.episode = (target, begin if is_same else start, start + seconds)
        if self.longest[0] < 0 or self.episode[2] - self.episode[1] > self.longest[2] - self.longest[1]:
            self.longest = self.episode


class PeopleSummary:
    """Sums up the people of one video, in memory that does not grow with its length.

    A picture stands for the time until the next one that was looked at, at most a second (or two steps, where those
    are longer); the last one for the mean step. The expression of a moment is the one that is most probable after
    smoothing.

    Args:
        labels: of the network.
        dimensions: "valence" and "arousal", or none.

    Attributes:
        pictures: that were looked at.
    """

    def __init__(self, labels: Sequence[str], dimensions: Sequence[str] = ()) -> None:
        self._labels, self._dimensions = labels, dimensions
        self._people: dict[int, _Person] = {}
        self._shown: list[tuple[int, int]] = []  # people and expressions of the last picture
        self._seconds = self._step = 0.0
        self.pictures = 0
        self.timeline = Timeline(len(labels))

    def __len__(self) -> int:
        return len(self._people)

    def add(self, frame: Frame, faces: Sequence[LabelledFace]) -> None:
        """Take the faces of the next picture, from `tracking.follow_people`."""
        self.pictures += 1
        self._close(frame.seconds - self._seconds)
        self._seconds, self._step = frame.seconds, 1 / frame.rate
        self._shown = []
        for face in faces:
            person = self._people.get(face.person)
            if person is None:
                zeros = np.zeros((2, len(self._labels)))
                person = _Person(*zeros, np.zeros(len(face.affect)), frame.seconds, frame.seconds)
                self._people[face.person] = person
            person.rows += 1
            person.probabilities += face.probabilities
            person.affect += face.affect
            said = face.probabilities if face.smoothed is None else face.smoothed
            self._shown.append((face.person, int(said.argmax())))

    def _close(self, step: float) -> None:
        """Give the last picture its time."""
        step = min(max(0.0, step), max(LONGEST_STEP, 2 * self._step))
        for number, target in self._shown:
            self._people[number].show(target, self._seconds, step)
            self._people[number].last = self._seconds + step
            self.timeline.add(number, target, self._seconds, step)

    def finish(self) -> list[dict[str, Any]]:
        """Return a row per person, after the last picture; its columns are those of `people_columns`."""
        self._close(self._step)
        self._shown = []
        return [self._row(number, person) for number, person in sorted(self._people.items())]

    def draw(self, title: str) -> np.ndarray:
        """Draw the timeline, RGB (H, W, 3), uint8; after `finish`."""
        return self.timeline.draw(title, self._labels, self._seconds + self._step)

    def _row(self, number: int, person: _Person) -> dict[str, Any]:
        target, start, end = person.longest
        seconds = float(person.seconds.sum())
        shares = person.seconds / seconds if seconds else person.seconds
        row = {"person": number, "rows": person.rows, "first": person.first, "last": person.last, "seconds": seconds}
        row |= {"episode": self._labels[target], "episode_start": start, "episode_seconds": end - start}
        row |= {f"share_{label}": float(share) for label, share in zip(self._labels, shares, strict=True)}
        means = person.probabilities / person.rows
        row |= {f"mean_probability_{label}": float(mean) for label, mean in zip(self._labels, means, strict=True)}
        affect = person.affect / person.rows
        return row | {f"mean_{name}": float(mean) for name, mean in zip(self._dimensions, affect, strict=True)}


def people_columns(labels: Sequence[str], dimensions: Sequence[str] = ()) -> list[str]:
    """Return the columns of people.csv: who, when, the longest episode, shares of the time, and means over the rows."""
    when = ["file", "person", "rows", "first", "last", "seconds", "episode", "episode_start", "episode_seconds"]
    shares = [f"share_{label}" for label in labels]
    return [
        *when,
        *shares,
        *(f"mean_probability_{label}" for label in labels),
        *(f"mean_{name}" for name in dimensions),
    ]


class PeopleTable:
    """Writes people.csv and the timelines: `with PeopleTable(folder, model) as table: with table.video(...) as video`.

    The table is there when there was a video, and appears when it is complete.

    Attributes:
        is_written: there was a video.
    """

    def __init__(self, folder: Path, model: Classifier) -> None:
        self._path, self._timelines = folder / "people.csv", folder / "timelines"
        self._model = model
        self.is_written = False
        self._open = contextlib.ExitStack()
        self._writer: csv.DictWriter | None = None

    def __enter__(self) -> "PeopleTable":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
        if not self.is_written and not any(error):
            self._path.unlink(missing_ok=True)  # an earlier run's, of which the new table of faces says nothing

    @contextlib.contextmanager
    def video(self, source: str | Path, place: Path) -> Iterator[PeopleSummary]:
        """Give what sums up the people of a video; a photo adds nothing to it.

        Args:
            source: the file, or the name of the webcam.
            place: where its results go, inside of their folder.
        """
        summary = PeopleSummary(self._model.labels, self._model.dimensions)
        yield summary
        if not summary.pictures:
            return
        if self._writer is None:
            self.is_written = True
            temporary = self._open.enter_context(replacing(self._path))
            file = self._open.enter_context(temporary.open("w", -1, "utf-8", "surrogateescape", newline=""))
            columns = people_columns(self._model.labels, self._model.dimensions)
            self._writer = csv.DictWriter(file, columns, lineterminator="\n")
            self._writer.writeheader()
        for row in summary.finish():
            self._writer.writerow(round_row(row, TIMES) | {"file": str(source)})
        if len(summary):
            write_picture(summary.draw(place.name), self._timelines / place.with_name(place.name + "_timeline.png"))
