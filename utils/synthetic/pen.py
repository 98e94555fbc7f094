"""How a face is painted: curves, and a pen that turns them with the head.

Coordinates: "face units" have their origin in the middle of the head, x to the right of the picture, y downwards; half
a face is 1 wide, the crown is at y = -1.3, the chin at y = 1.25. `Pen` turns them with the head and projects them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np

from utils.synthetic.identity import Scene

AXES = np.array(((0, 1, 0), (1, 0, 0), (0, 0, 1)), float)  # of yaw, pitch and roll
T = np.arange(6)[:, None] / 6
CATMULL_ROM = 0.5 * np.hstack([-T + 2 * T**2 - T**3, 2 - 5 * T**2 + 3 * T**3, T + 4 * T**2 - 3 * T**3, T**3 - T**2])
CIRCLE = cv2.ellipse2Poly((0, 0), (1000, 1000), 0, 0, 342, 18) / 1000


def ellipse(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Return the outline (20, 2) of an ellipse with these half axes."""
    return CIRCLE * (width, height) + (x, y)


def spline(points: Sequence, closed: bool = False) -> np.ndarray:
    """Return a smooth curve (samples, 2) through the points (n, 2), six samples per segment."""
    count = len(points)
    index = np.arange(count if closed else count - 1)[:, None] + np.arange(-1, 3)
    index = index % count if closed else np.minimum(np.maximum(index, 0), count - 1)
    points = np.asarray(points, float)
    curve = (CATMULL_ROM @ points[index]).reshape(-1, 2)  # (segments, 6, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def outline(right_half: Sequence) -> np.ndarray:
    """Return a smooth closed outline from its right half, which runs from the top (x = 0) to the bottom (x = 0)."""
    right = np.asarray(right_half, float)
    return spline(np.concatenate([right, right[-2:0:-1] * (-1, 1)]), closed=True)


class Pen:
    """Paints one person on a canvas, uint8 RGB, with a head `unit` pixels per face unit large.

    `mask` is where the person is; `relief` is a factor on the skin (128 = 1), painted roughly, then pressed in softly.
    """

    def __init__(self, canvas: np.ndarray, centre: np.ndarray, unit: float, scene: Scene):
        self.canvas, self.centre, self.unit, self.scene = canvas, centre, unit, scene
        self.mask = np.zeros(canvas.shape[:2], np.uint8)
        self.relief = np.full_like(canvas, 128)
        yaw, pitch, roll = (cv2.Rodrigues(axis * angle)[0] for axis, angle in zip(AXES, scene.angles, strict=True))
        self.tilt, self.turn = roll @ pitch, roll @ pitch @ yaw

    def at(self, points: np.ndarray, depth: float | None = None, lift: float = 0.0) -> np.ndarray:
        """Return pixels (n, 2) of face points (n, 2), on the head's ellipsoid plus `lift`.

        With a fixed `depth` they belong to the head's silhouette, which stays as wide when the head turns aside.
        """
        fall = 1 - ((points / (1.12, 1.5)) ** 2).sum(axis=1, keepdims=True)
        z = 0.8 * np.sqrt(np.maximum(0, fall)) + lift if depth is None else np.full_like(fall, depth)
        turned = np.concatenate([points, z], axis=1) @ (self.turn if depth is None else self.tilt).T
        return self.centre + self.unit * turned[:, :2] / (1.06 - 0.08 * turned[:, 2:])

    def body(self, points: np.ndarray) -> np.ndarray:
        """Return pixels (n, 2) of points of the neck and shoulders, which hardly follow the head."""
        aside = np.clip(1.8 - points[:, 1:], 0, 1) * (-np.sin(self.scene.angles[2]), 0)
        return self.centre + self.unit * (points + aside)

    def fill(self, pixels: np.ndarray, colour: Sequence | np.ndarray) -> None:
        """Fill a polygon."""
        corners = [np.round(pixels * 16).astype(np.int32)]
        cv2.fillPoly(self.canvas, corners, np.minimum(colour, 255).tolist(), cv2.LINE_AA, 4)
        cv2.fillPoly(self.mask, corners, 255, cv2.LINE_8, 4)

    def stroke(self, pixels: np.ndarray, width: float, colour: Sequence | np.ndarray) -> None:
        """Paint a line along `pixels` with round ends, `width` face units wide."""
        line, thickness = [np.round(pixels * 16).astype(np.int32)], max(1, round(width * self.unit))
        cv2.polylines(self.canvas, line, False, np.minimum(colour, 255).tolist(), thickness, cv2.LINE_AA, 4)
        cv2.polylines(self.mask, line, False, 255, thickness, cv2.LINE_8, 4)

    def shade(self, points: np.ndarray, amount: float, warmth: float = 0.0) -> None:
        """Darken (amount < 0) or lighten the relief inside an outline of face points; `warmth` tints it red."""
        factor = 1 + amount * np.array((0.85, 1, 1.05)) + warmth * np.array((0.5, -0.6, -0.45))
        cv2.fillPoly(self.relief, [np.round(self.at(points)).astype(np.int32)], (128 * factor).tolist())

    def crease(self, points: Sequence, amount: float) -> None:
        """Darken the relief by `amount` along a smooth line through face points, 0.04 face units wide."""
        if amount < 0.03:
            return
        line = [np.round(self.at(spline(points)) * 16).astype(np.int32)]
        shade = (128 * (1 - min(amount, 0.65) * np.array((0.85, 1, 1.05)))).tolist()
        cv2.polylines(self.relief, line, False, shade, max(1, round(0.04 * self.unit)), cv2.LINE_AA, 4)

    def press(self, softness: float) -> None:
        """Multiply the relief, blurred over `softness` face units, into the canvas, and clear it."""
        size = 2 * round(softness * self.unit) + 1
        cv2.multiply(self.canvas, cv2.stackBlur(self.relief, (size, size)), self.canvas, 1 / 128)
        self.relief[:] = 128

    @contextmanager
    def inside(self, pixels: np.ndarray) -> Iterator[None]:
        """Keep of what is painted meanwhile only what is inside the polygon."""
        before, outside = self.canvas.copy(), np.full_like(self.mask, 255)
        cv2.fillPoly(outside, [np.round(pixels * 16).astype(np.int32)], 0, cv2.LINE_8, 4)
        yield
        cv2.copyTo(before, outside, self.canvas)

    def light(self) -> None:
        """Light the person: the head as an ellipsoid, the rest like the rim of the head next to it."""
        height, width = self.mask.shape
        rows, columns = np.mgrid[0:height:4, 0:width:4] + 2
        u, v = (columns - self.centre[0]) / (1.22 * self.unit), (rows - self.centre[1]) / (1.6 * self.unit)
        radius = np.hypot(u, v)
        u, v = np.stack([u, v]) * np.minimum(1, 0.97 / (radius + 1e-6))
        facing = np.stack([u, v, np.sqrt(1 - u**2 - v**2)], axis=-1) @ self.scene.light
        level = 1 - self.scene.strength + 1.12 * self.scene.strength * np.clip(0.25 + 0.75 * facing, 0, 1)
        level -= 0.1 * np.clip((radius - 0.72) / 0.3, 0, 1) ** 2 * (radius < 1.05)  # the head's rim
        light = cv2.resize((128 * level).astype(np.uint8), (width, height))
        light[self.mask == 0] = 128
        cv2.multiply(self.canvas, cv2.merge([light] * 3), self.canvas, 1 / 128)
