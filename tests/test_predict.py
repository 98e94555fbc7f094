"""From pictures to labels: faces of any type, detectors and crops, files and videos, heat maps, and predict.py."""

import contextlib
import csv
import itertools
import math
import os
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import predict
from diversified_fer import analyze, command
from diversified_fer.detectors import cut_face, find_faces, make_detector
from diversified_fer.faces import label_faces
from diversified_fer.media.media import (
    Frame,
    MediaError,
    VideoFile,
    annotate,
    find_media,
    read_media,
    read_photo,
    stream_video,
)
from models.classifier import ExpressionClassifier, as_faces
from models.esr import ESR
from models.manet import MANet
from models.weights import describe_model
from utils.evaluation.explain import SPREAD, explain, plot_explanation, score_maps
from utils.udemo import Face, draw_face, draw_photograph
from utils.uhardware import choose_hardware

REPOSITORY = Path(__file__).parents[1]
BOXES = [(20, 30, 150, 150), (210, 20, 90, 90), (340, 40, 200, 200), (60, 250, 110, 110), (250, 270, 130, 130)]
PEOPLE = [Face(1, 51, 1, 0.8), Face(0, 54, 2, 0.8), Face(3, 16, 3, 0.8), Face(6, 53, 4, 0.8), Face(2, 15, 5, 0.8)]


@pytest.fixture(scope="module")
def model() -> ESR:
    """A network that tells faces apart, though it has learnt nothing: its BatchNorms have seen a few."""
    torch.manual_seed(0)
    return acquainted(ESR(2, image_size=64))


def acquainted(network: ESR) -> ESR:
    torch.manual_seed(0)
    size = network.image_size
    faces = np.stack([draw_face(k % 8, 100 + k, k, size) for k in range(16)])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.from_numpy(faces).permute(0, 3, 1, 2))
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    torch.save(describe_model(model), path)
    return path


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return draw_photograph(PEOPLE, BOXES, 600, 440, 0, frontal=True).picture


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def no_leftovers(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if "partial" in path.name]


# Faces as people hold them


def test_every_kind_of_picture_gives_the_same_answer(model):
    face = draw_face(1, 3, 0, 80)  # (80, 80, 3), uint8
    channels_first = torch.from_numpy(face).permute(2, 0, 1)
    expected = model.predict(channels_first[None])
    assert expected.shape == (1, 8)
    read_only = face.copy()
    read_only.setflags(write=False)
    kinds = [
        channels_first, face, read_only, face[:, ::-1][:, ::-1], face[None], Image.fromarray(face), [face],
        (Image.fromarray(face),), [channels_first], face / 255, (face / 255).astype(np.float32),
        channels_first.double() / 255,
    ]  # fmt: skip
    for kind in kinds:
        torch.testing.assert_close(model.predict(kind), expected)
    grey = Image.fromarray(face).convert("L")
    torch.testing.assert_close(model.predict(grey), model.predict(np.array(grey)[..., None].repeat(3, axis=2)))


def test_many_faces_of_different_sizes_and_kinds_are_each_answered_as_alone(model):
    faces = [draw_face(k % 8, k, 0, 40 + 9 * k) for k in range(7)]
    mixed = [Image.fromarray(face) if k % 2 else face for k, face in enumerate(faces)]
    together = model.predict(mixed, batch_size=3)
    alone = torch.cat([model.predict(face) for face in faces])
    torch.testing.assert_close(together, alone)
    assert together.argmax(dim=1).unique().numel() > 1
    same_size = np.stack([draw_face(k, k, 0, 50) for k in range(5)])
    torch.testing.assert_close(model.predict(same_size, batch_size=2), model.predict(list(same_size)))


def test_a_photo_held_sideways_is_turned_upright(model):
    face = Image.fromarray(draw_face(1, 3, 0, 64))
    sideways = face.transpose(Image.Transpose.ROTATE_90)  # to be turned by 90 degrees clockwise: orientation 6
    sideways.getexif()[274] = 6
    torch.testing.assert_close(model.predict(sideways), model.predict(face))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "empty list"),
        (np.zeros((3, 64, 64), np.uint8), r"channels first"),
        (np.zeros((64, 64, 2), np.uint8), r"expected \(H, W, 3\)"),
        (np.zeros((64, 64, 3), np.int64), "expected uint8"),
        (np.full((64, 64, 3), 200.0), r"expected \[0, 1\]"),
        (torch.zeros(64, 64, 3), r"expected \(N, 3, H, W\)"),
        (torch.zeros(64, 64), r"expected \(N, 3, H, W\)"),
        ([np.zeros((9, 9, 3), np.uint8), np.zeros((2, 9, 9, 3), np.uint8)], r"images\[1\] holds 2 faces"),
        ([np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 2.0)], r"float images\[1\]"),
        (Image.new("I;16", (9, 9)), "8 bits"),
        (3, "is a int; expected"),
        ([None], r"images\[0\] is a NoneType"),
    ],
)
def test_other_pictures_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        as_faces(images)


# Detectors and crops


