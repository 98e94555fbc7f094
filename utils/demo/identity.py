"""What is drawn: a face is a person with an expression in a scene.

An identity fixes what a person looks like (head, skin, hair, eyes, nose, lips, beard, glasses, age). An expression is a
set of facial action units (AU, numbered as in the Facial Action Coding System) per side of the face, chosen per emotion
after the prototypes of EMFACS. A scene fixes head rotation, gaze, light, background and camera.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from models.classifier import EMOTIONS as EMOTION_NAMES

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
