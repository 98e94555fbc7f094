"""evaluate.py from end to end on drawn faces: numbers, pictures, the page, subsets, seeds, and what stops it."""

import base64
import csv
import io
import json
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
from models import CheckpointError, load_model
from models.esr import ESR
from models.export import export_esr_folder, export_hub
from models.manet import MANet
from models.weights import SETTINGS_FILE, describe_model
from utils.evaluation.branches import measure_disagreement, watch_features
from utils.evaluation.comparison import check_seeds
from utils.evaluation.evaluation import (
    Provenance,
    Selection,
    choose_folders,
    evaluate_model,
    find_mistakes,
    name_checkpoints,
    read_provenance,
)
from utils.evaluation.page import list_warnings
from utils.evaluation.subset import ScoredFaces, select_faces
from utils.ucheckpoint import Run
from utils.udata import RAFDB, AffectNet, DatasetError, FaceDataset, FERPlus
from utils.udemo import draw_face
from utils.udemosets import write_affectnet, write_fer_plus, write_rafdb
from utils.uhardware import choose_hardware
from utils.upipeline import FaceLoader
from utils.ureport import report
from utils.utrain import Predictions

PICTURES = {"confusion_matrix.png", "reliability.png", "classes.png", "mistakes.png"}
OF_BRANCHES = {"disagreement.png", "disagreement_accuracy.png"}
SIMILARITIES = {"similarity_spatial.png", "similarity_channel.png"}
FILES = {"report.html", "metrics.json", "predictions.csv"}


