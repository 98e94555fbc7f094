"""Damaged tables and lists: a clear error, or a count that adds up; never another exception.

The number of attempts is FER_FUZZ (300 by default), from seed FER_FUZZ_FROM (0); each attempt is made anew by its seed.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.evaluation.subset import select_faces
from utils.preparing.ferplus import FER_VOTES
from utils.udata import (
    RAFDB,
    AffectNet,
    DatasetError,
    FERPlus,
    pre_process_affect_net,
    pre_process_fer_plus,
    read_votes,
)

ATTEMPTS, FIRST = int(os.environ.get("FER_FUZZ", "300")), int(os.environ.get("FER_FUZZ_FROM", "0"))
ROWS = 6
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037")
TRICKY = (
    b"\0", b'"', b",", b";", b"\t", b"\r", b"\n", b"\r\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9", b"-1", b"1e999",
    b"nan", b"../", b"\\", b"9" * 400, "²".encode(), "７".encode(), b"\x1a", b"\x1f\x8b", b"PK\x03\x04", b"\x80\x04",
    b"/", b"x" * 300,
)  # fmt: skip


def picture(path: Path, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((side, side), 90 + len(path.name), np.uint8))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Every kind of table as it should be, with its pictures."""
    root = tmp_path_factory.mktemp("whole")
    for i in range(ROWS):
        picture(root / f"ferplus/Images/FER2013Train/fer{i:07d}.png", 48)
        picture(root / f"rafdb/Image/aligned/train_{i + 1:05d}_aligned.jpg")
        picture(root / f"first/Manually_Annotated_Images/{i}/{i:056x}.jpg")
        picture(root / f"current/train_set/images/{i}.jpg")
        picture(root / f"kaggle/anger/image{i:07d}.jpg")
        labels = root / "current/train_set/annotations"
        labels.mkdir(exist_ok=True)
        for name, value in (("exp", np.array("3")), ("val", np.array(-0.25)), ("aro", np.array("0.5"))):
            np.save(labels / f"{i}_{name}.npy", value)
    lines = [f'fer{i:07d}.png,"(0, 0, 48, 48)",8,0,0,0,{i % 2},0,0,0,0,0' for i in range(ROWS)]
    table(root / "ferplus/Labels/FER2013Train/label.csv", lines)
    table(root / "rafdb/EmoLabel/list_patition_label.txt", [f"train_{i + 1:05d}.jpg {i + 1}" for i in range(ROWS)])
    pixels = " ".join(str(i % 256) for i in range(48 * 48))
    table(root / "tables/fer2013.csv", ["emotion,pixels,Usage", *[f"0,{pixels},Training"] * ROWS])
    lines = [
        f"Training,fer{i:07d}.png,8,0,0,0,0,2,0,0,0,0" if i else "Training,,1,0,0,0,0,2,0,0,0,0" for i in range(ROWS)
    ]
    table(root / "tables/fer2013new.csv", [f"Usage,Image name,{','.join(FER_VOTES)}", *lines])
    header = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
    table(
        root / "first/training.csv", [header, *[f"{i}/{i:056x}.jpg,0,0,8,8,1.0;2.0,{i},0.5,-0.25" for i in range(ROWS)]]
    )
    table(
        root / "kaggle/labels.csv",
        [",pth,label,relFCs", *[f"{i},anger/image{i:07d}.jpg,fear,0.8" for i in range(ROWS)]],
    )
    table(
        root / "lists/list.txt",
        ["1_fer0000000.png 8 0", "my face.jpg", '"fer0000002.png","1"', "0,fer0000003.png", "fer4"],
    )
    return root


def table(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))


def rows_in(path: Path, header: bool) -> int:
    """Count the lines with anything but separators, by another way than the one tested."""
    lines = re.split(rb"\r\n|\r|\n", path.read_bytes().replace(b"\xef\xbb\xbf", b""))
    return sum(bool(re.sub(rb'[ \t,;"]|\x0b|\x0c', b"", line)) for line in lines) - header


def check_label_csv(root: Path, plain: bool) -> None:
    label_file = root / "ferplus/Labels/FER2013Train/label.csv"
    faces = FERPlus(root / "ferplus", "train")
    names, votes, unnamed = read_votes(label_file)
    assert len(names) == len(votes) == len(set(names)) and 0 < len(faces) <= len(names)
    if plain:
        assert len(names) + unnamed == rows_in(label_file, header=False)


def check_fer_tables(root: Path, plain: bool) -> None:
    result = pre_process_fer_plus(root / "tables/fer2013.csv", root / "tables/fer2013new.csv", root / "out")
    written = sorted((root / "out").rglob("*.png"))
    listed = [line for file in (root / "out").rglob("label.csv") for line in file.read_text().splitlines()]
    nameless = result.rows - result.written - result.errors
    assert result.written == len(written) == len(listed) and 0 <= nameless <= result.rows
    if plain:
        assert result.rows == rows_in(root / "tables/fer2013.csv", header=True)


def check_affectnet(folder: str) -> Callable[[Path, bool], None]:
    def check(root: Path, plain: bool) -> None:
        result = pre_process_affect_net(root / folder, root / folder, root / "out", 1, 8, num_workers=1)
        made = root / "out" / "Training_Labeled"
        sources = made.joinpath("sources.csv").read_bytes().splitlines()
        assert result.rows == result.written + result.errors
        assert result.written == len(list(made.rglob("*.jpg"))) == len(sources) - 1
        if plain and folder == "first":
            # a header in which a number appeared is a row
            assert result.rows - rows_in(root / "first/training.csv", header=True) in (0, 1)

    return check


