"""The mechanics of training that no experiment needs to change: stages, epochs, means, averaged weights, predictions.

A script says what is minimised and what happens after a step; what surrounds it is here:

    stage = Stage(run, number, model, optimizer, scheduler, hardware)
    for epoch in stage.epochs(num_epochs):   # those that are left; each is saved when its turn is over
        for batch in epoch.batches(train):   # with progress, and a look whether the losses are finite
            ...
            epoch.record(batch, loss, terms, diversity, accuracy=accuracy(model, outputs, batch.targets))
        epoch.keep_if_best(model, validate(model, validation, hardware), by="validation_accuracy")
"""

import itertools
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, update_bn
from tqdm.auto import tqdm

from diversified_fer.console import is_watched
from models.classifier import ExpressionClassifier
from models.diversity import DiversityLoss
from utils.ucheckpoint import Run
from utils.uhardware import Batch, Hardware
from utils.umetrics import class_indices
from utils.upipeline import FaceLoader
from utils.uyardstick import Yardstick, agreeing_branches, fixed_maps, vanished_terms

STATISTICS_FACES = 5000
"""Training faces over which BatchNorm's statistics of averaged weights are measured."""

LOOK_INTERVAL = 0.5
"""Seconds between looks at the losses, each of which waits for the device."""


class Epoch:
    """One pass over the training faces: what was measured in it, and whether its network is the best so far.

    Attributes:
        number: of the epoch in its stage, from 1.
        is_last: whether it is the last of its stage.
        row: what is written to history.csv.
    """

    def __init__(self, stage: "Stage", number: int, num_epochs: int) -> None:
        self.number, self.is_last = number, number == num_epochs
        self.row: dict[str, Any] = {
            "stage": stage.number,
            "epoch": number,
            "learning_rate": max(stage.scheduler.get_last_lr()),
        }
        self._stage, self._num_epochs = stage, num_epochs
        self._means = _Means(stage.hardware.device)

    def __str__(self) -> str:
        return f"stage {self._stage.number}, epoch {self.number}/{self._num_epochs}"

    def batches(self, loader: FaceLoader) -> Iterator[Batch]:
        """Yield the batches of the epoch, and look at what `record` was told of them.

        Raises:
            FloatingPointError: when a loss is not finite; names the files of the batch.
        """
        seen: list[Tensor] = []  # the positions of every batch's faces in the data set
        began = looked = time.perf_counter()
        with show_progress(str(self), len(loader.dataset), " images", self._stage.hardware) as progress:
            for number, batch in enumerate(loader):
                seen.append(batch.indices)
                yield batch
                if time.perf_counter() - looked > LOOK_INTERVAL or number == len(loader) - 1:
                    values, failed = self._means.look()
                    if failed is not None:
                        _stop_for(failed, str(self), [loader.dataset.paths[i] for i in seen[failed.step]])
                    shown = {name: _in_words(name, values[name]) for name in ("loss", "accuracy") if name in values}
                    progress.set_postfix(shown, refresh=False)
                    looked = time.perf_counter()
                progress.update(sum(batch.shares))
        of_terms = ("similarity_", "gradient_")
        self.row |= {name if name.startswith(of_terms) else f"train_{name}": value for name, value in values.items()}
        self.row["images_per_second"] = len(loader.dataset) / (time.perf_counter() - began)

    @torch.no_grad()
    def record(
        self,
        batch: Batch,
        loss: Tensor,
        terms: Mapping[str, Tensor],
        diversity: Mapping[str, DiversityLoss],
        **measured: Tensor,
    ) -> None:
        """Take note of a step; nothing here waits for the device.

        Args:
            batch: the batch of the step.
            loss: what was minimised, a scalar.
            terms: the named parts of it.
            diversity: the diversity terms, whose similarity and gradient's norm are recorded.
            measured: further means over the batch, such as the accuracy.
        """
        values = {"loss": loss, **measured}
        values |= {f"loss_{name}": term for name, term in terms.items()} if len(terms) > 1 else {}
        processes = self._stage.hardware.processes  # `Hardware.backward` multiplies the loss by them
        for name, term in diversity.items():
            values |= {f"similarity_{name}": term.similarity, f"gradient_{name}": term.gradient_norm / processes}
        self._means.add(values, sum(batch.shares))

    def keep_if_best(self, network: ExpressionClassifier, found: dict[str, float], by: str) -> None:
        """Add what was found on the validation faces to the row, and write best.pt where `by` is the highest so far."""
        self.row |= found
        run = self._stage.run
        if found[by] > run.best:
            run.best = found[by]
            measured = {"stage": self._stage.number, "epoch": self.number, "num_epochs": self._num_epochs}
            run.save_best(network, **measured, **{by: run.best})


