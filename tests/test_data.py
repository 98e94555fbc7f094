"""The three data sets in every layout, the label rules, and what a user is told when something is wrong."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.classifier import EMOTIONS
from utils.udata import (
    RAFDB,
    AffectNet,
    DatasetError,
    FERPlus,
    at_most_per_label,
    labels_from_votes,
    stratified_holdout,
)
from utils.udemosets import write_affectnet, write_fer_plus, write_rafdb


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    write_affectnet(root / "affectnet", images_per_class=4, validation_per_class=2)
    write_fer_plus(root / "ferplus", images_per_class=6, validation_per_class=2, test_per_class=2)
    for layout in ("folders", "official", "official_folders"):
        write_rafdb(root / layout, images_per_class=3, test_per_class=2, layout=layout)
    return root


def grey(path: Path, value: int = 128, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((side, side), value, np.uint8))


def test_affectnet(drawn):
    dataset = AffectNet(drawn / "affectnet", "train")
    assert np.bincount(dataset.labels).tolist() == [4] * 8 and dataset.class_names == EMOTIONS
    image, label = dataset[0]
    assert image.shape == (3, 96, 96) and image.dtype == torch.uint8 and isinstance(label, int)
    assert len(AffectNet(drawn / "affectnet", "validation", num_classes=7)) == 14
    few = AffectNet(drawn / "affectnet", max_images_per_label=2, seed=1)
    assert np.bincount(few.labels).tolist() == [2] * 8 and few.affect.shape == (16, 2)
    assert few.paths != AffectNet(drawn / "affectnet", max_images_per_label=2, seed=2).paths
    bgr = cv2.imread(str(dataset.paths[0]))
    assert np.array_equal(image.numpy().transpose(1, 2, 0), bgr[:, :, ::-1]), "RGB"


def test_affectnet_names(tmp_path):
    for name in ("0000012s3s-250s731.jpg", "0000013_0_0_-1000.jpg", "0000014_8_0_0.jpg", "0000015_9_-2000_-2000.jpg"):
        grey(tmp_path / "Validation" / "0" / name)
    dataset = AffectNet(tmp_path, "validation")
    assert dataset.labels.tolist() == [3, 0]
    np.testing.assert_allclose(dataset.affect, [[-0.25, 0.731], [0, -1]])
    grey(tmp_path / "Validation" / "0" / "0000016_12_0_0.jpg")
    with pytest.raises(DatasetError, match=r"0000016_12_0_0\.jpg has the emotion 12"):
        AffectNet(tmp_path, "validation")
    grey(tmp_path / "Validation" / "0" / "holiday.jpg")
    with pytest.raises(DatasetError, match=r"1 of 6 pictures .*no label in their name \(first: holiday\.jpg\)"):
        AffectNet(tmp_path, "validation")


def votes(**counts: int) -> list[int]:
    order = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]
    return [counts.get(name, 0) for name in order]


@pytest.mark.parametrize(
    ("row", "majority", "distribution", "multi"),
    [
        (votes(happiness=10), 1, {1: 1.0}, {1}),
        (votes(surprise=6, fear=4), 3, {3: 0.6, 4: 0.4}, {3, 4}),
        (votes(anger=5, disgust=5), None, {6: 0.5, 5: 0.5}, {5, 6}),  # a tie
        (votes(sadness=4, neutral=3, fear=3), None, {2: 0.4, 0: 0.3, 4: 0.3}, {0, 2, 4}),
        (votes(contempt=7, neutral=1, anger=1, fear=1), 7, {7: 1.0}, {7}),  # single votes are outliers
        (votes(neutral=4, anger=1, fear=1, disgust=1, sadness=1, NF=2), 0, {0: 1.0}, {0}),
        (votes(unknown=8, neutral=2), None, None, None),
        (votes(NF=10), None, None, None),
        (votes(happiness=5, unknown=5), None, None, None),  # a tie with unknown
        (votes(happiness=4, neutral=2, unknown=4), None, {1: 2 / 3, 0: 1 / 3}, {1}),
        ([1] * 10, None, None, None),  # nothing but outliers
        (
            votes(neutral=2, happiness=2, surprise=2, sadness=2, anger=2),
            None,
            dict.fromkeys((0, 1, 2, 3, 6), 0.2),
            None,
        ),
    ],
)
def test_label_rules(row, majority, distribution, multi):
    table = np.array([row])
    keep, labels = labels_from_votes(table, "majority")
    assert labels.tolist() == ([] if majority is None else [majority]) and len(keep) == len(labels)
    for rule in ("crossentropy", "probability"):
        keep, labels = labels_from_votes(table, rule)
        expected = np.zeros((0 if distribution is None else 1, 8))
        for emotion, share in (distribution or {}).items():
            expected[0, emotion] = share
        np.testing.assert_allclose(labels, expected, atol=1e-6)
    keep, labels = labels_from_votes(table, "multi_target")
    assert [set(np.flatnonzero(label)) for label in labels] == ([] if multi is None else [multi])


def test_fer_plus(drawn):
    dataset = FERPlus(drawn / "ferplus", "train")
    image, _ = dataset[0]
    assert image.shape == (3, 48, 48) and torch.equal(image[0], image[2]), "grey, in three channels"
    soft = FERPlus(drawn / "ferplus", "train", "crossentropy")
    np.testing.assert_allclose(soft.labels.sum(axis=1), 1, atol=1e-6)
    assert FERPlus(drawn / "ferplus", "valid", "crossentropy").labels.ndim == 1, "validation is always majority"
    drawn_labels = FERPlus(drawn / "ferplus", "train", "probability")
    index = int((drawn_labels.labels.max(axis=1) < 0.8).argmax())
    torch.manual_seed(0)
    counts = np.bincount([drawn_labels[index][1] for _ in range(300)], minlength=8) / 300
    np.testing.assert_allclose(counts, drawn_labels.labels[index], atol=0.1)


REAL = Path(__file__).parents[1] / "data" / "FER_2013" / "Dataset"


@pytest.mark.skipif(not (REAL / "Labels").is_dir(), reason="needs the FER+ data set")
def test_counts_of_the_real_fer_plus():
    assert len(FERPlus(REAL, "train")) == 25_045
    assert len(FERPlus(REAL, "valid")) == 3_191


def test_raf_db_in_three_layouts(drawn, capsys):
    found = [RAFDB(drawn / layout, "test") for layout in ("folders", "official", "official_folders")]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("(")[1] for line in lines] == [
        "class folders 0..6, our order)",
        "the official list, labels 1..7)",
        "class folders 1..7, the official order)",
    ]
    by_content = [{path.read_bytes(): label for path, label in zip(d.paths, d.labels, strict=True)} for d in found]
    assert by_content[0] == by_content[1] == by_content[2] and len(by_content[0]) == 14


def test_raf_db_faults(drawn, tmp_path):
    for name in ("a", "b"):
        grey(tmp_path / "letters" / "train" / name / "a.jpg")
    with pytest.raises(DatasetError, match=r"class folders a, b.*rename the folders"):
        RAFDB(tmp_path / "letters", "train")
    grey(tmp_path / "official" / "Image" / "aligned" / "train_1_aligned.jpg")
    listing = tmp_path / "official" / "EmoLabel" / "list_patition_label.txt"
    listing.parent.mkdir()
    for line, message in (
        ("train_1.jpg 9", r"line 1: .*a label from 1 to 7"),
        ("train_2.jpg 3", r"1 of the 1 pictures .*\(first: train_2_aligned\.jpg\)"),
    ):
        listing.write_text(line + "\n")
        with pytest.raises(DatasetError, match=message):
            RAFDB(tmp_path / "official", "train")


def test_the_list_may_name_pictures_that_others_have_cut_out(tmp_path):
    for name in ("train_1", "train_2", "train_2_aligned"):
        grey(tmp_path / "Image" / "aligned" / f"{name}.jpg")
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "EmoLabel" / "list_patition_label.txt").write_text("train_1.jpg 4\ntrain_2.jpg 7\n")
    faces = RAFDB(tmp_path, "train")
    assert [path.name for path in faces.paths] == ["train_1.jpg", "train_2_aligned.jpg"]
    assert faces.labels.tolist() == [1, 0]


@pytest.mark.parametrize("dataset", [AffectNet, FERPlus, RAFDB])
def test_a_wrong_path_and_an_empty_folder_say_what_is_expected(dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"is not at .*exists and holds.*Expected .*base_path_to_dataset.*--demo"):
        dataset(tmp_path / "nowhere")
    folder = {AffectNet: "Training_Labeled", FERPlus: "Images/FER2013Train", RAFDB: "train"}[dataset]
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"holds no pictures\. Expected"):
        dataset(tmp_path)
    with pytest.raises(ValueError, match="split is 'trainn'; expected one of"):
        dataset(tmp_path, "trainn")


def test_fer_plus_faults(tmp_path):
    images, labels = tmp_path / "Images" / "FER2013Train", tmp_path / "Labels" / "FER2013Train" / "label.csv"
    grey(images / "fer1.png")
    with pytest.raises(DatasetError, match=r"label\.csv"):
        FERPlus(tmp_path)
    labels.parent.mkdir(parents=True)

    def write(*rows):
        with labels.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    write(["fer1.png", "(0, 0, 48, 48)", *[1] * 9])
    with pytest.raises(DatasetError, match=r"line 1: expected name, box and ten vote counts"):
        FERPlus(tmp_path)
    write(["fer2.png", "(0, 0, 48, 48)", *votes(anger=10)])
    with pytest.raises(DatasetError, match=r"1 of the 1 pictures .*\(first: fer2\.png\)"):
        FERPlus(tmp_path)
    write(["fer1.png", "(0, 0, 48, 48)", *votes(anger=10)])
    assert FERPlus(tmp_path).labels.tolist() == [6]
    (images / "fer1.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"fer1\.png \(10 bytes\) is no picture"):
        FERPlus(tmp_path)[0]


def test_holdout_is_stratified_seeded_and_disjoint():
    labels = np.repeat([0, 1, 2], [100, 50, 4])
    kept, held = stratified_holdout(labels, 0.1, seed=3)
    assert np.bincount(labels[held]).tolist() == [10, 5, 1]
    assert sorted([*kept, *held]) == list(range(154))
    assert held.tolist() == stratified_holdout(labels, 0.1, seed=3)[1].tolist()
    assert held.tolist() != stratified_holdout(labels, 0.1, seed=4)[1].tolist()
    assert np.bincount(labels[at_most_per_label(labels, 30, 0)]).tolist() == [30, 30, 4]
