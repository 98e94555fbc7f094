"""The mechanics of training: one epoch, one stage, one set of predictions."""

import itertools
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from models.classifier import ExpressionClassifier, resize
from models.diversity import DiversityLoss, describe_similarity
from utils.ucheckpoint import Run
from utils.uhardware import Hardware
from utils.umetrics import class_indices

Objective = Callable[[Any, Tensor], dict[str, Tensor]]
"""From a network's outputs and the labels to the named loss terms, whose sum is minimised."""

Validate = Callable[[ExpressionClassifier, DataLoader, Hardware], dict[str, float]]
"""From a network and faces to what is recorded about it, under names that begin with validation_."""

STATISTICS_FACES = 5000
"""Training faces over which BatchNorm's statistics of averaged weights are measured."""

LOOK_INTERVAL = 0.5
"""Seconds between looks at the losses, each of which waits for the device."""


def train_epoch(
    model: ExpressionClassifier,
    loader: DataLoader,
    *,
    step_model: nn.Module | None = None,
    augment: nn.Module,
    objective: Objective,
    diversity: dict[str, DiversityLoss],
    optimizer: Optimizer,
    hardware: Hardware,
    description: str,
    measure: Callable[[Any, Tensor], dict[str, Tensor]] | None = None,
    after_step: Callable[[], Any] = lambda: None,
) -> dict[str, float]:
    """Train on every batch once.

    Args:
        model: the network.
        loader: from `utils.upipeline.make_loader`.
        step_model: what `Hardware.prepare` made of the network; default the network itself.
        augment: changes pictures (N, 3, H, W), float in [0, 1].
        objective: sees the whole batch, gathered from all processes.
        diversity: the terms whose similarity is recorded.
        optimizer: of the network's weights.
        hardware: see `utils.uhardware.choose_hardware`.
        description: names the epoch in the progress bar and in errors.
        measure: what is recorded beside the loss; default the accuracy of the ensemble.
        after_step: called after every step of the optimizer.

    Returns:
        Means over the epoch: train_loss, its terms, train_accuracy (or what `measure` returns), and similarity_<term>
        for each diversity term.

    Raises:
        FloatingPointError: when a loss is not finite; names the files of the batch.
    """
    model.train()
    step_model = step_model or model
    measure = measure or (lambda outputs, targets: {"accuracy": accuracy(model, outputs, targets)})
    batches = loader.batch_sampler
    means = _Means(hardware.device)
    seen: list[Tensor] = []  # the places of every batch in the data set
    looked = time.perf_counter()
    progress = tqdm(
        total=batches.bounds[-1], desc=description, unit=" images", leave=False, mininterval=LOOK_INTERVAL,
        disable=not hardware.is_main,
    )  # fmt: skip
    with progress:
        for number, batch in enumerate(loader):
            shares = batches.shares(number)
            seen.append(batch.indices)
            images = augment(resize(hardware.place(batch.images), model.image_size))
            images = images.contiguous(memory_format=hardware.memory_format)
            targets = hardware.gather(hardware.place(batch.targets), shares)
            optimizer.zero_grad(set_to_none=True)
            with hardware.autocast(), hardware.compiled_for(full_batch=number == 0 or shares == batches.shares(0)):
                outputs = hardware.gather(step_model(images), shares)
                terms = objective(outputs, targets)
            loss = sum(terms.values())
            (loss * hardware.processes).backward()  # the processes' gradients are averaged
            optimizer.step()
            after_step()
            with torch.no_grad():
                measured = {"loss": loss, **measure(outputs, targets)}
                shown = list(measured)
                measured |= {f"loss_{name}": term for name, term in terms.items()} if len(terms) > 1 else {}
                measured |= {f"similarity_{name}": term.similarity for name, term in diversity.items()}
            means.add(measured, sum(shares))
            if time.perf_counter() - looked > LOOK_INTERVAL or number == len(batches) - 1:
                values, failed = means.look()
                if failed is not None:
                    _stop_for(failed, description, [loader.dataset.dataset.paths[i] for i in seen[failed.step]])
                progress.set_postfix({name: _say(name, values[name]) for name in shown}, refresh=False)
                looked = time.perf_counter()
            progress.update(sum(shares))
    return {name if name.startswith("similarity_") else f"train_{name}": value for name, value in values.items()}


def accuracy(model: ExpressionClassifier, outputs: Any, targets: Tensor) -> Tensor:
    """Return the share of faces whose most probable class is their label."""
    predicted = model.combine(model.branch_logits(outputs)).argmax(dim=1)
    return (predicted == class_indices(targets)).float().mean()


def _say(name: str, value: float) -> str:
    return f"{value:.1%}" if "accuracy" in name else f"{value:.3f}"


class _Failure(NamedTuple):
    """The first step of an epoch whose loss is not finite, and its values."""

    step: int
    values: dict[str, float]


