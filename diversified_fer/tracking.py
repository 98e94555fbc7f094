"""Who is who in a video: boxes are followed from picture to picture, and a person's probabilities smoothed.

A person here is a face that moves on: what says that two boxes are the same person is where they are, how they move
and how large they are. Nobody is recognised. Who is out of sight for more than `PATIENCE` seconds comes back as
somebody else, and where the film cuts to another face at the same place, it is taken for the same person.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from diversified_fer.faces import LabelledFace
from diversified_fer.media.media import Frame

SMOOTHING = 0.5  # seconds; expressions that are meant to be seen last from half a second to four
PATIENCE = 2.0  # seconds out of sight after which a person is given up
BOX_NOISE = 0.08  # of a box's centre, in sides of the box
RESTLESSNESS = 1.0  # how much the velocity changes in a second, in sides of the box per second
FIRST_SPEED = 2.0  # standard deviation of the velocity of who was seen once, in sides of the box per second
SIZE_NOISE = 0.12  # of the logarithm of a box's side
SIZE_SHARE = 0.3  # of a new box's side in the side that is remembered
FARTHEST = 2.5  # sides between the place where somebody is expected and a box that may be theirs
UNLIKELY = 25.0  # cost above which a box is somebody new: 5 standard deviations of somebody who is always in sight


@dataclass
class _Track:
    """Where a person was, and how they move; the covariance of both is in sides of the box, the same for x and y."""

    number: int
    centre: np.ndarray
    side: float
    seconds: float
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    covariance: np.ndarray = field(default_factory=lambda: np.diag([BOX_NOISE**2, FIRST_SPEED**2]))
    unseen: float = 0.0

    def advance(self, seconds: float) -> None:
        """Move on with the same velocity, which is less and less sure: the prediction of a Kalman filter."""
        step = max(0.0, seconds - self.seconds)
        self.centre = self.centre + step * self.velocity
        motion = np.array([[1, step], [0, 1]])
        drift = np.array([[step**3 / 3, step**2 / 2], [step**2 / 2, step]])
        self.covariance = motion @ self.covariance @ motion.T + RESTLESSNESS**2 * drift
        self.seconds = seconds
        self.unseen += step

    def costs(self, centres: np.ndarray, sides: np.ndarray) -> np.ndarray:
        """Return how unlikely each box is theirs: twice the negative logarithm, infinite where it is too far."""
        spread = self.covariance[0, 0] + BOX_NOISE**2
        distance = np.hypot(*(centres - self.centre).T) / np.maximum(sides, self.side)
        likeness = np.log(sides / self.side) / SIZE_NOISE
        costs = distance**2 / spread + likeness**2 + math.log(spread / BOX_NOISE**2)
        return np.where(distance <= FARTHEST, costs, np.inf)

    def meet(self, centre: np.ndarray, side: float) -> None:
        """Take a box for theirs: the update of a Kalman filter."""
        gain = self.covariance[:, 0] / (self.covariance[0, 0] + BOX_NOISE**2)
        surprise = centre - self.centre
        self.centre, self.velocity = self.centre + gain[0] * surprise, self.velocity + gain[1] * surprise
        self.covariance = self.covariance - np.outer(gain, self.covariance[0])
        self.side *= (side / self.side) ** SIZE_SHARE
        self.unseen = 0.0


class Tracker:
    """Follows boxes through the pictures of one video: `tracker.follow(boxes, seconds)` for each in turn.

    Attributes:
        present: numbers of those who are in sight, or were less than `PATIENCE` seconds ago.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._people = 0

    @property
    def present(self) -> set[int]:
        """Return the numbers of those who may still be there."""
        return {track.number for track in self._tracks}

    def follow(self, boxes: Sequence[Sequence[float]], seconds: float) -> list[int]:
        """Return who each box (x, y, width, height) of a picture is: 1 for who is seen first, and so on."""
        for track in self._tracks:
            track.advance(seconds)
        self._tracks = [track for track in self._tracks if track.unseen <= PATIENCE]
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        centres, sides = corners[:, :2] + corners[:, 2:] / 2, np.sqrt(corners[:, 2] * corners[:, 3])
        numbers = [0] * len(corners)
        shape = len(self._tracks), len(corners)
        costs = np.array([track.costs(centres, sides) for track in self._tracks]).reshape(shape)
        for row, column in assign(costs, UNLIKELY):
            self._tracks[row].meet(centres[column], sides[column])
            numbers[column] = self._tracks[row].number
        for column, number in enumerate(numbers):
            if not number:
                self._people += 1
                numbers[column] = self._people
                self._tracks.append(_Track(self._people, centres[column], float(sides[column]), seconds))
        return numbers


