"""Data sets as people have them: other programs' tables, foreign files, links, other layouts. Counts stay right."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from diversified_fer.folder import list_files
from utils.udata import RAFDB, AffectNet, DatasetError, EmotionFolders, FERPlus, stratified_holdout
from utils.udemosets import write_affectnet, write_fer_plus, write_rafdb


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    write_fer_plus(root / "fer", images_per_class=3, validation_per_class=2, test_per_class=2)
    write_affectnet(root / "aff", images_per_class=3, validation_per_class=2)
    for name, layout in (("raf", "folders"), ("off", "official"), ("fol", "official_folders")):
        write_rafdb(root / name, images_per_class=3, test_per_class=2, layout=layout)
    return root


@pytest.fixture
def fer(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound / "fer", tmp_path / "fer"))


@pytest.fixture
def raf(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound / "raf", tmp_path / "raf"))


def contents(faces) -> list[tuple[bytes, int]]:
    return [(path.read_bytes(), int(label)) for path, label in zip(faces.paths, faces.labels, strict=True)]


# ---------------------------------------- tables
BOX = b'"(0, 0, 48, 48)"'
FORMS = {
    "mark": lambda text: b"\xef\xbb\xbf" + text,
    "mark of a second table": lambda text: text.replace(b"\n", b"\n\xef\xbb\xbf", 1),
    "empty lines": lambda text: b"\n" + text + b"\n,,,,,\n  \r\n\n",
    "utf-16": lambda text: text.decode().encode("utf-16"),
    "utf-16-be with its mark": lambda text: b"\xfe\xff" + text.decode().encode("utf-16-be"),
    "utf-16-le without a mark": lambda text: text.decode().encode("utf-16-le"),
    "utf-16-be without a mark": lambda text: text.decode().encode("utf-16-be"),
    "utf-32": lambda text: text.decode().encode("utf-32"),
    "cr": lambda text: text.replace(b"\n", b"\r"),
    "crlf": lambda text: text.replace(b"\n", b"\r\n"),
    "semicolons": lambda text: text.replace(BOX, b"box").replace(b",", b";"),
    "tabs": lambda text: text.replace(BOX, b"box").replace(b",", b"\t"),
    "every cell quoted": lambda text: b'"' + text.replace(BOX, b"box").replace(b",", b'","').replace(
        b"\n", b'"\n"').removesuffix(b'"'),
    "numbers for a header": lambda text: b"0,1,2,3,4,5,6,7,8,9,10,11\n" + text,
    "header": lambda text: b"Image name,box,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    + text,
    "numbers with a point": lambda text: text.replace(b",0,", b",0.0,"),
    "no end of the last line": lambda text: text.rstrip(b"\n"),
    "commas at the ends": lambda text: text.replace(b"\n", b",,\n"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_table_that_another_program_saved_is_the_same_table(form, sound, fer):
    label_file = fer / "Labels/FER2013Train/label.csv"
    label_file.write_bytes(FORMS[form](label_file.read_bytes()))
    expected, found = FERPlus(sound / "fer", "train"), FERPlus(fer, "train")
    assert contents(found) == contents(expected) and len(found) == 24


def test_a_header_of_another_order_is_followed(sound, fer):
    label_file = fer / "Labels/FER2013Train/label.csv"
    rows = [line.split(",") for line in label_file.read_text().splitlines()]  # the box is four cells
    order = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    names = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]
    lines = [",".join(["name", "box", *(names[k] for k in order)])]
    lines += [",".join([row[0], "box", *(row[-10:][k] for k in order)]) for row in rows]
    label_file.write_text("\n".join(lines))
    assert contents(FERPlus(fer, "train")) == contents(FERPlus(sound / "fer", "train"))


def test_the_column_that_a_header_names_holds_the_names_and_the_table_of_all_parts_is_named(sound, fer):
    label_file = fer / "Labels/FER2013Train/label.csv"
    rows = [line.split(",") for line in label_file.read_text().splitlines()]  # the box is four cells
    header = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    lines = [f"box,Image name,{header}", *(",".join(["box", row[0], *row[-10:]]) for row in rows)]
    label_file.write_text("\n".join(lines))
    assert contents(FERPlus(fer, "train")) == contents(FERPlus(sound / "fer", "train"))
    for count in (1, len(rows)):
        lines = [f"Usage,Image name,{header}", *(",".join(["Training", row[0], *row[-10:]]) for row in rows[:count])]
        label_file.write_text("\n".join(lines))
        with pytest.raises(DatasetError, match=r"label\.csv is like fer2013new\.csv, .*; expected those of this part"):
            FERPlus(fer, "train")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x1f\x8b\x08" + bytes(200), r"is an archive \(gzip\): unpack it and name label\.csv"),
        (b"PK\x03\x04" + bytes(200), r"is an archive \(zip\): unpack it and name label\.csv"),
        (b"PK\x03\x04\x14\0[Content_Types].xml" + bytes(99), r"a workbook .*\(xlsx\): save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), r"a workbook .*\(xls\): save it as CSV"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(9), r"an archive \(7z\)"),
        (b"Rar!\x1a\x07\x01\x00", r"an archive \(rar\)"),
        (b"\xfd7zXZ\x00" + bytes(9), r"an archive \(xz\)"),
        (b"BZh91AY&SY" + bytes(9), r"an archive \(bzip2\)"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), r"an archive \(zstd\)"),
        (b"label.csv".ljust(257, b"\0") + b"ustar" + bytes(250), r"an archive \(tar\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a git-lfs pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>", r"is a web page \(HTML\).*download the file itself"),
        (b"\x93NUMPY\x01\0", "is a NumPy array, no text"),
        (bytes(500), "holds nothing but NUL bytes: its content was lost"),
        (bytes(range(256)), r"is no text file \(\d+ of its first 256 bytes are control characters\)"),
        (b"\xff\xfe\x00\xd8", "is no text file in it, or lost its end"),
        (b"", "is empty; expected a row per picture"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_named(data, message, fer):
    label_file = fer / "Labels/FER2013Train/label.csv"
    label_file.write_bytes(data)
    with pytest.raises(DatasetError, match=message) as error:
        FERPlus(fer, "train")
    assert str(label_file) in str(error.value) and str(error.value).isprintable()


def test_bytes_that_are_no_utf8_lead_to_their_file(fer):
    label_file = fer / "Labels/FER2013Train/label.csv"
    name = os.fsencode(fer / "Images/FER2013Train") + b"/fer\xe9.png"
    shutil.move(fer / "Images/FER2013Train/fer0000000.png", os.fsdecode(name))
    label_file.write_bytes(label_file.read_bytes().replace(b"fer0000000.png", b"fer\xe9.png"))
    assert len(FERPlus(fer, "train")) == 24
    label_file.write_bytes(label_file.read_bytes().replace(b"fer\xe9.png", b"fer\xe8\x07.png"))
    with pytest.raises(DatasetError, match=r"first: fer\\udce8\\x07\.png"):
        FERPlus(fer, "train")


def test_names_with_the_folders_of_another_computer(fer):
    label_file = fer / "Labels/FER2013Train/label.csv"
    before = FERPlus(fer, "train")
    for folder in ("C:\\data\\FER2013Train\\", "/home/them/FER2013Train/"):
        text = "".join(f"{folder}{line}" for line in label_file.read_text().splitlines(keepends=True))
        label_file.write_text(text)
        faces = FERPlus(fer, "train")
        assert faces.paths == before.paths and (faces.labels == before.labels).all()


def test_rows_that_come_twice_are_refused_by_the_first_name(sound, fer, tmp_path):
    label_file = fer / "Labels/FER2013Train/label.csv"
    text = label_file.read_bytes()
    for other in (text, text.splitlines(keepends=True)[0].replace(b",0,", b",1,")):  # identical, and contradicting
        label_file.write_bytes(text + other)
        with pytest.raises(DatasetError, match=r"line 27: fer0000000\.png is on line 1 already"):
            FERPlus(fer, "train")
    off = Path(shutil.copytree(sound / "off", tmp_path / "off"))
    list_file = off / "EmoLabel/list_patition_label.txt"
    text = list_file.read_text()
    for other in (text, "train_00001.jpg 3\n"):
        list_file.write_text(text + other)
        with pytest.raises(DatasetError, match=r"line 36: train_00001\.jpg is on line 1 already"):
            RAFDB(off, "train")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("separator", [" ", "\t", ",", ";"])
def test_rafdbs_list_in_every_form(encoding, separator, sound, tmp_path):
    off = Path(shutil.copytree(sound / "off", tmp_path / "off"))
    list_file = off / "EmoLabel/list_patition_label.txt"
    text = list_file.read_text().replace(" ", separator)
    list_file.write_bytes(("\r\n" + text.replace("\n", "\r\n") + "\r\n").encode(encoding))
    assert contents(RAFDB(off, "train")) == contents(RAFDB(sound / "off", "train"))


def test_no_face_is_left(sound, fer, tmp_path):
    label_file = fer / "Labels/FER2013Train/label.csv"
    names = [line.split(",")[0] for line in label_file.read_text().splitlines()]
    label_file.write_text("".join(f'{name},"(0, 0, 48, 48)",5,5,0,0,0,0,0,0,0,0\n' for name in names))
    message = r"FER\+ train \(majority rule\) has no face: 26 of 26 rows tie or are unknown, in .*Train/label\.csv"
    with pytest.raises(DatasetError, match=message):
        FERPlus(fer, "train")
    assert len(FERPlus(fer, "train", "crossentropy")) == 26
    aff = Path(shutil.copytree(sound / "aff", tmp_path / "aff"))
    for path in list((aff / "Validation").rglob("*.jpg")):
        path.rename(path.with_name(f"{path.stem[:7]}_9_-2000_-2000.jpg"))
    message = "AffectNet-8 validation has no face: 16 of 16 pictures .*16 of the class Uncertain"
    with pytest.raises(DatasetError, match=message):
        AffectNet(aff, "validation")


# ---------------------------------------- folders
def test_microsofts_own_folders_and_one_level_off(sound, tmp_path):
    for part in ("Train", "Valid", "Test"):
        shutil.copytree(sound / f"fer/Images/FER2013{part}", tmp_path / f"ms/FER2013{part}")
        shutil.copy(sound / f"fer/Labels/FER2013{part}/label.csv", tmp_path / f"ms/FER2013{part}/label.csv")
    expected = contents(FERPlus(sound / "fer", "train"))
    for root in (tmp_path / "ms", tmp_path, tmp_path / "ms/FER2013Train", tmp_path / "ms/FER2013Test"):
        assert contents(FERPlus(root, "train")) == expected
    assert not FERPlus(tmp_path / "ms", "train").listing.left_out, "the table beside the pictures belongs there"
    for root in (sound / "fer/Images", sound / "fer/Labels"):
        assert contents(FERPlus(root, "train")) == expected
    assert len(AffectNet(sound / "aff/Validation", "train")) == 24 and len(RAFDB(sound / "off/EmoLabel")) == 21
    shutil.copytree(tmp_path / "ms", tmp_path / "again")
    with pytest.raises(DatasetError, match="holds the data set more than once, in again, ms: name one"):
        FERPlus(tmp_path, "train")


def test_folders_in_another_case(sound, fer, raf):
    (fer / "Images/FER2013Train").rename(fer / "Images/fer2013train")
    (fer / "Images").rename(fer / "images")
    (fer / "Labels").rename(fer / "LABELS")
    (raf / "train").rename(raf / "Train")
    assert len(FERPlus(fer, "train")) == 24 and len(RAFDB(raf, "train")) == 21
    (raf / "TRAIN").mkdir()
    with pytest.raises(DatasetError, match=r"is not at .*raf/train "):
        RAFDB(raf, "train")


@pytest.mark.parametrize("name", ["fer", "raf", "off", "fol", "aff"])
def test_what_file_managers_and_drives_leave_is_no_face_and_no_class(name, sound, tmp_path, capsys):
    root = Path(shutil.copytree(sound / name, tmp_path / name))
    read = {"fer": FERPlus, "aff": AffectNet}.get(name, RAFDB)
    expected = contents(read(sound / name, "train"))
    pictures = [path for path in root.rglob("*") if path.suffix in (".jpg", ".png")]
    for path in pictures:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(100))
    for folder in {path.parent for path in pictures} | {path.parent.parent for path in pictures}:
        (folder / "Thumbs.db").write_bytes(b"x")
        (folder / "notes.txt").write_text("x")
        for foreign in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "empty folder"):
            (folder / foreign).mkdir()
            if foreign != "empty folder":
                shutil.copy(pictures[0], folder / foreign / pictures[0].name)
    capsys.readouterr()
    faces = read(root, "train")
    assert contents(faces) == expected
    out = capsys.readouterr().out
    assert all(reason in out for reason in ("hidden or foreign files", "hidden or foreign folders", " .txt"))
    assert faces.listing.left_out["hidden or foreign files"] >= len(faces)


def test_pictures_of_other_suffixes_are_faces_and_others_are_counted(raf, capsys):
    paths = sorted((raf / "train").rglob("*.jpg"))
    for path, suffix in zip(paths, (".JPG", ".jpeg", ".jfif", ".jpe", ".heic", ".jpg.part"), strict=False):
        path.rename(path.with_suffix(suffix))
    faces = RAFDB(raf, "train")
    assert len(faces) == 19 and faces[0][0].shape == (3, 100, 100)
    assert "left out: 1 .heic, 1 .part" in capsys.readouterr().out


def test_an_absent_class_is_noted(sound, raf, tmp_path, capsys):
    fol = Path(shutil.copytree(sound / "fol", tmp_path / "fol"))
    shutil.rmtree(fol / "test/2")
    assert np.bincount(RAFDB(fol, "test").labels, minlength=7).tolist() == [2, 2, 2, 2, 0, 2, 2]
    assert "no face of Fear" in capsys.readouterr().out
    shutil.rmtree(fol / "test/7")  # neither 0 nor 7: the other split tells
    assert np.bincount(RAFDB(fol, "test").labels, minlength=7).tolist() == [0, 2, 2, 2, 0, 2, 2]
    shutil.rmtree(raf / "train/0")
    shutil.rmtree(raf / "test/0")
    with pytest.raises(DatasetError, match="class folders 1, 2, 3, 4, 5, 6; their order cannot be told"):
        RAFDB(raf, "train")
    (raf / "train/0").mkdir()  # an empty folder decides where nothing else does
    assert np.bincount(RAFDB(raf, "train").labels, minlength=7).tolist() == [0, 3, 3, 3, 3, 3, 3]
    (raf / "train/7").mkdir()
    shutil.copy(next((raf / "train/1").iterdir()), raf / "train/7")
    (raf / "train/0/a.jpg").write_bytes(b"x")
    with pytest.raises(DatasetError, match="class folders 0, 1, 2, 3, 4, 5, 6, 7"):
        RAFDB(raf, "train")


def test_links(raf, tmp_path):
    shutil.move(raf / "train/3", tmp_path / "elsewhere")
    (raf / "train/3").symlink_to(tmp_path / "elsewhere")
    (raf / "train/4/round").symlink_to(raf / "train/4")
    first = sorted((raf / "train/0").iterdir())[0]
    first.unlink()
    first.symlink_to("/nowhere/x.jpg")
    faces = RAFDB(raf, "train")
    assert np.bincount(faces.labels).tolist() == [2, 3, 3, 3, 3, 3, 3]
    assert dict(+faces.listing.left_out) == {"links to nothing": 1, "folders inside": 1} and faces.listing.lost == [
        first
    ]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert list_files(tmp_path, {".jpg"}, depth=0).left_out["links to nothing"] == 1


def test_a_dead_link_that_a_table_names(fer):
    path = fer / "Images/FER2013Train/fer0000000.png"
    path.unlink()
    path.symlink_to("/nowhere/x.png")
    with pytest.raises(DatasetError, match=r"1 of the 26 pictures .*first: fer0000000\.png is a link to nothing"):
        FERPlus(fer, "train")


def test_training_keeps_a_face_of_every_class(capsys):
    labels = np.array([0] * 20 + [1] * 2 + [5])
    kept, held = stratified_holdout(labels, 0.1, seed=0)
    assert np.bincount(labels[kept], minlength=6).tolist() == [18, 1, 0, 0, 0, 1]
    assert np.bincount(labels[held], minlength=6).tolist() == [2, 1, 0, 0, 0, 0]
    assert "no face of Disgust is held out for selection" in capsys.readouterr().out
    kept, _ = stratified_holdout(labels, 1.0, seed=0)
    assert np.bincount(labels[kept], minlength=6).tolist() == [1, 1, 0, 0, 0, 1]
    for none in (np.array([], dtype=np.int64), np.array([3, 4])):
        with pytest.raises(DatasetError, match="can be held out for selection"):
            stratified_holdout(none, 0.1)


# ---------------------------------------- AffectNet as it circulates
def test_affectnet_of_kaggle(sound, tmp_path, capsys):
    words = ["neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt"]
    rows, expected = [",pth,label,relFCs"], {}
    for number, path in enumerate(sorted((sound / "aff/Training_Labeled").rglob("*.jpg"))):
        label = int(path.stem.split("_")[1])
        folder = words[(label + (number < 2)) % 8]  # two lie in another folder
        (tmp_path / "k" / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "k" / folder / f"image{number:07d}.jpg")
        rows.append(f"{number},{folder}/image{number:07d}.jpg,{words[label]},0.87")
        expected[path.read_bytes()] = label
    table = tmp_path / "k/labels.csv"
    table.write_text("\n".join(rows))
    faces = AffectNet(tmp_path / "k", "train")
    assert dict(contents(faces)) == expected and len(AffectNet(tmp_path, "train", num_classes=7)) == 21
    assert "labels.csv: 2 of 24 rows name another class than the folder; the row counts" in capsys.readouterr().out
    assert len(AffectNet(tmp_path / "k", max_images_per_label=2)) == 16
    with pytest.raises(DatasetError, match="valence and arousal of none of 24 faces are known"):
        faces.with_affect()
    with pytest.raises(DatasetError, match=r"labels\.csv is AffectNet's train part .* no validation part"):
        AffectNet(tmp_path / "k", "validation")
    shutil.copytree(tmp_path / "k", tmp_path / "both/val")
    assert len(AffectNet(tmp_path / "both", "validation")) == 24
    table.write_text("\n".join(rows).replace("image0000003.jpg", "image0000003.png"))
    assert len(AffectNet(tmp_path / "k", "train")) == 24, "written in another format"
    for change, message in (
        (lambda text: text + "\n" + rows[1], "has a row already"),
        (lambda text: text.replace(",sad,", ",3,"), "the label is '3'; expected the name of a class"),
        (lambda text: text.replace("image0000003", "image9"), r"1 of the 24 pictures .*first: .*image9\.jpg"),
        (lambda text: text.replace("pth", "place", 1), "has no column pth"),
    ):
        table.write_text(change("\n".join(rows)))
        with pytest.raises(DatasetError, match=message):
            AffectNet(tmp_path / "k", "train")


def test_affectnet_of_yolo_is_named(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    (tmp_path / "train/labels/a.txt").write_text("3 0.5 0.5 1 1")
    with pytest.raises(DatasetError, match=r"the YOLO form.*pre_process_affect_net writes"):
        AffectNet(tmp_path, "train")


# ---------------------------------------- tables of words
@pytest.fixture
def words(sound, tmp_path) -> Path:
    """A folder with pictures test/0.jpg to test/3.jpg, and a test.csv that names them."""
    for number, path in enumerate(sorted((sound / "raf/test").rglob("*.jpg"))[:4]):
        (tmp_path / "words/test").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / f"words/test/{number}.jpg")
    return write_words(tmp_path / "words/test.csv", [f"test/{number}.jpg" for number in range(4)]).parent


def write_words(path: Path, names: list[str], splits: tuple[str, ...] = (), column: str = "split") -> Path:
    """Write a table of pictures that are happy and sad in turn, and of whose splits, from the first in turn."""
    rows = [",".join(["file", "label", *([column] if splits else [])])]
    for number, name in enumerate(names):
        part = [splits[number % len(splits)]] if splits else []
        rows.append(",".join([name, ("happy", "sad")[number // max(1, len(splits)) % 2], *part]))
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_a_missing_picture_is_not_replaced_by_one_of_another_folder(words):
    names = [f"train/{number}.jpg" for number in range(4)]
    foreign = [f"C:\\faces\\train\\{number}.jpg" for number in range(4)]
    for listed in (names, foreign, [f"/home/me/{name}" for name in names], [f"{number}.jpg" for number in range(4)]):
        write_words(words / "train.csv", listed)
        first = listed[0].replace("\\", "/")
        for read in (EmotionFolders, RAFDB):
            with pytest.raises(DatasetError, match=rf"4 pictures that .*train\.csv names are not .*first: {first}\)"):
                read(words, "train")
    (words / "elsewhere").mkdir()
    for number in range(4):
        shutil.copy(words / f"test/{number}.jpg", words / f"elsewhere/{number}.jpg")
    for listed in (foreign, [f"/home/me/{name}" for name in names], [f"{number}.jpg" for number in range(4)]):
        write_words(words / "train.csv", listed)
        assert {path.parent.name for path in EmotionFolders(words, "train").paths} == {"elsewhere"}
    write_words(words / "train.csv", names)
    with pytest.raises(DatasetError, match="4 pictures that"):
        EmotionFolders(words, "train")
    (words / "elsewhere").rename(words / "Train")
    for listed in (names, [f"images/{name}" for name in names]):
        write_words(words / "train.csv", listed)
        assert {path.parent.name for path in EmotionFolders(words, "train").paths} == {"Train"}
    for number in range(4):
        (words / f"Train/{number}.jpg").rename(words / f"{number}.jpg")
    assert {path.parent for path in EmotionFolders(words, "train").paths} == {words}, "beside the table"


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (("train", "valid"), r"train \(2\), valid \(2\)"),
        (("train", "dev"), r"train \(2\), dev \(2\)"),
        (("a", ""), r"a \(2\), nothing \(2\)"),
    ],
)
def test_a_table_with_splits_and_no_test_is_not_scored_as_a_whole(splits, said, folder, words):
    (words / "test.csv").unlink()
    table = write_words(words / "faces.csv", [f"test/{number}.jpg" for number in range(4)], splits)
    root = words if folder else table
    with pytest.raises(DatasetError, match=rf"faces\.csv has no test faces: its column split says {said}"):
        EmotionFolders(root)
    with pytest.raises(DatasetError, match=rf"no rows of test .*its column split says {said}"):
        EmotionFolders(root, "test")
    if splits[0] == "train":
        assert len(EmotionFolders(root, "train")) == len(EmotionFolders(root, "valid")) == 2
    assert len(EmotionFolders(root, columns="split=unused")) == 4
    write_words(table, [f"test/{number}.jpg" for number in range(4)], ("", ""))
    assert len(EmotionFolders(root)) == 4, "a column without a word splits nothing"


def test_the_usage_of_fer2013_is_known(words):
    (words / "test.csv").unlink()
    names = [f"test/{number}.jpg" for number in range(4)]
    table = write_words(words / "faces.csv", names, ("Training", "PrivateTest"), "Usage")
    assert [path.stem for path in EmotionFolders(table).paths] == ["1", "3"] and EmotionFolders(table).split == "test"
    write_words(table, names, ("Training", "PublicTest"), "Usage")
    assert len(EmotionFolders(table, "valid")) == 2
    with pytest.raises(DatasetError, match=r"usage says Training \(2\), PublicTest \(2\)"):
        EmotionFolders(table)


def test_a_folder_with_train_and_valid_alone_has_no_test(words):
    (words / "test.csv").rename(words / "valid.csv")
    shutil.copy(words / "valid.csv", words / "train.csv")
    with pytest.raises(DatasetError, match="has no test faces: its splits are train, valid"):
        EmotionFolders(words)


def test_what_a_mac_leaves_beside_a_table_is_no_table(words):
    (words / "test.csv").rename(words / "labels2.csv")
    (words / "._labels2.csv").write_bytes(b"\0\5\x16\7" + bytes(100))
    assert len(EmotionFolders(words)) == 4


def test_accents_count_in_either_form_and_a_table_that_is_no_utf8_is_told(words):
    (words / "test.csv").unlink()
    names = ["café.jpg", "zoë.jpg"]
    for number, name in enumerate(names):
        (words / f"test/{number}.jpg").rename(words / "test" / unicodedata.normalize(("NFC", "NFD")[number], name))
    for form in ("NFC", "NFD"):
        for folder in ("test/", ""):
            table = [unicodedata.normalize(form, folder + name) for name in names]
            assert len(EmotionFolders(write_words(words / "x.csv", table))) == 2
    table = write_words(words / "x.csv", [f"test/{name}" for name in names])
    table.write_bytes(unicodedata.normalize("NFC", table.read_text(encoding="utf-8")).encode("cp1252"))
    with pytest.raises(DatasetError, match=r"x\.csv has letters that are not UTF-8: save it as UTF-8"):
        EmotionFolders(table)


def test_a_name_longer_than_any_is_a_missing_picture(words):
    with pytest.raises(DatasetError, match=r"1 pictures that .* are not there \(first: aaa"):
        EmotionFolders(write_words(words / "test.csv", ["test/0.jpg", "test/1.jpg", "a" * 300 + ".jpg"]))
