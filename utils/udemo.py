"""Drawn faces: a face with an expression, rendered from parameters and deterministic from its arguments.

An identity fixes what a person looks like (head, skin, hair, eyes, nose, lips, beard, glasses, age). An expression is a
set of facial action units (AU, numbered as in the Facial Action Coding System) per side of the face, chosen per emotion
after the prototypes of EMFACS. A scene fixes head rotation, gaze, light, background and camera. The accuracy a network
reaches on these faces says nothing about real ones.

Coordinates: "face units" have their origin in the middle of the head, x to the right of the picture, y downwards; half
a face is 1 wide, the crown lies at y = -1.3, the chin at y = 1.25. `Pen` turns them with the head and projects them.
"""

from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

EMOTION_NAMES = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
OCCLUSIONS = ("hand", "mask", "sunglasses")

# fmt: off
ACTION_UNITS = {
    1: "inner brow raiser", 2: "outer brow raiser", 4: "brow lowerer", 5: "upper lid raiser", 6: "cheek raiser",
    7: "lid tightener", 9: "nose wrinkler", 10: "upper lip raiser", 12: "lip corner puller", 14: "dimpler",
    15: "lip corner depressor", 17: "chin raiser", 20: "lip stretcher", 23: "lip tightener", 25: "lips part",
    26: "jaw drop",
}
# Action units of each emotion in its variants; an image draws one variant. Contempt is made one-sided afterwards.
PROTOTYPES: tuple[tuple[dict[int, float], ...], ...] = (
    ({},),
    ({6: 0.9, 12: 1.0, 25: 0.9, 26: 0.15}, {6: 0.9, 12: 1.0, 25: 0.7}, {6: 0.8, 12: 1.0}),
    ({1: 1.0, 4: 0.55, 15: 1.0, 17: 0.6, 7: 0.1}, {1: 1.0, 4: 0.6, 15: 1.0, 17: 0.3}),
    ({1: 1.0, 2: 1.0, 5: 0.9, 25: 1.0, 26: 1.0}, {1: 1.0, 2: 1.0, 5: 1.0, 25: 0.9, 26: 0.85}),
    ({1: 1.0, 2: 0.45, 4: 0.75, 5: 1.0, 7: 0.3, 20: 1.0, 25: 0.9},
     {1: 1.0, 2: 0.5, 4: 0.7, 5: 1.0, 20: 0.9, 25: 1.0, 26: 0.25}),
    ({4: 0.4, 6: 0.4, 7: 0.6, 9: 1.0, 10: 1.0, 15: 0.5, 17: 0.7},
     {4: 0.35, 6: 0.5, 7: 0.7, 9: 1.0, 10: 1.0, 15: 0.3, 25: 0.7}),
    ({4: 1.0, 5: 0.5, 7: 0.6, 17: 0.4, 23: 1.0}, {4: 1.0, 5: 0.6, 7: 0.5, 10: 0.4, 20: 0.2, 25: 1.0, 26: 0.3}),
    ({2: 0.6, 7: 0.4, 12: 0.75, 14: 1.0}, {2: 0.2, 7: 0.5, 12: 0.65, 14: 1.0}),
)

SKIN = ((250, 219, 196), (240, 200, 172), (228, 181, 148), (206, 155, 118), (176, 124, 88), (146, 100, 72),
        (116, 80, 60))
HAIR = ((34, 28, 28), (58, 40, 32), (96, 62, 40), (140, 92, 52), (206, 164, 98), (150, 70, 40), (170, 168, 166))
EYES = ((74, 48, 30), (96, 66, 36), (70, 110, 140), (84, 120, 78), (110, 128, 140), (46, 34, 28))
# Hair above the skull, and the hairline from the right temple to the left one.
HAIR_VOLUME = {"short": 0.1, "side": 0.16, "long": 0.18, "bald": 0.0, "fringe": 0.16, "curly": 0.2, "bun": 0.08,
               "bob": 0.18}
HAIRLINES = {
    "short": ((0.86, -0.5), (0.66, -0.8), (0.3, -0.9), (0, -0.88), (-0.3, -0.9), (-0.66, -0.8), (-0.86, -0.5)),
    "side": ((0.87, -0.5), (0.74, -0.82), (0.45, -1), (0.1, -0.88), (-0.35, -0.75), (-0.7, -0.66), (-0.88, -0.42)),
    "long": ((0.84, -0.3), (0.72, -0.66), (0.4, -0.94), (0, -1.06), (-0.35, -0.93), (-0.7, -0.64), (-0.85, -0.3)),
    "fringe": ((0.88, -0.45), (0.72, -0.62), (0.4, -0.66), (0.1, -0.6), (-0.25, -0.68), (-0.6, -0.62), (-0.88, -0.45)),
    "curly": ((0.88, -0.45), (0.72, -0.74), (0.36, -0.82), (0, -0.8), (-0.32, -0.84), (-0.7, -0.74), (-0.88, -0.45)),
    "bun": ((0.88, -0.45), (0.7, -0.84), (0.35, -0.98), (0, -1.02), (-0.35, -0.98), (-0.7, -0.84), (-0.88, -0.45)),
    "bob": ((0.8, -0.2), (0.74, -0.6), (0.5, -0.86), (0.3, -0.98), (-0.2, -0.78), (-0.62, -0.62), (-0.82, -0.2)),
}
# fmt: on

# Index into the action units' last axis, and the sign of x on that side of the picture.
SIDES = ((0, -1), (1, 1))

Box = tuple[int, int, int, int]
"""x (column), y (row), width, height in pixels."""


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn: a face is a person with an expression in a scene.


class Face(NamedTuple):
    """One person of a photograph: the arguments of `draw_face`."""

    emotion: int
    identity: int
    seed: int
    intensity: float | None = None
    occlusion: str | None = None


class Photograph(NamedTuple):
    """A picture, uint8 RGB (height, width, 3), and the box of every face in it."""

    picture: np.ndarray
    boxes: list[Box]


class Identity(NamedTuple):
    """What a person looks like; lengths are in face units or factors around 1, colours RGB in [0, 255]."""

    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    clothes: np.ndarray
    style: str
    cheek: float
    jaw: float
    chin: float
    length: float
    eye_x: float
    eye_width: float
    eye_height: float
    tilt: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip: float
    brow: float
    beard: str
    glasses: bool
    age: float
    lashes: float


