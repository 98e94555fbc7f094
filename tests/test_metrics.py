"""The reported numbers against hand calculations, libraries and simulated data sets."""

import math
from functools import cache

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from utils.ubootstrap import basic_interval, percentile_interval, resample_faces, sum_in_cells
from utils.umetrics import compute_differences, compute_metrics, multi_target_cross_entropy, resample_statistics
from utils.uplot import plot_history, plot_intervals, write_figure

LABELS = ("a", "b", "c")


def answers(targets: torch.Tensor, right: torch.Tensor, K: int = 3, sure: float = 0.9) -> torch.Tensor:
    """Return probabilities (N, K) of a network that is right where told so, and else names the next class."""
    predicted = torch.where(right.bool(), targets, (targets + 1) % K)
    return torch.full((len(targets), K), (1 - sure) / (K - 1)).scatter(1, predicted[:, None], sure)


def random_answers(n: int, K: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(K, (n,), generator=generator)
    logits = torch.randn(n, K, generator=generator)
    logits[torch.arange(n), targets] += 1.5
    return logits.softmax(dim=1), targets


def test_metrics_by_hand():
    probabilities = torch.tensor([[0.8, 0.2, 0.0], [0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.7, 0.3, 0.0], [0.0, 1.0, 0.0]])
    targets = torch.tensor([0, 0, 1, 1, 1])
    metrics = compute_metrics(probabilities, targets, LABELS)
    assert metrics.n == 5 and metrics.accuracy == 0.8
    assert metrics.recall == {"a": 1.0, "b": pytest.approx(2 / 3), "c": None}
    assert metrics.precision == {"a": pytest.approx(2 / 3), "b": 1.0, "c": None}
    assert metrics.mean_class_accuracy == pytest.approx((1 + 2 / 3) / 2), "over the classes that occur"
    assert metrics.macro_f1 == pytest.approx(0.8)  # both classes: 2 * 2 / (2 + 3) and 2 * 2 / (3 + 2)
    assert metrics.confusion == [[2, 0, 0], [1, 2, 0], [0, 0, 0]]
    gaps = [0.2, 0.4, 0.1, 0.7, 0.0]  # every confidence falls into a bin of its own
    assert metrics.calibration_error == pytest.approx(sum(gaps) / 5, abs=1e-6)
    assert metrics.recall_interval["c"] is None and metrics.precision_interval["c"] is None
    assert metrics.recall_interval["a"] == (1.0, 1.0)


def test_calibration_error_by_hand():
    # Bins are a fifteenth wide. 0.62, 0.64 and 0.66 share one: mean confidence 0.64, accuracy 1/3. 0.95 and 0.99 share
    # another: 0.97 and 1. The error is (3 * |0.64 - 1/3| + 2 * |0.97 - 1|) / 5.
    sure, right = torch.tensor([0.62, 0.64, 0.66, 0.95, 0.99]), torch.tensor([1, 0, 0, 1, 1])
    probabilities = torch.stack((sure, 1 - sure), dim=1)
    metrics = compute_metrics(probabilities, 1 - right, ("a", "b"))
    assert metrics.calibration_error == pytest.approx((3 * (0.64 - 1 / 3) + 2 * 0.03) / 5, abs=1e-6)
    bins = metrics.reliability
    assert bins.count == [0] * 9 + [3] + [0] * 4 + [2]
    assert bins.confidence[9] == pytest.approx(0.64) and bins.accuracy[9] == pytest.approx(1 / 3)
    assert bins.confidence[14] == pytest.approx(0.97) and bins.accuracy[14] == 1 and bins.accuracy[0] is None


@pytest.mark.parametrize("K", [2, 8])
def test_metrics_equal_those_of_a_library(K):
    probabilities, targets = random_answers(500, K)
    labels = tuple(map(str, range(K)))
    metrics, predicted = compute_metrics(probabilities, targets, labels), probabilities.argmax(dim=1)
    assert metrics.confusion == multiclass_confusion_matrix(predicted, targets, K).tolist()
    for name, function in (("recall", multiclass_recall), ("precision", multiclass_precision)):
        expected = function(predicted, targets, K, average="none").tolist()
        assert list(getattr(metrics, name).values()) == pytest.approx(expected, abs=1e-6)
    assert metrics.macro_f1 == pytest.approx(
        multiclass_f1_score(predicted, targets, K, average="macro").item(), abs=1e-6
    )
    expected = multiclass_calibration_error(probabilities, targets, K, n_bins=15).item()
    assert metrics.calibration_error == pytest.approx(expected, abs=1e-6)


def test_statistics_of_a_draw_are_those_of_the_faces_drawn():
    probabilities, targets = random_answers(60, 3)
    draws = resample_statistics(probabilities, targets, seed=5, resamples=20)
    faces = np.concatenate(list(resample_faces(60, seed=5, resamples=20)))
    assert faces.shape == (20, 60) and len(np.unique(faces)) == 60
    for place, drawn in enumerate(torch.from_numpy(faces).long()):
        expected = compute_metrics(probabilities[drawn], targets[drawn], LABELS)
        assert draws.rates.accuracy[place] == pytest.approx(expected.accuracy)
        assert draws.rates.mean_class_accuracy[place] == pytest.approx(expected.mean_class_accuracy)
        assert draws.rates.macro_f1[place] == pytest.approx(expected.macro_f1)
        assert draws.calibration_error[place] == pytest.approx(expected.calibration_error)
        assert draws.rates.precision[place] == pytest.approx(list(expected.precision.values()))


def test_draws_come_in_parts_where_there_are_many_faces(monkeypatch):
    monkeypatch.setattr("utils.ubootstrap.FACES_AT_ONCE", 100)
    parts = list(resample_faces(30, resamples=10))
    assert [part.shape for part in parts] == [(3, 30)] * 3 + [(1, 30)]
    probabilities, targets = random_answers(30, 3)
    assert resample_statistics(probabilities, targets, resamples=10).rates.recall.shape == (10, 3)


def test_sums_in_cells_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    cells, values = rng.integers(4, size=(5, 20)), rng.normal(size=(5, 20))
    for row in range(5):
        for cell in range(4):
            inside = cells[row] == cell
            assert sum_in_cells(cells, 4)[row, cell] == inside.sum()
            assert sum_in_cells(cells, 4, values)[row, cell] == pytest.approx(values[row][inside].sum())


def test_accuracy_interval_is_that_of_a_proportion_and_of_scipy():
    targets = torch.zeros(1000, dtype=torch.long)
    right = torch.arange(1000) < 700
    metrics = compute_metrics(answers(targets, right), targets, LABELS, seed=3)
    low, high = metrics.accuracy_interval
    half = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert low == pytest.approx(0.7 - half, abs=4e-3) and high == pytest.approx(0.7 + half, abs=4e-3)
    expected = bootstrap((right.double().numpy(),), np.mean, n_resamples=2000, method="percentile", rng=1, batch=200)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=4e-3)
    again = compute_metrics(answers(targets, right), targets, LABELS, seed=3)
    assert again == metrics, "seeded"
    assert compute_metrics(answers(targets, right), targets, LABELS, seed=4).accuracy_interval != (low, high)


