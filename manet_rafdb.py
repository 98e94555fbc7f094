"""MA-Net on RAF-DB with the feature-diversity loss between patches and between branches.

Papers: Zhao, Liu, Wang, "Learning Deep Global Multi-Scale and Local Attention Features for Facial Expression
Recognition in the Wild", IEEE TIP 2021; Heidari and Iosifidis, "Learning diversified feature representations for facial
expression recognition in the wild", arXiv 2210.09381.
Data: RAF-DB (basic emotions) in `base_path_to_dataset` (docs/data.md).
Start weights: MA-Net's MS-Celeb-1M weights in `path_to_pretrained_network`, or None to train from scratch.
Run:  python manet_rafdb.py                 train with the variables below; run again to continue
      python manet_rafdb.py --demo          the same on synthetic faces, one to two minutes on two CPU cores
      python manet_rafdb.py --help          every variable as a flag
Writes checkpoint/manet_rafdb/<name_experiment>/: best.pt, last.pt, history.csv, metrics.json, variables.json,
curves.png, confusion_matrix.png.
Accuracy on the test set: 88.40 (MA-Net) and at most 89.99 (diversified) in the papers, from MS-Celeb-1M weights.
Measured here: needs the licensed data set.
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
from models.manet import MANet, MANetOutput
from utils.synthetic.datasets import write_rafdb
from utils.ucheckpoint import MayChange, Run
from utils.udata import RAFDB, stratified_holdout
from utils.uhardware import choose_hardware
from utils.uoptions import check_options
from utils.upipeline import FaceLoader
from utils.ureport import report
from utils.utrain import Stage, accuracy, validate


@dataclass
class Experiment:
    """The variables: edit them here, or set them as flags (--seed 2). A continued run may change `MayChange` ones."""

    # Data
    base_path_to_dataset: MayChange[Path] = Path("data/RAF-DB")  # or other faces by emotion, see docs/data.md
    select_on: Literal["holdout", "test"] = "holdout"  # a tenth of training; "test" is the papers' optimistic protocol
    image_size: int = 224  # pixels, height and width that the network sees
    cache: MayChange[Literal["auto", "device", "memory", "disk", "none"]] = "auto"  # where decoded pictures are kept
    cache_gib: MayChange[float] = 4.0  # GiB of decoded pictures that "auto" keeps; more are decoded at every access
    base_path_to_cache: MayChange[Path | None] = Path("data/cache")  # decoded pictures for the next start, or None
    augmentation: float = 1.0  # strength; 1 is the published one, short runs from scratch learn sooner with less
    # Output
    base_path_experiment: MayChange[Path] = Path("checkpoint/manet_rafdb")  # where experiments are kept
    name_experiment: MayChange[str] = "manet_diversified"  # folder of this experiment
    resume: MayChange[bool] = True  # continue an unfinished experiment; off, an existing one is refused
    # Network
    path_to_pretrained_network: Path | None = None  # MA-Net's MS-Celeb-1M weights, or any MA-Net; None is from scratch
    beta: float = 0.6  # weight of the local branch in loss and prediction; the global branch has the rest
    multiscale_order: Literal["released", "reversed"] = "released"  # of the second multi-scale chain
    # Schedule: SGD, momentum 0.9
    max_training_epoch: MayChange[int] = 100  # epochs from scratch
    max_finetune_epoch: MayChange[int] = 100  # epochs from trained weights
    lr: float = 0.01  # of all weights
    weight_decay: float = 1e-4  # of all weights
    lr_decay: float = 0.1  # factor on the rate every `lr_decay_interval` epochs
    lr_decay_interval: int = 15  # epochs
    batch_size: int = 128  # faces per step
    validation_interval: int = 1  # epochs between validations
    # Diversity
    diversity: Literal["det", "logdet", "direct", "none"] = "det"  # measure of how alike patches and branches are
    diversity_gamma: float | Literal["median"] = "median"  # kernel width; published: 10, see docs/training.md
    diversity_normalize: bool = False  # scale features to unit length first
    diversity_weight: float = 0.1  # of the three terms; the published 1 fits its gamma of 10 alone (docs/training.md)
    # Computation
    seed: int = 0  # of initial weights, order and augmentation
    device: MayChange[str] = "auto"  # "auto" takes a GPU where there is one; or "cpu", "cuda:1", ...
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # "auto" takes bfloat16 where the device has it
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; "auto" where it pays for itself in this run
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"  # of pictures and weights
    demo: bool = False  # train on synthetic faces, with a short schedule


def demo_of(experiment: Experiment) -> Experiment:
    """Return the same experiment on synthetic faces, small enough for two CPU cores."""
    faces = write_rafdb(Path("data/synthetic/rafdb"), images_per_class=40)
    return replace(
        experiment, base_path_to_dataset=faces, name_experiment="demo", augmentation=0.1, image_size=80,
        batch_size=16, max_training_epoch=8, max_finetune_epoch=8, lr=0.01, lr_decay_interval=6,
        memory_format="contiguous",
    )  # fmt: skip


def main(experiment: Experiment) -> None:
    """Train, and report the best checkpoint."""
    if experiment.demo:
        experiment = demo_of(experiment)
    check_options(experiment, MANet)
    hardware = choose_hardware(experiment.device, experiment.precision, experiment.compile, experiment.memory_format)
    directory = experiment.base_path_experiment / experiment.name_experiment
    run = Run(directory, experiment, experiment.resume, hardware.is_main)
    torch.manual_seed(experiment.seed)

    # Data
    load = partial(
        FaceLoader, image_size=experiment.image_size, hardware=hardware, cache=experiment.cache,
        cache_gib=experiment.cache_gib, cache_folder=experiment.base_path_to_cache,
    )  # fmt: skip
    faces = RAFDB(experiment.base_path_to_dataset, "train")
    test = load(RAFDB(experiment.base_path_to_dataset, "test"))
    if experiment.select_on == "holdout":
        kept, held_out = stratified_holdout(faces.labels, 0.1, experiment.seed, faces.class_names)
        faces, validation = faces.subset(kept), load(faces.subset(held_out, split="holdout"))
    else:
        validation = test
    train = load(faces, batch_size=experiment.batch_size, shuffle=True)
    strength = experiment.augmentation
    augment = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomAffine(20, (32 / experiment.image_size,) * 2, p=0.2 * strength),  # rotation, crop with padding 32
        K.RandomErasing(scale=(0.02, 0.25), p=0.5 * strength),
    )

    # Model
    if experiment.path_to_pretrained_network is None:
        print("no path_to_pretrained_network: MA-Net is trained from scratch")
        num_epochs = experiment.max_training_epoch
        model = MANet(labels=faces.class_names, image_size=experiment.image_size)
    else:
        num_epochs = experiment.max_finetune_epoch
        model = load_pretrained(experiment.path_to_pretrained_network, faces.class_names, MANet, experiment.image_size)
    model.set_mixture(experiment.beta, experiment.multiscale_order)
    model.to(hardware.device, memory_format=hardware.memory_format)

    # Objective: the cross-entropies of both branches, and how alike the patches and the two branches are
    diversity = {
        name: DiversityLoss(experiment.diversity, experiment.diversity_gamma, experiment.diversity_normalize)
        for name in ("spatial", "channel", "branches")
    }

    def objective(outputs: MANetOutput, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "local": model.beta * F.cross_entropy(outputs.local_logits, targets),
            "global": (1 - model.beta) * F.cross_entropy(outputs.global_logits, targets),
            "spatial": experiment.diversity_weight * diversity["spatial"](outputs.spatial),
            "channel": experiment.diversity_weight * diversity["channel"](outputs.channel),
            "branches": experiment.diversity_weight * diversity["branches"](outputs.global_features),
        }

    # One stage
    optimizer = torch.optim.SGD(
        model.parameters(), experiment.lr, momentum=0.9, weight_decay=experiment.weight_decay,
        fused=hardware.fused_optimizer,
    )  # fmt: skip
    scheduler = StepLR(optimizer, experiment.lr_decay_interval * len(train), experiment.lr_decay)
    stage = Stage(run, 1, model, optimizer, scheduler, hardware)
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
            epoch.record(batch, loss, terms, diversity, accuracy=accuracy(model, outputs, batch.targets))
        if epoch.number % experiment.validation_interval == 0 or epoch.is_last:
            epoch.keep_if_best(model, validate(model, validation, hardware), by="validation_accuracy")
    report(run, test, validation, hardware, experiment.seed)


if __name__ == "__main__":
    with one_line_errors("interrupted; the same command continues after the last whole epoch"):
        main(tyro.cli(Experiment))