class Scene(NamedTuple):
    """How the picture is taken: angles in radians, gaze and shift in face units, `light` points to the lamp."""

    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: np.ndarray
    gaze: np.ndarray
    light: np.ndarray
    strength: float
    exposure: float
    contrast: float
    blur: float
    noise: float
    background: int


@lru_cache(maxsize=256)
def make_identity(identity: int) -> Identity:
    """Return the person with this number; neighbouring numbers differ in skin and hair."""
    rng = np.random.default_rng([identity, 1])
    style = tuple(HAIR_VOLUME)[(identity * 3 + identity // 8) % 8]
    tone = (identity * 4 + int(rng.integers(3))) % 7
    age = float(np.clip(rng.normal(0.3, 0.3), 0, 1))
    feminine = style in ("long", "bob", "bun") or (style in ("fringe", "curly") and rng.random() < 0.5)
    colour = int(rng.choice(6, p=(0.5, 0.4, 0.1, 0, 0, 0) if tone > 3 else (0.15, 0.25, 0.25, 0.14, 0.14, 0.07)))
    skin = np.array(SKIN[tone], float) + rng.normal(0, 3, 3)
    red = np.array((178, 62, 66) if feminine else (176, 84, 78), float)
    beard = "none" if feminine else str(rng.choice(("none", "stubble", "full", "moustache"), p=(0.4, 0.25, 0.2, 0.15)))
    return Identity(
        skin=np.clip(skin, 30, 252),
        hair=np.array(HAIR[6 if age > 0.75 and colour > 0 else colour]) + rng.normal(0, 5) + rng.normal(0, 2, 3),
        iris=np.array(EYES[int(rng.choice((0, 5))) if tone > 3 else int(rng.integers(5))], float),
        lips=skin * 0.45 + red * (0.55 if tone < 4 else 0.38),
        clothes=rng.uniform(40, 210, 3),
        style=style,
        cheek=rng.uniform(0.95, 1.04),
        jaw=rng.uniform(0.74, 0.82) if feminine else rng.uniform(0.79, 0.9),
        chin=rng.uniform(0.26, 0.36) if feminine else rng.uniform(0.33, 0.46),
        length=rng.uniform(0.96, 1.04),
        eye_x=rng.uniform(0.385, 0.43),
        eye_width=rng.uniform(0.205, 0.24),
        eye_height=rng.uniform(0.9, 1.12),
        tilt=rng.uniform(-0.01, 0.03),
        nose_width=rng.uniform(0.85, 1.2),
        nose_length=rng.uniform(-0.03, 0.04),
        mouth_width=rng.uniform(0.34, 0.4),
        lip=rng.uniform(0.85, 1.25),
        brow=rng.uniform(0.055, 0.075) if feminine else rng.uniform(0.08, 0.115),
        beard=beard,
        glasses=bool(rng.random() < 0.22),
        age=age,
        lashes=1.0 if feminine else 0.45,
    )


def make_expression(emotion: int, intensity: float, rng: np.random.Generator) -> np.ndarray:
    """Return action units as an array (27, 2): [AU number, picture side left/right], each in [0, 1]."""
    variant = PROTOTYPES[emotion][int(rng.integers(len(PROTOTYPES[emotion])))]
    units = np.zeros((27, 2))
    for number in ACTION_UNITS:
        common = variant.get(number, 0.0) * intensity * rng.uniform(0.85, 1.1) + abs(rng.normal(0, 0.025))
        units[number] = common * (1 + rng.normal(0, 0.06, 2))
    if EMOTION_NAMES[emotion] == "Contempt":
        units[[2, 12, 14], int(rng.integers(2))] *= 0.05
    return np.clip(units, 0, 1)


def make_scene(rng: np.random.Generator, frontal: bool) -> Scene:
    """Return a random scene, or the plain one (frontal head, soft light from above, clean camera)."""
    background = int(rng.integers(2**31))
    light = (-0.35, -0.5, 0.8) if frontal else rng.uniform((-1, -0.9, 0.4), (1, 0.2, 1))
    light = np.array(light) / np.linalg.norm(light)
    if frontal:
        return Scene(0, 0, 0, 1, np.zeros(2), np.zeros(2), light, 0.4, 1, 1, 0, 0, background)
    return Scene(
        yaw=float(np.clip(rng.normal(0, 0.2), -0.45, 0.45)),
        pitch=float(np.clip(rng.normal(0, 0.1), -0.25, 0.25)),
        roll=float(np.clip(rng.normal(0, 0.1), -0.3, 0.3)),
        zoom=rng.uniform(0.93, 1.06),
        shift=rng.normal(0, 0.05, 2),
        gaze=np.clip(rng.normal(0, (0.025, 0.012)), -0.05, 0.05),
        light=light,
        strength=rng.uniform(0.3, 0.65),
        exposure=rng.uniform(0.85, 1.2),
        contrast=rng.uniform(0.8, 1.15),
        blur=max(0.0, rng.uniform(-0.6, 0.7)),
        noise=rng.uniform(0.5, 5),
        background=background,
    )


# ---------------------------------------------------------------------------------------------------------------------
# How it is drawn: curves, strokes, and a pen that turns them with the head.


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


# ---------------------------------------------------------------------------------------------------------------------
# The parts of a face, in the order in which they are painted. `au` are the action units (27, 2).


def _draw_head(pen: Pen, who: Identity, jaw: float) -> None:
    """Paint back hair, shoulders, neck, ears and the head's skin; `jaw` is how far the chin drops."""
    if who.style == "long":
        back = [(0, -1.5), (0.72, -1.28), (1.16, -0.6), (1.25, 0.2), (1.22, 1.75), (0.7, 1.95), (0, 1.95)]
        pen.fill(pen.body(spline(mirrored(back), True)), who.hair * 0.72, True)
    if who.style == "bob":
        back = [(0, -1.5), (0.72, -1.28), (1.16, -0.6), (1.25, 0.2), (1.22, 0.75), (0.7, 0.95), (0, 0.95)]
        pen.fill(pen.at(spline(mirrored(back), True), 0.0), who.hair * 0.72, True)
    shoulders = [(0, 1.5), (0.5, 1.55), (1.3, 1.85), (1.75, 2.3), (1.9, 4), (1.9, 15), (0, 15)]
    pen.fill(pen.body(spline(mirrored(shoulders), True)), who.clothes, True)
    neck = mirrored([(0, 0.5), (0.58, 0.5), (0.56, 1.35), (0.75, 1.68), (0.3, 1.9), (0, 1.9)])
    pen.fill(pen.body(neck), who.skin * (0.86, 0.8, 0.78), True)
    for _, side in SIDES:
        pen.fill(pen.at(ellipse(side * 1.0, 0.08, 0.14, 0.26, side * 0.15), -0.1), who.skin * (0.93, 0.88, 0.86), True)
        pen.tone(pen.at(ellipse(side * 1.05, 0.08, 0.05, 0.15, side * 0.15), -0.1), -0.3)
    chin = 1.25 * who.length + jaw
    head = [(0.98 * np.sin(t), -0.33 - 0.98 * np.cos(t)) for t in np.linspace(0, 1.5, 6)]
    head += [(0.98 * who.cheek, 0.1), (0.93 * who.cheek, 0.42), (who.jaw, 0.74 + 0.45 * jaw)]
    head += [(0.5 + who.chin * 0.3, 1.05 + 0.85 * jaw), (who.chin, chin - 0.03), (0, chin)]
    pen.fill(pen.at(spline(mirrored(head), True), 0.05), who.skin, True)
    shadow = spline(
        [(-0.7, 1.03 + jaw), (-0.35, chin + 0.13), (0, chin + 0.17), (0.35, chin + 0.13), (0.7, 1.03 + jaw)]
    )
    pen.tone(ribbon(pen.body(shadow), 0.16 * pen.unit), -0.3)


def _model_skin(pen: Pen, who: Identity, au: np.ndarray, jaw: float) -> None:
    """Paint soft shapes of the face: sockets, cheeks, nose, chin, stubble."""
    shaded_side = -1 if pen.scene.light[0] > 0 else 1
    pen.tone(pen.at(ellipse(0, -0.68, 0.5, 0.22)), 0.05)
    for s, side in SIDES:
        puff = max(au[6, s], 0.6 * au[12, s])
        pen.tone(pen.at(ellipse(side * who.eye_x, -0.08, 0.3, 0.2)), -0.1, warmth=0.05)
        pen.tone(pen.at(ellipse(side * 0.62, 0.34 - 0.06 * puff, 0.22, 0.17)), 0.02, warmth=0.1 + 0.07 * puff)
        pen.tone(pen.at(ellipse(side * 0.57, 0.25 - 0.07 * puff, 0.17, 0.09)), 0.05 + 0.07 * puff, warmth=0.05)
        hollow = spline([(side * 0.8, 0.35), (side * 0.72, 0.62), (side * 0.6, 0.9)])
        pen.tone(ribbon(pen.at(hollow), 0.16 * pen.unit), -0.09 - 0.08 * who.age)
        pen.tone(pen.at(ellipse(side * 0.13, 0.12, 0.05, 0.27)), -0.2 if side == shaded_side else -0.08)
    tip = 0.36 + who.nose_length - 0.04 * au[9].mean()
    pen.tone(pen.at(ellipse(0, tip + 0.13, 0.24 * who.nose_width, 0.07)), -0.24)
    pen.tone(pen.at(ellipse(0, 0.02, 0.05, 0.25), lift=0.1), 0.12)
    pen.tone(pen.at(ellipse(0, tip - 0.02, 0.1, 0.085), lift=0.22), 0.14, warmth=0.06)
    pen.tone(pen.at(ellipse(0, 0.98 + jaw * 0.85, 0.24, 0.06)), -0.2 - 0.1 * au[17].mean())
    pen.tone(pen.at(ellipse(0, 1.1 + jaw - 0.04 * au[17].mean(), 0.15, 0.08)), 0.08)
    if who.beard == "stubble":
        area = [(0, 0.52), (0.42, 0.5), (0.6, 0.62), (0.93, 0.3), (0.92, 0.35), (who.jaw, 0.76 + 0.4 * jaw)]
        area += [(0.45, 1.1 + 0.9 * jaw), (0, 1.27 * who.length + jaw)]
        pen.tone(pen.at(mirrored(area)), -0.2)


def _draw_folds(pen: Pen, who: Identity, au: np.ndarray, corners: np.ndarray) -> None:
    """Paint the creases that the muscles and age make; `corners` (2, 2) are the mouth's, left and right."""
    mean = au.mean(axis=1)
    for row, y in enumerate((-0.6, -0.7, -0.8)):
        amount = 0.45 * (0.5 * mean[1] + 0.5 * mean[2]) ** 1.5 + 0.12 * who.age
        line = spline([(-0.5, y + 0.03), (-0.2, y - 0.03), (0, y), (0.2, y - 0.03), (0.5, y + 0.03)])
        pen.crease(line, 0.035, amount * (1 - 0.2 * row))
    worry = spline([(-0.2, -0.52), (-0.08, -0.57), (0, -0.55), (0.08, -0.57), (0.2, -0.52)])
    pen.crease(worry, 0.035, 0.68 * min(mean[1], mean[4]))
    pout = spline([(-0.22, 1.02), (-0.1, 0.96), (0.1, 0.96), (0.22, 1.02)])
    pen.crease(pout, 0.045, 0.55 * max(mean[17], 0.6 * mean[23]))
    for x, y in ((-0.12, 1.09), (0.02, 1.07), (0.13, 1.11), (-0.04, 1.14)):
        pen.crease(np.array(((x - 0.02, y), (x, y), (x + 0.02, y))), 0.04, 0.3 * mean[17] * (mean[17] > 0.25))
    for s, side in SIDES:
        _draw_side_folds(pen, who, au[:, s], np.array((side, 1)), abs(corners[s, 0]), corners[s, 1])


def _draw_side_folds(pen: Pen, who: Identity, au: np.ndarray, side: np.ndarray, x: float, y: float) -> None:
    """Paint one side's creases: `au` (27,) and the mouth's corner (x, y) of that side; `side` is (-1 or 1, 1)."""
    frown = au[4] * (1 - 0.5 * au[1])
    pen.crease(spline([(0.05, -0.5), (0.075, -0.38), (0.05, -0.22)]) * side, 0.05, 0.7 * frown + 0.1 * who.age)
    pen.crease(spline([(0.13, -0.33), (0.1, -0.22), (0.13, -0.13)]) * side, 0.05, 0.35 * frown)
    for wrinkle in ([(0.03, -0.14), (0.2, 0.0)], [(0.04, -0.05), (0.19, 0.08)], [(0.05, 0.04), (0.17, 0.17)]):
        pen.crease(spline(wrinkle) * side, 0.035, 0.52 * au[9])
    # From the nose's wing around the mouth.
    wing = (0.2 * who.nose_width, 0.3 - 0.06 * max(au[9], au[10]))
    reach = max(x + 0.1, 0.42)
    middle = (0.16 + 0.5 * reach + 0.05 * au[10], 0.45 - 0.03 * au[12])
    depth = 0.07 + 0.16 * who.age + 0.45 * max(au[12], 1.1 * au[10], 0.9 * au[9], 0.35 * au[20])
    pen.crease(
        spline([wing, middle, (reach, min(y, 0.76) - 0.03), (reach + 0.01, y + 0.05)]) * side, 0.05, depth, (0.3, 0)
    )
    # Under and beside the eye.
    bag, tight = who.eye_x, max(au[6], 0.6 * au[7])
    pen.crease(
        spline([(bag - 0.2, 0.08), (bag, 0.14), (bag + 0.2, 0.07)]) * side, 0.035, 0.1 + 0.2 * who.age + 0.4 * tight
    )
    outer = who.eye_x + who.eye_width + 0.05
    for spread in (-0.09, 0.0, 0.09):
        foot = [(outer, -0.03 + spread * 0.5), (outer + 0.08, -0.03 + spread), (outer + 0.15, -0.03 + spread * 1.9)]
        pen.crease(spline(foot) * side, 0.028, 0.45 * au[6] + 0.2 * max(0, who.age - 0.4))
    # Beside and below the mouth's corner.
    dimple = spline([(x + 0.035, y - 0.1), (x + 0.075, y), (x + 0.035, y + 0.1)])
    pen.crease(dimple * side, 0.05, 0.75 * au[14] + 0.25 * au[12] + 0.2 * au[20])
    pen.crease(spline([(x, y + 0.03), (x + 0.05, y + 0.12), (x + 0.05, y + 0.24)]) * side, 0.05, 0.3 * au[15])


def _draw_beard(pen: Pen, who: Identity, mouth: "Mouth", jaw: float) -> None:
    """Paint a beard or moustache (before the mouth, which lies on it)."""
    colour = who.hair * 0.85 + who.skin * 0.08
    if who.beard == "full":
        area = [(0, 0.58), (0.25, 0.55), (0.5, 0.6), (0.58, 0.7), (0.82, 0.52), (0.95, 0.2), (0.97 * who.cheek, 0.3)]
        area += [(who.jaw + 0.03, 0.78 + 0.4 * jaw), (0.45, 1.16 + 0.9 * jaw), (0, 1.3 * who.length + jaw)]
        pen.fill(pen.at(spline(mirrored(area), True)), colour, True)
        # Thinner hair around the lips keeps the mouth's shape visible.
        lips = np.concatenate([mouth.upper_outer, mouth.lower_outer[::-1]])
        around = (lips - lips.mean(axis=0)) * (1.2, 1.35) + lips.mean(axis=0) + (0, 0.01)
        pen.fill(pen.at(around, lift=0.03), colour * 0.3 + who.skin * 0.6)
    if who.beard == "moustache":
        left, right = mouth.corners
        top = mouth.upper_outer[len(mouth.upper_outer) // 2, 1]
        line = [left * 1.08 + (0, 0.03 - 0.08 * left[1]), (left[0] * 0.5, top - 0.05), (0, top - 0.06)]
        line += [(right[0] * 0.5, top - 0.05), right * 1.08 + (0, 0.03 - 0.08 * right[1])]
        pen.stroke(pen.at(spline(line), lift=0.06), 0.15, colour, (0.15, 0.15))


def _draw_nose(pen: Pen, who: Identity, au: np.ndarray) -> None:
    """Paint nostrils and wings."""
    base = 0.42 + who.nose_length
    for s, side in SIDES:
        up = 0.06 * max(au[9, s], 0.7 * au[10, s])
        stretch = np.array((side * who.nose_width * (1 + 0.12 * au[9, s] + 0.08 * au[10, s] + 0.06 * au[12, s]), 1))
        wing = spline([(0.15, base - 0.14), (0.2, base - 0.05), (0.16, base + 0.02), (0.11, base + 0.005)]) - (0, up)
        pen.stroke(pen.at(wing * stretch, lift=0.08), 0.032, who.skin * (0.66, 0.56, 0.54), (0, 0.3))
        nostril = ellipse(0.078, base + 0.012 - up * 0.7, 0.048, 0.024 + 0.2 * up, -0.25)
        pen.fill(pen.at(nostril * stretch, lift=0.16), who.skin * (0.36, 0.26, 0.25))
    tip = spline([(-0.04, base + 0.025), (0, base + 0.045), (0.04, base + 0.025)]) - (0, 0.5 * up)
    pen.stroke(pen.at(tip, lift=0.16), 0.022, who.skin * (0.68, 0.58, 0.56))


class Mouth(NamedTuple):
    """Curves (n, 2) of the mouth from the left corner to the right one, in face units, and how far it is open."""

    upper_outer: np.ndarray
    upper_inner: np.ndarray
    lower_inner: np.ndarray
    lower_outer: np.ndarray
    corners: np.ndarray
    gap: float


def _shape_mouth(who: Identity, au: np.ndarray) -> Mouth:
    """Return the lips' curves under AU10, 12, 14, 15, 17, 20, 23, 25 and 26."""
    middle = 0.72 + who.nose_length * 0.5
    mean = au.mean(axis=1)
    gap = (0.1 * mean[25] + 0.32 * mean[26] * np.sqrt(mean[25])) * (1 - 0.8 * mean[23])
    narrow = 1 - 0.3 * mean[26] * np.clip(1 - mean[12] - mean[20], 0, 1) - 0.14 * mean[23] - 0.06 * mean[17]
    wide = who.mouth_width * narrow * (1 + 0.3 * au[12] + 0.26 * au[20] + 0.1 * au[14])
    drop = -0.15 * au[12] + 0.13 * au[15] + 0.035 * au[20] - 0.05 * au[14] + 0.35 * gap
    corners = np.stack([wide * (-1, 1), middle + drop], axis=1)
    sneer = 0.06 * au[10] - 0.02 * au[12]
    pushed = 0.05 * mean[17] * (1 - mean[25]) + 0.02 * mean[15]
    top = middle + 0.02 * mean[12] - 0.065 * mean[10] - 0.04 * mean[26] * mean[25] - pushed
    low = middle + 0.03 * mean[12] * (1 + mean[25]) + gap - pushed - 0.055 * mean[10] * (1 - mean[25])
    low = max(low, top)
    full = (1 - 0.65 * mean[23]) * (1 - 0.25 * mean[12]) * (1 - 0.25 * mean[20]) * (1 - 0.3 * au[14].max()) * who.lip
    upper_lip, lower_lip = 0.085 * full * (1 - 0.3 * mean[10]), 0.115 * full * (1 + 0.15 * mean[17])

    def curve(centre: float, blend: float, raised: float = 0.0, bow: float = 0.0) -> np.ndarray:
        half_way = np.stack(
            [corners[:, 0] * 0.5, corners[:, 1] + (centre - corners[:, 1]) * blend - raised * sneer], axis=1
        )
        peaks = [(corners[0, 0] * 0.24, centre - bow), (0, centre), (corners[1, 0] * 0.24, centre - bow)]
        return spline([corners[0], half_way[0], *(peaks if bow else peaks[1:2]), half_way[1], corners[1]])

    rounded = 0.72 + 0.1 * min(1, gap * 4)
    return Mouth(
        upper_outer=curve(top - upper_lip * 0.85, 0.72, raised=1, bow=max(0.012, 0.03 * full)),
        upper_inner=curve(top, rounded, raised=1.25 if gap > 0.02 else 0),
        lower_inner=curve(low, rounded),
        lower_outer=curve(low + lower_lip, 0.74),
        corners=corners,
        gap=float(gap),
    )


def _draw_mouth(pen: Pen, who: Identity, au: np.ndarray, mouth: Mouth) -> None:
    """Paint the lips, and teeth and tongue in the opening."""
    mean = au.mean(axis=1)
    upper, lower = mouth.upper_inner, mouth.lower_inner
    pen.fill(pen.at(np.concatenate([mouth.upper_outer, mouth.lower_outer[::-1]]), lift=0.04), who.lips * 0.9)
    pen.fill(pen.at(np.concatenate([lower, mouth.lower_outer[::-1]]), lift=0.05), who.lips * 1.06)
    pen.stroke(pen.at(0.55 * mouth.lower_outer[9:16] + 0.45 * lower[9:16], lift=0.05), 0.03, who.lips * 1.2 + 6)
    for corner in mouth.corners:
        pen.fill(pen.at(ellipse(*corner, 0.022, 0.018)), who.skin * (0.5, 0.4, 0.38))
    if mouth.gap <= 0.025:
        seam = pen.at((upper + lower) / 2, lift=0.04)
        pen.stroke(seam, 0.032 + 0.012 * mean[23], who.lips * (0.42, 0.34, 0.36), (0.5, 0.5))
        return
    opening = pen.at(np.concatenate([upper, lower[::-1]]), lift=0.02)
    inside = pen.onto(pen.canvas.copy())
    inside.fill(opening, (70, 22, 26))
    if mouth.gap > 0.16:
        bottom = lower[len(lower) // 2, 1]
        inside.fill(pen.at(ellipse(0, bottom, 0.2, mouth.gap * 0.42)), (186, 84, 88))
        inside.fill(pen.at(ellipse(0, bottom + 0.02, 0.03, mouth.gap * 0.36)), (160, 66, 72))
    show = 0.05 + 0.07 * mean[12] + 0.05 * mean[10] + 0.035 * mean[20]
    inside.fill(pen.at(np.concatenate([upper, upper[::-1] + (0, show)]), lift=0.02), (240, 236, 226))
    if mean[20] + mean[10] > 0.3 and mean[12] < 0.3:
        inside.fill(pen.at(np.concatenate([lower, lower[::-1] - (0, 0.035)]), lift=0.02), (226, 220, 208))
    for x in np.linspace(-0.3, 0.3, 9):
        edge = np.interp(x, *upper.T)
        inside.stroke(pen.at(np.array(((x, edge - 0.02), (x, edge + show))), lift=0.02), 0.008, (206, 200, 192), (1, 1))
    pen.clip(inside.canvas, [opening])
    pen.stroke(pen.at(upper, lift=0.02), 0.018, who.lips * 0.5)
    pen.stroke(pen.at(lower, lift=0.02), 0.014, who.lips * 0.6)


def _draw_eyes(pen: Pen, who: Identity, au: np.ndarray) -> None:
    """Paint eyeballs in their openings, then lids and lashes."""
    inside, openings, lids = pen.onto(pen.canvas.copy()), [], []
    # Sadness lets the lids hang and the eyes look down.
    droop = 0.6 * min(au[1].mean(), au[15].mean())
    look = pen.scene.gaze + (0, 0.04 * droop)
    x, y, w, tilt = who.eye_x, -0.05, who.eye_width, who.tilt - 0.05 * droop
    for s, side in SIDES:
        squint = au[9, s] + au[6, s]
        high = (0.105 + 0.075 * au[5, s] - 0.035 * au[7, s] - 0.025 * squint) * who.eye_height
        high -= 0.03 * droop + 0.5 * max(0, look[1])
        low = (0.08 + 0.015 * au[5, s] - 0.045 * au[7, s] - 0.025 * (squint + au[6, s])) * who.eye_height
        upper = [(x - w, y + 0.02), (x - 0.5 * w, y - (0.75 + 0.2 * droop) * high), (x, y - high)]
        upper += [(x + 0.55 * w, y - (0.78 - 0.3 * droop) * high - tilt * 0.5), (x + w, y - tilt)]
        under = [(x + w, y - tilt), (x + 0.5 * w, y + 0.85 * low), (x, y + low), (x - 0.5 * w, y + 0.72 * low)]
        lid, rim = spline(upper) * (side, 1), spline([*under, upper[0]]) * (side, 1)
        openings.append(pen.at(np.concatenate([lid, rim])))
        lids.append((lid, rim))
        centre = np.array((side * x, y - 0.012)) + look
        inside.fill(pen.at(ellipse(side * x, y, w * 1.2, 0.3)), (240, 237, 234))
        inside.fill(pen.at(np.concatenate([lid, lid[::-1] + (0, 0.05)])), (190, 184, 184))
        iris = ((0.122, who.iris * 0.45), (0.107, who.iris), (0.075, who.iris * 1.3 + 8), (0.05, (14, 12, 14)))
        for radius, colour in iris:
            inside.fill(pen.at(ellipse(*centre, radius, radius)), colour)
        sparkle = centre + (-0.035 if pen.scene.light[0] < 0 else 0.035, -0.04)
        inside.fill(pen.at(ellipse(*sparkle, 0.026, 0.026)), (255, 255, 255))
    pen.clip(inside.canvas, openings)
    for (s, side), (lid, rim) in zip(SIDES, lids, strict=True):
        above = lid[2:] - (0, 0.075 - 0.045 * au[5, s] + 0.02 * droop)
        pen.stroke(pen.at(above), 0.022, who.skin * (0.6, 0.52, 0.5))
        lash = np.concatenate([lid, lid[-1:] + (side * 0.035, -0.02 * who.lashes)])
        pen.stroke(pen.at(lash), 0.035 + 0.025 * who.lashes, who.hair * 0.3 + (14, 10, 10), (0.2, 0.3))
        pen.stroke(pen.at(rim), 0.02, who.skin * (0.58, 0.46, 0.44), (0.5, 0.2))


def _draw_brows(pen: Pen, who: Identity, au: np.ndarray) -> None:
    """Paint the eyebrows, moved by AU1, AU2, AU4 and AU9."""
    colour = who.hair * min(0.72, 95 / who.hair.max())
    for s, side in SIDES:
        up, out, down = au[1, s], au[2, s], au[4, s]
        wrinkle, arch = 0.06 * au[9, s], 0.02 * who.lashes
        inner = (0.165 - 0.07 * down, -0.36 - 0.16 * up + 0.16 * down * (1 - 0.6 * up) + wrinkle)
        near = (0.31 - 0.03 * down, -0.395 - 0.12 * up - 0.09 * out + 0.15 * down * (1 - 0.65 * up) + wrinkle)
        peak = (0.51, -0.4 - arch - 0.03 * up - 0.19 * out + 0.07 * down)
        end = (0.71, -0.315 + 0.04 * up * (1 - out) - 0.15 * out + 0.01 * down)
        line = spline([inner, near, peak, end]) * (side, 1)
        pen.stroke(pen.at(line), who.brow * 1.35, colour * 0.7 + who.skin * 0.35, (0.75, 0.1))
        pen.stroke(pen.at(line + (0, 0.008)), who.brow, colour, (0.6, 0.05))


def _draw_hair(pen: Pen, who: Identity, rng: np.random.Generator) -> None:
    """Paint the hair in front of the skull, with strands."""
    if who.style == "bald":
        for _, side in SIDES:
            patch = spline([(0.98, -0.5), (1.04, -0.2), (1.0, 0.05), (0.93, -0.12)], True) * (side, 1)
            pen.fill(pen.at(patch, 0.0), who.hair * 0.6 + who.skin * 0.4, True)
        shine = ellipse(-0.3 if pen.scene.light[0] < 0 else 0.3, -1.0, 0.2, 0.09, -0.3)
        pen.fill(pen.at(shine), who.skin * 1.07 + 6)
        return
    volume, low = HAIR_VOLUME[who.style], {"long": 0.75, "bob": 0.7}.get(who.style, 0.05)
    angles = np.linspace(-1.57, 1.57, 11)
    dome = np.stack([(1.03 + 0.7 * volume) * np.sin(angles), -0.36 - (1.02 + volume) * np.cos(angles)], axis=1)
    edge = spline([(-1.0, low), *dome, (1.0, low)])
    temple = np.array([(0.93, low * 0.6), (0.86, 0.1)] if low > 0.1 else [(0.92, -0.1)])
    line = np.concatenate([temple, spline(HAIRLINES[who.style]), temple[::-1] * (-1, 1)])
    shapes = [np.concatenate([pen.at(edge, -0.05), pen.at(line)])]
    if who.style == "bun":
        shapes.insert(0, pen.at(ellipse(0, -1.45, 0.36, 0.24), -0.2))
    if who.style == "curly":
        shapes += [pen.at(ellipse(x, y, *rng.uniform(0.15, 0.22, 2)), -0.05) for x, y in edge[4:-4:3]]
        shapes += [pen.at(ellipse(x, y - 0.05, 0.11, 0.09)) for x, y in line[3:-3:5]]
    for shape in shapes:
        pen.fill(shape, who.hair, True)
    strands = pen.onto(pen.canvas.copy())
    crown = np.array((0.27 if who.style == "side" else 0.0, -1.21))
    for tip in line[np.linspace(2, len(line) - 3, 22).astype(int)]:
        root = crown + (tip[0] * 0.25, 0)
        bend = (root + tip) / 2 + (tip[0] * 0.42, -0.22 * abs(tip[0]))
        shade = rng.uniform(0.72, 1.3)
        strands.stroke(pen.at(spline([root, bend, tip])), rng.uniform(0.025, 0.06), who.hair * shade + 6 * (shade > 1))
    pen.clip(strands.canvas, shapes)


def _draw_glasses(pen: Pen, who: Identity, dark: bool) -> None:
    """Paint glasses; `dark` makes them sunglasses that hide the eyes."""
    frame = (24, 22, 26) if dark else who.hair * 0.4 + 20
    wide, high = (0.36, 0.25) if dark else (0.32, 0.235)
    rounded = np.sign(CIRCLE) * abs(CIRCLE) ** 0.7 * (wide, high)
    for _, side in SIDES:
        lens = pen.at(rounded + (side * (who.eye_x + 0.02), 0.02), lift=0.12)
        if dark:
            pen.fill(lens, (30, 30, 36))
            pen.fill(pen.at(rounded * 0.45 + (side * who.eye_x - 0.08, -0.07), lift=0.12), (62, 64, 74))
        pen.stroke(np.concatenate([lens, lens[:1]]), 0.036, frame, (1, 1))
        arm = np.array([(side * (who.eye_x + wide), -0.05), (side, -0.06)])
        pen.stroke(pen.at(arm, lift=0.08), 0.035, frame, (1, 1))
    bridge = spline([(-0.1, -0.01), (0, -0.045), (0.1, -0.01)])
    pen.stroke(pen.at(bridge, lift=0.16), 0.036, frame, (1, 1))


def _draw_mask(pen: Pen, jaw: float, rng: np.random.Generator) -> None:
    """Paint a surgical mask over nose, mouth and chin."""
    cloth = np.array(((150, 190, 206), (226, 230, 232), (52, 54, 62))[int(rng.integers(3))], float)
    for _, side in SIDES:
        for strap in (((0.88, 0.45), (1.02, -0.05)), ((0.82, 0.85), (1.03, 0.22))):
            pen.stroke(pen.at(np.array(strap) * (side, 1)), 0.03, cloth * 0.9, (1, 1))
    half = [
        (0, 0.2),
        (0.3, 0.24),
        (0.72, 0.36),
        (0.9, 0.46),
        (0.84, 0.85 + jaw * 0.5),
        (0.5, 1.2 + jaw),
        (0, 1.32 + jaw),
    ]
    pen.fill(pen.at(spline(mirrored(half), True), lift=0.08), cloth, True)
    for y in (0.5, 0.72, 0.94):
        pleat = spline([(-0.8, y + 0.05), (0, y + jaw * 0.5), (0.8, y + 0.05)])
        pen.stroke(pen.at(pleat, lift=0.1), 0.025, cloth * 0.84)


def _draw_hand(pen: Pen, who: Identity, rng: np.random.Generator) -> None:
    """Paint a hand before the mouth or one side of the face, with an outline around palm, wrist and fingers."""
    place = ((0.0, 1.05, 0.0), (0.6, 0.5, -0.35), (-0.6, 0.5, 0.35))[int(rng.integers(3))]
    x, y, angle = place + rng.normal(0, (0.08, 0.08, 0.15))
    turn = np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))))
    wrist = np.array(((-0.3, 0.2), (0.3, 0.2), (0.34, 2.2), (-0.34, 2.2)))
    palm = spline(mirrored([(0, -0.17), (0.2, -0.16), (0.4, -0.05), (0.38, 0.3), (0.26, 0.62), (0, 0.66)]), True)
    fingers = [((-0.3, 0), (-0.42, -0.55)), ((-0.1, -0.05), (-0.14, -0.72)), ((0.1, -0.05), (0.12, -0.7))]
    fingers += [((0.3, 0), (0.38, -0.52)), ((-0.3, 0.35), (-0.68, -0.05))]
    lines = [pen.body(np.linspace(*finger, 8) @ turn + (x, y)) for finger in fingers]
    for grow, colour in ((0.05, who.skin * (0.62, 0.52, 0.5)), (0.0, who.skin * (0.97, 0.94, 0.92))):
        pen.fill(pen.body(wrist * (1 + grow, 1) @ turn + (x, y)), colour, True)
        pen.fill(pen.body(palm * (1 + grow) @ turn + (x, y)), colour, True)
        for line in lines:
            for pixel in line:
                pen.fill(pixel + CIRCLE * (0.105 + grow * 0.5) * pen.unit, colour, True)
    for line in lines:
        pen.stroke(line[3:6], 0.12, who.skin * (0.91, 0.87, 0.85))


