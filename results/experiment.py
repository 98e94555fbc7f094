"""ESR on FER+ with whatever the study compares: all branches from the start, in one stage, on soft labels.

The recipe is that of checkpoint/ferplus_small.md, with three branches and fewer epochs. Nothing is chosen on Valid: the
study scores the network of the last epoch. Papers: see esr_ferplus.py, and results/ideas.py for the ideas.
Data: FER+ in `base_path_to_dataset` (docs/data.md).
Start weights: none, or an ESR in `path_to_pretrained_network`; branches that it lacks are new.
Run:  python -m results.experiment                        train with the variables below; run again to continue
      python -m results.experiment --negative-correlation 0.5 --name-experiment ncl
      python -m results.study                             all runs of the study, see there
Writes checkpoint/study/<name_experiment>/: best.pt, last.pt, history.csv, metrics.json, variables.json, curves.png,
confusion_matrix.png, predictions.npz (of the last epoch's network on Valid).
Accuracy on Valid: results/README.md.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import kornia.augmentation as K
import torch
import tyro

from diversified_fer.console import one_line_errors
from models import load_pretrained
from models.diversity import DiversityLoss
from models.esr import ESR, ESROutput
from results.ideas import (
    bagging_weights,
    balanced_weights,
    cross_entropies,
    distillation,
    drop_channels,
    ensemble_cross_entropy,
    erase_square,
    look_through,
    mix_faces,
    negative_correlation,
    soft_targets,
    wrong_probabilities,
)
from results.maps import ESROnMaps, MapLoader, load_base
from results.predictions import predict, write_predictions
from utils.ucheckpoint import MayChange, Run
from utils.udata import FERPlus, at_most
from utils.uhardware import choose_hardware
from utils.uoptions import check_options
from utils.upipeline import FaceLoader
from utils.ureport import report
from utils.utrain import AveragedWeights, Stage, accuracy, one_cycle, validate


@dataclass
class Experiment:
    """The variables: edit them here, or set them as flags (--seed 2). A continued run may change `MayChange` ones."""

    # Data
    base_path_to_dataset: MayChange[Path] = Path("data/FER_2013/Dataset")  # folder with Images/ and Labels/
    label_rule: Literal["majority", "crossentropy"] = "crossentropy"  # ten votes -> label; the latter are soft
    max_training_images: int | None = None  # a random part of the training faces; None for all
    faces_seed: int = 0  # of that part, and of the views of a base that is kept
    image_size: int = 64  # pixels, height and width that the network sees; the pictures have 48
    cache: MayChange[Literal["auto", "device", "memory", "disk", "none"]] = "auto"  # where decoded pictures are kept
    cache_gib: MayChange[float] = 4.0  # GiB of decoded pictures that "auto" keeps; more are decoded at every access
    base_path_to_cache: MayChange[Path | None] = Path("data/cache")  # decoded pictures for the next start, or None
    augmentation: float = 0.67  # strength; 1 is the published one
    zoom: tuple[float, float] = (0.85, 1.05)  # range of the random scale; below 1 borders stay
    random_erasing: float = 0.0  # share of the faces that a random rectangle is cut out of
    mixup: float = 0.0  # alpha of the Beta distribution that faces are blended by; 0 for none
    class_balance: float = 0.0  # power of a class's frequency that its loss is divided by; 0 for none, 1 in full
    # Output
    base_path_experiment: MayChange[Path] = Path("checkpoint/study")  # where experiments are kept
    name_experiment: MayChange[str] = "attention"  # folder of this experiment
    resume: MayChange[bool] = True  # continue an unfinished experiment; off, an existing one is refused
    # Network
    num_branches_trained_network: int = 3  # branches
    attention: bool = True  # a CBAM after every block
    path_to_pretrained_network: Path | None = None  # a trained ESR to train further, with its attention
    path_to_base: Path | None = None  # network whose trained base is kept as it is; None trains the base too
    base_views: int = 6  # augmented views of each face that a kept base's maps are stored of
    # Schedule: SGD with Nesterov's momentum 0.9, the rate rises once and falls to nothing
    max_training_epoch: int = 12  # epochs
    lr: float = 0.08  # highest rate of all weights
    weight_decay: float = 5e-4  # of all weights
    weight_averaging: float = 0.999  # decay per step of an average of the weights, which is then kept; 0 for none
    batch_size: int = 64  # faces per step
    validation_interval: int = 1  # epochs between validations
    # Diversity
    diversity: Literal["det", "logdet", "direct", "none"] = "none"  # measure of how alike the branches are
    diversity_of: Literal["attention", "logits", "errors"] = "attention"  # what is compared; errors: the wrong classes
    diversity_gamma: float | Literal["median"] = "median"  # kernel width; published: 10, see docs/training.md
    diversity_normalize: bool = False  # scale features to unit length first
    diversity_zero_diagonal: bool = False  # of the similarity matrix, as published
    diversity_weight: float = 0.1  # of each term next to the cross-entropies
    # Other ideas, each off at 0
    negative_correlation: float = 0.0  # weight of the penalty on branches that err together
    distillation: float = 0.0  # share of the branches' losses that is against the ensemble's mean probability
    joint: float = 0.0  # share of the loss that is that of the ensemble's mean probability
    bagging: bool = False  # each branch sees resampled faces, by a weight per face
    branch_dropout: float = 0.0  # share of the shared map's channels that each branch does not see
    branch_erasing: float = 0.0  # share of the shared map's area that each branch does not see
    # Computation
    seed: int = 0  # of initial weights, order and augmentation
    device: MayChange[str] = "auto"  # "auto" takes a GPU where there is one; or "cpu", "cuda:1", ...
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # "auto" takes bfloat16 where the device has it
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; "auto" where it pays for itself in this run
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"  # of pictures and weights


def main(experiment: Experiment) -> None:
    """Train, and report the best checkpoint."""
    check_options(experiment, ESR)
    hardware = choose_hardware(experiment.device, experiment.precision, experiment.compile, experiment.memory_format)
    if hardware.processes > 1:
        raise ValueError("the study's experiments run in one process; esr_ferplus.py runs in several")
    directory = experiment.base_path_experiment / experiment.name_experiment
    run = Run(directory, experiment, experiment.resume)
    torch.manual_seed(experiment.seed)

    # Data
    load = partial(
        FaceLoader, image_size=experiment.image_size, hardware=hardware, cache=experiment.cache,
        cache_gib=experiment.cache_gib, cache_folder=experiment.base_path_to_cache,
    )  # fmt: skip
    read = partial(FERPlus, experiment.base_path_to_dataset, label_rule=experiment.label_rule)
    faces = at_most(read("train"), experiment.max_training_images, experiment.faces_seed)
    train = load(faces, batch_size=experiment.batch_size, shuffle=True)
    validation = load(read("valid"))
    strength = experiment.augmentation
    augment = K.AugmentationSequential(
        K.ColorJitter(brightness=0.5 * strength, contrast=0.5 * strength),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomAffine(30 * strength, (0.1 * strength, 0.1 * strength), experiment.zoom, p=1.0),
        K.RandomErasing(scale=(0.02, 0.25), p=experiment.random_erasing),
    )
    if experiment.path_to_base is not None:
        if experiment.path_to_pretrained_network is not None:
            raise ValueError("path_to_base keeps a base, path_to_pretrained_network trains it: set one of them to None")
        stored = partial(
            MapLoader, network=load_base(experiment.path_to_base, experiment.image_size), hardware=hardware,
            folder=experiment.base_path_to_cache or directory,
        )  # fmt: skip
        views = {"views": experiment.base_views, "augment": augment, "seed": experiment.faces_seed}
        train = stored(load(faces), batch_size=experiment.batch_size, shuffle=True, **views)
        validation, augment = stored(validation), torch.nn.Identity()

    # Model
    branches = experiment.num_branches_trained_network
    if experiment.path_to_pretrained_network is not None:
        model = load_pretrained(experiment.path_to_pretrained_network, faces.class_names, ESR, experiment.image_size)
        if model.arguments["attention"] != experiment.attention:
            raise ValueError(
                f"attention is {experiment.attention}, and {experiment.path_to_pretrained_network} was trained with "
                f"{model.arguments['attention']}: set attention to that"
            )
        model.keep_branches(branches)
        while model.num_branches < branches:
            model.add_branch()
    else:
        build = ESR if experiment.path_to_base is None else ESROnMaps
        model = build(
            branches, attention=experiment.attention, labels=faces.class_names, image_size=experiment.image_size
        )
    if experiment.branch_dropout:
        look_through(model.branches, drop_channels(experiment.branch_dropout))
    if experiment.branch_erasing:
        look_through(model.branches, erase_square(experiment.branch_erasing))
    model.to(hardware.device, memory_format=hardware.memory_format)

    # Objective: the branches' or the ensemble's cross-entropies, and how alike the branches are
    term = partial(
        DiversityLoss, experiment.diversity, experiment.diversity_gamma, experiment.diversity_normalize,
        experiment.diversity_zero_diagonal,
    )  # fmt: skip
    of_attention = experiment.diversity_of == "attention"
    diversity = {name: term() for name in (("spatial", "channel") if of_attention else (experiment.diversity_of,))}
    class_weights = balanced_weights(faces.labels, experiment.class_balance).to(hardware.device)
    face_weights = torch.ones(branches, len(faces))
    if experiment.bagging:
        face_weights = bagging_weights(branches, len(faces), experiment.seed)

    def objective(outputs: ESROutput, targets: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = outputs.logits
        own = (weights * cross_entropies(logits, targets, class_weights)).mean(dim=1).sum()
        terms = {"cross_entropy": (1 - experiment.distillation - experiment.joint) * own}
        if experiment.distillation:
            terms["distillation"] = experiment.distillation * distillation(logits).mean(dim=1).sum()
        if experiment.joint:
            of_ensemble = ensemble_cross_entropy(logits, targets, class_weights).mean()
            terms["joint"] = experiment.joint * branches * of_ensemble
        if experiment.negative_correlation:
            terms["negative_correlation"] = experiment.negative_correlation * negative_correlation(logits)
        compared = {
            "spatial": outputs.spatial_attention,
            "channel": outputs.channel_attention,
            "logits": logits,
            "errors": wrong_probabilities(logits, targets),
        }
        return terms | {name: experiment.diversity_weight * loss(compared[name]) for name, loss in diversity.items()}

    # One stage
    optimizer = torch.optim.SGD(
        model.parameters(), experiment.lr, momentum=0.9, nesterov=True, weight_decay=experiment.weight_decay,
        fused=hardware.fused_optimizer,
    )  # fmt: skip
    num_epochs = experiment.max_training_epoch
    scheduler = one_cycle(optimizer, num_epochs * len(train))
    average = AveragedWeights(model, experiment.weight_averaging)
    stage = Stage(run, 1, model, optimizer, scheduler, hardware, average)
    step_model = hardware.prepare(model, steps=num_epochs * len(train))
    for epoch in stage.epochs(num_epochs):
        model.train()
        for batch in epoch.batches(train):
            targets = soft_targets(batch.targets, len(faces.class_names))
            images, targets = mix_faces(augment(batch.images), targets, experiment.mixup)
            outputs = hardware.forward(step_model, images, batch)
            terms = objective(outputs, targets, hardware.to_device(face_weights[:, batch.indices]))
            loss = sum(terms.values())
            optimizer.zero_grad(set_to_none=True)
            hardware.backward(loss)
            optimizer.step()
            scheduler.step()
            average.update()
            epoch.record(batch, loss, terms, diversity, accuracy=accuracy(model, outputs, targets))
        if epoch.number % experiment.validation_interval == 0 or epoch.is_last:
            network = average.network(train, augment, hardware)
            epoch.keep_if_best(network, validate(network, validation, hardware), by="validation_accuracy")
    report(run, validation, validation, hardware, experiment.seed)
    last = run.read_last().to(hardware.device, memory_format=hardware.memory_format)
    write_predictions(predict(last, validation, hardware), directory / "predictions.npz")


if __name__ == "__main__":
    with one_line_errors("interrupted; the same command continues after the last whole epoch"):
        main(tyro.cli(Experiment))
