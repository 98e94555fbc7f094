"""Who is rendered, and how: a face is a person with an expression in a scene.

A person (identity) fixes head, skin, hair, eyes, nose, lips, age and glasses. An expression is a set of facial action
units (AU, numbered as in the Facial Action Coding System) per side of the face, chosen per emotion after the prototypes
of EMFACS. A scene fixes head rotation, gaze, light, background and camera.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from models.classifier import EMOTIONS as EMOTION_NAMES

# fmt: off
ACTION_UNITS = {
    1: "inner brow raiser", 2: "outer brow raiser", 4: "brow lowerer", 5: "upper lid raiser", 6: "cheek raiser",
    7: "lid tightener", 9: "nose wrinkler", 10: "upper lip raiser", 12: "lip corner puller", 14: "dimpler",
    15: "lip corner depressor", 17: "chin raiser", 20: "lip stretcher", 23: "lip tightener", 25: "lips part",
    26: "jaw drop",
}
# Action units of each emotion in its variants; an image shows one variant. Contempt is made one-sided afterwards.
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
    ({2: 0.7, 7: 0.6, 12: 0.75, 14: 1.0}, {2: 0.5, 7: 0.7, 12: 0.65, 14: 1.0}),
)
SKIN = ((250, 219, 196), (240, 200, 172), (222, 175, 140), (196, 145, 108), (162, 114, 82), (134, 94, 70))
HAIR = ((34, 28, 28), (58, 40, 32), (96, 62, 40), (140, 92, 52), (206, 164, 98), (150, 70, 40), (170, 168, 166))
# Haircuts in face units: height above the skull, lowest point, and the parting on the forehead.
HAIRCUTS = ((0.1, 0.05, (0, -0.88)), (0.18, 1.75, (0, -1.06)), (0.16, 0.05, (0.35, -1.0)), (0.18, 0.75, (0.25, -0.95)),
            (0.14, 0.05, (0, -0.66)), (0.02, 0.0, (0, -1.0)))
EYES = ((74, 48, 30), (46, 34, 28), (96, 66, 36), (70, 110, 140), (84, 120, 78), (110, 128, 140))
# fmt: on


class Identity(NamedTuple):
    """What a person looks like; lengths are in face units or factors around 1, colours RGB in [0, 255]."""

    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    clothes: np.ndarray
    haircut: tuple[float, float, tuple[float, float]]
    jaw: float
    chin: float
    eye_x: float
    nose: float
    mouth: float
    brow: float
    age: float
    glasses: bool


class Scene(NamedTuple):
    """How the picture is taken."""

    background: int  # seed
    light: np.ndarray  # points to the lamp
    strength: float
    angles: np.ndarray  # yaw, pitch, roll in radians
    shift: np.ndarray  # in face units, as is the gaze
    gaze: np.ndarray
    exposure: float
    blur: float
    noise: float


@lru_cache(maxsize=256)
def make_identity(identity: int) -> Identity:
    """Return the person with this number; neighbouring numbers differ in their haircut."""
    rng = np.random.default_rng([identity, 1])
    haircut = HAIRCUTS[identity % len(HAIRCUTS)]
    tone = int(rng.integers(len(SKIN)))
    dark, feminine = tone > 3, haircut[1] > 0.5
    age = rng.beta(1, 2)
    colour = 6 if age > 0.7 else int(rng.integers(2 if dark else 6))
    skin = SKIN[tone] + rng.normal(0, 3, 3)
    return Identity(
        skin=skin,
        hair=HAIR[colour] + rng.normal(0, 3, 3),
        iris=np.array(EYES[int(rng.integers(2 if dark else 6))], float),
        lips=skin * 0.45 + np.array((178, 62, 66) if feminine else (176, 84, 78)) * (0.38 if dark else 0.55),
        clothes=rng.uniform(40, 210, 3),
        haircut=haircut,
        jaw=rng.uniform(0.74, 0.82) if feminine else rng.uniform(0.79, 0.9),
        chin=rng.uniform(0.26, 0.36) if feminine else rng.uniform(0.33, 0.46),
        eye_x=rng.uniform(0.385, 0.43),
        nose=rng.uniform(0.85, 1.2),
        mouth=rng.uniform(0.34, 0.4),
        brow=rng.uniform(0.09, 0.11) if feminine else rng.uniform(0.11, 0.15),
        age=age,
        glasses=bool(rng.random() < 0.22),
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


def make_scene(seeds: Sequence[int], frontal: bool) -> Scene:
    """Return a random scene, or the plain one (frontal head, soft light from above, clean camera)."""
    rng, wild = np.random.default_rng(seeds), 0.0 if frontal else 1.0
    light = np.array((-0.35, -0.5, 0.8)) + wild * rng.uniform((-0.65, -0.4, -0.4), (1.35, 0.7, 0.2))
    return Scene(
        background=int(rng.integers(2**31)),
        light=light / np.linalg.norm(light),
        strength=0.4 + wild * rng.uniform(-0.1, 0.25),
        angles=wild * np.clip(rng.normal(0, (0.2, 0.1, 0.1)), (-0.45, -0.25, -0.3), (0.45, 0.25, 0.3)),
        shift=wild * rng.normal(0, 0.05, 2),
        gaze=wild * np.clip(rng.normal(0, (0.025, 0.012)), -0.05, 0.05),
        exposure=1 + wild * rng.uniform(-0.15, 0.2),
        blur=wild * rng.uniform(-0.6, 0.7),
        noise=wild * rng.uniform(0.5, 5),
    )
