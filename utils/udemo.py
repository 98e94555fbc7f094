"""Drawn faces: a face with an expression, rendered from parameters and deterministic from its arguments.

A face is a person (identity) with an expression (emotion) in a scene (seed); `utils.demo` holds what they are made of.
The accuracy a network reaches on these faces says nothing about real ones.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.demo.identity import (
    ACTION_UNITS,
    EMOTION_NAMES,
    OCCLUSIONS,
    PROTOTYPES,
    Box,
    Face,
    Photograph,
    Scene,
    make_expression,
    make_identity,
    make_scene,
)
from utils.demo.parts import (
    draw_beard,
    draw_brows,
    draw_eyes,
    draw_folds,
    draw_glasses,
    draw_hair,
    draw_hand,
    draw_head,
    draw_mask,
    draw_mouth,
    draw_nose,
    model_skin,
    shape_mouth,
)
from utils.demo.pen import Pen

__all__ = [
    "ACTION_UNITS",
    "EMOTION_NAMES",
    "OCCLUSIONS",
    "PROTOTYPES",
    "SHEET_IDENTITIES",
    "Box",
    "Face",
    "Photograph",
    "draw_face",
    "draw_photograph",
    "draw_sheet",
    "make_expression",
]


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
    mouth = shape_mouth(who, au)
    draw_head(pen, who, jaw)
    model_skin(pen, who, au, jaw)
    draw_folds(pen, who, au, mouth.corners)
    pen.press()
    draw_beard(pen, who, mouth, jaw)
    draw_nose(pen, who, au)
    draw_mouth(pen, who, au, mouth)
    draw_eyes(pen, who, au)
    draw_hair(pen, who, np.random.default_rng([face.identity, 2]))
    draw_brows(pen, who, au)
    if face.occlusion == "sunglasses" or who.glasses:
        draw_glasses(pen, who, dark=face.occlusion == "sunglasses")
    if face.occlusion == "mask":
        draw_mask(pen, jaw, rng)
    if face.occlusion == "hand":
        draw_hand(pen, who, rng)
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