@pytest.mark.parametrize("accuracy", [0.6, 0.87])
def test_accuracy_intervals_cover_the_truth_in_95_percent_of_simulated_data_sets(accuracy):
    n, sets = 400, 4000
    targets = torch.zeros(n, dtype=torch.long)

    @cache  # the interval depends on the number of right answers alone
    def covers(right: int) -> bool:
        metrics = compute_metrics(answers(targets, torch.arange(n) < right), targets, LABELS)
        low, high = metrics.accuracy_interval
        return low <= accuracy <= high

    rights = np.random.default_rng(0).binomial(n, accuracy, size=sets)
    covered = np.mean([covers(int(right)) for right in rights])
    assert 0.93 <= covered <= 0.97


def test_intervals_of_means_over_classes_cover_the_truth():
    # Three classes with shares 0.6, 0.3, 0.1; the network is right with 0.9, 0.7, 0.5 and else names the next class.
    shares, recalls = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.9, 0.7, 0.5])
    table = torch.diag(shares * recalls) + (shares * (1 - recalls))[:, None] * torch.eye(3).roll(1, dims=1)
    f1 = 2 * table.diagonal() / (table.sum(dim=0) + table.sum(dim=1))
    truth = {"mean_class_accuracy": 0.7, "macro_f1": f1.mean().item()}
    covered, sets = dict.fromkeys(truth, 0), 300
    generator = torch.Generator().manual_seed(0)
    for number in range(sets):
        targets = torch.multinomial(shares, 400, replacement=True, generator=generator)
        right = torch.rand(400, generator=generator) < recalls[targets]
        draws = resample_statistics(answers(targets, right), targets, seed=number, resamples=400)
        for name, true_value in truth.items():
            low, high = percentile_interval(getattr(draws.rates, name))
            covered[name] += low <= true_value <= high
    assert all(0.91 <= count / sets <= 0.98 for count in covered.values()), covered


def test_intervals_of_the_calibration_error_cover_the_truth_where_percentiles_do_not():
    # Confidence is uniform over [0.5, 1) and 0.03 too high in every bin, so that the true error is 0.03.
    n, sets, covered = 500, 200, {"basic": 0, "percentiles": 0}
    generator = torch.Generator().manual_seed(0)
    for number in range(sets):
        sure = 0.5 + 0.4999 * torch.rand(n, generator=generator)
        right = torch.rand(n, generator=generator) < sure - 0.03
        probabilities, targets = torch.stack((sure, 1 - sure), dim=1), 1 - right.long()
        bins = (sure * 15).long().numpy()
        error = np.abs(np.bincount(bins, (sure - right.float()).numpy())).sum() / n
        drawn = resample_statistics(probabilities, targets, seed=number, resamples=400).calibration_error
        for name, (low, high) in (("basic", basic_interval(error, drawn)), ("percentiles", percentile_interval(drawn))):
            covered[name] += low <= 0.03 <= high
    assert covered["basic"] / sets > 0.85 > 0.5 > covered["percentiles"] / sets, covered


