"""What a run leaves on disk, written so that a run killed at any moment continues where it stopped.

A folder `<base_path_experiment>/<script>/<name_experiment>/` holds `last.pt` (everything needed to continue), `best.pt`
(the best network of the newest stage), `history.csv` and the pictures. Every file is written beside its place and
renamed into it, so that no reader ever sees half of one.
"""

import errno
import hashlib
import os
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from diversified_fer.writing import new_table, remove_unfinished, write_atomically
from models.classifier import ExpressionClassifier
from models.files import shown
from models.weights import (
    FORMAT,
    CheckpointError,
    build_model,
    check_temperature,
    check_version,
    describe_model,
    load_state,
    read_tensors,
)

RUN_FORMAT = 2  # of the training state in last.pt; 2: schedules count steps

T = TypeVar("T")
_MAY_CHANGE = object()
MayChange = Annotated[T, _MAY_CHANGE]
"""Marks a variable of an experiment that a continued run may have another value of.

It does not alter what the run computes, or only how long it goes on: `device: MayChange[str] = "auto"`.
"""

ENTRIES = {  # of last.pt, beside the description of its network, by kind
    dict: ("state_dict", "optimizer", "scheduler", "average", "variables"),
    list: ("random_state_cuda", "history"),
    Tensor: ("random_state",),
    int: ("stage", "epoch"),
    float: ("best",),
}
START_ANEW = "remove the folder, or choose another name_experiment"
PATIENCE = 10  # seconds for another process to leave the folder; workers of a killed one outlive it by five
LARGEST = 1e9  # more than any count of steps or setting of an optimizer