def check_rafdb(root: Path, plain: bool) -> None:
    faces = RAFDB(root / "rafdb", "train")
    of_others = faces.listing.left_out["rows of neither train nor test"]
    assert len(set(faces.paths)) == len(faces) and len(faces) + faces.listing.left_out[
        "pictures that the list does not name"] == ROWS  # fmt: skip
    if plain:  # rows of the test split are not train's
        assert len(faces) + of_others <= rows_in(root / "rafdb/EmoLabel/list_patition_label.txt", header=False)


def check_kaggle(root: Path, plain: bool) -> None:
    faces = AffectNet(root / "kaggle", "train")
    listing = faces.listing
    assert len(listing.files) + listing.left_out["pictures without a row"] == ROWS and len(faces) <= len(listing.files)
    if plain:
        assert len(listing.files) == rows_in(root / "kaggle/labels.csv", header=True)


def check_list(root: Path, plain: bool) -> None:
    faces = FERPlus(root / "ferplus", "train")
    subset = select_faces(faces, root / "lists/list.txt")
    assert 0 < len(subset.faces) <= subset.listed - len(subset.unknown)
    if plain:
        assert subset.listed <= rows_in(root / "lists/list.txt", header=False)


KINDS = (
    (("ferplus",), "ferplus/Labels/FER2013Train/label.csv", check_label_csv),
    (("tables",), "tables/fer2013.csv", check_fer_tables),
    (("tables",), "tables/fer2013new.csv", check_fer_tables),
    (("first",), "first/training.csv", check_affectnet("first")),
    (("current",), "current/train_set/annotations/2_exp.npy", check_affectnet("current")),
    (("current",), "current/train_set/annotations/3_val.npy", check_affectnet("current")),
    (("rafdb",), "rafdb/EmoLabel/list_patition_label.txt", check_rafdb),
    (("kaggle",), "kaggle/labels.csv", check_kaggle),
    (("ferplus", "lists"), "lists/list.txt", check_list),
)


def damage(data: bytes, rng: np.random.Generator) -> tuple[bytes, bool]:
    """Change a file in one to three ways; also tells whether its lines can still be counted as plain bytes."""
    plain = True
    for _ in range(rng.integers(1, 4)):
        at, way = int(rng.integers(len(data) + 1)), rng.integers(9)
        if way == 0:  # flip bits
            changed = bytearray(data)
            for place in rng.integers(0, max(len(data), 1), rng.integers(1, 8)) if data else ():
                changed[place] ^= 1 << int(rng.integers(8))
            data = bytes(changed)
        elif way == 1:
            data = data[:at]
        elif way == 2:
            data = data[:at] + TRICKY[rng.integers(len(TRICKY))] + data[at:]
        elif way == 3:
            data = data[:at] + rng.bytes(int(rng.integers(1, 20))) + data[at:]
        elif way in (4, 5):  # swap two lines, or double one
            lines = data.split(b"\n")
            i, j = rng.integers(0, len(lines), 2)
            lines[i], lines[j] = lines[j], lines[i]
            data = b"\n".join(lines if way == 4 else [*lines, lines[i]])
        elif way == 6:
            data = data.replace(b"\n", (b"\r", b"\r\n", b"\n\n", b"\n,,,\n")[rng.integers(4)])
        elif way == 7:  # bytes of the middle are lost, or are zeros
            end = at + int(rng.integers(1, 60))
            data = data[:at] + bytes(int(rng.integers(2)) * len(data[at:end])) + data[end:]
        else:
            encoding = ENCODINGS[rng.integers(len(ENCODINGS))]
            data = data.decode("latin-1").encode(encoding, "replace")
            plain = plain and encoding == "utf-8-sig"
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff"))  # the damage itself may write a mark
    return data, plain and not marked and data.count(b"\0") < 0.2 * len(data)


def attempt(whole: Path, seed: int, root: Path) -> str:
    """Damage one file by a seed, read it, and return what came out: "read", or the kind of error."""
    rng = np.random.default_rng(seed)
    folders, file, check = KINDS[seed % len(KINDS)]
    for folder in folders:
        shutil.copytree(whole / folder, root / folder)
    data, plain = damage((root / file).read_bytes(), rng)
    (root / file).write_bytes(data)
    try:
        check(root, plain)
    except DatasetError as error:
        outcome = str(error)
    except FileNotFoundError as error:
        assert error.errno is None, f"seed {seed}: {error}"  # the project's own have a message alone
        outcome = str(error)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__} at {file}: {error}") from error
    else:
        return "read"
    assert not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", outcome), f"seed {seed}: {outcome!r}"
    assert len(outcome) < 3000, f"seed {seed}: {outcome}"
    return "refused"


@pytest.mark.parametrize("part", range(10))
def test_damaged_tables(part, whole, tmp_path, capsys):
    outcomes = []
    for seed in range(FIRST + part, FIRST + ATTEMPTS, 10):
        root = tmp_path / str(seed)
        outcomes.append(attempt(whole, seed, root))
        shutil.rmtree(root)
        capsys.readouterr()
    assert ATTEMPTS < 300 or {"read", "refused"} == set(outcomes)
    with capsys.disabled():
        if "FER_FUZZ" in os.environ:
            print(f" {len(outcomes)} attempts: {outcomes.count('read')} read, {outcomes.count('refused')} refused")
