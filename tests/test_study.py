"""The study: its ideas on constructed scores, its numbers on constructed predictions, and runs from end to end."""

import json
import math
import subprocess
from dataclasses import replace
from functools import partial
from threading import Lock

import kornia.augmentation as K
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import load_model
from models.esr import ESR
from models.weights import describe_model
from results import study as driver
from results import tables
from results.assemble import Assembly, subtract_prior
from results.assemble import main as assemble
from results.blend import Blend
from results.blend import main as write_blend
from results.copies import Copies
from results.experiment import Experiment
from results.experiment import main as train
from results.ideas import (
    bagging_weights,
    balanced_weights,
    cross_entropies,
    distillation,
    drop_channels,
    ensemble_cross_entropy,
    erase_square,
    look_through,
    mix_faces,
    negative_correlation,
    soft_targets,
    wrong_probabilities,
)
from results.maps import ESROnMaps, MapLoader, load_base
from results.predictions import Stored, average, read_predictions, store, write_predictions
from results.tables import Result, bootstrap, figures_of, gains, paired
from utils.udata import FERPlus
from utils.udemosets import write_fer_plus
from utils.uhardware import Hardware
from utils.upipeline import FaceLoader
from utils.uplot import plot_panels


def scores_of(seed: int = 0, B: int = 3, N: int = 7, K: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    votes = torch.rand(N, K, generator=generator)
    return 2 * torch.randn(B, N, K, generator=generator), votes / votes.sum(dim=1, keepdim=True)


def test_cross_entropies_are_the_librarys():
    logits, votes = scores_of()
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    for b in range(3):
        torch.testing.assert_close(cross_entropies(logits, votes)[b].mean(), F.cross_entropy(logits[b], votes))
        weighted = F.cross_entropy(logits[b], votes, weight=weights)
        torch.testing.assert_close(cross_entropies(logits, votes, weights)[b].mean(), weighted)
    hard = torch.tensor([0, 3, 1, 1, 2, 0, 0])
    targets = soft_targets(hard, 4)
    mean = logits.softmax(dim=2).mean(dim=0)
    torch.testing.assert_close(ensemble_cross_entropy(logits, targets).mean(), F.nll_loss(mean.log(), hard))
    assert soft_targets(votes, 4) is votes


def test_negative_correlation_is_the_sum_of_products_and_falls_when_branches_move_apart():
    logits, _ = scores_of()
    p = logits.softmax(dim=2).double()
    mean, total = p.mean(dim=0), 0.0
    for n in range(7):
        for i in range(3):
            others = sum(p[j, n] - mean[n] for j in range(3) if j != i)
            total += float((p[i, n] - mean[n]) @ others)
    assert float(negative_correlation(logits)) == pytest.approx(total / 7, abs=1e-5)
    same = logits[:1].expand(3, -1, -1)
    assert float(negative_correlation(same)) == pytest.approx(0, abs=1e-9)
    apart = same.clone().requires_grad_()
    loss = negative_correlation(apart + 0.1 * logits)
    loss.backward()
    assert loss < 0 and apart.grad.norm() > 0


def test_only_wrong_classes_are_compared():
    logits, _ = scores_of()
    targets = F.one_hot(torch.tensor([0, 3, 1, 1, 2, 0, 0]), 4).float()
    wrong = wrong_probabilities(logits, targets)
    assert (wrong * targets).sum() == 0
    torch.testing.assert_close(wrong.norm(dim=2), torch.ones(3, 7))
    torch.testing.assert_close(wrong_probabilities(logits + 5 * targets, targets), wrong)  # however sure they are


def test_the_ensemble_teaches_and_does_not_learn():
    logits, _ = scores_of()
    logits.requires_grad_()
    distillation(logits).mean(dim=1).sum().backward()
    p = logits.detach().softmax(dim=2)
    torch.testing.assert_close(logits.grad, (p - p.mean(dim=0)) / 7)


def test_every_branch_samples_its_faces_with_replacement_and_always_the_same():
    weights = bagging_weights(3, 20000, seed=0)
    assert torch.equal(weights, bagging_weights(3, 20000, seed=0))
    assert not torch.equal(weights, bagging_weights(3, 20000, seed=1))
    assert float((weights == 0).float().mean()) == pytest.approx(math.exp(-1), abs=0.01)
    assert float(weights.mean()) == pytest.approx(1, abs=0.01)
    assert abs(float(torch.corrcoef(weights)[0, 1])) < 0.03


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_classes_are_balanced_and_the_loss_keeps_its_scale(power):
    labels = np.repeat([0, 1, 3], [80, 15, 5])
    weights = balanced_weights(labels, power)
    counts = np.array([80, 15, 0, 5])
    assert float((weights.numpy() * counts).sum() / 100) == pytest.approx(1)
    assert float(weights[3] / weights[0]) == pytest.approx(16**power) and weights[2] == 0
    torch.testing.assert_close(balanced_weights(np.eye(4)[labels], power), weights)


def test_faces_are_mixed_as_their_labels():
    torch.manual_seed(0)
    targets = torch.eye(8)
    images = targets[:, :, None, None].expand(-1, -1, 2, 2)
    mixed, labels = mix_faces(images, targets, 0.4)
    torch.testing.assert_close(mixed[:, :, 0, 0], labels)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(8))
    assert not torch.equal(labels, targets)
    assert mix_faces(images, targets, 0.0)[0] is images