class Stage:
    """A part of an experiment with an optimizer of its own, taken up where `last.pt` left it.

    Args:
        run: where the experiment is on disk.
        number: of the stage; a later stage has a higher one.
        model: the network that is trained.
        optimizer: of its weights.
        scheduler: of the learning rates, stepped by the script.
        average: averaged weights, from `AveragedWeights`; they are saved too.
        hardware: see `utils.uhardware.choose_hardware`.
    """

    def __init__(
        self,
        run: Run,
        number: int,
        model: ExpressionClassifier,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        hardware: Hardware,
        average: "AveragedWeights | None" = None,
    ) -> None:
        self.run, self.number, self.model, self.hardware = run, number, model, hardware
        self.optimizer, self.scheduler = optimizer, scheduler
        self._average = average.average if average else None
        self._done = run.begin_stage(number, model, optimizer, scheduler, self._average)

    def epochs(self, num_epochs: int) -> Iterator[Epoch]:
        """Yield the epochs that are left, save each when its turn is over, and in the end load the best network.

        After every epoch `last.pt` and `history.csv` are written and a line is printed. A diversity term without a
        gradient, and branches that hardly differ or maps that ignore the face at a stage's end, are warned of once.
        """
        ended = {row["stage"]: row for row in self.run.history if row["stage"] < self.number}.values()  # last rows
        warned = {name for row in self.run.history for name, _ in vanished_terms(row)}
        warned |= {name for row in ended for name, _ in (*agreeing_branches(row), *fixed_maps(row))}
        for number in range(self._done + 1, num_epochs + 1):
            epoch = Epoch(self, number, num_epochs)
            yield epoch
            self.run.history.append(epoch.row)
            self.run.save_last(number, self.model, self.optimizer, self.scheduler, self._average)
            tqdm.write(_epoch_line(epoch))
            at_the_end = (*agreeing_branches(epoch.row), *fixed_maps(epoch.row)) if epoch.is_last else ()
            for name, message in (*vanished_terms(epoch.row), *at_the_end):
                if name not in warned:
                    warnings.warn(message, stacklevel=2)
                    warned.add(name)
        self.hardware.wait_for_everyone()  # the first process has written best.pt
        self.run.load_best(self.model)


def accuracy(model: ExpressionClassifier, outputs: Any, targets: Tensor) -> Tensor:
    """Return the share of faces whose most probable class is their label."""
    with torch.no_grad():
        predicted = model.combine(model.branch_logits(outputs)).argmax(dim=1)
        return (predicted == class_indices(targets)).float().mean()


def one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a schedule by steps: every group's rate rises to its own and falls to nearly zero (Smith 2018)."""
    highest = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, highest, total_steps=steps, cycle_momentum=False)


class AveragedWeights:
    """A moving average of a network's weights (Polyak and Juditsky 1992), or the network itself with a decay of 0.

    Args:
        model: the network, on its device and in its memory format.
        decay: share of the average that is kept at every step, from 0 to less than 1.

    Attributes:
        average: the averaged network; None with a decay of 0.
    """

    def __init__(self, model: ExpressionClassifier, decay: float) -> None:
        self._model, self._decay = model, decay
        self.average = AveragedModel(model) if decay else None

    @torch.no_grad()
    def update(self) -> None:
        """Move the averaged weights towards the network's by 1 - decay; the first time they become equal.

        `AveragedModel.update_parameters` does the same but waits for the GPU at every step. BatchNorm's statistics are
        not averaged, since they are those of other weights: `network` measures them anew.
        """
        if self.average is None:
            return
        averaged, current = list(self.average.module.parameters()), list(self._model.parameters())
        if self.average.n_averaged > 0:
            torch._foreach_lerp_(averaged, current, 1 - self._decay)
        else:
            torch._foreach_copy_(averaged, current)
        self.average.n_averaged += 1  # a counter on the CPU

    def network(self, loader: FaceLoader, augment: nn.Module, hardware: Hardware) -> ExpressionClassifier:
        """Return the network to validate and keep.

        BatchNorm's statistics of an average are measured anew, over the first `STATISTICS_FACES` of a training epoch:
        an average of many networks has smaller activations than each of them, so their averaged statistics do not fit
        it while the learning rate is high (Izmailov et al., "Averaging weights leads to wider optima", UAI 2018).
        """
        if self.average is None:
            return self._model
        batches = itertools.islice(loader, math.ceil(STATISTICS_FACES / min(loader.batch_size, len(loader.dataset))))
        images = (augment(batch.images).contiguous(memory_format=hardware.memory_format) for batch in batches)
        with hardware.computing():
            update_bn(images, self.average.module)
        return self.average.module


