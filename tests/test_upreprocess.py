"""Raw data sets drawn in tmp_path in their released formats, converted, and compared with what was drawn."""

import csv
import itertools
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.preparing import crop as cropping
from utils.preparing import preprocess as preprocessing
from utils.preparing.annotations import BadRow, Box
from utils.preparing.crop import crop_face
from utils.preparing.preprocess import pre_process_affect_net, pre_process_fer_plus
from utils.udemo import draw_photograph

HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
QUADRANTS = {
    "top left": (0, 0, 230),
    "top right": (0, 230, 0),
    "bottom left": (230, 0, 0),
    "bottom right": (0, 230, 230),
}
BACKGROUND = (120, 40, 200)


def photograph(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A flat background with a box (x, y, width, height) whose quarters have the four colours, cut off at the edges."""
    image = np.full((height, width, 3), BACKGROUND, np.uint8)
    x, y, width, height = box
    tops, lefts = (y, y + height // 2, y + height), (x, x + width // 2, x + width)
    for (i, j), colour in zip(itertools.product((0, 1), repeat=2), QUADRANTS.values(), strict=True):
        image[max(tops[i], 0) : max(tops[i + 1], 0), max(lefts[j], 0) : max(lefts[j + 1], 0)] = colour
    return image


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    parameters = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(suffix, image, parameters if suffix == ".jpg" else [])[1].tobytes()


def textured(height: int, width: int, seed: int = 0, detail: float = 3.0) -> np.ndarray:
    """Smooth noise, with structures from `detail` pixels upwards."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3)).astype(np.float32)
    smooth = sum(detail * s * cv2.GaussianBlur(noise, (0, 0), detail * s) for s in (1, 3))
    return np.clip(128 + 50 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def table(path: Path, rows: list[str], header: str = HEADER) -> Path:
    write(path, "\n".join([header, *rows, ""]).encode())
    return path


def row(name: str, box: tuple = (0, 0, 40, 40), labels: str = "3,-0.25,0.731") -> str:
    return f"{name},{','.join(map(str, box))},1.0;2.0,{labels}"


def first_release(root: Path, rows: list[str], photographs: dict[str, bytes], name: str = "training.csv") -> Path:
    for file, data in photographs.items():
        write(root / "Manually_Annotated_Images" / file, data)
    table(root / name, rows)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def errors(folder: Path) -> list[list[str]]:
    with (folder / "errors.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    assert header == ["row", "file", "reason"]
    return rows


# ---------------------------------------- crops
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(
    "box",
    [(30, 310, 60, 44), (371, 7, 24, 70), (150, 97, 201, 130), (1, 2, 397, 390)],
    ids=["bottom left", "top right", "large", "nearly all"],
)
def test_crop_is_exactly_the_box(box: tuple, suffix: str) -> None:
    """A neighbour's row or column in the crop, a shift or a swap of x and y would show at the quarters' borders."""
    crop = crop_face(encode(photograph(400, 400, box), suffix), Box(*box), 96).astype(int)
    limit = 3 if suffix == ".png" else 40  # JPEG leaks across the box's edge, a background pixel differs by up to 230
    for (vertical, horizontal), colour in zip(
        itertools.product((slice(0, 46), slice(50, 96)), repeat=2), QUADRANTS.values(), strict=True
    ):
        assert np.abs(crop[vertical, horizontal] - colour).max() <= limit
        assert np.abs(crop[vertical, horizontal].mean((0, 1)) - colour).max() < 3


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ((-60, -40, 120, 80), {"bottom right": (0, 96, 0, 96)}),  # its centre is the picture's corner
        ((240, 160, 120, 80), {"top left": (0, 96, 0, 96)}),
        ((-60, 50, 120, 80), {"top right": (0, 48, 0, 96), "bottom right": (48, 96, 0, 96)}),
        ((100, -40, 120, 80), {"bottom left": (0, 96, 0, 48), "bottom right": (0, 96, 48, 96)}),
        ((240, -40, 120, 80), {"bottom left": (0, 96, 0, 96)}),
    ],
)
def test_box_past_the_edges_is_clipped(box: tuple, shown: dict) -> None:
    crop = crop_face(encode(photograph(200, 300, box)), Box(*box), 96).astype(int)
    for name, (top, bottom, left, right) in shown.items():
        inner = crop[top + 2 : bottom - 2, left + 2 : right - 2]
        assert np.abs(inner - QUADRANTS[name]).max() <= 2, name


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("offset", [(0, 0), (5, 3), (-11, 13)])
def test_reduced_decoding_equals_full_decoding(reduction: int, offset: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    side = 60 * reduction + 5
    data = encode(textured(side + 41, side + 67, detail=2 * reduction), ".jpg")
    box = Box(offset[0] + 20, offset[1] + 20, side, side + 2)
    used = []
    monkeypatch.setattr(cropping, "_decode", lambda d, k, decode=cropping._decode: used.append(k) or decode(d, k))
    crop = crop_face(data, box, 48).astype(int)
    assert used == [reduction]
    full = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    face = full[max(box.top, 0) : box.top + box.height, max(box.left, 0) : box.left + box.width]
    expected = cv2.resize(face, (48, 48), interpolation=cv2.INTER_AREA).astype(int)
    difference = np.abs(crop - expected)
    assert difference.max() <= 8 and difference.mean() < 1
    shift = np.abs(crop[:, 1:] - expected[:, :-1])
    assert shift.mean() > 8 * difference.mean()  # a shift by an eighth of a pixel would not pass


def test_a_face_of_twice_the_size_asked_for_is_decoded_at_half_size_and_looks_the_same() -> None:
    box = (301, 207, 460, 455)
    picture = draw_photograph([(1, 0, 0)], [box], 1000, 1000).picture[:, :, ::-1]
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    expected = cv2.resize(whole[207:662, 301:761], (224, 224), interpolation=cv2.INTER_AREA)
    assert cv2.PSNR(crop_face(data, Box(*box), 224), expected) > 42  # JPEG at quality 95 costs as much
    assert cv2.PSNR(crop_face(data, Box(302, *box[1:]), 224), expected) < 42  # a pixel beside it is another crop


@pytest.mark.parametrize("box", [(211, 97, 801, 800), (13, 502, 797, 640), (-100, 300, 900, 800)])
def test_reduced_decoding_lands_on_the_marked_pixels(box: tuple) -> None:
    """Where the quarters meet is where the crop changes its colour, to a quarter of a pixel of the result."""
    data = encode(photograph(1203, 1101, box), ".jpg")
    crop = crop_face(data, Box(*box), 48).astype(float)
    left, right = max(box[0], 0), min(box[0] + box[2], 1101)
    top, bottom = max(box[1], 0), min(box[1] + box[3], 1203)
    green = crop[4:20, :, 1].mean(0) / 230  # upper half: 0 at the left, 1 at the right of the middle
    blue = crop[:, 2:10, 0].mean(1) / 230  # left half: 0 above, 1 below the middle
    assert 48 - green.sum() == pytest.approx((box[0] + box[2] // 2 - left) / (right - left) * 48, abs=0.25)
    assert 48 - blue.sum() == pytest.approx((box[1] + box[3] // 2 - top) / (bottom - top) * 48, abs=0.25)


def test_sides_that_shrink_are_averaged() -> None:
    """Every pixel of the box counts, also when the other side grows."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 10, 3), dtype=np.uint8)
    means = noise.reshape(40, 10, 10, 3).mean(axis=1)  # (rows of the result, rows averaged, columns, channels)
    for tall, expected in ((noise, means), (noise.transpose(1, 0, 2), means.transpose(1, 0, 2))):
        grown = cv2.resize(expected, (40, 40), interpolation=cv2.INTER_LINEAR)
        assert np.abs(crop_face(encode(tall), None, 40) - grown).max() <= 1.5
    square = np.random.default_rng(1).integers(0, 256, (200, 320, 3), dtype=np.uint8)
    means = square.reshape(20, 10, 20, 16, 3).mean(axis=(1, 3))
    assert np.abs(crop_face(encode(square), None, 20) - means).max() <= 1


def test_exif_orientation_is_ignored() -> None:
    box = (20, 100, 80, 60)
    plain = encode(photograph(200, 300, box), ".jpg")
    tiff = b"II*\x00" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 1, 6) + bytes(4)  # orientation 6: a quarter turn
    exif = b"Exif\x00\x00" + tiff
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (300, 200, 3)  # the note is valid
    assert np.array_equal(crop_face(turned, Box(*box), 96), crop_face(plain, Box(*box), 96))


def test_every_kind_of_picture_becomes_three_channels() -> None:
    grey = textured(80, 80)[:, :, 0]
    colour = np.repeat(grey[:, :, None], 3, axis=2)
    expected = crop_face(encode(colour), Box(3, 4, 60, 70), 32)
    kinds = {
        "grey": grey,
        "opaque": np.dstack([colour, np.full_like(grey, 255)]),
        "16 bit": colour.astype(np.uint16) * 257,
        "grey, 16 bit": grey.astype(np.uint16) * 257,
    }
    for kind, image in kinds.items():
        crop = crop_face(encode(image), Box(3, 4, 60, 70), 32)
        assert crop.shape == (32, 32, 3) and crop.dtype == np.uint8, kind
        assert np.abs(crop.astype(int) - expected).max() <= 1, kind


@pytest.mark.parametrize("lost", [1, 2, 50, 0.5, 0.9])
def test_truncated_jpeg_is_no_picture(lost: float) -> None:
    """Also with a thumbnail in its header, whose end is not the picture's."""
    plain = encode(textured(300, 200), ".jpg")
    thumbnail = encode(textured(20, 20), ".jpg")
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + plain[2:]
    crop_face(data, None, 96)
    crop_face(data + b"trailing bytes", None, 96)
    with pytest.raises(BadRow, match="truncated"):
        crop_face(data[: -lost if lost >= 1 else int(len(data) * (1 - lost))], None, 96)


# ---------------------------------------- whole data sets
def test_names_folders_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels = ["0,0,0", "3,-0.25,0.731", "10,-2,-2", "8,-0.0004,1", "7,0.0166667,-1.0", "9,-2,-2"]
    rows = [row("1/a.jpg", labels=labels[i % 6]) for i in range(502)]
    raw = first_release(tmp_path / "raw", rows, {"1/a.jpg": encode(textured(50, 50), ".jpg")})
    result = pre_process_affect_net(str(raw), str(raw), str(tmp_path / "out"))
    folder = tmp_path / "out" / "Training_Labeled"
    files = contents(folder)
    assert errors(folder) == [] and result.destination == folder
    names = ["0_0_0_0", "1_3_-250_731", "2_10_-2000_-2000", "3_8_0_1000", "4_7_17_-1000", "5_9_-2000_-2000"]
    names = [f"0/000000{name}.jpg" for name in names]
    assert set(names) < set(files) and len(files) == 502 + 3
    assert [name for name in files if name[:2] == "1/"] == ["1/0000500_10_-2000_-2000.jpg", "1/0000501_8_0_1000.jpg"]
    image = cv2.imread(str(folder / names[0]))
    assert image.shape == (96, 96, 3)
    assert (result.rows, result.written, result.already_there, result.errors) == (502, 502, 0, 0)
    assert result.counts["Neutral"] == 84 and result.counts["None"] == 84 and result.counts["Anger"] == 0
    assert sum(result.counts.values()) == 502
    assert "502 rows: 502 written" in capsys.readouterr().out

    again = pre_process_affect_net(raw, raw, tmp_path / "out")
    assert (again.written, again.already_there, again.counts) == (0, 502, result.counts)
    assert contents(folder) == files


def test_each_bad_row_is_listed_once_and_the_rest_is_written(tmp_path: Path) -> None:
    jpeg, png = encode(textured(60, 60), ".jpg"), encode(textured(60, 60))
    photographs = {
        "1/good.jpg": jpeg,
        "1/good.png": png,
        "1/empty.jpg": b"",
        "1/text.jpg": b"<html>404</html>",
        "1/cut.jpg": jpeg[: len(jpeg) // 2],
        "1/cut.png": png[: len(png) // 2],
        "1/zeros.jpg": jpeg[:300] + bytes(len(jpeg) - 300),
        "1/größe.jpg": jpeg,
    }
    rows = {
        row("1/good.jpg"): "",
        row("1/absent.jpg"): "missing",
        "1/good.jpg,1,2": "3 columns",
        row("1/good.jpg") + ",extra": "10 columns",
        row("1/good.jpg", labels="three,0,0"): "expression",
        row("1/good.png"): "",
        row("1/empty.jpg"): "empty",
        row("1/text.jpg"): "corrupt",
        row("1/cut.jpg"): "truncated",
        row("1/cut.png"): "corrupt",
        row("1/zeros.jpg"): "truncated",
        row("1/good.jpg", ("nan", 0, 9, 9)): "face_x",
        row("1/good.jpg", (0, "x", 9, 9)): "face_y",
        row("1/good.jpg", (0, 0, "inf", 9)): "face_width",
        row("1/good.jpg", (0, 0, 9, "")): "face_height",
        row("1/good.jpg", (60, 0, 9, 9)): "outside",
        row("1/good.jpg", (0, -9, 9, 9)): "outside",
        row("1/good.jpg", (5, 5, 0, 9)): "no area",
        row("1/good.jpg", (5, 5, 9, -3)): "no area",
        row("1/good.jpg", (50, 50, 1000000, 1e12)): "",
        row("1/good.jpg", labels="11,0,0"): "expression",
        row("1/good.jpg", labels="-1,0,0"): "expression",
        row("1/good.jpg", labels="2.5,0,0"): "expression",
        row("1/good.jpg", labels="2,nan,0"): "valence",
        row("1/good.jpg", labels="2,0,"): "arousal",
        row("1/good.jpg", labels="2,7,0"): "valence",
        '"' + row("1/good.jpg"): "columns",  # a quotation mark that never ends must not swallow the rows below
        row("1/größe.jpg"): "",
        row("", labels="1,0,0"): "no picture",
        row("1"): "missing",  # a folder
        row("1/" + "x" * 300): "cannot be reached",
        row("1/go\0od.jpg"): "missing",
        "x" * 200_000: "",
        row("1/good.jpg", labels="1.0,0.5,0.5"): "",
    }
    rows = {text: reason if len(text) < 100_000 else "no CSV" for text, reason in rows.items()}
    raw = first_release(tmp_path / "raw", list(rows), photographs)
    result = pre_process_affect_net(raw, raw, tmp_path / "out", num_workers=3)
    folder = tmp_path / "out" / "Training_Labeled"

    good = [number for number, reason in enumerate(rows.values()) if not reason]
    assert sorted(int(path.name[:7]) for path in folder.rglob("*.jpg")) == good
    listed = errors(folder)
    assert [int(number) for number, _, _ in listed] == [n for n, reason in enumerate(rows.values()) if reason]
    for (_, file, reason), (text, expected) in zip(listed, [item for item in rows.items() if item[1]], strict=True):
        assert expected in reason, (text[:100], reason)
        if expected not in ("columns", "no CSV"):
            assert file == text.split(",")[0]
    assert (result.rows, result.written, result.errors) == (len(rows), len(good), len(rows) - len(good))

    write(raw / "Manually_Annotated_Images/1/absent.jpg", jpeg)  # found later: written, and no longer listed
    assert pre_process_affect_net(raw, raw, tmp_path / "out").written == 1
    assert "1" not in [number for number, _, _ in errors(folder)] and len(errors(folder)) == len(listed) - 1


def test_a_picture_that_cannot_be_read_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg = encode(textured(50, 50), ".jpg")
    raw = first_release(tmp_path / "raw", [row("a.jpg"), row("locked.jpg")], {"a.jpg": jpeg, "locked.jpg": jpeg})
    read_bytes = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "locked.jpg":
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    result = pre_process_affect_net(raw, raw, tmp_path / "out")
    assert result.written == 1
    assert errors(result.destination) == [["1", "locked.jpg", "the picture cannot be read: Permission denied"]]


def test_errors_keep_the_order_of_the_rows_and_few_rows_are_in_flight() -> None:
    handed_out, done = [], []

    def jobs():
        for number in range(300):
            handed_out.append(number)
            assert len(handed_out) - len(done) <= 12 + 1
            yield (number,)

    def work(number: int) -> int:
        time.sleep(0.05 if number % 50 == 0 else 0)  # the oldest is the slowest
        return number

    with preprocessing.ThreadPoolExecutor(4) as executor:
        for number in preprocessing._in_order(executor, work, jobs(), ahead=12):
            done.append(number)
    assert done == list(range(300))


def test_opencv_threads_are_restored(tmp_path: Path) -> None:
    raw = first_release(tmp_path / "raw", [row("1/a.jpg")], {"1/a.jpg": encode(textured(50, 50), ".jpg")})
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        pre_process_affect_net(raw, raw, tmp_path / "out")
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize(
    ("images", "annotations", "set_index", "stored", "table_name"),
    [
        (".", ".", 1, "Manually_Annotated_extracted/7/a.jpg", "Manually_training.csv"),
        (".", ".", 1, "Manually_Annotated_extracted/a.jpg", "training.csv"),
        (".", ".", 2, "Manually_Annotated/Manually_Annotated_Images/7/a.jpg", "validation.csv"),
        (
            ".",
            "Manually_Annotated_file_lists",
            2,
            "Manually_Annotated_compressed/a.jpg",
            "Manually_Annotated_file_lists/Manually_validation.csv",
        ),
        (".", ".", 1, "Manually_Annotated_Images/7/a.jpg", "Manually_Annotated_file_lists/training.csv"),
        ("faces", "my.csv", 1, "faces/a.jpg", "my.csv"),
        ("Manually_Annotated_Images", ".", 2, "Manually_Annotated_Images/7/a.jpg", "Validation.csv"),
        (".", ".", 0, "Automatically_Annotated_Images/7/a.jpg", "automatically_annotated.csv"),
        (".", ".", 0, "Automatically_Annotated_compressed/a.jpg", "Automatically_annotated.csv"),
    ],
)
def test_every_layout_of_the_first_release(
    tmp_path: Path, images: str, annotations: str, set_index: int, stored: str, table_name: str
) -> None:
    raw, box = tmp_path / "AffectNet é", (12, 30, 50, 20)
    write(raw / stored, encode(photograph(80, 90, box), ".png"))
    table(raw / table_name, [row("7/a.jpg", box)])
    result = pre_process_affect_net(raw / images, raw / annotations, tmp_path / "out", set_index)
    name = ("Training_Unlabeled", "Training_Labeled", "Validation")[set_index]
    (path,) = (tmp_path / "out").rglob("*.jpg")
    assert path == tmp_path / "out" / name / "0" / "0000000_3_-250_731.jpg" and result.counts["Surprise"] == 1
    assert np.abs(cv2.imread(str(path))[4:40, 4:40].astype(int) - QUADRANTS["top left"]).max() <= 12


def test_a_table_without_header_a_byte_order_mark_blank_lines_and_other_column_orders(tmp_path: Path) -> None:
    raw = first_release(tmp_path / "raw", [], {"1/a.jpg": encode(textured(50, 50), ".jpg")})
    variants = {
        "bare": "\n".join([row("1/a.jpg"), row("1/a.jpg"), ""]),
        "blank": "\n".join([HEADER, "", row("1/a.jpg"), "  ", row("1/a.jpg"), "", ""]),
        "windows": "\ufeff" + "\r\n".join([HEADER.upper(), row("1/a.jpg"), row("1/a.jpg") + ","]),
        "order": "\n".join(
            ["valence, arousal, expression,face_height,face_width,face_y,face_x,subDirectory_filePath"]
            + ["-0.25,0.731,3,40,40,0,0,1/a.jpg"] * 2
        ),
    }
    for name, text in variants.items():
        write(raw / f"{name}.csv", text.encode())
        result = pre_process_affect_net(raw, raw / f"{name}.csv", tmp_path / name)
        assert (result.rows, result.written) == (2, 2), name
    folders = [contents(tmp_path / name / "Training_Labeled") for name in variants]
    for folder in folders:
        folder.pop(".preprocessed.json")
        assert folder == folders[0] and len(folder) == 4


def current_release(root: Path) -> Path:
    for name, numbers in (("train_set", (2, 10, 9, 1200)), ("val_set", (0,))):
        for number in numbers:
            write(root / name / "images" / f"{number}.jpg", encode(textured(224, 224, number, detail=12), ".jpg"))
            (root / name / "annotations").mkdir(exist_ok=True)
            labels = {"exp": "7", "val": "-0.25", "aro": "0.5", "lnd": np.zeros(136)}
            if number == 9:  # numbers instead of text
                labels |= {"exp": 7, "val": -0.25, "aro": np.float32(0.5)}
            for label, value in labels.items():
                np.save(root / name / "annotations" / f"{number}_{label}.npy", np.array(value))
    return root


@pytest.mark.parametrize(
    ("images", "annotations"),
    [(".", "."), ("train_set", "train_set"), ("train_set", "train_set/annotations"), ("train_set/images", ".")],
)
def test_the_current_release(tmp_path: Path, images: str, annotations: str) -> None:
    raw = current_release(tmp_path / "raw")
    result = pre_process_affect_net(raw / images, raw / annotations, tmp_path / "out", 1, image_size=64)
    folder = tmp_path / "out" / "Training_Labeled"
    names = [f"{number // 500}/{number:07d}_7_-250_500.jpg" for number in (2, 9, 10, 1200)]
    assert (
        set(contents(folder)) == {*names, "errors.csv", "sources.csv", ".preprocessed.json"}
        and result.counts["Contempt"] == 4
    )
    for name, number in zip(names, (2, 9, 10, 1200), strict=True):
        expected = cv2.resize(textured(224, 224, number, detail=12), (64, 64), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(cv2.imread(str(folder / name)) - expected).mean() < 4, number


def test_bad_faces_of_the_current_release(tmp_path: Path) -> None:
    raw = current_release(tmp_path / "raw")
    labels, images = raw / "train_set/annotations", raw / "train_set/images"
    good = {name: (labels / f"2_{name}.npy").read_bytes() for name in ("exp", "val", "aro")}
    bad = {
        3: ({"exp": None}, "3_exp.npy is missing"),
        4: ({"val": b""}, "no single value"),
        5: ({"aro": good["aro"][:-3]}, "no single value"),
        6: ({"exp": b"PK\x03\x04 no archive"}, "no single value"),
        7: ({"exp": b"text"}, "no single value"),
        100: ({"exp": good["exp"].replace(b"'descr'", b"('descr'")}, "no single value"),
        8: ({"val": (labels / "2_lnd.npy").read_bytes()}, "no single value"),
        11: ({"jpg": None}, "picture is missing"),
        65_537: ({"jpg": b"text"}, "corrupt"),
    }
    np.save(tmp_path / "object.npy", np.array({"a": 1}), allow_pickle=True)
    bad[13] = ({"exp": (tmp_path / "object.npy").read_bytes()}, "a Python object (pickled), which is never opened")
    np.save(tmp_path / "label.npy", np.array("8.5"))
    bad[14] = ({"exp": (tmp_path / "label.npy").read_bytes()}, "not one of 0 to 10")
    for number, (changes, _) in bad.items():
        for name, data in ({"jpg": (images / "2.jpg").read_bytes()} | good | changes).items():
            if data is not None:
                write(images / f"{number}.jpg" if name == "jpg" else labels / f"{number}_{name}.npy", data)
    result = pre_process_affect_net(raw, raw, tmp_path / "out")
    assert (result.rows, result.written, result.errors) == (4 + len(bad), 4, len(bad))
    listed = errors(result.destination)
    assert [(int(number), file) for number, file, _ in listed] == [(n, f"{n}.jpg") for n in sorted(bad)]
    for number, _, reason in listed:
        assert bad[int(number)][1] in reason, number


def test_wrong_paths_and_arguments_give_clear_messages(tmp_path: Path) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    current = current_release(tmp_path / "current")
    first = first_release(tmp_path / "first", [row("1/a.jpg")], {"1/a.jpg": encode(textured(50, 50), ".jpg")})
    for folder in (empty, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="AffectNet's web page") as error:
            pre_process_affect_net(folder, folder, out)
        for text in (f"{folder}/training.csv", f"{folder}/train_set/images", "Manually_Annotated_*/", "N_{exp,val"):
            assert text in str(error.value)
    for folder in (empty, tmp_path / "nowhere"):  # the table, but none of the photographs
        with pytest.raises(FileNotFoundError, match=f"none whose photograph is there.*Looked in {folder}"):
            pre_process_affect_net(folder, first, out)
    with pytest.raises(ValueError, match="current release, which has no automatically annotated set"):
        pre_process_affect_net(current, current, out, 0)
    with pytest.raises(FileNotFoundError, match="web page"):
        pre_process_affect_net(current / "val_set", current / "val_set", out, 1)  # not the training set
    for arguments, match in (({"set_index": 3}, "set_index is 3"), ({"image_size": 0}, "image_size is 0"),
                             ({"num_workers": 0}, "num_workers is 0")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            pre_process_affect_net(first, first, out, **arguments)
    write(first / "other.csv", b"name,label\na,1\n")
    with pytest.raises(ValueError, match="has no column subDirectory_filePath"):
        pre_process_affect_net(first, first / "other.csv", out)
    for name, index, message in (
        ("validation.csv", 1, r"Validation \(set_index 2\), and asked for is Training_Labeled: name training\.csv"),
        ("Manually_Training.csv", 0, r"Training_Labeled \(set_index 1\), and asked for is Training_Unlabeled"),
        ("automatically_annotated.csv", 2, r"Training_Unlabeled \(set_index 0\), and asked for is Validation"),
    ):
        (first / "training.csv").rename(first / name)
        with pytest.raises(ValueError, match=message):
            pre_process_affect_net(first, first / name, out, index)
        (first / name).rename(first / "training.csv")
    assert not out.exists()


def test_a_corrected_label_of_the_current_release_replaces_the_face(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw = current_release(tmp_path / "raw")
    folder = pre_process_affect_net(raw, raw, tmp_path / "out").destination
    whole, old = contents(folder), "0000009_7_-250_500.jpg"
    assert "replaced" not in capsys.readouterr().out
    np.save(raw / "train_set/annotations/9_exp.npy", np.array(3))
    new = old.replace("_7_", "_3_")
    for written in (1, 0):  # also after a kill that left both
        result = pre_process_affect_net(raw, raw, tmp_path / "out")
        out = capsys.readouterr().out
        assert f"1 faces had other labels before and were replaced (first: {old} by {new})" in out
        assert result.written == written and contents(folder) == {
            name.replace(old, new): data for name, data in whole.items()
        }
        write(folder / "0" / old, whole[f"0/{old}"])
    pre_process_affect_net(raw, raw, tmp_path / "out")
    assert "1 faces had" in capsys.readouterr().out
    pre_process_affect_net(raw, raw, tmp_path / "out")
    assert "replaced" not in capsys.readouterr().out


def test_another_size_or_other_annotations_are_refused(tmp_path: Path) -> None:
    raw = first_release(tmp_path / "raw", [row("1/a.jpg")], {"1/a.jpg": encode(textured(50, 50), ".jpg")})
    pre_process_affect_net(raw, raw, tmp_path / "out")
    before = contents(tmp_path / "out")
    stamp = json.loads(before["Training_Labeled/.preprocessed.json"])
    assert stamp["image_size"] == 96 and stamp["rows"] == 1 and stamp["annotations"] == "training.csv"
    with pytest.raises(ValueError, match=r'"image_size": 96.*"image_size": 224'):
        pre_process_affect_net(raw, raw, tmp_path / "out", image_size=224)
    table(raw / "training.csv", [row("1/a.jpg", labels="4,0,0")])
    with pytest.raises(ValueError, match="Nothing was changed"):
        pre_process_affect_net(raw, raw, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    (tmp_path / "out/Training_Labeled/.preprocessed.json").unlink()
    with pytest.raises(ValueError, match="unknown origin"):
        pre_process_affect_net(raw, raw, tmp_path / "out")
    pre_process_affect_net(raw, raw, tmp_path / "elsewhere", image_size=224)


# ---------------------------------------- interruption
RUN = """
import sys
from utils.preparing.preprocess import pre_process_affect_net
print("begin", flush=True)
pre_process_affect_net(sys.argv[1], sys.argv[1], sys.argv[2], image_size=64, num_workers=2)
"""


def test_killed_at_random_moments_and_run_again(tmp_path: Path) -> None:
    photographs = {f"1/{i}.jpg": encode(textured(700, 700, i), ".jpg") for i in range(3)}
    photographs["1/bad.jpg"] = photographs["1/0.jpg"][:5000]
    rows = [row(f"1/{'bad' if i % 9 == 4 else i % 3}.jpg", (i, 2 * i, 200, 150)) for i in range(260)]
    raw = first_release(tmp_path / "raw", rows, photographs)
    started = time.perf_counter()
    pre_process_affect_net(raw, raw, tmp_path / "whole", image_size=64, num_workers=1)
    duration = time.perf_counter() - started
    whole = contents(tmp_path / "whole")

    out, interrupted, rng = tmp_path / "out", [], random.Random(0)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(raw), str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert process.stdout.readline() == b"begin\n"
        time.sleep(rng.uniform(0, duration / 6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        written = {name: data for name, data in contents(out).items() if ".partial" not in name}
        interrupted.append(len(written))
        assert all(whole[name] == data for name, data in written.items())  # never a file half written
    assert any(2 < count < len(whole) - 1 for count in interrupted), interrupted

    result = pre_process_affect_net(raw, raw, out, image_size=64)
    assert contents(out) == whole and result.already_there > 0
    assert {path for path in (tmp_path / "whole").rglob("*") if path.is_dir()} == {
        tmp_path / "whole" / path.relative_to(out) for path in out.rglob("*") if path.is_dir()
    }


def test_what_an_interrupted_run_left_is_removed_or_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = first_release(tmp_path / "raw", [row("1/a.jpg")] * 3, {"1/a.jpg": encode(textured(50, 50), ".jpg")})
    pre_process_affect_net(raw, raw, tmp_path / "out")
    folder = tmp_path / "out" / "Training_Labeled"
    whole = contents(folder)
    name = "0000001_3_-250_731.jpg"
    write(folder / "0" / name, b"")  # what losing power may leave
    write(folder / "0" / f".{name}.partial", b"half")
    write(folder / "0" / ".0000002_3_-250_731.jpg.partial", b"half")
    write(folder / ".errors.csv.partial", b"half")
    (folder / "errors.csv").unlink()
    decoded = []
    monkeypatch.setattr(cropping, "_decode", lambda d, k, decode=cropping._decode: decoded.append(k) or decode(d, k))
    result = pre_process_affect_net(raw, raw, tmp_path / "out")
    assert contents(folder) == whole
    assert (result.written, result.already_there, len(decoded)) == (1, 2, 1)


def test_a_full_disk_stops_and_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no property of the row, so it must not end in errors.csv."""
    raw = first_release(tmp_path / "raw", [row("1/a.jpg")] * 50, {"1/a.jpg": encode(textured(50, 50), ".jpg")})
    replace, calls = Path.replace, itertools.count()

    def no_space(path: Path, target: Path) -> Path:
        if next(calls) > 20:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        pre_process_affect_net(raw, raw, tmp_path / "out")
    files = contents(tmp_path / "out")
    assert not any(".partial" in name or name.endswith("errors.csv") for name in files) and len(files) > 10


# ---------------------------------------- FER+
FER_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def fer_tables(root: Path) -> tuple[list[str], list[str], list[np.ndarray]]:
    """Rows of both tables and the pictures: 2 training faces, one taken out, 1 validation and 1 test face."""
    faces = [np.random.default_rng(i).integers(0, 256, (48, 48), dtype=np.uint8) for i in range(5)]
    usages = ["Training", "Training", "Training", "PublicTest", "PrivateTest"]
    names = ["fer0000000.png", "", "fer0000002.png", "fer0028638.png", "fer0032220.png"]
    pixels = [f"{i % 7},{' '.join(map(str, face.ravel()))},{usages[i]}" for i, face in enumerate(faces)]
    votes = [f"{usages[i]},{names[i]},{i},1,2,3,0,0,0,0,4,0" for i in range(5)]
    return pixels, votes, faces


def write_fer(root: Path, pixels: list[str], votes: list[str]) -> tuple[Path, Path]:
    return (
        table(root / "fer2013.csv", pixels, "emotion,pixels,Usage"),
        table(root / "fer2013new.csv", votes, FER_HEADER),
    )


def test_fer_plus_pictures_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pixels, votes, faces = fer_tables(tmp_path)
    tables = write_fer(tmp_path, pixels, votes)
    result = pre_process_fer_plus(*tables, tmp_path / "out")
    out = tmp_path / "out"
    label = '{},"(0, 0, 48, 48)",{},1,2,3,0,0,0,0,4,0\n'
    expected = {"Train": (0, 2), "Valid": (3,), "Test": (4,)}
    names = {0: "fer0000000.png", 2: "fer0000002.png", 3: "fer0028638.png", 4: "fer0032220.png"}
    for split, numbers in expected.items():
        labels = "".join(label.format(names[number], number) for number in numbers)
        assert (out / f"Labels/FER2013{split}/label.csv").read_text() == labels
        assert len(list((out / f"Images/FER2013{split}").iterdir())) == len(numbers)
        for number in numbers:
            image = cv2.imread(str(out / f"Images/FER2013{split}" / names[number]), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(image, faces[number])
    assert (result.rows, result.written, result.already_there, result.errors) == (5, 4, 0, 0)
    assert result.counts == {"FER2013Train": 2, "FER2013Valid": 1, "FER2013Test": 1} and errors(out) == []
    assert "1 rows name no picture and are left out" in capsys.readouterr().out

    whole = contents(out)
    (out / "Images/FER2013Train/fer0000002.png").unlink()
    write(out / "Images/FER2013Train/.fer0000002.png.partial", b"half")
    write(out / "Labels/FER2013Valid/.label.csv.partial", b"half")
    (out / "Labels/FER2013Valid/label.csv").unlink()
    assert pre_process_fer_plus(*tables, out).written == 1
    assert contents(out) == whole
    write_fer(tmp_path, pixels, [*votes[:4], votes[4].replace(",4,0", ",5,0")])
    with pytest.raises(ValueError, match="choose another destination"):
        pre_process_fer_plus(*tables, out)
    assert contents(out) == whole
    labels = tmp_path / "mine" / "Labels" / "FER2013Train" / "label.csv"
    write(labels, b"of somebody else")
    with pytest.raises(ValueError, match=r"holds labels of unknown origin .*Nothing was changed"):
        pre_process_fer_plus(*tables, tmp_path / "mine")
    assert labels.read_bytes() == b"of somebody else"


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as raised:
        pre_process_fer_plus("~/none.csv", "~/none_new.csv", "~/out")
    assert str(tmp_path / "none.csv") in str(raised.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("pixels", "255,", ""), "2,303 pixels instead of 2,304"),
        (("pixels", "0,", "0,256 "), "not a number from 0 to 255"),
        (("pixels", "0,", "0,x "), "not a number from 0 to 255"),
        (("pixels", ",Training", ""), "2 columns instead of 3"),
        (("votes", ",4,0", ",4"), "11 columns instead of 12"),
        (("votes", ",4,0", ",4,x"), "not ten counts"),
        (("votes", ",4,0", ",4,-1"), "not ten counts"),
        (("votes", "fer0000002.png", "../fer0000002.png"), "not like fer0000000.png"),
        (("votes", "fer0000002.png", "fer0000000.png"), "an earlier row has the same name"),
        (("both", "Training", "Testing"), "Usage is 'Testing'"),
    ],
)
def test_bad_fer_plus_row_is_listed_and_the_rest_is_written(tmp_path: Path, change: tuple, reason: str) -> None:
    pixels, votes, _ = fer_tables(tmp_path)
    where, old, new = change
    if reason.startswith("2,303"):
        pixels[2] = pixels[2].replace(pixels[2].split(",")[1], pixels[2].split(",")[1].rpartition(" ")[0])
    elif where == "pixels":
        pixels[2] = pixels[2].replace("2,", old, 1).replace(old, new, 1)
    if where != "pixels":
        votes[2] = votes[2].replace(old, new)
    if where == "both":
        pixels[2] = pixels[2].replace(old, new)
    result = pre_process_fer_plus(*write_fer(tmp_path, pixels, votes), tmp_path / "out")
    ((number, _, why),) = errors(tmp_path / "out")
    assert number == "2" and reason in why
    assert (result.written, result.errors) == (3, 1) and len(list((tmp_path / "out").rglob("*.png"))) == 3
    assert (tmp_path / "out/Labels/FER2013Train/label.csv").read_text().count("\n") == 1


def test_fer_plus_tables_that_do_not_belong_together(tmp_path: Path) -> None:
    pixels, votes, _ = fer_tables(tmp_path)
    out = tmp_path / "out"
    for wrong_pixels, wrong_votes, match in (
        (pixels[:-1], votes, "4 rows in .*fer2013.csv and 5 rows in .*fer2013new.csv"),
        (pixels, [votes[3], *votes[1:3], votes[0], votes[4]], "Usage of row 0 is 'Training' in .* and 'PublicTest'"),
    ):
        with pytest.raises(ValueError, match=match):
            pre_process_fer_plus(*write_fer(tmp_path, wrong_pixels, wrong_votes), out)
    tables = write_fer(tmp_path, pixels, votes)
    with pytest.raises(ValueError, match="has no column pixels"):
        pre_process_fer_plus(tables[1], tables[0], out)
    with pytest.raises(FileNotFoundError, match="Kaggle"):
        pre_process_fer_plus(tmp_path / "nowhere.csv", tables[1], out)
    assert not out.exists()
