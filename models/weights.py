"""Reads every checkpoint format into a network: this project's, and the published ones of ESR and MA-Net.

No pickled code runs. This project's files hold tensors and plain values only and are read with `weights_only=True`. A
published file may carry other pickled objects beside its tensors (MA-Net's has a recorder of its training curves): an
unpickler that knows how to rebuild tensors reads it, with an inert placeholder wherever it names anything else.
"""

import json
import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.classifier import ExpressionClassifier, default_labels
from models.esr import ESR
from models.manet import MANet

FORMAT, VERSION = "diversified-fer", 2  # 2: ESR pools before the attention, MA-Net's patches by rows, as published
ARCHITECTURES = {"ESR": ESR, "MANet": MANet}
BASE_FILE, BRANCH_FILE = "Net-Base-Shared_Representations.pt", "Net-Branch_{}.pt"
SETTINGS_FILE = "Net-Settings.json"  # beside folders that this project wrote: what the published format leaves out
SHIPPED = Path(__file__).parents[1] / "checkpoint" / "ferplus_small.pt"
INPUT_BUFFERS = {"input_channels", "input_mean", "input_std"}
EXPECTED = (
    "a checkpoint written by this project (best.pt, last.pt), a folder with "
    f"{BASE_FILE} and {BRANCH_FILE.format(1)}, or a released MA-Net .pth file"
)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message names the file."""


def load_model(
    path: str | Path | None = None, device: str | torch.device = "cpu", normalization: str | None = None
) -> ExpressionClassifier:
    """Load a trained network in evaluation mode, from any supported format.

    Args:
        path: a `.pt` checkpoint of this project, a folder of published ESR weights, or a published MA-Net file; None
            for the small network that the project ships (`checkpoint/ferplus_small.md` says what it is worth).
        device: where to put the network.
        normalization: what published weights saw ("rgb", "bgr" or "imagenet"), where the default of their format is
            wrong: BGR for ESR folders of 8 classes, ImageNet for those of 7 (the diversified RAF-DB weights), RGB for
            MA-Net. This project's checkpoints carry their own and take none; so do the folders that it exports.

    Raises:
        FileNotFoundError: when there is nothing at `path`.
        CheckpointError: when what is there is truncated, of no known format, or does not fit its network exactly.
    """
    path = SHIPPED if path is None else Path(path)
    if path.is_dir():
        model = _read_esr_folder(path, normalization)
    else:
        content = read_tensors(path)
        if content.get("format") == FORMAT:
            if normalization is not None:
                raise CheckpointError(f"{path} carries its own normalisation; leave `normalization` out")
            model = build_model(content, path)
        else:
            model = _build_released_manet(content, path, normalization)
    return model.to(device).eval()


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
        "state_dict": model.state_dict(),
    }


def halve(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of this project with its weights in half precision, at half the size, to be handed on.

    It is read like any other, into float32. The input's mean and deviation stay as they are, and what only training
    needs is left out.
    """
    kept = ("format", "version", "architecture", "arguments", "labels", "image_size", "measured", "variables")
    state = {
        key: value.half() if value.is_floating_point() and key not in INPUT_BUFFERS else value
        for key, value in kept_weights(content).items()
    }
    lost = [key for key, value in state.items() if not value.isfinite().all()]
    if lost:
        raise CheckpointError(f"half precision cannot hold the values of {_some(lost)}: hand on the whole checkpoint")
    return {key: content[key] for key in kept if key in content} | {"state_dict": state}


def kept_weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights that a checkpoint of this project stands for: the averaged ones where a run averages."""
    averaged = {key.removeprefix("module."): value for key, value in content.get("average", {}).items()}
    averaged.pop("n_averaged", None)
    return averaged or content["state_dict"]


def build_model(content: dict[str, Any], path: Path) -> ExpressionClassifier:
    """Build the network that a checkpoint of this project describes; `path` is for messages."""
    check_version(content, path)
    architecture = ARCHITECTURES.get(content.get("architecture"))
    if architecture is None:
        raise CheckpointError(
            f"{path}: architecture {content.get('architecture')!r}; this release knows {', '.join(ARCHITECTURES)}: a "
            "newer release may read it"
        )
    model = architecture(**content["arguments"])
    load_state(model, kept_weights(content), path)
    return model


def check_version(content: dict[str, Any], path: Path) -> None:
    """Raise CheckpointError for a checkpoint of this project whose weights belong to another network than today's."""
    version = content.get("version")
    if version == VERSION:
        return
    if version == 1:
        raise CheckpointError(
            f"{path} was written by an older version of this project (format 1), whose networks were not the published "
            "ones: ESR pooled after its attention, MA-Net exchanged two patches. Its weights do not fit the corrected "
            "networks: train again, or check out the version that wrote the file"
        )
    raise CheckpointError(
        f"{path} has format {version!r}, this version of the project reads format {VERSION}: update the project"
    )


