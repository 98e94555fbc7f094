"""Checks the values of options before any work is done with them.

The same name means the same in every script, so what its value may be is said once, here.
"""

import math
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from models.classifier import ExpressionClassifier
from models.weights import MAX_IMAGE_SIZE


class Range(NamedTuple):
    """The values that a number may have, both ends included; `words` say it to the user."""

    lowest: float
    highest: float
    words: str
    whole: bool = False


AT_LEAST_ONE = Range(1, math.inf, "a whole number, 1 or more", whole=True)
NOT_NEGATIVE = Range(0, 1e30, "a number, 0 or more")
SHARE = Range(0, 1, "a number from 0 to 1")
COUNTS = (
    "max_training_images", "max_images_per_label", "num_branches_trained_network", "max_training_epoch",
    "max_finetune_epoch", "max_affect_epoch", "lr_decay_interval", "validation_interval", "batch_size", "every",
    "rounds",
)  # fmt: skip
AMOUNTS = ("cache_gib", "lr", "lr_new", "lr_trained", "lr_affect", "weight_decay", "diversity_weight")
RANGES = {
    **dict.fromkeys(COUNTS, AT_LEAST_ONE),
    **dict.fromkeys(AMOUNTS, NOT_NEGATIVE),
    "image_size": Range(1, MAX_IMAGE_SIZE, f"a whole number, 1 or more, at most {MAX_IMAGE_SIZE:,}", whole=True),
    "webcam": Range(0, 99, "the number of a webcam, 0 for the first", whole=True),
    "seed": Range(0, 2**63 - 1, "a whole number, 0 or more", whole=True),
    "lr_decay": SHARE,
    "beta": SHARE,
    "weight_averaging": Range(0, 1 - 1e-9, "a number from 0 to less than 1"),
    "augmentation": Range(0, 2, "a strength from 0 to 2"),
    "margin": Range(0, 2, "a share of the box's side from 0 to 2"),
}


def check_options(options: Any, network: type[ExpressionClassifier] | None = None) -> None:
    """Raise unless every value of a script's variables is one that it can work with; expand "~" in paths.

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
        if hasattr(value, "dtype") or (type(value) is tuple and any(hasattr(item, "dtype") for item in value)):
            raise ValueError(
                f"{name} is {value!r}; expected a plain Python value, as in float(x), int(x) or x.tolist()"
            )
        if name in RANGES and value is not None and not _is_within(value, RANGES[name]):
            raise ValueError(f"{name} is {value!r}; expected {RANGES[name].words}")
        if get_origin(kinds[name]) is Literal and value not in get_args(kinds[name]):
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, get_args(kinds[name])))}")
        if Path in (kinds[name], *get_args(kinds[name])) and isinstance(value, str):
            raise ValueError(f"{name} is {value!r}; expected a path, as in Path({value!r})")
        if isinstance(value, Path) and value.parts[:1] == ("~",):  # no shell has seen what a script says
            setattr(options, name, value.expanduser())
        if not _is_of_kind(value, kinds[name]):
            expected = str(kinds[name]) if get_args(kinds[name]) else kinds[name].__name__
            raise ValueError(f"{name} is {value!r}; expected {expected.replace('pathlib.', '')}")
    gamma = getattr(options, "diversity_gamma", "median")
    if gamma != "median" and (not _is_within(gamma, NOT_NEGATIVE) or gamma == 0):
        raise ValueError(f"diversity_gamma is {gamma!r}; expected a number above 0, or 'median'")
    if "zoom" in names:
        low, high = options.zoom
        if not 0 < low <= high <= 10:
            raise ValueError(f"zoom is {options.zoom}; expected two numbers from above 0 to 10, the smaller one first")
    if "name_experiment" in names:
        name = options.name_experiment  # not one that leads out of the folder of the experiments
        if not name.strip() or Path(name).is_absolute() or not Path(name).parts or ".." in Path(name).parts:
            raise ValueError(f"name_experiment is {name!r}; expected the name of a folder for this experiment")
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


def _is_of_kind(value: Any, kind: Any) -> bool:
    """Tell whether a value is of an annotation's kind; kinds other than plain values, paths and tuples take any."""
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of_kind(value, inner) for inner in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        inner = inner[:1] * len(value) if inner[-1] is Ellipsis and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_is_of_kind, value, inner))
    if kind is float:
        return type(value) in (int, float)
    if kind in (int, bool, str, NoneType):
        return type(value) is kind
    return isinstance(value, Path) if kind is Path else True


def _is_within(value: Any, allowed: Range) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if allowed.whole else (int, float)):
        return False
    return allowed.lowest <= value <= allowed.highest  # false for what is not a number
