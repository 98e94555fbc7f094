"""Builds networks from every checkpoint format: this project's, and the published ones of ESR and MA-Net.

`models.files` reads the file, `models.statedict` finds the weights in it; here is what each format means.
"""

import inspect
import json
import math
import re
from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.classifier import ExpressionClassifier, default_labels
from models.device import find_device
from models.esr import ESR
from models.files import (
    BASE_FILE,
    BRANCH_FILE,
    EXPECTED,
    CheckpointError,
    describe_other,
    is_folder,
    read_head,
    read_tensors,
    shown,
    some,
)
from models.hub import is_hub_folder, read_hub
from models.manet import MANet
from models.statedict import INPUT_BUFFERS, describe, find_state, load_state, nothing_fits, unwrap, walk

FORMAT, VERSION = "diversified-fer", 2  # 2: ESR pools before the attention, MA-Net's patches by rows, as published
ARCHITECTURES = {"ESR": ESR, "MANet": MANet}
SETTINGS_FILE = "Net-Settings.json"  # beside folders that this project wrote: what the published format leaves out
SHIPPED = Path(__file__).parents[1] / "checkpoint" / "ferplus_small.pt"
ESR_LANDMARKS = ("base.conv1.weight", "branches.0.fc.weight")
BASE_LANDMARKS = ("conv1.weight", "conv2.weight", "conv3.weight", "conv4.weight", "bn4.weight")
BRANCH_LANDMARKS = (*BASE_LANDMARKS, "fc.weight")
MANET_LANDMARKS = ("layer3_1_p1.0.conv1.weight", "fc_1.weight")
HEADS = {"ESR": "branches.0.fc.weight", "MANet": "fc_1.weight"}  # (K, 512)
MAX_IMAGE_SIZE = 4096  # pixels; a network of faces has no use for more, and a wrong number would fill the memory
NOTES = {".json", ".md", ".md5", ".sha1", ".sha256", ".txt"}  # beside the weights in a folder


def load_model(
    path: str | Path | None = None, device: str | torch.device = "cpu", normalization: str | None = None
) -> ExpressionClassifier:
    """Load a trained network in evaluation mode, from any supported format.

    Args:
        path: a `.pt` checkpoint of this project, a folder that it wrote for a model hub (config.json and
            model.safetensors), a folder of published ESR weights, or a published MA-Net file; None for the small
            network that the project ships (`checkpoint/ferplus_small.md` says what it is worth).
        device: where to put the network: "cpu", "cuda", "cuda:1", ..., or "auto" for a GPU where there is one.
        normalization: what published weights saw ("rgb", "bgr" or "imagenet"), where the default of their format is
            wrong: BGR for ESR folders of 8 classes, ImageNet for those of 7 (the diversified RAF-DB weights), RGB for
            MA-Net. This project's checkpoints carry their own and take none; so do the folders that it exports.

    Raises:
        FileNotFoundError: when there is nothing at `path`.
        CheckpointError: when what is there is truncated, of no known format, or does not fit its network exactly.
        ValueError: for a device that this machine does not have, or an unknown normalisation.
    """
    place = find_device(device)
    path = SHIPPED if path is None else Path(path)
    if is_folder(path) and is_hub_folder(path):
        if normalization is not None:
            raise CheckpointError(f"{path} carries its own normalisation; leave `normalization` out")
        content = read_hub(path)
        model = build_model(content, path)
    elif is_folder(path):
        model = _read_esr_folder(path, normalization)
    else:
        content = read_tensors(path)
        own = next((found for _, found in walk(content) if found.get("format") == FORMAT), None)
        if own is None:
            model = _build_released_manet(content, path, normalization)
        elif normalization is not None:
            raise CheckpointError(f"{path} carries its own normalisation; leave `normalization` out")
        else:
            model = build_model(own, path)
    return model.to(place).eval()


def load_pretrained(
    path: str | Path,
    labels: Sequence[str],
    architecture: type[ExpressionClassifier],
    image_size: int,
    device: str | torch.device = "cpu",
) -> ExpressionClassifier:
    """Load start weights for training at another image size or on other classes, which get a fresh head.

    Raises:
        FileNotFoundError: as `load_model`.
        CheckpointError: as `load_model`, and when the weights are of another architecture.
        ValueError: for an image size that the architecture cannot take.
    """
    model = load_model(path, device)
    if not isinstance(model, architecture):
        raise CheckpointError(
            f"{path} holds a network of architecture {model.architecture}, this experiment trains "
            f"{architecture.__name__}: set path_to_pretrained_network to weights of {architecture.__name__}, or to None"
        )
    if model.labels != tuple(labels):
        print(f"{path}: its {len(model.labels)} classes are not the data set's {len(labels)}; the head starts afresh")
        model.replace_head(labels)
    model.temperature = 1.0  # fitted to the weights as they were
    model.arguments["image_size"] = model.image_size = image_size
    with torch.device("meta"):
        type(model)(**model.arguments)  # refuses a size that the architecture cannot take
    for name, parameter in model.named_parameters():
        if "fc_dimensional" in name:  # emotions do not reach it, and several processes wait for every gradient
            parameter.requires_grad_(False)
    return model.train()