def test_masks_hide_a_share_of_the_map():
    torch.manual_seed(0)
    features = torch.ones(500, 16, 10, 10)
    erased = erase_square(0.25)(features)
    assert torch.equal((erased == 0).float().mean(dim=(1, 2, 3)), torch.full((500,), 0.25))
    assert len(erased[:, 0].flatten(1).unique(dim=0)) > 20  # at different places
    dropped = drop_channels(0.3)(features)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(dropped.amin(dim=(2, 3)), dropped.amax(dim=(2, 3)))  # whole channels
    assert float(dropped.mean()) == pytest.approx(1, abs=0.03)


def test_every_branch_sees_its_own_mask_and_only_in_training():
    torch.manual_seed(0)
    model = ESR(2, image_size=64)
    seen = []
    look_through(model.branches, lambda features: seen.append(features) or features)
    images = torch.rand(2, 3, 64, 64)
    model.train()(images)
    assert len(seen) == 2
    model.eval()(images)
    assert len(seen) == 2


def stored_of(branches: list[list[int]], targets: list[int], K: int = 3) -> Stored:
    """Predictions of branches that are sure of their choice; the ensemble chooses by their mean."""
    choices = torch.tensor(branches)
    logits = 6.0 * F.one_hot(choices, K) + torch.arange(K) / 100
    probabilities = logits.softmax(dim=2)
    return store(probabilities, logits, probabilities.mean(dim=0), torch.tensor(targets))


def test_predictions_come_back_from_disk(tmp_path):
    logits, _ = scores_of(N=500, K=8)
    probabilities = logits.softmax(dim=2)
    for B, closest in ((3, 0.004), (1, 2e-5)):
        stored = store(probabilities[:B], logits[:B], probabilities[:B].mean(dim=0), torch.arange(500) % 8)
        write_predictions(stored, tmp_path / "predictions.npz")
        back = read_predictions(tmp_path / "predictions.npz")
        assert np.abs(back.probabilities - stored.probabilities).max() < closest
        for name in Stored._fields[1:]:
            assert np.array_equal(getattr(back, name), getattr(stored, name)), name


def test_networks_trained_apart_are_averaged():
    targets = [0, 1, 2, 0]
    members = [stored_of([choices], targets) for choices in ([0, 1, 2, 1], [0, 1, 0, 2], [1, 1, 2, 0])]
    together = average(members)
    assert together.choices[:3].tolist() == [0, 1, 2] and together.branch_choices.shape == (3, 4)
    with pytest.raises(ValueError, match="not scored on the same faces"):
        average([members[0], stored_of([[0, 1, 2, 1]], [1, 1, 1, 1])])


