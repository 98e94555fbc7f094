"""Makes a network to hand on: chooses its branches, adds some that were trained on its base, evens out its classes.

A class that is rare in training is rarely predicted. What is subtracted from the scores of every branch, as a change of
the biases, is `prior` times the logarithm of the class's share of the training labels: at 1 classes are scored as if
all were equally frequent, at 0 they are scored as trained (Menon et al., "Long-tail learning via logit adjustment",
ICLR 2021). The temperature is fitted on Valid.
Data: FER+ in `base_path_to_dataset` (docs/data.md).
Run:  python -m results.assemble checkpoint/trained.pt small.pt --prior 0.1
      python -m results.assemble checkpoint/ferplus_small.pt large.pt --branches-of RUN/last.pt --prior 0.1
      python -m results.assemble large.pt small.pt --kept 0 1
Writes the network, its weights in half precision, with its accuracy on Valid and what it was made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from diversified_fer.console import one_line_errors
from diversified_fer.writing import write_atomically
from models import load_model
from models.esr import ESR
from models.files import read_tensors
from models.weights import describe_model, halve
from results.ideas import soft_targets
from results.maps import ESROnMaps
from utils.udata import FERPlus
from utils.uhardware import choose_hardware
from utils.umetrics import fit_temperature
from utils.upipeline import FaceLoader
from utils.utrain import predict_dataset


@dataclass
class Assembly:
    """What is put together."""

    network: Annotated[Path, tyro.conf.Positional]  # an ESR
    output: Annotated[Path, tyro.conf.Positional]  # the file to write, .pt
    kept: tuple[int, ...] = ()  # which of its branches are kept, counted from 0; all where none is named
    branches_of: tuple[Path, ...] = ()  # last.pt or best.pt of results.experiment --path-to-base <network>
    prior: float = 0.0  # share of its logarithmic frequency that a class loses in all; 0 takes back an earlier one
    label_rule: Literal["majority", "crossentropy"] = "crossentropy"  # of the labels that are counted
    base_path_to_dataset: Path = Path("data/FER_2013/Dataset")  # folder with Images/ and Labels/
    device: str = "auto"  # "auto" takes a GPU where there is one


def load_esr(path: Path) -> ESR:
    """Load an ESR.

    Raises:
        FileNotFoundError, CheckpointError: as `load_model`.
        ValueError: when it is another network.
    """
    model = load_model(path)
    if type(model) is not ESR:
        raise ValueError(f"{path} holds {model.architecture}; expected an ESR")
    return model


def check_output(output: Path, *networks: Path) -> None:
    """Raise ValueError unless a network can be written there without replacing one that it is made of."""
    if output.suffix != ".pt" or output.resolve() in [network.resolve() for network in networks]:
        raise ValueError(f"{output} cannot be written: name another file than the network's, ending in .pt")


def add_branches(model: ESR, path: Path, base: Path) -> None:
    """Append the branches of a run of `results.experiment`.

    Args:
        model: the network whose base they were trained on.
        path: the run's checkpoint.
        base: the file of `model`, which the run must have been given.

    Raises:
        ValueError: when they were trained on another base, or are built in another way.
    """
    added = load_model(path)
    trained_on = read_tensors(path).get("variables", {}).get("path_to_base")
    if not isinstance(added, ESROnMaps) or trained_on is None or Path(trained_on).name != base.name:
        raise ValueError(
            f"{path} holds {added.architecture} trained on the base of {trained_on}; expected branches of "
            f"`python -m results.experiment --path-to-base {base}`"
        )
    for name in ("attention", "affect", "labels", "image_size"):
        if added.arguments[name] != model.arguments[name]:
            raise ValueError(
                f"{path} has {name} {added.arguments[name]}, {base} has {model.arguments[name]}: these branches do "
                "not belong to this network"
            )
    for branch in added.branches:
        model.add_branch(branch)


def keep_branches(model: ESR, kept: Sequence[int]) -> None:
    """Keep these branches, in this order.

    Raises:
        ValueError: for a branch that the network does not have, and for one named twice.
    """
    number = model.num_branches
    if len(set(kept)) < len(kept) or not set(kept) <= set(range(number)):
        raise ValueError(f"kept is {list(kept)}; expected numbers from 0 to {number - 1}, each of them once")
    branches = model.keep_branches(0)
    for index in kept:
        model.add_branch(branches[index])


def subtract_prior(model: ESR, shares: torch.Tensor, strengths: Sequence[float]) -> None:
    """Subtract from the scores of every branch its own strength times the logarithm of every class's share (K,).

    Raises:
        ValueError: for a class without a face, whose logarithm is infinite.
    """
    if not (shares > 0).all():
        missing = [label for label, share in zip(model.labels, shares, strict=True) if share <= 0]
        raise ValueError(
            f"no training face is labelled {', '.join(missing)}: nothing is known of such a class, set prior to 0"
        )
    with torch.no_grad():
        for branch, strength in zip(model.branches, strengths, strict=True):
            branch.fc.bias -= strength * shares.log().to(branch.fc.bias)


def main(assembly: Assembly) -> None:
    """Put the network together and write it."""
    check_output(assembly.output, assembly.network)
    model = load_esr(assembly.network)
    variables = read_tensors(assembly.network).get("variables", {})
    subtracted = variables.get("assembled", {}).get("prior", 0.0)  # from the branches that are there already
    if assembly.kept:
        keep_branches(model, assembly.kept)
    strengths = [assembly.prior - subtracted] * model.num_branches
    for path in assembly.branches_of:
        add_branches(model, path, assembly.network)
    strengths += [assembly.prior] * (model.num_branches - len(strengths))
    if any(strengths):
        labels = torch.from_numpy(FERPlus(assembly.base_path_to_dataset, "train", assembly.label_rule).labels)
        shares = soft_targets(labels, len(model.labels)).mean(dim=0)
        subtract_prior(model, shares, strengths)
    hardware = choose_hardware(assembly.device, precision="float32", compile="off", alone=True)
    model.to(hardware.device, memory_format=hardware.memory_format)
    faces = FaceLoader(FERPlus(assembly.base_path_to_dataset, "valid"), model.image_size, hardware=hardware)
    branch_logits, targets, _ = predict_dataset(model, faces, hardware)
    probabilities = model.combine(branch_logits)
    model.temperature = fit_temperature(probabilities, targets)
    accuracy = (probabilities.argmax(dim=1) == targets).double().mean().item()
    made_of = {"network": assembly.network.name, "prior": assembly.prior, "label_rule": assembly.label_rule}
    made_of["kept"] = list(assembly.kept)
    made_of["branches_of"] = [path.parent.name for path in assembly.branches_of]
    content = describe_model(model) | {
        "variables": variables | {"assembled": made_of},
        "measured": {"validation_accuracy": accuracy},
    }
    write_atomically(assembly.output, lambda path: torch.save(halve(content), path))
    size = assembly.output.stat().st_size / 1e6
    print(
        f"{assembly.output}: {model.num_branches} branches, {size:.1f} MB, {accuracy:.2%} accuracy on Valid, "
        f"temperature {model.temperature:.4g}"
    )


if __name__ == "__main__":
    with one_line_errors("interrupted; nothing was written"):
        main(tyro.cli(Assembly))
