"""Train a little in however many processes this was started with: `python several_processes.py WHAT DATA OUTPUT`.

WHAT is "steps" (20 steps and more with BatchNorm's statistics frozen; losses and scores are written to OUTPUT) or
"script" (esr_ferplus.py itself into the folder OUTPUT, two branches, one epoch each).
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import esr_ferplus
from models.diversity import DiversityLoss
from models.esr import ESR
from utils.ucheckpoint import Run
from utils.udata import FERPlus
from utils.uhardware import choose_hardware
from utils.upipeline import FaceLoader
from utils.utrain import Epoch, Stage, accuracy, predict_dataset, validate

what, data, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])


def steps() -> None:
    hardware = choose_hardware("cpu", "float32", "off", "contiguous")
    torch.manual_seed(0)
    model = ESR(2, image_size=64)
    faces = FERPlus(data, "train")
    nn.BatchNorm2d.train = lambda self, mode=True: nn.Module.train(self, False)
    validation = FaceLoader(FERPlus(data, "valid"), 64, 5, shuffle=False, hardware=hardware)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    before = validate(model, validation, hardware)
    train = FaceLoader(faces, 64, 7, shuffle=True, hardware=hardware)
    step_model = hardware.prepare(model, steps=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    diversity = {"spatial": DiversityLoss("logdet", 10.0, normalize=True), "channel": DiversityLoss("det", "median")}
    losses = []

    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10**6)
    run = Run(output.with_suffix(""), {}, writes=hardware.is_main)
    stage = Stage(run, 1, model, optimizer, scheduler, hardware)
    means = []
    while len(losses) < 20:
        epoch = Epoch(stage, len(means) + 1, 0)
        model.train()
        for batch in epoch.batches(train):
            outputs = hardware.forward(step_model, batch.images, batch)
            terms = {
                "cross_entropy": sum(F.cross_entropy(logits, batch.targets) for logits in outputs.logits),
                "spatial": diversity["spatial"](outputs.spatial_attention),
                "channel": diversity["channel"](outputs.channel_attention),
            }
            loss = sum(terms.values())
            losses.append(loss.item())
            optimizer.zero_grad(set_to_none=True)
            hardware.backward(loss)
            optimizer.step()
            scheduler.step()
            epoch.record(batch, loss, terms, diversity, accuracy=accuracy(model, outputs, batch.targets))
        means.append(
            {name: v for name, v in epoch.row.items() if name.startswith(("train_", "similarity_", "gradient_"))}
        )
    found = predict_dataset(model, validation, hardware)
    if hardware.is_main:
        moved = [(now - before).norm().item() for now, before in zip(model.parameters(), start, strict=True)]
        content = {
            "losses": losses,
            "means": means,
            "before": before,
            "indices": found.indices.tolist(),
            "moved": moved,
        }
        output.write_text(json.dumps(content | {"logits": found.branch_logits.tolist()}))


def script() -> None:
    esr_ferplus.main(
        esr_ferplus.Experiment(
            base_path_to_dataset=data,
            base_path_experiment=output,
            base_path_to_cache=output / "cache",
            name_experiment="run",
            image_size=60,
            batch_size=8,
            num_branches_trained_network=2,
            max_training_epoch=int(sys.argv[4]),
            max_finetune_epoch=1,
            lr_new=0.01,
            device="cpu",
        )
    )


{"steps": steps, "script": script}[what]()
