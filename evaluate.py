"""Score one or several checkpoints on a data set.

Run:  python evaluate.py checkpoint/esr_ferplus/demo/best.pt --dataset ferplus --base-path-to-dataset data/drawn/ferplus
Reads this project's checkpoints, folders of published ESR weights and released MA-Net files.
Writes, per checkpoint, <checkpoint>_on_<data>/ (or below --output): metrics.json (accuracy with its 95 % interval, mean
class accuracy, macro F1, recall per class, calibration error and confusion matrix of the ensemble by mean and by vote
and of every branch), predictions.csv (one row per face) and confusion_matrix.png.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from models import CheckpointError, load_model
from models.classifier import ExpressionClassifier
from utils.ucheckpoint import write_json
from utils.udata import RAFDB, AffectNet, FaceDataset, FERPlus
from utils.upipeline import make_loader
from utils.uplot import plot_confusion
from utils.ureport import describe, score, write_predictions
from utils.utrain import choose_device, choose_precision, predict_dataset


@dataclass
class Evaluation:
    """What to score, and on what."""

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional]  # .pt or .pth files, or folders of ESR weights
    dataset: Literal["affectnet", "ferplus", "rafdb"]  # which faces
    base_path_to_dataset: Path  # where they lie, as in the training scripts
    split: str | None = None  # default: validation (AffectNet), test (FER+, RAF-DB)
    normalization: Literal["rgb", "bgr", "imagenet"] | None = None  # what published weights saw, if not the usual
    output: Path | None = None  # folder for the results; default: beside each checkpoint
    batch_size: int = 128  # faces in the network at a time
    cache_gib: float = 4.0  # GiB of memory for decoded pictures
    device: str = "auto"  # "auto", "cpu", "cuda", ...
    precision: Literal["auto", "float32", "bfloat16"] = "float32"  # of the convolutions


def load_faces(evaluation: Evaluation, num_classes: int) -> FaceDataset:
    """Open the data set with the number of classes that a network has."""
    root, split = evaluation.base_path_to_dataset, evaluation.split
    if evaluation.dataset == "affectnet":
        return AffectNet(root, split or "validation", num_classes)
    if evaluation.dataset == "ferplus":
        return FERPlus(root, split or "test")
    return RAFDB(root, split or "test")


def check_labels(model: ExpressionClassifier, faces: FaceDataset, path: Path) -> None:
    """Refuse a network whose classes are not those of the data."""
    if model.labels != tuple(faces.class_names):
        raise CheckpointError(
            f"{path} predicts {len(model.labels)} classes ({', '.join(model.labels[:8])}), {faces.name} has "
            f"{len(faces.class_names)} ({', '.join(faces.class_names)}): fine-tune it on this data set first"
        )


def main(evaluation: Evaluation) -> None:
    """Score every checkpoint in turn."""
    device = choose_device(evaluation.device)
    precision = choose_precision(evaluation.precision, device)
    models = [load_model(path, device, evaluation.normalization) for path in evaluation.checkpoints]
    for path, model in zip(evaluation.checkpoints, models, strict=True):
        faces = load_faces(evaluation, len(model.labels))
        check_labels(model, faces, path)
        loader = make_loader(
            faces, model.image_size, evaluation.batch_size, shuffle=False, cache_gib=evaluation.cache_gib
        )
        predictions = predict_dataset(model, loader, device, precision)
        scores = score(model, predictions)
        folder = evaluation.output / f"{path.parent.name}_{path.stem}" if evaluation.output else path.with_suffix("")
        folder = folder.with_name(f"{folder.name}_on_{evaluation.dataset}_{faces.name.split()[1]}")
        folder.mkdir(parents=True, exist_ok=True)
        ensemble = scores["ensemble (mean)"]
        content = {"checkpoint": str(path), "architecture": model.architecture, "data": faces.name}
        write_json(content | {name: m.as_dict() for name, m in scores.items()}, folder / "metrics.json")
        write_predictions(model, predictions, faces, evaluation.base_path_to_dataset, folder / "predictions.csv")
        heading = f"{path}\n{describe(ensemble)} on {faces.name}"
        plot_confusion(ensemble.confusion, model.labels, folder / "confusion_matrix.png", heading)
        print(f"\n{path} on {faces.name}, n = {ensemble.n:,}")
        for name, metrics in scores.items():
            print(
                f"  {name:16s} {describe(metrics)}, mean class accuracy {metrics.mean_class_accuracy:.2%}, "
                f"macro F1 {metrics.macro_f1:.4f}, calibration error {metrics.calibration_error:.4f}"
            )
        known = {label: recall for label, recall in ensemble.recall.items() if recall is not None}
        print("  recall: " + ", ".join(f"{label} {recall:.1%}" for label, recall in known.items()))
        print(f"  wrote {folder}: metrics.json, predictions.csv, confusion_matrix.png")


if __name__ == "__main__":
    try:
        main(tyro.cli(Evaluation))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"evaluate.py: {error}")