def load_state(
    model: torch.nn.Module,
    state: dict[str, Tensor],
    path: Path,
    may_be_missing: frozenset[str] | set[str] = frozenset(),
) -> None:
    """Load a state dict; only the keys `may_be_missing` may be missing, none may be unexpected, shapes must agree."""
    own = model.state_dict()
    missing = own.keys() - state.keys() - may_be_missing
    unexpected = state.keys() - own.keys()
    differing = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    if missing or unexpected or differing:
        found = {"missing": missing, "unexpected": unexpected, "of another shape": differing}
        listing = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in found.items() if keys)
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: {listing}")
    model.load_state_dict(state, strict=False)


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a checkpoint's tensors and plain values without running any code it carries.

    Raises:
        FileNotFoundError: when there is no file at `path`.
        CheckpointError: when the file is truncated or no checkpoint.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path.absolute()}; expected {EXPECTED}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # something beside tensors and plain values, or no pickle at all
        content = _read_with_placeholders(path)
    except Exception as error:  # torch.load raises RuntimeError, EOFError, OSError, KeyError, ... on damaged files
        raise CheckpointError(_damaged(path, error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected {EXPECTED}")
    return content


class Placeholder:
    """Stands where a file names something that is no tensor; it takes any state and does nothing with it."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Take an element of a pickled list and forget it."""

    def extend(self, items: Any) -> None:
        """Take the elements of a pickled list and forget them."""


class TensorUnpickler(pickle.Unpickler):
    """Rebuilds tensors and nothing else: every other global a file names becomes a `Placeholder`."""

    KNOWN = {  # noqa: RUF012 - a constant table
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "Size"): torch.Size,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        **{("torch", name): getattr(torch, name) for name in ("FloatStorage", "HalfStorage", "LongStorage")},
    }

    def find_class(self, module: str, name: str) -> Any:
        """Look a global up in the table; nothing is imported."""
        return self.KNOWN.get((module, name), Placeholder)


def _read_with_placeholders(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CheckpointError(
                    f"{path} is a TorchScript program, which would have to be run; expected {EXPECTED}"
                )
    safe_pickle = types.SimpleNamespace(
        __name__="tensor_pickle",
        Unpickler=TensorUnpickler,
        load=lambda file, **keywords: TensorUnpickler(file, **keywords).load(),
    )
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=safe_pickle)
    except Exception as error:  # a damaged pickle raises whatever its first wrong byte leads to
        raise CheckpointError(_damaged(path, error)) from error


def _read_esr_folder(folder: Path, normalization: str | None) -> ESR:
    """Read a folder of published ESR weights (Siqueira et al.; also those of Heidari and Iosifidis)."""
    if not (folder / BASE_FILE).exists() or not (folder / BRANCH_FILE.format(1)).exists():
        raise CheckpointError(
            f"{folder.absolute()} holds no {BASE_FILE} with {BRANCH_FILE.format(1)}; expected {EXPECTED}"
        )
    base = read_tensors(folder / BASE_FILE)
    branches = []
    while (path := folder / BRANCH_FILE.format(len(branches) + 1)).exists():
        branches.append(read_tensors(path))
    numbered = len(list(folder.glob(BRANCH_FILE.format("*"))))
    if numbered != len(branches):
        raise CheckpointError(f"{folder}: {numbered} branch files, but {path.name} is missing between them")
    if "fc.weight" not in branches[0]:
        raise CheckpointError(f"{folder / BRANCH_FILE.format(1)} has no fc.weight; expected the state dict of a branch")
    num_classes = branches[0]["fc.weight"].shape[0]
    settings = folder / SETTINGS_FILE
    try:
        own = json.loads(settings.read_text()) if settings.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{settings} is no JSON ({error}); export the folder again") from error
    model = ESR(
        num_branches=len(branches),
        num_classes=num_classes,
        attention=any(key.startswith("cbam") for key in base),
        affect="fc_dimensional.weight" in branches[0],
        image_size=own.get("image_size", 96),
        normalization=normalization or own.get("normalization") or ("imagenet" if num_classes == 7 else "bgr"),
    )
    for number, (branch, state) in enumerate(zip(model.branches, branches, strict=True), start=1):
        load_state(branch, state, folder / BRANCH_FILE.format(number), _batch_counters(branch))
    load_state(model.base, base, folder / BASE_FILE, _batch_counters(model.base))
    return model


def _build_released_manet(content: dict[str, Any], path: Path, normalization: str | None) -> MANet:
    """Build MA-Net from the content of a released file, heads of any number of classes (12,666 for MS-Celeb-1M)."""
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no state dict; expected {EXPECTED}")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if "fc_1.weight" not in state or "layer3_1_p1.0.conv1.weight" not in state:
        raise CheckpointError(f"{path} has none of MA-Net's layers (first keys: {_some(state)}); expected {EXPECTED}")
    num_classes = state["fc_1.weight"].shape[0]
    model = MANet(num_classes, labels=default_labels(num_classes), normalization=normalization or "rgb")
    load_state(model, state, path, INPUT_BUFFERS | _batch_counters(model))
    return model


def _batch_counters(module: torch.nn.Module) -> set[str]:
    """Name the BatchNorm counters, which weights from PyTorch before 0.4.1 do not have."""
    return {key for key in module.state_dict() if key.endswith("num_batches_tracked")}


def _some(keys: Any) -> str:
    shown = sorted(keys)[:3]
    return ", ".join(shown) + (", ..." if len(keys) > len(shown) else "")


def _damaged(path: Path, error: Exception) -> str:
    size = path.stat().st_size
    reason = str(error).split(". ")[0] or type(error).__name__
    return (
        f"{path} ({size:,} bytes) cannot be read: it is truncated, damaged or no checkpoint ({reason}). "
        f"Copy it again or name another; expected {EXPECTED}"
    )
