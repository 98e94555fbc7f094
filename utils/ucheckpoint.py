"""What a run leaves on disk, written so that a run killed at any moment continues where it stopped.

A folder `<base_path_experiment>/<script>/<name_experiment>/` holds `last.pt` (everything needed to continue), `best.pt`
(the best network of the newest stage), `history.csv` and the pictures. Every file is written beside its place and
renamed into it, so that no reader ever sees half of one.
"""

import csv
import glob
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from models.classifier import ExpressionClassifier
from models.weights import FORMAT, CheckpointError, build_model, check_version, describe_model, load_state, read_tensors

DAY = 86_400  # seconds
LENGTHS = {"max_finetune_epoch", "max_training_epoch"}
MAY_CHANGE = {  # variables that do not alter what a continued experiment computes, or only how long it goes on
    "base_path_to_dataset",
    "base_path_experiment",
    "base_path_to_cache",
    "cache",
    "cache_gib",
    "device",
    "resume",
} | LENGTHS


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` with a temporary path in the same folder, then put the file in its place in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")  # of this process alone
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):  # of processes that were killed
        if time.time() - leftover.stat().st_mtime > DAY:
            leftover.unlink(missing_ok=True)
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


class Run:
    """An experiment on disk: its folder, where it stands, and what it has measured.

    A stage is a part of the experiment with an optimizer of its own (a new branch, in ESR). Its order on disk matters:
    a new stage's `last.pt` is written before its first `best.pt` replaces that of the stage before, because continuing
    at the end of a stage needs the best network of that stage.

    Args:
        directory: the run's folder; created when missing.
        variables: the script's experiment variables (a dataclass), kept in `last.pt`.
        resume: continue from `last.pt` where there is one.
        writes: off in all but the first of several processes.

    Attributes:
        history: one row of plain values per epoch.
        best: best validation accuracy of the current stage so far.

    Raises:
        CheckpointError: when `last.pt` is damaged, was written with other variables, or `resume` is off and it exists.
    """

    def __init__(self, directory: Path, variables: Any, resume: bool = True, writes: bool = True) -> None:
        self.directory, self.writes = directory, writes
        self.variables = _plain(asdict(variables) if is_dataclass(variables) else variables)
        self.history: list[dict[str, Any]] = []
        self.best = float("-inf")
        self.stage = 0
        self._resumed: dict[str, Any] | None = None
        if self.last_path.exists():
            if not resume:
                raise CheckpointError(
                    f"{self.last_path.absolute()} holds an experiment already and resume is off; nothing was touched. "
                    "Choose another name_experiment, or remove that folder to train again"
                )
            self._resumed = self._read_last()
            self.history = self._resumed["history"]
            self.stage = self._resumed["stage"]
            print(f"continue {directory} after stage {self.stage}, epoch {self._resumed['epoch']}")
        if writes:
            directory.mkdir(parents=True, exist_ok=True)
            for unfinished in directory.glob(".*.partial"):  # of a run that was killed while it saved
                unfinished.unlink()

    @property
    def last_path(self) -> Path:
        """Where the state after the newest epoch is."""
        return self.directory / "last.pt"

    @property
    def best_path(self) -> Path:
        """Where the best network of the newest stage is."""
        return self.directory / "best.pt"

    def is_past(self, stage: int) -> bool:
        """Tell whether a resumed run had begun a later stage than this one."""
        return stage < self.stage

    def begin_stage(
        self,
        stage: int,
        model: ExpressionClassifier,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        average: AveragedModel | None = None,
    ) -> int:
        """Start a stage, or take it up where `last.pt` left it; returns the number of epochs already done."""
        if self._resumed is None:
            self.stage, self.best = stage, float("-inf")
            self.save_last(0, model, optimizer, scheduler, average)
            return 0
        content, self._resumed = self._resumed, None
        if content["stage"] != stage:
            raise CheckpointError(f"{self.last_path} is at stage {content['stage']}, this script has reached {stage}")
        load_state(model, content["state_dict"], self.last_path)
        optimizer.load_state_dict(content["optimizer"])
        scheduler.load_state_dict(content["scheduler"])
        if average is not None:
            load_state(average, content["average"], self.last_path)
        self.best = content["best"]
        torch.set_rng_state(content["random_state"])
        for device, state in enumerate(content["random_state_cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)
        return content["epoch"]

    def save_last(
        self,
        epoch: int,
        model: ExpressionClassifier,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        average: AveragedModel | None = None,
    ) -> None:
        """Write `last.pt` and `history.csv` after an epoch."""
        if not self.writes:
            return
        content = describe_model(model) | {
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "average": average.state_dict() if average else {},
            "random_state": torch.get_rng_state(),
            "random_state_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "stage": self.stage,
            "epoch": epoch,
            "best": self.best,
            "history": self.history,
            "variables": self.variables,
        }
        write_atomically(self.last_path, lambda path: torch.save(content, path))
        self._write_history()

    def save_best(self, model: ExpressionClassifier, **measured: Any) -> None:
        """Write `best.pt`: the network and, as plain values, how it was found."""
        if not self.writes:
            return
        content = describe_model(model) | {"measured": measured, "variables": self.variables}
        write_atomically(self.best_path, lambda path: torch.save(content, path))

    def load_best(self, model: ExpressionClassifier) -> None:
        """Put the weights of `best.pt` into a network."""
        load_state(model, read_tensors(self.best_path)["state_dict"], self.best_path)

    def read_best(self) -> tuple[ExpressionClassifier, dict[str, Any]]:
        """Build the best network from disk, in evaluation mode; returns it and how it was found."""
        content = read_tensors(self.best_path)
        return build_model(content, self.best_path).eval(), content["measured"]

    def read_last(self) -> ExpressionClassifier:
        """Build the network of the last epoch from disk, in evaluation mode; with averaged weights where there are."""
        return build_model(read_tensors(self.last_path), self.last_path).eval()

    def _read_last(self) -> dict[str, Any]:
        content = read_tensors(self.last_path)
        if content.get("format") == FORMAT:
            check_version(content, self.last_path)
        if "random_state" not in content:
            raise CheckpointError(f"{self.last_path} holds a network but no training state; remove it or rename it")
        before, now = content["variables"], self.variables
        changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        fixed = LENGTHS if now.get("schedule") == "one_cycle" else set()  # its rates depend on the length
        changed = [key for key in changed if key not in MAY_CHANGE - fixed]
        if changed:
            listing = ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed)
            raise CheckpointError(
                f"{self.last_path} belongs to an experiment with other variables: {listing}. Nothing was touched. "
                "Choose another name_experiment, or put the variables back to continue it"
            )
        return content

    def _write_history(self) -> None:
        columns = list(dict.fromkeys(key for row in self.history for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self.history)
        write_atomically(self.directory / "history.csv", lambda path: path.write_text(text.getvalue()))


def write_json(content: Any, path: Path) -> None:
    """Write plain values as indented JSON, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content, indent=1) + "\n"))


def _plain(value: Any) -> Any:
    """Turn paths into text and tuples into lists, so that a checkpoint holds plain values only."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
