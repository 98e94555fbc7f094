"""All runs of the study, one after the other: what is compared, on which budget, with which seeds.

Run:  python -m results.study                 those that are not finished; stop it at any time, run it again to continue
      python -m results.study --list          the commands, and which are finished
      python -m results.study --only bagging  some settings, or some runs (bagging_0); two drivers must not share a run
      python -m results.study --tables        tables.md and the plots, from the finished runs
Every setting is run with the first seed before any with the second. A finished run leaves metrics.json, variables.json,
history.csv, predictions.npz and run.json (command, commit, duration) in results/runs/<setting>_<seed>/.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import tyro

from diversified_fer.console import one_line_errors
from diversified_fer.writing import write_json
from results.copies import write_copies
from results.predictions import predict_valid, write_predictions
from results.tables import MEMBERS, SINGLE, write_report
from utils.uhardware import choose_hardware

HERE = Path(__file__).parent
COPIED = ("metrics.json", "variables.json", "history.csv", "predictions.npz")  # the last one last


@dataclass
class Study:
    """The budget that all runs share, and how to run them."""

    # Budget
    base_path_to_dataset: Path = Path("data/FER_2013/Dataset")  # folder with Images/ and Labels/
    max_training_images: int | None = 5000  # a random part of the training faces, another for each seed; None for all
    path_to_base: Path | None = None  # network whose trained base ESR keeps as it is; None trains the base too
    base_views: int = 6  # augmented views of each face that a kept base's maps are stored of
    max_training_epoch: int = 12  # epochs
    validation_interval: int = 3  # epochs between validations
    weight_averaging: float = 0.99  # decay per step of the weights' average that ESR keeps: about the last 100 steps
    image_size: int = 64  # pixels that ESR sees; its unpadded convolutions need 60
    manet_image_size: int = 64  # pixels that MA-Net sees, a multiple of 16
    batch_size: int = 32  # faces per step
    seeds: tuple[int, ...] = (0, 1, 2)  # each setting once per seed
    # Running
    only: tuple[str, ...] = ()  # settings ("bagging") or runs ("bagging_0") to run; everything where there is none
    threads: int = 2  # of each run on the CPU
    workers: int = 1  # runs at a time
    niceness: int = 19  # how far other programs go first; 19 is the most
    device: str = "auto"  # "auto" takes a GPU where there is one
    precision: str = "auto"  # "float32" on a CPU with bfloat16 compares with runs of one without
    base_path_experiment: Path = Path("checkpoint/study")  # where runs are while they train
    runs: Path = HERE / "runs"  # where finished runs are kept
    keep_checkpoints: bool = False  # off, the weights of a finished run are removed: 150 MB each
    # Instead of running
    list: bool = False  # print the commands
    tables: bool = False  # write tables.md and the plots next to `runs`


class Setting(NamedTuple):
    """What is compared: a name, the flags that make it, and the module that is run."""

    name: str
    flags: dict[str, Any]
    module: str = "results.experiment"


def diversified(measure: str, weight: float, gamma: float | str = "median", **more: Any) -> dict[str, Any]:
    """Return the flags of a diversity term."""
    return {"diversity": measure, "diversity_weight": weight, "diversity_gamma": gamma} | more


SETTINGS = (
    # The claim: attention maps that are made to differ
    Setting("attention", {}),
    Setting("no_attention", {"attention": False}),
    Setting("published", diversified("det", 1, 10, diversity_zero_diagonal=True)),
    Setting("unit_diagonal", diversified("det", 1, 10)),
    Setting("normalized", diversified("det", 1, 10, diversity_normalize=True)),
    Setting("det_median_0.1", diversified("det", 0.1)),
    Setting("det_median_1", diversified("det", 1)),
    Setting("logdet_median_0.1", diversified("logdet", 0.1)),
    Setting("logdet_median_1", diversified("logdet", 1)),
    Setting("direct_median_0.1", diversified("direct", 0.1)),
    Setting("direct_median_1", diversified("direct", 1)),
    # Other ideas at the same cost, each alone, with attention and without diversified maps
    Setting("negative_correlation", {"negative_correlation": 0.5}),
    Setting("logits_logdet", diversified("logdet", 0.1, diversity_of="logits")),
    Setting("errors_logdet", diversified("logdet", 0.1, diversity_of="errors")),
    Setting("bagging", {"bagging": True}),
    Setting("branch_dropout", {"branch_dropout": 0.3}),
    Setting("branch_erasing", {"branch_erasing": 0.25}),
    Setting("distillation", {"distillation": 0.5}),
    Setting("joint_half", {"joint": 0.5}),
    Setting("joint", {"joint": 1}),
    # The upper bound: networks of one branch, trained apart, MEMBERS for every seed; averaged for the tables
    Setting(SINGLE, {"num_branches_trained_network": 1}),
    # MA-Net, whose patches and branches are compared
    Setting("manet", {"diversity": "none"}, "manet_ferplus"),
    Setting("manet_logdet_median_0.1", diversified("logdet", 0.1), "manet_ferplus"),
)


class Planned(NamedTuple):
    """One run: its name, its setting's, and its command without what may change between two starts (where, and how)."""

    name: str
    setting: str
    command: list[str]


