"""People in videos: who is who, smoothing, the summary of each, the timeline; in memory that does not grow."""

import csv
import itertools
import math
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from diversified_fer.command import Labelling, label_media
from diversified_fer.faces import LabelledFace, columns_of, label_faces, rows_of
from diversified_fer.media.media import COLOURS, Frame, VideoFile, read_photo
from diversified_fer.people import LONGEST_STEP, PeopleSummary, people_columns
from diversified_fer.scores import Scores
from diversified_fer.timeline import BAND, BINS, LEFT, ROW, TOP, Timeline, ticks
from diversified_fer.tracking import PATIENCE, Tracker, assign, follow_people

LABELS = ("Neutral", "Happiness", "Sadness", "Surprise")
HUES = np.array([(90, 90, 90), (220, 40, 40), (40, 200, 60), (60, 60, 230)])  # of the faces drawn here, per expression
SIZE = (480, 270)


class ByColour:
    """A network that reads the expression off the colour of a face."""

    labels, image_size, num_branches, dimensions = LABELS, 32, 1, ("valence", "arousal")

    def score(self, faces, batch_size=32, flip=False):
        colours = np.array([face[face.shape[0] // 3 : -face.shape[0] // 3].mean(axis=(0, 1)) for face in faces])
        targets = np.abs(colours[:, None] - HUES).sum(axis=2).argmin(axis=1)
        probabilities = np.full((len(faces), 4), 0.04, np.float32)
        probabilities[np.arange(len(faces)), targets] = 0.88
        return Scores(probabilities, targets[:, None], np.stack([targets / 4, -targets / 4], axis=1))


def face(person: int | None, probabilities, smoothed=None, affect=()) -> LabelledFace:
    probabilities = np.asarray(probabilities, np.float32)
    target = int(probabilities.argmax())
    return LabelledFace((0, 0, 9, 9), None, LABELS[target], target, probabilities, (), affect, None, person, smoothed)


def frame(seconds: float, rate: float = 10.0) -> Frame:
    return Frame(np.zeros((4, 4, 3), np.uint8), "video", seconds, rate)


# Who is who


@pytest.mark.parametrize("seed", range(4))
def test_assignment_costs_as_little_as_scipy_s(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        rows, columns = rng.integers(0, 9, 2)
        costs = rng.uniform(-3 * (seed % 2), 10, (rows, columns))
        costs[rng.random((rows, columns)) < 0.3] = np.inf
        pairs = assign(costs, limit=5.0)
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
        assert all(costs[pair] <= 5 for pair in pairs)
        alone = np.where(np.eye(rows, dtype=bool), 5.0, 1e6)
        square = np.hstack([np.where(costs <= 5, costs, 1e6), alone])
        least = square[linear_sum_assignment(square)].sum()
        assert sum(costs[pair] for pair in pairs) + 5 * (rows - len(pairs)) == pytest.approx(least)


def walk(seed: int, seconds: float, rate: float = 10.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three people who walk to and fro at 50 to 150 pixels a second where they meet: times, x (T, 3), y (T, 3)."""
    rng = np.random.default_rng(seed)
    times = np.arange(0, seconds, 1 / rate)
    periods, phases, reach = rng.uniform(8, 14, 3), rng.uniform(0, 2 * math.pi, 3), rng.uniform(140, 180, 3)
    x = 240 + reach * np.sin(2 * math.pi * times[:, None] / periods + phases)
    y = 135 + np.array([-20, 0, 20]) + 4 * np.sin(times[:, None] * rng.uniform(0.5, 1.5, 3))
    return times, x, y


SIDES = np.array([56, 64, 72])


def seen(x: np.ndarray, y: np.ndarray, hidden: np.ndarray) -> list[int]:
    """Who is seen in a picture: not who is hidden, nor who is behind somebody larger."""
    visible: list[int] = []
    for person in np.argsort(-SIDES).tolist():
        behind = any(abs(x[person] - x[other]) < 30 and abs(y[person] - y[other]) < 30 for other in visible)
        if not hidden[person] and not behind:
            visible.append(person)
    return sorted(visible)


def count_swaps(numbers: list[list[int]]) -> int:
    """Count how often a person's number becomes one that was another's; a list of numbers per person, in time."""
    owner: dict[int, int] = {}
    swaps = 0
    for moment in itertools.zip_longest(*numbers):
        for person, number in enumerate(moment):
            if number:
                swaps += owner.get(number, person) != person
                owner[number] = person
    return swaps


def test_people_who_cross_keep_their_numbers():
    """Ten videos of two minutes, noisy boxes, a second out of sight now and then: 670 crossings."""
    swaps = numbers = crossings = absences = 0
    for seed in range(10):
        rng = np.random.default_rng(1000 + seed)
        times, x, y = walk(seed, 120)
        tracker, until, last = Tracker(), np.zeros(3), np.zeros(3)
        said: list[list[int]] = [[], [], []]
        for k, now in enumerate(times):
            until[rng.random(3) < 0.001] = now + 1
            visible = seen(x[k], y[k], until > now)
            absences += int((now - last[visible] > PATIENCE + 1e-6).sum())
            last[visible] = now
            boxes = [(x[k, p] - SIDES[p] / 2, y[k, p] - SIDES[p] / 2, SIDES[p], SIDES[p]) for p in visible]
            noisy = np.array(boxes).reshape(-1, 4) + rng.normal(0, 0.04, (len(boxes), 4)) * SIDES[visible, None]
            found = dict(zip(visible, tracker.follow(noisy, now), strict=True))
            for person in range(3):
                said[person].append(found.get(person, 0))
        swaps += count_swaps(said)
        numbers += len({number for person in said for number in person if number})
        crossings += sum((np.diff(np.sign(x[:, i] - x[:, j])) != 0).sum() for i, j in ((0, 1), (0, 2), (1, 2)))
    assert crossings > 600
    assert swaps <= 0.05 * crossings, (swaps, crossings)
    assert 0 <= numbers - 30 <= absences, "three each, and one for who was away for more than two seconds"


def test_a_second_out_of_sight_is_survived_and_three_are_not():
    for away, is_same in ((0.5, True), (1.0, True), (PATIENCE + 1, False)):
        tracker = Tracker()
        for k in range(20):
            before = tracker.follow([(10 + 4 * k, 50, 40, 40)], k / 10)
        seconds = 1.9 + away
        after = tracker.follow([(10 + 40 * seconds, 50, 40, 40)], seconds)
        assert (before == after) == is_same, away
    assert after == [2] and tracker.present == {2}


def test_somebody_far_away_or_of_another_size_is_somebody_else():
    tracker = Tracker()
    assert tracker.follow([(100, 100, 50, 50)], 0.0) == [1]
    assert tracker.follow([(102, 100, 50, 50), (400, 100, 50, 50)], 0.1) == [1, 2]
    assert tracker.follow([(100, 100, 200, 200)], 0.2) == [3]
    assert tracker.follow([], 0.3) == []
    assert tracker.follow([(398, 100, 50, 50), (101, 101, 50, 50)], 0.4) == [2, 1], "whatever their order"


def test_numbers_begin_again_in_every_video_and_photos_have_none(tmp_path):
    picture = np.zeros((60, 60, 3), np.uint8)
    frames = [
        Frame(picture, "a", 0.0, 10.0, number=0), Frame(picture, "a", 0.1, 10.0, number=1), Frame(picture, "photo"),
        Frame(picture, "b", 0.0, 10.0, number=0), Frame(None, "b", error="it is damaged"),
    ]  # fmt: skip
    labelled = list(follow_people(label_faces(ByColour(), frames, lambda _: [(1, 1, 30, 30)])))
    assert [[face.person for face in faces] for _, faces in labelled] == [[1], [1], [None], [1], []]
    rows = [row for frame, faces in labelled for row in rows_of(frame, faces, ByColour(), smoothed=True)]
    assert [row["frame"] for row in rows] == [0, 1, None, 0, None]
    assert [row["smoothed_Neutral"] is None for row in rows] == [False, False, True, False, True]
    assert all(list(row) == columns_of(ByColour(), smoothed=True) for row in rows)


# Smoothing


def test_smoothed_probabilities_are_the_formula_and_look_back_only():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.02, 0.3, 40))
    values = rng.dirichlet(np.ones(4), 40)
    frames = [(frame(time), [face(None, value)]) for time, value in zip(times, values, strict=True)]
    found = np.array([faces[0].smoothed for _, faces in follow_people(frames, smooth=0.7)])
    for k, time in enumerate(times):
        weights = np.exp(-(time - times[: k + 1]) / 0.7)
        np.testing.assert_allclose(found[k], weights @ values[: k + 1] / weights.sum(), atol=1e-6)
    begun = np.array([faces[0].smoothed for _, faces in follow_people(frames[:9], smooth=0.7)])
    np.testing.assert_array_equal(begun, found[:9])
    assert [faces[0].smoothed for _, faces in follow_people(frames, smooth=0)] == [None] * 40
    for window in (-1, math.nan, 4000):
        with pytest.raises(ValueError, match="expected the seconds of a window, or 0 for none"):
            follow_people(frames, window)


# Summaries


def test_a_summary_says_shares_means_and_the_longest_episode():
    """Seen: Happiness 0 to 2 s, hidden until 2.5, Happiness to 3, Sadness to 3.5, hidden until 6, Happiness to 8."""
    shown = [(0, 2, 1), (2.5, 3, 1), (3, 3.5, 2), (6, 8, 1)]
    summary = PeopleSummary(LABELS, ("valence", "arousal"))
    for k in range(80):
        time = k / 10
        found = [target for start, end, target in shown if start <= time + 1e-9 < end]
        values = np.full(4, 0.1)
        values[found] = 0.7
        summary.add(frame(time), [face(1, values, None, (found[0] / 2, 0.25))] if found else [])
    [row] = summary.finish()
    assert [*{"file": "v"}, *row] == people_columns(LABELS, ("valence", "arousal"))
    assert (row["person"], row["rows"], row["first"]) == (1, 50, 0.0)
    assert row["seconds"] == pytest.approx(5.0) and row["last"] == pytest.approx(8.0)
    shares = [row[f"share_{label}"] for label in LABELS]
    np.testing.assert_allclose(shares, [0, 0.9, 0.1, 0], atol=1e-9)
    means = [row[f"mean_probability_{label}"] for label in LABELS]
    np.testing.assert_allclose(means, [0.1, 0.64, 0.16, 0.1], atol=1e-6)
    assert row["mean_valence"] == pytest.approx(0.55) and row["mean_arousal"] == pytest.approx(0.25)
    assert row["episode"] == "Happiness" and row["episode_start"] == 0
    assert row["episode_seconds"] == pytest.approx(3.0), "half a second out of sight does not end it"


def test_a_picture_stands_for_the_time_until_the_next():
    summary = PeopleSummary(LABELS)
    times, targets = [0, 0.1, 0.5, 0.6, 1.5, 1.6, 60], [0, 1, 0, 1, 0, 1, 2]
    for time, target in zip(times, targets, strict=True):
        summary.add(frame(time), [face(1, np.eye(4)[target])])
    [row] = summary.finish()
    shown = [0.1 + 0.1 + 0.1, 0.4 + 0.9 + LONGEST_STEP, 0.1, 0]  # the jump to 60 s is not an expression
    assert row["seconds"] == pytest.approx(sum(shown)) and row["rows"] == 7
    np.testing.assert_allclose([row[f"share_{label}"] for label in LABELS], np.array(shown) / sum(shown), atol=1e-6)


def test_the_smoothed_expression_is_the_one_that_counts():
    summary = PeopleSummary(LABELS)
    summary.add(frame(0), [face(1, np.eye(4)[0], np.eye(4)[3])])
    [row] = summary.finish()
    assert row["episode"] == "Surprise" and row["share_Surprise"] == 1 and row["mean_probability_Neutral"] == 1


# Timelines


def test_a_timeline_shows_seconds_where_they_were():
    timeline = Timeline(4)
    timeline.add(7, 1, 0.0, 10.0)
    timeline.add(7, 2, 15.0, 5.0)
    timeline.add(2, 3, 5.0, 15.0)
    drawn = timeline.draw("clip.mp4", LABELS, 20.0)
    scale = BINS / (math.ceil(20 / timeline.bin) * timeline.bin)
    white = (255, 255, 255)
    for row, seconds, colour in ((1, 5, COLOURS[1]), (1, 12.7, white), (1, 17, COLOURS[2]), (0, 9, COLOURS[3])):
        y = TOP + ROW * row + ROW // 2
        assert tuple(drawn[y, LEFT + round(scale * seconds)]) == colour, (row, seconds)
    assert drawn.shape[1] > LEFT + BINS and drawn.dtype == np.uint8


def test_a_timeline_of_hours_keeps_every_second_in_a_thousand_bins():
    rng = np.random.default_rng(0)
    timeline, truth, now = Timeline(4), np.zeros((3, 4)), 0.0
    while now < 9000:
        step = float(rng.uniform(0.1, 20))
        person, target = int(rng.integers(3)), int(rng.integers(4))
        timeline.add(person, target, now, step)
        truth[person, target] += step
        now += step
    held = timeline._people
    for person in range(3):
        first, seconds = held[person]
        assert first >= 0 and first + len(seconds) <= BINS
        np.testing.assert_allclose(seconds.sum(axis=0), truth[person], rtol=1e-4)
        assert seconds.sum(axis=1).max() <= timeline.bin * (1 + 1e-4)
    half_seen = Timeline(4)
    for k in range(100):
        half_seen.add(1, k % 2, 200.0 * k, 100.0)
    drawn = half_seen.draw("", LABELS, 20_000.0)
    column = drawn[TOP + (ROW - BAND) // 2 : TOP + (ROW + BAND) // 2, LEFT + 300]
    assert half_seen.bin < 100 and len(np.unique(column, axis=0)) <= 2


def test_a_timeline_of_a_crowd_draws_those_seen_longest_and_counts_the_others():
    timeline = Timeline(4)
    for person in range(1, 61):
        timeline.add(person, 0, 0.0, 0.1 * person)
    assert timeline.draw("", LABELS, 6.0).shape[0] < TOP + 41 * ROW + 62
    assert Timeline(4).draw("nobody", LABELS, 0.0).shape[0] > TOP


@pytest.mark.parametrize("end", [0.016, 0.5, 3, 20, 59, 61, 600, 3600, 20_000, 1e6])
def test_axes_have_few_round_ticks(end):
    found = ticks(end)
    assert found[0] == 0 and 2 <= len(found) <= 11 and found[-1] <= end < found[-1] + found[1]
    assert end < 600 or all(tick % 60 == 0 for tick in found)


# Videos, from file to tables


def draw_people(seed: int, seconds: float) -> tuple[list[np.ndarray], list[dict[int, int]], np.ndarray, np.ndarray]:
    """Draw three people as coloured squares: pictures, who shows what in each, x and y of their centres."""
    times, x, y = walk(seed, seconds)
    pictures, shown = [], []
    for k, now in enumerate(times):
        picture = np.full((SIZE[1], SIZE[0], 3), 235, np.uint8)
        for person in np.argsort(SIDES).tolist():  # the largest is in front
            target = int(now / (4 + person)) % 4
            left, top = round(x[k, person] - SIDES[person] / 2), round(y[k, person] - SIDES[person] / 2)
            cv2.rectangle(picture, (left, top, *[int(SIDES[person])] * 2), HUES[target].tolist(), -1)
        visible = seen(x[k], y[k], np.zeros(3))
        pictures.append(picture)
        shown.append({person: int(now / (4 + person)) % 4 for person in visible})
    return pictures, shown, x, y


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_drawn_video_gives_the_rows_people_and_timeline_that_were_drawn(tmp_path, capsys, monkeypatch):
    pictures, shown, x, y = draw_people(3, 20)
    with VideoFile(tmp_path / "walk.mp4") as video:
        for k, picture in enumerate(pictures):
            video.write(picture, k / 10, 10.0)
    count = itertools.count()

    def detector(_picture):
        k = next(count)
        return np.array([(x[k, p] - SIDES[p] / 2, y[k, p] - SIDES[p] / 2, SIDES[p], SIDES[p]) for p in shown[k]])

    output = tmp_path / "o"
    label_media(Labelling((tmp_path / "walk.mp4",), detector=detector, output=output, annotate=True), ByColour)
    rows = read_table(output / "predictions.csv")
    assert len(rows) == sum(map(len, shown)) and set(rows[0]) == set(columns_of(ByColour(), smoothed=True))
    owner: dict[str, Counter] = {}
    for row in rows:
        k = int(row["frame"])
        assert float(row["seconds"]) == pytest.approx(k / 10, abs=1e-3)
        centre = float(row["x"]) + float(row["width"]) / 2
        person = min(shown[k], key=lambda person: abs(x[k, person] - centre))
        owner.setdefault(row["person"], Counter())[person] += 1
    assert all(len(people) == 1 for people in owner.values()), f"swapped: {owner}"
    people = read_table(output / "people.csv")
    assert list(people[0]) == people_columns(LABELS, ByColour.dimensions)
    assert [row["person"] for row in people] == sorted(owner, key=int)
    for row in people:
        own = [each for each in rows if each["person"] == row["person"]]
        assert int(row["rows"]) == len(own) and float(row["seconds"]) == pytest.approx(len(own) / 10, abs=0.01)
        for label in LABELS:  # the oracle: the table
            smoothed = np.array([[float(each[f"smoothed_{name}"]) for name in LABELS] for each in own])
            share = (smoothed.argmax(axis=1) == LABELS.index(label)).mean()
            assert float(row[f"share_{label}"]) == pytest.approx(share, abs=0.01)
            mean = np.mean([float(each[f"probability_{label}"]) for each in own])
            assert float(row[f"mean_probability_{label}"]) == pytest.approx(mean, abs=1e-5)
        assert float(row["mean_valence"]) == pytest.approx(np.mean([float(each["valence"]) for each in own]), abs=1e-5)
    drawn = read_photo(output / "timelines" / "walk.mp4_timeline.png")
    assert drawn.shape == (TOP + ROW * len(people) + 62, LEFT + BINS + 20, 3)
    said = capsys.readouterr().out
    assert "wrote " in said and "people.csv, timelines, annotated" in said
    nobody = Labelling((tmp_path,), detector=lambda _: np.zeros((0, 4)), output=tmp_path / "p")
    label_media(nobody, ByColour)  # earlier results among the inputs are left out
    assert {Path(row["file"]).name for row in read_table(tmp_path / "p" / "predictions.csv")} == {"walk.mp4"}
    assert read_table(tmp_path / "p" / "people.csv") == [] and not (tmp_path / "p" / "timelines").exists()


def test_photos_alone_have_neither_people_nor_smoothed_columns(tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), np.full((40, 40, 3), 90, np.uint8))
    label_media(Labelling((tmp_path / "face.png",), detector="none", output=tmp_path / "o"), ByColour)
    [row] = read_table(tmp_path / "o" / "predictions.csv")
    assert list(row) == columns_of(ByColour()) and row["person"] == row["frame"] == ""
    assert not (tmp_path / "o" / "people.csv").exists()


def test_memory_does_not_grow_with_the_length_of_a_video():
    """Sizes of what is held after 2 and after 20 minutes: the people, their episodes and at most 1000 bins each."""
    sizes = []
    for seconds in (120, 1200):
        summary, tracker = PeopleSummary(LABELS), Tracker()
        for k in range(10 * seconds):
            people = tracker.follow([(50 + 20 * math.sin(k / 30), 60, 40, 40), (300, 60, 40, 40)], k / 10)
            summary.add(frame(k / 10), [face(person, np.eye(4)[k // 50 % 4]) for person in people])
        rows = summary.finish()
        assert [row["person"] for row in rows] == [1, 2] and rows[0]["rows"] == 10 * seconds
        held = sum(seconds.nbytes for _, seconds in summary.timeline._people.values())
        sizes.append((len(summary._people), len(tracker._tracks), held))
    assert sizes[0][:2] == sizes[1][:2] == (2, 2) and max(size[2] for size in sizes) <= 2 * BINS * 4 * 4
