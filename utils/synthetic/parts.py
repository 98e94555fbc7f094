"""The parts of a face, in the order in which they are painted; `au` are the action units (27, 2)."""

import numpy as np

from utils.synthetic.identity import Identity
from utils.synthetic.pen import Pen, ellipse, outline, spline

# Index into the action units' last axis, and the sign of x on that side of the picture.
SIDES = ((0, -1), (1, 1))


def mouth_corners(who: Identity, au: np.ndarray) -> np.ndarray:
    """Return the left and the right corner (2, 2) of the mouth, in face units."""
    mean = au.mean(axis=1)
    narrow = 1 - 0.3 * mean[26] * np.clip(1 - mean[12] - mean[20], 0, 1) - 0.14 * mean[23] - 0.06 * mean[17]
    wide = who.mouth * narrow * (1 + 0.3 * au[12] + 0.26 * au[20] + 0.2 * au[14])
    drop = -0.15 * au[12] + 0.13 * au[15] + 0.035 * au[20] - 0.1 * au[14] + 0.1 * mean[26]
    return np.stack([wide * (-1, 1), 0.72 + drop], axis=1)


def draw_head(pen: Pen, who: Identity, jaw: float) -> None:
    """Paint back hair, shoulders, neck, ears and the head's skin; `jaw` is how far the chin drops."""
    end = who.haircut[1]
    if end > 0.5:
        back = [(0, -1.5), (0.72, -1.28), (1.16, -0.6), (1.25, 0.2), (1.2, end), (0, end + 0.2)]
        pen.fill(pen.at(outline(back), depth=0), who.hair * 0.72)
    shoulders = [(0, 1.5), (0.5, 1.55), (1.3, 1.85), (1.75, 2.3), (1.9, 4), (1.9, 15), (0, 15)]
    pen.fill(pen.body(outline(shoulders)), who.clothes)
    neck = [(0, 0.5), (0.5, 0.5), (0.56, 1.35), (0.75, 1.68), (0.3, 1.9), (0, 1.9)]
    pen.fill(pen.body(outline(neck)), who.skin * (0.76, 0.7, 0.68))
    for _, side in SIDES:
        pen.fill(pen.at(ellipse(side, 0.08, 0.15, 0.26), depth=-0.1), who.skin * (0.88, 0.82, 0.8))
    chin = 1.25 + jaw
    head = [(0, -1.31), (0.5, -1.18), (0.86, -0.8), (0.98, -0.33), (0.98, 0.1), (0.93, 0.42), (who.jaw, 0.74 + jaw / 2)]
    head += [(0.5 + who.chin * 0.3, 1.05 + 0.85 * jaw), (who.chin, chin - 0.03), (0, chin)]
    pen.fill(pen.at(outline(head), depth=0.05), who.skin)


