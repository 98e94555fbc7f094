"""The networks: parameter counts, shapes, evaluation mode, prediction."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.resnet import BasicBlock

from diversified_fer.media.media import read_photo
from models.classifier import EMOTIONS, as_faces
from models.esr import ESR
from models.manet import MANet, MultiScaleBlock, ResidualBlock


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("branches", "attention", "parameters"),
    [(9, False, 20_349_546), (15, False, 33_666_054), (9, True, 20_832_494), (15, True, 34_465_946)],
)
def test_esr_has_the_published_number_of_parameters(branches, attention, parameters):
    with_affect = ESR(branches, attention=attention, affect=True)
    assert count(with_affect) == parameters
    without = sum(p.numel() for name, p in with_affect.named_parameters() if "fc_dimensional" not in name)
    assert without == parameters - 18 * branches


@pytest.mark.parametrize(("classes", "parameters"), [(7, 50_547_214), (8, 50_548_240), (12_666, 63_535_348)])
def test_manet_has_the_published_number_of_parameters(classes, parameters):
    assert count(MANet(classes)) == parameters


def test_shapes():
    images = torch.rand(2, 3, 96, 96)
    logits, spatial, channel = ESR(3)(images)
    assert (logits.shape, spatial.shape, channel.shape) == ((3, 2, 8), (3, 2, 6, 6), (3, 2, 512))
    assert ESR(1).base(images).shape == (2, 128, 20, 20)
    plain = ESR(2, attention=False, affect=True)(images)
    assert plain.spatial_attention is None and plain.affect.shape == (2, 2, 2)
    local, glob, patches, pooled = MANet()(torch.rand(2, 3, 224, 224))
    assert local.shape == glob.shape == (2, 7)
    assert (patches.shape, pooled.shape) == ((4, 2, 512, 7, 7), (2, 2, 512))


@pytest.mark.parametrize("model", [ESR(3, image_size=64), MANet(image_size=64)], ids=["ESR", "MANet"])
def test_evaluation_reaches_every_layer(model):
    """In evaluation mode a face's scores do not depend on its batch, and nothing is learned from looking."""
    torch.manual_seed(0)
    images = torch.rand(32, 3, 64, 64)
    model.train()(images)  # move the running statistics away from their initial values
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    together = model.predict_branches(images)
    alone = model.predict_branches(images[5:6])
    torch.testing.assert_close(alone[:, 0], together[:, 5], rtol=1e-4, atol=1e-5)
    assert model.training, "predict leaves the mode as it was"
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_add_branch_keeps_what_is_there_and_is_trained():
    model = ESR(1, image_size=64)
    images = torch.rand(4, 3, 64, 64)
    before = model.predict_branches(images)
    model.add_branch()
    assert model.arguments["num_branches"] == 2
    torch.testing.assert_close(model.predict_branches(images)[:1], before)
    model(images).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.branches[1].parameters())
    rest = model.keep_branches(1)
    assert len(rest) == 1 and model.arguments["num_branches"] == len(model.branches) == 1


def test_prediction_is_the_same_for_bytes_floats_and_channel_orders():
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    model = ESR(3, image_size=64)
    probabilities = model.predict(images)
    assert probabilities.shape == (4, 8)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(model.predict(images / 255), probabilities)
    rgb, bgr = (ESR(3, image_size=64, normalization=name) for name in ("rgb", "bgr"))
    weights = {name: value for name, value in rgb.state_dict().items() if not name.startswith("input_")}
    bgr.load_state_dict(weights, strict=False)
    torch.testing.assert_close(bgr.predict(images), rgb.predict(images.flip(1)))


def test_mixture_and_vote():
    logits = torch.log(torch.tensor([[[0.9, 0.1, 0.0]], [[0.0, 0.6, 0.4]], [[0.0, 0.4, 0.6]]]) + 1e-9)  # (3, 1, 3)
    model = ESR(3, num_classes=3, image_size=64)
    torch.testing.assert_close(model.combine(logits), torch.tensor([[0.3, 1.1 / 3, 1 / 3]]), atol=1e-4, rtol=0)
    votes = model.combine(logits, "vote")
    torch.testing.assert_close(votes, torch.full((1, 3), 1 / 3))
    assert votes.argmax() == 0, "a tie goes to the lowest index"
    manet = MANet(3, beta=0.6, image_size=64)
    two = torch.randn(2, 5, 3)
    torch.testing.assert_close(manet.combine(two), (0.6 * two[0] + 0.4 * two[1]).softmax(dim=1))


