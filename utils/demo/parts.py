"""The parts of a face, in the order in which they are painted; `au` are the action units (27, 2)."""

from typing import NamedTuple

import numpy as np

from utils.demo.identity import HAIR_VOLUME, HAIRLINES, SIDES, Identity
from utils.demo.pen import CIRCLE, Pen, ellipse, mirrored, ribbon, spline


def draw_head(pen: Pen, who: Identity, jaw: float) -> None:
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


def model_skin(pen: Pen, who: Identity, au: np.ndarray, jaw: float) -> None:
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


def draw_folds(pen: Pen, who: Identity, au: np.ndarray, corners: np.ndarray) -> None:
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


def draw_beard(pen: Pen, who: Identity, mouth: "Mouth", jaw: float) -> None:
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


def draw_nose(pen: Pen, who: Identity, au: np.ndarray) -> None:
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


def shape_mouth(who: Identity, au: np.ndarray) -> Mouth:
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


def draw_mouth(pen: Pen, who: Identity, au: np.ndarray, mouth: Mouth) -> None:
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


def draw_eyes(pen: Pen, who: Identity, au: np.ndarray) -> None:
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


def draw_brows(pen: Pen, who: Identity, au: np.ndarray) -> None:
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


def draw_hair(pen: Pen, who: Identity, rng: np.random.Generator) -> None:
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


def draw_glasses(pen: Pen, who: Identity, dark: bool) -> None:
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


def draw_mask(pen: Pen, jaw: float, rng: np.random.Generator) -> None:
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


def draw_hand(pen: Pen, who: Identity, rng: np.random.Generator) -> None:
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
