"""ESR on FER+ with the feature-diversity loss: fine-tune a trained ensemble, or grow one branch by branch.

Papers: Siqueira, Magg, Wermter, "Efficient Facial Feature Learning with Wide Ensemble-based Convolutional Neural
Networks", AAAI 2020; Heidari and Iosifidis, "Learning diversified feature representations for facial expression
recognition in the wild", arXiv 2210.09381; label rules: Barsoum et al., ICMI 2016.
Data: FER+ in `base_path_to_dataset` (docs/data.md).
Start weights: an ESR trained on AffectNet in `path_to_pretrained_network`, or None to grow from scratch.
Run:  python esr_ferplus.py                 train with the variables below; run again to continue
      python esr_ferplus.py --demo          the same on synthetic faces, one to two minutes on two CPU cores
      python esr_ferplus.py --help          every variable as a flag
Writes checkpoint/esr_ferplus/<name_experiment>/: best.pt, last.pt, history.csv, metrics.json, variables.json,
curves.png, confusion_matrix.png.
Accuracy in the paper: 89.15 (9 branches) and 89.34 (15), from AffectNet weights. Measured here: see the README.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import kornia.augmentation as K
import torch
import torch.nn.functional as F
import tyro
from torch.optim.lr_scheduler import StepLR

from diversified_fer.console import one_line_errors
from models import load_pretrained
from models.diversity import DiversityLoss
from models.esr import ESR, ESROutput
from utils.synthetic.datasets import write_fer_plus
from utils.ucheckpoint import MayChange, Run
from utils.udata import FERPlus, at_most
from utils.uhardware import choose_hardware
from utils.umetrics import multi_target_cross_entropy
from utils.uoptions import check_options
from utils.upipeline import FaceLoader
from utils.ureport import report
from utils.utrain import AveragedWeights, Stage, accuracy, one_cycle, validate


@dataclass
class Experiment:
    """The variables: edit them here, or set them as flags (--seed 2). A continued run may change `MayChange` ones."""

    # Data
    base_path_to_dataset: MayChange[Path] = Path("data/FER_2013/Dataset")  # folder with Images/ and Labels/
    label_rule: Literal["majority", "probability", "crossentropy", "multi_target"] = "majority"  # ten votes -> label
    max_training_images: int | None = None  # a random part of the training faces; None for all
    image_size: int = 96  # pixels, height and width that the network sees
    cache: MayChange[Literal["auto", "device", "memory", "disk", "none"]] = "auto"  # where decoded pictures are kept
    cache_gib: MayChange[float] = 4.0  # GiB of decoded pictures that "auto" keeps; more are decoded at every access
    base_path_to_cache: MayChange[Path | None] = Path("data/cache")  # decoded pictures for the next start, or None
    augmentation: float = 1.0  # strength; 1 is the published one, short runs from scratch learn sooner with less
    zoom: tuple[float, float] = (1.0, 1.25)  # range of the random scale; below 1 borders stay
    # Output
    base_path_experiment: MayChange[Path] = Path("checkpoint/esr_ferplus")  # where experiments are kept
    name_experiment: MayChange[str] = "esr9_diversified"  # folder of this experiment
    resume: MayChange[bool] = True  # continue an unfinished experiment; off, an existing one is refused
    # Network
    path_to_pretrained_network: Path | None = None  # a trained ESR to fine-tune; None grows one from scratch
    num_branches_trained_network: MayChange[int] = 9  # branches in the end
    grow: bool = True  # one branch after the other; off, all from the start in one stage of max_training_epoch
    # Schedule: SGD, momentum 0.9
    max_training_epoch: MayChange[int] = 100  # epochs of the first branch
    max_finetune_epoch: MayChange[int] = 60  # epochs of each further branch, together with all before it
    lr_new: float = 0.1  # newest branch, and the base together with the first one
    lr_trained: float = 0.02  # the branches of earlier stages
    schedule: Literal["step", "one_cycle"] = "step"  # "one_cycle" rises to the rates above and falls to nothing
    lr_decay: float = 0.75  # factor on all rates every 10 epochs under "step"
    weight_decay: float = 0.0  # of all weights
    nesterov: bool = False  # momentum as Nesterov's
    weight_averaging: float = 0.0  # decay per step of an average of the weights, which is then kept; 0 for none
    batch_size: int = 32  # faces per step
    validation_interval: int = 1  # epochs between validations
    # Diversity
    diversity: Literal["det", "logdet", "direct", "none"] = "det"  # measure of how alike the branches are
    diversity_gamma: float | Literal["median"] = "median"  # kernel width; published: 10, see docs/training.md
    diversity_normalize: bool = False  # scale features to unit length first
    diversity_weight: float = 1.0  # of the spatial and the channel term next to the cross-entropies
    # Computation
    seed: int = 0  # of initial weights, order and augmentation
    device: MayChange[str] = "auto"  # "auto" takes a GPU where there is one; or "cpu", "cuda:1", ...
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # "auto" takes bfloat16 where the device has it
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; "auto" where it pays for itself in this run
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"  # of pictures and weights
    demo: bool = False  # train on synthetic faces, with a short schedule


def demo_of(experiment: Experiment) -> Experiment:
    """Return the same experiment on synthetic faces, small enough for two CPU cores."""
    faces = write_fer_plus(Path("data/synthetic/ferplus"), images_per_class=40)
    return replace(
        experiment, base_path_to_dataset=faces, name_experiment="demo", image_size=64, augmentation=0.1,
        zoom=(1.0, 1.025),
        num_branches_trained_network=2, max_training_epoch=3, max_finetune_epoch=2, schedule="one_cycle", batch_size=8,
        lr_new=0.01, lr_trained=0.005,
    )  # fmt: skip


def main(experiment: Experiment) -> None:
    """Train, and report the best checkpoint."""
    if experiment.demo:
        experiment = demo_of(experiment)
    check_options(experiment, ESR)
    hardware = choose_hardware(experiment.device, experiment.precision, experiment.compile, experiment.memory_format)
    directory = experiment.base_path_experiment / experiment.name_experiment
    run = Run(directory, experiment, experiment.resume, hardware.is_main)
    torch.manual_seed(experiment.seed)

    # Data
    load = partial(
        FaceLoader, image_size=experiment.image_size, hardware=hardware, cache=experiment.cache,
        cache_gib=experiment.cache_gib, cache_folder=experiment.base_path_to_cache,
    )  # fmt: skip
    read = partial(FERPlus, experiment.base_path_to_dataset, label_rule=experiment.label_rule)
    faces = at_most(read("train"), experiment.max_training_images, experiment.seed)
    train = load(faces, batch_size=experiment.batch_size, shuffle=True)
    validation = load(read("valid"))
    if FERPlus.has_split(experiment.base_path_to_dataset, "test"):
        test = load(read("test"))
    else:
        print(f"no Test split in {experiment.base_path_to_dataset}: the result will be that of Valid, also selected on")
        test = validation
    strength = experiment.augmentation
    augment = K.AugmentationSequential(
        K.ColorJitter(brightness=0.5 * strength, contrast=0.5 * strength),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomAffine(30 * strength, (0.1 * strength, 0.1 * strength), experiment.zoom, p=1.0),
    )

    # Model
    if experiment.path_to_pretrained_network is None:
        print("no path_to_pretrained_network: the ensemble grows from scratch")
        model, trained_branches = ESR(1, labels=faces.class_names, image_size=experiment.image_size), []
    else:
        model = load_pretrained(experiment.path_to_pretrained_network, faces.class_names, ESR, experiment.image_size)
        trained_branches = model.keep_branches(1)  # the others return one by one

    # Objective: the cross-entropies of all branches, and how alike their attention is in space and over channels
    cross_entropy = multi_target_cross_entropy if experiment.label_rule == "multi_target" else F.cross_entropy
    diversity = {
        name: DiversityLoss(experiment.diversity, experiment.diversity_gamma, experiment.diversity_normalize)
        for name in ("spatial", "channel")
    }

    def objective(outputs: ESROutput, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "cross_entropy": sum(cross_entropy(logits, targets) for logits in outputs.logits),
            "spatial": experiment.diversity_weight * diversity["spatial"](outputs.spatial_attention),
            "channel": experiment.diversity_weight * diversity["channel"](outputs.channel_attention),
        }

    # Stages: one per branch, each with an optimizer of its own
    stages = range(1, experiment.num_branches_trained_network + 1)
    for branches in stages if experiment.grow else stages[-1:]:
        while len(model.branches) < branches:
            model.add_branch(trained_branches.pop(0) if trained_branches else None)
        if run.is_past(branches):
            continue
        model.to(hardware.device, memory_format=hardware.memory_format)
        first = branches == 1 or not experiment.grow
        num_epochs = experiment.max_training_epoch if first else experiment.max_finetune_epoch
        rates = [experiment.lr_new if first else experiment.lr_trained] * (branches - 1) + [experiment.lr_new]
        optimizer = torch.optim.SGD(
            model.parameter_groups(rates[0], rates), momentum=0.9, nesterov=experiment.nesterov,
            weight_decay=experiment.weight_decay, fused=hardware.fused_optimizer,
        )  # fmt: skip
        if experiment.schedule == "step":
            scheduler = StepLR(optimizer, step_size=10 * len(train), gamma=experiment.lr_decay)
        else:
            scheduler = one_cycle(optimizer, num_epochs * len(train))
        average = AveragedWeights(model, experiment.weight_averaging)
        stage = Stage(run, branches, model, optimizer, scheduler, hardware, average)
        step_model = hardware.prepare(model, steps=num_epochs * len(train))
        for epoch in stage.epochs(num_epochs):
            model.train()
            for batch in epoch.batches(train):
                outputs = hardware.forward(step_model, augment(batch.images), batch)
                terms = objective(outputs, batch.targets)
                loss = sum(terms.values())
                optimizer.zero_grad(set_to_none=True)
                hardware.backward(loss)
                optimizer.step()
                scheduler.step()
                average.update()
                epoch.record(batch, loss, terms, diversity, accuracy=accuracy(model, outputs, batch.targets))
            if epoch.number % experiment.validation_interval == 0 or epoch.is_last:
                network = average.network(train, augment, hardware)
                epoch.keep_if_best(network, validate(network, validation, hardware), by="validation_accuracy")
    report(run, test, validation, hardware, experiment.seed)


if __name__ == "__main__":
    with one_line_errors("interrupted; the same command continues after the last whole epoch"):
        main(tyro.cli(Experiment))
