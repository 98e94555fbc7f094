"""The end of a run or an evaluation: numbers from checkpoints read back from disk, written, drawn, said in a line."""

import tempfile
from pathlib import Path
from typing import Any

from models.classifier import ExpressionClassifier
from models.writing import new_table, write_json
from utils.ubootstrap import Interval
from utils.ucheckpoint import Run
from utils.udata import FaceDataset
from utils.uhardware import Hardware
from utils.umetrics import Metrics, compute_metrics
from utils.upipeline import FaceLoader
from utils.uplot import plot_confusion, plot_history, write_figure
from utils.utrain import Predictions, predict_dataset

NUMBERS = {  # of `Metrics`, as they are called in words
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "macro_f1": "macro F1",
    "calibration_error": "calibration error",
}


def report(run: Run, test: FaceLoader, validation: FaceLoader, hardware: Hardware, seed: int) -> Metrics:
    """Reload the best and the last checkpoint of a run, score both, write what there is to see, and say the result.

    Writes curves.png, confusion_matrix.png, metrics.json and variables.json into the run's folder.

    Args:
        run: a finished run.
        test: the faces to report on, not shuffled.
        validation: the faces that the best epoch was chosen by.
        hardware: where to compute, see `utils.uhardware.choose_hardware`.
        seed: seed of the run, for the result line.

    Returns:
        The metrics of the best checkpoint.
    """
    run.check_finished()
    hardware.wait_for_everyone()
    best, found = run.read_best()
    last = run.read_last()
    for model in (best, last):
        model.to(hardware.device, memory_format=hardware.memory_format)
    metrics = score(best, predict_dataset(best, test, hardware))["ensemble (mean)"]
    last_metrics = score(last, predict_dataset(last, test, hardware))["ensemble (mean)"]
    if not hardware.is_main:
        return metrics
    faces, chosen_on = test.dataset, validation.dataset
    title = f"{run.directory.parent.name} / {run.directory.name}"
    write_figure(plot_history(run.history, title), run.directory / "curves.png")
    heading = f"{title} on {faces.name}\n{describe(metrics)}"
    write_figure(plot_confusion(metrics.confusion, best.labels, heading), run.directory / "confusion_matrix.png")
    content = {
        "data": {"source": faces.source, "split": faces.split, "name": faces.name},
        "selected_on": {"source": chosen_on.source, "split": chosen_on.split, "name": chosen_on.name},
        "seed": seed,
        "found": found,
        "best": metrics.as_dict(),
        "last": last_metrics.as_dict(),
    }
    write_json(content, run.directory / "metrics.json")
    write_json(run.variables, run.directory / "variables.json")
    written = ", ".join(("best.pt", "last.pt", "history.csv", "metrics.json", "variables.json", "curves.png"))
    print(f"\n{run.directory}: {written}, confusion_matrix.png")
    optimistic = " itself" if chosen_on.paths == faces.paths else ""
    print(
        f"result: {describe(metrics)} on {faces.name}, n = {metrics.n:,}, from best.pt reloaded (stage "
        f"{found['stage']}, epoch {found['epoch']} of {found['num_epochs']}, selected on {chosen_on.name}{optimistic}, "
        f"seed {seed}); last epoch {last_metrics.accuracy:.2%}"
    )
    return metrics


def score(model: ExpressionClassifier, predictions: Predictions, seed: int = 0) -> dict[str, Metrics]:
    """Score the ensemble (the network's own mixture, and the plurality vote) and every branch.

    `seed` is that of the bootstrap.
    """
    branch_logits, targets, _ = predictions
    probabilities = {f"ensemble ({how})": model.combine(branch_logits, how) for how in ("mean", "vote")}
    probabilities |= {f"branch {b}": logits.softmax(dim=1) for b, logits in enumerate(branch_logits, start=1)}
    return {name: compute_metrics(values, targets, model.labels, seed) for name, values in probabilities.items()}


def describe(metrics: Metrics) -> str:
    """Say accuracy and interval in a few words."""
    if metrics.accuracy_interval is None:
        return f"{metrics.accuracy:.2%} accuracy (one face: no interval)"
    low, high = metrics.accuracy_interval
    return f"{metrics.accuracy:.2%} accuracy (95 % interval {100 * low:.2f} to {100 * high:.2f})"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share as a percentage."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float, name: str, digits: int = 1) -> str:
    """Write one of `NUMBERS`: the calibration error as it is, the others as percentages."""
    return f"{value:.{digits + 2}f}" if name == "calibration_error" else percent(value, digits)


def span(interval: Interval, name: str = "accuracy", digits: int = 1) -> str:
    """Write an interval in the unit of `number`."""
    if interval is None:
        return "no interval"
    scale, digits = (1, digits + 2) if name == "calibration_error" else (100, digits)
    return " to ".join(f"{scale * bound:.{digits}f}".replace("-", "−") for bound in interval)


def signed(value: float, digits: int = 1) -> str:
    """Write a difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.{digits}f}".replace("-", "−")


def prepare_folder(folder: Path) -> None:
    """Make a folder for results, before hours are spent on them; without an earlier report, which is written last.

    Raises:
        ValueError: when it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for name in ("report.html", "metrics.json"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder.absolute()} ({error.strerror}); choose another place with --output"
        ) from error


def write_predictions(
    model: ExpressionClassifier, predictions: Predictions, dataset: FaceDataset, root: Path, path: Path
) -> None:
    """Write one row per face: file, label, prediction, the probability of every class, and every branch's choice."""
    probabilities = model.combine(predictions.branch_logits)
    choices = predictions.branch_logits.argmax(dim=2).T  # (N, B)
    probability_columns = [f"probability_{label}" for label in model.labels]
    branch_columns = [f"branch_{b}" for b in range(1, choices.shape[1] + 1)]
    with new_table(path) as writer:
        writer.writerow(["file", "label", "predicted", *probability_columns, *branch_columns])
        for row, (index, target) in enumerate(zip(predictions.indices, predictions.targets, strict=True)):
            file: Any = dataset.paths[int(index)]
            file = file.relative_to(root) if file.is_relative_to(root) else file
            values = [f"{value:.6f}" for value in probabilities[row].tolist()]
            chosen = [model.labels[choice] for choice in choices[row].tolist()]
            predicted = model.labels[int(probabilities[row].argmax())]
            writer.writerow([file.as_posix(), model.labels[int(target)], predicted, *values, *chosen])
