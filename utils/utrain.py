"""The mechanics of training: one epoch, one stage, one set of predictions."""

import ctypes
import platform
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from models.classifier import ExpressionClassifier, resize
from models.diversity import DiversityLoss, describe_similarity
from utils.ucheckpoint import Run
from utils.umetrics import class_indices

Objective = Callable[[Any, Tensor], dict[str, Tensor]]
"""From a network's outputs and the labels to the named loss terms, whose sum is minimised."""


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the first GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        _keep_freed_memory()
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but PyTorch finds no CUDA GPU here; set device to 'cpu' or 'auto'")
    return device


def _keep_freed_memory() -> None:
    """Have the C library reuse freed memory instead of returning it to the system at every step.

    A step frees and asks for the same gigabytes again; fetching them page by page takes a good part of its time.
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from malloc.h
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type that convolutions are computed in.

    Args:
        name: "float32", "bfloat16", or "auto" for bfloat16 where the device multiplies it natively.
        device: where the network runs.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision is {name!r}; expected 'auto', 'float32' or 'bfloat16'")
    if name == "auto":
        if device.type == "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0)
        else:
            found = torch.cpu.get_capabilities()
            native = device.type == "cpu" and any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Return the context in which the network's convolutions run at `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)


def train_epoch(
    model: ExpressionClassifier,
    loader: DataLoader,
    *,
    augment: nn.Module,
    objective: Objective,
    diversity: dict[str, DiversityLoss],
    optimizer: Optimizer,
    device: torch.device,
    precision: torch.dtype,
    description: str,
) -> dict[str, float]:
    """Train on every batch once.

    Returns:
        Means over the epoch: train_loss, its terms, train_accuracy, and similarity_<term> for each diversity term.

    Raises:
        FloatingPointError: when a loss is not finite; names the files of the batch.
    """
    model.train()
    sums: dict[str, Tensor] = {}
    faces = 0
    with tqdm(total=len(loader.dataset), desc=description, unit=" images", leave=False, mininterval=0.5) as progress:
        for batch in loader:
            targets = batch.targets.to(device, non_blocking=True)
            images = augment(resize(batch.images.to(device, non_blocking=True), model.image_size))
            optimizer.zero_grad(set_to_none=True)
            with autocast(device, precision):
                outputs = model(images)
                terms = objective(outputs, targets)
            loss = sum(terms.values())
            if not torch.isfinite(loss):
                paths = loader.dataset.dataset.paths
                names = ", ".join(str(paths[index]) for index in batch.indices)
                values = ", ".join(f"{name} {term.item():.4g}" for name, term in terms.items())
                raise FloatingPointError(
                    f"the loss is not finite ({values}) in {description}; lower the learning rate or look at the "
                    f"pictures of this batch: {names}. last.pt holds the state before this epoch"
                )
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                predicted = model.combine(model.branch_logits(outputs)).argmax(dim=1)
                measured = {"loss": loss, "accuracy": (predicted == class_indices(targets)).float().mean()}
                measured |= {f"loss_{name}": term for name, term in terms.items()} if len(terms) > 1 else {}
                measured |= {f"similarity_{name}": term.similarity for name, term in diversity.items()}
            for name, value in measured.items():
                sums[name] = sums.get(name, 0) + len(targets) * value.detach()
            faces += len(targets)
            progress.set_postfix(
                loss=f"{sums['loss'].item() / faces:.3f}",
                accuracy=f"{sums['accuracy'].item() / faces:.1%}",
                refresh=False,
            )
            progress.update(len(targets))
    means = {name: value.item() / faces for name, value in sums.items()}
    return {name if name.startswith("similarity_") else f"train_{name}": value for name, value in means.items()}


class Predictions(NamedTuple):
    """Scores of every branch (B, N, K) float32, class indices (N,), and the faces' places in the data set (N,)."""

    branch_logits: Tensor
    targets: Tensor
    indices: Tensor


@torch.inference_mode()
def predict_dataset(
    model: ExpressionClassifier, loader: DataLoader, device: torch.device, precision: torch.dtype
) -> Predictions:
    """Score every face of a loader with every branch, in evaluation mode; the result lies on the CPU."""
    model.eval()
    logits, targets, indices = [], [], []
    progress = tqdm(loader, desc=f"score {loader.dataset.dataset.name}", unit=" batches", leave=False, mininterval=0.5)
    for batch in progress:
        images = resize(batch.images.to(device, non_blocking=True), model.image_size)
        with autocast(device, precision):
            outputs = model(images)
        logits.append(model.branch_logits(outputs).float().cpu())
        targets.append(class_indices(batch.targets))
        indices.append(batch.indices)
    return Predictions(torch.cat(logits, dim=1), torch.cat(targets), torch.cat(indices))


def validate(
    model: ExpressionClassifier, loader: DataLoader, device: torch.device, precision: torch.dtype
) -> dict[str, float]:
    """Return loss (per face, of the ensemble) and accuracy of the ensemble and of each branch."""
    branch_logits, targets, _ = predict_dataset(model, loader, device, precision)
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
    device: torch.device,
    precision: torch.dtype,
) -> None:
    """Train a stage to its end, from wherever the run stands, and leave the stage's best network in `model`.

    After every epoch `last.pt` and `history.csv` are written. Every `validation_interval` epochs, and after the last,
    the network is validated, and written to `best.pt` when its accuracy is higher than any before in this stage.
    """
    warned = {name for row in run.history for name in diversity if describe_similarity(name, _recorded(row, name))}
    done = run.begin_stage(stage, model, optimizer, scheduler)
    for epoch in range(done + 1, num_epochs + 1):
        began = time.perf_counter()
        row: dict[str, Any] = {"stage": stage, "epoch": epoch, "learning_rate": max(scheduler.get_last_lr())}
        row |= train_epoch(
            model,
            train,
            augment=augment,
            objective=objective,
            diversity=diversity,
            optimizer=optimizer,
            device=device,
            precision=precision,
            description=f"stage {stage}, epoch {epoch}/{num_epochs}",
        )
        row["images_per_second"] = len(train.dataset) / (time.perf_counter() - began)
        scheduler.step()
        if epoch % validation_interval == 0 or epoch == num_epochs:
            row |= validate(model, validation, device, precision)
            if row["validation_accuracy"] > run.best:
                run.best = row["validation_accuracy"]
                run.save_best(model, stage=stage, epoch=epoch, num_epochs=num_epochs, validation_accuracy=run.best)
        run.history.append(row)
        run.save_last(epoch, model, optimizer, scheduler)
        tqdm.write(_epoch_line(row, num_epochs))
        for name in diversity:
            message = describe_similarity(name, _recorded(row, name))
            if message and name not in warned:
                warnings.warn(message, stacklevel=2)
                warned.add(name)
    run.load_best(model)


def _recorded(row: dict[str, Any], name: str) -> float:
    return row.get(f"similarity_{name}", float("nan"))


def _epoch_line(row: dict[str, Any], num_epochs: int) -> str:
    parts = [
        f"stage {row['stage']}, epoch {row['epoch']}/{num_epochs}: loss {row['train_loss']:.3f}, "
        f"accuracy {row['train_accuracy']:.1%}"
    ]
    if "validation_accuracy" in row:
        parts.append(f"validation {row['validation_accuracy']:.1%}")
    similarities = {
        key.removeprefix("similarity_"): value for key, value in row.items() if key.startswith("similarity_")
    }
    parts += [f"similarity {name} {value:.2g}" for name, value in similarities.items() if value == value]
    parts.append(f"{row['images_per_second']:.0f} images/s")
    return ", ".join(parts)
