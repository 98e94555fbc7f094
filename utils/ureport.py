"""The end of a run or an evaluation: numbers from checkpoints read back from disk, written, drawn, said in a line."""

import csv
import io
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from models.classifier import ExpressionClassifier
from utils.ucheckpoint import Run, write_atomically, write_json
from utils.udata import FaceDataset
from utils.umetrics import Metrics, compute_metrics
from utils.uplot import plot_confusion, plot_history
from utils.utrain import Predictions, predict_dataset


def report(
    run: Run, loader: DataLoader, *, selected_on: str, seed: int, device: torch.device, precision: torch.dtype
) -> Metrics:
    """Reload the best and the last checkpoint of a run, score both, write what there is to see, and say the result.

    Writes curves.png, confusion_matrix.png and metrics.json into the run's folder.

    Args:
        run: a finished run.
        loader: the faces to report on, not shuffled.
        selected_on: the faces that the best epoch was chosen by, as the result line should name them.
        seed: seed of the run, for the result line.
        device: where to compute.
        precision: see `utils.utrain.choose_precision`.

    Returns:
        The metrics of the best checkpoint.
    """
    name = loader.dataset.dataset.name
    best, found = run.read_best()
    metrics = score(best.to(device), predict_dataset(best, loader, device, precision))["ensemble (mean)"]
    last = run.read_last().to(device)
    last_metrics = score(last, predict_dataset(last, loader, device, precision))["ensemble (mean)"]
    title = f"{run.directory.parent.name} / {run.directory.name}"
    plot_history(run.history, run.directory / "curves.png", title)
    plot_confusion(
        metrics.confusion,
        best.labels,
        run.directory / "confusion_matrix.png",
        f"{title}\n{describe(metrics)} on {name}",
    )
    content = {"data": name, "selected_on": selected_on, "seed": seed, "found": found}
    write_json(content | {"best": metrics.as_dict(), "last": last_metrics.as_dict()}, run.directory / "metrics.json")
    print(f"\n{run.directory}: best.pt, last.pt, history.csv, metrics.json, curves.png, confusion_matrix.png")
    print(
        f"result: {describe(metrics)} on {name}, n = {metrics.n:,}, from best.pt reloaded (stage {found['stage']}, "
        f"epoch {found['epoch']} of {found['num_epochs']}, selected on {selected_on}, seed {seed}); "
        f"last epoch {last_metrics.accuracy:.2%}"
    )
    return metrics


def score(model: ExpressionClassifier, predictions: Predictions) -> dict[str, Metrics]:
    """Score the ensemble (the network's own mixture, and the plurality vote) and every branch."""
    branch_logits, targets, _ = predictions
    probabilities = {f"ensemble ({how})": model.combine(branch_logits, how) for how in ("mean", "vote")}
    probabilities |= {f"branch {b}": logits.softmax(dim=1) for b, logits in enumerate(branch_logits, start=1)}
    return {name: compute_metrics(values, targets, model.labels) for name, values in probabilities.items()}


def describe(metrics: Metrics) -> str:
    """Say accuracy and interval in a few words."""
    low, high = metrics.accuracy_interval
    return f"{metrics.accuracy:.2%} accuracy (95 % interval {100 * low:.2f} to {100 * high:.2f})"


def write_predictions(
    model: ExpressionClassifier, predictions: Predictions, dataset: FaceDataset, root: Path, path: Path
) -> None:
    """Write one row per face: file, label, prediction, the probability of every class, and every branch's choice."""
    probabilities = model.combine(predictions.branch_logits)
    choices = predictions.branch_logits.argmax(dim=2).T  # (N, B)
    text = io.StringIO()
    writer = csv.writer(text)
    probability_columns = [f"probability_{label}" for label in model.labels]
    branch_columns = [f"branch_{b}" for b in range(1, choices.shape[1] + 1)]
    writer.writerow(["file", "label", "predicted", *probability_columns, *branch_columns])
    for row, (index, target) in enumerate(zip(predictions.indices, predictions.targets, strict=True)):
        file: Any = dataset.paths[int(index)]
        file = file.relative_to(root) if file.is_relative_to(root) else file
        values = [f"{value:.6f}" for value in probabilities[row].tolist()]
        chosen = [model.labels[choice] for choice in choices[row].tolist()]
        predicted = model.labels[int(probabilities[row].argmax())]
        writer.writerow([file.as_posix(), model.labels[int(target)], predicted, *values, *chosen])
    write_atomically(path, lambda temporary: temporary.write_text(text.getvalue()))
