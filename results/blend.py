"""Blends an ESR with what it became when it was trained further: the mean of their weights, where they have both.

A mean of the weights before and after fine-tuning can be better than those after it (Wortsman et al., "Robust
fine-tuning of zero-shot models", arXiv 2109.01903). BatchNorm's statistics are those of other weights, and are measured
anew. Branches that the first network lacks are left out.
Data: FER+ in `base_path_to_dataset` (docs/data.md), its training faces.
Run:  python -m results.blend checkpoint/ferplus_small.pt RUN/last.pt blended.pt --share 0.5
      python -m results.assemble blended.pt checkpoint/ferplus.pt --prior 0.1
Writes the network, and what it was blended of.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import nn

from diversified_fer.console import one_line_errors
from diversified_fer.writing import write_atomically
from models.esr import ESR
from models.files import read_tensors
from models.weights import describe_model
from results.assemble import check_output, load_esr
from utils.udata import FERPlus
from utils.uhardware import choose_hardware
from utils.upipeline import FaceLoader
from utils.utrain import AveragedWeights


@dataclass
class Blend:
    """What is blended."""

    first: Annotated[Path, tyro.conf.Positional]  # an ESR
    second: Annotated[Path, tyro.conf.Positional]  # what it became
    output: Annotated[Path, tyro.conf.Positional]  # the file to write, .pt
    share: float = 0.5  # of the second, from 0 to 1
    base_path_to_dataset: Path = Path("data/FER_2013/Dataset")  # folder with Images/ and Labels/
    seed: int = 0  # of the training faces that statistics are measured on
    device: str = "auto"  # "auto" takes a GPU where there is one


@torch.no_grad()
def blend(first: ESR, second: ESR, share: float) -> None:
    """Move the weights of `second` to `share` of themselves and 1 - share of `first`; only common branches stay.

    Raises:
        ValueError: when they are no networks of one kind, or `second` has fewer branches.
    """
    if second.num_branches < first.num_branches:
        raise ValueError(f"the first network has {first.num_branches} branches, the second {second.num_branches}")
    second.keep_branches(first.num_branches)
    differing = sorted(key for key in first.arguments if first.arguments[key] != second.arguments.get(key))
    if differing:
        raise ValueError(f"the two networks differ in {', '.join(differing)}: they cannot be blended")
    for weight, before in zip(second.parameters(), first.parameters(), strict=True):
        weight.copy_(torch.lerp(before, weight, share))


def main(options: Blend) -> None:
    """Blend and write."""
    if not 0 <= options.share <= 1:
        raise ValueError(f"share is {options.share}; expected a number from 0 to 1")
    check_output(options.output, options.first, options.second)
    first, second = load_esr(options.first), load_esr(options.second)
    blend(first, second, options.share)
    hardware = choose_hardware(options.device, precision="float32", compile="off", alone=True)
    second.to(hardware.device, memory_format=hardware.memory_format)
    torch.manual_seed(options.seed)
    faces = FERPlus(options.base_path_to_dataset, "train", "crossentropy")
    loader = FaceLoader(faces, second.image_size, batch_size=64, shuffle=True, hardware=hardware)
    blended = AveragedWeights(second.train(), 0.5)
    blended.update()
    network = blended.network(loader, nn.Identity(), hardware)
    made_of = {"first": options.first.name, "second": options.second.parent.name, "share": options.share}
    content = describe_model(network) | {
        "variables": read_tensors(options.second).get("variables", {}) | {"blended": made_of}
    }
    write_atomically(options.output, lambda path: torch.save(content, path))
    print(f"{options.output}: {network.num_branches} branches, {options.share:g} of {options.second}")


if __name__ == "__main__":
    with one_line_errors("interrupted; nothing was written"):
        main(tyro.cli(Blend))
