"""Drawn faces: a face with an expression, rendered from parameters and deterministic from its arguments.

An identity fixes what a person looks like (head, skin, hair, eyes, nose, lips, beard, glasses, age). An expression is a
set of facial action units (AU, numbered as in the Facial Action Coding System) per side of the face, chosen per emotion
after the prototypes of EMFACS. A scene fixes head rotation, gaze, light, background and camera. The accuracy a network
reaches on these faces says nothing about real ones.

Coordinates: "face units" have their origin in the middle of the head, x to the right of the picture, y downwards; half a
face is 1 wide, the crown lies at y = -1.3, the chin at y = 1.25. `Pen` turns them with the head and projects them.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

EMOTION_NAMES = ("Neutral", "Happiness", "Sadness", "Surprise", "Fear", "Disgust", "Anger", "Contempt")
OCCLUSIONS = ("hand", "mask", "sunglasses")
ACTION_UNITS = {
    1: "inner brow raiser", 2: "outer brow raiser", 4: "brow lowerer", 5: "upper lid raiser", 6: "cheek raiser",
    7: "lid tightener", 9: "nose wrinkler", 10: "upper lip raiser", 12: "lip corner puller", 14: "dimpler",
    15: "lip corner depressor", 17: "chin raiser", 20: "lip stretcher", 23: "lip tightener", 25: "lips part", 26: "jaw drop",
}  # fmt: skip

# Action units of each emotion in its variants; an image draws one variant. Contempt is made one-sided afterwards.
PROTOTYPES: tuple[tuple[dict[int, float], ...], ...] = (
    ({},),
    ({6: 0.9, 12: 1.0, 25: 0.9, 26: 0.15}, {6: 0.9, 12: 1.0, 25: 0.7}, {6: 0.8, 12: 1.0}),
    ({1: 1.0, 4: 0.55, 15: 1.0, 17: 0.6, 7: 0.1}, {1: 1.0, 4: 0.6, 15: 1.0, 17: 0.3}),
    ({1: 1.0, 2: 1.0, 5: 0.9, 25: 1.0, 26: 1.0}, {1: 0.9, 2: 1.0, 5: 1.0, 25: 0.8, 26: 0.8}),
    ({1: 1.0, 2: 0.45, 4: 0.75, 5: 1.0, 7: 0.3, 20: 1.0, 25: 0.9}, {1: 1.0, 2: 0.5, 4: 0.7, 5: 1.0, 20: 0.9, 25: 1.0, 26: 0.25}),
    ({4: 0.5, 6: 0.4, 7: 0.6, 9: 1.0, 10: 1.0, 15: 0.5, 17: 0.7}, {4: 0.5, 6: 0.5, 7: 0.7, 9: 1.0, 10: 1.0, 15: 0.3, 25: 0.7}),
    ({4: 1.0, 5: 0.5, 7: 0.6, 23: 1.0, 17: 0.4}, {4: 1.0, 5: 0.6, 7: 0.5, 10: 0.4, 20: 0.2, 25: 0.9, 26: 0.15}),
    ({12: 0.75, 14: 1.0, 7: 0.25, 2: 0.35}, {12: 0.6, 14: 1.0, 7: 0.3}),
)  # fmt: skip

SKIN = ((250, 219, 196), (240, 200, 172), (228, 181, 148), (206, 155, 118), (176, 124, 88), (140, 94, 66), (104, 70, 52))
HAIR = ((34, 28, 28), (58, 40, 32), (96, 62, 40), (140, 92, 52), (206, 164, 98), (150, 70, 40), (170, 168, 166))
EYES = ((74, 48, 30), (96, 66, 36), (70, 110, 140), (84, 120, 78), (110, 128, 140), (46, 34, 28))
HAIR_STYLES = ("short", "side", "long", "bald", "fringe", "curly", "bun", "bob")

Box = tuple[int, int, int, int]
"""x (column), y (row), width, height in pixels."""


class Identity(NamedTuple):
    """What a person looks like; lengths are in face units or factors around 1."""

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
    """How the picture is taken: angles in radians, gaze and shifts in face units, light towards the lamp."""

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


def make_identity(identity: int) -> Identity:
    """Return the person with this number; neighbouring numbers differ in skin and hair."""
    rng = np.random.default_rng([identity, 1])
    style = HAIR_STYLES[(identity * 3 + int(identity) // 8) % 8]
    tone = (identity * 4 + int(rng.integers(0, 3))) % 7
    age = float(np.clip(rng.normal(0.3, 0.3), 0, 1))
    feminine = style in ("long", "bob", "bun") or (style in ("fringe", "curly") and rng.random() < 0.5)
    colour = int(rng.integers(0, 2 if tone > 3 else 6))
    skin = np.array(SKIN[tone], float) + rng.normal(0, 4, 3)
    red = np.array((178, 62, 66), float) if feminine else np.array((176, 84, 78), float)
    beard = "none" if feminine else str(rng.choice(["none", "none", "stubble", "full", "moustache"]))
    return Identity(
        skin=np.clip(skin, 30, 252),
        hair=np.array(HAIR[6 if age > 0.75 and colour > 0 else colour], float) + rng.normal(0, 5, 3),
        iris=np.array(EYES[int(rng.choice((0, 5))) if tone > 3 else int(rng.integers(0, 5))], float),
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
        glasses=bool(rng.random() < 0.2),
        age=age,
        lashes=1.0 if feminine else 0.45,
    )


def make_expression(emotion: int, intensity: float, rng: np.random.Generator) -> np.ndarray:
    """Return action units as an array (27, 2): [AU number, picture side left/right], each in [0, 1]."""
    variant = PROTOTYPES[emotion][int(rng.integers(len(PROTOTYPES[emotion])))]
    units = np.zeros((27, 2))
    for number in ACTION_UNITS:
        strength = variant.get(number, 0.0)
        common = strength * intensity * rng.uniform(0.85, 1.1) + abs(rng.normal(0, 0.025))
        units[number] = common * (1 + rng.normal(0, 0.06, 2))
    if emotion == EMOTION_NAMES.index("Contempt"):
        other_side = int(rng.integers(2))
        units[[2, 12, 14], other_side] *= 0.05
    return np.clip(units, 0, 1)


def make_scene(rng: np.random.Generator, frontal: bool) -> Scene:
    """Return a random scene, or the plain one (frontal head, soft light from above, clean camera)."""
    background = int(rng.integers(2**31))
    if frontal:
        light = np.array([-0.35, -0.5, 0.8])
        return Scene(0, 0, 0, 1, np.zeros(2), np.zeros(2), light / np.linalg.norm(light), 0.4, 1, 1, 0, 0, background)
    light = np.array([rng.uniform(-1, 1), rng.uniform(-0.9, 0.2), rng.uniform(0.4, 1)])
    return Scene(
        yaw=float(np.clip(rng.normal(0, 0.2), -0.5, 0.5)),
        pitch=float(np.clip(rng.normal(0, 0.1), -0.25, 0.25)),
        roll=float(np.clip(rng.normal(0, 0.1), -0.3, 0.3)),
        zoom=rng.uniform(0.93, 1.06),
        shift=rng.normal(0, 0.05, 2),
        gaze=np.clip(rng.normal(0, [0.025, 0.012]), -0.05, 0.05),
        light=light / np.linalg.norm(light),
        strength=rng.uniform(0.3, 0.65),
        exposure=rng.uniform(0.8, 1.15),
        contrast=rng.uniform(0.8, 1.15),
        blur=max(0.0, rng.uniform(-0.6, 0.7)),
        noise=rng.uniform(0, 6),
        background=background,
    )


@lru_cache(maxsize=64)
def _spline_matrix(count: int, closed: bool, steps: int) -> np.ndarray:
    """Return the matrix (samples, count) of a Catmull-Rom spline through `count` points."""
    segments = count if closed else count - 1
    rows = np.zeros((segments * steps + (not closed), count))
    for row in range(len(rows)):
        segment, t = min(row // steps, segments - 1), row / steps - min(row // steps, segments - 1)
        basis = 0.5 * np.array([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2])
        for offset, weight in enumerate(basis, start=segment - 1):
            rows[row, offset % count if closed else min(max(offset, 0), count - 1)] += weight
    return rows


def spline(points: Sequence | np.ndarray, closed: bool = False, steps: int = 6) -> np.ndarray:
    """Return a smooth curve (samples, 2) through the points (n, 2)."""
    points = np.asarray(points, float)
    return _spline_matrix(len(points), closed, steps) @ points


def ellipse(x: float, y: float, width: float, height: float, angle: float = 0.0) -> np.ndarray:
    """Return the outline (20, 2) of an ellipse with these half axes, turned clockwise by `angle` radians."""
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    u, v = width * np.cos(turn), height * np.sin(turn)
    return np.stack([x + u * np.cos(angle) - v * np.sin(angle), y + u * np.sin(angle) + v * np.cos(angle)], axis=1)


def ribbon(line: np.ndarray, width: float, taper: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Return the outline of a stroke along `line` that is `width` wide and thins out to `taper` of it at the ends."""
    tangent = np.gradient(line, axis=0)
    normal = tangent[:, ::-1] * (-1, 1) / (np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9)
    t = np.linspace(0, 1, len(line))[:, None]
    profile = taper[0] * (1 - t) + taper[1] * t
    half = 0.5 * width * (profile + (1 - profile) * np.sin(np.pi * t) ** 0.7)
    return np.concatenate([line + normal * half, (line - normal * half)[::-1]])


