"""Label the faces in photos, folders, videos or a webcam.

Run:  python predict.py photo.jpg folder video.mp4 '*.png' --annotate
      python predict.py --webcam 0
      python predict.py faces --detector none --checkpoint checkpoint/esr_ferplus/demo/best.pt --explain
Writes, into --output: predictions.csv, a row per face (file, seconds from the start of a video, number of its picture,
person, box in pixels, label, probability of each class, valence and arousal where the network has them; for videos the
smoothed probabilities; with --branches what each branch says), and a row for a picture without a face and for a file
that cannot be read; people.csv, for videos a row per person; timelines/, for each video a picture of who showed what
when; annotated/ (--annotate): the pictures and videos with boxes and labels; explained/ (--explain):
each face with the heat maps of the ensemble and of every branch. A file appears when it is complete; the rows of a run
that is interrupted are in predictions.unfinished.csv.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from diversified_fer.command import INTERRUPTED, Labelling, label_media, refuse_empty_names
from diversified_fer.console import one_line_errors
from diversified_fer.faces import LabelledFace
from diversified_fer.media.media import Frame
from diversified_fer.media.output import naming
from models import load_model, optimize_for_inference
from models.classifier import ExpressionClassifier
from utils.uhardware import choose_hardware

EXPLAINED_AT_ONCE = 8  # faces whose heat maps are in memory at a time


@dataclass
class Prediction(Labelling):
    """What to label, with which network, and what to write."""

    checkpoint: Path | None = None  # network; default: the weights that come with the project
    explain: bool = False  # write class-activation maps of every face
    device: str = "auto"  # "auto", "cpu", "cuda", ...
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # "auto": bfloat16 from 16 faces, where it is native


def write_explanations(model: ExpressionClassifier, frame: Frame, faces: list[LabelledFace], stem: Path) -> None:
    """Write a picture of heat maps for every face of a frame."""
    from utils.evaluation.explain import explain, plot_explanation  # captum and matplotlib take seconds to import
    from utils.uplot import write_figure

    moment = "" if frame.seconds is None else f"_{frame.seconds:.3f}s"
    with naming(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(faces), EXPLAINED_AT_ONCE):
        explanation = explain(model, [face.crop for face in faces[start : start + EXPLAINED_AT_ONCE]])
        for number in range(len(explanation.targets)):
            path = stem.with_name(f"{stem.name}{moment}_face{start + number + 1}.png")
            with naming(path):
                write_figure(plot_explanation(explanation, number, model.labels), path)


def main(prediction: Prediction) -> None:
    """Label the faces with a checkpoint."""
    loaded: list[ExpressionClassifier] = []

    def load() -> ExpressionClassifier:
        hardware = choose_hardware(prediction.device, prediction.precision, compile="off", alone=True)
        path = prediction.checkpoint
        loaded.append(load_model(path, hardware.device) if path else load_model(device=hardware.device))
        return loaded[0] if prediction.precision == "auto" else optimize_for_inference(loaded[0], hardware.precision)

    def explain(frame: Frame, faces: list[LabelledFace], stem: Path) -> None:
        write_explanations(loaded[0], frame, faces, stem)

    label_media(prediction, load, explain if prediction.explain else None)


if __name__ == "__main__":
    with one_line_errors(INTERRUPTED):
        refuse_empty_names()
        main(tyro.cli(Prediction))