# ---------------------------------------------------------------------------------------------------------------------
# Pictures.


def _check(face: Face) -> None:
    """Raise ValueError when `face` cannot be drawn."""
    for name, number in (("emotion", face.emotion), ("identity", face.identity), ("seed", face.seed)):
        if not isinstance(number, (int, np.integer)) or number < 0:
            raise ValueError(f"{name} must be an integer that is not negative, not {number!r}")
    if face.emotion >= len(EMOTION_NAMES):
        raise ValueError(f"emotion must be an integer from 0 (Neutral) to 7 (Contempt), not {face.emotion!r}")
    if face.intensity is not None and not 0 <= face.intensity <= 1:
        raise ValueError(f"intensity must lie in [0, 1], not {face.intensity!r}")
    if face.occlusion is not None and face.occlusion not in OCCLUSIONS:
        raise ValueError(f"occlusion must be None or one of {', '.join(OCCLUSIONS)}, not {face.occlusion!r}")


def _scene_of(face: Face, frontal: bool) -> Scene:
    """Return the scene of a face, which does not depend on its emotion."""
    return make_scene(np.random.default_rng([face.identity, face.seed, 7]), frontal)


def _paint_person(canvas: np.ndarray, box: Sequence[float], face: Face, scene: Scene) -> None:
    """Paint a person into the canvas so that the head fills `box` (x, y, width, height, in canvas pixels)."""
    rng = np.random.default_rng([face.emotion, face.identity, face.seed])
    who = make_identity(int(face.identity))
    au = make_expression(face.emotion, rng.uniform(0.55, 1) if face.intensity is None else face.intensity, rng)
    unit = 0.325 * min(box[2], box[3]) * scene.zoom
    centre = np.array((box[0] + 0.5 * box[2], box[1] + 0.505 * box[3])) + scene.shift * unit
    pen = Pen(canvas, centre, unit, scene)
    jaw = 0.17 * au[26].mean() + 0.04 * au[25].mean()
    mouth = _shape_mouth(who, au)
    _draw_head(pen, who, jaw)
    _model_skin(pen, who, au, jaw)
    _draw_folds(pen, who, au, mouth.corners)
    pen.press()
    _draw_beard(pen, who, mouth, jaw)
    _draw_nose(pen, who, au)
    _draw_mouth(pen, who, au, mouth)
    _draw_eyes(pen, who, au)
    _draw_hair(pen, who, np.random.default_rng([face.identity, 2]))
    _draw_brows(pen, who, au)
    if face.occlusion == "sunglasses" or who.glasses:
        _draw_glasses(pen, who, dark=face.occlusion == "sunglasses")
    if face.occlusion == "mask":
        _draw_mask(pen, jaw, rng)
    if face.occlusion == "hand":
        _draw_hand(pen, who, rng)
    pen.light()