class Run:
    """An experiment on disk: its folder, how far it is, and what it has measured.

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
        last_path, best_path: the state after the newest epoch, and the best network of the newest stage.

    Raises:
        CheckpointError: when `last.pt` is damaged, was written with other variables, or `resume` is off and it exists;
            when one of `last.pt` and `best.pt` is there without the other; or when another process trains there.
        OSError: when the folder cannot be made or written to.
    """

    def __init__(self, directory: Path, variables: Any, resume: bool = True, writes: bool = True) -> None:
        self.directory, self.writes = directory, writes
        self.last_path, self.best_path = directory / "last.pt", directory / "best.pt"
        given = asdict(variables) if is_dataclass(variables) else variables
        self.variables = _plain(given)
        self.defaults, self.may_change = _declared(variables)
        files = {name: value for name, value in given.items() if isinstance(value, Path) and value.exists()}
        self.files = {name: _fingerprint(path) for name, path in files.items() if name not in self.may_change}
        self.history: list[dict[str, Any]] = []
        self.best = float("-inf")
        self.stage = 0
        self._resumed: dict[str, Any] | None = None
        if writes:
            self._lock = _lock(directory)
        if self.last_path.exists():
            if not resume:
                raise CheckpointError(
                    f"{self.last_path.absolute()} holds an experiment already and resume is off; nothing was touched. "
                    f"To train again, {START_ANEW}"
                )
            begun = self._read_last()
            if begun["history"]:
                if begun["best"] > self.best and not self.best_path.exists():
                    raise CheckpointError(
                        f"{self.last_path.absolute()} continues an experiment whose best.pt is gone; nothing was "
                        f"touched. Put best.pt back, or start anew: {START_ANEW}"
                    )
                files = begun.get("files")  # since there are start weights that may move
                self._compare_variables(begun["variables"], files if isinstance(files, dict) else {})
                self._resumed, self.history, self.stage = begun, begun["history"], begun["stage"]
                print(f"continue {directory} after stage {self.stage}, epoch {begun['epoch']}")
            else:  # stopped in its first epoch: what it would go on from is what it begins with
                print(f"{directory} has no finished epoch yet: it begins anew")
        elif self.best_path.exists():
            raise CheckpointError(
                f"{self.best_path.absolute()} is there without the last.pt that would continue its experiment, and a "
                "new run would replace it; nothing was touched. Choose another name_experiment, or move best.pt away"
            )
        if writes:
            remove_unfinished(directory)  # of a run that was killed while it saved

    def is_past(self, stage: int) -> bool:
        """Tell whether a resumed run had begun a later stage than this one."""
        return stage < self.stage

    def check_finished(self) -> None:
        """Raise CheckpointError when the run on disk has gone further than this script asked for."""
        if self._resumed is not None:
            raise CheckpointError(
                f"{self.last_path} is at stage {self.stage} already, further than this script goes: set "
                "num_branches_trained_network as high as it was (and affect of esr_affectnet.py to True if it was), or "
                "choose another name_experiment"
            )

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
            raise CheckpointError(
                f"{self.last_path} is at stage {content['stage']}, this script has reached {stage}; nothing was "
                "touched. With grow off the number of branches cannot change: put num_branches_trained_network back to "
                "what it was, or choose another name_experiment"
            )
        load_state(model, content["state_dict"], self.last_path)
        if average is not None:
            load_state(average, content["average"], self.last_path)
        try:
            _load_optimizer(optimizer, content["optimizer"])
            _load_scheduler(scheduler, content["scheduler"])
            torch.set_rng_state(content["random_state"])
            for device, state in enumerate(content["random_state_cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state, device)
        except Exception as error:  # PyTorch checks little: what does not fit raises whatever it leads to
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            raise CheckpointError(
                f"{self.last_path} holds no training state that this experiment can continue ({shown(reason, 200)}); "
                f"to start anew, {START_ANEW}"
            ) from error
        self.best = content["best"]
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
            "files": self.files,
            "run_format": RUN_FORMAT,
        }
        write_atomically(self.last_path, lambda path: torch.save(content, path))
        columns = list(dict.fromkeys(key for row in self.history for key in row))
        with new_table(self.directory / "history.csv") as table:
            table.writerows([columns, *([row.get(column) for column in columns] for row in self.history)])

    def save_best(self, model: ExpressionClassifier, **measured: Any) -> None:
        """Write `best.pt`: the network and, as plain values, how it was found."""
        if not self.writes:
            return
        content = describe_model(model) | {"measured": measured, "variables": self.variables}
        write_atomically(self.best_path, lambda path: torch.save(content, path))

    def load_best(self, model: ExpressionClassifier) -> None:
        """Put the weights of `best.pt` into a network."""
        load_state(model, _entry(read_tensors(self.best_path), "state_dict", dict, self.best_path), self.best_path)

    def read_best(self) -> tuple[ExpressionClassifier, dict[str, Any]]:
        """Build the best network from disk, in evaluation mode; returns it and how it was found."""
        content = read_tensors(self.best_path)
        return build_model(content, self.best_path).eval(), _entry(content, "measured", dict, self.best_path)

    def read_last(self) -> ExpressionClassifier:
        """Build the network of the last epoch from disk, in evaluation mode; with averaged weights where there are."""
        return build_model(read_tensors(self.last_path), self.last_path).eval()

    def _read_last(self) -> dict[str, Any]:
        content = read_tensors(self.last_path)
        if content.get("format") != FORMAT:
            raise CheckpointError(f"{self.last_path} is no checkpoint of this project; {START_ANEW}")
        check_version(content, self.last_path)
        if "random_state" not in content:
            raise CheckpointError(f"{self.last_path} holds a network but no training state; {START_ANEW}")
        if content.get("run_format") != RUN_FORMAT:
            raise CheckpointError(
                f"{self.last_path} was written by another version of this project, whose training cannot be continued "
                f"here (training state {content.get('run_format', 1)!r}, this version reads {RUN_FORMAT}). Nothing was "
                "touched: start anew under another name_experiment, or check out the version that wrote the file; "
                "best.pt next to it can be evaluated and fine-tuned as it is"
            )
        for kind, names in ENTRIES.items():
            for name in names:
                _entry(content, name, kind, self.last_path)
        rows = content["history"]
        if not all(isinstance(row, dict) for row in rows) or not _is_plain([content["variables"], rows]):
            raise CheckpointError(
                f"{self.last_path}: its variables or history are no plain values; to start anew, {START_ANEW}"
            )
        return content

    def _compare_variables(self, written: dict[str, Any], files: dict[str, str]) -> None:
        """Raise unless a file was written with these variables; one that it does not know had its default then.

        A variable that names a file, such as start weights, may name the same content elsewhere.
        """
        assumed = {key: value for key, value in self.defaults.items() if key not in written}
        before, now = assumed | written, self.variables
        surplus = sorted(before.keys() - now.keys())
        if surplus:
            listing = ", ".join(f"{key} = {before[key]!r}" for key in surplus)
            raise CheckpointError(
                f"{self.last_path} was written by an older or newer version of this script, with the "
                f"variable{'s' if len(surplus) > 1 else ''} {listing}, which this version does not have. Nothing was "
                "touched. Start anew under another name_experiment, or check out the version that wrote the file"
            )
        changed = [key for key in sorted(now.keys() - self.may_change) if before.get(key) != now[key]]
        changed = [key for key in changed if key not in files or files[key] != self.files.get(key)]
        if changed:
            older = {key: " (its default: the file is older than this variable)" for key in assumed}
            listing = ", ".join(
                f"{key} was {before.get(key)!r}{older.get(key, '')} and is {now.get(key)!r}" for key in changed
            )
            raise CheckpointError(
                f"{self.last_path} belongs to an experiment with other variables: {listing}. Nothing was touched. "
                "Choose another name_experiment, or put the variables back to continue it"
            )


def store_temperature(path: Path, temperature: float) -> None:
    """Put a network's temperature into its checkpoint, at once and with nothing else changed.

    Raises:
        CheckpointError: for a file that this project did not write.
    """
    content = {} if path.is_dir() else read_tensors(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} holds published weights, which have no place for a temperature; it can be fitted for a checkpoint "
            "that this project wrote"
        )
    content["temperature"] = check_temperature(temperature, path)
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def _plain(value: Any) -> Any:
    """Turn paths into text and tuples into lists, so that a checkpoint holds plain values only."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _lock(directory: Path) -> FileLock:
    """Make an experiment's folder, and keep other processes out of it as long as the lock lives; it lies beside."""
    directory = directory.absolute()
    lock = FileLock(directory.with_name(f".{directory.name}.lock"), PATIENCE, is_singleton=True)  # per process
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        lock.acquire()
    except Timeout:
        raise CheckpointError(
            f"another process trains in {directory}; wait until it has ended, or choose another name_experiment"
        ) from None
    except NotImplementedError:
        print(f"{directory} is on a file system without locks: see that no other process trains there")
    except OSError as error:
        raise OSError(
            f"{directory} cannot be a folder for this experiment ({error.strerror}); set "
            "base_path_experiment or name_experiment to another"
        ) from error
    return lock