@pytest.mark.parametrize("order", ["released", "reversed"])
def test_multiscale_chains_against_the_written_out_formula(order):
    block = MultiScaleBlock(16, 16, multiscale_order=order).eval()
    x = torch.randn(2, 16, 6, 6)
    y = torch.relu(block.bn1(block.conv1(x))).split(4, dim=1)
    b = dict(block.named_modules())
    one = b["bn1_2_1"](b["conv1_2_1"](y[0]))
    two = b["bn1_2_2"](b["conv1_2_2"](torch.relu(one) + y[1]))
    three = b["bn1_2_3"](b["conv1_2_3"](torch.relu(two) + y[2]))
    four = b["bn1_2_4"](b["conv1_2_4"](torch.relu(three) + y[3]))
    second = {}
    previous = None
    for g in (1, 2, 3, 4) if order == "released" else (4, 3, 2, 1):
        inner = y[g - 1] if previous is None else y[g - 1] + torch.relu(second[previous])
        second[g] = b[f"bn2_2_{g}"](b[f"conv2_2_{g}"](inner))
        previous = g
    expected = torch.relu(torch.cat([one, two, three, four], 1) + torch.cat([second[g] for g in (1, 2, 3, 4)], 1) + x)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(64, 64), "expected .N, 3, H, W."),
        (torch.rand(2, 1, 64, 64), "expected .N, 3, H, W."),
        (torch.rand(0, 3, 64, 64), "at least one face"),
        (torch.rand(2, 3, 64, 64) * 255, r"expected \[0, 1\]"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.int64), "expected uint8"),
    ],
)
def test_wrong_pictures_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        ESR(1, image_size=64).predict(images)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 1 branch"):
        ESR(0)
    with pytest.raises(ValueError, match="multiple of 16"):
        MANet(image_size=100)
    with pytest.raises(ValueError, match="released"):
        MANet(multiscale_order="backwards")
    assert ESR(1, labels=EMOTIONS[:7]).branches[0].fc.out_features == 7


def test_a_residual_block_is_that_of_resnet():
    for stride, planes in ((1, 8), (2, 16)):
        downsample = None
        if stride == 2:
            downsample = torch.nn.Sequential(
                torch.nn.Conv2d(8, planes, 1, stride, bias=False), torch.nn.BatchNorm2d(planes)
            )
        ours, theirs = (kind(8, planes, stride, downsample) for kind in (ResidualBlock, BasicBlock))
        theirs.load_state_dict(ours.state_dict())
        features = torch.randn(2, 8, 10, 10)
        assert torch.equal(ours.eval()(features), theirs.eval()(features))


RGB = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
ALPHA = np.linspace(0, 255, 63).reshape(9, 7, 1).round().astype(np.uint8)
COLOURED = (230, 60, 20)


def pixels(images) -> np.ndarray:
    """Return the one face in `images` as (H, W, 3)."""
    faces = as_faces(images)
    assert faces.shape[0] == 1 and faces.dtype in (torch.uint8, torch.float32)
    return faces[0].movedim(0, -1).numpy()


def frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB[..., 0], np.stack([RGB[..., 0]] * 3, axis=-1)),
        (RGB[..., :1], np.stack([RGB[..., 0]] * 3, axis=-1)),
        (RGB[None, ..., :1] / 255, np.stack([RGB[..., 0] / 255] * 3, axis=-1)),
        (np.asfortranarray(RGB), RGB),
        (RGB[::-1, ::-1, ::-1], RGB[::-1, ::-1, ::-1].copy()),
        (frozen(RGB), RGB),
        (np.broadcast_to(np.uint8(7), (9, 7, 3)), np.full((9, 7, 3), 7)),
        (RGB / 255, RGB / 255),
        ((RGB / 255).astype(">f4"), RGB / 255),
        ((RGB / 255).astype(np.longdouble), RGB / 255),
        (RGB > 100, (RGB > 100) * 255),
    ],
    ids=[
        "grey",
        "one channel",
        "greys",
        "Fortran",
        "reversed",
        "read-only",
        "repeated",
        "float64",
        "big",
        "long",
        "bool",
    ],
)
def test_arrays_of_every_layout_are_the_picture_they_show(array, expected):
    np.testing.assert_allclose(pixels(array), expected, atol=1e-6)


def test_grey_arrays_are_taken_as_pil_takes_them():
    model = ESR(1, image_size=64)
    grey = np.random.default_rng(1).integers(0, 256, (48, 48), dtype=np.uint8)
    expected = model.predict(Image.fromarray(grey))
    torch.testing.assert_close(model.predict(grey), expected)
    torch.testing.assert_close(model.predict([grey, grey / 255])[1:], expected)
    torch.testing.assert_close(model.predict(grey[None, ..., None]), expected)