class Pen:
    """Paints one person on a canvas: projects face units with the head's rotation and fills polygons.

    `relief` and `folds` are factors on the skin (128 = 1): painted roughly, blurred, then multiplied in.
    """

    def __init__(self, canvas: np.ndarray, centre: np.ndarray, unit: float, scene: Scene):
        self.canvas, self.centre, self.unit, self.scene = canvas, centre, unit, scene
        height, width = canvas.shape[:2]
        self.mask = np.zeros((height, width), np.uint8)
        self.relief = np.full((height // 3 + 1, width // 3 + 1, 3), 128, np.uint8)
        self.folds = np.full_like(canvas, 128)
        yaw, pitch, roll = scene.yaw, scene.pitch, scene.roll
        turn_yaw = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        turn_pitch = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        turn_roll = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
        self.turn = turn_roll @ turn_pitch @ turn_yaw

    def at(self, points: np.ndarray, depth: float | None = None, lift: float = 0.0) -> np.ndarray:
        """Return pixels (n, 2) of face points (n, 2), on the head's ellipsoid plus `lift`, or at a fixed `depth`."""
        x, y = points[:, 0], points[:, 1]
        surface = 0.95 * np.sqrt(np.maximum(0.0, 1 - (x / 1.12) ** 2 - (y / 1.5) ** 2))
        z = surface + lift if depth is None else np.full_like(x, depth)
        turned = np.stack([x, y, z], axis=1) @ self.turn.T
        return self.centre + self.unit * turned[:, :2] / (1.06 - 0.08 * turned[:, 2:])

    def body(self, points: np.ndarray) -> np.ndarray:
        """Return pixels (n, 2) of points of the neck and shoulders, which hardly follow the head."""
        follow = np.clip(1.8 - points[:, 1:], 0, 1) * [np.sin(self.scene.roll) * -1.0, 0]
        return self.centre + self.unit * (points + follow)

    def fill(self, pixels: np.ndarray, colour: Sequence | np.ndarray, solid: bool = False) -> None:
        """Fill a polygon; `solid` marks it as part of the person, which the light falls on."""
        corners = np.round(pixels * 16).astype(np.int32)
        cv2.fillPoly(self.canvas, [corners], [float(c) for c in colour], cv2.LINE_AA, 4)
        if solid:
            cv2.fillPoly(self.mask, [corners], 255, cv2.LINE_8, 4)

    def tone(self, pixels: np.ndarray, amount: float, fold: bool = False, warmth: float = 0.0) -> None:
        """Darken (amount < 0) or lighten the skin inside a polygon; `warmth` tints it red."""
        scale, layer = (16, self.folds) if fold else (16 / 3, self.relief)
        factor = 1 + amount * np.array([0.85, 1.0, 1.05]) + warmth * np.array([0.5, -0.6, -0.45])
        cv2.fillPoly(layer, [np.round(pixels * scale).astype(np.int32)], np.clip(128 * factor, 0, 255).tolist(), cv2.LINE_8, 4)

    def clip(self, layer: np.ndarray, pixels: Sequence[np.ndarray]) -> None:
        """Copy `layer` to the canvas inside the polygons."""
        window = np.zeros(self.mask.shape, np.uint8)
        cv2.fillPoly(window, [np.round(p * 16).astype(np.int32) for p in pixels], 255, cv2.LINE_8, 4)
        cv2.copyTo(layer, window, self.canvas)

    def press(self) -> None:
        """Multiply relief and folds into the canvas."""
        height, width = self.mask.shape
        soft = cv2.resize(cv2.GaussianBlur(self.relief, (0, 0), self.unit * 0.022), (width, height))
        folds = cv2.GaussianBlur(self.folds, (0, 0), max(0.5, self.unit * 0.014))
        cv2.multiply(self.canvas, soft, self.canvas, 1 / 128)
        cv2.multiply(self.canvas, folds, self.canvas, 1 / 128)

    def lamp(self) -> None:
        """Light the person: the head as an ellipsoid, the rest with the light's mean."""
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
        level = 1.02 - self.scene.strength + self.scene.strength * 1.25 * np.clip(0.25 + 0.75 * facing, 0, 1)
        rim = np.clip((radius - 0.72) / 0.3, 0, 1) ** 2 * 0.12
        coloured = 128 * (np.maximum(level - rim, 0.15)[..., None] ** np.array([0.9, 1.0, 1.06]))
        light = cv2.resize(np.clip(coloured, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
        light[self.mask == 0] = 128
        cv2.multiply(self.canvas, light, self.canvas, 1 / 128)


def _mirror(half: Sequence) -> np.ndarray:
    """Return a closed outline from its right half, listed from the top (x = 0) to the bottom (x = 0)."""
    right = np.asarray(half, float)
    return np.concatenate([right, right[-2:0:-1] * (-1, 1)])


def _draw_head(pen: Pen, who: Identity, jaw: float) -> None:
    """Paint back hair, shoulders, neck, ears and the head's skin; `jaw` is how far the chin drops."""
    if who.style in ("long", "bob"):
        low = 1.95 if who.style == "long" else 0.95
        back = spline(_mirror([(0, -1.5), (0.85, -1.3), (1.22, -0.6), (1.25, 0.2), (1.22, low - 0.2), (0.7, low), (0, low)]), True)
        pen.fill(pen.body(back) if who.style == "long" else pen.at(back, 0.0), who.hair * 0.72, True)
    shoulders = spline(_mirror([(0, 1.5), (0.5, 1.55), (1.3, 1.85), (1.75, 2.3), (2.0, 4.0), (0, 4.2)]), True)
    pen.fill(pen.body(shoulders), who.clothes, True)
    neck = np.array([(-0.58, 0.5), (0.58, 0.5), (0.56, 1.35), (0.75, 1.68), (0.3, 1.9), (-0.3, 1.9), (-0.75, 1.68), (-0.56, 1.35)])
    pen.fill(pen.body(neck), who.skin * 0.8, True)
    for side in (-1, 1):
        ear = ellipse(side * 1.02, 0.08, 0.13, 0.26, side * 0.15)
        pen.fill(pen.at(ear, -0.1), who.skin * (0.93, 0.88, 0.86), True)
        pen.tone(pen.at(ellipse(side * 1.04, 0.08, 0.05, 0.15, side * 0.15), -0.1), -0.3)
    chin = 1.25 * who.length + jaw
    head = [(0, -1.31), (0.52, -1.22), (0.87, -0.88), (0.97, -0.4), (0.98 * who.cheek, 0.1), (0.93 * who.cheek, 0.42)]
    head += [(who.jaw, 0.74 + 0.45 * jaw), (0.5 + who.chin * 0.3, 1.05 + 0.85 * jaw), (who.chin, chin - 0.03), (0, chin)]
    pen.fill(pen.at(spline(_mirror(head), True), 0.05), who.skin, True)
    shadow = spline([(-0.7, 0.98 + jaw), (-0.35, chin + 0.08), (0, chin + 0.12), (0.35, chin + 0.08), (0.7, 0.98 + jaw)])
    pen.tone(ribbon(pen.body(shadow + (0, 0.05)), 0.16 * pen.unit), -0.3)


def _model_skin(pen: Pen, who: Identity, au: np.ndarray, jaw: float) -> None:
    """Paint soft shapes of the face: sockets, cheeks, nose, chin."""
    dark = -1 if pen.scene.light[0] > 0 else 1
    pen.tone(pen.at(ellipse(0, -0.68, 0.5, 0.22)), 0.05)
    for side, (_, right) in ((-1, (0, 0)), (1, (0, 1))):
        puff = max(au[6, right], 0.6 * au[12, right])
        pen.tone(pen.at(ellipse(side * who.eye_x, -0.08, 0.3, 0.2)), -0.1, warmth=0.05)
        pen.tone(pen.at(ellipse(side * 0.62, 0.34 - 0.06 * puff, 0.22, 0.17)), 0.02, warmth=0.1 + 0.07 * puff)
        pen.tone(pen.at(ellipse(side * 0.57, 0.25 - 0.07 * puff, 0.17, 0.09)), 0.05 + 0.07 * puff, warmth=0.05)
        hollow = spline([(side * 0.8, 0.35), (side * 0.72, 0.62), (side * 0.6, 0.9)])
        pen.tone(ribbon(pen.at(hollow), 0.16 * pen.unit), -0.09 - 0.08 * who.age)
        pen.tone(pen.at(ellipse(side * 0.13, 0.12, 0.05, 0.27)), -0.2 if side == dark else -0.08)
    tip = 0.36 + who.nose_length - 0.04 * au[9].mean()
    pen.tone(pen.at(ellipse(0, tip + 0.13, 0.24 * who.nose_width, 0.07)), -0.24)
    pen.tone(pen.at(ellipse(0, 0.02, 0.05, 0.25), lift=0.1), 0.12)
    pen.tone(pen.at(ellipse(0, tip - 0.02, 0.1, 0.085), lift=0.22), 0.14, warmth=0.06)
    pen.tone(pen.at(ellipse(0, 0.98 + jaw * 0.85, 0.24, 0.06)), -0.2 - 0.1 * au[17].mean())
    pen.tone(pen.at(ellipse(0, 1.1 + jaw - 0.04 * au[17].mean(), 0.15, 0.08)), 0.08)
    if who.beard in ("stubble", "full"):
        stubble = [(0.93, 0.3), (0.6, 0.62), (0.42, 0.5), (0, 0.52), (0, 0.6)]
        chin = 1.27 * who.length + jaw
        lower = [(0.92, 0.35), (who.jaw, 0.76 + 0.4 * jaw), (0.45, 1.1 + 0.9 * jaw), (0, chin)]
        right = np.array([*lower[::-1], *stubble[:-1]])
        outline = pen.at(np.concatenate([right, right[::-1] * (-1, 1)]))
        pen.tone(outline, -0.2) if who.beard == "stubble" else None


def _draw_folds(pen: Pen, who: Identity, au: np.ndarray, corners: np.ndarray) -> None:
    """Paint the creases that the muscles and age make; `corners` (2, 2) are the mouth's."""

    def crease(points: Sequence, width: float, amount: float, taper: tuple[float, float] = (0, 0)) -> None:
        if amount > 0.03:
            pen.tone(ribbon(pen.at(spline(points)), width * pen.unit, taper), -min(amount, 0.75), fold=True)

    raised = 0.5 * (au[1].mean() + au[2].mean())
    for row, y in enumerate((-0.6, -0.7, -0.8)):
        amount = (0.45 * raised**1.5 + 0.12 * who.age) * (1 - 0.2 * row)
        crease([(-0.5, y + 0.03), (-0.2, y - 0.03), (0, y), (0.2, y - 0.03), (0.5, y + 0.03)], 0.035, amount)
    worried = min(au[1].mean(), au[4].mean()) * 1.5
    crease([(-0.2, -0.52), (-0.08, -0.57), (0, -0.55), (0.08, -0.57), (0.2, -0.52)], 0.035, 0.45 * worried)
    for s, side in ((0, -1), (1, 1)):
        cx, cy = corners[s]
        frown = au[4, s] * (1 - 0.5 * au[1, s])
        crease([(side * 0.05, -0.5), (side * 0.075, -0.38), (side * 0.05, -0.22)], 0.05, 0.7 * frown + 0.1 * who.age)
        crease([(side * 0.13, -0.33), (side * 0.1, -0.22), (side * 0.13, -0.13)], 0.05, 0.35 * frown)
        crease([(side * 0.03, -0.14), (side * 0.11, -0.1), (side * 0.2, 0.0)], 0.035, 0.55 * au[9, s])
        crease([(side * 0.04, -0.05), (side * 0.11, 0.0), (side * 0.19, 0.08)], 0.035, 0.55 * au[9, s])
        crease([(side * 0.05, 0.04), (side * 0.1, 0.1), (side * 0.17, 0.17)], 0.03, 0.45 * au[9, s])
        deep = 0.14 + 0.2 * who.age + 0.45 * max(au[12, s], 1.1 * au[10, s], 0.9 * au[9, s], 0.35 * au[20, s])
        start = (side * 0.2 * who.nose_width, 0.3 - 0.06 * max(au[9, s], au[10, s]))
        reach = max(abs(cx) + 0.1, 0.42)
        middle = (side * (0.32 + 0.5 * (reach - 0.32) + 0.05 * au[10, s]), 0.45 - 0.03 * au[12, s])
        crease([start, middle, (side * reach, min(cy, 0.76) - 0.03), (side * (reach + 0.01), cy + 0.05)], 0.05, deep, (0.3, 0))
        bag = who.eye_x
        crease([(side * (bag - 0.2), 0.08), (side * bag, 0.14), (side * (bag + 0.2), 0.07)], 0.035,
               0.1 + 0.2 * who.age + 0.4 * max(au[6, s], 0.6 * au[7, s]))  # fmt: skip
        for spread in (-0.09, 0.0, 0.09):
            outer = who.eye_x + who.eye_width + 0.05
            crease([(side * outer, -0.03 + spread * 0.5), (side * (outer + 0.08), -0.03 + spread),
                    (side * (outer + 0.15), -0.03 + spread * 1.9)], 0.028, 0.45 * au[6, s] + 0.2 * max(0, who.age - 0.4))  # fmt: skip
        dimple = side * (abs(cx) + 0.055)
        crease([(dimple - side * 0.02, cy - 0.1), (dimple + side * 0.02, cy), (dimple - side * 0.02, cy + 0.1)], 0.05,
               0.75 * au[14, s] + 0.25 * au[12, s] + 0.2 * au[20, s])  # fmt: skip
        crease([(cx, cy + 0.03), (cx + side * 0.05, cy + 0.12), (cx + side * 0.05, cy + 0.24)], 0.05, 0.5 * au[15, s])
    pout = 0.55 * max(au[17].mean(), 0.6 * au[23].mean())
    crease([(-0.22, 1.02), (-0.1, 0.96), (0.1, 0.96), (0.22, 1.02)], 0.045, pout)
    for x, y in ((-0.12, 1.09), (0.02, 1.07), (0.13, 1.11), (-0.04, 1.14)):
        if au[17].mean() > 0.25:
            pen.tone(pen.at(ellipse(x, y, 0.025, 0.02)), -0.3 * au[17].mean(), fold=True)


def _draw_eyes(pen: Pen, who: Identity, au: np.ndarray, look: np.ndarray) -> None:
    """Paint eyeballs in their openings, then lids and lashes; `look` is the gaze in face units."""
    inside, openings = pen.canvas.copy(), []
    painter = Pen.__new__(Pen)
    painter.__dict__.update(pen.__dict__, canvas=inside)
    lids = []
    droop = 0.6 * min(au[1].mean(), au[15].mean())
    for s, side in ((0, -1), (1, 1)):
        upper = (0.105 + 0.075 * au[5, s] - 0.035 * au[7, s] - 0.025 * au[6, s] - 0.025 * au[9, s]) * who.eye_height
        upper += -0.03 * droop - 0.5 * max(0, look[1])
        lower = (0.08 + 0.015 * au[5, s] - 0.045 * au[7, s] - 0.05 * au[6, s] - 0.025 * au[9, s]) * who.eye_height
        x, y, w = who.eye_x, -0.05, who.eye_width
        tilt = who.tilt - 0.05 * droop
        lid = spline([(side * (x - w), y + 0.02), (side * (x - 0.5 * w), y - (0.75 + 0.2 * droop) * upper),
                      (side * x, y - upper), (side * (x + 0.55 * w), y - (0.78 - 0.3 * droop) * upper - tilt * 0.5),
                      (side * (x + w), y - tilt)])  # fmt: skip
        under = spline([(side * (x + w), y - tilt), (side * (x + 0.5 * w), y + 0.85 * lower), (side * x, y + lower),
                        (side * (x - 0.5 * w), y + 0.72 * lower), (side * (x - w), y + 0.02)])  # fmt: skip
        openings.append(pen.at(np.concatenate([lid, under])))
        centre = np.array([side * x, y - 0.012]) + look
        painter.fill(pen.at(ellipse(side * x, y, w * 1.2, 0.3)), (240, 237, 234))
        painter.fill(pen.at(np.concatenate([lid, (lid + (0, 0.05))[::-1]])), (190, 184, 184))
        for radius, colour in ((0.122, who.iris * 0.45), (0.107, who.iris), (0.075, who.iris * 1.3 + 8)):
            painter.fill(pen.at(ellipse(*centre, radius, radius)), np.minimum(colour, 255))
        painter.fill(pen.at(ellipse(*centre, 0.05, 0.05)), (14, 12, 14))
        sparkle = -0.035 if pen.scene.light[0] < 0 else 0.035
        painter.fill(pen.at(ellipse(centre[0] + sparkle, centre[1] - 0.04, 0.026, 0.026)), (255, 255, 255))
        lids.append((lid, under, upper))
    pen.clip(inside, openings)
    for s, side in ((0, -1), (1, 1)):
        lid, under, upper = lids[s]
        gap = 0.075 - 0.045 * au[5, s] + 0.02 * droop
        fold = lid[2:] * 1.0 - (0, gap) + np.linspace(0, 1, len(lid) - 2)[:, None] * (side * 0.01, 0.01)
        pen.fill(ribbon(pen.at(fold), 0.022 * pen.unit), who.skin * (0.6, 0.52, 0.5))
        lash = np.concatenate([lid, [lid[-1] + (side * 0.035, -0.02 * who.lashes)]])
        pen.fill(ribbon(pen.at(lash), (0.035 + 0.025 * who.lashes) * pen.unit, (0.2, 0.3)), who.hair * 0.3 + (14, 10, 10))
        pen.fill(ribbon(pen.at(under), 0.02 * pen.unit, (0.5, 0.2)), who.skin * (0.58, 0.46, 0.44))


def _draw_brows(pen: Pen, who: Identity, au: np.ndarray) -> None:
    """Paint the eyebrows, moved by AU1, AU2 and AU4."""
    for s, side in ((0, -1), (1, 1)):
        inner_up, outer_up, down = au[1, s], au[2, s], au[4, s]
        wrinkle = 0.06 * au[9, s]
        arch = 0.02 * who.lashes
        inner = (0.155 - 0.055 * down, -0.335 - 0.17 * inner_up + 0.12 * down * (1 - 0.55 * inner_up) + wrinkle)
        near = (0.29 - 0.03 * down, -0.385 - 0.13 * inner_up - 0.05 * outer_up + 0.125 * down * (1 - 0.6 * inner_up) + wrinkle)
        peak = (0.5, -0.42 - arch - 0.02 * inner_up - 0.17 * outer_up + 0.075 * down)
        end = (0.71, -0.32 + 0.03 * inner_up * (1 - outer_up) - 0.15 * outer_up + 0.01 * down)
        line = spline(np.array([inner, near, peak, end]) * (side, 1))
        bald_or_dark = np.minimum(who.hair, 150)
        soft = bald_or_dark * 0.55 + who.skin * 0.4
        pen.fill(ribbon(pen.at(line), who.brow * 1.35 * pen.unit, (0.75, 0.1)), soft)
        pen.fill(ribbon(pen.at(line + (0, 0.008)), who.brow * pen.unit, (0.6, 0.05)), bald_or_dark * 0.72)


def _draw_nose(pen: Pen, who: Identity, au: np.ndarray) -> None:
    """Paint nostrils and wings."""
    for s, side in ((0, -1), (1, 1)):
        up = 0.06 * max(au[9, s], 0.7 * au[10, s])
        wide = who.nose_width * (1 + 0.12 * au[9, s] + 0.08 * au[10, s] + 0.06 * au[12, s])
        base = 0.42 + who.nose_length
        wing = spline([(side * 0.15 * wide, base - 0.14 - up), (side * 0.2 * wide, base - 0.05 - up), (side * 0.16 * wide, base + 0.02 - up),
                       (side * 0.11 * wide, base + 0.005 - up)])  # fmt: skip
        pen.fill(ribbon(pen.at(wing, lift=0.08), 0.032 * pen.unit, (0, 0.3)), who.skin * (0.66, 0.56, 0.54))
        nostril = ellipse(side * 0.078 * wide, base + 0.012 - up * 0.7, 0.048 * wide, 0.024 + 0.2 * up, -side * 0.25)
        pen.fill(pen.at(nostril, lift=0.16), who.skin * (0.36, 0.26, 0.25))
    line = spline([(-0.04, 0.445 + who.nose_length), (0, 0.465 + who.nose_length), (0.04, 0.445 + who.nose_length)])
    pen.fill(ribbon(pen.at(line - (0, 0.5 * up), lift=0.16), 0.022 * pen.unit), who.skin * (0.68, 0.58, 0.56))


class Mouth(NamedTuple):
    """Curves of the mouth from the left corner to the right one, in face units."""

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
    gap = (0.1 * mean[25] + 0.27 * mean[26] * mean[25]) * (1 - 0.8 * mean[23])
    narrow = 1 - 0.3 * mean[26] * np.clip(1 - mean[12] - mean[20], 0, 1) - 0.14 * mean[23] - 0.06 * mean[17]
    corners, seams = [], []
    for s, side in ((0, -1), (1, 1)):
        wide = who.mouth_width * narrow * (1 + 0.3 * au[12, s] + 0.26 * au[20, s] + 0.1 * au[14, s])
        drop = -0.15 * au[12, s] + 0.13 * au[15, s] + 0.035 * au[20, s] - 0.05 * au[14, s] + gap * 0.35
        corners.append((side * wide, middle + drop))
        seams.append(0.06 * au[10, s] - 0.02 * au[12, s])
    corners = np.array(corners)
    lift = 0.05 * mean[17] * (1 - mean[25]) + 0.02 * mean[15]
    top = middle + 0.02 * mean[12] - 0.065 * mean[10] - 0.04 * mean[26] * mean[25] - lift
    low = middle + 0.03 * mean[12] * (1 + mean[25]) + gap - lift - 0.055 * mean[10] * (1 - mean[25])
    low = max(low, top)
    thin = (1 - 0.65 * mean[23]) * (1 - 0.25 * mean[12]) * (1 - 0.25 * mean[20]) * (1 - 0.3 * au[14].max()) * who.lip
    upper_lip, lower_lip = 0.085 * thin * (1 - 0.3 * mean[10]), 0.115 * thin * (1 + 0.15 * mean[17])

    def curve(centre: float, blend: float, bump: float = 0.0, dip: float = 0.0) -> np.ndarray:
        (left_x, left_y), (right_x, right_y) = corners
        inner_left = (left_x * 0.5, left_y + (centre - left_y) * blend - bump - seams[0] * (bump > 0 or dip > 0))
        inner_right = (right_x * 0.5, right_y + (centre - right_y) * blend - bump - seams[1] * (bump > 0 or dip > 0))
        if not dip:
            return spline([corners[0], inner_left, (0, centre), inner_right, corners[1]])
        peaks = [(left_x * 0.24, centre - dip), (0, centre), (right_x * 0.24, centre - dip)]
        return spline([corners[0], inner_left, *peaks, inner_right, corners[1]])

    round_mouth = 0.72 + 0.1 * min(1, gap * 4)
    return Mouth(
        upper_outer=curve(top - upper_lip * 0.85, 0.72, dip=max(0.012, 0.03 * thin)),
        upper_inner=curve(top, round_mouth, bump=0.25 * seams[0] if gap > 0.02 else 0),
        lower_inner=curve(low, round_mouth),
        lower_outer=curve(low + lower_lip, 0.74),
        corners=corners,
        gap=float(gap),
    )


def _draw_mouth(pen: Pen, who: Identity, au: np.ndarray, mouth: Mouth) -> None:
    """Paint teeth and tongue in the opening, then the lips."""
    mean = au.mean(axis=1)
    opening = pen.at(np.concatenate([mouth.upper_inner, mouth.lower_inner[::-1]]), lift=0.02)
    lips = np.concatenate([mouth.upper_outer, mouth.lower_outer[::-1]])
    pen.fill(pen.at(lips, lift=0.04), who.lips * 0.9)
    pen.fill(pen.at(np.concatenate([mouth.lower_inner, mouth.lower_outer[::-1]]), lift=0.05), who.lips * 1.06)
    shine = mouth.lower_outer * 0.55 + mouth.lower_inner * 0.45
    pen.fill(ribbon(pen.at(shine[9:16], lift=0.05), 0.03 * pen.unit), np.minimum(who.lips * 1.2 + 6, 255))
    if mouth.gap > 0.025:
        inside = pen.canvas.copy()
        painter = Pen.__new__(Pen)
        painter.__dict__.update(pen.__dict__, canvas=inside)
        painter.fill(opening, (70, 22, 26))
        bottom = mouth.lower_inner[len(mouth.lower_inner) // 2, 1]
        if mouth.gap > 0.16:
            painter.fill(pen.at(ellipse(0, bottom, 0.2, mouth.gap * 0.42)), (186, 84, 88))
            painter.fill(pen.at(ellipse(0, bottom + 0.02, 0.03, mouth.gap * 0.36)), (160, 66, 72))
        show = 0.05 + 0.07 * mean[12] + 0.05 * mean[10] + 0.035 * mean[20]
        teeth = np.concatenate([mouth.upper_inner, (mouth.upper_inner + (0, show))[::-1]])
        painter.fill(pen.at(teeth, lift=0.02), (240, 236, 226))
        if mean[20] + mean[10] > 0.3 and mean[12] < 0.3:
            below = np.concatenate([mouth.lower_inner, (mouth.lower_inner - (0, 0.035))[::-1]])
            painter.fill(pen.at(below, lift=0.02), (226, 220, 208))
        for x in np.linspace(-0.3, 0.3, 9):
            line = np.array([(x, mouth.upper_inner[:, 1].min() - 0.02), (x, mouth.upper_inner[:, 1].max() + show)])
            painter.fill(ribbon(pen.at(line, lift=0.02), 0.008 * pen.unit, (1, 1)), (206, 200, 192)) if show > 0.07 else None
        pen.clip(inside, [opening])
        pen.fill(ribbon(pen.at(mouth.upper_inner, lift=0.02), 0.018 * pen.unit), who.lips * 0.5)
        pen.fill(ribbon(pen.at(mouth.lower_inner, lift=0.02), 0.014 * pen.unit), who.lips * 0.6)
    else:
        seam = (mouth.upper_inner + mouth.lower_inner) / 2
        pen.fill(ribbon(pen.at(seam, lift=0.04), (0.032 + 0.012 * mean[23]) * pen.unit, (0.5, 0.5)), who.lips * (0.42, 0.34, 0.36))
    for s in (0, 1):
        pen.fill(pen.at(ellipse(*mouth.corners[s], 0.022, 0.018)), who.skin * (0.5, 0.4, 0.38))