def _fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder and their names."""
    digest = hashlib.sha256()
    for file in sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]:
        if file != path:
            digest.update(file.relative_to(path).as_posix().encode("utf-8", "surrogateescape"))
        with file.open("rb") as content:
            while part := content.read(2**20):
                digest.update(part)
    return digest.hexdigest()


def _declared(variables: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the defaults of a dataclass's fields, as plain values, and the names of those marked `MayChange`."""
    if not is_dataclass(variables):
        return {}, set()
    known = {field.name: field.default for field in fields(variables) if field.default is not MISSING}
    made = {field.name: field.default_factory() for field in fields(variables) if field.default_factory is not MISSING}
    kinds = get_type_hints(type(variables), include_extras=True)
    marked = {name for name, kind in kinds.items() if _MAY_CHANGE in getattr(kind, "__metadata__", ())}
    return _plain(known | made), marked


def _entry(content: dict[str, Any], name: str, kind: type, path: Path) -> Any:
    """Return an entry of a checkpoint that must be there and of a kind; `path` is for the message."""
    value = content.get(name)
    whole = type(value) is int and kind is float
    if name not in content or not (isinstance(value, kind) or whole) or (kind is int and type(value) is not int):
        found = f"{name} of type {type(value).__name__}" if name in content else f"no {name}"
        raise CheckpointError(
            f"{path} has {found}, expected {kind.__name__}: it is not whole, or another program wrote it; copy it "
            f"again, or, to start anew, {START_ANEW}"
        )
    return value


