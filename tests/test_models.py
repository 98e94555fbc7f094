"""The networks: parameter counts, shapes, evaluation mode, prediction."""

import pytest
import torch
from torchvision.models.resnet import BasicBlock

from models.classifier import EMOTIONS
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
