"""Synthetic faces: pictures of people with expressions, deterministic from their arguments.

A face is a person (identity) with an expression (emotion) in a scene (seed). The accuracy a network reaches on these
faces says nothing about real ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from utils.synthetic import parts
from utils.synthetic.identity import EMOTION_NAMES, Scene, make_expression, make_identity, make_scene
from utils.synthetic.pen import Pen

OCCLUSIONS = ("hand", "mask", "sunglasses")
SHEET_IDENTITIES = (51, 44, 25, 22, 43, 36, 28, 9)  # eight people of different skin, hair and age

FaceBox = tuple[int, int, int, int]  # x (column), y (row), width, height in pixels


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
    boxes: list[FaceBox]


def _checked(face: Face) -> Face:
    """Return the face; raise ValueError when it cannot be rendered."""
    for name, number in (("emotion", face.emotion), ("identity", face.identity), ("seed", face.seed)):
        if not isinstance(number, (int, np.integer)) or number < 0:
            raise ValueError(f"{name} must be an integer that is not negative, not {number!r}")
    if face.emotion >= len(EMOTION_NAMES):
        raise ValueError(f"emotion must be an integer from 0 (Neutral) to 7 (Contempt), not {face.emotion!r}")
    if face.intensity is not None and not 0 <= face.intensity <= 1:
        raise ValueError(f"intensity must be in [0, 1], not {face.intensity!r}")
    if face.occlusion is not None and face.occlusion not in OCCLUSIONS:
        raise ValueError(f"occlusion must be None or one of {', '.join(OCCLUSIONS)}, not {face.occlusion!r}")
    return face


def _paint_person(canvas: np.ndarray, box: Sequence[float], face: Face, scene: Scene) -> None:
    """Paint a person into the canvas so that the head fills `box` (x, y, width, height, in canvas pixels)."""
    rng = np.random.default_rng([face.emotion, face.identity, face.seed])
    who = make_identity(int(face.identity))
    au = make_expression(face.emotion, rng.uniform(0.55, 1) if face.intensity is None else face.intensity, rng)
    unit = 0.325 * min(box[2], box[3])
    pen = Pen(canvas, np.array((box[0] + 0.5 * box[2], box[1] + 0.505 * box[3])) + scene.shift * unit, unit, scene)
    jaw = 0.17 * au[26].mean() + 0.04 * au[25].mean()
    parts.draw_head(pen, who, jaw)
    parts.shade_skin(pen, who, au, jaw)
    parts.draw_nose(pen, who, au)
    parts.draw_mouth(pen, who, au)
    parts.draw_eyes(pen, who, au)
    parts.draw_hair(pen, who)
    parts.draw_brows(pen, who, au)
    if face.occlusion == "sunglasses" or who.glasses:
        parts.draw_glasses(pen, who, dark=face.occlusion == "sunglasses")
    if face.occlusion == "mask":
        parts.draw_mask(pen, jaw, rng)
    if face.occlusion == "hand":
        parts.draw_hand(pen, who, rng)
    pen.light()


def _background(height: int, width: int, seed: int, plain: bool) -> np.ndarray:
    """Return a soft background, uint8 RGB (height, width, 3): a light colour, or blurred shapes."""
    rng, wild = np.random.default_rng(seed), 0 if plain else 1
    small = rng.uniform(165, 225) + rng.uniform(-14, 14, 3) - wild * rng.uniform(-20, 130)
    small = small + wild * (rng.normal(0, 28, (5, 5, 1)) + rng.normal(0, 10, (5, 5, 3)))
    way = int(rng.choice((cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_NEAREST)))
    quarter = cv2.resize(np.clip(small, 0, 255).astype(np.uint8), (width // 4, height // 4), interpolation=way)
    return cv2.resize(cv2.GaussianBlur(quarter, (0, 0), rng.uniform(0.8, 3)), (width, height))


def _develop(picture: np.ndarray, scene: Scene) -> np.ndarray:
    """Return the picture as the camera saves it: blur, exposure and noise."""
    picture = cv2.GaussianBlur(picture, (0, 0), max(0.1, scene.blur * picture.shape[0] / 96))
    noise = np.random.default_rng(scene.background).standard_normal((*picture.shape[:2], 1), dtype=np.float32)
    return np.clip(picture * np.float32(scene.exposure) + scene.noise * noise, 0, 255).astype(np.uint8)


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
    face = _checked(Face(emotion, identity, seed, intensity, occlusion))
    if not isinstance(size, (int, np.integer)) or not 16 <= size <= 1024:
        raise ValueError(f"size must be an integer from 16 to 1024 (pixels), not {size!r}")
    scene = make_scene([identity, seed, 7], frontal)
    large = max(180, round(size * 1.6))
    canvas = _background(large, large, scene.background, frontal)
    _paint_person(canvas, (0, 0, large, large), face, scene)
    return _develop(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), scene)


def draw_photograph(
    faces: Sequence[Face | tuple],
    boxes: Sequence[FaceBox] | None = None,
    width: int = 480,
    height: int = 360,
    seed: int = 0,
    *,
    frontal: bool = False,
) -> Photograph:
    """Return a larger picture, uint8 RGB (height, width, 3), with people in it and the boxes of their faces in pixels.

    `faces` holds `Face` or tuples of its fields, and may be empty; `boxes` says where they are and may reach a little
    past the picture; without it they are side by side. A box frames the head from the crown to the chin, as
    `draw_face` does. Raises ValueError for a face or a box that cannot be rendered.
    """
    faces = [_checked(Face(*face)) for face in faces]
    if min(width, height) < 32:
        raise ValueError(f"a photograph must be 32 pixels wide and high or more, not {width} x {height}")
    if boxes is None:
        slot = width // max(1, len(faces))
        side = min(slot, height) // 2
        boxes = [(index * slot + slot // 3, height // 3, side, side) for index in range(len(faces))]
    if len(boxes) != len(faces):
        raise ValueError(f"expected one box per face, found {len(boxes)} boxes for {len(faces)} faces")
    for x, y, w, h in boxes:
        columns, rows = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
        if min(w, h) < 16 or columns < 0.6 * w or rows < 0.6 * h:
            raise ValueError(f"box {(x, y, w, h)} must have 16 pixels or more and be in the {width} x {height} picture")
    scale = 2 if max(width, height) <= 800 else 1
    canvas = _background(height * scale, width * scale, seed, plain=False)
    shared = make_scene([seed, 11], frontal)
    # Whose chin is lower in the picture is nearer, and painted later.
    for face, box in sorted(zip(faces, boxes, strict=True), key=lambda pair: pair[1][1] + pair[1][3]):
        own = make_scene([face.identity, face.seed, 7], frontal)._replace(light=shared.light, strength=shared.strength)
        _paint_person(canvas, [scale * value for value in box], face, own)
    picture = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return Photograph(
        _develop(picture, shared._replace(blur=0, noise=min(shared.noise, 3))), [tuple(box) for box in boxes]
    )


def draw_sheet(identities: Sequence[int] = SHEET_IDENTITIES, face_size: int = 104) -> np.ndarray:
    """Return a sheet, uint8 RGB, of all emotions (rows, named) for some identities (columns), frontal."""
    gap = max(2, face_size // 28)
    step, grey = face_size + gap, (40, 40, 46)
    page = np.full((len(EMOTION_NAMES) * step + gap, face_size + len(identities) * step + gap, 3), 255, np.uint8)
    for emotion, name in enumerate(EMOTION_NAMES):
        top = gap + emotion * step
        label = (gap, top + face_size // 2)
        cv2.putText(page, name, label, cv2.FONT_HERSHEY_SIMPLEX, face_size / 208, grey, 1, cv2.LINE_AA)
        for column, identity in enumerate(identities, start=1):
            face = draw_face(emotion, identity, 0, face_size, intensity=0.9, frontal=True)
            page[top : top + face_size, column * step : column * step + face_size] = face
    return page