def describe_model(model: ExpressionClassifier) -> dict[str, Any]:
    """Return the content of a checkpoint of this network: tensors and plain values only."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "architecture": model.architecture,
        "arguments": model.arguments,
        "labels": list(model.labels),
        "image_size": model.image_size,
        "temperature": model.temperature,
        "state_dict": model.state_dict(),
    }


def halve(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of this project with its weights in half precision, at half the size, to be handed on.

    It is read like any other, into float32. The input's mean and deviation stay as they are, and what only training
    needs is left out.
    """
    description = ("format", "version", "architecture", "arguments", "labels", "image_size", "temperature")
    kept = (*description, "measured", "variables")
    state = {
        key: value.half() if value.is_floating_point() and key not in INPUT_BUFFERS else value
        for key, value in kept_weights(content).items()
    }
    lost = [key for key, value in state.items() if not value.isfinite().all()]
    if lost:
        raise CheckpointError(f"half precision cannot hold the values of {some(lost)}: hand on the whole checkpoint")
    return {key: content[key] for key in kept if key in content} | {"state_dict": state}


def kept_weights(content: dict[str, Any], path: Path | str = "the checkpoint") -> dict[str, Tensor]:
    """Return the weights that a checkpoint of this project stands for: the averaged ones where a run averages.

    Raises:
        CheckpointError: when there are none; `path` is for the message.
    """
    for name in ("average", "state_dict"):
        state = content.get(name)
        entries = state.items() if isinstance(state, dict) else ()
        if entries and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries):
            return unwrap(state)
        if name in content and state != {}:
            raise CheckpointError(f"{path}: its {name} is no dict of tensors; {describe(content)}. Copy the file again")
    raise CheckpointError(f"{path} has no state_dict; {describe(content)}. Copy the file again")


def build_model(content: dict[str, Any], path: Path) -> ExpressionClassifier:
    """Build the network that a checkpoint of this project describes; `path` is for messages.

    Raises:
        CheckpointError: when the description is incomplete or contradicts itself, or the weights do not fit it.
    """
    check_version(content, path)
    name = content.get("architecture")
    architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None:
        raise CheckpointError(
            f"{path}: architecture {shown(name)!r}; this release knows {', '.join(ARCHITECTURES)}: a newer release may "
            "read it"
        )
    arguments = content.get("arguments")
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{path} does not say how its network is built (arguments); {describe(content)}")
    state = kept_weights(content, path)
    _check_arguments(architecture, arguments, path)
    _check_counts(name, arguments, state, path)  # before anything of the size that the arguments name is built
    try:
        model = architecture(**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its arguments build no {name}: {error}") from error
    for entry, value in (("labels", list(model.labels)), ("image_size", model.image_size)):
        if entry in content and (type(content[entry]) is not type(value) or content[entry] != value):
            raise CheckpointError(f"{path}: its {entry} and those of its arguments differ; copy the file again")
    load_state(model, state, path)
    model.temperature = check_temperature(content.get("temperature", 1.0), path)
    return model


def check_temperature(temperature: Any, path: Path) -> float:
    """Return a temperature that a file holds; raise CheckpointError unless it is a finite number above 0."""
    if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
        raise CheckpointError(
            f"{path}: its temperature is {shown(temperature)}; expected a finite number above 0, which probabilities "
            "are calibrated with: copy the file again"
        )
    return float(temperature)


def _check_arguments(architecture: type[ExpressionClassifier], arguments: dict[Any, Any], path: Path) -> None:
    """Raise unless a network's arguments have names and types that its class takes, by its defaults."""
    parameters = inspect.signature(architecture).parameters
    unknown = [name for name in arguments if name not in parameters]
    if unknown:
        raise CheckpointError(
            f"{path}: its network has arguments that {architecture.__name__} does not take here: {some(unknown)}; "
            f"known are {', '.join(parameters)}. Another version of the project may read it"
        )
    for name, value in arguments.items():
        kind = type(parameters[name].default)
        fits = kind not in (bool, int, float, str) or type(value) is kind or (kind is float and type(value) is int)
        expected = kind.__name__
        if name == "labels":
            expected = "a list of names"
            fits = value is None or (
                isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(label, str) for label in value)
            )
        if not fits:
            raise CheckpointError(
                f"{path}: its network's argument {name} is {shown(value)} ({type(value).__name__}); expected {expected}"
            )
    image_size = arguments.get("image_size")
    if isinstance(image_size, int) and image_size > MAX_IMAGE_SIZE:
        raise CheckpointError(f"{path}: its image_size is {image_size}; expected at most {MAX_IMAGE_SIZE} pixels")