def test_figures_of_constructed_predictions():
    targets = [0] * 6 + [1] * 2
    three = stored_of([[1, 1, 0, 0, 0, 0, 1, 0], [0, 0, 1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1, 1, 0]], targets)
    history = [
        {"similarity_spatial": "0.5", "similarity_channel": "0.1", "gradient_spatial": "nan", "validation_loss": "1"},
        {"similarity_spatial": "0.3", "similarity_channel": "0.1", "validation_correlation_logits": "0.8"},
    ]
    copies = Copies(np.array([True] + 7 * [False]), np.array([False] * 7 + [True]))
    found = figures_of(Result(three, history, []), copies)
    assert found.accuracy == pytest.approx(7 / 8) and found.accuracy_without_copies == pytest.approx(1)
    assert found.mean_class_accuracy == pytest.approx(3 / 4)
    assert found.branch_accuracy == pytest.approx(5 / 8) and found.ensemble_gain == pytest.approx(2 / 8)
    assert found.disagreement == pytest.approx(4 / 8)
    assert found.similarity_spatial == pytest.approx(0.4) and found.similarity_channel == pytest.approx(0.1)
    assert found.correlation_logits == 0.8
    assert np.isnan(found.gradient_spatial) and np.isnan(found.correlation_spatial)
    assert gains(three).mean() == pytest.approx(found.ensemble_gain)
    single = figures_of(Result(stored_of([[0] * 8], targets), history, []), copies)
    assert np.isnan(single.disagreement) and np.isnan(single.ensemble_gain)


def test_intervals_are_those_of_the_theory():
    """Two seeds that agree: the spread is that of the faces, sqrt(p (1 - p) / N)."""
    values = np.tile(np.arange(1000) % 4 == 0, (2, 1)).astype(float)
    mean, (low, high) = bootstrap(values)
    assert mean == 0.25
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(0.25 * 0.75 / 1000), rel=0.1)
    apart = values + np.array([[0.1], [-0.1]])
    assert np.diff(bootstrap(apart)[1]).item() > 1.5 * (high - low)


def test_settings_are_compared_with_the_same_faces_and_seeds():
    targets = [0] * 40
    better, worse = stored_of([[0] * 40], targets), stored_of([[0] * 30 + [1] * 10], targets)
    found = {
        "attention": {0: Result(worse, [], []), 1: Result(worse, [], [])},
        "bagging": {0: Result(better, [], [])},
        "manet": {0: Result(worse, [], [])},
    }
    value, (low, high) = paired(found, "bagging")
    assert value == pytest.approx(0.25) and 0 < low < value < high
    assert paired(found, "attention") is None and paired(found, "manet") is None


def test_every_setting_has_its_first_run_before_any_second():
    runs = [run.name for run in driver.plan(driver.Study())]
    first = [name for name in runs if name.endswith("_0") or name in ("single_1", "single_2")]
    assert runs[: len(first)] == first and len(runs) == 3 * len(first) == len(set(runs))
    assert {f"single_{number}" for number in range(9)} <= set(runs)


def test_a_precision_is_in_the_commands_where_one_is_asked_for():
    """Commands of before, without one, stay what they were: a finished run is known by its command."""
    assert not any("--precision" in run.command for run in driver.plan(driver.Study()))
    for run in driver.plan(driver.Study(precision="float32", only=("attention", "manet"), seeds=(0,))):
        assert run.command[run.command.index("--precision") + 1] == "float32"