def test_crops_are_squares_around_the_box_and_repeat_the_border():
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(cut_face(picture, (10, 5, 20, 20)), picture[5:25, 10:30])
    np.testing.assert_array_equal(cut_face(picture, (10, 15, 20, 10)), picture[10:30, 10:30])
    np.testing.assert_array_equal(cut_face(picture, (20, 10, 10, 10), margin=0.5), picture[5:25, 15:35])
    for box, margin in (((-5, -8, 30, 30), 0.0), ((45, 20, 30, 25), 0.2), ((0, 0, 60, 40), 1.0)):
        x, y, width, height = box
        side = round(max(width, height) * (1 + 2 * margin))
        left, top = math.floor(x + (width - side) / 2 + 0.5), math.floor(y + (height - side) / 2 + 0.5)
        padded = np.pad(picture, ((200, 200), (200, 200), (0, 0)), mode="edge")  # the oracle
        expected = padded[200 + top : 200 + top + side, 200 + left : 200 + left + side]
        np.testing.assert_array_equal(cut_face(picture, box, margin), expected)


def test_five_faces_by_a_given_function(model, photograph):
    shuffled = [BOXES[k] for k in (3, 0, 4, 2, 1)]
    [(frame, faces)] = label_faces(model, [Frame(photograph)], lambda picture: np.array(shuffled, float))
    assert frame.source == "picture"
    assert [face.box for face in faces] == sorted(BOXES)
    for face in faces:
        x, y, width, height = face.box
        crop = photograph[y : y + height, x : x + width]
        probabilities = model.predict(crop)[0]
        np.testing.assert_allclose(face.probabilities, probabilities, rtol=1e-4, atol=1e-5)
        assert face.label == model.labels[int(probabilities.argmax())] == model.labels[face.target]
        assert face.branch_labels == tuple(model.labels[k] for k in model.predict_branches(crop)[:, 0].argmax(dim=1))


def test_five_faces_by_the_default_detector(model, photograph):
    [(_, faces)] = label_faces(model, [Frame(photograph)])
    assert len(faces) == 5
    for face, (x, y, width, height) in zip(faces, sorted(BOXES), strict=True):
        # the drawn box reaches from the crown to the chin, the training crops' from the forehead
        across = (face.box[0] + face.box[2] / 2 - x) / width
        down = (face.box[1] + face.box[3] / 2 - y) / height
        assert abs(across - 0.5) < 0.08 and abs(down - 0.53) < 0.1, (face.box, (x, y, width, height))
        assert 0.6 < face.box[2] / width < 0.95 and face.box[2] == face.box[3]
        assert 0.7 < face.score <= 1


def test_detector_none_takes_pictures_as_they_are(model):
    pictures = [draw_face(k, k, 0, 60)[: 60 - 4 * k] for k in range(3)]  # not square: stretched, as in training
    for (_, [face]), picture in zip(label_faces(model, map(Frame, pictures), "none"), pictures, strict=True):
        assert face.box == (0, 0, picture.shape[1], picture.shape[0])
        np.testing.assert_allclose(face.probabilities, model.predict(picture)[0], rtol=1e-4, atol=1e-5)


def test_answers_do_not_depend_on_batches_and_keep_their_order(model, photograph):
    frames = [Frame(photograph, "a"), Frame(None, "b", error="broken"), Frame(photograph[:, :330], "c")]
    boxes = {600: BOXES, 330: BOXES[:2]}

    def detector(picture):
        return np.array(boxes[picture.shape[1]])

    whole = list(label_faces(model, frames, detector))
    assert [(frame.source, len(faces)) for frame, faces in whole] == [("a", 5), ("b", 0), ("c", 2)]
    single = list(label_faces(model, frames, detector, batch_size=1))
    for (_, faces), (_, others) in zip(whole, single, strict=True):
        for face, other in zip(faces, others, strict=True):
            assert face.box == other.box
            torch.testing.assert_close(face.probabilities, other.probabilities, atol=1e-5, rtol=0)


def test_pictures_are_read_only_as_they_are_needed(model):
    taken = []

    def frames():
        for number in range(100):
            taken.append(number)
            yield Frame(np.zeros((8, 8, 3), np.uint8), f"{number}")

    labelled = label_faces(model, frames(), lambda picture: np.zeros((0, 4)), batch_size=4)
    next(labelled)
    assert len(taken) == 4


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (np.zeros((2, 6)), r"expected finite boxes \(n, 4\)"),
        ([(1, 2, np.nan, 4)], "finite"),
        ([(5, 5, 0, 4)], "empty or outside"),
        ([(100, 5, 10, 10)], r"outside of the picture \(60 x 40\)"),
    ],
)
def test_wrong_boxes_are_refused(boxes, message):
    with pytest.raises(ValueError, match=message):
        find_faces(np.zeros((40, 60, 3), np.uint8), lambda picture: boxes)


