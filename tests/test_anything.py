"""Any network on any faces: shared classes, folders and tables of names, other tools' answers, groups, corruptions."""

import csv
import json
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import tyro
from PIL import Image, features

import evaluate
from diversified_fer.media.inputs import describe_left_out, list_media
from diversified_fer.media.media import read_media
from models import CheckpointError, load_model
from models.esr import ESR
from models.weights import describe_model
from utils.evaluation.answers import keep_answered, read_answers
from utils.evaluation.check import check
from utils.evaluation.classes import columns_of, keep_columns, share_classes
from utils.evaluation.corruptions import CORRUPTIONS, SIDE
from utils.evaluation.groups import read_groups
from utils.evaluation.subset import select_faces
from utils.preparing.named import emotion_of
from utils.udata import (
    EMOTIONS,
    RAFDB,
    DatasetError,
    EmotionFolders,
    FaceDataset,
    FERPlus,
    read_image,
    stratified_holdout,
)
from utils.udemosets import write_fer_plus, write_rafdb

WORDS = ("neutral", "HAPPY", "Sadness", "3_surprised", "fearful", "disgusted", "angry", "contempt")


def save(model, path: Path) -> Path:
    torch.manual_seed(0)
    for branch in model.branches:
        torch.nn.init.normal_(branch.fc.weight, std=40)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(describe_model(model), path)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, header: list[str], rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("anything")
    write_fer_plus(root / "ferplus", images_per_class=1, validation_per_class=1, test_per_class=4)
    write_rafdb(root / "rafdb", images_per_class=3, test_per_class=3)
    faces = FERPlus(root / "ferplus", "test")
    for path, label in zip(faces.paths, faces.labels.tolist(), strict=True):
        folder = root / "mine" / "test" / WORDS[label]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    save(ESR(2, image_size=60), root / "eight" / "best.pt")
    save(ESR(1, 7, image_size=60, attention=False), root / "seven" / "best.pt")
    return root


@pytest.fixture
def task(place, tmp_path) -> evaluate.Evaluation:
    checkpoints = (place / "eight" / "best.pt",)
    return evaluate.Evaluation(checkpoints, "ferplus", place / "ferplus", device="cpu", output=tmp_path / "out")


@pytest.mark.parametrize("network", ["eight", "seven"])
@pytest.mark.parametrize("dataset", ["ferplus", "rafdb", "folder"])
def test_a_network_is_scored_on_the_classes_it_shares(network, dataset, place, task, capsys):
    root = place / ("mine" if dataset == "folder" else dataset)
    path = place / network / "best.pt"
    evaluate.main(replace(task, checkpoints=(path,), dataset=dataset, base_path_to_dataset=root))
    out = task.output / f"{network}_best_on_{dataset}{'_mine' if dataset == 'folder' else ''}_test"
    rows, metrics = rows_of(out / "predictions.csv"), json.loads((out / "metrics.json").read_text())
    model = load_model(path)
    kept = [label for label in model.labels if dataset != "rafdb" or label != "Contempt"]
    probabilities = model.predict([read_image(root / row["file"]) for row in rows])[:, : len(kept)]
    probabilities = probabilities / probabilities.sum(dim=1, keepdim=True)  # by hand
    found = torch.tensor([[float(row[f"probability_{label}"]) for label in kept] for row in rows])
    torch.testing.assert_close(found, probabilities, atol=0.02, rtol=0)  # pictures are shrunk by another program
    right = np.mean([kept[p] == row["label"] for p, row in zip(found.argmax(1).tolist(), rows, strict=True)])
    assert metrics["ensemble (mean)"]["accuracy"] == pytest.approx(right) and metrics["n"] == len(rows)
    said, page = capsys.readouterr().out, (out / "report.html").read_text()
    differs = (network, dataset) in {("eight", "rafdb"), ("seven", "ferplus"), ("seven", "folder")}
    assert ("Scored on the 7 classes" in said) == ("Scored on the 7 classes" in page) == differs
    assert (metrics["classes"] is not None) == differs
    if network == "seven" and differs:
        assert "left out: 4 labelled Contempt faces" in said
        assert metrics["classes"]["left_out_faces"] == {"Contempt": 4}
        assert "shared classes" in metrics["data"] and "Contempt" not in {row["label"] for row in rows}
    elif differs:
        assert "its answer Contempt left out" in said and metrics["classes"]["left_out_answers"][str(path)] == [
            "Contempt"
        ]


