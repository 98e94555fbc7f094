"""Face detectors: who is found, once and with a score, in photographs of any size, with either OpenCV."""

import hashlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.detectors import CROWD, are_on, blend, draw_crowd
from diversified_fer.classifier import OnnxClassifier
from diversified_fer.detectors import (
    OVERLAP,
    TILE,
    YUNET,
    Found,
    YuNetDetector,
    find_faces,
    keep_best,
    keep_faces,
    levels,
    make_detector,
    square_up,
    tiles,
)
from diversified_fer.faces import columns_of, label_faces, rows_of
from diversified_fer.media.media import Frame
from utils.synthetic.faces import Face, draw_photograph

BOXES = [(20, 30, 150, 150), (210, 20, 90, 90), (340, 40, 200, 200), (60, 250, 110, 110), (250, 270, 130, 130)]
PEOPLE = [Face(1, 51, 1, 0.8), Face(0, 54, 2, 0.8), Face(3, 16, 3, 0.8), Face(6, 53, 4, 0.8), Face(2, 15, 5, 0.8)]


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return draw_photograph(PEOPLE, BOXES, 600, 440, 0, frontal=True).picture


@pytest.fixture(scope="module")
def network() -> OnnxClassifier:
    return OnnxClassifier(threads=1)


def all_found(boxes: np.ndarray, heads: list[tuple[int, int, int, int]]) -> bool:
    return len(boxes) == len(heads) and all(are_on(boxes, head).any() for head in heads)


def test_the_file_is_the_one_that_is_described():
    content = YUNET.read_bytes()
    described = YUNET.with_name("README.md").read_text("utf-8")
    assert hashlib.sha256(content).hexdigest() in described and f"{len(content):,}" in described
    assert "MIT" in described and "Permission is hereby granted" in YUNET.with_name("LICENSE-yunet").read_text("utf-8")


def test_every_detector_has_a_name(photograph):
    by_path = find_faces(photograph, make_detector(str(YUNET)))
    default = find_faces(photograph, make_detector())
    np.testing.assert_array_equal(by_path.boxes, default.boxes)
    np.testing.assert_array_equal(by_path.scores, default.scores)
    assert all_found(default.boxes, BOXES) and (default.scores > 0.7).all() and (default.scores <= 1).all()
    whole = find_faces(photograph, make_detector("none"))
    assert whole.boxes.tolist() == [[0, 0, 600, 440]] and np.isnan(whole.scores).all()
    assert make_detector(all_found) is all_found


@pytest.mark.skipif(not hasattr(cv2, "CascadeClassifier"), reason="OpenCV 5 has no cascades")
def test_the_cascade_finds_faces_without_scores_and_shrinks_large_pictures(photograph):
    found = find_faces(photograph, make_detector("haar"))
    assert all_found(found.boxes, BOXES) and np.isnan(found.scores).all()
    large = cv2.resize(photograph, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(find_faces(large, make_detector("haar")).boxes / 4, found.boxes, atol=12)


def test_an_opencv_without_cascades_says_what_to_do(monkeypatch, photograph):
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)
    monkeypatch.delattr(cv2, "data", raising=False)
    with pytest.raises(ValueError, match=r"'haar' is not in OpenCV .*; take 'yunet', or install 'opencv-python<5'"):
        make_detector("haar")
    assert all_found(find_faces(photograph, make_detector()).boxes, BOXES)