class Predictions(NamedTuple):
    """Scores of every branch (B, N, K) float32, class indices (N,), and the faces' positions in the data set (N,)."""

    branch_logits: Tensor
    targets: Tensor
    indices: Tensor


@torch.inference_mode()
def predict_dataset(
    model: ExpressionClassifier,
    loader: FaceLoader,
    hardware: Hardware,
    yardstick: Yardstick | None = None,
    flip: bool = False,
) -> Predictions:
    """Score every face of a loader with every branch, in evaluation mode; the result is on the CPU.

    `yardstick` is shown the features that the diversity loss compares; `flip` scores the mirror images.
    """
    model.eval()
    logits, targets, indices = [], [], []
    with show_progress(f"score {loader.dataset.name}", len(loader), " batches", hardware) as progress:
        for batch in loader:
            outputs = hardware.forward(model, batch.images.flip(3) if flip else batch.images, batch)
            logits.append(model.branch_logits(outputs).float())
            if yardstick is not None:
                yardstick.take(model.compared_features(outputs))
            targets.append(class_indices(batch.targets))
            indices.append(hardware.gather(hardware.to_device(batch.indices), batch.shares))
            progress.update()
    return Predictions(torch.cat(logits, dim=1).cpu(), torch.cat(targets).cpu(), torch.cat(indices).cpu())


def validate(model: ExpressionClassifier, loader: FaceLoader, hardware: Hardware) -> dict[str, float]:
    """Return loss (per face, of the ensemble), accuracy of the ensemble and of each branch, and `Yardstick.figures`."""
    hardware.share_buffers(model)
    yardstick = Yardstick()
    branch_logits, targets, _ = predict_dataset(model, loader, hardware, yardstick)
    probabilities = model.combine(branch_logits)
    correct = branch_logits.argmax(dim=2) == targets
    figures = yardstick.figures(branch_logits, probabilities, targets)
    return {
        "validation_loss": nn.functional.nll_loss(probabilities.clamp_min(1e-12).log(), targets).item(),
        "validation_accuracy": (probabilities.argmax(dim=1) == targets).double().mean().item(),
        **{f"validation_accuracy_branch_{b}": c.double().mean().item() for b, c in enumerate(correct, start=1)},
        **{f"validation_{name}": value for name, value in figures.items()},
    }


def show_progress(description: str, total: int, unit: str, hardware: Hardware) -> tqdm:
    """Return a progress bar on a terminal or in a notebook; elsewhere, and in all but the first process, nothing."""
    shown = hardware.is_main and is_watched()
    return tqdm(total=total, desc=description, unit=unit, leave=False, mininterval=LOOK_INTERVAL, disable=not shown)


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


def _in_words(name: str, value: float) -> str:
    return f"{value:.1%}" if name.endswith(("accuracy", "disagreement", "gain")) else f"{value:.3f}"


def _epoch_line(epoch: Epoch) -> str:
    left_out = (
        "train_loss_",
        *(f"validation_{name}" for name in ("loss", "accuracy_branch", "distance", "correlation")),
    )
    parts = [
        f"{name.removeprefix('train_').replace('_', ' ')} {_in_words(name, value)}"
        for name, value in epoch.row.items()
        if name.startswith(("train_", "validation_")) and not name.startswith(left_out)
    ]
    return f"{epoch}: {', '.join(parts)}, {epoch.row['images_per_second']:.0f} images/s"