def test_networks_of_different_classes_are_compared_on_what_they_share(place, task):
    both = (place / "eight" / "best.pt", place / "seven" / "best.pt")
    evaluate.main(replace(task, checkpoints=both))
    content = json.loads((task.output / "comparison_on_ferplus_test" / "metrics.json").read_text())
    assert (
        content["n"] == sum(FERPlus(place / "ferplus", "test").labels < 7)
        and "seven/best" in content["differences_from_the_first"]
    )
    table = task.output / "comparison_on_ferplus_test" / "predictions.csv"
    with pytest.raises(DatasetError, match=r"no column for the label; its columns are file, true_label, .* --columns"):
        read_answers(table, FERPlus(place / "ferplus", "test"))


def test_classes_by_their_names():
    faces = FaceDataset("drawn", [Path(f"{k}.png") for k in range(6)], np.array([0, 1, 2, 3, 1, 0]), 4)
    part, classes = share_classes(faces, {"net": ("angry", "sad", "happy")})
    assert part.class_names == ("Happiness", "Sadness") and part.labels.tolist() == [0, 1, 0]
    assert classes.left_out_faces == {"Neutral": 2, "Surprise": 1} and classes.left_out_answers == {"net": ["angry"]}
    columns = columns_of(("angry", "sad", "happy"), part.class_names)
    assert columns == [2, 1]
    kept = keep_columns(torch.tensor([[0.5, 0.1, 0.4], [1.0, 0.0, 0.0]]), columns)
    torch.testing.assert_close(kept, torch.tensor([[0.8, 0.2], [0.5, 0.5]]))
    same = share_classes(faces, {"net": EMOTIONS[:4]})
    assert same == (faces, None)
    with pytest.raises(CheckpointError, match="here one is"):
        share_classes(faces, {"net": ("sad", "bored")})


def test_words_for_emotions():
    assert [emotion_of(word) for word in WORDS] == list(EMOTIONS)
    assert [emotion_of(word) for word in ("joy", "", "non-neutral", "unknown", "0")] == [None] * 5
    assert emotion_of("Joy ", {"joy": "happy"}) == "Happiness"


def test_folders_of_emotions_and_tables(place, tmp_path, capsys):
    faces = EmotionFolders(place / "mine")
    drawn = FERPlus(place / "ferplus", "test")
    assert faces.class_names == EMOTIONS and np.bincount(faces.labels).tolist() == np.bincount(drawn.labels).tolist()
    assert len(EmotionFolders(place / "mine", "test")) == len(EmotionFolders(place / "mine" / "test")) == len(drawn)
    root = tmp_path / "misspelt"
    for word in ("suprise", "sad"):
        (root / word).mkdir(parents=True)
        shutil.copy(faces.paths[0], root / word / "a.png")
    assert EmotionFolders(root).class_names == ("Sadness", "Surprise")
    (root / "sad").rename(root / "sadnes")
    with pytest.raises(DatasetError, match=r"sadnes names no emotion; if Sadness is meant, rename the folder"):
        EmotionFolders(root)
    root = tmp_path / "some"
    for word, number in {"joy": 3, "sad": 2, "bored": 1}.items():
        for k in range(number):
            (root / word / "person 1").mkdir(parents=True, exist_ok=True)
            shutil.copy(faces.paths[0], root / word / "person 1" / f"{word}{k}.png")
    (root / "sad" / "notes.docx").write_bytes(b"")
    with pytest.raises(
        DatasetError, match=r"fewer than two emotions \(Sadness; .*3 pictures in joy.*--names joy=Happiness"
    ):
        EmotionFolders(root)
    capsys.readouterr()
    found = EmotionFolders(root, names="joy=Happiness")
    assert found.class_names == ("Happiness", "Sadness") and found.labels.tolist() == [0, 0, 0, 1, 1]
    said = capsys.readouterr().out
    assert "1 pictures in bored, which names no emotion" in said and "1 .docx" in said
    rows = [(f"joy/person 1/joy{k}.png", "JOY", "train") for k in range(3)] + [("sad0.png", "sad", "test")]
    table = write_table(root / "list.csv", ["Image", "feeling", "split"], [*rows, ("sad1.png", "?", "test")])
    columns = "image=file,feeling=label"
    found = EmotionFolders(table, "train", columns, "joy=Happiness")
    assert found.labels.tolist() == [0, 0, 0] and found.class_names == ("Happiness", "Sadness")
    assert EmotionFolders(table, None, columns, "joy=Happiness").paths == [root / "sad" / "person 1" / "sad0.png"]
    assert "1 rows labelled ?, no emotion" in capsys.readouterr().out
    with pytest.raises(DatasetError, match=r"no column for the label; .* by --columns COLUMN=label"):
        EmotionFolders(table)
    write_table(table, ["file", "label"], [("sad0.png", "sad"), ("none.png", "happy")])
    with pytest.raises(DatasetError, match=r"1 pictures that .* \(first: none\.png\)"):
        EmotionFolders(table)
    with pytest.raises(DatasetError, match=r"no column that says which rows are test"):
        EmotionFolders(table, "test")
    for wrong, message in (("joy", "THEIRS=OURS"), ("joy=Gladness", "expected one of Neutral")):
        with pytest.raises(DatasetError, match=message):
            EmotionFolders(root, names=wrong)
    with pytest.raises(DatasetError, match="no folder or table at"):
        EmotionFolders(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="has no valid faces: its splits are test"):
        EmotionFolders(place / "mine", "valid")


