"""`python -m utils.udata check`: every fault planted in a drawn data set is found, and a sound one has none."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.evaluation import check as checking
from utils.evaluation.check import DATASETS, Finding, check, command, orders
from utils.udata import EMOTIONS, RAFDB_TO_EMOTIONS, FERPlus, read_image
from utils.udemosets import write_affectnet, write_affectnet_raw, write_fer_plus, write_rafdb


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("check")
    write_affectnet(root / "affectnet", images_per_class=6, validation_per_class=5)
    write_fer_plus(root / "ferplus", images_per_class=8, validation_per_class=6, test_per_class=6)
    write_rafdb(root / "rafdb", images_per_class=5, test_per_class=5)
    return root


@pytest.fixture
def spoiled(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "spoiled"))


def errors(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings if finding.level == "error"]


def notes(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings if finding.level == "note"]


@pytest.mark.parametrize("name", DATASETS)
def test_a_sound_set_has_no_errors_and_its_counts_beside_the_published_ones(name, drawn, capsys):
    findings = check(name, drawn / name, None)
    assert errors(findings) == []
    splits = [split for split, counts in DATASETS[name].published.items() if counts]
    assert all(
        any(note.startswith(f"{split}: ") and "are published" in note for note in notes(findings)) for split in splits
    )
    out = capsys.readouterr().out
    for counts in filter(None, DATASETS[name].published.values()):
        assert all(f"{count:,}" in out for count in counts)
    assert out.rstrip().endswith(f"{len(findings)} notes")


def test_published_counts_are_those_of_the_papers():
    published = {name: known.published for name, known in DATASETS.items()}
    assert sum(published["affectnet"]["train"]) == 287_651 and sum(published["affectnet"]["validation"]) == 4_000
    totals = {split: sum(counts) for split, counts in published["ferplus"].items()}
    assert totals == {"train": 25_045, "valid": 3_191, "test": 3_137}
    assert sum(published["rafdb"]["train"]) == 12_271 and sum(published["rafdb"]["test"]) == 3_068
    official_test = {1: 329, 2: 74, 3: 160, 4: 1185, 5: 478, 6: 162, 7: 680}
    assert all(published["rafdb"]["test"][RAFDB_TO_EMOTIONS[label]] == n for label, n in official_test.items())


@pytest.mark.parametrize(
    ("name", "folder", "split"),
    [("ferplus", "Images/FER2013Test", "test"), ("rafdb", "test", "test"), ("affectnet", "Validation", "validation")],
)
def test_a_missing_split(name, folder, split, spoiled):
    shutil.rmtree(spoiled / name / folder)
    [error] = errors(check(name, spoiled / name, None))
    assert error.startswith(f"{split}: ") and str(spoiled / name / folder) in error


def test_what_is_wrong_with_a_split_of_faces_with_words_is_an_error(spoiled, tmp_path, capsys):
    faces = sorted((spoiled / "rafdb" / "train" / "1").glob("*.jpg"))[:3]
    lines = [f"{face},{word},train" for face, word in zip(faces, ("happy", "sad", "sad"), strict=True)]
    lines.append("gone.jpg,sad,test")
    (tmp_path / "faces.csv").write_text("file,label,split\n" + "\n".join(lines))
    [error] = errors(check("folder", tmp_path / "faces.csv", None))
    assert error.startswith("test: ") and "gone.jpg" in error
    for name in ("a.jpg", "b.jpg"):
        face = spoiled / "affectnet" / "Training_Unlabeled" / "0" / name
        face.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(faces[0], face)
    assert any(error.startswith("unlabeled: ") for error in errors(check("affectnet", spoiled / "affectnet", None)))


@pytest.mark.parametrize("kept", [3, 6, 7])
def test_published_counts_stand_beside_the_same_classes_alone(kept, spoiled, capsys):
    for split in ("train", "test"):
        for label, name in enumerate(EMOTIONS[:7]):
            folder = spoiled / "rafdb" / split / str(label)
            folder.rename(folder.with_name(name)) if label < kept else shutil.rmtree(folder)
    assert errors(check("rafdb", spoiled / "rafdb", None)) == []
    assert ("found published" in capsys.readouterr().out) == (kept == 7)


def test_an_archive_in_place_of_a_data_set_is_named(tmp_path):
    shutil.make_archive(str(tmp_path / "set"), "zip", Path(__file__).parent / "samples")
    for name in DATASETS:
        found = errors(check(name, tmp_path / "set.zip", None))
        assert found and all("zip" in error and "unpack it" in error for error in found), found


def test_released_affectnet_is_told_from_a_missing_one(tmp_path, capsys):
    write_affectnet_raw(tmp_path / "raw", images_per_class=1, validation_per_class=1)
    assert len(errors(check("affectnet", tmp_path / "raw", None))) == 2
    assert "run pre_process_affect_net on it first" in capsys.readouterr().out


def test_alphabetical_folders(spoiled):
    for split in ("train", "test"):
        for label in range(7):
            (spoiled / "rafdb" / split / str(label)).rename(spoiled / "rafdb" / split / EMOTIONS[label])
    assert not errors(check("rafdb", spoiled / "rafdb", None)), "folders named after emotions are read by their names"
    for split in ("train", "test"):
        for label in range(7):
            (spoiled / "rafdb" / split / EMOTIONS[label]).rename(spoiled / "rafdb" / split / f"kind {label}")
    found = errors(check("rafdb", spoiled / "rafdb", None))
    assert len(found) == 2 and all("kind 0, kind 1" in error for error in found)


def test_labels_in_rafdbs_order_counted_from_zero_are_known_by_the_class_sizes(tmp_path):
    root = write_rafdb(tmp_path / "rafdb", images_per_class=40, test_per_class=1)
    ours = tmp_path / "rafdb" / "train"
    for label, count in enumerate(DATASETS["rafdb"].published["train"]):
        for path in sorted((ours / str(label)).iterdir())[max(1, round(count / 120)) :]:
            path.unlink()
    assert not [error for error in errors(check("rafdb", root, None)) if error.startswith("train")]
    ours.rename(tmp_path / "before")
    for official, label in RAFDB_TO_EMOTIONS.items():
        shutil.copytree(tmp_path / "before" / str(label), ours / str(official - 1))
    [error] = [error for error in errors(check("rafdb", root, None)) if error.startswith("train")]
    assert "the labels look like RAF-DB's official order, counted from 0" in error and "class sizes" in error


def test_labels_that_begin_at_one_are_known_by_their_valence(spoiled):
    for path in list((spoiled / "affectnet" / "Training_Labeled").rglob("*.jpg")):
        number, label, *affect = path.stem.split("_")
        path.rename(path.with_name("_".join([number, str(int(label) + 1), *affect]) + ".jpg"))
    found = errors(check("affectnet", spoiled / "affectnet", None))
    assert len(found) == 2, found
    assert found[0].startswith("train: no face of Neutral") and "our order shifted by one" in found[1]


class Oracle:
    """A network that knows the drawn faces by heart."""

    def __init__(self, faces: FERPlus) -> None:
        labelled = zip(faces.paths, faces.labels, strict=True)
        self.labels = EMOTIONS
        self.known = {read_image(path).tobytes(): label for path, label in labelled}

    def predict(self, images):
        return torch.eye(8)[[self.known.get(image.tobytes(), 0) for image in images]]


def test_a_network_tells_labels_of_another_order_and_rows_that_moved(spoiled, monkeypatch):
    root, table = spoiled / "ferplus", spoiled / "ferplus/Labels/FER2013Train/label.csv"
    oracle = Oracle(FERPlus(root, "train"))
    monkeypatch.setattr(checking, "load_model", lambda path: oracle)
    train = lambda: [e for e in errors(check("ferplus", root, Path("oracle.pt"))) if e.startswith("train")]  # noqa: E731
    assert train() == []
    rows = [line.split(",") for line in table.read_text().splitlines()]  # name, box in four cells, ten votes
    alphabetical = [EMOTIONS.index(name) for name in sorted(EMOTIONS)]  # label k is this class of ours
    ours_to_votes = [0, 1, 3, 2, 6, 5, 4, 7]
    reordered = []
    for row in rows:
        votes = row[-10:]
        of_emotion = [votes[ours_to_votes[k]] for k in range(8)]
        written = [of_emotion[alphabetical[k]] for k in range(8)]  # as votes that our class k gets
        reordered.append([*row[:-10], *[written[ours_to_votes.index(c)] for c in range(8)], *votes[8:]])
    table.write_text("".join(",".join(row) + "\n" for row in reordered))
    [error] = train()
    assert "the labels look like the alphabetical order of the emotions" in error and "recall of a network" in error
    moved = [[row[0], *other[1:]] for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]
    table.write_text("".join(",".join(row) + "\n" for row in moved))
    [error] = train()
    assert "the labels fit the faces no better than chance (mean recall of the network" in error


def test_a_handful_of_faces_is_too_few_for_a_verdict(drawn, monkeypatch):
    ignorant = Oracle(FERPlus(drawn / "ferplus", "train").subset([]))
    monkeypatch.setattr(checking, "load_model", lambda path: ignorant)
    found = errors(check("affectnet", drawn / "affectnet", Path("ignorant.pt")))  # two faces of each class unlabeled
    assert not [error for error in found if error.startswith("unlabeled")]
    assert [error.split(":")[0] for error in found if "no better than chance" in error] == ["train", "validation"]


def test_truncated_pictures_copies_and_leaks(spoiled):
    train, test = (sorted((spoiled / "rafdb" / split).rglob("*.jpg")) for split in ("train", "test"))
    data = train[0].read_bytes()
    train[0].write_bytes(data[: len(data) * 2 // 3])
    train[1].write_bytes(b"")
    shutil.copy(test[3], spoiled / "rafdb/train/2/train_90001_aligned.jpg")
    Image.open(test[4]).save(spoiled / "rafdb/train/3/train_90002_aligned.png")  # the same pixels in another file
    shutil.copy(train[5], train[5].with_name("train_90003_aligned.jpg"))
    shutil.copy(train[6], spoiled / "rafdb/train/6/train_90004_aligned.jpg")  # labelled otherwise
    findings = check("rafdb", spoiled / "rafdb", None)
    unreadable, across = errors(findings)
    assert unreadable.startswith("2 of 74 pictures cannot be read whole") and train[0].name in unreadable
    assert across.startswith("2 pictures are in test and train, by content") and test[3].name in across
    assert "train_90002_aligned.png" in across
    [twice] = [note for note in notes(findings) if "more than once" in note]
    assert twice.startswith("train: 2 pictures are there more than once, 1 of them with different labels")
    assert train[5].name in twice and "train_90003" in twice


def test_orders_are_permutations_and_all_different():
    for K in (7, 8):
        found = [tuple(int(label) for label in order) for order in orders(K).values()]
        assert len(set(found)) == len(found)
        assert all(sorted(order) == list(range(K)) and order != tuple(range(K)) for order in found)
    assert np.array(orders(7)["FER2013's order"])[3] == EMOTIONS.index("Happiness")


def test_the_command_exits_with_the_verdict(drawn, spoiled):
    assert command("rafdb", drawn / "rafdb", None) == 0
    shutil.rmtree(spoiled / "rafdb" / "test")
    call = [sys.executable, "-m", "utils.udata", "check", "rafdb", str(spoiled / "rafdb"), "--network", "None"]
    done = subprocess.run(call, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 1 and "error: test: RAF-DB is not at" in done.stdout and "Traceback" not in done.stderr
    done = subprocess.run([*call[:-1], "nowhere.pt"], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("utils.udata check: no checkpoint at") and not done.stdout
