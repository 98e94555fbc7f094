"""Synthetic faces: deterministic, expressive, and on disk as the real data sets are."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from diversified_fer.detectors import find_faces, make_detector
from utils import udemo, udemosets
from utils.synthetic import datasets, faces
from utils.synthetic.datasets import write_affectnet, write_affectnet_raw, write_fer_plus, write_rafdb
from utils.synthetic.faces import EMOTION_NAMES, OCCLUSIONS, Face, draw_face, draw_photograph, draw_sheet
from utils.synthetic.identity import ACTION_UNITS, PROTOTYPES, make_expression

FER_PLUS_VOTES = ("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear", "Contempt")
RAFDB_LABELS = ("Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral")


def read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    return picture


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_notebooks_and_other_programs_find_the_same_functions_at_their_address():
    assert all(getattr(udemo, name) is getattr(faces, name) for name in udemo.__all__)
    assert all(getattr(udemosets, name) is getattr(datasets, name) for name in udemosets.__all__)
    assert {"draw_face", "draw_photograph", "Face"} <= set(udemo.__all__)
    assert set(udemosets.__all__) == {"write_fer_plus", "write_rafdb", "write_affectnet", "write_affectnet_raw"}


def test_same_arguments_same_pixels_other_arguments_other_pixels():
    face = draw_face(3, 4, 5)
    assert face.shape == (96, 96, 3)
    assert face.dtype == np.uint8
    assert np.array_equal(face, draw_face(3, 4, 5))
    assert draw_face(3, 4, 5, 48).shape == (48, 48, 3)
    for other in (draw_face(2, 4, 5), draw_face(3, 5, 5), draw_face(3, 4, 6), draw_face(3, 4, 5, frontal=True)):
        assert not np.array_equal(face, other)


def test_every_emotion_moves_the_face_and_intensity_scales_it():
    for identity in range(4):
        neutral = draw_face(0, identity, 0, frontal=True).astype(int)
        for emotion in range(1, 8):
            strong = np.abs(draw_face(emotion, identity, 0, intensity=1.0, frontal=True) - neutral).mean()
            faint = np.abs(draw_face(emotion, identity, 0, intensity=0.1, frontal=True) - neutral).mean()
            assert strong > 1.0, (EMOTION_NAMES[emotion], identity, strong)
            assert strong > 1.5 * faint, (EMOTION_NAMES[emotion], identity, strong, faint)


def test_the_same_take_has_the_same_background_for_every_emotion():
    corners = [draw_face(emotion, 3, 9)[:6, :6] for emotion in range(8)]
    assert all(np.array_equal(corner, corners[0]) for corner in corners)


def test_expressions_follow_the_prototypes_and_contempt_is_one_sided():
    rng = np.random.default_rng(0)
    for emotion, variants in enumerate(PROTOTYPES):
        required = set.intersection(*(set(variant) for variant in variants))
        assert required <= set(ACTION_UNITS)
        for _ in range(50):
            units = make_expression(emotion, 1.0, rng)
            assert units.min() >= 0
            assert units.max() <= 1
            assert not units[[n for n in range(27) if n not in ACTION_UNITS]].any()
            for number in required:
                assert units[number].max() > 0.05
            one_sided = abs(units[14, 0] - units[14, 1]) > 0.5
            assert one_sided == (EMOTION_NAMES[emotion] == "Contempt")


@pytest.mark.parametrize("occlusion", OCCLUSIONS)
def test_occlusions_hide_what_they_should(occlusion):
    changed = np.zeros((96, 96))
    for identity in range(12):
        plain = draw_face(0, identity, 0, frontal=True).astype(int)
        hidden = draw_face(0, identity, 0, frontal=True, occlusion=occlusion).astype(int)
        changed += (np.abs(hidden - plain).max(axis=2) > 8) / 12
    eyes, mouth = changed[40:55, 20:76].mean(), changed[66:80, 34:62].mean()
    if occlusion == "sunglasses":
        assert eyes > 0.5 > 0.05 > mouth
    if occlusion == "mask":
        assert mouth > 0.9 > 0.1 > eyes
    if occlusion == "hand":
        assert changed.mean() > 0.12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"emotion": 8}, "0 .Neutral. to 7 .Contempt."),
        ({"emotion": -1}, "emotion must be an integer"),
        ({"identity": -1}, "identity must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"size": 8}, "16 to 1024"),
        ({"intensity": 1.2}, r"\[0, 1\]"),
        ({"occlusion": "scarf"}, "hand, mask, sunglasses"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_face(**({"emotion": 0, "identity": 0, "seed": 0} | arguments))


def test_emotions_can_be_told_apart_across_people():
    def features(identities: range) -> tuple[np.ndarray, np.ndarray]:
        rows, labels = [], []
        for identity in identities:
            greys = [
                cv2.resize(cv2.cvtColor(draw_face(e, identity, 0, 48, frontal=True), cv2.COLOR_RGB2GRAY), (24, 24))
                for e in range(8)
            ]
            # What all expressions of a person have in common is the person.
            rows += [(grey.astype(float) - np.mean(greys, axis=0)).ravel() for grey in greys]
            labels += range(8)
        return np.array(rows), np.array(labels)

    train, train_labels = features(range(20))
    test, test_labels = features(range(500, 510))
    centroids = np.stack([train[train_labels == emotion].mean(axis=0) for emotion in range(8)])
    distances = ((test[:, None] - centroids) ** 2).sum(axis=2)
    accuracy = (distances.argmin(axis=1) == test_labels).mean()
    assert accuracy > 0.6, f"nearest centroid {accuracy:.2f}, chance 0.125"


def test_photograph_boxes_frame_the_faces():
    people = [Face(1, 3, 0), Face(3, 16, 1)]
    boxes = [(20, 30, 120, 120), (300, 90, 140, 140)]
    with_faces = draw_photograph(people, boxes, 480, 360, seed=2, frontal=True)
    without = draw_photograph([], [], 480, 360, seed=2, frontal=True)
    assert with_faces.boxes == boxes
    assert with_faces.picture.shape == (360, 480, 3)
    changed = np.abs(with_faces.picture.astype(int) - without.picture).max(axis=2) > 12
    for x, y, w, h in boxes:
        columns = np.flatnonzero(changed[y + h // 4 : y + h // 2].any(axis=0))
        columns = columns[(columns > x - w // 2) & (columns < x + w + w // 2)]
        assert x - 3 <= columns.min() < x + 0.3 * w
        assert x + 0.7 * w < columns.max() <= x + w + 3
        rows = np.flatnonzero(changed[:, x + w // 2])
        assert y - 0.05 * h <= rows.min() < y + 0.15 * h


def test_a_face_detector_finds_frontal_faces():
    found = 0
    for seed in range(16):
        picture, (box,) = draw_photograph([(seed % 8, seed, seed)], None, 320, 240, seed, frontal=True)
        centres = [(x + w / 2, y + h / 2) for x, y, w, h in find_faces(picture, make_detector()).boxes]
        middle = (box[0] + box[2] / 2, box[1] + box[3] / 2)
        found += any(np.hypot(x - middle[0], y - middle[1]) < 0.2 * box[2] for x, y in centres)
    assert found == 16


def test_photographs_refuse_boxes_that_do_not_fit():
    with pytest.raises(ValueError, match="one box per face"):
        draw_photograph([(0, 0, 0)], [])
    with pytest.raises(ValueError, match="480 x 360"):
        draw_photograph([(0, 0, 0)], [(470, 10, 100, 100)])
    assert len(draw_photograph([(0, 0, 0), (1, 1, 1), (2, 2, 2)]).boxes) == 3


def test_sheet_has_a_row_per_emotion_and_a_column_per_person():
    sheet = draw_sheet(identities=(1, 2, 3), face_size=32)
    assert sheet.shape == (8 * 34 + 2, 32 + 3 * 34 + 2, 3)
    assert sheet[:, :30].min() < 160, "the names of the emotions are printed"


def test_affectnet_on_disk(tmp_path):
    root = write_affectnet(tmp_path / "affectnet", images_per_class=3, validation_per_class=1, image_size=64)
    for name, count in (("Training_Labeled", 24), ("Validation", 8), ("Training_Unlabeled", 16)):
        files = sorted((root / name / "0").iterdir())
        fields = [re.fullmatch(r"(\d{7})_([0-7])_(-?\d{1,4})_(-?\d{1,4})\.jpg", file.name).groups() for file in files]
        assert [int(number) for number, *_ in fields] == list(range(count))
        assert set(Counter(emotion for _, emotion, *_ in fields).values()) == {count // 8}
        assert all(-1000 <= int(value) <= 1000 for _, _, *affect in fields for value in affect)
        happy = [int(valence) for _, emotion, valence, _ in fields if emotion == "1"]
        sad = [int(valence) for _, emotion, valence, _ in fields if emotion == "2"]
        assert min(happy) > 0 > max(sad)
        assert all(read(file).shape == (64, 64, 3) for file in files)


def test_affectnet_folders_hold_500_images(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.synthetic.datasets.draw_face", lambda *_, **__: np.zeros((16, 16, 3), np.uint8))
    root = write_affectnet(tmp_path / "affectnet", images_per_class=64, validation_per_class=0)
    counts = [len(list((root / "Training_Labeled" / folder).iterdir())) for folder in "01"]
    assert counts == [500, 12]


def test_affectnet_first_release_on_disk(tmp_path):
    root = write_affectnet_raw(tmp_path / "raw", images_per_class=2, validation_per_class=1)
    expected = {
        "training.csv": (
            "Manually_Annotated_Images",
            Counter({str(e): 2 for e in range(8)} | {"8": 1, "9": 1, "10": 1}),
        ),
        "validation.csv": ("Manually_Annotated_Images", Counter({str(e): 1 for e in range(8)})),
        "automatically_annotated.csv": ("Automatically_Annotated_Images", Counter({str(e): 2 for e in range(8)})),
    }
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    for name, (folder, counts) in expected.items():
        lines = (root / name).read_text().splitlines()
        assert lines[0] == header
        rows = list(csv.DictReader(lines))
        assert Counter(row["expression"] for row in rows) == counts
        for row in rows:
            assert re.fullmatch(r"\d+/[0-9a-f]{56}\.jpg", row["subDirectory_filePath"])
            height, width = read(root / folder / row["subDirectory_filePath"]).shape[:2]
            x, y, w, h = (int(row[f"face_{key}"]) for key in ("x", "y", "width", "height"))
            assert 0 <= x < x + w <= width
            assert 0 <= y < y + h <= height
            landmarks = np.array(row["facial_landmarks"].split(";"), float).reshape(68, 2)
            assert (landmarks > (x, y)).all()
            assert (landmarks < (x + w, y + h)).all()
            rejected = row["expression"] in ("9", "10")
            assert (float(row["valence"]) == -2) == (float(row["arousal"]) == -2) == rejected


def test_affectnet_current_release_on_disk(tmp_path):
    root = write_affectnet_raw(tmp_path / "raw", images_per_class=1, validation_per_class=1, release="current")
    for name in ("train_set", "val_set"):
        images = sorted((root / name / "images").iterdir(), key=lambda path: int(path.stem))
        assert [path.name for path in images] == [f"{number}.jpg" for number in range(8)]
        notes = root / name / "annotations"
        assert len(list(notes.iterdir())) == 32
        for path in images:
            assert read(path).shape == (224, 224, 3)
            assert np.load(notes / f"{path.stem}_lnd.npy").shape == (136,)
            assert all(abs(float(np.load(notes / f"{path.stem}_{key}.npy"))) <= 1 for key in ("val", "aro"))
        labels = [np.load(notes / f"{path.stem}_exp.npy") for path in images]
        assert all(label.shape == () and label.dtype.kind == "U" for label in labels)
        assert sorted(str(label) for label in labels) == list("01234567")


def test_fer_plus_on_disk(tmp_path):
    root = write_fer_plus(tmp_path / "ferplus", images_per_class=12, validation_per_class=2, test_per_class=1)
    names = []
    for split, per_class in (("Train", 12), ("Valid", 2), ("Test", 1)):
        with (root / "Labels" / f"FER2013{split}" / "label.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        votes = np.array([[int(count) for count in row[2:]] for row in rows])
        assert votes.shape == (8 * per_class + 2, 10)
        assert (votes.sum(axis=1) == 10).all()
        assert all(row[1] == "(0, 0, 48, 48)" for row in rows)
        assert sorted(row[0] for row in rows) == sorted(p.name for p in (root / "Images" / f"FER2013{split}").iterdir())
        assert all(read(root / "Images" / f"FER2013{split}" / row[0]).shape == (48, 48) for row in rows)
        assert (votes.argmax(axis=1) >= 8).sum() == 2
        names += [row[0] for row in rows]
        if split == "Train":
            kept = votes.max(axis=1) > 0.5 * np.where(votes > 1, votes, 0).sum(axis=1)
            majority = Counter(
                FER_PLUS_VOTES[c] for c, k in zip(votes.argmax(axis=1), kept, strict=True) if k and c < 8
            )
            assert set(majority) == set(EMOTION_NAMES)
            assert min(majority.values()) >= 8
            assert sum(majority.values()) < 8 * per_class, "some faces are ambiguous"
    assert names[0] == "fer0000000.png"
    assert len(set(names)) == len(names)


def test_rafdb_on_disk_means_the_same_in_its_three_layouts(tmp_path):
    labelled = {}
    for layout in ("folders", "official", "official_folders"):
        root = write_rafdb(tmp_path / layout, images_per_class=2, test_per_class=1, layout=layout)
        if layout == "official":
            lines = (root / "EmoLabel" / "list_patition_label.txt").read_text().splitlines()
            assert all(re.fullmatch(r"(train|test)_\d{5}\.jpg [1-7]", line) for line in lines)
            entries = [line.removesuffix(line[-2:]).removesuffix(".jpg") for line in lines]
            paths = [root / "Image" / "aligned" / f"{entry}_aligned.jpg" for entry in entries]
            emotions = [RAFDB_LABELS[int(line[-1]) - 1] for line in lines]
        else:
            paths = sorted(root.glob("t*/?/*.jpg"))
            order = RAFDB_LABELS if layout == "official_folders" else EMOTION_NAMES
            first = 1 if layout == "official_folders" else 0
            emotions = [order[int(path.parent.name) - first] for path in paths]
        assert Counter(emotions) == Counter({name: 3 for name in EMOTION_NAMES[:7]})
        assert all(read(path).shape == (100, 100, 3) for path in paths)
        labelled[layout] = {path.read_bytes(): emotion for path, emotion in zip(paths, emotions, strict=True)}
    assert labelled["folders"] == labelled["official"] == labelled["official_folders"]


def test_a_written_set_is_deterministic_stamped_and_left_alone(tmp_path):
    root = write_rafdb(tmp_path / "a", images_per_class=1, test_per_class=1, seed=3)
    assert tree(root) == tree(write_rafdb(tmp_path / "b", images_per_class=1, test_per_class=1, seed=3))
    assert json.loads((root / ".synthetic.json").read_text())["seed"] == 3
    picture = next(root.rglob("*.jpg"))
    picture.write_bytes(b"mine")
    assert write_rafdb(root, images_per_class=1, test_per_class=1, seed=3) == root
    assert picture.read_bytes() == b"mine"
    with pytest.raises(FileExistsError, match="nothing was changed"):
        write_rafdb(root, images_per_class=2, test_per_class=1, seed=3)
    assert picture.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_users_folder_is_never_touched(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photo.jpg").write_bytes(b"mine")
    for write in (write_affectnet, write_affectnet_raw, write_fer_plus, write_rafdb):
        with pytest.raises(FileExistsError, match="data"):
            write(tmp_path / "data")
    assert tree(tmp_path) == {"data/photo.jpg": b"mine"}


def test_an_interrupted_set_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("power cut")

    monkeypatch.setattr("utils.synthetic.datasets.draw_face", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        write_rafdb(tmp_path / "rafdb", images_per_class=1, test_per_class=1)
    assert list(tmp_path.iterdir()) == []