def plan(study: Study) -> list[Planned]:
    """Return all runs in order: every setting with the first seed, then with the next.

    Raises:
        ValueError: when `study.only` names what is neither a setting nor a run.
    """
    runs = [
        Planned(f"{setting.name}_{run_seed}", setting.name, command_of(setting, run_seed, study))
        for seed in study.seeds
        for setting in SETTINGS
        for run_seed in (range(MEMBERS * seed, MEMBERS * (seed + 1)) if setting.name == SINGLE else (seed,))
    ]
    names = {name for run in runs for name in (run.name, run.setting)}
    if unknown := sorted(set(study.only) - names):
        raise ValueError(f"only names {', '.join(unknown)}; settings are {', '.join(s.name for s in SETTINGS)}")
    return [run for run in runs if not study.only or not {run.name, run.setting}.isdisjoint(study.only)]


def command_of(setting: Setting, seed: int, study: Study) -> list[str]:
    """Return the command of a run, to be typed in the repository's folder."""
    manet = setting.module.startswith("manet")
    flags = {
        "base_path_to_dataset": study.base_path_to_dataset,
        "name_experiment": f"{setting.name}_{seed}",
        "max_training_epoch": study.max_training_epoch,
        "validation_interval": study.validation_interval,
        "image_size": study.manet_image_size if manet else study.image_size,
        "batch_size": study.batch_size,
        "seed": seed,
    }
    if study.precision != "auto":
        flags["precision"] = study.precision
    if study.max_training_images is not None:
        flags["max_training_images"] = study.max_training_images
    if manet:  # the recipe of results/experiment.py, as far as this script has it
        decays = -(-study.max_training_epoch // 3)  # rounded up
        flags |= {"label_rule": "crossentropy", "augmentation": 0.67, "lr_decay_interval": decays}
    else:
        flags["weight_averaging"] = study.weight_averaging
        flags["faces_seed"] = seed // MEMBERS if setting.name == SINGLE else seed  # networks of an ensemble share them
        if study.path_to_base is not None:
            flags |= {"path_to_base": study.path_to_base, "base_views": study.base_views}
    words = ["python", "-m", setting.module]
    for name, value in (flags | setting.flags).items():
        option = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    return words


def is_finished(run: Planned, study: Study) -> bool:
    """Tell whether a run is kept already.

    Raises:
        ValueError: when what is kept was run by another command, for example on another budget.
    """
    note = study.runs / run.name / "run.json"
    if not note.exists():
        return False
    before = json.loads(note.read_text("utf-8"))["command"]
    if before != " ".join(run.command):
        raise ValueError(
            f"{note} was begun by another command: {before}; now it is {' '.join(run.command)}. Choose another folder "
            "with --runs and --base-path-experiment, or remove this one and its checkpoint to run it again"
        )
    return (note.parent / "predictions.npz").exists()  # written last


def current_commit() -> str:
    """Return the commit that is checked out, with "-dirty" where Python code differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, encoding="utf-8", check=True).stdout

    return git("rev-parse", "HEAD").strip() + ("-dirty" if git("status", "--porcelain", "--", ":/*.py").strip() else "")


def execute(run: Planned, study: Study, scoring: Lock) -> str | None:
    """Train to the end, or on from where it stopped, and keep what the tables need; returns what went wrong."""
    work, kept = study.base_path_experiment / run.name, study.runs / run.name
    note = {"commits": [], "seconds": 0.0}
    if (kept / "run.json").exists():
        note = json.loads((kept / "run.json").read_text("utf-8"))
    commit = current_commit()
    note["command"] = " ".join(run.command)
    note["commits"] += [commit] if commit not in note["commits"] else []
    kept.mkdir(parents=True, exist_ok=True)
    write_json(note, kept / "run.json")
    work.mkdir(parents=True, exist_ok=True)
    where = ["--base-path-experiment", str(study.base_path_experiment), "--device", study.device]
    began = time.perf_counter()
    with (work.parent / f"{run.name}.log").open("a", encoding="utf-8") as log:
        finished = subprocess.run(
            [sys.executable, *run.command[1:], *where], cwd=HERE.parent, stdout=log, stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(study.threads)},
        )  # fmt: skip
    note["seconds"] += time.perf_counter() - began
    write_json(note, kept / "run.json")
    if finished.returncode:
        return f"{run.name} ended with {finished.returncode}; see {log.name}"
    if not (work / "predictions.npz").exists():  # MA-Net's script writes none
        with scoring:
            hardware = choose_hardware(study.device, study.precision, alone=True)
            stored = predict_valid(work / "last.pt", study.base_path_to_dataset, hardware)
        write_predictions(stored, work / "predictions.npz")
    for name in COPIED:
        shutil.copyfile(work / name, kept / name)
    if not study.keep_checkpoints:
        shutil.rmtree(work)
    return None


def main(study: Study) -> None:
    """Run, list, or write the tables."""
    runs = plan(study)
    if study.tables:
        write_report(study.runs, study.seeds, [setting.name for setting in SETTINGS])
        return
    waiting = [run for run in runs if not is_finished(run, study)]
    if study.list:
        for run in runs:
            print(f"{'waits   ' if run in waiting else 'finished'}  {' '.join(run.command)}")
        return
    print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished")
    os.nice(study.niceness)
    write_copies(study.base_path_to_dataset, study.runs / "copies.json")
    failed, scoring = [], Lock()
    with ThreadPoolExecutor(study.workers) as pool:
        for run, problem in zip(waiting, pool.map(lambda run: execute(run, study, scoring), waiting), strict=True):
            print(problem or f"{run.name} is finished", flush=True)
            failed += [problem] if problem else []
    if failed:
        raise SystemExit(f"{len(failed)} of {len(waiting)} runs failed; the same command continues them")


if __name__ == "__main__":
    with one_line_errors("interrupted; the same command continues after the last whole epoch"):
        main(tyro.cli(Study))