def test_training_needs_only_the_path(place, tmp_path, capsys):
    for split in ("train", "test"):
        shutil.copytree(place / "mine" / "test", tmp_path / "my faces" / split)
    shutil.rmtree(tmp_path / "my faces" / "test" / "contempt")
    train, test = (RAFDB(tmp_path / "my faces", split) for split in ("train", "test"))
    assert train.class_names == test.class_names == EMOTIONS and train.name == "my faces train"
    assert len(train) == len(test) + 4 and "folders named after emotions" in capsys.readouterr().out
    stratified_holdout(train.labels, 0.1, 0, train.class_names)


def test_the_answers_of_another_tool(place, task, tmp_path, capsys):
    faces = FERPlus(place / "ferplus", "test")
    labels = faces.labels.tolist()
    says = [WORDS[label] if k % 2 else "angry" for k, label in enumerate(labels)]
    rows = [(f"/elsewhere/{path.name}", word) for path, word in zip(faces.paths, says, strict=True)]
    rows = [rows[0], *rows[:-2], (faces.paths[-1].name, "no face"), ("unknown.png", "sad")]
    other = write_table(tmp_path / "other.csv", ["img", "dominant_emotion"], rows)
    evaluate.main(replace(task, predictions=(other,)))
    said = capsys.readouterr().out
    assert f"{other}: no answer for 2 of {len(faces)} faces" in said and "1 rows more than one for a face" in said
    assert "1 rows that say 'no face'" in said and "1 rows for no face that is scored" in said
    folder = next(task.output.glob("*other_on_ferplus_test"))
    metrics, found = json.loads((folder / "metrics.json").read_text()), rows_of(folder / "predictions.csv")
    known = [(emotion_of(word), EMOTIONS[label]) for word, label in zip(says[:-2], labels[:-2], strict=True)]
    right = np.mean([said_to_be == label for said_to_be, label in known])
    assert (
        metrics["ensemble (mean)"]["accuracy"] == pytest.approx(right) and len(found) == metrics["n"] == len(faces) - 2
    )
    assert metrics["faces_without_an_answer"] == {str(other): 2}
    page = (task.output / "comparison_on_ferplus_test" / "report.html").read_text()
    assert "labels without probabilities" in page and "faces have none in" in page
    together = json.loads((task.output / "comparison_on_ferplus_test" / "metrics.json").read_text())
    first = together["checkpoints"]["eight/best"]["ensemble (mean)"]["accuracy"]
    difference = next(iter(together["differences_from_the_first"].values()))["accuracy"]
    assert difference["value"] == pytest.approx(right - first)
    assert difference["interval"][0] <= difference["value"] <= difference["interval"][1]


def test_predictions_of_this_project_are_read_back(place, task, tmp_path):
    evaluate.main(task)
    own = task.output / "eight_best_on_ferplus_test" / "predictions.csv"
    evaluate.main(replace(task, checkpoints=(own,), output=tmp_path / "again"))
    again = next((tmp_path / "again").glob("*predictions_on_ferplus_test"))
    for folder in (own.parent, again):
        assert rows_of(folder / "predictions.csv")[0]["predicted"]
    before, after = (json.loads((f / "metrics.json").read_text())["ensemble (mean)"] for f in (own.parent, again))
    assert before["confusion"] == after["confusion"]
    assert before["calibration_error"] == pytest.approx(after["calibration_error"], abs=1e-5)


