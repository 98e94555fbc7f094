"""Finds the state dict in what a checkpoint holds, whatever it is wrapped in, and puts it into a network.

Programs keep weights under a key of their own ("state_dict", "model", "net", ...), beside epochs, optimizers and
recorders, and wrappers of networks put a prefix before every name ("module.", "_orig_mod.", "model."). Which dict and
which prefix are meant is told by landmarks: names of weights that the network looked for certainly has.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.files import EXPECTED, CheckpointError, Placeholder, shown, some

INPUT_BUFFERS = {"input_channels", "input_mean", "input_std"}
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # PyTorch's, anywhere in a name
AVERAGE_COUNTER = "n_averaged"  # AveragedModel's own, beside the weights that it prefixes
CONVENTIONAL = (  # names of state dicts, the first ones preferred where a file holds several that fit
    ("state_dict", "model_state_dict", "model_state", "model_dict", "model", "net", "net_state_dict", "network")
    + ("weights", "params", "parameters", "module", "state", "backbone")
    + ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "swa_model")
)
REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
WHOLE = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
DEPTH = 4  # dicts inside dicts that are looked into: a state dict may be wrapped three times


def find_state(content: Any, landmarks: Sequence[str], path: Path) -> dict[str, Tensor] | None:
    """Find the state dict that has the landmarks, without the prefix that all its names share.

    Args:
        content: what the file holds: the state dict itself, or dicts and lists with it inside.
        landmarks: names of weights that tell this network from others.
        path: the file, for messages.

    Returns:
        The state dict; names that do not share the prefix keep theirs. None where no dict has the landmarks.

    Raises:
        CheckpointError: when several dicts have them and no name says which is meant.
    """
    fitting = []
    for outer, found in walk(content):
        states = _without_prefix(found, landmarks)
        for prefix, state in states.items():
            names = (*outer, prefix.rstrip(".")) if len(states) > 1 else outer
            ranks = [CONVENTIONAL.index(name) if name in CONVENTIONAL else len(CONVENTIONAL) for name in names]
            fitting.append((max(ranks, default=-1), len(names), ".".join(map(shown, names)), state))
    fitting.sort(key=lambda entry: entry[:2])
    if not fitting:
        return None
    equal = [name for *rank, name, _ in fitting if rank == list(fitting[0][:2])]
    if len(equal) > 1:
        raise CheckpointError(
            f"{path} holds {len(equal)} state dicts that fit ({some(equal)}): save the one that is meant alone"
        )
    return fitting[0][-1]


def walk(content: Any) -> Iterator[tuple[tuple[Any, ...], dict[Any, Any]]]:
    """Yield the dicts in a checkpoint, each once, with the keys on the way to it; the outermost first."""
    level, seen = [((), content)], set()
    for _ in range(DEPTH):
        inner = []
        for names, value in level:
            if isinstance(value, Placeholder):  # a dict of a class of its own
                value = value.entries
            if isinstance(value, list | tuple):
                value = dict(enumerate(value))
            if not isinstance(value, dict) or id(value) in seen:
                continue
            seen.add(id(value))
            yield names, value
            kinds = (dict, list, tuple, Placeholder)
            inner += [((*names, key), item) for key, item in value.items() if isinstance(item, kinds)]
        level = inner


def _without_prefix(found: dict[Any, Any], landmarks: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Return, by prefix, the tensors of a dict without the prefix that its landmarks have; none where it lacks one.

    There are several where it holds several networks, such as a student and a teacher.
    """
    state = unwrap({key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)})
    prefixes = [key.removesuffix(landmarks[0]) for key in state if key.endswith(landmarks[0])]
    complete = [prefix for prefix in prefixes if all(prefix + landmark in state for landmark in landmarks)]
    complete = [prefix for prefix in complete if prefix == "" or prefix.endswith(".")]
    outermost = [one for one in complete if not any(one != other and one.startswith(other) for other in complete)]
    # with a prefix, names without it are of other modules, such as a weighted loss
    return {
        prefix: {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for prefix in outermost
    }


def unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the names that PyTorch's wrappers add, wherever they are, and what they count."""
    if any(key.startswith("module.") for key in state):
        state = {key: value for key, value in state.items() if key != AVERAGE_COUNTER}
    names = list(state)
    for wrapper in WRAPPERS:
        names = [name.replace(wrapper, "") for name in names]
    while names and all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    return dict(zip(names, state.values(), strict=True)) if len(set(names)) == len(names) else state


def describe(content: Any) -> str:
    """Say in one line what a checkpoint holds: its keys and what is under each."""
    if not isinstance(content, dict) or not content:
        return f"it holds {'nothing' if content in ({}, [], ()) else f'a {type(content).__name__}'}"
    parts = []
    for key, value in list(content.items())[:6]:
        what = type(value).__name__
        if isinstance(value, Tensor):
            what = f"tensor {tuple(value.shape)}"
        elif isinstance(value, dict):
            what = f"dict of {len(value)}: {some(value)}" if value else "empty dict"
        elif isinstance(value, Placeholder):
            what = f"pickled object of class {shown(value.origin)}"
        parts.append(f"{shown(key)} ({what})")
    more = f", and {len(content) - len(parts)} more" if len(content) > len(parts) else ""
    return f"it holds {', '.join(parts)}{more}"


def nothing_fits(content: dict[Any, Any], path: Path, wanted: str) -> CheckpointError:
    """Return the error of a file in which no state dict fits; it names what there is."""
    for key, value in content.items():
        if isinstance(value, Placeholder) and value.is_network:
            return CheckpointError(f"{path} holds under {shown(key)!r} {value.described}")
    return CheckpointError(f"{path} holds no {wanted}: {describe(content)}; expected {EXPECTED}")


def load_state(
    model: torch.nn.Module, state: dict[str, Tensor], path: Path, may_be_missing: Collection[str] = ()
) -> None:
    """Load a state dict; only the keys `may_be_missing` may be missing, none may be unexpected, shapes must agree.

    Any real floating type becomes the network's own, in any layout of memory.

    Raises:
        CheckpointError: for other keys or shapes, for values that are not the numbers a network has (integers,
            complex, sparse or quantised tensors, tensors without data, NaN, infinity), and for negative variances.
    """
    own = model.state_dict()
    shared = [key for key in own if isinstance(state.get(key), Tensor)]
    fitting = [key for key in shared if state[key].shape == own[key].shape]
    wrong = {
        "missing": own.keys() - {*shared, *may_be_missing},
        "unexpected": state.keys() - own.keys(),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in shared
            if state[key].shape != own[key].shape
        ],
        "of another type": [
            f"{key} ({kind})" for key in fitting if (kind := _unusable(state[key], own[key])) is not None
        ],
    }
    if not any(wrong.values()):
        wrong = {
            "with values that are not finite": [key for key in fitting if not _is_finite(state[key], own[key])],
            "that are negative, as no variance is": [
                key for key in fitting if key.endswith("running_var") and bool((state[key].float() < 0).any())
            ],
            "that are no order or scale of colours": [
                key for key in fitting if key in INPUT_BUFFERS and not _is_normalization(key, state[key])
            ],
        }
    if any(wrong.values()):
        listing = "; ".join(f"{len(keys)} {what}: {some(keys)}" for what, keys in wrong.items() if keys)
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: {listing}")
    with torch.no_grad():
        for key in fitting:
            own[key].copy_(state[key])


def _unusable(value: Tensor, own: Tensor) -> str | None:
    """Say why a tensor cannot stand for one of the network's; None where it can."""
    if value.is_meta:
        return "without data"
    if value.layout != torch.strided:
        return str(value.layout).removeprefix("torch.")
    kinds = REAL if own.is_floating_point() else REAL | WHOLE
    if value.dtype in kinds:
        return None
    return str(value.dtype).removeprefix("torch.") + (
        ": quantised weights are not read" if value.dtype in WHOLE else ""
    )


def _is_finite(value: Tensor, own: Tensor) -> bool:
    """Tell whether all values are numbers, also in the network's type; counters may have been averaged."""
    value = value.to(own.dtype) if own.is_floating_point() else value.double()
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())  # the sum is faster, and overflows seldom


def _is_normalization(key: str, value: Tensor) -> bool:
    if key == "input_channels":
        return sorted(value.tolist()) == [0, 1, 2]
    return key == "input_mean" or bool((value > 0).all())