class _Means:
    """Means over faces, kept on the device so that no step waits for it; `look` waits."""

    def __init__(self, device: torch.device) -> None:
        self.names: list[str] = []
        self.sums = torch.zeros((), device=device)
        self.faces = self.steps = 0
        self.first_failed = torch.full((), -1.0, device=device)
        self.failed_values = torch.zeros((), device=device)

    def add(self, measured: dict[str, Tensor], faces: int) -> None:
        """Take the means of one batch of `faces`."""
        self.names = list(measured)
        values = torch.stack([value.detach().float().to(self.sums.device) for value in measured.values()])
        new = (self.first_failed < 0) & ~values[0].isfinite()
        self.failed_values = torch.where(new, values, self.failed_values)
        self.first_failed = torch.where(new, float(self.steps), self.first_failed)
        self.sums = self.sums + faces * values
        self.faces += faces
        self.steps += 1

    def look(self) -> tuple[dict[str, float], _Failure | None]:
        """Return the means so far, and the first step whose loss was not finite."""
        failed, *values = torch.cat((self.first_failed[None], self.failed_values, self.sums)).tolist()
        failed_values, sums = values[: len(self.names)], values[len(self.names) :]
        means = {name: value / self.faces for name, value in zip(self.names, sums, strict=True)}
        if failed < 0:
            return means, None
        return means, _Failure(int(failed), dict(zip(self.names, failed_values, strict=True)))


def _stop_for(failed: _Failure, description: str, paths: list[Any]) -> None:
    terms = ", ".join(
        f"{name.removeprefix('loss_')} {value:.4g}" for name, value in failed.values.items() if name.startswith("loss_")
    )
    raise FloatingPointError(
        f"the loss is not finite ({terms or 'one term'}) in {description}; lower the learning rate or look at the "
        f"pictures of this batch: {', '.join(map(str, paths))}. last.pt holds the state before this epoch"
    )


class Predictions(NamedTuple):
    """Scores of every branch (B, N, K) float32, class indices (N,), and the faces' places in the data set (N,)."""

    branch_logits: Tensor
    targets: Tensor
    indices: Tensor


@torch.inference_mode()
def predict_dataset(model: ExpressionClassifier, loader: DataLoader, hardware: Hardware) -> Predictions:
    """Score every face of a loader with every branch, in evaluation mode; the result lies on the CPU."""
    model.eval()
    batches = loader.batch_sampler
    logits, targets, indices = [], [], []
    progress = tqdm(
        loader, desc=f"score {loader.dataset.dataset.name}", unit=" batches", leave=False, mininterval=LOOK_INTERVAL,
        disable=not hardware.is_main,
    )  # fmt: skip
    for number, batch in enumerate(progress):
        images = resize(hardware.place(batch.images), model.image_size)
        with hardware.autocast(), hardware.compiled_for(full_batch=False):
            outputs = model(images.contiguous(memory_format=hardware.memory_format))
        shares = batches.shares(number)
        logits.append(hardware.gather(model.branch_logits(outputs).float(), shares))
        targets.append(hardware.gather(hardware.place(class_indices(batch.targets)), shares))
        indices.append(hardware.gather(hardware.place(batch.indices), shares))
    return Predictions(torch.cat(logits, dim=1).cpu(), torch.cat(targets).cpu(), torch.cat(indices).cpu())


def validate(model: ExpressionClassifier, loader: DataLoader, hardware: Hardware) -> dict[str, float]:
    """Return loss (per face, of the ensemble) and accuracy of the ensemble and of each branch."""
    branch_logits, targets, _ = predict_dataset(model, loader, hardware)
    probabilities = model.combine(branch_logits)
    correct = branch_logits.argmax(dim=2) == targets
    return {
        "validation_loss": nn.functional.nll_loss(probabilities.clamp_min(1e-12).log(), targets).item(),
        "validation_accuracy": (probabilities.argmax(dim=1) == targets).double().mean().item(),
        **{f"validation_accuracy_branch_{b}": c.double().mean().item() for b, c in enumerate(correct, start=1)},
    }