def test_tables_that_hold_no_answers(place, tmp_path):
    faces = FERPlus(place / "ferplus", "test")
    name = faces.paths[0].name
    table = write_table(tmp_path / "p.csv", ["file", "happy", "Sad", "p_fear"], [(name, 30, 60, 10)])
    answers = read_answers(table, faces)
    assert answers.labels == ("Happiness", "Sadness", "Fear") and answers.has_probabilities
    np.testing.assert_allclose(answers.by_file[faces.paths[0]], [0.3, 0.6, 0.1])
    assert len(keep_answered(faces, [answers])[0]) == 1
    write_table(table, ["file", "happy", "sad"], [(name, "nan", 1), (name, "?", 2), (name, 0, 0), (name, "", "")])
    with pytest.raises(DatasetError, match=r"an answer for none of the 31 faces .*4 rows without numbers"):
        read_answers(table, faces)
    write_table(table, ["file", "happy", "sad"], [(name, 2, -1.5)])
    with pytest.raises(DatasetError, match=rf"{name}: -1\.5 looks like scores, not probabilities.* apply softmax"):
        read_answers(table, faces)
    write_table(table, ["a", "b"], [(name, "happy")])
    with pytest.raises(DatasetError, match="no column for the file; its columns are a, b"):
        read_answers(table, faces)
    assert len(read_answers(table, faces, "a=file,b=label").by_file) == 1
    write_table(table, ["file", "label"], [(name, 3)])
    with pytest.raises(DatasetError, match=r"say '3', no emotion\); say what the numbers mean by --names"):
        read_answers(table, faces)
    write_table(table, ["file", "label", "emotion"], [(name, "happy", "sad")])
    with pytest.raises(DatasetError, match=r"columns that may be the prediction \(label, emotion\).*=predicted"):
        read_answers(table, faces)
    assert read_answers(table, faces, "emotion=predicted").column == "emotion"
    with pytest.raises(FileNotFoundError, match="no table at"):
        read_answers(tmp_path / "none.csv", faces)


NAMED = [f"{word}/{word}{k}.png" for word in ("happy", "sad") for k in range(2)]


@pytest.fixture
def valid(tmp_path) -> FaceDataset:
    """Faces of a split, whose names those of the other splits have too."""
    paths = [tmp_path / "K" / "valid" / name for name in NAMED]
    faces = FaceDataset("K valid", paths, np.array([0, 0, 1, 1]), 2, split="valid")
    faces.class_names = ("Happiness", "Sadness")
    return faces


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (["file", "label", "pred"], ""),
        (["file", "label", "y_pred"], ""),
        (["file", "emotion", "predicted_emotion"], ""),
        (["file", "expression", "prediction_label"], ""),
        (["file", "label", "best"], "best=predicted"),
        (["file", "emotion", "pred"], "emotion=label,pred=label"),
    ],
)
def test_beside_a_prediction_the_label_is_the_truth(header, columns, valid, tmp_path):
    other = {"happy": "sad", "sad": "happy"}
    rows = [(name, word, other[word]) for name in NAMED for word in [name.partition("/")[0]]]
    answers = read_answers(write_table(tmp_path / "p.csv", header, rows), valid, columns)
    found = [answers.labels[answers.by_file[path].argmax()] for path in valid.paths]
    assert found == ["Sadness"] * 2 + ["Happiness"] * 2 and answers.column == header[2]


def test_beside_probabilities_a_bare_emotion_is_the_truth(valid, tmp_path):
    rows = [(name, 1, 0, "10%", "0,9") for name in NAMED]
    for header in (["pred_happy", "pred_sad"], ["happy_prob", "sad_prob"]):
        table = write_table(tmp_path / "p.csv", ["file", "happy", "sad", *header], rows)
        answers = read_answers(table, valid)
        assert answers.labels == ("Happiness", "Sadness")
        np.testing.assert_allclose(answers.by_file[valid.paths[0]], [10 / 10.9, 0.9 / 10.9])
    write_table(table, ["file", "pred_a", "pred_b"], [(name, "happy", "sad") for name in NAMED])
    with pytest.raises(DatasetError, match=r"may be the prediction \(pred_a, pred_b\).*COLUMN=predicted"):
        read_answers(table, valid)
    with pytest.raises(DatasetError, match="--columns pred_a=lable: expected file, label"):
        read_answers(table, valid, "pred_a=lable")


def numbered(root: Path, names: list[str]) -> Path:
    for shade, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), shade, np.uint8)).save(root / name)
    return root


def test_rows_of_another_class_or_folder_answer_for_no_face(tmp_path):
    names = [f"{word}/{k}.png" for word in ("happy", "sad", "other") for k in range(3)]
    faces = EmotionFolders(numbered(tmp_path / "faces", names))
    rows = [(f"/home/me/{name}", "happy") for name in [*names, "fear/0.png"]]
    answers = read_answers(write_table(tmp_path / "p.csv", ["file", "label"], rows), faces)
    assert len(answers.by_file) == 6 and answers.skipped == {"rows in a folder of another split or class": 4}