def test_detectors_are_imported_without_cascades():
    program = (
        "import cv2; vars(cv2).pop('CascadeClassifier', 0); vars(cv2).pop('data', 0); import diversified_fer.command"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_squares_are_the_training_crops_of_the_box():
    [[x, y, width, height]] = square_up(np.array([(100.0, 200.0, 40.0, 90.0)]))  # its root of the area is 60
    assert width == height == pytest.approx(1.10 * 60)
    assert x + width / 2 == pytest.approx(120) and y + height / 2 == pytest.approx(245 - 0.01 * 66)


# One box per face


def slow_keep_best(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Paint the boxes on a grid, one after the other."""
    kept = []
    for best in sorted(range(len(boxes)), key=lambda k: -scores[k]):
        painted = np.zeros((60, 60), bool)
        x, y, width, height = boxes[best]
        painted[y : y + height, x : x + width] = True
        for other in kept:
            x, y, width, height = boxes[other]
            inside = painted[y : y + height, x : x + width].sum()
            if inside > 0.5 * min(painted.sum(), width * height):
                break
        else:
            kept.append(best)
    return kept


def test_overlapping_boxes_are_kept_once_as_a_slow_loop_says():
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes = np.column_stack((rng.integers(0, 40, (12, 2)), rng.integers(5, 20, (12, 2))))
        scores = rng.random(12)
        assert keep_best(boxes, scores).tolist() == slow_keep_best(boxes, scores)


def test_one_face_with_two_boxes_is_one_face():
    face, mouth, neighbour, neckline = (
        (10, 10, 40, 40, 0.9),
        (22, 32, 16, 16, 0.8),
        (45, 10, 40, 40, 0.7),
        (12, 40, 30, 30, 0.75),
    )
    picture = np.zeros((100, 100, 3), np.uint8)
    found = find_faces(picture, lambda _: np.array([mouth, face, neighbour]))
    assert found.boxes.tolist() == [list(face[:4]), list(neighbour[:4])], "people side by side overlap a little"
    assert found.scores.tolist() == [0.9, 0.7]
    found = find_faces(picture, lambda _: np.array([mouth, face])[:, :4])
    assert found.boxes.tolist() == [list(face[:4])] and np.isnan(found.scores).all(), "without scores, the larger one"
    found = find_faces(picture, lambda _: np.array([face, neckline]))
    assert keep_faces(found, 0.8, 0).boxes.tolist() == [list(face[:4])], "a neckline below is left out by its score"


# Large and small photographs


@pytest.mark.parametrize("size", [(1, 1), (40, 3000), (480, 640), (1080, 1920), (3000, 4000), (9000, 12000)])
@pytest.mark.parametrize("video", [False, True])
def test_levels_are_bounded(size, video):
    scales = levels(size, video=video)
    pixels = [scale**2 * size[0] * size[1] for scale in scales]
    assert sum(pixels) <= 4 / 3 * (1280 * 960 if video else max(4000 * 3000, pixels[0])) and pixels[0] < 12_000_001
    assert scales[0] <= (1 if video else 2) and max(size) * scales[-1] <= 640
    assert all(fine == 2 * coarse for fine, coarse in pairwise(scales))


def test_levels_follow_the_size_that_is_asked_for():
    assert levels((3000, 4000)) == [1, 0.5, 0.25, 0.125] and levels((240, 320)) == [2]
    assert levels((3000, 4000), least_size=96) == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("size", [(5, 7), (1280, 1280), (1281, 1500), (3000, 4000)])
def test_tiles_cover_a_picture_and_overlap(size):
    picture = np.arange(size[0] * size[1], dtype=np.int64).reshape(size)
    covered, shapes = np.zeros(size, int), set()
    for left, top, tile in tiles(picture):
        np.testing.assert_array_equal(tile, picture[top : top + tile.shape[0], left : left + tile.shape[1]])
        covered[top : top + tile.shape[0], left : left + tile.shape[1]] += 1
        shapes.add(tile.shape)
    assert covered.min() == 1 and len(shapes) == 1 and max(*shapes.pop()) <= TILE
    if size == (3000, 4000):
        row = covered[500]
        seams = np.flatnonzero(np.diff((row > 1).astype(int)))
        assert len(seams) == 6 and (np.diff(seams)[::2] >= OVERLAP).all()


def test_faces_of_every_size_are_found_in_a_large_photograph():
    picture, heads = draw_crowd(1)
    picture, heads = picture[:, :2600], [head for head in heads if head[0] < 2600]
    whole = [head for head in heads if head[0] + 1.6 * head[2] < 2600]
    found = find_faces(picture, make_detector())
    for size in CROWD:
        of_size = [are_on(found.boxes, head).any() for head in whole if head[2] == size]
        assert np.mean(of_size) >= 0.95, size
    nobody = ~np.any([are_on(found.boxes, head) for head in heads], axis=0)
    assert nobody.sum() <= 2 and len(found.boxes) <= len(heads) + 2, "none twice, where tiles overlap"
    large = find_faces(picture, make_detector(least_size=100)).boxes
    assert all(are_on(large, head).any() for head in whole if head[2] >= 160)


def test_a_face_on_the_seam_of_tiles_is_found_whole():
    picture = draw_photograph([], None, 2000, 700, 0).picture
    head, place = (100, 100, 260, 260), (1000 - 230, 100)  # wider than the overlap, in the middle
    patch = draw_photograph([PEOPLE[0]], [head], 460, 460, 0, frontal=True).picture
    blend(picture, patch, *place, fade=40)
    [box] = find_faces(picture, make_detector()).boxes
    [alone] = find_faces(patch, make_detector()).boxes
    np.testing.assert_allclose(box - (*place, 0, 0), alone, atol=26)


def test_small_photos_are_enlarged(photograph):
    small = cv2.resize(photograph, None, fx=0.12, fy=0.12, interpolation=cv2.INTER_AREA)  # heads of 11 to 24 pixels
    heads = [tuple(0.12 * value for value in box) for box in BOXES]
    found = find_faces(small, make_detector())
    assert sum(are_on(found.boxes, head).any() for head in heads) == 5
    assert len(find_faces(small, make_detector(video=True)).boxes) < 3


# Scores and sizes in the table


def test_rows_have_the_detectors_score(network, photograph):
    [(frame, faces)] = label_faces(network, [Frame(photograph)])
    columns = columns_of(network)
    first = columns.index("x")
    assert columns[first : first + 6] == ["x", "y", "width", "height", "face_score", "label"]
    rows = rows_of(frame, faces, network)
    assert [row["face_score"] for row in rows] == [face.score for face in faces] and min(columns) in rows[0]
    assert all(0.7 < row["face_score"] <= 1 for row in rows)
    for detector in ("none", lambda _: np.array(BOXES)):
        [(frame, faces)] = label_faces(network, [Frame(photograph)], detector)
        assert {row["face_score"] for row in rows_of(frame, faces, network)} == {None}
    [(_, faces)] = label_faces(network, [Frame(photograph)], lambda _: np.column_stack((BOXES, np.arange(5) / 8)))
    assert {face.box: face.score for face in faces} == {box: k / 8 for k, box in enumerate(BOXES)}


def test_unsure_and_small_faces_are_left_out(network, photograph):
    def detector(_picture):
        return np.column_stack((BOXES, np.arange(5) / 8))

    def boxes(**options):
        [(_, faces)] = label_faces(network, [Frame(photograph)], detector, **options)
        return [face.box for face in faces]

    assert boxes() == sorted(BOXES)
    assert boxes(min_face_score=0.25) == sorted(BOXES[2:])
    assert boxes(min_face_size=130) == sorted(BOXES[k] for k in (0, 2, 4))
    assert boxes(min_face_score=0.25, min_face_size=150) == [BOXES[2]]
    [(_, surest)] = label_faces(network, [Frame(photograph)], min_face_score=0.9)
    [(_, usual)] = label_faces(network, [Frame(photograph)])
    assert [face.box for face in surest] == [face.box for face in usual if face.score >= 0.9]
    with pytest.raises(ValueError, match=r"min_face_score is 0.5, but this detector gives no scores"):
        list(label_faces(network, [Frame(photograph)], "none", min_face_score=0.5))
    with pytest.raises(ValueError, match="min_face_score is 90; YuNet's scores are from 0 to 1"):
        label_faces(network, [], min_face_score=90)
    with pytest.raises(ValueError, match="min_face_size is -1"):
        label_faces(network, [], min_face_size=-1)
    nobody = keep_faces(Found(np.zeros((0, 4), int), np.zeros(0)), 0.5, 30)
    assert nobody.boxes.shape == (0, 4)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 3), (1, 16_000), (9_000, 1), (31, 33)])
def test_pictures_of_any_shape_are_searched(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert len(find_faces(picture, make_detector()).boxes) == 0


def test_faces_at_the_border_are_found_where_their_middle_is_in_the_picture(photograph):
    x, y, width, height = BOXES[0]
    for cut in (photograph[:, x + width // 4 :], photograph[y + height // 4 :], photograph[: y + 3 * height // 4]):
        for left, top, *_ in find_faces(cut, make_detector()).boxes:
            assert left < cut.shape[1] and top < cut.shape[0]
    found = np.array([[-50.0, 10, 40, 40], [-10, 10, 40, 40]])  # as YuNet may say of a face that is cut
    detector = YuNetDetector()
    detector.search = lambda _: np.column_stack((found, np.zeros((2, 10)), (0.9, 0.8)))
    assert find_faces(photograph, detector).scores.tolist() == [0.8]


def test_a_lower_score_finds_more(photograph):
    assert len(YuNetDetector(least_score=0.05)(photograph)) >= len(YuNetDetector()(photograph)) == 5
