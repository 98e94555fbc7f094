"""Score one or several checkpoints on a data set, and write a report.

Run:  python evaluate.py checkpoint/esr_ferplus/demo/best.pt --dataset ferplus \\
          --base-path-to-dataset data/synthetic/ferplus
Reads this project's checkpoints, folders of published ESR weights and released MA-Net files.
Writes, per checkpoint, <checkpoint>_on_<data>/ (or below --output): report.html (everything, in one file), metrics.json
(accuracy, mean class accuracy, macro F1, precision and recall per class and calibration error of the ensemble by mean
and by vote and of every branch, each with its 95 % interval; errors, concordance and sign agreement of valence and
arousal where network and data have them), predictions.csv (one row per face) and the pictures.
Several checkpoints are compared with the first one, face by face, in comparison_on_<data>/; with --seeds they are runs
of one experiment, reported as mean and standard deviation. Data and networks may differ in their classes: those that
all share are scored. --predictions takes the answers of other tools, --groups tells who the numbers hold for,
--corruptions how they fall on worse pictures (docs/using.md).
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from diversified_fer.console import one_line_errors
from diversified_fer.writing import write_json
from models import load_model
from utils.evaluation.answers import choose_faces, read_answers, score_answers
from utils.evaluation.comparison import Comparison, check_seeds, compare, write_choices, write_predictions
from utils.evaluation.corruptions import SAMPLE, SIDE, describe_corruptions, sweep
from utils.evaluation.evaluation import (
    ScoredCheckpoint,
    check_fit,
    choose_folders,
    describe_computation,
    evaluate_model,
    name_checkpoints,
    read_provenance,
)
from utils.evaluation.groups import describe_groups, read_groups, score_groups
from utils.evaluation.page import draw_comparison, draw_pictures, write_report
from utils.evaluation.subset import ScoredFaces, select_faces
from utils.uaffect import describe_affect
from utils.ucheckpoint import store_temperature
from utils.udata import RAFDB, AffectNet, EmotionFolders, FERPlus, at_most
from utils.uhardware import choose_hardware
from utils.uoptions import check_options
from utils.upipeline import FaceLoader
from utils.ureport import NUMBERS, describe, describe_calibration, number, prepare_folder, signed, span


@dataclass
class Evaluation:
    """What to score, and on what."""

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional]  # .pt or .pth files, or folders of ESR weights
    dataset: Literal["affectnet", "ferplus", "rafdb", "folder"]  # which faces; "folder": by emotion, or a CSV
    base_path_to_dataset: Path  # where they are, as in the training scripts
    split: str | None = None  # default: validation (AffectNet), test (the others)
    subset: Path | None = None  # score only the faces named in this file, one a line (lists of occlusion or pose)
    columns: str = ""  # names of columns in your tables: "image=file,emotion=label"
    names: str = ""  # names of classes in your folders and tables: "joy=Happiness,rage=Anger"
    predictions: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()  # answers of another tool: CSV of file and label
    groups: Path | None = None  # a table of file and groups (gender, age, ...): numbers for each
    corruptions: bool = False  # also on blurred, noisy, compressed, dark, small and covered pictures
    flip: bool = False  # average each face with its mirror image
    fit_temperature: bool = False  # fit the probabilities' temperature on these faces, and put it into the checkpoints
    seeds: bool = False  # the checkpoints are one experiment with several seeds: mean and standard deviation
    normalization: Literal["rgb", "bgr", "imagenet"] | None = None  # what published weights saw, if not the usual
    output: Path | None = None  # folder for the results; default: beside each checkpoint
    seed: int = 0  # of the bootstrap
    batch_size: int = 128  # faces in the network at a time
    cache_gib: float = 4.0  # GiB of memory for decoded pictures
    device: str = "auto"  # "auto", "cpu", "cuda", ...
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # "auto": bfloat16 where it is native


def load_faces(evaluation: Evaluation, classes: int) -> ScoredFaces:
    """Open the data set, AffectNet with 7 or 8 classes, and choose the faces of the subset."""
    root, split = evaluation.base_path_to_dataset, evaluation.split
    if evaluation.dataset == "affectnet":
        faces, rule = AffectNet(root, split := split or "validation", classes), "AffectNet's annotated expression"
    elif evaluation.dataset == "ferplus":
        faces, rule = FERPlus(root, split := split or "test"), "majority of the votes (FER+)"
    elif evaluation.dataset == "folder":
        faces = EmotionFolders(root, split, evaluation.columns, evaluation.names)
        split, rule = faces.split, "the emotion that folder or table names"
    else:
        faces, rule = RAFDB(root, split := split or "test"), "RAF-DB's basic emotion"
    subset = select_faces(faces, evaluation.subset) if evaluation.subset else None
    return ScoredFaces(subset.faces if subset else faces, split, rule, subset, root)


def print_result(result: ScoredCheckpoint, faces: ScoredFaces, folder: Path) -> None:
    """Print a checkpoint's numbers."""
    print(f"\n{result.path} on {faces.dataset.name}, n = {len(faces.dataset):,}")
    for name, metrics in result.metrics.items():
        others = [f"{NUMBERS[which]} {number(getattr(metrics, which), which, 2)}" for which in list(NUMBERS)[1:]]
        print(f"  {name:16s} {describe(metrics)}, {', '.join(others)}")
    known = {label: recall for label, recall in result.ensemble.recall.items() if recall is not None}
    print("  recall: " + ", ".join(f"{label} {recall:.1%}" for label, recall in known.items()))
    if result.calibrated:
        print(f"  {describe_calibration(result.temperature, result.ensemble, result.calibrated)}")
    if result.affect:
        print(f"  {describe_affect(result.affect)}")
    for line in describe_groups(result.groups) + (
        describe_corruptions(result.corruptions) if result.corruptions else []
    ):
        print(f"  {line}")
    print(f"  wrote {folder}: report.html, metrics.json, predictions.csv and pictures")