def test_a_lost_picture_is_not_replaced_by_one_of_another_class(tmp_path):
    root = numbered(tmp_path / "faces", ["img/happy/1.png", "img/sad/2.png", "img/sad/3.png"])
    rows = [("/home/me/img/happy/1.png", "happy"), ("/home/me/img/sad/2.png", "sad")]
    write_table(root / "labels.csv", ["file", "label"], [*rows, ("/home/me/img/happy/3.png", "happy")])
    with pytest.raises(DatasetError, match=r"1 pictures that .* \(first: /home/me/img/happy/3\.png\)"):
        EmotionFolders(root)
    root = numbered(tmp_path / "same", ["a/0.png", "b/0.png", "b/1.png"])
    for prefix in ("faces", "/home/me/faces", "C:\\faces"):
        rows = [(f"{prefix}/a/0.jpg", "happy"), (f"{prefix}/b/0.png", "sad"), (f"{prefix}/b/1", "sad")]
        write_table(root / "labels.csv", ["file", "label"], rows)
        found = EmotionFolders(root)
        assert [path.relative_to(root).as_posix() for path in found.paths] == ["a/0.png", "b/0.png", "b/1.png"]


def test_a_name_in_full_comes_before_the_same_one_with_another_suffix(tmp_path):
    root = numbered(tmp_path / "faces", ["a/1.gif", "b/1.gif.png", "b/2.png"])
    write_table(root / "labels.csv", ["file", "label"], [("1.gif", "happy"), ("2.jpg", "sad")])
    assert [path.name for path in EmotionFolders(root).paths] == ["1.gif", "2.png"]


def test_how_splits_are_written(tmp_path, capsys):
    names = [f"img/{word}{k}.png" for word in ("happy", "sad") for k in range(4)]
    root = numbered(tmp_path / "faces", names)
    split = ["train", "test", "test", "Test set"] * 2
    rows = [(name, name[4:-5], part) for name, part in zip(names, split, strict=True)]
    write_table(root / "labels.csv", ["file", "label", "split"], rows)
    assert len(EmotionFolders(root)) == 4
    assert "2 rows whose split is Test set, no split" in capsys.readouterr().out
    assert len(RAFDB(root, "train")) == 2
    rows = [(name, label, "test" if part == "Test set" else part) for name, label, part in rows]
    write_table(root / "labels.csv", ["file", "label", "set"], rows)
    assert len(EmotionFolders(root)) == 6 and len(EmotionFolders(root, columns="set=unused")) == 8
    write_table(root / "labels.csv", ["file", "label", "set"], [(name, label, "a") for name, label, _ in rows])
    assert len(EmotionFolders(root)) == 8

    root = numbered(tmp_path / "folders", ["test/happy/1.png", "test/sad/2.png", "train/sad/3.png", "angry/4.png"])
    assert len(EmotionFolders(root)) == 2 and "1 pictures in angry, beside" in capsys.readouterr().out
    numbered(root, ["testing/happy/1.png"])
    with pytest.raises(DatasetError, match="several folders for test: test and testing"):
        EmotionFolders(root)
    root = numbered(tmp_path / "inside", ["happy/train/1.png", "happy/test/1.png", "sad/train/1.png"])
    with pytest.raises(DatasetError, match="folders of splits are expected above"):
        EmotionFolders(root)


def test_a_list_beside_folders_is_no_table(tmp_path):
    root = numbered(tmp_path / "raf", [f"{split}/{k}/{k}.png" for split in ("train", "test") for k in range(1, 8)])
    for name, text in (("train.txt", "train/1/1.png 1\n"), ("train.csv", "image,label\n1.png,1\n")):
        (root / name).write_text(text)
        assert len(RAFDB(root, "train")) == 7
    root = numbered(tmp_path / "mine", ["happy/1.png", "sad/2.png"])
    (root / "test.txt").write_text("1.png\n2.png\n")
    assert len(EmotionFolders(root)) == 2


def test_tables_as_programs_write_them(tmp_path):
    root = numbered(tmp_path / "faces", ["img/1.png", "img/2.png"])
    for text in (
        "sep=;\nfile;label\nimg/1.png;happy\nimg/2.png;sad\n",
        "name,path,label\nA,1.png,happy\nB,2.png,sad\n",
    ):
        (root / "labels.csv").write_text(text)
        assert [path.name for path in EmotionFolders(root).paths] == ["1.png", "2.png"]
    (root / "labels.csv").write_text("img/1.png,happy\nimg/2.png,sad\n")
    with pytest.raises(DatasetError, match=r"has no header: its first line is img/1\.png,happy"):
        EmotionFolders(root)