def test_two_runs_from_end_to_end(tmp_path, monkeypatch, capsys):
    """Trained, kept, not run again, refused on another budget, and in the tables as metrics.json says."""
    data = write_fer_plus(tmp_path / "ferplus", images_per_class=4, validation_per_class=2, test_per_class=1)
    settings = [setting for setting in driver.SETTINGS if setting.name in ("attention", "bagging")]
    monkeypatch.setattr(driver, "SETTINGS", settings)
    monkeypatch.setattr(driver.os, "nice", lambda _: None)
    study = driver.Study(
        data, max_training_epoch=1, image_size=60, batch_size=8, seeds=(0,), threads=1, device="cpu",
        base_path_experiment=tmp_path / "work", runs=tmp_path / "results" / "runs",
    )  # fmt: skip
    driver.main(study)
    out = capsys.readouterr().out
    assert "0 of 2 runs are finished" in out and "bagging_0 is finished" in out
    kept = study.runs / "bagging_0"
    names = {"metrics.json", "variables.json", "history.csv", "predictions.npz", "run.json"}
    assert {path.name for path in kept.iterdir()} == names
    assert json.loads((kept / "variables.json").read_text("utf-8"))["bagging"] is True
    assert not (tmp_path / "work" / "bagging_0").exists()
    driver.main(study)
    assert "2 of 2 runs are finished" in capsys.readouterr().out
    study.max_training_epoch = 2
    with pytest.raises(ValueError, match="begun by another command"):
        driver.main(study)
    tables.write_report(study.runs, study.seeds, ["attention", "bagging"])
    text = (tmp_path / "results" / "tables.md").read_text("utf-8")
    accuracy = json.loads((kept / "metrics.json").read_text("utf-8"))["last"]["accuracy"]
    assert f"| {100 * accuracy:.2f} |" in next(line for line in text.splitlines() if line.startswith("| bagging"))
    for name in ("similarity", "disagreement", "gain"):
        assert (tmp_path / "results" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_network_of_a_script_is_scored_in_the_precision_of_its_run(precision, tmp_path, monkeypatch):
    study = driver.Study(
        precision=precision, only=("manet",), seeds=(0,), device="cpu", base_path_experiment=tmp_path / "work",
        runs=tmp_path / "runs",
    )  # fmt: skip

    def train_nothing(command, **_):
        for name in driver.COPIED[:3]:
            (study.base_path_experiment / "manet_0" / name).touch()
        return subprocess.CompletedProcess(command, 0)

    def score(checkpoint, root, hardware):
        scored.append(hardware.precision)
        return store(*(torch.full(shape, 0.5) for shape in ((1, 2, 8), (1, 2, 8), (2, 8))), torch.zeros(2))

    scored = []
    monkeypatch.setattr(driver.subprocess, "run", train_nothing)
    monkeypatch.setattr(driver, "current_commit", lambda: "none")
    monkeypatch.setattr(driver, "predict_valid", score)
    assert driver.execute(driver.plan(study)[0], study, Lock()) is None
    assert scored == [getattr(torch, precision)]


def write_network(path, num_branches: int = 2, **arguments) -> ESR:
    torch.manual_seed(num_branches)
    model = ESR(num_branches, image_size=60, **arguments).eval()
    torch.save(describe_model(model), path)
    return model


def test_stored_maps_are_what_the_base_makes_of_the_faces(tmp_path):
    data = write_fer_plus(tmp_path / "ferplus", images_per_class=2, validation_per_class=1, test_per_class=1)
    faces = FERPlus(data, "train")
    pictures = FaceLoader(faces, 60, batch_size=5)
    network = write_network(tmp_path / "network.pt")
    flip = K.RandomHorizontalFlip(p=0.5)
    hardware = Hardware(torch.device("cpu"), memory_format=torch.channels_last)
    state = torch.get_rng_state()
    read = partial(MapLoader, pictures, network, hardware, tmp_path, 4, shuffle=True, views=4, augment=flip)
    loader = read()
    assert torch.equal(torch.get_rng_state(), state), "the file may be there or not"
    assert len(loader) == len(list(loader)) and len(list(tmp_path.glob("maps_*.npy"))) == 1
    read()
    assert len(list(tmp_path.glob("maps_*.npy"))) == 1
    read(seed=1)
    assert len(list(tmp_path.glob("maps_*.npy"))) == 2
    MapLoader(pictures, network, replace(hardware, precision=torch.bfloat16), tmp_path, 4)
    MapLoader(pictures, network, hardware, tmp_path, 4)
    assert len(list(tmp_path.glob("maps_*.npy"))) == 4, "maps of another precision are others"
    images = torch.cat([batch.images for batch in pictures])
    with torch.no_grad():
        expected = [network.base(network.normalize(views)) for views in (images, images.flip(3))]
    seen, mirrored = [], []
    for batch in loader:
        assert torch.equal(batch.targets, faces.targets(batch.indices.numpy()))
        seen += batch.indices.tolist()
        for index, maps in zip(batch.indices.tolist(), batch.images, strict=True):
            off = [float((maps - view[index]).abs().max() / view[index].abs().max()) for view in expected]
            assert min(off) < 2e-3 < max(off)
            mirrored.append(off[1] < off[0])
    assert sorted(seen) == list(range(len(faces))) and 0 < sum(mirrored) < len(faces)


def test_branches_trained_on_a_kept_base_join_its_network(tmp_path, capsys):
    """From the command to the file: what is assembled predicts as the run did, next to the network's own branches."""
    data = write_fer_plus(tmp_path / "ferplus", images_per_class=4, validation_per_class=2, test_per_class=1)
    base = tmp_path / "network.pt"
    network = write_network(base)
    training = Experiment(
        data, image_size=60, batch_size=8, max_training_epoch=1, num_branches_trained_network=3, path_to_base=base,
        base_views=2, base_path_to_cache=tmp_path / "cache", base_path_experiment=tmp_path / "work", device="cpu",
        name_experiment="three", weight_averaging=0.0, compile="off", precision="float32",
    )  # fmt: skip
    train(training)
    kept = read_predictions(tmp_path / "work/three/predictions.npz")
    metrics = json.loads((tmp_path / "work/three/metrics.json").read_text("utf-8"))
    assert (kept.choices == kept.targets).mean() == pytest.approx(metrics["last"]["accuracy"])
    last = tmp_path / "work/three/last.pt"
    assemble(Assembly(base, tmp_path / "large.pt", branches_of=(last,), base_path_to_dataset=data))
    assert "5 branches" in capsys.readouterr().out
    large = load_model(tmp_path / "large.pt")
    images = torch.cat([batch.images for batch in FaceLoader(FERPlus(data, "valid"), 60)])
    with torch.no_grad():
        logits = large(images).logits
        assert torch.allclose(logits[:2], network(images).logits, atol=2e-2)
    probabilities = torch.from_numpy(kept.probabilities).float()
    assert (logits[2:].softmax(dim=2) - probabilities).abs().max() < 0.02
    assemble(Assembly(base, tmp_path / "even.pt", prior=0.5, base_path_to_dataset=data, label_rule="majority"))
    even = load_model(tmp_path / "even.pt")
    labels = FERPlus(data, "train").labels
    shares = torch.bincount(torch.from_numpy(labels), minlength=8) / len(labels)
    moved = even.branches[0].fc.bias - network.branches[0].fc.bias
    assert torch.allclose(moved, -0.5 * shares.log(), atol=5e-3)

    (tmp_path / "even").mkdir()
    even_base = (tmp_path / "even.pt").rename(tmp_path / "even" / base.name)
    # What was subtracted is not subtracted again
    joined = {"branches_of": (last,), "prior": 0.5, "label_rule": "majority", "base_path_to_dataset": data}
    assemble(Assembly(even_base, tmp_path / "all.pt", **joined))
    biases = [branch.fc.bias for branch in load_model(tmp_path / "all.pt").branches]
    expected = [branch.fc.bias for branch in even.branches]
    expected += [branch.fc.bias - 0.5 * shares.log() for branch in large.branches[2:]]
    assert all(torch.allclose(*pair, atol=5e-3) for pair in zip(biases, expected, strict=True))


def test_a_network_is_trained_further_with_more_branches_and_some_are_kept(tmp_path):
    data = write_fer_plus(tmp_path / "ferplus", images_per_class=2, validation_per_class=1, test_per_class=1)
    network = write_network(tmp_path / "network.pt")
    training = Experiment(
        data, image_size=60, batch_size=8, max_training_epoch=1, num_branches_trained_network=3, lr=1e-9, cache="none",
        path_to_pretrained_network=tmp_path / "network.pt", base_path_to_cache=None, name_experiment="further",
        base_path_experiment=tmp_path / "work", device="cpu", weight_averaging=0.0, compile="off", precision="float32",
    )  # fmt: skip
    train(training)
    trained = load_model(tmp_path / "work/further/last.pt")
    assert trained.num_branches == 3
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter, trained.get_parameter(name), atol=1e-5), name
    with pytest.raises(ValueError, match="attention is False"):
        train(replace(training, attention=False, name_experiment="plain"))
    with pytest.raises(ValueError, match="set one of them to None"):
        train(replace(training, path_to_base=tmp_path / "network.pt", name_experiment="both"))

    assemble(Assembly(tmp_path / "work/further/last.pt", tmp_path / "some.pt", (2, 0), base_path_to_dataset=data))
    some = load_model(tmp_path / "some.pt")
    assert some.num_branches == 2 and some.arguments["num_branches"] == 2
    images = torch.rand(2, 3, 60, 60)
    with torch.no_grad():
        assert torch.allclose(some(images).logits, trained(images).logits[[2, 0]], atol=2e-2)
    for kept in ((0, 3), (1, 1), (-1,)):
        with pytest.raises(ValueError, match="from 0 to 2, each of them once"):
            assemble(Assembly(tmp_path / "work/further/last.pt", tmp_path / "no.pt", kept, base_path_to_dataset=data))
    assert not (tmp_path / "no.pt").exists()


