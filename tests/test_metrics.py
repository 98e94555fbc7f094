"""The reported numbers against hand calculations."""

import math

import numpy as np
import pytest
import torch

from utils.umetrics import bootstrap_interval, compute_metrics, multi_target_cross_entropy

LABELS = ("a", "b", "c")


def test_metrics_by_hand():
    probabilities = torch.tensor([[0.8, 0.2, 0.0], [0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.7, 0.3, 0.0], [0.0, 1.0, 0.0]])
    targets = torch.tensor([0, 0, 1, 1, 1])
    metrics = compute_metrics(probabilities, targets, LABELS)
    assert metrics.n == 5 and metrics.accuracy == 0.8
    assert metrics.recall == {"a": 1.0, "b": pytest.approx(2 / 3), "c": None}
    assert metrics.mean_class_accuracy == pytest.approx((1 + 2 / 3) / 2), "over the classes that occur"
    assert metrics.macro_f1 == pytest.approx(0.8)  # both classes: 2 * 2 / (2 + 3) and 2 * 2 / (3 + 2)
    assert metrics.confusion == [[2, 0, 0], [1, 2, 0], [0, 0, 0]]
    gaps = [0.2, 0.4, 0.1, 0.7, 0.0]  # every confidence falls into a bin of its own
    assert metrics.calibration_error == pytest.approx(sum(gaps) / 5, abs=1e-6)


def test_bootstrap_interval_is_that_of_a_proportion():
    correct = np.repeat([1.0, 0.0], [700, 300])
    low, high = bootstrap_interval(correct)
    half = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert low == pytest.approx(0.7 - half, abs=4e-3) and high == pytest.approx(0.7 + half, abs=4e-3)
    assert bootstrap_interval(correct) == (low, high), "seeded"


def test_multi_target_cross_entropy_takes_the_likeliest_marked_label():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))
    targets = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    expected = -(math.log(0.3) + math.log(0.2)) / 2
    assert multi_target_cross_entropy(logits, targets).item() == pytest.approx(expected, rel=1e-5)