def test_wrong_detectors_are_refused(tmp_path, model):
    with pytest.raises(ValueError, match="unknown detector 'None'; expected 'yunet', 'haar', 'none'"):
        make_detector(None)
    with pytest.raises(ValueError, match=r"network is None; expected the path of an .onnx file or a network"):
        analyze(np.zeros((48, 48), np.uint8), network=None)
    with pytest.raises(ValueError, match="unknown detector 'mtcnn'; expected 'yunet', 'haar', 'none'"):
        label_faces(model, [], "mtcnn")
    with pytest.raises(FileNotFoundError, match="OpenCV Zoo"):
        make_detector(tmp_path / "yunet.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"broken.onnx is not a YuNet"):
        make_detector(str(broken))
    with pytest.raises(ValueError, match="margin is -1"):
        label_faces(model, [], margin=-1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        label_faces(model, [], batch_size=0)


# Files


def test_media_are_found_in_order_and_once(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a.mp4", "b/c/3.webp", "b/notes.txt", "b/._1.png", "b/out/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_media([tmp_path / "b" / "c" / "3.webp", tmp_path], exclude=[tmp_path / "b" / "out"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["b/c/3.webp", "a.mp4", "b/1.png", "b/2.JPG"]
    with pytest.raises(FileNotFoundError, match="missing"):
        find_media([tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match=r"empty holds no photos or videos"):
        find_media([tmp_path / "empty"])


def test_photos_are_decoded_as_they_are_and_damaged_ones_refused(tmp_path, photograph):
    Image.fromarray(photograph).save(tmp_path / "whole.png")
    np.testing.assert_array_equal(read_photo(tmp_path / "whole.png"), photograph)
    deep = np.full((9, 9), 256 * 77, np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert (read_photo(tmp_path / "deep.png") == 77).all()
    Image.fromarray(photograph).save(tmp_path / "whole.jpg")
    turned = Image.fromarray(photograph)
    turned.getexif()[274] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    assert read_photo(tmp_path / "turned.jpg").shape == (600, 440, 3)
    for name in ("whole.png", "whole.jpg"):
        data = (tmp_path / name).read_bytes()
        for share in (0, 0.5, 0.97):
            (tmp_path / f"cut_{name}").write_bytes(data[: int(share * len(data))])
            with pytest.raises(MediaError, match=rf"cut_{name} .* is no picture that can be read"):
                read_photo(tmp_path / f"cut_{name}")


def test_a_photo_whose_camera_notes_are_damaged_is_read_as_it_is_stored(tmp_path, photograph):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"  # orientation 6, then half an entry
    exif += b"\x32\x01\x02\0\xff\xff\xff\0\xff\xff"
    Image.fromarray(photograph).save(tmp_path / "notes.jpg", exif=exif)
    Image.fromarray(photograph).save(tmp_path / "notes.png", exif=exif[6:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "diversified_fer.media.picture.Image.Image.getexif",
            lambda image: (_ for _ in ()).throw(struct.error("bad")),
        )
        assert read_photo(tmp_path / "notes.png").shape == (440, 600, 3)
    for frame in read_media([tmp_path / "notes.jpg", tmp_path / "notes.png"]):
        assert frame.error is None and sorted(frame.picture.shape) == [3, 440, 600]


def write_video(path: Path, pictures: int = 20, rate: int = 10) -> Path:
    """Write a video whose picture i is grey of value 10 * i."""
    with VideoFile(path) as video:
        for number in range(pictures):
            video.write(np.full((64, 96, 3), 10 * number, np.uint8), number / rate, rate)
    return path


def test_video_is_a_stream_with_the_right_times(tmp_path):
    path = write_video(tmp_path / "grey.mp4")
    frames = list(stream_video(path))
    assert [round(frame.seconds, 6) for frame in frames] == [round(k / 10, 6) for k in range(20)]
    assert all(abs(frame.picture.mean() - 10 * k) < 4 for k, frame in enumerate(frames))
    third = list(stream_video(path, every=3))
    assert [round(10 * frame.seconds) for frame in third] == [0, 3, 6, 9, 12, 15, 18]
    assert third[0].rate == pytest.approx(10 / 3)
    assert no_leftovers(tmp_path)


def test_annotated_video_keeps_its_time_and_appears_when_complete(tmp_path):
    picture = np.full((64, 96, 3), 90, np.uint8)
    with VideoFile(tmp_path / "gap.mp4") as video:
        for seconds in (5.0, 5.1, 5.5):
            video.write(picture, seconds, 10.0)
    assert len(list(stream_video(tmp_path / "gap.mp4"))) == 6
    with contextlib.suppress(RuntimeError), VideoFile(tmp_path / "stopped.mp4") as video:
        video.write(picture, 0.0, 10.0)
        raise RuntimeError
    with pytest.raises(MediaError, match="change from"), VideoFile(tmp_path / "sizes.mp4") as video:
        video.write(picture, 0.0, 10.0)
        video.write(picture[:32], 0.1, 10.0)
    assert [path.name for path in tmp_path.iterdir()] == ["gap.mp4"]


def test_damaged_videos_are_named(tmp_path):
    whole = write_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    writer = cv2.VideoWriter(str(tmp_path / "whole.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for number in range(20):
        writer.write(np.random.default_rng(number).integers(0, 256, (64, 96, 3), np.uint8))  # large: half of them fit
    writer.release()
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    frames = list(read_media([tmp_path / name for name in ("empty.mp4", "cut.mp4", "cut.avi")]))
    errors = [frame.error for frame in frames if frame.error]
    assert len(errors) == 3
    assert "empty.mp4 (0 bytes) cannot be opened" in errors[0] and "cut.mp4" in errors[1]
    assert "cut.avi is damaged: it ends after" in errors[2] and "of 20 pictures" in errors[2]
    assert 5 <= len(frames) - 3 < 18, "what is there of the last one is used"


def test_annotation_marks_the_box_and_leaves_the_rest(photograph):
    box = (210, 120, 90, 90)
    drawn = annotate(photograph, [box], ["Surprise 95 %"], [3])
    changed = (drawn != photograph).any(axis=2)
    assert (drawn[120:210, 210] == (190, 40, 140)).all() and (drawn[209, 210:300] == (190, 40, 140)).all()
    assert not changed[125:205, 215:295].any() and not changed[215:].any() and not changed[:, :205].any()
    assert changed[106:119, 212:280].all() and not changed[:96].any(), "the caption stands above the box"
    inside = annotate(photograph, [(0, 0, 600, 440)], ["Fear 50 %"], [4])
    assert (inside[8:12, 4:40] != photograph[8:12, 4:40]).any(), "at the border it stands in the box"


# Heat maps


@pytest.mark.parametrize("attention", [True, False])
def test_maps_of_esr_against_the_formula_for_a_pooled_linear_head(attention):
    """Behind average pooling Grad-CAM is CAM (Zhou et al. 2016): the head's weights times the features, over h w."""
    torch.manual_seed(1)
    network = acquainted(ESR(2, attention=attention, image_size=96))
    faces = torch.rand(3, 3, 96, 96)
    targets = torch.tensor([0, 3, 5])
    found = score_maps(network, faces, targets)
    with torch.no_grad():
        shared = network.base(network.normalize(faces))
        for branch, score_map in zip(network.branches, found, strict=True):
            features = shared
            for layer in (1, 2, 3, 4):
                features = branch.block(features, layer).features  # in the end (3, 512, 6, 6)
            expected = torch.einsum("nc,nchw->nhw", branch.fc.weight[targets], features) / 36
            torch.testing.assert_close(score_map.values, expected, atol=1e-5, rtol=1e-4)
    assert [score_map.weight for score_map in found] == [0.5, 0.5]


def test_maps_of_manet_against_the_formula_for_a_pooled_linear_head():
    torch.manual_seed(1)
    network = MANet(7, image_size=96).eval()
    faces, targets = torch.rand(2, 3, 96, 96), torch.tensor([1, 6])
    local, whole = score_maps(network, faces, targets)
    with torch.no_grad():
        outputs = network(faces)
        features = outputs.local_features  # (4, N, 512, 3, 3): top row, then bottom row
        features = torch.cat((torch.cat((features[0], features[1]), 3), torch.cat((features[2], features[3]), 3)), 2)
        expected = torch.einsum("nc,nchw->nhw", network.fc_1.weight[targets], features) / features[0, 0].numel()
    torch.testing.assert_close(local.values, expected, atol=1e-5, rtol=1e-4)
    # a score is the sum of its map and the head's bias
    heads = ((local, outputs.local_logits, network.fc_1), (whole, outputs.global_logits, network.fc_2))
    for score_map, logits, head in heads:
        scores = score_map.values.sum(dim=(1, 2)) + head.bias[targets]
        torch.testing.assert_close(scores, logits[torch.arange(2), targets], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("image_size", [64, 96])
def test_positions_of_a_map_are_where_they_look(image_size):
    """The oracle is the gradient of a position with respect to the pixels: the middle of those it depends on."""
    torch.manual_seed(0)
    network = ESR(1, attention=False, image_size=image_size).eval()
    [score_map] = score_maps(network, torch.rand(1, 3, image_size, image_size), torch.tensor([0]))
    side = score_map.values.shape[-1]
    assert side == {64: 10, 96: 6}[image_size]
    branch, pixels = network.branches[0], torch.rand(1, 3, image_size, image_size, requires_grad=True)
    features = network.base(network.normalize(pixels))
    for layer in {64: (1,), 96: (1, 2, 3, 4)}[image_size]:
        features = branch.block(features, layer).features
    # summed over columns, a row of positions still looks at a few rows of pixels
    last = 1 if image_size == 64 else 2  # rows at the border of a padded map see less
    for row in (last, side - 1 - last):
        [gradient] = torch.autograd.grad(features[0, :, row].abs().sum(), pixels, retain_graph=True)
        seen = gradient.abs().sum(dim=(0, 1, 3)).nonzero()
        middle = (seen.min() + seen.max()).item() / 2
        assert abs(middle - (score_map.first + row * score_map.stride)) <= 0.1 * score_map.stride + 4


def test_explanation_is_the_rectified_weighted_sum(model):
    faces = [draw_face(k, k, 0, 64 + k) for k in range(3)]
    found = explain(model, faces)
    assert found.ensemble.shape == (3, 64, 64) and found.branches.shape == (2, 3, 64, 64)
    assert found.names == ("branch 1", "branch 2")
    assert torch.equal(found.targets, model.predict(faces).argmax(dim=1))
    assert found.branches.min() >= 0 and found.branches.max() == 1
    resized = found.faces
    maps = score_maps(model, resized, found.targets)
    expected = torch.zeros(3, 64, 64)
    for name, values, first, stride, weight in maps:
        assert name.startswith("branch")
        for i, j in np.ndindex(*values.shape[1:]):  # the slow loop: a spot per position
            rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
            distance = (rows - first - i * stride) ** 2 + (columns - first - j * stride) ** 2
            expected += weight * values[:, i, j, None, None] * torch.exp(-distance / 2 / (SPREAD * stride) ** 2)
    expected = expected.clamp(min=0)
    expected = expected / expected.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(found.ensemble, expected, atol=1e-4, rtol=1e-3)
    other = explain(model, faces, torch.tensor([4, 4, 4]))
    assert other.targets.tolist() == [4, 4, 4] and not torch.equal(other.ensemble, found.ensemble)

    class Other(ExpressionClassifier):
        pass

    with pytest.raises(NotImplementedError, match="Other does not say where its heat maps are taken"):
        score_maps(Other(("a",), 64, "rgb", {}), resized, found.targets)


def test_explanation_is_drawn(model):
    found = explain(model, draw_face(1, 1, 0, 64))
    figure = plot_explanation(found, 0, model.labels)
    label = model.labels[int(found.targets[0])]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "face" and titles[1].startswith(f"ensemble\n{label} ") and len(titles) == 4
    face, *maps = (axes.images[-1].get_array() for axes in figure.axes)
    np.testing.assert_array_equal(face, found.faces[0].permute(1, 2, 0))
    for drawn, heat in zip(maps, (found.ensemble[0], *found.branches[:, 0]), strict=True):
        np.testing.assert_array_equal(drawn, heat)
    empty = plot_explanation(found._replace(ensemble=torch.zeros(1, 64, 64)), 0, model.labels)
    assert empty.axes[1].get_xlabel() == f"nothing speaks for {label}"


# predict.py


def test_photos_folder_and_video_in_one_run(model, checkpoint, photograph, tmp_path, capsys):
    inputs = tmp_path / "inputs"
    (inputs / "deep").mkdir(parents=True)
    Image.fromarray(photograph).save(inputs / "deep" / "five.png")
    Image.fromarray(np.full((80, 80, 3), 128, np.uint8)).save(inputs / "nobody.jpg")
    (inputs / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    with VideoFile(inputs / "video.mp4") as video:
        for number in range(6):
            video.write(photograph, number / 5, 5.0)
    output = inputs / "results"
    for _ in range(2):  # results in the folder that is read are not read the second time
        predict.main(
            predict.Prediction(
                (inputs,),
                checkpoint=checkpoint,
                output=output,
                every=2,
                branches=True,
                annotate=True,
                explain=True,
                precision="float32",
            )
        )
    table = rows(output)
    said = capsys.readouterr()
    assert "5 pictures, 20 faces" in said.out and "1 pictures without a face, 1 files unreadable" in said.out
    assert "pictures/s" in said.out and "broken.jpg" in said.err
    names = ("nobody.jpg", "broken.jpg", "five.png", "video.mp4")
    by_file = {name: [row for row in table if Path(row["file"]).name == name] for name in names}
    assert [row["label"] for row in by_file["nobody.jpg"]] == ["no face"]
    assert [(row["label"], row["x"]) for row in by_file["broken.jpg"]] == [("unreadable", "")]
    assert len(by_file["five.png"]) == 5 and len(by_file["video.mp4"]) == 15
    assert sorted({float(row["seconds"]) for row in by_file["video.mp4"]}) == pytest.approx([0, 0.4, 0.8])
    for row in by_file["five.png"]:
        box = [int(row[name]) for name in ("x", "y", "width", "height")]
        assert 0.7 < float(row["face_score"]) <= 1
        crop = cut_face(photograph, box)
        probabilities = model.predict(crop)[0]
        written = [float(row[f"probability_{label}"]) for label in model.labels]
        np.testing.assert_allclose(written, probabilities, atol=1e-5)
        assert row["label"] == model.labels[int(probabilities.argmax())]
        branches = model.predict_branches(crop)[:, 0].argmax(dim=1)
        assert [row["branch_1"], row["branch_2"]] == [model.labels[k] for k in branches]
    assert read_photo(output / "annotated" / "deep" / "five.png").shape == photograph.shape
    assert len(list(stream_video(output / "annotated" / "video.mp4"))) == 3
    explained = sorted(path.name for path in (output / "explained").rglob("*.png"))
    assert len(explained) == 20 and "five.png_face5.png" in explained and "video.mp4_0.400s_face1.png" in explained
    assert no_leftovers(output)


def test_every_wrong_call_says_what_to_do(checkpoint, tmp_path, monkeypatch):
    photo = tmp_path / "face.png"
    Image.fromarray(draw_face(0, 0, 0, 64)).save(photo)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "folder").mkdir()
    output = tmp_path / "results"

    def call(*inputs, **variables):
        variables = {"checkpoint": checkpoint, "output": output} | variables
        predict.main(predict.Prediction(inputs, **variables))

    with pytest.raises(ValueError, match="one of the two"):
        call()
    with pytest.raises(ValueError, match="one of the two"):
        call(photo, webcam=0)
    with pytest.raises(ValueError, match="every is 0"):
        call(photo, every=0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        call(tmp_path / "nowhere.jpg")
    with pytest.raises(ValueError, match="holds no photos or videos"):
        call(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        call(photo, checkpoint=tmp_path / "nowhere.pt")
    with pytest.raises(OSError, match=r"face.png cannot be made a folder .* --output"):
        call(photo, output=photo)
    assert not output.exists() or not any(output.iterdir())
    with pytest.raises(ValueError, match="none of the 1 files could be read"):
        call(tmp_path / "broken.jpg")
    assert [row["label"] for row in rows(output)] == ["unreadable"]
    (output / "predictions.csv").unlink()
    monkeypatch.setattr(
        "diversified_fer.command.write_picture", lambda *_: (_ for _ in ()).throw(OSError("No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        call(photo, annotate=True, detector="none")
    assert not any(output.iterdir()), "a table that is not complete does not stay"


def test_results_stay_in_their_folder_and_photos_as_they_are(checkpoint, tmp_path, monkeypatch, capsys):
    """Photos named through "..", results beside the photos, and what an earlier run left."""
    here = tmp_path / "deep" / "here"
    (here / "a").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    for place in (here / "a" / "1.png", here / "a" / "2.png", tmp_path / "a" / "1.png"):
        Image.fromarray(draw_face(0, len(str(place)), 0, 64)).save(place)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    monkeypatch.chdir(here)
    task = {"checkpoint": checkpoint, "detector": "none"}
    predict.main(predict.Prediction((Path("a/2.png"), Path("../../a/1.png")), annotate=True, **task))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list(Path("predictions/annotated").rglob("*.png"))) == 2
    assert "wrote predictions: predictions.csv, annotated\n" in capsys.readouterr().out
    for output in (Path(), Path("a")):
        for _ in range(2):
            predict.main(predict.Prediction((Path("a"),), output=output, annotate=True, **task))
            assert [Path(row["file"]).name for row in rows(output)] == ["1.png", "2.png"]
        assert all(path.read_bytes() == content for path, content in before.items())


def test_a_picture_that_cannot_be_annotated_does_not_stop_the_rest(checkpoint, tmp_path, capsys):
    wide, photo = tmp_path / "a_wide.webp", tmp_path / "face.png"
    Image.fromarray(np.zeros((1, 16_000, 3), np.uint8)).save(wide)
    Image.fromarray(draw_face(0, 0, 0, 64)).save(photo)
    refuse = lambda _name, frame: frame.shape[1] > 10_000  # noqa: E731
    assert refuse("", np.zeros((1, 16_000)))
    encode = cv2.imencode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cv2, "imencode", lambda s, p, o: (False, None) if refuse(s, p) else encode(s, p, o))
        predict.main(
            predict.Prediction(
                (wide, photo), checkpoint=checkpoint, detector="none", annotate=True, output=tmp_path / "o"
            )
        )
    said = capsys.readouterr()
    assert "a_wide.webp: a picture of 16000 x 1 cannot be encoded" in said.err
    assert "1 files could not be annotated" in said.out
    assert len(rows(tmp_path / "o")) == 2 and (tmp_path / "o" / "annotated" / "face.png").exists()


def test_pictures_whose_annotated_names_would_be_the_same_are_both_written(checkpoint, tmp_path):
    for name, shade in (("a.gif", 0), ("a.gif.png", 255)):
        Image.fromarray(np.full((64, 64, 3), shade, np.uint8)).save(tmp_path / name)
    inputs = (tmp_path / "a.gif", tmp_path / "a.gif.png")
    predict.main(
        predict.Prediction(inputs, checkpoint=checkpoint, detector="none", annotate=True, output=tmp_path / "o")
    )
    written = {path.name: np.median(np.asarray(Image.open(path))) for path in (tmp_path / "o" / "annotated").iterdir()}
    assert written == {"a.gif.png.png": 0, "a.gif.png": 255}


def test_webcam_that_is_not_there(checkpoint, tmp_path):
    with pytest.raises(MediaError, match="no webcam 97: check that it is plugged in"):
        predict.main(predict.Prediction(webcam=97, checkpoint=checkpoint, output=tmp_path))
    assert not any(tmp_path.iterdir())
    for name in ("predictions.csv", "people.csv"):
        (tmp_path / name).write_text("of an earlier run")
    with pytest.raises(MediaError, match="no webcam 97"):
        predict.main(predict.Prediction(webcam=97, checkpoint=checkpoint, output=tmp_path))
    for name in ("predictions.csv", "people.csv"):
        assert (tmp_path / name).read_text() == "of an earlier run"


def test_the_rows_of_an_interrupted_run_are_kept(checkpoint, tmp_path, monkeypatch, capsys):
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / name)
    read, task = command.read_media, predict.Prediction(
        (tmp_path,), checkpoint=checkpoint, detector="none", batch_size=1, annotate=True, output=tmp_path / "o"
    )  # fmt: skip

    def interrupted(*arguments):
        yield from itertools.islice(read(*arguments), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "read_media", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict.main(task)
    assert f"the rows so far are in {tmp_path / 'o' / 'predictions.unfinished.csv'}" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["annotated", "predictions.unfinished.csv"]
    with (tmp_path / "o" / "predictions.unfinished.csv").open(newline="") as file:
        assert [Path(row["file"]).name for row in csv.DictReader(file)] == ["a.png", "b.png"]
    assert len(find_media([tmp_path])) == 3, "what was annotated is no input of the next run"
    monkeypatch.undo()
    predict.main(task)
    assert len(rows(tmp_path / "o")) == 3
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["annotated", "predictions.csv"]


class Camera:
    """A webcam that shows a photograph three times, and is then interrupted from the keyboard."""

    def __init__(self, index):
        self.left = 3

    def release(self):
        self.left = 0

    def isOpened(self):
        return True

    def get(self, _property):
        return 10.0

    def grab(self):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return True

    def retrieve(self):
        return True, cv2.cvtColor(draw_photograph(PEOPLE, BOXES, 600, 440, 0, frontal=True).picture, cv2.COLOR_RGB2BGR)


def test_webcam_without_and_with_a_display(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    predict.main(predict.Prediction(webcam=0, window=False, checkpoint=checkpoint, output=tmp_path / "table"))
    table = rows(tmp_path / "table")
    assert len(table) == 15 and {row["file"] for row in table} == {"webcam 0"}
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QT_QPA_PLATFORM", "xcb")
    if sys.platform == "linux":
        with pytest.raises(MediaError, match=r"there is no display.*--no-window"):
            predict.main(predict.Prediction(webcam=0, checkpoint=checkpoint, output=tmp_path / "window"))
        assert not any((tmp_path / "window").iterdir())
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    shown = []
    monkeypatch.setattr(
        "diversified_fer.media.media.subprocess.run", lambda *_, **__: subprocess.CompletedProcess([], 0)
    )
    for name, answer in (("namedWindow", None), ("waitKey", ord("q")), ("getWindowProperty", 1.0)):
        monkeypatch.setattr(cv2, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(cv2, "imshow", lambda _title, picture: shown.append(picture))
    predict.main(predict.Prediction(webcam=0, checkpoint=checkpoint, output=tmp_path / "window"))
    assert len(shown) == 1, "q ends it after the first picture"
    assert len(rows(tmp_path / "window")) == 5


def test_command_line_starts_lean_and_exits_with_one_message(checkpoint, tmp_path):
    photo = tmp_path / "face.png"
    Image.fromarray(draw_face(0, 0, 0, 64)).save(photo)
    program = (
        "import sys, runpy; sys.argv[0] = 'predict.py'; runpy.run_path('predict.py', run_name='__main__');"
        "heavy = {'captum', 'matplotlib', 'torchmetrics', 'kornia', 'accelerate', 'scipy'} & sys.modules.keys();"
        "print('heavy:', sorted(heavy))"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", program, str(photo), "--detector", "none", "--checkpoint", str(checkpoint)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout and f"{photo}: " in done.stdout
    command = [sys.executable, "predict.py", str(tmp_path / "nowhere.jpg"), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "nowhere.jpg" in done.stderr and "Traceback" not in done.stderr


def run(checkpoint: Path, *arguments: str | Path, before: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Run predict.py as a user does; `before` is a line of the shell."""
    command = [sys.executable, str(REPOSITORY / "predict.py"), "--checkpoint", str(checkpoint), *map(str, arguments)]
    if before:
        command = ["bash", "-c", f'{before}; exec "$@"', "bash", *command]
    return subprocess.run(command, env=os.environ | environment, capture_output=True)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_names_that_the_terminal_cannot_show_end_nothing(encoding, checkpoint, tmp_path):
    names = ["사진.png"] + ([os.fsdecode(b"p_\xff.png")] if sys.platform == "linux" else [])
    for name in names:
        Image.fromarray(draw_face(0, 0, 0, 64)).save(tmp_path / name)
    (tmp_path / "깨진.jpg").write_bytes(b"no picture")  # said by the progress bar's writer
    inputs = [tmp_path / name for name in (*names, "깨진.jpg")]
    done = run(checkpoint, *inputs, "--detector", "none", "--output", tmp_path / "o", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    is_utf8 = encoding == "utf-8"
    assert ("사진.png".encode() if is_utf8 else b"\\uc0ac\\uc9c4.png") in done.stdout
    assert len(names) == 1 or (b"p_\xff" if is_utf8 else b"p_\\udcff") in done.stdout
    assert b"unreadable: " in done.stderr and b"Traceback" not in done.stderr
    table = (tmp_path / "o" / "predictions.csv").read_bytes()
    assert all(os.fsencode(name) in table for name in names), "the table is UTF-8, or what the name is on disk"


def test_an_error_that_the_terminal_cannot_show_is_still_one_line(checkpoint, tmp_path):
    done = run(checkpoint, tmp_path / "없다.png", "--output", tmp_path / "o", PYTHONIOENCODING="ascii")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert b"no file or folder at" in done.stderr and b"\\uc5c6\\ub2e4.png" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of Unix")
@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ("exec > >(true)", b""),
        ("exec > /dev/full", b"nothing more can be printed"),
        ("exec 2> /dev/full", b""),
        ("exec >&-", b""),
        ("exec 2>&-", b""),
    ],
)
def test_whatever_becomes_of_what_is_printed_the_results_are_written(streams, said, checkpoint, tmp_path):
    if "full" in streams and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    clip = tmp_path / "clip.avi"
    with VideoFile(clip) as video:
        for number in range(3):
            video.write(draw_face(0, 0, 0, 64), number / 5, 5.0)
    for number in range(3):
        Image.fromarray(draw_face(0, 0, 0, 64)).save(tmp_path / f"{number}.png")
    environment = {"PYTHONUNBUFFERED": "1"} if "true" in streams else {}
    for name, inputs in {"photos": tmp_path.glob("*.png"), "video": [clip]}.items():
        options = ["--detector", "none", "--output", tmp_path / name]
        done = run(checkpoint, *inputs, *options, before=f"{streams}; sleep 0.1", **environment)
        assert done.returncode == 0 and len(rows(tmp_path / name)) == 3 and said in done.stderr
        assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_a_folder_for_results_may_look_like_an_address(checkpoint, tmp_path):
    with VideoFile(tmp_path / "clip.avi") as video:
        for number in range(3):
            video.write(draw_face(0, 0, 0, 64), number / 5, 5.0)
    options = ["clip.avi", "--detector", "none", "--annotate", "--output", "12:30"]
    done = run(checkpoint, *options, before=f"cd {shlex.quote(str(tmp_path))}")
    assert done.returncode == 0 and b"not annotated" not in done.stderr
    assert len(list(stream_video(tmp_path / "12:30" / "annotated" / "clip.avi.mp4"))) == 3


def test_other_processes_of_the_environment_are_none_of_its_business(checkpoint, tmp_path):
    photo = tmp_path / "face.png"
    Image.fromarray(draw_face(0, 0, 0, 64)).save(photo)
    done = run(checkpoint, photo, "--detector", "none", "--output", tmp_path / "o", WORLD_SIZE="2")
    assert done.returncode == 0 and len(rows(tmp_path / "o")) == 1, done.stderr


def test_training_says_how_several_processes_are_started(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"WORLD_SIZE=2 \(RANK .*no LOCAL_RANK, MASTER_ADDR, MASTER_PORT.*torchrun"):
        choose_hardware("cpu")
    assert choose_hardware("cpu", alone=True).processes == 1
    for value in ("two", "0", "-1", ""):
        monkeypatch.setenv("WORLD_SIZE", value)
        with pytest.raises(ValueError, match="WORLD_SIZE="):
            choose_hardware("cpu")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert choose_hardware("cpu").processes == 1


@pytest.mark.skipif(sys.platform == "win32", reason="has no ulimit")
@pytest.mark.parametrize(
    ("name", "option", "file"),
    [
        ("p.jpg", "--annotate", "annotated/p.jpg"),
        ("v.mp4", "--annotate", "annotated/v.mp4"),
        ("five.png", "--branches", "predictions.csv"),
    ],
)
def test_a_full_disk_is_named_with_the_file_and_leaves_no_parts(name, option, file, checkpoint, photograph, tmp_path):
    """A limit of 1 KiB per file is what a full disk is to a program."""
    one = photograph[:190, :190]
    Image.fromarray(one).save(tmp_path / "p.jpg", quality=90)
    Image.fromarray(photograph).save(tmp_path / "five.png")
    with VideoFile(tmp_path / "v.mp4") as video:
        for number in range(2):
            video.write(one, number / 5, 5.0)
    output = tmp_path / "o"
    done = run(checkpoint, tmp_path / name, option, "--output", output, before="ulimit -f 1")
    assert done.returncode == 1, done.stdout
    [said] = [line for line in done.stderr.decode().splitlines() if line.startswith("predict.py: ")]
    assert str(output / file) in said and ("File too large" in said or "is the disk full?" in said)
    assert not [path for path in output.rglob("*") if path.is_file()]


def test_results_of_another_run_beside_the_photos_are_left_out_and_counted(checkpoint, tmp_path, capsys):
    inputs = tmp_path / "in"
    inputs.mkdir()
    Image.fromarray(draw_face(0, 0, 0, 64)).save(inputs / "face.png")
    (inputs / "IMG_1.HEIC").touch()
    task = {"checkpoint": checkpoint, "detector": "none"}
    predict.main(predict.Prediction((inputs,), annotate=True, output=inputs / "a", **task))
    predict.main(predict.Prediction((inputs,), output=inputs / "b", **task))
    assert [Path(row["file"]).name for row in rows(inputs / "b")] == ["face.png"]
    said = capsys.readouterr().out
    assert "left out: 1 .csv, 1 .heic (convert to JPEG, for example with `heif-convert" in said
    assert "1 results of predict.py" in said


def test_a_name_as_long_as_a_name_can_be_is_annotated_and_explained(checkpoint, tmp_path):
    photo = tmp_path / ("n" * 251 + ".png")
    Image.fromarray(draw_face(0, 0, 0, 64)).save(photo)
    task = {"checkpoint": checkpoint, "detector": "none", "annotate": True, "explain": True}
    predict.main(predict.Prediction((photo,), output=tmp_path / "o", **task))
    written = sorted(path.relative_to(tmp_path / "o").parts[0] for path in (tmp_path / "o").rglob("n*.png"))
    assert written == ["annotated", "explained"] and rows(tmp_path / "o")[0]["file"] == str(photo)