def test_names_with_accents_are_found_in_either_form(tmp_path):
    names = [f"{word}/e\u0301{word}.png" for word in ("happy", "sad")]
    faces = EmotionFolders(numbered(tmp_path / "faces", names))
    rows = [(unicodedata.normalize("NFC", name), "sad") for name in names]
    assert len(read_answers(write_table(tmp_path / "p.csv", ["file", "label"], rows), faces).by_file) == 2
    (tmp_path / "list.txt").write_text("\n".join(unicodedata.normalize("NFC", name) for name in names))
    assert len(select_faces(faces, tmp_path / "list.txt").faces) == 2
    (tmp_path / "list.txt").write_bytes("\u00e9happy.png\n".encode("cp1252"))
    with pytest.raises(DatasetError, match="letters that are not UTF-8: save it as UTF-8"):
        select_faces(faces, tmp_path / "list.txt")


def test_rows_of_other_splits_answer_for_no_face(valid, tmp_path):
    other = {"happy": "sad", "sad": "happy"}
    rows = [
        (f"{split}/{name}", word if split == "val" else other[word])
        for split in ("test", "FER2013Train", "C:\\x\\train_set", "val", "training")
        for name in NAMED
        for word in [name.partition("/")[0]]
    ]
    answers = read_answers(write_table(tmp_path / "p.csv", ["file", "label"], rows), valid)
    assert [answers.labels[answers.by_file[path].argmax()] for path in valid.paths] == ["Happiness"] * 2 + [
        "Sadness"
    ] * 2
    assert answers.skipped == {"rows in a folder of another split or class": 16}
    groupings = read_groups(write_table(tmp_path / "g.csv", ["file", "said"], rows), valid)
    assert [groupings[0].groups[group] for group in groupings[0].of_face] == ["happy"] * 2 + ["sad"] * 2
    names = tmp_path / "names.txt"
    names.write_text("test/happy/happy0.png\n3 train/happy/happy1.png\nvalid/sad/sad1.png\nsad0.png\n")
    chosen = select_faces(valid, names)
    assert [path.name for path in chosen.faces.paths] == ["sad0.png", "sad1.png"] and len(chosen.unknown) == 2
    with pytest.raises(DatasetError, match=r"none of the 4 faces .*1 rows in a folder of another split or class"):
        read_answers(write_table(tmp_path / "p.csv", ["file", "label"], [("test/happy/happy0.png", "sad")]), valid)


def test_the_row_that_names_a_face_best_answers_for_it(valid, tmp_path, capsys):
    rows = [
        ("happy0.png", "sad"), ("old/happy/happy0.png", "sad"), ("K/valid/happy/happy0.png", "happy"),
        ("HAPPY1.png", "sad"), ("happy1.jpg", "sad"), ("happy1.png", "happy"),
        ("a/sad0.png", "sad"), ("b/sad0.png", "sadness"), ("a/sad1.png", "sad"), ("b/sad1.png", "happy"),
    ]  # fmt: skip
    table = write_table(tmp_path / "p.csv", ["file", "label"], rows)
    answers = read_answers(table, valid)
    found = {path.name: answers.labels[row.argmax()] for path, row in answers.by_file.items()}
    assert found == {"happy0.png": "Happiness", "happy1.png": "Happiness", "sad0.png": "Sadness"}
    assert answers.skipped == {
        "rows for a face that another row names more exactly": 4,
        "rows more than one for a face": 1,
        "rows that differ from another one for the same face": 2,
    }
    people = [("a/sad0.png", "f", ""), ("b/sad0.png", "f", "x"), ("a/sad1.png", "m", "x"), ("happy0.png", "m", "y")]
    people += [("a/happy1.png", "m", "x"), ("b/happy1.png", "f", "x")]
    groupings = read_groups(write_table(tmp_path / "g.csv", ["file", "gender", "kind"], people), valid)
    assert [[grouping.groups[group] if group >= 0 else "" for group in grouping.of_face] for grouping in groupings] == [
        ["m", "", "f", "m"], ["y", "x", "x", "x"],
    ]  # fmt: skip
    assert "1 faces have rows that differ in gender, which is left out for them" in capsys.readouterr().out


