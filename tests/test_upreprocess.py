"""Raw data sets drawn in tmp_path in their released formats, converted, and compared with what was drawn."""

import csv
import itertools
import struct
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import utils.upreprocess as upreprocess
from utils.uannotations import BadRow, Box
from utils.upreprocess import crop_face, pre_process_affect_net

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
    x, y, w, h = box
    for colour, top, left in zip(QUADRANTS.values(), (0, 0, h // 2, h // 2), (0, w // 2, 0, w // 2), strict=True):
        bottom, right = (top or h // 2) if top == 0 else h, (left or w // 2) if left == 0 else w
        for row, column in itertools.product((y + top, y + bottom), (x + left, x + right)):
            assert isinstance(row, int) and isinstance(column, int)
        image[max(y + top, 0) : max(y + bottom, 0), max(x + left, 0) : max(x + right, 0)] = colour
    return image


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    parameters = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(suffix, image, parameters if suffix == ".jpg" else [])[1].tobytes()


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise: detail at the scale of facial features."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3)).astype(np.float32)
    smooth = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (3.0, 10.0, 30.0))
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


# ---------------------------------------------------------------------------------------------------------------- crops
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
    side = 2 * 48 * reduction + 5
    data = encode(textured(side + 41, side + 67), ".jpg")
    box = Box(offset[0] + 20, offset[1] + 20, side, side + 2)
    used = []
    monkeypatch.setattr(upreprocess, "_decode", lambda d, k, decode=upreprocess._decode: used.append(k) or decode(d, k))
    crop = crop_face(data, box, 48).astype(int)
    assert used == [reduction]
    full = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    face = full[max(box.top, 0) : box.top + box.height, max(box.left, 0) : box.left + box.width]
    difference = crop - cv2.resize(face, (48, 48), interpolation=cv2.INTER_AREA).astype(int)
    shifted = crop[:, 1:] - cv2.resize(face, (48, 48), interpolation=cv2.INTER_AREA).astype(int)[:, :-1]
    assert np.abs(difference).max() <= 8 and np.abs(difference).mean() < 1
    assert np.abs(shifted).mean() > 8 * np.abs(difference).mean()  # the measure would notice an eighth of a pixel


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
        "alpha": np.dstack([colour, np.full_like(grey, 9)]),
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


# ------------------------------------------------------------------------------------------------------- whole data sets
def test_names_folders_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels = ["0,0,0", "3,-0.25,0.731", "10,-2,-2", "8,-0.0004,1", "7,0.0166667,-1.0", "9,-2,-2"]
    rows = [row("1/a.jpg", labels=labels[i % 6]) for i in range(502)]
    raw = first_release(tmp_path / "raw", rows, {"1/a.jpg": encode(textured(50, 50), ".jpg")})
    result = pre_process_affect_net(str(raw), str(raw), str(tmp_path / "out"))
    folder = tmp_path / "out" / "Training_Labeled"
    files = contents(folder)
    assert errors(folder) == [] and result.destination == folder
    names = ["0/0000000_0_0_0.jpg", "0/0000001_3_-250_731.jpg", "0/0000002_10_-2000_-2000.jpg", "0/0000003_8_0_1000.jpg",
             "0/0000004_7_17_-1000.jpg", "0/0000005_9_-2000_-2000.jpg"]  # fmt: skip
    assert set(names) < set(files) and len(files) == 502 + 2
    assert {name for name in files if name.startswith("1/")} == {"1/0000500_10_-2000_-2000.jpg"[:0] + name for name in
            ("1/0000500_10_-2000_-2000.jpg", "1/0000501_8_0_1000.jpg")}  # fmt: skip
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


def test_thousands_of_rows_keep_their_order_with_few_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors stay in the table's order, also when the first picture takes longest; the table is never read far ahead."""
    rows = [row("1/a.jpg" if i % 7 else "1/b.jpg") for i in range(2000)]
    raw = first_release(tmp_path / "raw", rows, {"1/a.jpg": encode(textured(50, 50), ".jpg")})
    handed_out, done = [0], [0]

    def write_face(release, number, *rest):
        if number == 0:
            time.sleep(0.1)
        done[0] += 1
        return upreprocess.Outcome(number, "", "Anger") if number % 7 else upreprocess.Outcome(number, "", reason="b")

    class Counted(upreprocess.ThreadPoolExecutor):
        def submit(self, *arguments):
            handed_out[0] = max(handed_out[0], arguments[2] - done[0] if len(arguments) < 3 else arguments[2] - done[0])
            return super().submit(*arguments)

    monkeypatch.setattr(upreprocess, "_write_face", write_face)
    threads = cv2.getNumThreads()
    pre_process_affect_net(raw, raw, tmp_path / "out", num_workers=4)
    assert [int(number) for number, _, _ in errors(tmp_path / "out/Training_Labeled")] == list(range(0, 2000, 7))
    assert cv2.getNumThreads() == threads