def shade_skin(pen: Pen, who: Identity, au: np.ndarray, jaw: float) -> None:
    """Press soft shapes into the skin, then the creases that muscles and age make."""
    corners, mean = mouth_corners(who, au), au.mean(axis=1)
    for s, side in SIDES:
        puff = max(au[6, s], 0.6 * au[12, s])
        pen.shade(ellipse(side * who.eye_x, -0.08, 0.3, 0.2), -0.16, warmth=0.05)
        pen.shade(ellipse(side * 0.6, 0.32 - 0.07 * puff, 0.22, 0.16), 0.04 + 0.06 * puff, warmth=0.08 + 0.07 * puff)
        pen.shade(ellipse(side * 0.75, 0.66, 0.08, 0.25), -0.09 - 0.08 * who.age)
        pen.shade(ellipse(side * 0.13, 0.12, 0.05, 0.27), -0.2 if side * pen.scene.light[0] < 0 else -0.08)
    pen.shade(ellipse(0, 0.02, 0.06, 0.25), 0.12)
    pen.shade(ellipse(0, 0.34, 0.1, 0.09), 0.14, warmth=0.06)
    pen.shade(ellipse(0, 0.5, 0.24 * who.nose, 0.07), -0.24)
    pen.shade(ellipse(0, 0.98 + 0.85 * jaw, 0.24, 0.06), -0.2 - 0.1 * mean[17])
    pen.press(0.13)
    for y in (-0.6, -0.76):
        raised = 0.4 * (0.5 * mean[1] + 0.5 * mean[2]) ** 1.5 + 0.12 * who.age
        pen.crease([(-0.5, y + 0.03), (-0.2, y - 0.03), (0, y), (0.2, y - 0.03), (0.5, y + 0.03)], raised)
    pen.crease([(-0.22, 1.02), (-0.1, 0.96), (0.1, 0.96), (0.22, 1.02)], 0.55 * max(mean[17], 0.6 * mean[23]))
    for s, side in SIDES:
        unit, (x, y), eye = au[:, s], corners[s] * (side, 1), who.eye_x
        outer = eye + 0.27
        frown = 0.7 * unit[4] * (1 - 0.5 * unit[1]) + 0.1 * who.age
        cheek = 0.07 + 0.16 * who.age + 0.45 * max(unit[12], unit[14], 1.1 * unit[10], 0.9 * unit[9])
        wing, reach = (0.2 * who.nose, 0.3 - 0.06 * max(unit[9], unit[10])), max(x + 0.1, 0.42)
        for amount, *points in (
            (frown, (0.05, -0.5), (0.075, -0.38), (0.05, -0.22)),
            (0.52 * unit[9], (0.03, -0.14), (0.2, 0.0)),
            (0.52 * unit[9], (0.05, 0.0), (0.18, 0.13)),
            (cheek, wing, (0.16 + reach / 2, 0.44), (reach, min(y, 0.76) - 0.03), (reach, y + 0.05)),
            (0.1 + 0.2 * who.age + 0.4 * unit[6], (eye - 0.2, 0.08), (eye, 0.14), (eye + 0.2, 0.07)),
            (0.45 * unit[6], (outer, -0.05), (outer + 0.15, -0.15)),
            (0.45 * unit[6], (outer, 0.0), (outer + 0.15, 0.08)),
            (0.9 * unit[14] + 0.25 * unit[12], (x + 0.035, y - 0.14), (x + 0.085, y), (x + 0.035, y + 0.14)),
        ):
            pen.crease(np.array(points) * (side, 1), amount)
    pen.press(0.03)


def draw_nose(pen: Pen, who: Identity, au: np.ndarray) -> None:
    """Paint nostrils and wings, lifted by AU9 and AU10."""
    for s, side in SIDES:
        up = 0.06 * max(au[9, s], 0.7 * au[10, s])
        flared = np.array((side * who.nose * (1 + 2 * up), 1))
        wing = spline([(0.15, 0.28), (0.2, 0.37), (0.16, 0.44), (0.11, 0.425)]) - (0, up)
        pen.stroke(pen.at(wing * flared, lift=0.08), 0.028, who.skin * (0.66, 0.56, 0.54))
        nostril = ellipse(0.078, 0.43 - 0.7 * up, 0.048, 0.024 + 0.2 * up)
        pen.fill(pen.at(nostril * flared, lift=0.16), who.skin * (0.36, 0.26, 0.25))


