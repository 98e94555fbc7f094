"""Run a small experiment and kill the process at a chosen point: `python killed_run.py POINT DATA OUTPUT`.

POINT is "epoch" (in the middle of an epoch), "save" (half of a checkpoint written), "stages" (the first stage finished,
the second not begun), "new stage" (the second begun, its first checkpoint half written) or "none".
"""

import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import esr_ferplus
from utils import ucheckpoint, upipeline

point, data, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
calls = dict.fromkeys(("epoch", "save", "stages"), 0)
save, load_best, resize = torch.save, ucheckpoint.Run.load_best, upipeline.resize


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def count(name: str) -> int:
    calls[name] += 1
    return calls[name]


def killing_resize(*arguments):
    if count("epoch") == 3 and point == "epoch":
        die()
    return resize(*arguments)


def killing_save(content, path):
    save(content, path)
    if (point == "save" and count("save") == 2) or (point == "new stage" and content.get("stage") == 2):
        data = Path(path).read_bytes()
        Path(path).write_bytes(data[: len(data) // 2])
        die()


def killing_load_best(*arguments):
    if count("stages") == 1 and point == "stages":
        die()
    return load_best(*arguments)


torch.save, upipeline.resize, ucheckpoint.Run.load_best = killing_save, killing_resize, killing_load_best
esr_ferplus.main(
    esr_ferplus.Experiment(
        base_path_to_dataset=data,
        base_path_experiment=output,
        base_path_to_cache=output / "cache",
        name_experiment="run",
        image_size=60,
        batch_size=8,
        num_branches_trained_network=2,
        max_training_epoch=2,
        max_finetune_epoch=1,
        lr_new=0.01,
        device="cpu",
    )
)
