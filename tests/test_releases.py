"""Released tables and folders as people keep them, preprocessed; and the source pictures that lists name."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from utils.evaluation.subset import select_faces
from utils.preparing.ferplus import FER_VOTES
from utils.udata import AffectNet, DatasetError, FaceDataset, FERPlus, pre_process_affect_net, pre_process_fer_plus
from utils.udemosets import write_affectnet_raw


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    write_affectnet_raw(root / "current", images_per_class=1, validation_per_class=1, release="current")
    write_affectnet_raw(root / "first", images_per_class=1, validation_per_class=1)
    return root


@pytest.fixture
def current(raw, tmp_path) -> Path:
    return Path(shutil.copytree(raw / "current", tmp_path / "current"))


@pytest.fixture
def first(raw, tmp_path) -> Path:
    return Path(shutil.copytree(raw / "first", tmp_path / "first"))


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


# ---------------------------------------- FER+
def fer_tables(root: Path, pixels: str) -> tuple[Path, Path]:
    (root / "fer2013.csv").write_text("emotion,pixels,Usage\n" + f"0,{pixels},Training\n" * 3)
    lines = [f"Training,fer000000{i}.png,10,0,0,0,0,0,0,0,0,0" for i in range(3)]
    (root / "fer2013new.csv").write_text("\n".join([f"Usage,Image name,{','.join(FER_VOTES)}", *lines]))
    return root / "fer2013.csv", root / "fer2013new.csv"


VALUES = [i % 251 for i in range(48 * 48)]


@pytest.mark.parametrize("form", ['"[70s]"', '"70s"', '"(70s)"', "[b]", "b"])
def test_pixels_as_a_list(form, tmp_path):
    pixels = form.replace("70s", ", ".join(map(str, VALUES))).replace("b", " ".join(map(str, VALUES)))
    assert pre_process_fer_plus(*fer_tables(tmp_path, pixels), tmp_path / "out").written == 3
    image, _ = FERPlus(tmp_path / "out", "train")[0]
    assert image[0].flatten().tolist() == VALUES


def test_nothing_that_could_be_written_is_an_error(tmp_path):
    tables = fer_tables(tmp_path, '"[70, 80, ...]"')
    with pytest.raises(DatasetError, match=r"FER\+: 0 of 3 rows could be used \(row 0: a pixel .*see .*errors\.csv"):
        pre_process_fer_plus(*tables, tmp_path / "out")
    assert len(rows(tmp_path / "out/errors.csv")) == 4 and not list((tmp_path / "out").rglob("label.csv"))


def test_an_archive_in_place_of_a_table(tmp_path):
    _, votes = fer_tables(tmp_path, "1")
    (tmp_path / "fer2013.tar.gz").write_bytes(b"\x1f\x8b\x08" + bytes(200))
    with pytest.raises(DatasetError, match=r"is an archive \(gzip\): unpack it and name fer2013\.csv") as error:
        pre_process_fer_plus(tmp_path / "fer2013.tar.gz", votes, tmp_path / "out")
    assert str(error.value).isprintable() and not (tmp_path / "out").exists()


def test_released_tables_in_other_encodings(tmp_path):
    for path in fer_tables(tmp_path, " ".join(map(str, VALUES))):
        path.write_bytes(path.read_text().replace(",", ";").encode("utf-16"))
    result = pre_process_fer_plus(tmp_path / "fer2013.csv", tmp_path / "fer2013new.csv", tmp_path / "out")
    assert (result.rows, result.written) == (3, 3)


# ---------------------------------------- AffectNet, current release
@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".webp"])
def test_faces_of_any_suffix(suffix, raw, current, tmp_path):
    for path in list((current / "train_set/images").iterdir()):
        path.rename(path.with_suffix(suffix))
    result = pre_process_affect_net(current, current, tmp_path / "out", 1, num_workers=1)
    assert (result.rows, result.written) == (8, 8)
    assert rows(tmp_path / "out/Training_Labeled/sources.csv")[1] == ["0", f"0{suffix}"]


def test_names_with_zeros_doubled_names_and_foreign_files(current, tmp_path, capsys):
    images, labels = (current / "train_set" / name for name in ("images", "annotations"))
    (images / "1.jpg").rename(images / "0001.jpg")
    (labels / "1_exp.npy").rename(labels / "0001_exp.npy")
    shutil.copy(images / "2.jpg", images / "2.png")
    (images / "._3.jpg").write_bytes(b"x")
    (images / "readme.jpg").write_bytes(b"x")
    result = pre_process_affect_net(current, current, tmp_path / "out", 1, num_workers=1)
    assert (result.written, result.errors) == (7, 1)
    [_, error] = rows(tmp_path / "out/Training_Labeled/errors.csv")
    assert error[2] == "the picture is there more than once: 2.jpg, 2.png"
    out = capsys.readouterr().out
    assert "left out 1 hidden or foreign files" in out and "left out 1 .jpg files whose names are no numbers" in out


def test_no_face_at_all_is_an_error(current, tmp_path):
    images = current / "train_set/images"
    for path in list(images.iterdir()):
        path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"0 of 8 rows could be used \(row 0: .*errors\.csv"):
        pre_process_affect_net(current, current, tmp_path / "out", 1, num_workers=1)
    for path in list(images.iterdir()):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(
        FileNotFoundError, match=r"labels of 8 faces, but .*images holds no picture .*8 \.heic is there"
    ):
        pre_process_affect_net(current, current, tmp_path / "other", 1, num_workers=1)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_objects_are_never_unpickled(current, tmp_path):
    labels = current / "train_set/annotations"
    np.save(labels / "0_exp.npy", np.array(7, dtype=object), allow_pickle=True)
    np.save(labels / "1_val.npy", np.array(Trap(tmp_path / "sprung"), dtype=object), allow_pickle=True)
    (labels / "2_aro.npy").write_bytes(b"\x80\x04K\x07.")
    (labels / "3_exp.npy").write_bytes(np.array(3).dumps())
    result = pre_process_affect_net(current, current, tmp_path / "out", 1, num_workers=1)
    errors = rows(tmp_path / "out/Training_Labeled/errors.csv")[1:]
    assert result.errors == 4 and not (tmp_path / "sprung").exists()
    for (_, _, reason), name in zip(errors, ("0_exp", "1_val", "2_aro", "3_exp"), strict=True):
        message = f"{name}.npy holds a Python object (pickled), which is never opened; re-save it as a plain number"
        assert reason == message


# ---------------------------------------- AffectNet, first release
@pytest.mark.parametrize(
    "form",
    [
        lambda name: name.replace("/", "\\"),
        str.upper,
        lambda name: "C:\\AffectNet\\" + name.replace("/", "\\"),
        lambda name: "./" + name,
        lambda name: name.replace(".jpg", ".png"),
    ],
)
def test_paths_of_the_table_in_other_forms(form, first, tmp_path):
    table = first / "training.csv"
    header, *lines = table.read_text().splitlines()
    cells = [line.split(",", 1) for line in lines]
    table.write_text("\n".join([header, *[f"{form(name)},{rest}" for name, rest in cells]]))
    result = pre_process_affect_net(first, first, tmp_path / "out", 1, num_workers=1)
    assert (result.rows, result.written) == (11, 11)


def test_paths_that_lead_nowhere_name_one_and_the_nearest(first, tmp_path):
    table = first / "training.csv"
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header, *["x" + line.replace("/", "/y") for line in lines]]))
    message = r"looked for .*/x\d+/y\w+\.jpg, of which .*Manually_Annotated_Images is there and holds \d+, for instance"
    with pytest.raises(FileNotFoundError, match=message):
        pre_process_affect_net(first, first, tmp_path / "out", 1, num_workers=1)


def test_paths_longer_than_any_name_lead_nowhere_too(first, tmp_path):
    table = first / "training.csv"
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([header, *["9" * 400 + line for line in lines]]))
    with pytest.raises(FileNotFoundError, match=r"cannot be reached: File name too long; looked for "):
        pre_process_affect_net(first, first, tmp_path / "out", 1, num_workers=1)


# ---------------------------------------- lists
def select(names: list[str], text: str | bytes, tmp_path: Path) -> tuple[list[str], list[str]]:
    faces = FaceDataset("test", [Path("a") / name for name in names], np.zeros(len(names), dtype=np.int64), 8)
    file = tmp_path / "list.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    subset = select_faces(faces, file)
    return [path.name for path in subset.faces.paths], subset.unknown


NAMES = ["fer0034656.png", "fer0032220.png", "my face 1.jpg", "1.jpg", "test_0007_aligned.jpg"]


@pytest.mark.parametrize(
    ("text", "chosen", "unknown"),
    [
        ("1_fer0034656.png 8 0\n", [0], []),
        ("1_fer0034656.png 8 0\n2_fer0034656.png 8 0\n", [0], []),
        ("my face 1.jpg\n", [2], []),
        ("my face 1.jpg 3\nyour face 1.jpg 3\n", [2], ["your face 1.jpg"]),
        ("1.jpg\n", [3], []),
        ('"fer0032220.png","1"\n', [1], []),
        ("0,fer0032220.png\n", [1], []),
        ('0;"my face 1.jpg"\n', [2], []),
        ("3 fer0032220.png\n", [1], []),
        ("name,label\nFER0032220.PNG,3\n", [1], []),
        ("Image\tlabel\nfer0032220.png\t3\n", [1], []),
        ("FER2013Test/fer0032220/\n", [1], []),
        ("D:\\x\\a\\fer0032220.png\n", [1], []),
        ("5_test_0007.jpg 3\n", [4], []),
        ("fer0032220\r\nfer0032220.png\r\n,,,\r\n", [1], []),
        ("fer0032220.png,fer0009999.png\n", [1], []),
        ("fer0032220.png\nfer9999999.png\n", [1], ["fer9999999.png"]),
        ("fer0032220.png\nfer\udce9.png\n".encode("utf-8", "surrogateescape"), [1], ["fer\\udce9.png"]),
        ("fer0032220.png\n".encode("utf-16"), [1], []),
        ("fer0032220.png\n".encode("utf-16-le"), [1], []),
        (b"\xef\xbb\xbffer0032220.png\rfer0034656.png\r", [0, 1], []),
    ],
)
def test_forms_of_lists(text, chosen, unknown, tmp_path):
    assert select(NAMES, text, tmp_path) == ([NAMES[place] for place in chosen], unknown)


def test_lists_that_fit_several_faces_or_are_no_text(tmp_path):
    twice = ["1_fer0034656.png", "2_fer0034656.png"]
    assert select(twice, "2_fer0034656.png 8", tmp_path) == (["2_fer0034656.png"], [])
    with pytest.raises(DatasetError, match=r"list\.txt, line 2: 3_fer0034656\.png 8 fits 2 faces"):
        select(twice, "\n3_fer0034656.png 8", tmp_path)
    with pytest.raises(DatasetError, match=r"is an archive \(zip\)"):
        select(NAMES, b"PK\x03\x04" + bytes(99), tmp_path)


def test_faces_of_affectnet_are_found_by_their_source_pictures(first, tmp_path):
    pre_process_affect_net(first, first, tmp_path / "out", 1, num_workers=1)
    folder = tmp_path / "out/Training_Labeled"
    header, *noted = rows(folder / "sources.csv")
    listed = [line.split(",")[0] for line in (first / "training.csv").read_text().splitlines()[1:]]
    assert header == ["row", "file"] and noted == [[str(number), name] for number, name in enumerate(listed)]
    faces = AffectNet(tmp_path / "out", "train")
    numbers = [int(path.name[:7]) for path in faces.paths]
    hashes = [Path(listed[number]).stem for number in numbers]
    names = tmp_path / "list.txt"
    absent = f"7/{'0' * 56}/8.jpg"
    names.write_text(
        f"7/{hashes[0]}/8.jpg\n0/{hashes[1]}.jpg 3\nval/0/{hashes[2]}/\n{listed[numbers[3]].upper()}\n"
        f"{listed[numbers[4]]}\n{absent}\n".replace(f"{listed[numbers[4]]}", listed[numbers[4]].replace("/", "\\"))
    )
    subset = select_faces(faces, names)
    assert subset.faces.paths == faces.paths[:5] and subset.unknown == [absent]

    before = (folder / "sources.csv").read_bytes()
    (folder / "sources.csv").unlink()
    with pytest.raises(DatasetError, match=r"AffectNet's faces are named by row; these lists name source pictures"):
        select_faces(faces, names)
    assert pre_process_affect_net(first, first, tmp_path / "out", 1, num_workers=2).written == 0
    assert (folder / "sources.csv").read_bytes() == before and len(select_faces(faces, names).faces) == 5
    (folder / "sources.csv").write_text("row,file\nx,y\n")
    with pytest.raises(DatasetError, match=r"sources\.csv, line 2: 'x,y' is no row and picture; run pre_process"):
        select_faces(faces, names)