def draw_mouth(pen: Pen, who: Identity, au: np.ndarray) -> None:
    """Paint the lips, and teeth and tongue in the opening."""
    corners, mean = mouth_corners(who, au), au.mean(axis=1)
    full = (1 - 0.65 * mean[23]) * (1 - 0.25 * mean[12]) * (1 - 0.25 * mean[20]) * (1 - 0.3 * au[14].max())
    gap = (0.1 * mean[25] + 0.32 * mean[26] * np.sqrt(mean[25])) * (1 - 0.8 * mean[23])
    centre = 0.72 - 0.05 * mean[17] * (1 - mean[25]) - 0.02 * mean[15]
    top = centre + 0.02 * mean[12] - 0.065 * mean[10] - 0.04 * mean[26] * mean[25]
    low = max(top, centre + 0.03 * mean[12] * (1 + mean[25]) + gap - 0.055 * mean[10] * (1 - mean[25]))

    def curve(middle: float, raised: float = 0.0) -> np.ndarray:
        half_way = corners * (0.5, 0.25) + (0, 0.75 * middle)
        half_way[:, 1] -= raised * (0.06 * au[10] - 0.02 * au[12])
        return spline([corners[0], half_way[0], (0, middle), half_way[1], corners[1]])

    def between(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
        return pen.at(np.concatenate([upper, lower[::-1]]), lift=0.04)

    upper, lower, bottom = curve(top, 1.25 * (gap > 0.02)), curve(low), curve(low + 0.115 * full)
    pen.fill(between(curve(top - 0.085 * full * (1 - 0.3 * mean[10]), 1), bottom), who.lips * 0.9)
    pen.fill(between(lower, bottom), who.lips * 1.06)
    if gap <= 0.025:
        pen.stroke(pen.at((upper + lower) / 2, lift=0.04), 0.025, who.lips * (0.42, 0.34, 0.36))
        return
    with pen.inside(between(upper, lower)):
        pen.fill(between(upper, lower), (70, 22, 26))
        if gap > 0.16:
            pen.fill(pen.at(ellipse(0, low, 0.2, gap * 0.42)), (186, 84, 88))
        pen.fill(between(upper, upper + (0, 0.05 + 0.07 * mean[12] + 0.05 * mean[10])), (240, 236, 226))
    pen.stroke(between(upper, lower), 0.016, who.lips * 0.55)


def draw_eyes(pen: Pen, who: Identity, au: np.ndarray) -> None:
    """Paint eyeballs in their openings, then lids and lashes."""
    # Sadness lets the lids hang and the eyes look down.
    droop = 0.6 * min(au[1].mean(), au[15].mean())
    look = pen.scene.gaze + (0, 0.04 * droop)
    x, y, w, outer = who.eye_x, -0.05, 0.22, -0.06 + 0.05 * droop
    for s, side in SIDES:
        squint = 0.035 * au[7, s] + 0.025 * (au[9, s] + au[6, s])
        high = 0.105 + 0.075 * au[5, s] - squint - 0.03 * droop - 0.5 * max(0, look[1])
        low = 0.08 + 0.015 * au[5, s] - squint - 0.025 * au[6, s] - 0.01 * au[7, s]
        upper = [(x - w, y + 0.02), (x - w / 2, y - (0.75 + 0.2 * droop) * high), (x, y - high)]
        upper += [(x + w / 2, y - (0.78 - 0.3 * droop) * high), (x + w, outer)]
        lid = spline(upper) * (side, 1)
        rim = spline([upper[-1], (x + w / 2, y + 0.85 * low), (x, y + low), (x - w / 2, y + 0.72 * low), upper[0]])
        rim *= (side, 1)
        centre = look + (side * x, y - 0.012)
        with pen.inside(pen.at(np.concatenate([lid, rim]))):
            pen.fill(pen.at(ellipse(side * x, y, w * 1.2, 0.3)), (240, 237, 234))
            pen.fill(pen.at(np.concatenate([lid, lid[::-1] + (0, 0.05)])), (190, 184, 184))
            for radius, colour in ((0.122, who.iris * 0.45), (0.105, who.iris), (0.055, (14, 12, 14))):
                pen.fill(pen.at(ellipse(*centre, radius, radius)), colour)
            pen.fill(pen.at(ellipse(centre[0] + 0.035, centre[1] - 0.04, 0.026, 0.026)), (255, 255, 255))
        pen.stroke(pen.at(lid[2:] - (0, 0.075 - 0.045 * au[5, s])), 0.02, who.skin * (0.6, 0.52, 0.5))
        pen.stroke(pen.at(lid), 0.05, who.hair * 0.3 + (14, 10, 10))
        pen.stroke(pen.at(rim), 0.015, who.skin * (0.58, 0.46, 0.44))


def draw_brows(pen: Pen, who: Identity, au: np.ndarray) -> None:
    """Paint the eyebrows, moved by AU1, AU2, AU4 and AU9."""
    colour = np.minimum(who.hair * 0.65, who.skin * 0.5)
    for s, side in SIDES:
        up, out, down, wrinkle = au[1, s], au[2, s], au[4, s], 0.06 * au[9, s]
        inner = (0.165 - 0.07 * down, -0.36 - 0.16 * up + 0.16 * down * (1 - 0.6 * up) + wrinkle)
        near = (0.31 - 0.03 * down, -0.395 - 0.12 * up - 0.09 * out + 0.15 * down * (1 - 0.65 * up) + wrinkle)
        peak = (0.51, -0.41 - 0.03 * up - 0.19 * out + 0.07 * down)
        end = (0.71, -0.315 + 0.04 * up * (1 - out) - 0.15 * out + 0.01 * down)
        line = spline([inner, near, peak, end])
        half = np.outer(np.linspace(who.brow, 0.2 * who.brow, len(line)), (0, 0.5))
        pen.fill(pen.at(np.concatenate([line - half, (line + half)[::-1]]) * (side, 1)), colour)


def draw_hair(pen: Pen, who: Identity) -> None:
    """Paint the hair in front of the skull, with strands."""
    volume, end, parting = who.haircut
    angles = np.linspace(-1.57, 1.57, 11)
    dome = np.stack([(1.03 + 0.7 * volume) * np.sin(angles), -0.36 - (1.02 + volume) * np.cos(angles)], axis=1)
    temple = min(end, 0.7)
    edge = spline([(-1, temple), *dome, (1, temple)])
    line = spline([(0.88, temple), (0.87, -0.4), (0.7, -0.7), parting, (-0.7, -0.7), (-0.87, -0.4), (-0.88, temple)])
    pen.fill(np.concatenate([pen.at(edge, depth=-0.05), pen.at(line)]), who.hair)
    for number, tip in enumerate(line[8:-8:2]):
        root = np.array((0.5 * parting[0] + 0.3 * tip[0], -1.2))
        middle = (root + tip) / 2 + (0.3 * tip[0], -0.2 * abs(tip[0]))
        pen.stroke(pen.at(spline([root, middle, tip])), 0.03, who.hair * (0.75, 1.2, 0.9)[number % 3])


def draw_glasses(pen: Pen, who: Identity, dark: bool) -> None:
    """Paint glasses; `dark` makes them sunglasses that hide the eyes."""
    frame = (24, 22, 26) if dark else who.skin * 0.5
    for _, side in SIDES:
        lens = pen.at(ellipse(side * (who.eye_x + 0.02), 0.0, 0.35, 0.25), lift=0.12)
        if dark:
            pen.fill(lens, (30, 30, 36))
        pen.stroke(np.concatenate([lens, lens[:1]]), 0.03, frame)
        pen.stroke(pen.at(np.array(((side * 0.76, -0.05), (side, -0.06))), lift=0.08), 0.03, frame)
    pen.stroke(pen.at(spline([(-0.08, -0.02), (0, -0.05), (0.08, -0.02)]), lift=0.16), 0.03, frame)


def draw_mask(pen: Pen, jaw: float, rng: np.random.Generator) -> None:
    """Paint a surgical mask over nose, mouth and chin."""
    cloth = ((150, 190, 206), (226, 230, 232), (52, 54, 62))[int(rng.integers(3))]
    half = [(0, 0.2), (0.3, 0.24), (0.9, 0.42), (0.84, 0.85 + jaw / 2), (0.5, 1.2 + jaw), (0, 1.32 + jaw)]
    pen.fill(pen.at(outline(half), lift=0.08), cloth)


def draw_hand(pen: Pen, who: Identity, rng: np.random.Generator) -> None:
    """Paint a hand with an outline before the mouth or one side of the face."""
    centre = ((0.0, 1.05), (0.6, 0.5), (-0.6, 0.5))[int(rng.integers(3))] + rng.normal(0, 0.08, 2)
    lines = [(((0, 0.4), (0, 2.2)), 0.6), (((-0.12, 0.25), (0.12, 0.25)), 0.6), (((-0.3, 0.4), (-0.62, -0.05)), 0.2)]
    lines += [(((0.9 * tip, 0.1), (1.3 * tip, -0.6)), 0.2) for tip in (-0.33, -0.11, 0.11, 0.33)]
    for grow, colour in ((0.05, who.skin * (0.62, 0.52, 0.5)), (0.0, who.skin * (0.97, 0.94, 0.92))):
        for line, width in lines:
            pen.stroke(pen.body(line + centre), width + grow, colour)