def train_stage(
    run: Run,
    stage: int,
    *,
    num_epochs: int,
    validation_interval: int,
    model: ExpressionClassifier,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    train: DataLoader,
    validation: DataLoader,
    augment: nn.Module,
    objective: Objective,
    diversity: dict[str, DiversityLoss],
    hardware: Hardware,
    scheduler_interval: Literal["epoch", "step"] = "epoch",
    weight_averaging: float = 0.0,
    measure: Callable[[Any, Tensor], dict[str, Tensor]] | None = None,
    validate: Validate = validate,
    select_by: str = "validation_accuracy",
) -> None:
    """Train a stage to its end, from wherever the run stands, and leave the stage's best network in `model`.

    After every epoch `last.pt` and `history.csv` are written. Every `validation_interval` epochs, and after the last,
    the network is validated, and written to `best.pt` when its accuracy (`select_by`) is the highest of this stage.

    Args beside those of `train_epoch`:
        run: where the experiment stands, and where it is written.
        stage: number of this stage.
        num_epochs: length of the stage.
        validation_interval: epochs between validations.
        validation: the faces that the best epoch is chosen by.
        scheduler: of the learning rates.
        scheduler_interval: whether the scheduler counts epochs or steps.
        weight_averaging: decay per step of a moving average of the weights (Polyak and Juditsky 1992), which is then
            what is validated and kept; 0 for the weights themselves.
        validate: what is measured on the validation faces.
        select_by: which of that is to be high in the network that is kept.
    """
    warned = {name for row in run.history for name in diversity if describe_similarity(name, _recorded(row, name))}
    model.to(hardware.device, memory_format=hardware.memory_format)
    average = AveragedModel(model) if weight_averaging else None
    kept = average.module if average else model
    done = run.begin_stage(stage, model, optimizer, scheduler, average)
    step_model = hardware.prepare(model, steps=num_epochs * len(train))  # of the whole stage: so does a continued one

    def after_step() -> None:
        if scheduler_interval == "step":
            scheduler.step()
        if average:
            update_average(average, model, weight_averaging)

    for epoch in range(done + 1, num_epochs + 1):
        began = time.perf_counter()
        row: dict[str, Any] = {"stage": stage, "epoch": epoch, "learning_rate": max(scheduler.get_last_lr())}
        row |= train_epoch(
            model,
            train,
            step_model=step_model,
            augment=augment,
            objective=objective,
            diversity=diversity,
            optimizer=optimizer,
            hardware=hardware,
            description=f"stage {stage}, epoch {epoch}/{num_epochs}",
            measure=measure,
            after_step=after_step,
        )
        row["images_per_second"] = len(train.dataset) / (time.perf_counter() - began)
        if scheduler_interval == "epoch":
            scheduler.step()
        if epoch % validation_interval == 0 or epoch == num_epochs:
            if average:
                refresh_statistics(kept, train, augment, hardware)
            hardware.share_buffers(kept)
            row |= validate(kept, validation, hardware)
            if row[select_by] > run.best:
                run.best = row[select_by]
                run.save_best(kept, stage=stage, epoch=epoch, num_epochs=num_epochs, **{select_by: run.best})
        run.history.append(row)
        run.save_last(epoch, model, optimizer, scheduler, average)
        tqdm.write(_epoch_line(row, num_epochs))
        for name in diversity:
            message = describe_similarity(name, _recorded(row, name))
            if message and name not in warned:
                warnings.warn(message, stacklevel=2)
                warned.add(name)
    hardware.wait_for_everyone()  # the first process has written best.pt
    run.load_best(model)


def one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a schedule by steps: every group's rate rises to its own and falls to nearly zero (Smith 2018)."""
    highest = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, highest, total_steps=steps, cycle_momentum=False)


@torch.no_grad()
def update_average(average: AveragedModel, model: nn.Module, decay: float) -> None:
    """Move averaged weights towards the network's by 1 - `decay`; the first time they become equal.

    `AveragedModel.update_parameters` does the same but waits for the GPU at every step. BatchNorm's statistics are not
    averaged, since they are those of other weights: `refresh_statistics` measures them anew.
    """
    averaged, current = list(average.module.parameters()), list(model.parameters())
    if average.n_averaged > 0:
        torch._foreach_lerp_(averaged, current, 1 - decay)
    else:
        torch._foreach_copy_(averaged, current)
    average.n_averaged += 1  # a counter on the CPU


def refresh_statistics(model: ExpressionClassifier, loader: DataLoader, augment: nn.Module, hardware: Hardware) -> None:
    """Measure BatchNorm's statistics anew, over the first `STATISTICS_FACES` of a training epoch.

    An average of many networks has smaller activations than each of them, so their averaged statistics do not fit it
    while the learning rate is high (Izmailov et al., "Averaging weights leads to wider optima", UAI 2018).
    """
    batches = math.ceil(STATISTICS_FACES / loader.batch_sampler.bounds[1])
    images = (
        augment(resize(hardware.place(batch.images), model.image_size)).contiguous(memory_format=hardware.memory_format)
        for batch in itertools.islice(loader, batches)
    )
    with hardware.autocast(), hardware.compiled_for(full_batch=False):
        update_bn(images, model)


def _recorded(row: dict[str, Any], name: str) -> float:
    return row.get(f"similarity_{name}", float("nan"))


def _epoch_line(row: dict[str, Any], num_epochs: int) -> str:
    left_out = ("train_loss_", "validation_loss", "validation_accuracy_branch")
    parts = [
        f"{name.removeprefix('train_').replace('_', ' ')} {_say(name, value)}"
        for name, value in row.items()
        if name.startswith(("train_", "validation_")) and not name.startswith(left_out)
    ]
    parts += [
        f"{name.replace('_', ' ')} {value:.2g}"
        for name, value in row.items()
        if name.startswith("similarity_") and value == value
    ]
    line = f"stage {row['stage']}, epoch {row['epoch']}/{num_epochs}: " + ", ".join(parts)
    return f"{line}, {row['images_per_second']:.0f} images/s"