def _background(height: int, width: int, seed: int, plain: bool) -> np.ndarray:
    """Return a soft background, uint8 RGB (height, width, 3): a gradient, or blurred shapes."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(*((165, 225) if plain else (60, 210))) + rng.uniform(-14, 14, 3)
    if plain:
        return (
            np.repeat(np.linspace(base * 1.05, base * 0.92, height)[:, None], width, axis=1)
            .clip(0, 255)
            .astype(np.uint8)
        )
    quarter = (width // 4, height // 4)
    small = base + rng.normal(0, 28, (3, 3, 1)) + rng.normal(0, 8, (3, 3, 3))
    picture = cv2.resize(np.clip(small, 0, 255).astype(np.uint8), quarter, interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(2, 7))):
        shape = rng.uniform((-0.1, -0.1, 0.1, 0.1), (0.9, 0.9, 0.5, 0.6)) * (quarter * 2)
        left, top, wide, high = shape.astype(int).tolist()
        colour = np.clip(base + rng.normal(0, 40) + rng.normal(0, 18, 3), 0, 255).tolist()
        cv2.rectangle(picture, (left, top), (left + wide, top + high), colour, -1)
    return cv2.resize(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.8, 3)), (width, height))


def _develop(picture: np.ndarray, scene: Scene) -> np.ndarray:
    """Return the picture as the camera saves it: blur, exposure, contrast and noise."""
    if scene.blur > 0.25:
        picture = cv2.GaussianBlur(picture, (0, 0), scene.blur * picture.shape[0] / 96)
    if scene.noise == 0:
        return picture
    rng = np.random.default_rng(scene.background)
    noise = scene.noise * rng.standard_normal(picture.shape[:2], dtype=np.float32)
    gain, offset = np.float32(scene.contrast * scene.exposure), np.float32(128 * (1 - scene.contrast))
    return np.clip(picture * gain + (offset + noise)[..., None], 0, 255).astype(np.uint8)


def draw_face(
    emotion: int,
    identity: int,
    seed: int,
    size: int = 96,
    *,
    intensity: float | None = None,
    occlusion: str | None = None,
    frontal: bool = False,
) -> np.ndarray:
    """Return a face as uint8 RGB (size, size, 3), the same for the same arguments.

    `emotion` is an index of `EMOTION_NAMES`, `identity` the person, and `seed` the take: head pose, light, background,
    camera and the expression's details. `intensity` in [0, 1] scales the expression (None: random, 0.55 or more),
    `occlusion` is one of `OCCLUSIONS`, and `frontal` asks for a head without rotation in plain light. Raises ValueError
    for any other argument.
    """
    face = Face(emotion, identity, seed, intensity, occlusion)
    _check(face)
    if not isinstance(size, (int, np.integer)) or not 16 <= size <= 1024:
        raise ValueError(f"size must be an integer from 16 to 1024 (pixels), not {size!r}")
    scene = _scene_of(face, frontal)
    drawn = max(240, round(size * 1.6))
    canvas = _background(drawn, drawn, scene.background, frontal)
    _paint_person(canvas, (0, 0, drawn, drawn), face, scene)
    return _develop(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), scene)


def draw_photograph(
    faces: Sequence[Face | tuple],
    boxes: Sequence[Box] | None = None,
    width: int = 480,
    height: int = 360,
    seed: int = 0,
    *,
    frontal: bool = False,
) -> Photograph:
    """Return a larger picture, uint8 RGB (height, width, 3), with people in it and the boxes of their faces in pixels.

    `faces` holds `Face` or tuples of its fields, and may be empty; `boxes` says where they are and may reach a little
    past the picture; without it they stand side by side, off the centre. A box frames the head from the crown to the
    chin, as `draw_face` does. Raises ValueError for a face or a box that cannot be drawn.
    """
    faces = [Face(*face) for face in faces]
    for face in faces:
        _check(face)
    if min(width, height) < 32:
        raise ValueError(f"a photograph must be 32 pixels wide and high or more, not {width} x {height}")
    rng = np.random.default_rng([seed, 11])
    boxes = _scatter(rng, len(faces), width, height) if boxes is None else [tuple(box) for box in boxes]
    if len(boxes) != len(faces):
        raise ValueError(f"expected one box per face, found {len(boxes)} boxes for {len(faces)} faces")
    for x, y, w, h in boxes:
        columns, rows = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
        if min(w, h) < 16 or columns < 0.6 * w or rows < 0.6 * h:
            raise ValueError(
                f"box {(x, y, w, h)} must have 16 pixels or more and lie in the {width} x {height} picture"
            )
    scale = 2 if max(width, height) <= 800 else 1
    canvas = _background(height * scale, width * scale, seed, plain=False)
    shared = make_scene(rng, frontal)
    # Who stands lower in the picture is nearer, and painted later.
    for face, box in sorted(zip(faces, boxes, strict=True), key=lambda pair: pair[1][1] + pair[1][3]):
        x, y, w, h = (scale * value for value in box)
        top, left = max(0, y - h // 2), max(0, x - w)
        view = np.ascontiguousarray(canvas[top:, left : x + 2 * w])
        scene = _scene_of(face, frontal)._replace(light=shared.light, strength=shared.strength)
        _paint_person(view, (x - left, y - top, w, h), face, scene)
        canvas[top:, left : x + 2 * w] = view
    picture = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return Photograph(_develop(picture, shared._replace(blur=0, noise=min(shared.noise, 3))), boxes)


def _scatter(rng: np.random.Generator, count: int, width: int, height: int) -> list[Box]:
    """Return square boxes side by side, off the picture's centre."""
    boxes = []
    slot = width / max(1, count)
    for index in range(count):
        side = int(min(slot, height) * rng.uniform(0.35, 0.6))
        left = int(index * slot + rng.choice((0.1, 0.9)) * (slot - side))
        boxes.append((left, int(rng.uniform(0.05, 0.8) * (height - side)), side, side))
    return boxes