def test_branches_of_another_network_are_refused(tmp_path):
    other = tmp_path / "other.pt"
    model = write_network(other, attention=False)
    with pytest.raises(ValueError, match="expected branches of"):
        assemble(Assembly(other, tmp_path / "large.pt", branches_of=(other,)))
    branches = ESROnMaps(1, image_size=60)
    torch.save(describe_model(branches) | {"variables": {"path_to_base": str(other)}}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="has attention True"):
        assemble(Assembly(other, tmp_path / "large.pt", branches_of=(tmp_path / "last.pt",)))
    with pytest.raises(ValueError, match="name another file"):
        assemble(Assembly(other, other))
    with pytest.raises(ValueError, match="labelled Contempt"):
        subtract_prior(model, torch.tensor([0.3, 0.3, 0.1, 0.1, 0.1, 0.05, 0.05, 0.0]), [0.1, 0.1])
    assert not (tmp_path / "large.pt").exists()


def test_a_base_for_other_pictures_is_refused(tmp_path):
    write_network(tmp_path / "network.pt")
    with pytest.raises(ValueError, match="for 60 pixels; expected an ESR for the 64 pixels of image_size"):
        load_base(tmp_path / "network.pt", 64)
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_base(tmp_path / "nothing.pt", 64)


def test_what_is_run_is_named_in_full():
    names = [run.name for run in driver.plan(driver.Study(only=("attention", "bagging_1"), seeds=(0, 1)))]
    assert names == ["attention_0", "attention_1", "bagging_1"]
    with pytest.raises(ValueError, match="only names attentio; settings are attention, "):
        driver.plan(driver.Study(only=("attentio",)))