def _is_plain(value: Any, depth: int = 8) -> bool:
    """Tell whether a value is made of lists, dicts with names, numbers, text and None, not too deep."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and _is_plain(item, depth - 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _resembles(value: Any, own: Any) -> bool:
    """Tell whether a value of an optimizer or a schedule is of the kind that it has today."""
    if own is None or isinstance(own, bool):
        return value is None or isinstance(value, bool | int | float)
    if isinstance(own, dict):
        return isinstance(value, dict) and all(key in value and _resembles(value[key], own[key]) for key in own)
    if isinstance(own, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(own) and all(map(_resembles, value, own))
    if isinstance(own, int | float):
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return value == own or (abs(value) < LARGEST and (value >= 0 or not 0 <= own < LARGEST))
    if isinstance(own, Tensor):
        return _is_ordinary(value) and value.shape == own.shape
    return type(value) is type(own)


def _is_ordinary(value: Any) -> bool:
    """Tell whether a value is a tensor of real, finite numbers in memory."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    return value.dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16) and bool(value.isfinite().all())


def _load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state; raise ValueError where a step would fail on it."""
    own = optimizer.state_dict()["param_groups"]
    for given, group in zip(state["param_groups"], own, strict=True):
        needed = [key for key, value in group.items() if value is not None and not isinstance(value, bool)]
        wrong = [key for key in needed if key not in given]  # versions of PyTorch add switches to groups, no numbers
        wrong += [key for key in group if key in given and not _resembles(given[key], group[key])]
        wrong += [key for key in given if key == "betas" and max(given[key]) > 1]  # shares, which a schedule may move
        if wrong:
            raise ValueError(f"the optimizer's {', '.join(dict.fromkeys(wrong))} differ from this experiment's")
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if name == "step":
                fits = _resembles(value, 0) or (_is_ordinary(value) and value.numel() == 1 and value >= 0)
            else:
                fits = value is None or (_is_ordinary(value) and value.shape == parameter.shape)
            if not fits:
                raise ValueError(f"the optimizer's {name} is not of the weights that it belongs to")
    if len({tuple(sorted(values)) for values in optimizer.state.values()}) > 1:
        raise ValueError("the optimizer knows more of some weights than of others")


def _load_scheduler(scheduler: LRScheduler, state: dict[str, Any]) -> None:
    """Load a schedule's state; raise ValueError where it is of another kind. Names of other versions are left out."""
    own = scheduler.state_dict()
    differing = [key for key in ("total_steps", "step_size") if key in own and state.get(key) != own[key]]
    if differing:
        key = differing[0]
        raise ValueError(
            f"its schedule has {key.replace('_', ' ')} {state.get(key)}, that of this run {own[key]}: neither the "
            "length of a one-cycle schedule nor the number of training faces can change"
        )
    wrong = [key for key in own if key in state and not _resembles(state[key], own[key])]
    if not 0 <= state["last_epoch"] <= own.get("total_steps", LARGEST):
        wrong.append("last_epoch")
    if wrong:
        raise ValueError(f"the schedule's {', '.join(dict.fromkeys(wrong))} differ from this experiment's")
    scheduler.load_state_dict({key: value for key, value in state.items() if key in own})