def test_basic_interval_reflects_and_holds_the_estimate():
    drawn = np.linspace(0.1, 0.2, 1001)
    assert basic_interval(0.14, drawn) == pytest.approx((0.28 - 0.1975, 0.28 - 0.1025))
    assert basic_interval(0.05, drawn) == (0.0, 0.05), "cut at 0, and reaching to the estimate"


def test_a_class_that_a_draw_misses_does_not_raise_its_mean():
    targets = torch.tensor([0] * 40 + [1])  # the one face of class 1 is wrong; one draw in three misses it
    right = torch.arange(41) < 36
    metrics = compute_metrics(answers(targets, right, K=2), targets, ("a", "b"))
    assert metrics.mean_class_accuracy == pytest.approx(0.45)
    low, high = metrics.mean_class_accuracy_interval
    assert 0.38 < low < 0.45 < high <= 0.5, "0.9 would be the mean without class 1"


def test_paired_differences_of_a_constructed_pair():
    n = 1000
    targets = torch.arange(n) % 3
    first = torch.arange(n) % 10 < 7  # 70 %
    second = first.clone()
    second[torch.where(~first)[0][:30]] = True  # 30 faces more right ...
    second[torch.where(first)[0][:10]] = False  # ... and 10 others wrong
    differences = compute_differences(answers(targets, first), answers(targets, second), targets, LABELS)
    low, high = differences["accuracy"].interval
    half = 1.96 * math.sqrt((0.04 - 0.02**2) / n)  # of a mean of 30 times +1, 10 times -1 and else 0
    assert differences["accuracy"].value == pytest.approx(0.02)
    assert low == pytest.approx(0.02 - half, abs=2e-3) and high == pytest.approx(0.02 + half, abs=2e-3)
    unpaired = 1.96 * math.sqrt(2 * 0.7 * 0.3 / n)
    assert (high - low) / 2 < 0.4 * unpaired, "faces that both get right or wrong do not widen it"
    back = compute_differences(answers(targets, second), answers(targets, first), targets, LABELS)
    for name, difference in differences.items():
        assert difference.value > 0 and back[name].value == pytest.approx(-difference.value)
        assert back[name].interval == pytest.approx((-difference.interval[1], -difference.interval[0]))
    same = compute_differences(answers(targets, first), answers(targets, first, sure=0.5), targets, LABELS)
    assert all(difference == (0, (0, 0)) for difference in same.values())


def test_one_face_has_no_interval():
    metrics = compute_metrics(torch.tensor([[0.2, 0.8, 0.0]]), torch.tensor([1]), LABELS)
    assert metrics.accuracy == 1 and metrics.accuracy_interval is None and metrics.calibration_error_interval is None
    assert set(metrics.recall_interval.values()) == {None} and metrics.recall["b"] == 1
    pair = compute_differences(torch.eye(3)[:1], torch.eye(3)[1:2], torch.tensor([1]), LABELS)
    assert pair["accuracy"] == (1.0, None)


def test_multi_target_cross_entropy_takes_the_likeliest_marked_label():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))
    targets = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    expected = -(math.log(0.3) + math.log(0.2)) / 2
    assert multi_target_cross_entropy(logits, targets).item() == pytest.approx(expected, rel=1e-5)


def test_no_label_is_cut_off_at_the_edge(tmp_path):
    """With these numbers the layout made room for fewer digits than were drawn."""
    history = [
        {"stage": stage, "train_loss": train, "validation_loss": valid, "train_accuracy": 0.4,
         "validation_accuracy": 0.4, "validation_correlation_channel": different, "validation_disagreement": different,
         "validation_correlation_logits": different, "validation_correlation_spatial": different}
        for stage, train, valid, different in (
            (1, 2.16, 2.72, ""), (1, 2.08, 1.98, ""), (1, 1.47, 1.38, ""),
            (2, 1.59, 1.71, -0.24), (2, 0.98, 1.14, -0.54),
        )
    ]  # fmt: skip
    write_figure(plot_history(history, "esr / demo"), tmp_path / "curves.png")
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert all((edge == 255).all() for edge in (picture[:, :2], picture[:, -2:], picture[:2], picture[-2:]))


def test_names_of_any_kind_can_stand_in_a_plot(tmp_path):
    """A dollar sign begins a formula for Matplotlib, and a byte that is not UTF-8 is in no font."""
    strange = ["lr$10^_$x", "caf\udce9", "a\nb"]
    history = [
        {"stage": 1, "train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": 1.0, "validation_accuracy": 0.5}
    ]
    for name in strange:
        assert write_figure(plot_history(history, f"esr / {name}"), tmp_path / "curves.png")
    intervals = [(0.4, 0.6)] * 3
    plot = plot_intervals(strange, [0.5] * 3, intervals, "accuracy (%)", strange[0], zero=False)
    assert write_figure(plot, tmp_path / "accuracy.png").startswith(b"\x89PNG")