def test_what_transparency_hides_stays_hidden():
    share = ALPHA / 255
    expected = 255 * (1 - share) + RGB * share
    rgba = np.concatenate([RGB, ALPHA], axis=-1)
    np.testing.assert_allclose(pixels(rgba), expected, atol=0.51)
    np.testing.assert_allclose(pixels(rgba[None] / 255), expected / 255, atol=1e-6)
    np.testing.assert_allclose(pixels(Image.fromarray(rgba)), expected, atol=0.51)
    grey = np.concatenate([RGB[..., :1], ALPHA], axis=-1)
    np.testing.assert_allclose(
        pixels(Image.fromarray(grey)), (255 * (1 - share) + RGB[..., :1] * share).repeat(3, 2), atol=0.51
    )
    assert (pixels(Image.fromarray(rgba).convert("PA"))[0, 0] == 255).all()


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_colour_that_stands_for_transparency_is_white(tmp_path, mode):
    Image.new(mode, (4, 4), 0).save(tmp_path / "hidden.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    with Image.open(tmp_path / "hidden.png") as image:
        assert image.mode == mode and (pixels(image) == 255).all()


@pytest.mark.parametrize("mode", ["LAB", "HSV", "CMYK", "YCbCr", "RGBX", "RGBA", "RGBa"])
def test_pictures_of_other_colour_modes_keep_their_colours(tmp_path, mode):
    picture = Image.new("RGB", (8, 8), COLOURED)
    picture = picture.convert("RGBA").convert(mode) if mode == "RGBa" else picture.convert(mode)
    np.testing.assert_allclose(pixels(picture)[0, 0], COLOURED, atol=4)
    if mode in ("LAB", "CMYK"):
        picture.save(tmp_path / "a.tif")
        with Image.open(tmp_path / "a.tif") as read:
            assert read.mode == mode
            np.testing.assert_allclose(pixels(read)[0, 0], COLOURED, atol=4)


def test_batches_hold_at_least_one_face_and_sparse_pictures_are_refused():
    model = ESR(1, image_size=64)
    with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
        model.predict(np.zeros((2, 64, 64, 3), np.uint8), batch_size=0)
    with pytest.raises(ValueError, match=r"sparse.*to_dense"):
        model.predict(torch.rand(3, 64, 64).to_sparse())


@pytest.mark.parametrize("form", ["TIFF", "PNG"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_an_opened_file_is_turned_upright_once(form, orientation, tmp_path):
    stored = Image.new("RGB", (8, 4))
    stored.putpixel((7, 0), COLOURED)
    exif = stored.getexif()
    exif[274] = orientation
    stored.save(tmp_path / "turned", form, exif=exif)
    with Image.open(tmp_path / "turned") as lazy:
        found = pixels(lazy)
    with Image.open(tmp_path / "turned") as loaded:
        loaded.load()
        np.testing.assert_array_equal(found, pixels(loaded))
    np.testing.assert_array_equal(found, read_photo(tmp_path / "turned"))
    place = {3: (3, 0), 6: (7, 3), 8: (0, 0)}[orientation]  # where a corner at the top right is shown
    assert tuple(found[place]) == COLOURED


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((8, 8, 3), np.nan), r"not numbers \(NaN\)"),
        (np.full((8, 8, 4), np.nan), r"not numbers \(NaN\)"),
        (np.full((8, 8), np.inf), r"expected \[0, 1\]"),
        (np.dstack([RGB, ALPHA]) * 1.0, r"expected \[0, 1\]"),
        (np.zeros((5, 8, 8), np.uint8), r"several are \(N, H, W, 1\)"),
        (np.zeros((3, 8, 8), np.uint8), "channels first"),
        (np.zeros((8, 8, 2), np.uint8), r"shape \(8, 8, 2\)"),
        (np.zeros((0, 0), np.uint8), "at least one face"),
        (np.zeros((8, 8, 3), np.uint16), "expected uint8"),
        (np.zeros((8, 8, 3), complex), "type complex128"),
        (np.zeros((8, 8, 3), object), "type object"),
        (np.ma.masked_equal(RGB, 3), "is a masked array"),
        (torch.zeros(1, 3, 8, 8).to_sparse(), "sparse or have no data"),
        (torch.zeros(1, 3, 8, 8, device="meta"), "sparse or have no data"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.bool), "expected uint8"),
        (Image.new("F", (8, 8)), "mode F; expected 8 bits"),
    ],
)
def test_pictures_that_are_none_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        as_faces(images)


def test_a_damaged_picture_is_refused_when_it_is_decoded(tmp_path):
    Image.fromarray(RGB).resize((300, 300)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-2000])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(ValueError, match="cannot be read as RGB"):
        as_faces([image])


FORKED = """
import multiprocessing, sys, torch
from models.esr import ESR
torch.set_num_threads(2)
model, faces = ESR(1, image_size=64).eval(), torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
before = model.predict(faces)
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=lambda: queue.put((torch.get_num_threads(), model.predict(faces).tolist())), daemon=True)
child.start()
threads, after = queue.get(timeout=60)
assert threads == 1 and torch.get_num_threads() == 2
torch.testing.assert_close(torch.tensor(after), before)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that fork")
def test_a_forked_process_predicts(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", FORKED], cwd=root, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()


def test_export_runs_from_any_folder(tmp_path):
    script = Path(__file__).parents[1] / "models" / "export.py"
    done = subprocess.run([sys.executable, script, "absent.pt", "--half", "a.pt"], cwd=tmp_path, capture_output=True)
    assert b"no checkpoint at" in done.stderr and str(tmp_path).encode() in done.stderr
