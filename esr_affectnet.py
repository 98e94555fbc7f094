"""ESR on AffectNet with the feature-diversity loss: grow an ensemble branch by branch.

Papers: Siqueira, Magg, Wermter, "Efficient Facial Feature Learning with Wide Ensemble-based Convolutional Neural
Networks", AAAI 2020; Heidari and Iosifidis, "Learning diversified feature representations for facial expression
recognition in the wild", arXiv 2210.09381.
Data: AffectNet, preprocessed at 96 pixels, in `base_path_to_dataset` (README, "Preparing the data").
Start weights: none; `path_to_pretrained_network` goes on from another ESR.
Run:  python esr_affectnet.py                 train with the variables below; run again to continue
      python esr_affectnet.py --demo          the same on drawn faces, about a minute on two CPU cores
      python esr_affectnet.py --help          every variable as a flag
Writes checkpoint/esr_affectnet/<name_experiment>/: best.pt, last.pt, history.csv, metrics.json, curves.png,
confusion_matrix.png; with affect, affect_metrics.json.
Accuracy on Validation, 8 classes: 59.3 for ESR-9, 60.02 diversified, in the papers. Measured here: needs the licensed
data set.
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

from models import load_pretrained
from models.console import one_line_errors
from models.diversity import DiversityLoss
from models.esr import ESR, ESROutput
from utils.uaffect import AFFECT_STAGE, report_affect
from utils.ucheckpoint import Run
from utils.udata import AffectNet, at_most_per_label, stratified_holdout
from utils.udemosets import write_affectnet
from utils.uhardware import choose_hardware
from utils.uoptions import check_options
from utils.upipeline import make_loader
from utils.ureport import report
from utils.utrain import train_stage


@dataclass
class Experiment:
    """The experiment variables: edit them here, or set them as flags (--seed 2)."""

    # Data
    base_path_to_dataset: Path = Path("data/AffectNet")  # folder with Training_Labeled/ and Validation/
    num_classes: Literal[7, 8] = 8  # 7 leaves Contempt out
    max_images_per_label: int = 5000  # faces of each class, drawn anew for every branch
    select_on: Literal["holdout", "test"] = "holdout"  # a tenth of training; "test" is the papers' optimistic protocol
    image_size: int = 96  # pixels, height and width that the network sees
    cache: Literal["auto", "device", "memory", "none"] = "auto"  # where decoded pictures are kept
    cache_gib: float = 4.0  # GiB of decoded pictures that "auto" keeps; more are decoded anew at every access
    augmentation: float = 1.0  # strength; 1 is the published one, short runs from scratch learn sooner with less
    # Output
    base_path_experiment: Path = Path("checkpoint/esr_affectnet")  # where experiments are kept
    name_experiment: str = "esr9_diversified"  # folder of this experiment
    resume: bool = True  # continue an unfinished experiment; off, an existing one is refused
    # Network
    path_to_pretrained_network: Path | None = None  # a trained ESR to go on from; None grows one from scratch
    num_branches_trained_network: int = 9  # branches in the end
    affect: bool = False  # after the emotions, train a valence and arousal head on every branch, and nothing else
    # Schedule: SGD, momentum 0.9
    max_training_epoch: int = 50  # epochs of the first branch
    max_finetune_epoch: int = 20  # epochs of each further branch, together with all before it
    lr_new: float = 0.1  # newest branch, and the base beside the first one
    lr_trained: float = 0.01  # everything trained before
    max_affect_epoch: int = 10  # epochs of the valence and arousal heads
    lr_affect: float = 0.1  # of the valence and arousal heads
    lr_decay: float = 0.5  # factor on all rates every 10 epochs
    batch_size: int = 32  # faces per step
    validation_interval: int = 1  # epochs between validations
    # Diversity
    diversity: Literal["det", "logdet", "direct", "none"] = "det"  # measure of how alike the branches are
    diversity_gamma: float | Literal["median"] = "median"  # kernel width; the published 10 has no gradient (README)
    diversity_normalize: bool = False  # scale features to unit length first
    diversity_weight: float = 1.0  # of the spatial and the channel term beside the cross-entropies
    # Computation
    seed: int = 0  # of initial weights, order and augmentation
    device: str = "auto"  # "auto" takes a GPU where there is one; or "cpu", "cuda:1", ...
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # "auto" takes bfloat16 where the device has it
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; "auto" where it pays for itself in this run
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"  # of pictures and weights
    demo: bool = False  # train on drawn faces, with a short schedule


def demo_of(experiment: Experiment) -> Experiment:
    """Return the same experiment on drawn faces, small enough for two CPU cores."""
    faces = write_affectnet(Path("data/drawn/affectnet"), images_per_class=40)
    return replace(
        experiment, base_path_to_dataset=faces, name_experiment="demo", augmentation=0.1, image_size=64,
        num_branches_trained_network=2, max_training_epoch=6, max_finetune_epoch=3, batch_size=8, lr_new=0.01,
        lr_trained=0.005,
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
        make_loader, image_size=experiment.image_size, hardware=hardware, cache=experiment.cache,
        cache_gib=experiment.cache_gib,
    )  # fmt: skip
    faces = AffectNet(experiment.base_path_to_dataset, "train", experiment.num_classes)
    validation_faces = AffectNet(experiment.base_path_to_dataset, "validation", experiment.num_classes)
    reported = load(validation_faces)
    if experiment.select_on == "holdout":
        kept, held_out = stratified_holdout(faces.labels, 0.1, experiment.seed)
        held_out = faces.subset(held_out, "AffectNet holdout")
        selection = held_out.subset(at_most_per_label(held_out.labels, 500, experiment.seed))  # as Validation has
        faces, validation = faces.subset(kept), load(selection)
        selected_on = "up to 500 faces per class of a held-out tenth of train"
    else:
        selection, validation, selected_on = validation_faces, reported, "Validation itself"
    strength = experiment.augmentation
    augment = K.AugmentationSequential(
        K.ColorJitter(brightness=0.5 * strength, contrast=0.5 * strength),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomAffine(30 * strength, (0.1 * strength, 0.1 * strength), (1.0, 1.0 + 0.25 * strength), p=1.0),
    )

    # Model
    if experiment.path_to_pretrained_network is None:
        print("no path_to_pretrained_network: the ensemble grows from scratch")
        model, trained_branches = ESR(1, labels=faces.class_names, image_size=experiment.image_size), []
    else:
        model = load_pretrained(experiment.path_to_pretrained_network, faces.class_names, ESR, experiment.image_size)
        trained_branches = model.keep_branches(1)  # the others return one by one
    model.to(hardware.device)

    # Objective: the cross-entropies of all branches, and how alike their attention is in space and over channels
    diversity = {
        name: DiversityLoss(experiment.diversity, experiment.diversity_gamma, experiment.diversity_normalize)
        for name in ("spatial", "channel")
    }

    def objective(outputs: ESROutput, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            "cross_entropy": sum(F.cross_entropy(logits, targets) for logits in outputs.logits),
            "spatial": experiment.diversity_weight * diversity["spatial"](outputs.spatial_attention),
            "channel": experiment.diversity_weight * diversity["channel"](outputs.channel_attention),
        }

    # Stages: one per branch, each with an optimizer of its own
    train = partial(
        train_stage, run, validation_interval=experiment.validation_interval, model=model, augment=augment,
        hardware=hardware,
    )  # fmt: skip
    for branches in range(1, experiment.num_branches_trained_network + 1):
        if branches > 1:
            model.add_branch(trained_branches.pop(0) if trained_branches else None)
        if run.is_past(branches):
            continue
        drawn = at_most_per_label(faces.labels, experiment.max_images_per_label, experiment.seed + branches)
        rates = [experiment.lr_trained] * (branches - 1) + [experiment.lr_new]
        optimizer = torch.optim.SGD(
            model.parameter_groups(rates[0], rates), momentum=0.9, fused=hardware.fused_optimizer
        )
        train(
            branches, num_epochs=experiment.max_training_epoch if branches == 1 else experiment.max_finetune_epoch,
            optimizer=optimizer, scheduler=StepLR(optimizer, step_size=10, gamma=experiment.lr_decay),
            train=load(faces.subset(drawn), batch_size=experiment.batch_size, shuffle=True), validation=validation,
            objective=objective, diversity=diversity,
        )  # fmt: skip

    # Valence and arousal: the heads alone, by the root mean squared error of both
    if experiment.affect:
        optimizer = torch.optim.SGD(
            model.only_affect_heads(), experiment.lr_affect, momentum=0.9, fused=hardware.fused_optimizer
        )
        drawn = at_most_per_label(faces.labels, experiment.max_images_per_label, experiment.seed)
        train(
            experiment.num_branches_trained_network + 1, num_epochs=experiment.max_affect_epoch, optimizer=optimizer,
            scheduler=StepLR(optimizer, step_size=10, gamma=experiment.lr_decay),
            train=load(faces.subset(drawn).with_affect(), batch_size=experiment.batch_size, shuffle=True),
            validation=load(selection.with_affect()), **AFFECT_STAGE,
        )  # fmt: skip
        report_affect(run, load(validation_faces.with_affect()), hardware)
    report(run, reported, selected_on=selected_on, seed=experiment.seed, hardware=hardware)


if __name__ == "__main__":
    with one_line_errors("interrupted; the same command continues after the last whole epoch"):
        main(tyro.cli(Experiment))
