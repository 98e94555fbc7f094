"""The end of a run or an evaluation: numbers from checkpoints read back from disk, written, plotted, said in a line."""

import tempfile
from pathlib import Path

from diversified_fer.writing import write_json
from models.classifier import ExpressionClassifier
from utils.ubootstrap import Interval
from utils.ucheckpoint import Run, store_temperature
from utils.uhardware import Hardware
from utils.umetrics import Metrics, compute_metrics, fit_temperature
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

    The best one's temperature is fitted on the faces that its epoch was chosen by, and put into best.pt. Writes
    curves.png, confusion_matrix.png, metrics.json and variables.json into the run's folder.

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
    chosen_by = predict_dataset(best, validation, hardware)
    best.temperature = fit_temperature(best.combine(chosen_by.branch_logits), chosen_by.targets)
    if hardware.is_main:
        store_temperature(run.best_path, best.temperature)
    predictions = chosen_by if test is validation else predict_dataset(best, test, hardware)
    metrics = score(best, predictions)["ensemble (mean)"]
    last_metrics = score(last, predict_dataset(last, test, hardware))["ensemble (mean)"]
    if not hardware.is_main:
        return metrics
    faces, chosen_on = test.dataset, validation.dataset
    title = f"{run.directory.parent.name} / {run.directory.name}"
    write_figure(plot_history(run.history, title), run.directory / "curves.png")
    heading = f"{title} on {faces.name}\n{describe(metrics)}"
    write_figure(plot_confusion(metrics.confusion, best.labels, heading), run.directory / "confusion_matrix.png")
    data, selected_on = ({key: getattr(d, key) for key in ("source", "split", "name")} for d in (faces, chosen_on))
    content = {"data": data, "selected_on": selected_on, "seed": seed, "found": found}
    content |= {"best": metrics.as_dict(), "last": last_metrics.as_dict()}
    calibrated = compute_metrics(
        best.calibrate(best.combine(predictions.branch_logits)), predictions.targets, best.labels
    )
    content |= {"temperature": best.temperature, "best_calibrated": calibrated.as_dict()}
    write_json(content, run.directory / "metrics.json")
    write_json(run.variables, run.directory / "variables.json")
    written = "best.pt, last.pt, history.csv, metrics.json, variables.json, curves.png, confusion_matrix.png"
    print(f"\n{run.directory}: {written}")
    print(f"{describe_calibration(best.temperature, metrics, calibrated)}, fitted on {chosen_on.name}")
    optimistic = " itself" if chosen_on.paths == faces.paths else ""
    print(
        f"result: {describe(metrics)} on {faces.name}, n = {metrics.n:,}, from best.pt reloaded (stage "
        f"{found['stage']}, epoch {found['epoch']} of {found['num_epochs']}, selected on {chosen_on.name}{optimistic}, "
        f"seed {seed}); last epoch {last_metrics.accuracy:.2%}"
    )
    return metrics


def score(
    model: ExpressionClassifier, predictions: Predictions, seed: int = 0, labels: tuple[str, ...] | None = None
) -> dict[str, Metrics]:
    """Score the ensemble (the network's own mixture, and the plurality vote) and every branch.

    `seed` is that of the bootstrap; `labels` are the classes that the scores are of, by default the network's.
    """
    labels = model.labels if labels is None else labels
    branch_logits, targets, _ = predictions
    probabilities = {f"ensemble ({how})": model.combine(branch_logits, how) for how in ("mean", "vote")}
    probabilities |= {f"branch {b}": logits.softmax(dim=1) for b, logits in enumerate(branch_logits, start=1)}
    return {name: compute_metrics(values, targets, labels, seed) for name, values in probabilities.items()}


def describe(metrics: Metrics) -> str:
    """Say accuracy and interval in a few words."""
    if metrics.accuracy_interval is None:
        return f"{metrics.accuracy:.2%} accuracy (one face: no interval)"
    return f"{metrics.accuracy:.2%} accuracy (95 % interval {span(metrics.accuracy_interval, digits=2)})"


def describe_calibration(temperature: float, before: Metrics, after: Metrics) -> str:
    """Say how far confidence is from accuracy, of the network's mixture and of what `predict` returns."""
    errors = [number(metrics.calibration_error, "calibration_error") for metrics in (before, after)]
    return f"calibration error {errors[0]}; {errors[1]} with temperature {temperature:g}"


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