def assign(costs: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """Return the pairs of rows and columns of least cost in sum, where each row and column may stay alone for `limit`.

    Shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987) over costs (rows, columns), which may be
    infinite; a pair that costs more than `limit` is never formed.
    """
    rows, columns = costs.shape
    alone = np.full((rows, rows), np.inf)
    np.fill_diagonal(alone, limit)
    costs = np.hstack([np.where(costs <= limit, costs, np.inf), alone])
    row_prices, column_prices = np.zeros(rows), np.zeros(rows + columns)
    row_of, column_of = np.full(rows + columns, -1), np.full(rows, -1)
    for start in range(rows):
        shortest = np.full(rows + columns, np.inf)  # path to each column
        before = np.full(rows + columns, start)  # row from which it comes
        done = np.zeros(rows + columns, dtype=bool)
        row, length, passed = start, 0.0, [(start, 0.0)]
        while True:
            paths = length + costs[row] - row_prices[row] - column_prices
            closer = ~done & (paths < shortest)
            shortest[closer], before[closer] = paths[closer], row
            column = int(np.where(done, np.inf, shortest).argmin())
            length = shortest[column]
            if row_of[column] < 0:
                break
            done[column] = True
            row = row_of[column]
            passed.append((row, length))
        for row, at in passed:
            row_prices[row] += length - at
        column_prices[done] += shortest[done] - length
        row = -1
        while row != start:  # each row on the path takes the next column
            row = before[column]
            row_of[column], column_of[row], column = row, column, column_of[row]
    return [(row, int(column)) for row, column in enumerate(column_of) if column < columns]


def follow_people(
    labelled: Iterable[tuple[Frame, list[LabelledFace]]], smooth: float = SMOOTHING
) -> Iterator[tuple[Frame, list[LabelledFace]]]:
    """Say who is who in the pictures of videos, and smooth their probabilities; photos pass as they are.

    Args:
        labelled: from `faces.label_faces`.
        smooth: seconds of the window. Smoothed probabilities are the mean of a person's so far, each with the weight
            exp(-age / smooth); they look back only, so that a webcam has them at once. 0 leaves them out.

    Raises:
        ValueError: for a window below 0 or above an hour.
    """
    if not 0 <= smooth <= 3600:
        raise ValueError(f"smooth is {smooth}; expected the seconds of a window, or 0 for none")
    return _follow(labelled, smooth)


def _follow(
    labelled: Iterable[tuple[Frame, list[LabelledFace]]], smooth: float
) -> Iterator[tuple[Frame, list[LabelledFace]]]:
    for _, group in groupby(labelled, key=lambda pair: pair[0].source):
        tracker = Tracker()
        means: dict[int, tuple[float, float, np.ndarray]] = {}  # seconds, sum of the weights, weighted sum
        for frame, faces in group:
            if frame.seconds is None or frame.picture is None:
                yield frame, faces
                continue
            people = tracker.follow([face.box for face in faces], frame.seconds)
            faces = [face._replace(person=person) for face, person in zip(faces, people, strict=True)]
            if smooth:
                means = {person: mean for person, mean in means.items() if person in tracker.present}
                for face in faces:
                    before, weight, total = means.get(face.person, (frame.seconds, 0.0, 0.0))
                    fading = math.exp(-max(0.0, frame.seconds - before) / smooth)
                    weight, total = fading * weight + 1, fading * total + face.probabilities.astype(np.float64)
                    means[face.person] = frame.seconds, weight, total
                faces = [face._replace(smoothed=_mean(*means[face.person])) for face in faces]
            yield frame, faces


def _mean(_: float, weight: float, total: np.ndarray) -> np.ndarray:
    return (total / weight).astype(np.float32)
