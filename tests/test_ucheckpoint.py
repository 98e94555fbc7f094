"""What a run leaves on disk: variables of other versions, files that are not whole, disks that are full."""

import errno
import gc
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

from diversified_fer.writing import write_atomically, write_json
from models import CheckpointError
from models.weights import describe_model
from utils import ucheckpoint
from utils.ucheckpoint import Run

ROOT = Path(__file__).parents[1]


@dataclass
class Experiment:
    learning_rate: float = 0.1
    zoom: float = 0.2
    folders: list[Path] = field(default_factory=lambda: [Path("a"), Path("b")])
    max_training_epoch: int = 3


class Small(nn.Module):
    """What `describe_model` and a run need of a network."""

    architecture, labels, image_size, arguments, temperature = "Small", ("a", "b"), 8, {}, 1.0

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)


def parts():
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5)


def begin(folder: Path, variables=None) -> Path:
    run, (model, optimizer, scheduler) = Run(folder, variables or Experiment()), parts()
    run.begin_stage(1, model, optimizer, scheduler)
    model.fc(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    run.history.append({"epoch": 1, "loss": 2.0, "größe": 1})
    run.save_last(1, model, optimizer, scheduler)
    return run.last_path


def change(path: Path, edit) -> None:
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


# Variables of other versions


@pytest.mark.parametrize("name", ["zoom", "folders", "max_training_epoch"])
def test_a_variable_that_an_older_file_does_not_know_had_its_default(tmp_path, name):
    last = begin(tmp_path / "run")
    change(last, lambda content: content["variables"].pop(name))
    run, (model, optimizer, scheduler) = Run(tmp_path / "run", Experiment()), parts()
    assert run.begin_stage(1, model, optimizer, scheduler) == 1
    assert run.history == [{"epoch": 1, "loss": 2.0, "größe": 1}]
    assert (tmp_path / "run" / "history.csv").read_bytes() == "epoch,loss,größe\r\n1,2.0,1\r\n".encode()


def test_a_default_that_is_not_todays_value_counts_as_a_change(tmp_path):
    last = begin(tmp_path / "run", Experiment(zoom=0.5))
    change(last, lambda content: content["variables"].pop("zoom"))
    before = last.read_bytes()
    with pytest.raises(
        CheckpointError, match=r"zoom was 0\.2 \(its default: .* older .*\) and is 0\.5\. Nothing was touched"
    ):
        Run(tmp_path / "run", Experiment(zoom=0.5))
    assert last.read_bytes() == before


def test_a_run_that_finished_no_epoch_begins_anew_whatever_its_variables(tmp_path, capsys):
    """As after a first batch that was too large for the GPU: the next start has a smaller one."""
    run, (model, optimizer, scheduler) = Run(tmp_path, Experiment()), parts()
    run.begin_stage(1, model, optimizer, scheduler)
    run = Run(tmp_path, Experiment(learning_rate=0.5))
    assert "has no finished epoch yet: it begins anew" in capsys.readouterr().out
    assert run.begin_stage(1, *parts()) == 0 and run.history == []
    assert torch.load(run.last_path, weights_only=True)["variables"]["learning_rate"] == 0.5


def test_a_stage_that_this_start_does_not_have_names_the_variables(tmp_path):
    last = begin(tmp_path)
    before = last.read_bytes()
    with pytest.raises(CheckpointError, match=r"at stage 1, .* reached 2; .*put num_branches_trained_network back"):
        Run(tmp_path, Experiment()).begin_stage(2, *parts())
    with pytest.raises(CheckpointError, match=r"at stage 1 already.*num_branches_trained_network.*affect"):
        Run(tmp_path, Experiment()).check_finished()
    assert last.read_bytes() == before


def test_a_variable_that_the_script_no_longer_has_is_named(tmp_path):
    last = begin(tmp_path / "run")
    change(last, lambda content: content["variables"].update(warm_up=7))
    with pytest.raises(CheckpointError) as raised:
        Run(tmp_path / "run", Experiment())
    for words in (
        "older or newer version",
        "the variable warm_up = 7",
        "another name_experiment, or check out",
        str(last),
    ):
        assert words in str(raised.value)


# Folders that hold something already


@pytest.mark.parametrize("resume", [True, False])
def test_a_best_network_without_its_last_state_is_not_replaced(tmp_path, resume):
    run = Run(tmp_path / "run", Experiment())
    run.begin_stage(1, *parts())
    run.save_best(Small(), validation_accuracy=0.9)
    run.last_path.unlink()
    before = run.best_path.read_bytes()
    with pytest.raises(CheckpointError, match=r"best\.pt is there .*another name_experiment, or move best\.pt away"):
        Run(tmp_path / "run", Experiment(), resume)
    assert run.best_path.read_bytes() == before and not run.last_path.exists()
    run.best_path.rename(tmp_path / "kept.pt")
    Run(tmp_path / "run", Experiment(), resume)


def test_a_last_state_without_its_best_network_is_named_before_any_work(tmp_path):
    last = begin(tmp_path)
    Run(tmp_path, Experiment())  # nothing was validated yet
    change(last, lambda content: content.update(best=0.5))
    before = last.read_bytes()
    with pytest.raises(CheckpointError, match=r"last\.pt continues .* whose best\.pt is gone.*Put best\.pt back"):
        Run(tmp_path, Experiment())
    assert last.read_bytes() == before


def test_two_processes_do_not_train_in_one_folder(tmp_path, monkeypatch):
    """The lock goes with the process, however it ends; the same process may come back."""
    begin(tmp_path)
    Run(tmp_path, Experiment())
    hold = "import filelock, sys; a = filelock.FileLock(sys.argv[1]); a.acquire(); print(1, flush=True); input()"
    call = [sys.executable, "-c", hold, str(tmp_path.with_name(f".{tmp_path.name}.lock"))]
    gc.collect()
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"1"
        monkeypatch.setattr(ucheckpoint, "PATIENCE", 0.2)
        with pytest.raises(CheckpointError, match=r"another process trains in .*another name_experiment"):
            Run(tmp_path, Experiment())
        other.kill()
    Run(tmp_path, Experiment())


@dataclass
class FineTuning:
    path_to_pretrained_network: Path | None = None


def test_start_weights_may_lie_elsewhere_when_a_run_is_continued(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    weights, moved = tmp_path / "a" / "w.pt", tmp_path / "b" / "w.pt"
    weights.write_bytes(b"weights")
    begin(tmp_path / "run", FineTuning(weights))
    moved.write_bytes(b"weights")
    assert Run(tmp_path / "run", FineTuning(moved)).history
    moved.write_bytes(b"others")
    with pytest.raises(CheckpointError, match=r"path_to_pretrained_network was .*Nothing was touched"):
        Run(tmp_path / "run", FineTuning(moved))
    begin(tmp_path / "folder", FineTuning(tmp_path / "a"))
    moved.write_bytes(b"weights")
    assert Run(tmp_path / "folder", FineTuning(tmp_path / "b")).history


def test_messages_advise_to_remove_the_folder_and_not_the_state_alone(tmp_path):
    last = begin(tmp_path / "run")
    whole = last.read_bytes()
    for edit in (
        lambda content: content.pop("format"),
        lambda content: content.pop("random_state"),
        lambda content: content.pop("stage"),
        lambda content: content.update(history=[3]),
        lambda content: content["scheduler"].update(gamma="a"),
    ):
        last.write_bytes(whole)
        change(last, edit)
        with pytest.raises(CheckpointError, match="remove the folder, or choose another name_experiment"):
            Run(tmp_path / "run", Experiment()).begin_stage(1, *parts())
    last.write_bytes(whole)
    with pytest.raises(CheckpointError, match="remove the folder, or choose another name_experiment"):
        Run(tmp_path / "run", Experiment(), resume=False)


# Files that are not whole


REQUIRED = ["state_dict", "optimizer", "scheduler", "average", "random_state", "random_state_cuda", "stage", "epoch"]


@pytest.mark.parametrize("name", [*REQUIRED, "best", "history", "variables", "format", "version"])
@pytest.mark.parametrize("value", ["absent", "lost"])
def test_an_entry_that_is_missing_or_of_another_kind_is_named(tmp_path, name, value):
    last = begin(tmp_path / "run")
    change(last, lambda content: content.pop(name) if value == "absent" else content.update({name: value}))
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        Run(tmp_path / "run", Experiment())


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["optimizer"].pop("param_groups"),
        lambda c: c["optimizer"]["param_groups"].pop(),
        lambda c: c["optimizer"]["param_groups"][0].update(lr="0.1"),
        lambda c: c["optimizer"]["param_groups"][0].pop("lr"),
        lambda c: c["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(5)),
        lambda c: c["optimizer"]["state"][0].clear(),
        lambda c: c["scheduler"].pop("last_epoch"),
        lambda c: c["scheduler"].update(base_lrs=[]),
        lambda c: c["scheduler"].update(gamma="a"),
        lambda c: c.update(random_state=torch.zeros(3)),
        lambda c: c["state_dict"].pop("fc.bias"),
        lambda c: c["state_dict"].update({"fc.bias": torch.full((2,), float("nan"))}),
    ],
)
def test_a_training_state_that_does_not_fit_is_refused(tmp_path, edit):
    change(begin(tmp_path / "run"), edit)
    run = Run(tmp_path / "run", Experiment())
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        run.begin_stage(1, *parts())


def test_a_schedule_keeps_its_methods_whatever_a_file_says(tmp_path):
    change(begin(tmp_path / "run"), lambda content: content["scheduler"].update(step="text", verbose=False))
    _, optimizer, scheduler = prepared = parts()
    Run(tmp_path / "run", Experiment()).begin_stage(1, *prepared)
    assert optimizer.state and scheduler.last_epoch == 1
    scheduler.step()


def test_a_best_network_that_is_not_whole_is_refused(tmp_path):
    begin(tmp_path / "run")
    run = Run(tmp_path / "run", Experiment())
    for content in ({}, {"state_dict": 3}, describe_model(Small()) | {"state_dict": {}}):
        torch.save(content, run.best_path)
        for read in (run.read_best, lambda: run.load_best(Small())):
            with pytest.raises(CheckpointError, match=r"best\.pt"):
                read()


# Writing


def test_what_is_flushed_is_open_for_writing(tmp_path, monkeypatch):
    """As on Windows, which flushes no file that is open for reading only."""
    fcntl = pytest.importorskip("fcntl")
    real = os.fsync

    def fsync(number: int) -> None:
        if fcntl.fcntl(number, fcntl.F_GETFL) & 3 == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write_json({"é": 1}, tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def broken_at(path: Path) -> None:
    raise RuntimeError(f"[enforce fail at inline_container.cc:672] . cannot open {path}")


def full(path: Path) -> None:
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def broken(path: Path) -> None:
    path.write_bytes(b"half")
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")


@pytest.mark.parametrize(("write", "reason"), [(full, "No space left on device"), (broken, "the disk took no more")])
def test_a_file_that_cannot_be_written_is_named_and_leaves_what_was_there(tmp_path, write, reason):
    path = tmp_path / "last.pt"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match=rf"last\.pt could not be written: {reason}\. What was there before is untouched"):
        write_atomically(path, write)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_the_reason_that_torch_does_not_tell_is_found(tmp_path):
    """torch.save says of every failure where its writer stood."""
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(OSError, match=r"last\.pt could not be written: Not a directory"):
        write_atomically(tmp_path / "taken" / "last.pt", lambda path: broken_at(path))


def test_other_errors_pass_and_leave_nothing(tmp_path):
    def stop(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.txt", stop)
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a.txt", lambda path: path.write_text(str(1 / 0)))
    with pytest.raises(FileNotFoundError, match=r"nowhere.a\.txt could not be written"):
        write_atomically(tmp_path / "nowhere" / "a.txt", lambda path: path.write_text("x"))
    assert not list(tmp_path.iterdir())


def test_a_file_that_another_program_holds_open_is_named(tmp_path, monkeypatch):
    path = tmp_path / "predictions.csv"
    path.write_text("before", encoding="utf-8")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "The process cannot access the file")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError, match=r"predictions\.csv could not be written.*close it where another program"):
        write_atomically(path, lambda temporary: temporary.write_text("after", encoding="utf-8"))
    assert path.read_text(encoding="utf-8") == "before" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_while_a_checkpoint_is_saved(tmp_path):
    pytest.importorskip("resource")
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path; from diversified_fer.writing import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: write_atomically(Path(sys.argv[1]), lambda path: torch.save({'a': torch.zeros(9999)}, path))\n"
        "except OSError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "last.pt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "last.pt could not be written: " in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())
