"""A picture of who showed which expression when: a band per person over the time of a video, in bounded memory."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diversified_fer.media.media import COLOURS

BINS = 1000  # of the time, and columns of pixels; when a video is longer than they reach, they become twice as long
FIRST_BIN = 2.0**-6  # seconds: 1000 of them are the first quarter of a minute
MOST_PEOPLE = 40  # drawn, those who are seen longest; the others are counted
LEFT, ROW, BAND, TOP, MARGIN = 170, 34, 24, 74, 20  # pixels
INK, FAINT, GROUND = (30, 30, 34), (225, 225, 230), (255, 255, 255)


class Timeline:
    """Gathers seconds of expressions: `timeline.add(person, target, start, seconds)`; then `timeline.draw(...)`.

    Attributes:
        bin: seconds that a column of pixels stands for.
    """

    def __init__(self, classes: int) -> None:
        self.bin = FIRST_BIN
        self._classes = classes
        self._people: dict[int, tuple[int, np.ndarray]] = {}  # first bin, seconds per bin and expression (n, K)

    def add(self, person: int, target: int, start: float, seconds: float) -> None:
        """Note that a person showed an expression from `start` on."""
        start = max(0.0, start)
        end = start + seconds
        while end > BINS * self.bin:
            self._double()
        for number in range(int(start / self.bin), min(BINS - 1, int(end / self.bin)) + 1):
            part = min(end, (number + 1) * self.bin) - max(start, number * self.bin)
            if part > 0:
                self._cell(person, number)[target] += part

    def _cell(self, person: int, number: int) -> np.ndarray:
        first, seconds = self._people.get(person, (number, np.zeros((0, self._classes), np.float32)))
        if number < first:  # times of a damaged video may go back
            first, seconds = number, np.pad(seconds, ((first - number, 0), (0, 0)))
        if number - first >= len(seconds):
            seconds = np.pad(seconds, ((0, number - first + 1 - len(seconds)), (0, 0)))
        self._people[person] = first, seconds
        return seconds[number - first]

    def _double(self) -> None:
        """Make every bin twice as long: each has what two had."""
        self.bin *= 2
        for person, (first, seconds) in self._people.items():
            seconds = np.pad(seconds, ((first % 2, (first + len(seconds)) % 2), (0, 0)))
            self._people[person] = first // 2, seconds.reshape(-1, 2, self._classes).sum(axis=1)

    def draw(self, title: str, labels: Sequence[str], end: float) -> np.ndarray:
        """Draw the picture, RGB (H, W, 3), uint8.

        A row per person, by number. Each column shows the seconds of the expressions in it, as shares of its time one
        above the other, in the order of the labels from below; who is out of sight leaves it white.

        Args:
            title: what stands above it.
            labels: of the expressions; their colours are those of the boxes in annotated videos.
            end: length of the video in seconds.
        """
        longest = sorted(self._people, key=lambda person: -float(self._people[person][1].sum()))
        people, others = sorted(longest[:MOST_PEOPLE]), longest[MOST_PEOPLE:]
        end = max(end, self.bin)
        columns = max(1, math.ceil(end / self.bin - 1e-6))
        width, height = LEFT + BINS + MARGIN, TOP + ROW * len(people) + 62
        image = Image.new("RGB", (width, height), GROUND)
        pen = ImageDraw.Draw(image)
        small, large = ImageFont.load_default(13), ImageFont.load_default(17)
        pen.text((MARGIN, 12), title, INK, large)
        self._draw_legend(pen, labels, small)
        bottom = TOP + ROW * len(people)
        for tick in ticks(end):
            x = LEFT + min(BINS - 1, round(tick / (columns * self.bin) * BINS))
            pen.line((x, TOP - 4, x, bottom + 6), FAINT)
            pen.text((x, bottom + 8), f"{tick:g}", INK, small, anchor="ma")
        pen.text((LEFT + BINS // 2, bottom + 26), "seconds", INK, small, anchor="ma")
        if others:
            seconds = sum(float(self._people[person][1].sum()) for person in others)
            pen.text((MARGIN, bottom + 42), f"and {len(others):,} others, in sight for {seconds:,.1f} s", INK, small)
        for row, person in enumerate(people):
            y = TOP + ROW * row + (ROW - BAND) // 2
            first, seconds = self._people[person]
            pen.text((LEFT - 10, y + BAND // 2), f"person {person}, {seconds.sum():,.1f} s", INK, small, anchor="rm")
            pen.line((LEFT, y + BAND, LEFT + BINS - 1, y + BAND), FAINT)
            heights = np.cumsum(seconds / self.bin, axis=1).clip(0, 1) * BAND
            for number, tops in enumerate(np.rint(heights).astype(int).tolist(), start=first):
                left = LEFT + round(number / columns * BINS)
                right = LEFT + min(BINS, round((number + 1) / columns * BINS)) - 1
                for target, (low, high) in enumerate(zip([0, *tops], tops)):  # noqa: B905 - one fewer
                    if high > low:
                        box = (left, y + BAND - high, right, y + BAND - 1 - low)
                        pen.rectangle(box, COLOURS[target % len(COLOURS)])
        return np.asarray(image)

    def _draw_legend(self, pen: ImageDraw.ImageDraw, labels: Sequence[str], font: ImageFont.FreeTypeFont) -> None:
        x = LEFT
        for target, label in enumerate(labels):
            pen.rectangle((x, 44, x + 13, 57), COLOURS[target % len(COLOURS)])
            pen.text((x + 19, 50), label, INK, font, anchor="lm")
            x += 34 + round(pen.textlength(label, font))


def ticks(end: float) -> list[float]:
    """Return four to eleven round times from 0 to `end`: steps of 1, 2 or 5 times a power of ten, 60 or more by 60."""
    steps = [factor * 10.0**power for power in range(-2, 2) for factor in (1, 2, 5)]
    steps += [60.0 * factor * 10**power for power in range(6) for factor in (1, 2, 5)]
    step = next(step for step in steps if end / step <= 10)
    return [round(number * step, 6) for number in range(int(end / step + 1e-9) + 1)]