def _check_counts(name: str, arguments: dict[str, Any], state: dict[str, Tensor], path: Path) -> None:
    """Raise unless the numbers of classes and branches that the arguments name are those of the weights."""
    if name not in HEADS:
        return
    defaults = {key: parameter.default for key, parameter in inspect.signature(ARCHITECTURES[name]).parameters.items()}
    given = defaults | arguments
    said = {"classes": given["num_classes"] if given["labels"] is None else len(given["labels"])}
    counted = {"classes": _count_classes(state, HEADS[name], path)}
    if name == "ESR":
        said["branches"] = given["num_branches"]
        counted["branches"] = len({key.split(".")[1] for key in state if key.startswith("branches.")})
    for what, number in counted.items():
        if said[what] != number:
            raise CheckpointError(
                f"{path} describes a network of {said[what]} {what}, its weights are of {number}; copy the file again"
            )


def _count_classes(state: dict[str, Tensor], head: str, path: Path) -> int:
    """Return the number of classes K of a head (K, features) whose numbers are in the file, not only announced."""
    weight = state.get(head)
    shape = None if weight is None else tuple(weight.shape)
    if shape is None or len(shape) != 2 or 0 in shape:
        what = f"no {head}" if shape is None else f"{head} of shape {shape}"
        raise CheckpointError(f"{path} has {what}; expected (classes, features) with at least one class")
    if weight.layout != torch.strided or not weight.is_contiguous():
        raise CheckpointError(f"{path}: {head} {shape} is sparse or not contiguous; save it again with .contiguous()")
    return shape[0]


def check_version(content: dict[str, Any], path: Path) -> None:
    """Raise CheckpointError for a checkpoint of this project whose weights belong to another network than today's."""
    version = content.get("version")
    if type(version) is int and version == VERSION:
        return
    if type(version) is int and version == 1:
        raise CheckpointError(
            f"{path} was written by an older version of this project (format 1), whose networks were not the published "
            "ones: ESR pooled after its attention, MA-Net exchanged two patches. Its weights do not fit the corrected "
            "networks: train again, or check out the version that wrote the file"
        )
    raise CheckpointError(
        f"{path} has format {shown(version)}, this version of the project reads format {VERSION}: update the project"
    )


def _read_esr_folder(folder: Path, normalization: str | None) -> ESR:
    """Read a folder of published ESR weights (Siqueira et al.; also those of Heidari and Iosifidis)."""
    paths = _list_branches(folder)
    base = _read_part(folder / BASE_FILE, BASE_LANDMARKS)
    branches = [_read_part(path, BRANCH_LANDMARKS) for path in paths]
    num_classes = _count_classes(branches[0], "fc.weight", paths[0])
    own = _read_settings(folder / SETTINGS_FILE)
    temperature = check_temperature(own.get("temperature", 1.0), folder / SETTINGS_FILE)
    try:
        model = ESR(
            num_branches=len(branches),
            num_classes=num_classes,
            attention=any(key.startswith("cbam") for key in base),
            affect="fc_dimensional.weight" in branches[0],
            image_size=own.get("image_size", 96),
            normalization=normalization or own.get("normalization") or ("imagenet" if num_classes == 7 else "bgr"),
        )
    except ValueError as error:
        if normalization is not None:
            raise
        raise CheckpointError(f"{folder / SETTINGS_FILE}: {error}; export the folder again") from error
    for path, branch, state in zip(paths, model.branches, branches, strict=True):
        load_state(branch, state, path, _batch_counters(branch))
    load_state(model.base, base, folder / BASE_FILE, _batch_counters(model.base))
    model.temperature = temperature
    return model