def test_labels_of_classes_that_are_not_scored_are_mistakes(place, task, tmp_path, capsys):
    faces = RAFDB(place / "rafdb", "test")
    labels = faces.labels.tolist()
    says = ["contempt" if k % 3 == 0 else EMOTIONS[label] for k, label in enumerate(labels)]
    rows = [(path.name, word) for path, word in zip(faces.paths, says, strict=True)]
    other = write_table(tmp_path / "other.csv", ["file", "label"], rows)
    people = write_table(
        tmp_path / "g.csv", ["file", "side"], [(name, "lr"[k % 2]) for k, (name, _) in enumerate(rows)]
    )
    both = replace(
        task, checkpoints=(place / "seven" / "best.pt",), dataset="rafdb", base_path_to_dataset=place / "rafdb"
    )
    evaluate.main(replace(both, predictions=(other,), groups=people))
    wrong, said = says.count("contempt"), capsys.readouterr().out
    expected = f"{other}: answers of classes that are not scored count as mistakes, another class: {wrong} Contempt"
    assert expected in said and "no answer for" not in said and "Scored on" not in said
    folder = next(task.output.glob("*other_on_rafdb_test"))
    metrics, found = json.loads((folder / "metrics.json").read_text()), rows_of(folder / "predictions.csv")
    assert metrics["n"] == len(faces) and not metrics["faces_without_an_answer"]
    right = 1 - wrong / len(faces)
    assert metrics["ensemble (mean)"]["accuracy"] == pytest.approx(right)
    assert [row["predicted"] == "another class" for row in found] == [word == "contempt" for word in says]
    assert "No faces with the label another class" not in (folder / "report.html").read_text()
    together = json.loads((task.output / "comparison_on_rafdb_test" / "metrics.json").read_text())
    first, second = (content["ensemble (mean)"] for content in together["checkpoints"].values())
    difference = next(iter(together["differences_from_the_first"].values()))
    for which in ("accuracy", "mean_class_accuracy", "macro_f1"):
        assert difference[which]["value"] == pytest.approx(second[which] - first[which])
    drawn = FERPlus(place / "ferplus", "test")  # a class of the data that the network beside the table lacks
    known = drawn.labels < 7
    rows = [(path.name, "contempt") for path in drawn.paths]
    everything = write_table(tmp_path / "contempt.csv", ["file", "label"], rows)
    evaluate.main(replace(task, checkpoints=(place / "seven" / "best.pt",), predictions=(everything,)))
    assert f"another class: {known.sum()} Contempt" in (said := capsys.readouterr().out)
    assert "its answer Contempt left out" not in said
    metrics = json.loads((next(task.output.glob("*contempt_on_ferplus_test")) / "metrics.json").read_text())
    assert metrics["n"] == known.sum() and metrics["ensemble (mean)"]["accuracy"] == 0


def test_numbers_by_group(place, task, tmp_path, capsys):
    faces = FERPlus(place / "ferplus", "test")
    names = [path.name for path in faces.paths]
    rows = [(name, "f" if k % 3 else "m", k, "" if k < 2 else "x" if k % 2 else "y") for k, name in enumerate(names)]
    table = write_table(tmp_path / "people.csv", ["file", "gender", "number", "glasses"], rows)
    two = (place / "eight" / "best.pt", place / "seven" / "best.pt")
    evaluate.main(replace(task, checkpoints=two, groups=table))
    said = capsys.readouterr().out
    n = sum(faces.labels < 7)
    assert f"2 of {n} faces have no glasses" in said and "gender f: n = " in said and "points from the largest" in said
    folder = task.output / "eight_best_on_ferplus_test"
    found, by_name = json.loads((folder / "metrics.json").read_text())["groups"], {row[0]: row for row in rows}
    predictions = rows_of(folder / "predictions.csv")
    shares = {}
    for group in "fm":
        own = [row for row in predictions if by_name[Path(row["file"]).name][1] == group]
        shares[group] = np.mean([row["label"] == row["predicted"] for row in own])
        assert found["gender"][group]["n"] == len(own)
        assert found["gender"][group]["accuracy"]["value"] == pytest.approx(shares[group])
    difference = found["gender"]["m"]["minus_the_largest_group"]["accuracy"]
    assert difference["value"] == pytest.approx(shares["m"] - shares["f"])
    assert difference["interval"][0] <= difference["value"] <= difference["interval"][1]
    assert found["gender"]["f"]["minus_the_largest_group"] is None
    assert "Numbers by group" in (folder / "report.html").read_text()
    together = task.output / "comparison_on_ferplus_test"
    assert "gender: f" in json.loads((together / "metrics.json").read_text())["differences_by_group"]["seven/best"]
    assert "Differences by group" in (together / "report.html").read_text()
    with pytest.raises(DatasetError, match="has no column of groups"):
        read_groups(write_table(table, ["file", "label"], [(names[0], "sad")]), faces)
    with pytest.raises(DatasetError, match=r"no column of 2 to 30 groups .*one value f"):
        read_groups(write_table(table, ["file", "gender"], [(names[0], "f")]), faces)


def test_every_corruption_spoils_more_with_its_severity():
    picture = read_image(Path(__file__).parents[1] / "docs" / "synthetic_faces.png")[:200, :200]
    picture = torch.from_numpy(cv2.resize(picture, (SIDE, SIDE))).permute(2, 0, 1)[None] / 255
    for kind in CORRUPTIONS:
        errors = []
        for level in kind.levels:
            torch.manual_seed(0)
            spoiled = kind.apply(picture.repeat(4, 1, 1, 1), level)
            assert spoiled.shape == (4, 3, SIDE, SIDE) and spoiled.min() >= 0 and spoiled.max() <= 1, kind.name
            errors.append((spoiled - picture).square().mean().item())
        assert 1e-5 < errors[0] < errors[1] < errors[2], kind.name
        assert len(kind.levels) == 3 and kind.unit.format(kind.levels[0])