def save(model, path: Path, **variables) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = {"stage": 1, "epoch": 3, "num_epochs": 5, "validation_accuracy": 0.25} if variables else {}
    torch.save(describe_model(model) | {"measured": measured, "variables": variables}, path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Drawn faces, and networks with random weights."""
    root = tmp_path_factory.mktemp("evaluate")
    write_fer_plus(root / "ferplus", images_per_class=1, validation_per_class=1, test_per_class=5)
    torch.manual_seed(0)
    three = ESR(3, image_size=60)
    for branch in three.branches:  # so that the answers differ from face to face
        torch.nn.init.normal_(branch.fc.weight, std=40)
    save(three, root / "three <b>&" / "best.pt", seed=1, batch_size=32)
    save(ESR(1, image_size=60, attention=False), root / "one" / "best.pt")
    return root


@pytest.fixture(scope="module")
def task(place) -> evaluate.Evaluation:
    checkpoints = (place / "three <b>&" / "best.pt", place / "one" / "best.pt")
    return evaluate.Evaluation(checkpoints, "ferplus", place / "ferplus", device="cpu")


@pytest.fixture(scope="module")
def evaluated(place, task) -> Path:
    evaluate.main(task)
    return place


class Page(HTMLParser):
    """The parts of a page that its readers depend on."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.open = path.read_text(encoding="utf-8"), [], []
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes what is not open"

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_folders_and_their_files(evaluated):
    three, one = evaluated / "three <b>&" / "best_on_ferplus_test", evaluated / "one" / "best_on_ferplus_test"
    together = evaluated / "comparison_on_ferplus_test"
    assert {path.name for path in three.iterdir()} == FILES | PICTURES | OF_BRANCHES | SIMILARITIES
    assert {path.name for path in one.iterdir()} == FILES | PICTURES
    differences = {f"difference_{name}.png" for name in ("accuracy", "mean_class_accuracy", "macro_f1")}
    assert {path.name for path in together.iterdir()} == FILES | {"accuracies.png"} | differences
    for path in three.glob("*.png"):
        assert Image.open(path).size[0] > 500


def test_numbers_are_those_of_the_predictions(evaluated):
    folder = evaluated / "three <b>&" / "best_on_ferplus_test"
    metrics, rows = json.loads((folder / "metrics.json").read_text()), read_rows(folder / "predictions.csv")
    faces = FERPlus(evaluated / "ferplus", "test")
    assert metrics["data"] == "FER+ test (majority rule)" and metrics["split"] == "test"
    assert metrics["n"] == len(faces) == len(rows) and metrics["seed"] == 1
    ensemble = metrics["ensemble (mean)"]
    assert ensemble["accuracy"] == pytest.approx(share(rows, lambda row: row["label"] == row["predicted"]))
    assert ensemble["accuracy_interval"][0] < ensemble["accuracy"] < ensemble["accuracy_interval"][1]
    for b in (1, 2, 3):
        expected = share(rows, lambda row, b=b: row["label"] == row[f"branch_{b}"])
        assert metrics[f"branch {b}"]["accuracy"] == pytest.approx(expected)
        assert metrics["disagreement"]["accuracy"][b - 1] == pytest.approx(expected)
    expected = share(rows, lambda row: row["branch_1"] != row["branch_3"])
    assert metrics["disagreement"]["pairwise"][0][2] == pytest.approx(expected) and expected > 0
    similarity = metrics["similarity"]
    assert similarity["gamma"] == "median" and similarity["faces"] == len(faces)
    assert np.diagonal(similarity["channel"]["matrix"]).tolist() == [1, 1, 1]


def test_differences_are_those_of_the_predictions(evaluated):
    folder = evaluated / "comparison_on_ferplus_test"
    content, rows = json.loads((folder / "metrics.json").read_text()), read_rows(folder / "predictions.csv")
    assert list(rows[0]) == ["file", "true_label", "three <b>&/best", "one/best"]
    right = [share(rows, lambda row, name=name: row["true_label"] == row[name]) for name in list(rows[0])[2:]]
    difference = content["differences_from_the_first"]["one/best"]["accuracy"]
    assert difference["value"] == pytest.approx(right[1] - right[0])
    assert difference["interval"][0] <= difference["value"] <= difference["interval"][1]
    assert content["seeds"] is None and set(content["checkpoints"]) == set(list(rows[0])[2:])


def test_the_page_needs_nothing_else_and_can_be_read_by_everyone(evaluated):
    three, one, together = (
        Page(evaluated / name / "report.html")
        for name in (
            "three <b>&/best_on_ferplus_test", "one/best_on_ferplus_test", "comparison_on_ferplus_test",
        )
    )  # fmt: skip
    for page, pictures in ((three, 8), (one, 4), (together, 4 + 8 + 4)):
        assert not page.open, "every tag is closed"
        assert [page.all("html")[0]["lang"], len(page.all("h1")), len(page.all("main"))] == ["en", 1, 1]
        assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
        assert len(page.all("img")) == pictures
        for image in page.all("img"):
            assert image["alt"].strip()
            Image.open(io.BytesIO(base64.b64decode(image["src"].removeprefix("data:image/png;base64,")))).verify()
        assert not re.search(r"https?:|@import|url\(|<script", page.text), "nothing is fetched, nothing runs"
        identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(set(identifiers)) == len(identifiers)
        assert {link["href"].removeprefix("#") for link in page.all("a")} <= set(identifiers)
        assert all("scope" in cell for cell in page.all("th"))
        assert len(page.all("table")) == len(page.all("caption"))
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert "<b>&/" not in page.text, "names are escaped"
    assert "three &lt;b&gt;&amp;/best on FER+ test (majority rule)" in three.text
    assert "stage 1, epoch 3 of 5" in three.text and "this network has a single branch" not in three.text
    assert "this network has a single branch" in one.text and "this checkpoint carries none" in one.text
    assert "Which faces the epoch was selected on is not recorded" not in one.text
    assert "Difference from three &lt;b&gt;&amp;/best in percentage points" in together.text


def test_the_same_evaluation_writes_the_same_files(evaluated, task, tmp_path):
    single = replace(task, checkpoints=task.checkpoints[:1], output=tmp_path)
    evaluate.main(single)
    again, before = tmp_path / "three <b>&_best_on_ferplus_test", evaluated / "three <b>&" / "best_on_ferplus_test"
    assert [path.name for path in tmp_path.iterdir()] == [again.name]
    for path in before.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_subset_is_scored_alone(place, task, tmp_path, capsys):
    faces = FERPlus(place / "ferplus", "test")
    names = tmp_path / "occlusion.txt"
    names.write_text(
        f"# occluded faces\n\n{faces.paths[3].name} 4 0.5\nFER2013Test/{faces.paths[1].stem}\n"
        f"{faces.paths[7].stem}.jpg,3\n{faces.paths[7].name}\nnobody.png\n"
    )
    evaluate.main(replace(task, checkpoints=task.checkpoints[1:], subset=names, output=tmp_path / "out"))
    folder = tmp_path / "out" / "one_best_on_ferplus_test_occlusion"
    rows = read_rows(folder / "predictions.csv")
    assert [Path(row["file"]) for row in rows] == [faces.paths[i].relative_to(place / "ferplus") for i in (1, 3, 7)]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["n"] == 3 and metrics["data"] == "FER+ test (majority rule), subset occlusion"
    expected = {"of": len(faces), "names_listed": 5, "names_not_in_the_data_set": ["nobody.png"]}
    assert metrics["subset"] == expected
    assert f"{names}: 1 names are not in the data set, first: nobody.png" in capsys.readouterr().out
    assert f"3 of {len(faces)} faces, from a list of 5 names" in (folder / "report.html").read_text()


def test_names_of_a_subset(tmp_path):
    paths = [Path(name) for name in ("a/1/x.png", "a/2/x.png", "a/1/test_0007_aligned.jpg", "a/2/v.1.jpg")]
    faces, names = FaceDataset("drawn test", paths, np.zeros(4, dtype=np.int64), 7), tmp_path / "names.txt"
    names.write_text("2/x\ntest_0007.jpg 3\na\\2\\v.1\n")
    chosen = select_faces(faces, names)
    assert chosen.faces.paths == [paths[1], paths[2], paths[3]] and not chosen.unknown and chosen.whole == 4
    names.write_text("x.png\n")
    with pytest.raises(
        DatasetError, match=r"names\.txt, line 1: x\.png fits 2 faces .*a/1/x\.png; write their folders"
    ):
        select_faces(faces, names)
    names.write_text("# nothing\n\n")
    with pytest.raises(DatasetError, match=r"none of the 0 names in .*\(nothing\)"):
        select_faces(faces, names)
    names.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(DatasetError, match="is no text file"):
        select_faces(faces, names)


def test_seeds_are_reported_as_mean_and_deviation(task, tmp_path, capsys):
    paths = []
    for seed in (4, 5, 6):
        torch.manual_seed(seed)
        model = ESR(1, image_size=60, attention=False)
        torch.nn.init.normal_(model.branches[0].fc.weight, std=40)
        batch_size = 16 if seed == 6 else 32
        paths.append(save(model, tmp_path / f"seed{seed}" / "best.pt", seed=seed, batch_size=batch_size))
    evaluate.main(replace(task, checkpoints=tuple(paths), seeds=True))
    folder = tmp_path / "comparison_on_ferplus_test"
    content, rows = json.loads((folder / "metrics.json").read_text()), read_rows(folder / "predictions.csv")
    accuracies = [share(rows, lambda row, s=s: row["true_label"] == row[f"seed{s}/best"]) for s in (4, 5, 6)]
    assert len(set(accuracies)) > 1
    assert content["seeds"]["accuracy"]["values"] == pytest.approx(accuracies)
    assert content["seeds"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert content["seeds"]["accuracy"]["deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert content["differences_from_the_first"] is None
    assert content["variables_that_differ"] == {"batch_size": [32, 32, 16]}
    said = capsys.readouterr().out
    assert f"accuracy {np.mean(accuracies):.2%}".replace("%", " %") in said and "over 3 seeds" in said
    assert "the runs also differ in batch_size: 32, 32, 16" in said


def test_what_are_no_seeds():
    one, two = ESR(1, image_size=60, attention=False), ESR(2, image_size=60, attention=False)
    seeds = [Provenance({"seed": seed}, {}, None) for seed in (1, 2)]
    check_seeds(["a", "b"], [one, one], seeds)
    check_seeds(["a", "b"], [one, one], [Provenance({}, {}, None)] * 2)
    with pytest.raises(CheckpointError, match="at least two"):
        check_seeds(["a"], [one], seeds[:1])
    with pytest.raises(CheckpointError, match=r"not seeds of one experiment: a: ESR, 1 branch.* b: ESR, 2 branches"):
        check_seeds(["a", "b"], [one, two], seeds)
    with pytest.raises(CheckpointError, match=r"two runs have the same seed .a has seed 1, b has seed 1"):
        check_seeds(["a", "b"], [one, one], seeds[:1] * 2)


def test_what_stops_an_evaluation(place, task, tmp_path):
    one = task.checkpoints[1]
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere\.pt"):
        evaluate.main(replace(task, checkpoints=(one, tmp_path / "nowhere.pt"), output=tmp_path))
    with pytest.raises(DatasetError, match=r"AffectNet is not at .*ferplus/Validation"):
        evaluate.main(replace(task, dataset="affectnet", output=tmp_path))
    with pytest.raises(ValueError, match="is named twice"):
        evaluate.main(replace(task, checkpoints=(one, one)))
    with pytest.raises(FileNotFoundError, match=r"no list of names at .*none\.txt"):
        evaluate.main(replace(task, subset=tmp_path / "none.txt", output=tmp_path))
    other = tmp_path / "other.txt"
    other.write_text("test_0001.jpg\ntest_0002.jpg\n")
    with pytest.raises(DatasetError, match=r"none of the 2 names in .*other\.txt .test_0001\.jpg, test_0002\.jpg"):
        evaluate.main(replace(task, subset=other, output=tmp_path / "out"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write to .*file/.* choose another place with --output"):
        evaluate.main(replace(task, output=tmp_path / "file"))
    write_rafdb(tmp_path / "rafdb", images_per_class=1, test_per_class=1)
    alone = ESR(1, image_size=60, attention=False, num_classes=3, labels=["Boredom", "Pride", "Fear"])
    alone = save(alone, tmp_path / "alone" / "best.pt")
    with pytest.raises(CheckpointError, match=r"predicts Boredom, Pride, Fear\. At least two .* here one is"):
        evaluate.main(replace(task, checkpoints=(alone,), dataset="rafdb", base_path_to_dataset=tmp_path / "rafdb"))
    with pytest.raises(ValueError, match="expected at least one checkpoint, or a table by --predictions"):
        evaluate.main(replace(task, checkpoints=()))
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"other.txt", "file", "rafdb", "alone"}, "nothing was written"


def test_similarity_is_that_of_the_features_of_a_sample(monkeypatch):
    monkeypatch.setattr("utils.evaluation.branches.SAMPLE", 4)
    torch.manual_seed(0)
    model, images = MANet(7, image_size=32).eval(), torch.rand(7, 3, 32, 32)
    with watch_features(model, 7) as sample, torch.no_grad():
        for batch in images.split(3):
            model(batch)
    assert not model._forward_hooks, "the network is left as it was"
    found = sample.similarity
    assert found.faces == 4 and found.parts == ("top left", "top right", "bottom left", "bottom right")
    with torch.no_grad():
        patches = model(images).local_features[:, [0, 2, 4, 6]].double()  # evenly spaced
    for name, features in {"spatial": patches.mean(dim=2).flatten(2), "channel": patches.mean(dim=(3, 4))}.items():
        squared = [[((features[i] - features[j]) ** 2).sum(dim=1) for j in range(4)] for i in range(4)]
        pairs = torch.cat([squared[i][j] for i in range(4) for j in range(i)])
        for i in range(4):
            for j in range(4):
                expected = torch.exp(-squared[i][j] / pairs.median()).mean().item()
                assert found.matrices[name][i, j].item() == pytest.approx(expected, abs=1e-3)
    assert model.branch_names == ("local", "global")


def test_networks_without_features_to_compare():
    plain = ESR(2, image_size=60, attention=False).eval()
    with watch_features(plain, 2) as sample, torch.no_grad():
        plain(torch.rand(2, 3, 60, 60))
    assert sample.similarity is None and plain.branch_names == ("1", "2")


def test_disagreement_is_that_of_a_loop():
    logits, targets = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    found, choices = measure_disagreement(logits, targets), logits.argmax(dim=2)
    for i in range(4):
        others = [np.mean([choices[i, n] != choices[j, n] for n in range(50)]) for j in range(4)]
        assert found.pairwise[i].tolist() == pytest.approx(others)
        assert found.with_the_rest[i].item() == pytest.approx(sum(others) / 3)
    assert measure_disagreement(logits[:1], targets) is None


def test_mistakes_come_surest_first(tmp_path):
    probabilities = torch.tensor([[0.1, 0.9], [0.4, 0.6], [0.8, 0.2], [0.05, 0.95], [0.1, 0.9]])
    targets = torch.tensor([0, 0, 1, 1, 0])
    faces = FaceDataset("drawn", [Path(f"{i}.png") for i in range(5)], targets.numpy(), 7)
    predictions = Predictions(probabilities.log()[None], targets, torch.arange(5))
    found = find_mistakes(probabilities, predictions, faces, ("a", "b"), number=3)
    assert [mistake.path.name for mistake in found] == ["0.png", "4.png", "2.png"]
    assert found[2][1:3] == ("b", "a") and found[2].confidence == pytest.approx(0.8)


def test_names_and_folders_of_checkpoints(tmp_path):
    paths = [tmp_path / "x" / "a" / "best.pt", tmp_path / "y" / "a" / "best.pt"]
    assert name_checkpoints(paths[:1]) == ["a/best"]
    assert name_checkpoints(paths) == ["x/a/best", "y/a/best"]
    *folders, together = choose_folders(paths, name_checkpoints(paths), None, "_on_d")
    assert folders == [path.with_name("best_on_d") for path in paths] and together == tmp_path / "comparison_on_d"
    folders = choose_folders(paths, name_checkpoints(paths), tmp_path / "out", "_on_d")
    assert [folder.name for folder in folders] == ["x_a_best_on_d", "y_a_best_on_d", "comparison_on_d"]
    both = [tmp_path / "best.pt", tmp_path / "best.pth"]
    assert len(set(name_checkpoints(both))) == 2
    with pytest.raises(ValueError, match="choose a folder for the results by --output"):
        choose_folders(both, name_checkpoints(both), None, "_on_d")
    (tmp_path / "esr.v2").mkdir()
    assert choose_folders([tmp_path / "esr.v2"], ["esr.v2"], None, "_on_d")[0].name == "esr.v2_on_d"


def test_a_folder_may_be_named_by_a_dot(tmp_path, monkeypatch):
    (tmp_path / "hub" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "hub")
    for path, name in ((Path(), "hub"), (Path(".."), tmp_path.name)):
        assert name_checkpoints([path])[0].endswith(f"/{name}")
        folder, together = choose_folders([path], name_checkpoints([path]), None, "_on_d")
        assert folder.name == f"{name}_on_d" and folder.parent == together.parent == path.resolve().parent
    with pytest.raises(ValueError, match="is named twice"):
        name_checkpoints([Path(), tmp_path / "hub"])


def test_what_is_not_as_usual_is_recorded(place, task, evaluated, tmp_path):
    export_esr_folder(ESR(1, attention=False), tmp_path / "esr")
    (tmp_path / "esr" / SETTINGS_FILE).unlink()
    published = replace(task, checkpoints=(tmp_path / "esr",), normalization="imagenet", flip=True)
    evaluate.main(replace(published, output=tmp_path / "out"))
    folder, usual = next((tmp_path / "out").iterdir()), evaluated / "one" / "best_on_ferplus_test"
    metrics, page = json.loads((folder / "metrics.json").read_text()), (folder / "report.html").read_text()
    assert metrics["flip"] is True and metrics["normalization"] == "imagenet"
    words = ", each face averaged with its mirror image, normalisation imagenet of published weights"
    assert metrics["computed"].endswith(words) and f"<dd>{metrics['computed']}; bootstrap" in page
    metrics, page = json.loads((usual / "metrics.json").read_text()), (usual / "report.html").read_text()
    assert metrics["flip"] is False and metrics["normalization"] is None and "mirror image" not in page


def test_a_temperature_that_cannot_be_stored_is_refused_before_anything_is_done(place, task, tmp_path):
    best = place / "one" / "best.pt"
    export_hub(best, tmp_path / "hub")
    for name in ("own", "published"):
        export_esr_folder(load_model(best), tmp_path / name)
    (tmp_path / "published" / SETTINGS_FILE).unlink()
    other = ESR(1, image_size=60, attention=False, num_classes=7)
    paths = [tmp_path / name for name in ("hub", "own", "published")] + [save(other, tmp_path / "seven" / "best.pt")]
    copy = save(load_model(best), tmp_path / "copy.pt")
    before = copy.read_bytes()
    messages = (
        "exported for model hubs, .* name the checkpoint it was exported from", "exported for other tools, .* name the",
        "not written by this project's training", "has other classes than",
    )  # fmt: skip
    for path, message in zip(paths, messages, strict=True):
        out = tmp_path / "out"
        names = name_checkpoints([copy, path])
        earlier = out / f"{names[0].replace('/', '_')}_on_ferplus_test" / "report.html"
        earlier.parent.mkdir(parents=True, exist_ok=True)
        earlier.write_text("earlier")
        with pytest.raises(CheckpointError, match=message):
            evaluate.main(replace(task, checkpoints=(copy, path), output=out, fit_temperature=True))
        assert earlier.read_text() == "earlier" and copy.read_bytes() == before
    first, second = (path.name for path in FERPlus(task.base_path_to_dataset, "test").paths[:2])
    (tmp_path / "answers.csv").write_text(f"file,label\n{first},happy\n{second},sad\n")
    alone = replace(task, checkpoints=(), predictions=(tmp_path / "answers.csv",), fit_temperature=True)
    with pytest.raises(CheckpointError, match="name a checkpoint"):
        evaluate.main(alone)
    evaluate.main(replace(task, checkpoints=(copy,), output=tmp_path / "out", fit_temperature=True))
    assert load_model(copy).temperature != 1


def test_what_a_checkpoint_says_of_its_origin(tmp_path):
    path = save(ESR(1, image_size=60, attention=False), tmp_path / "best.pt", seed=3)
    assert read_provenance(path).seed == 3 and read_provenance(path).selected_on is None
    found = {"stage": 1, "epoch": 3, "num_epochs": 5, "validation_accuracy": 0.25}
    chosen_by = Selection("FER+", "valid", "FER+ valid")
    (tmp_path / "metrics.json").write_text(json.dumps({"found": found, "selected_on": chosen_by._asdict()}))
    assert read_provenance(path).selected_on == chosen_by and read_provenance(path).selection == "FER+ valid"
    assert read_provenance(path).found == "stage 1, epoch 3 of 5, 25.00% when it was selected"
    other = {"found": found | {"epoch": 4}, "selected_on": chosen_by._asdict()}
    (tmp_path / "metrics.json").write_text(json.dumps(other))
    assert read_provenance(path).selected_on is None, "that is the result of other weights"
    assert read_provenance(tmp_path) == Provenance({}, {}, None), "a folder of published weights"


SPLITS = {  # of each data set: training, and the other one that a run may select on and report
    "affectnet": (AffectNet, "train", "validation"),
    "ferplus": (FERPlus, "valid", "test"),
    "rafdb": (RAFDB, "train", "test"),
}


@pytest.mark.parametrize("dataset", SPLITS)
@pytest.mark.parametrize("selected_on_reported", [True, False])
def test_the_report_warns_of_faces_that_were_selected_on(dataset, selected_on_reported, tmp_path, capsys):
    """A run as the scripts end it, scored on both splits: the warning is there for the faces it selected on, alone."""
    write = {"affectnet": write_affectnet, "ferplus": write_fer_plus, "rafdb": write_rafdb}[dataset]
    root = write(tmp_path / dataset, images_per_class=2)
    read, first, second = SPLITS[dataset]
    test, other = read(root, second), read(root, first)
    chosen_by = test if selected_on_reported else other.subset(range(4), split=first if first == "valid" else "holdout")
    hardware = choose_hardware("cpu", "float32", "off")
    model = ESR(1, labels=test.class_names, image_size=60, attention=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = Run(tmp_path / "run", {"seed": 0})
    run.begin_stage(1, model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1))
    run.save_best(model, stage=1, epoch=0, num_epochs=1)
    loaders = [FaceLoader(faces, 60, hardware=hardware) for faces in (test, chosen_by)]
    report(run, *loaders, hardware, seed=0)
    assert (" itself, seed 0)" in capsys.readouterr().out) == selected_on_reported
    provenance = read_provenance(run.best_path)
    assert provenance.selected_on == Selection(chosen_by.source, chosen_by.split, chosen_by.name)
    scored = evaluate_model(model, run.best_path, "run", provenance, loaders[0], hardware, 0)
    warned = [
        text for text in list_warnings(scored, ScoredFaces(test, test.split, "", None, root)) if "these very" in text
    ]
    assert len(warned) == selected_on_reported
    if not selected_on_reported:
        chosen = ScoredFaces(chosen_by, chosen_by.split, "", None, root)
        assert any("these very faces" in text for text in list_warnings(scored, chosen))


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def share(rows: list[dict[str, str]], holds) -> float:
    return sum(map(holds, rows)) / len(rows)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not UTF-8")
def test_pictures_whose_names_are_not_utf8_are_in_the_report(task, tmp_path):
    """Two rendered faces under names of another age, one byte of which no page can hold."""
    for number, emotion in enumerate(("happy", "sad")):
        folder = tmp_path / "faces$x_$y" / emotion
        folder.mkdir(parents=True)
        Image.fromarray(draw_face(number, 48, number)).save(folder / os.fsdecode(b"caf\xe9.png"))
    named = replace(task, dataset="folder", base_path_to_dataset=tmp_path / "faces$x_$y", output=tmp_path / "out")
    evaluate.main(named)
    page = next((tmp_path / "out").rglob("report.html")).read_text("utf-8")
    assert "caf" in page and "\\udce9" in page