def _list_branches(folder: Path) -> list[Path]:
    """Return the branch files of a folder of ESR weights, in order; refuse what is missing, odd or in another place."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    branches = list(takewhile(names.__contains__, map(BRANCH_FILE.format, count(1))))
    parts = [name for name in names if "net-b" in name.lower() and Path(name).suffix.lower() not in NOTES]
    odd = [name for name in parts if name not in (BASE_FILE, *branches)]
    later = [name for name in odd if re.fullmatch(BRANCH_FILE.format("[1-9][0-9]*"), name)]
    if later:
        missing = BRANCH_FILE.format(len(branches) + 1)
        raise CheckpointError(f"{folder}: {missing} is missing before {some(later)}; copy the whole folder again")
    if odd and (branches or BASE_FILE in names):
        raise CheckpointError(
            f"{folder} holds {some(odd)}, which {'is' if len(odd) == 1 else 'are'} no part of an ensemble of "
            f"{BASE_FILE}, {BRANCH_FILE.format(1)}, {BRANCH_FILE.format(2)}, ...: rename, or take away"
        )
    if branches and BASE_FILE in names:
        return [folder / name for name in branches]
    found = f"it holds {some(names)}" if names else "it is empty"
    inner = next((path.parent for path in sorted(folder.glob(f"*/{BASE_FILE}"))), None)
    if inner is not None:
        found = f"the folder {inner} in it does: name that one"
    elif {"best.pt", "last.pt"} & set(names):
        found = f"name {' or '.join(name for name in ('best.pt', 'last.pt') if name in names)} in it"
    elif "data.pkl" in names:
        found = "it is a checkpoint that some program has unpacked: download the file again, and leave it packed"
    raise CheckpointError(
        f"{folder.absolute()} holds no {BASE_FILE} with {BRANCH_FILE.format(1)}; {found}; expected {EXPECTED}"
    )


def _read_part(path: Path, landmarks: Sequence[str]) -> dict[str, Tensor]:
    """Read the state dict of the base or a branch of an ESR."""
    content = read_tensors(path)
    state = find_state(content, landmarks, path)
    if state is None:
        raise nothing_fits(content, path, f"state dict of a part of an ESR ({landmarks[0]}, {landmarks[-1]}, ...)")
    return state


def _read_settings(path: Path) -> dict[str, Any]:
    """Read what a folder that this project wrote says beside its weights; nothing where there is no such file."""
    if not path.exists():
        return {}
    head = read_head(path)
    what = None if head.lstrip()[:1] == b"{" else describe_other(head, path) or "is no JSON"
    try:
        own = {} if what else json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        what = f"is no JSON ({error})"
    if what:
        raise CheckpointError(f"{path} {what}; export the folder again")
    image_size, normalization = own.get("image_size", 96), own.get("normalization", "bgr")
    if type(image_size) is not int or image_size > MAX_IMAGE_SIZE or not isinstance(normalization, str):
        raise CheckpointError(
            f"{path} says image_size {shown(image_size)}, normalization {shown(normalization)}; expected at most "
            f"{MAX_IMAGE_SIZE} pixels and a name; export the folder again"
        )
    return own


def _build_released_manet(content: dict[Any, Any], path: Path, normalization: str | None) -> MANet:
    """Build MA-Net from the content of a released file, heads of any number of classes (12,666 for MS-Celeb-1M)."""
    if {"architecture", "arguments"} <= content.keys():
        raise CheckpointError(
            f"{path} describes a network as this project does, but its format is {shown(content.get('format'))}, not "
            f"{FORMAT!r}: copy the file again"
        )
    state = find_state(content, MANET_LANDMARKS, path)
    if state is None:
        parts = f"with {BASE_FILE} and {BRANCH_FILE.format(1)}, ... in it"
        if find_state(content, ESR_LANDMARKS, path) is not None:
            raise CheckpointError(
                f"{path} holds the bare state dict of an ESR, without image size, normalisation and class names: write "
                "it with models.weights.describe_model, or with export_esr_folder. Of published weights, each file is "
                f"one part of an ESR: name its folder, {parts}"
            )
        if find_state(content, BASE_LANDMARKS, path) is not None:
            raise CheckpointError(f"{path} is one part of an ESR: name its folder, {parts}")
        raise nothing_fits(content, path, "weights of MA-Net or ESR")
    num_classes = _count_classes(state, "fc_1.weight", path)
    model = MANet(num_classes, labels=default_labels(num_classes), normalization=normalization or "rgb")
    load_state(model, state, path, INPUT_BUFFERS | _batch_counters(model))
    return model


def _batch_counters(module: torch.nn.Module) -> set[str]:
    """Name the BatchNorm counters, which weights from PyTorch before 0.4.1 do not have."""
    return {key for key in module.state_dict() if key.endswith("num_batches_tracked")}