def test_a_corruption_sweep(place, task, capsys):
    evaluate.main(replace(task, corruptions=True))
    folder = task.output / "eight_best_on_ferplus_test"
    rows = json.loads((folder / "metrics.json").read_text())["corruptions"]
    assert [row["corruption"] for row in rows] == ["none"] + [kind.name for kind in CORRUPTIONS for _ in kind.levels]
    assert rows[0]["difference"]["value"] == 0
    for row in rows:
        assert row["difference"]["value"] == pytest.approx(row["accuracy"] - rows[0]["accuracy"])
    assert (folder / "corruptions.png").is_file()
    page = (folder / "report.html").read_text()
    assert "Accuracy on spoiled pictures" in page and "quality 10 at 96 pixels" in page and "mean of all" in page
    assert "mean of all corruptions" in capsys.readouterr().out
    evaluate.main(replace(task, corruptions=True))
    assert json.loads((folder / "metrics.json").read_text())["corruptions"] == rows, "the same faces are spoiled alike"


def test_the_flags_are_as_documented(place):
    words = f"{place}/eight/best.pt --dataset folder --base-path-to-dataset x --predictions a.csv --predictions b.csv"
    words += " --columns image=file,emotion=label --names joy=Happiness --groups g.csv --corruptions"
    found = tyro.cli(evaluate.Evaluation, args=words.split())
    assert found.predictions == (Path("a.csv"), Path("b.csv")) and found.corruptions
    alone = tyro.cli(
        evaluate.Evaluation, args=["--dataset", "rafdb", "--base-path-to-dataset", "x", "--predictions", "a.csv"]
    )
    assert alone.checkpoints == () and alone.predictions == (Path("a.csv"),)


def test_checking_folders_and_networks_of_other_classes(place, capsys):
    assert check("folder", place / "mine", place / "seven" / "best.pt") is not None
    said = capsys.readouterr().out
    assert "mine test: 31 pictures, 31 of them labelled" in said and "published)" not in said
    for network, dataset in (("eight", "rafdb"), ("seven", "ferplus")):
        check(dataset, place / dataset, place / network / "best.pt")
    with pytest.raises(DatasetError, match="no faces with a name of an emotion"):
        check("folder", place, None)


def test_every_suffix_that_is_decoded_is_taken(place, tmp_path, capsys):
    face = Image.open(EmotionFolders(place / "mine").paths[0]).convert("RGB")
    suffixes = [".jfif", ".jpe", ".jif", ".JPG", ".webp", ".bmp", ".tif", ".jp2"]
    suffixes += [".avif"] * features.check("avif")
    for folder in ("happy", "sad"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for k, suffix in enumerate(suffixes):
            form = {".jfif": "JPEG", ".jpe": "JPEG", ".jif": "JPEG", ".jp2": "JPEG2000"}.get(suffix)
            face.rotate(k).save(tmp_path / "set" / folder / f"{folder}{k}{suffix}", form)
        for suffix in (".gif", ".webp"):
            path = tmp_path / "set" / folder / f"moving{suffix}"
            face.save(path, save_all=True, append_images=[face.rotate(90)], duration=100)
        (tmp_path / "set" / folder / "a.heic").write_bytes(b"")
        (tmp_path / "set" / folder / "notes.txt").write_bytes(b"")
    number = 2 * (len(suffixes) + 2)
    faces = EmotionFolders(tmp_path / "set")
    assert len(faces) == number and faces.listing.left_out == {".heic": 2, ".txt": 2}
    assert f"{number} faces" in (said := capsys.readouterr().out) and "left out: 2 .heic, 2 .txt" in said
    for path in faces.paths:
        assert read_image(path).shape == (*face.size[::-1], 3)
    texts = [finding.text for finding in check("folder", tmp_path / "set", None)]
    assert any("4 files hold several pictures" in text for text in texts)
    media = list_media([tmp_path / "set"])
    assert len(media.files) == number and describe_left_out(media.left_out).startswith("2 .heic (convert to JPEG")
    for path in media.files:
        frames = list(read_media([path]))
        said = frames[0].note == "first of 2 pictures; the others are not looked at"
        assert path.stem != "moving" or said or len(frames) == 2, path
        assert path.stem == "moving" or (len(frames) == 1 and frames[0].note is None), path