def print_comparison(comparison: Comparison, folder: Path) -> None:
    """Print mean and deviation over seeds, or the differences from the first checkpoint."""
    print()
    for name, summary in (comparison.seeds or {}).items():
        mean, deviation = number(summary.mean, name, 2), number(summary.deviation, name, 2)
        print(f"{NUMBERS[name]} {mean}, standard deviation {deviation} over {len(summary.values)} seeds")
    for variable, values in comparison.differing.items():
        print(f"the runs also differ in {variable}: {', '.join(map(str, values))}")
    for checkpoint, differences in (comparison.differences or {}).items():
        values = [
            f"{NUMBERS[name]} {signed(d.value, 2)} ({span(d.interval, digits=2)})" for name, d in differences.items()
        ]
        print(f"{checkpoint} minus the first, percentage points (95 % paired interval): {', '.join(values)}")
    for checkpoint, groups in comparison.groups.items():
        for (column, group), found in groups.items():
            value, interval = found["accuracy"]
            print(f"  {column} {group}: {checkpoint} {signed(value, 2)} accuracy ({span(interval, digits=2)})")
    print(f"wrote {folder}: report.html, metrics.json, predictions.csv and pictures")


def main(evaluation: Evaluation) -> None:
    """Score every checkpoint, then compare them."""
    check_options(evaluation)
    named = [path for path in evaluation.checkpoints if path.suffix.lower() in (".csv", ".tsv")]
    tables = [*evaluation.predictions, *named]
    checkpoints = [path for path in evaluation.checkpoints if path not in tables]
    paths = [*checkpoints, *tables]
    if not paths or (evaluation.seeds and tables):
        needed = (
            "at least one checkpoint, or a table by --predictions" if not paths else "checkpoints alone with --seeds"
        )
        raise ValueError(f"expected {needed}")
    names = name_checkpoints(paths)
    hardware = choose_hardware(evaluation.device, evaluation.precision, compile="off")
    if hardware.processes > 1:
        raise ValueError("evaluate.py runs in one process: start it with python, not with torchrun or accelerate")
    models = {path: load_model(path, normalization=evaluation.normalization) for path in checkpoints}
    provenances = {path: read_provenance(path) for path in checkpoints}
    if evaluation.seeds:
        check_seeds(names, list(models.values()), list(provenances.values()))
    faces = load_faces(evaluation, 8 if all(len(model.labels) > 7 for model in models.values()) else 7)
    if faces.subset and faces.subset.unknown:
        unknown = faces.subset.unknown
        print(f"{evaluation.subset}: {len(unknown):,} names are not in the data set, first: {', '.join(unknown[:3])}")
    answers = {path: read_answers(path, faces.dataset, evaluation.columns, evaluation.names) for path in tables}
    labels = {str(path): found.labels for path, found in (models | answers).items()}
    faces = choose_faces(faces, labels, list(answers.values()))
    if evaluation.fit_temperature:
        check_fit(models, faces.dataset)
    groupings = read_groups(evaluation.groups, faces.dataset, evaluation.columns) if evaluation.groups else []
    own = f"_{faces.dataset.source}" if evaluation.dataset == "folder" else ""  # there are many, each with its report
    ending = f"_on_{evaluation.dataset}{own}_{faces.split}"
    ending += f"_{evaluation.subset.stem}" if evaluation.subset else ""
    *folders, common_folder = choose_folders(paths, names, evaluation.output, ending)
    for folder in [*folders, common_folder] if len(paths) > 1 else folders:
        prepare_folder(folder)

    computed = describe_computation(hardware, evaluation.flip, evaluation.normalization)
    given = {"flip": evaluation.flip, "normalization": evaluation.normalization}
    facts = {**faces.as_dict(), "computed": computed, **given, "bootstrap_seed": evaluation.seed}
    load = partial(
        FaceLoader, batch_size=evaluation.batch_size, shuffle=False, hardware=hardware, cache_gib=evaluation.cache_gib
    )
    to_spoil = load(at_most(faces.dataset, SAMPLE, evaluation.seed), SIDE) if evaluation.corruptions else None
    asked = {"flip": evaluation.flip, "fit": evaluation.fit_temperature}
    loaders, pages = {}, []
    for path, name, folder in zip(paths, names, folders, strict=True):
        if path in answers:
            result = score_answers(answers[path], name, faces.dataset, evaluation.seed)
        else:
            model = models[path].to(hardware.device, memory_format=hardware.memory_format)
            if model.image_size not in loaders:  # pictures are decoded once for all networks of the same input size
                loaders[model.image_size] = load(faces.dataset, model.image_size)
            loader = loaders[model.image_size]
            result = evaluate_model(model, path, name, provenances[path], loader, hardware, evaluation.seed, **asked)
            if evaluation.fit_temperature:
                store_temperature(path, result.temperature)
            if to_spoil:
                result = replace(result, corruptions=sweep(model, result.labels, to_spoil, hardware, evaluation.seed))
        result = replace(result, groups=score_groups(result, groupings, evaluation.seed))
        pages.append((result, draw_pictures(result, faces, folder)))
        write_predictions(result, faces, folder / "predictions.csv")
        write_json(result.as_dict() | facts, folder / "metrics.json")
        write_report(folder / "report.html", faces, pages[-1:], computed, evaluation.seed)
        print_result(result, faces, folder)

    if len(pages) > 1:
        results = [result for result, _ in pages]
        comparison = compare(results, evaluation.seeds, evaluation.seed, groupings)
        pictures = draw_comparison(results, comparison, faces, common_folder)
        write_choices(results, faces, common_folder / "predictions.csv")
        content = {"checkpoints": {result.name: result.as_dict() for result in results}, **comparison.as_dict()}
        write_json(facts | content, common_folder / "metrics.json")
        write_report(common_folder / "report.html", faces, pages, computed, evaluation.seed, comparison, pictures)
        print_comparison(comparison, common_folder)


if __name__ == "__main__":
    with one_line_errors("interrupted; a folder without report.html is not complete"):
        main(tyro.cli(Evaluation))