def test_a_blend_is_between_its_networks_with_statistics_of_its_own(tmp_path, capsys):
    data = write_fer_plus(tmp_path / "ferplus", images_per_class=4, validation_per_class=1, test_per_class=1)
    torch.manual_seed(0)
    first = write_network(tmp_path / "first.pt")
    second = write_network(tmp_path / "second.pt", num_branches=3)
    write_blend(Blend(tmp_path / "first.pt", tmp_path / "second.pt", tmp_path / "out.pt", 0.25, data, device="cpu"))
    assert "2 branches, 0.25 of" in capsys.readouterr().out
    blended = load_model(tmp_path / "out.pt")
    assert blended.num_branches == 2
    for part in ("base.conv1.weight", "branches.1.fc.bias"):
        expected = 0.75 * first.state_dict()[part] + 0.25 * second.state_dict()[part]
        torch.testing.assert_close(blended.state_dict()[part], expected)
    faces = FaceLoader(FERPlus(data, "train", "crossentropy"), 60, batch_size=100)
    [batch] = faces
    with torch.no_grad():
        features = blended.base.conv1(blended.normalize(batch.images))
    torch.testing.assert_close(blended.base.bn1.running_mean, features.mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-3)
    for names, message in (
        (("second.pt", "first.pt", "out.pt"), "first network has 3 branches, the second 2"),
        (("first.pt", "second.pt", "second.pt"), "name another file"),
    ):
        with pytest.raises(ValueError, match=message):
            write_blend(Blend(*(tmp_path / name for name in names), base_path_to_dataset=data, device="cpu"))
    write_network(tmp_path / "plain.pt", attention=False)
    with pytest.raises(ValueError, match="differ in attention"):
        write_blend(Blend(tmp_path / "plain.pt", tmp_path / "second.pt", tmp_path / "x.pt", base_path_to_dataset=data))
    with pytest.raises(ValueError, match="share is 2"):
        write_blend(Blend(tmp_path / "first.pt", tmp_path / "second.pt", tmp_path / "x.pt", 2, data))


def test_panels_name_what_they_show():
    nothing, some = [math.nan, math.nan], [0.5, math.nan, 1.0]
    figure = plot_panels({"a": {"x": some, "none": nothing}, "b": {"y": some, "none": nothing}}, "epoch", "title")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "y"]
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 3]
