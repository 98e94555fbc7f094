"""How it is drawn: curves, strokes, and a pen that turns them with the head.

Coordinates: "face units" have their origin in the middle of the head, x to the right of the picture, y downwards; half
a face is 1 wide, the crown lies at y = -1.3, the chin at y = 1.25. `Pen` turns them with the head and projects them.
"""

from collections.abc import Sequence
from copy import copy
from functools import lru_cache

import cv2
import numpy as np

from utils.demo.identity import Scene


@lru_cache(maxsize=64)
def _spline_matrix(count: int, closed: bool) -> np.ndarray:
    """Return the matrix (samples, count) of a Catmull-Rom spline through `count` points, six samples per segment."""
    segments = count if closed else count - 1
    rows = np.zeros((segments * 6 + (not closed), count))
    for row, weights in enumerate(rows):
        segment = min(row // 6, segments - 1)
        t = row / 6 - segment
        basis = 0.5 * np.array((-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2))
        for point, weight in enumerate(basis, start=segment - 1):
            weights[point % count if closed else min(max(point, 0), count - 1)] += weight
    return rows


def spline(points: Sequence | np.ndarray, closed: bool = False) -> np.ndarray:
    """Return a smooth curve (samples, 2) through the points (n, 2)."""
    points = np.asarray(points, float)
    return _spline_matrix(len(points), closed) @ points


CIRCLE = np.stack([np.cos(np.arange(20) * np.pi / 10), np.sin(np.arange(20) * np.pi / 10)], axis=1)


def ellipse(x: float, y: float, width: float, height: float, angle: float = 0.0) -> np.ndarray:
    """Return the outline (20, 2) of an ellipse with these half axes, turned clockwise by `angle` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return CIRCLE @ np.array(((width * cos, width * sin), (-height * sin, height * cos))) + (x, y)


@lru_cache(maxsize=256)
def _stroke_profile(count: int, ends: tuple[float, float]) -> np.ndarray:
    t = np.linspace(0, 1, count)[:, None]
    least = ends[0] * (1 - t) + ends[1] * t
    return 0.5 * (least + (1 - least) * np.sin(np.pi * t) ** 0.7)


def ribbon(line: np.ndarray, width: float, ends: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Return the outline of a stroke along `line` that is `width` wide, and `ends` times that at its two ends."""
    tangent = np.empty_like(line)
    tangent[1:-1] = line[2:] - line[:-2]
    tangent[0], tangent[-1] = line[1] - line[0], line[-1] - line[-2]
    length = np.hypot(tangent[:, 0], tangent[:, 1]) + 1e-9
    aside = tangent[:, ::-1] * (_stroke_profile(len(line), ends) * width / length[:, None])
    aside[:, 0] *= -1
    return np.concatenate([line + aside, (line - aside)[::-1]])


def mirrored(right_half: Sequence) -> np.ndarray:
    """Return a closed outline from its right half, which runs from the top (x = 0) to the bottom (x = 0)."""
    right = np.asarray(right_half, float)
    return np.concatenate([right, right[-2:0:-1] * (-1, 1)])


class Pen:
    """Paints one person on a canvas, uint8 RGB, with a head `unit` pixels per face unit large.

    `relief` and `folds` are factors on the skin (128 = 1): painted roughly, blurred, then multiplied in. `mask` is
    where the person is.
    """

    def __init__(self, canvas: np.ndarray, centre: np.ndarray, unit: float, scene: Scene):
        self.canvas, self.centre, self.unit, self.scene = canvas, centre, unit, scene
        height, width = canvas.shape[:2]
        self.mask = np.zeros((height, width), np.uint8)
        self.relief = np.full((height // 3 + 1, width // 3 + 1, 3), 128, np.uint8)
        self.folds = np.full_like(canvas, 128)
        (yaw_c, pitch_c, roll_c), (yaw_s, pitch_s, roll_s) = np.cos(scene[:3]), np.sin(scene[:3])
        turn_yaw = np.array(((yaw_c, 0, yaw_s), (0, 1, 0), (-yaw_s, 0, yaw_c)))
        turn_pitch = np.array(((1, 0, 0), (0, pitch_c, -pitch_s), (0, pitch_s, pitch_c)))
        turn_roll = np.array(((roll_c, -roll_s, 0), (roll_s, roll_c, 0), (0, 0, 1)))
        self.tilt = turn_roll @ turn_pitch
        self.turn = self.tilt @ turn_yaw

    def onto(self, layer: np.ndarray) -> "Pen":
        """Return the same pen on another canvas."""
        other = copy(self)
        other.canvas = layer
        return other

    def at(self, points: np.ndarray, depth: float | None = None, lift: float = 0.0) -> np.ndarray:
        """Return pixels (n, 2) of face points (n, 2), on the head's ellipsoid plus `lift`.

        With a fixed `depth` they belong to the head's silhouette, which stays as wide when the head turns aside.
        """
        solid = np.empty((len(points), 3))
        solid[:, :2] = points
        if depth is None:
            fall = (points * (1 / 1.12, 1 / 1.5)) ** 2
            solid[:, 2] = 0.8 * np.sqrt(np.maximum(0.0, 1 - fall[:, 0] - fall[:, 1])) + lift
        else:
            solid[:, 2] = depth
        turned = solid @ (self.turn if depth is None else self.tilt).T
        return self.centre + self.unit * turned[:, :2] / (1.06 - 0.08 * turned[:, 2:])

    def body(self, points: np.ndarray) -> np.ndarray:
        """Return pixels (n, 2) of points of the neck and shoulders, which hardly follow the head."""
        follow = np.clip(1.8 - points[:, 1:], 0, 1) * (-np.sin(self.scene.roll), 0)
        return self.centre + self.unit * (points + follow)

    def fill(self, pixels: np.ndarray, colour: Sequence | np.ndarray, solid: bool = False) -> None:
        """Fill a polygon; `solid` marks it as part of the person, which the light falls on."""
        corners = np.round(pixels * 16).astype(np.int32)
        cv2.fillPoly(self.canvas, [corners], [min(float(c), 255.0) for c in colour], cv2.LINE_AA, 4)
        if solid:
            cv2.fillPoly(self.mask, [corners], 255, cv2.LINE_8, 4)

    def stroke(self, pixels: np.ndarray, width: float, colour: Sequence | np.ndarray, ends: tuple = (0, 0)) -> None:
        """Fill a stroke along `pixels`, `width` face units wide."""
        self.fill(ribbon(pixels, width * self.unit, ends), colour)

    def tone(self, pixels: np.ndarray, amount: float, warmth: float = 0.0) -> None:
        """Darken (amount < 0) or lighten the skin softly inside a polygon; `warmth` tints it red."""
        self._shade(
            self.relief, 16 / 3, pixels, amount * np.array((0.85, 1, 1.05)) + warmth * np.array((0.5, -0.6, -0.45))
        )

    def crease(self, points: np.ndarray, width: float, amount: float, ends: tuple = (0, 0)) -> None:
        """Darken the skin by `amount` along face points, `width` face units wide."""
        if amount > 0.03:
            shade = -min(amount, 0.65) * np.array((0.85, 1, 1.05))
            self._shade(self.folds, 16, ribbon(self.at(points), width * self.unit, ends), shade)

    def _shade(self, layer: np.ndarray, scale: float, pixels: np.ndarray, change: np.ndarray) -> None:
        factor = np.clip(128 * (1 + change), 0, 255).tolist()
        cv2.fillPoly(layer, [np.round(pixels * scale).astype(np.int32)], factor, cv2.LINE_8, 4)

    def clip(self, layer: np.ndarray, polygons: Sequence[np.ndarray]) -> None:
        """Copy `layer` to the canvas inside the polygons."""
        window = np.zeros(self.mask.shape, np.uint8)
        cv2.fillPoly(window, [np.round(pixels * 16).astype(np.int32) for pixels in polygons], 255, cv2.LINE_8, 4)
        cv2.copyTo(layer, window, self.canvas)

    def press(self) -> None:
        """Multiply relief and folds into the canvas."""
        height, width = self.mask.shape
        soft = cv2.resize(cv2.GaussianBlur(self.relief, (0, 0), self.unit * 0.022), (width, height))
        folds = cv2.GaussianBlur(self.folds, (0, 0), max(0.5, self.unit * 0.014))
        cv2.multiply(self.canvas, soft, self.canvas, 1 / 128)
        cv2.multiply(self.canvas, folds, self.canvas, 1 / 128)

    def light(self) -> None:
        """Light the person: the head as an ellipsoid, the rest like the rim of the head next to it."""
        height, width = self.mask.shape
        step = max(1.0, self.unit / 24)
        rows, columns = np.mgrid[0:height:step, 0:width:step] + step / 2
        x, y = (columns - self.centre[0]) / self.unit, (rows - self.centre[1]) / self.unit
        cos, sin = np.cos(self.scene.roll), np.sin(self.scene.roll)
        u, v = (x * cos + y * sin) / 1.22, (y * cos - x * sin) / 1.6
        radius = np.sqrt(u**2 + v**2)
        shrink = np.minimum(1, 0.97 / (radius + 1e-6))
        u, v = u * shrink, v * shrink
        facing = u * self.scene.light[0] + v * self.scene.light[1] + np.sqrt(1 - u**2 - v**2) * self.scene.light[2]
        level = 1 - self.scene.strength + self.scene.strength * 1.12 * np.clip(0.25 + 0.75 * facing, 0, 1)
        rim = np.clip((radius - 0.72) / 0.3, 0, 1) ** 2 * 0.1 * (radius < 1.05)
        coloured = 128 * np.maximum(level - rim, 0.15)[..., None] ** np.array((0.9, 1, 1.06))
        light = cv2.resize(np.clip(coloured, 0, 255).astype(np.uint8), (width, height))
        light[self.mask == 0] = 128
        cv2.multiply(self.canvas, light, self.canvas, 1 / 128)