# Eight people of different skin, hair, age and beard.
SHEET_IDENTITIES = (51, 54, 16, 53, 15, 26, 46, 17)


def draw_sheet(
    identities: Sequence[int] = SHEET_IDENTITIES,
    face_size: int = 104,
    seed: int = 0,
    *,
    intensity: float = 0.9,
    occlusion: str | None = None,
) -> np.ndarray:
    """Return a sheet, uint8 RGB, of all emotions (rows, named) for some identities (columns), frontal."""
    gap, label = max(2, face_size // 28), face_size
    shape = (label + len(identities) * (face_size + gap) + gap, len(EMOTION_NAMES) * (face_size + gap) + gap)
    page = Image.new("RGB", shape, (255, 255, 255))
    font = ImageFont.load_default(size=max(10, face_size // 6))
    for emotion, name in enumerate(EMOTION_NAMES):
        top = gap + emotion * (face_size + gap)
        ImageDraw.Draw(page).text((label - 2 * gap, top + face_size // 2), name, (40, 40, 46), font, anchor="rm")
        for column, identity in enumerate(identities):
            picture = draw_face(
                emotion, identity, seed, face_size, intensity=intensity, occlusion=occlusion, frontal=True
            )
            page.paste(Image.fromarray(picture), (label + gap + column * (face_size + gap), top))
    return np.array(page)
