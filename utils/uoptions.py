"""Checks the values of options before any work is done with them.

The same name means the same in every script, so what its value may be is said once, here.
"""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from models.classifier import ExpressionClassifier


class Range(NamedTuple):
    """The values that a number may have, both ends included; `words` say it to the user."""

    lowest: float
    highest: float
    words: str
    whole: bool = False


AT_LEAST_ONE = Range(1, math.inf, "a whole number, 1 or more", whole=True)
NOT_NEGATIVE = Range(0, 1e30, "a number, 0 or more")
SHARE = Range(0, 1, "a number from 0 to 1")
RANGES = {
    "image_size": AT_LEAST_ONE,
    "max_training_images": AT_LEAST_ONE,
    "max_images_per_label": AT_LEAST_ONE,
    "num_branches_trained_network": AT_LEAST_ONE,
    "max_training_epoch": AT_LEAST_ONE,
    "max_finetune_epoch": AT_LEAST_ONE,
    "max_affect_epoch": AT_LEAST_ONE,
    "lr_decay_interval": AT_LEAST_ONE,
    "validation_interval": AT_LEAST_ONE,
    "batch_size": AT_LEAST_ONE,
    "every": AT_LEAST_ONE,
    "rounds": AT_LEAST_ONE,
    "webcam": Range(0, 99, "the number of a webcam, 0 for the first", whole=True),
    "seed": Range(0, 2**63 - 1, "a whole number, 0 or more", whole=True),
    "cache_gib": NOT_NEGATIVE,
    "lr": NOT_NEGATIVE,
    "lr_new": NOT_NEGATIVE,
    "lr_trained": NOT_NEGATIVE,
    "lr_affect": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "diversity_weight": NOT_NEGATIVE,
    "lr_decay": SHARE,
    "beta": SHARE,
    "weight_averaging": Range(0, 1 - 1e-9, "a number from 0 to less than 1"),
    "augmentation": Range(0, 2, "a strength from 0 to 2"),
    "margin": Range(0, 2, "a share of the box's side from 0 to 2"),
}


def check_options(options: Any, network: type[ExpressionClassifier] | None = None) -> None:
    """Raise unless every value of a script's variables is one that it can work with.

    Args:
        options: a dataclass of variables, as every script has.
        network: what an experiment trains; it knows which picture sizes it can take.

    Raises:
        ValueError: names the variable, its value, and what was expected.
        FileNotFoundError: when start weights are named that are not there.
    """
    names = [field.name for field in fields(options)]
    kinds = get_type_hints(type(options))
    for name in names:
        value = getattr(options, name)
        if name in RANGES and value is not None and not _is_within(value, RANGES[name]):
            raise ValueError(f"{name} is {value!r}; expected {RANGES[name].words}")
        if get_origin(kinds[name]) is Literal and value not in get_args(kinds[name]):
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, get_args(kinds[name])))}")
        if kinds[name] is Path and not isinstance(value, Path):
            raise ValueError(f"{name} is {value!r}; expected a path, as in Path({str(value)!r})")
    gamma = getattr(options, "diversity_gamma", "median")
    if gamma != "median" and (not _is_within(gamma, NOT_NEGATIVE) or gamma == 0):
        raise ValueError(f"diversity_gamma is {gamma!r}; expected a number above 0, or 'median'")
    if "zoom" in names:
        low, high = options.zoom
        if not 0 < low <= high <= 10:
            raise ValueError(f"zoom is {options.zoom}; expected two numbers from above 0 to 10, the smaller one first")
    if "name_experiment" in names:
        _check_name(options.name_experiment)
    weights = getattr(options, "path_to_pretrained_network", None)
    if weights is not None and not Path(weights).exists():
        raise FileNotFoundError(
            f"path_to_pretrained_network is {weights}, and there is nothing at {Path(weights).absolute()}; name a "
            "checkpoint or a folder of weights, or None to train from scratch"
        )
    if network is not None:
        network.check_image_size(options.image_size)
        if options.batch_size < 2:
            raise ValueError("batch_size is 1; expected 2 or more: BatchNorm learns from the spread within a batch")


def _is_within(value: Any, allowed: Range) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if allowed.whole else (int, float)):
        return False
    return allowed.lowest <= value <= allowed.highest  # false for what is not a number


def _check_name(name: str) -> None:
    """Refuse a name that leads out of the folder of the experiments, or is none."""
    parts = Path(name).parts
    if not name.strip() or Path(name).is_absolute() or not parts or ".." in parts:
        raise ValueError(f"name_experiment is {name!r}; expected the name of a folder for this experiment")
