"""One measurement of one variant in a process of its own: `python -m benchmarks.measure NAME VARIANT DEVICE`.

VARIANT is "plain" (benchmarks/plain.py) or "ours" (what the scripts do). Prints one line of JSON, see `Measurement`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import kornia.augmentation as K
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from models import optimize_for_inference
from models.diversity import DiversityLoss
from models.esr import ESR, ESROutput
from models.manet import MANet, MANetOutput
from utils.synthetic.datasets import write_fer_plus
from utils.synthetic.faces import draw_photograph
from utils.ucheckpoint import Run
from utils.udata import FERPlus, pre_process_affect_net
from utils.uhardware import Hardware, choose_hardware
from utils.upipeline import FaceLoader
from utils.utrain import Epoch, Stage, accuracy

REAL_FERPLUS = Path("data/FER_2013/Dataset")


@dataclass
class Measurement:
    """Seconds of every repetition, what one repetition gets done, and what it took.

    Attributes:
        seconds: one entry per repetition, after the warm-up.
        units: images (or losses, or starts) per repetition.
        first: seconds of the first call, which compiles where there is something to compile.
        peak_mib: highest memory of the process, or of the GPU where there is one.
        flop: floating-point operations of matrix products and convolutions in one repetition, 0 where not counted.
    """

    seconds: list[float]
    units: int
    first: float
    peak_mib: float
    flop: int = 0


def timed(function: Callable[[], object], units: int, device: torch.device, repetitions: int, flop: int = 0):
    """Call a function once to warm up and `repetitions` times under the clock."""

    def once() -> float:
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    first = once()
    once()
    seconds = [once() for _ in range(repetitions)]
    return Measurement(seconds, units, first, peak_mib(device), flop)


def peak_mib(device: torch.device) -> float:
    """Return the highest memory so far of the GPU, or of this process; not a number on Windows, which does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return float("nan")
    import resource  # of Unix alone

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def hardware_of(variant: str, device: str) -> Hardware:
    """Return what a variant computes with."""
    return Hardware(torch.device(device)) if variant == "plain" else choose_hardware(device, compile="on")


def objective(outputs: ESROutput | MANetOutput, targets: Tensor, term: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the cross-entropies of all branches, and the diversity term of everything that the scripts compare."""
    if isinstance(outputs, ESROutput):
        loss = sum(F.cross_entropy(logits, targets) for logits in outputs.logits)
        return loss + term(outputs.spatial_attention) + term(outputs.channel_attention)
    loss = 0.6 * F.cross_entropy(outputs.local_logits, targets) + 0.4 * F.cross_entropy(outputs.global_logits, targets)
    return loss + term(outputs.spatial) + term(outputs.channel) + term(outputs.global_features)


def training_step(network: str, batch_size: int, variant: str, device: str, branches: int = 9) -> Measurement:
    """Measure forward, loss, backward and optimizer step on a batch that is there already."""
    hardware = hardware_of(variant, device)
    torch.manual_seed(0)
    model = ESR(branches) if network == "esr" else MANet()
    images = torch.rand(batch_size, 3, model.image_size, model.image_size)
    images = images.to(hardware.device).contiguous(memory_format=hardware.memory_format)
    targets = torch.randint(0, len(model.labels), (batch_size,), device=hardware.device)
    step_model = hardware.prepare(model, steps=10**6)
    fused = hardware.fused_optimizer if variant == "ours" else None
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=fused)
    term = DiversityLoss("det", "median") if variant == "ours" else plain.det_loss
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with hardware.computing(compiled=True):
            loss = objective(step_model(images), targets, term)
        loss.backward()
        optimizer.step()

    return timed(step, batch_size, hardware.device, 5 if device == "cpu" else 30, flop_of(model, images, training=True))


def flop_of(model: torch.nn.Module, images: Tensor, training: bool) -> int:
    """Count the operations of one forward pass on this batch, and twice as many for the backward pass."""
    meta = FlopCounterMode(display=False)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), meta:
        model(images[:1])
    return meta.get_total_flops() * len(images) * (3 if training else 1)


def inference(network: str, batch_size: int, variant: str, device: str) -> Measurement:
    """Measure `predict` of pictures that are in memory as uint8."""
    hardware = hardware_of(variant, device)
    torch.manual_seed(0)
    model = (ESR(9) if network == "esr" else MANet()).to(hardware.device).eval()
    images = torch.randint(0, 256, (batch_size, 3, model.image_size, model.image_size), dtype=torch.uint8)
    flop = flop_of(model, images.to(hardware.device) / 255, training=False)
    if variant == "ours":
        model = optimize_for_inference(model, hardware.precision, compile=batch_size > 1, in_place=True)
    repetitions = 50 if device == "cuda" else 10 if batch_size <= 32 else 3
    return timed(
        lambda: model.predict(images, precision="float32").cpu(),  # the network as it is
        batch_size,
        hardware.device,
        repetitions,
        flop,
    )


def diversity_loss(branches: int, both_ways: bool, variant: str, device: str) -> Measurement:
    """Measure the channel term and its gradient: 512 values per branch and face, 32 faces, 20 times."""
    hardware = hardware_of(variant, device)
    torch.manual_seed(0)
    features = torch.rand(branches, 32, 512, device=hardware.device, requires_grad=True)
    loss = DiversityLoss("det", 10.0) if variant == "ours" else partial(plain.det_loss, both_ways=both_ways)

    def once() -> None:
        for _ in range(20):
            features.grad = None
            loss(features).backward()

    return timed(once, 20, hardware.device, 10)


def faces_on_disk(folder: Path) -> Path:
    """Return the real FER+ faces where they are in the project's place, synthetic ones otherwise."""
    return REAL_FERPLUS if REAL_FERPLUS.is_dir() else write_fer_plus(folder / "ferplus", images_per_class=250)


def input_pipeline(num_faces: int, variant: str, device: str) -> Measurement:
    """Measure one pass over `num_faces` training faces: decoded or fetched, resized to 96 pixels, augmented."""
    hardware = hardware_of(variant, device)
    with tempfile.TemporaryDirectory() as folder:
        faces = FERPlus(faces_on_disk(Path(folder)), "train")
        faces = faces.subset(range(min(num_faces, len(faces))))
        if variant == "plain":
            loader, augment = plain.loader(faces, 96, 32), torch.nn.Identity()  # it augments face by face
        else:
            loader = FaceLoader(faces, 96, 32, shuffle=True, hardware=hardware)
            augment = K.AugmentationSequential(
                K.ColorJitter(brightness=0.5, contrast=0.5),
                K.RandomHorizontalFlip(p=0.5),
                K.RandomAffine(30, (0.1, 0.1), (1.0, 1.25), p=1.0),
            )

        def epoch() -> None:
            for images, *_ in loader:
                augment(images.to(hardware.device))

        return timed(epoch, len(faces), hardware.device, 3)


def training_epoch(num_faces: int, variant: str, device: str) -> Measurement:
    """Measure an epoch as the scripts run it: ESR-1 at 64 pixels, whole batches of 32, augmented, with its means."""
    hardware = hardware_of(variant, device)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        faces = FERPlus(faces_on_disk(Path(folder)), "train").subset(range(num_faces))
        model = ESR(1, image_size=64)
        step_model = hardware.prepare(model, steps=10**6)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=hardware.fused_optimizer)
        augment = K.AugmentationSequential(K.RandomHorizontalFlip(p=0.5), K.RandomAffine(20, (0.07, 0.07), p=1.0))
        loader = FaceLoader(faces, 64, 32, shuffle=True, hardware=hardware)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10**6)
        stage = Stage(Run(Path(folder) / "run", {}), 1, model, optimizer, scheduler, hardware)

        def epoch() -> None:
            model.train()
            measured = Epoch(stage, 1, 1)
            for batch in measured.batches(loader):
                outputs = hardware.forward(step_model, augment(batch.images), batch)
                loss = F.cross_entropy(outputs.logits[0], batch.targets)
                optimizer.zero_grad(set_to_none=True)
                hardware.backward(loss)
                optimizer.step()
                scheduler.step()
                measured.record(batch, loss, {}, {}, accuracy=accuracy(model, outputs, batch.targets))

        return timed(epoch, num_faces, hardware.device, 3)


START = """
import time; began = time.perf_counter()
import sys; from pathlib import Path
import esr_ferplus as script
from utils.uhardware import choose_hardware
from utils.upipeline import FaceLoader
from utils.udata import FERPlus
root, cache, device = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
hardware = choose_hardware(device)
there = [split for split in ("train", "valid", "test") if (root / "Images" / f"FER2013{split.capitalize()}").is_dir()]
loaders = [
    FaceLoader(FERPlus(root, split), 96, 32, shuffle=split == "train", hardware=hardware, cache_folder=cache)
    for split in there
]
next(iter(loaders[0]))
print("seconds", time.perf_counter() - began)
"""


def first_batch(warm: bool, variant: str, device: str) -> Measurement:
    """Measure from the start of the interpreter's work to the first FER+ batch on the device, imports included."""
    with tempfile.TemporaryDirectory() as folder:
        root, cache = faces_on_disk(Path(folder)), Path(folder) / "cache"

        def start() -> None:
            if not warm:
                shutil.rmtree(cache, ignore_errors=True)
            subprocess.run([sys.executable, "-c", START, root, cache, device], check=True, capture_output=True)

        return timed(start, 1, torch.device("cpu"), 3)


def preprocessing(variant: str, device: str) -> Measurement:
    """Measure 224-pixel crops of 64 photographs of 1,000 x 1,000 pixels, faces 450 to 900 pixels wide."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "Manually_Annotated_Images" / "1"
        images.mkdir(parents=True)
        rng = np.random.default_rng(0)
        rows = [
            "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
        ]
        for number in range(64):
            side = int(rng.integers(450, 900))
            x, y = (int(value) for value in rng.integers(0, 1000 - side, 2))
            picture = draw_photograph([(number % 8, number, number)], [(x, y, side, side)], 1000, 1000, seed=number)
            file, bgr = str(images / f"{number}.jpg"), picture.picture[:, :, ::-1]
            cv2.imwrite(file, bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])  # as a camera would
            rows.append(f"1/{number}.jpg,{x},{y},{side},{side},0;0,{number % 8},0.1,0.2")
        (folder / "training.csv").write_text("\n".join(rows) + "\n", "utf-8")
        os.sync()  # what was just drawn is not written to the disk while the clock runs

        def convert() -> None:
            target = Path(tempfile.mkdtemp(dir=folder))
            if variant == "plain":
                plain.preprocess(folder / "training.csv", images.parent, target, 224)
            else:
                pre_process_affect_net(folder, folder, target, 1, 224)

        return timed(convert, 64, torch.device("cpu"), 5)


def matrix_product(variant: str, device: str) -> Measurement:
    """Measure the product of two large matrices: the yardstick of the FLOP/s columns; bfloat16 for "ours"."""
    hardware = hardware_of(variant, device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # as the convolutions it is compared with
    side = 2048 if device == "cpu" else 8192
    a = torch.randn(side, side, device=hardware.device, dtype=hardware.precision)
    return timed(lambda: a @ a, 1, hardware.device, 10, 2 * side**3)


def measurements(device: str) -> dict[str, Callable[[str, str], Measurement]]:
    """Return every measurement by name."""
    found: dict[str, Callable[[str, str], Measurement]] = {"matrix product": matrix_product}
    for network, name, on_cpu in (("esr", "ESR-9", 32), ("manet", "MA-Net", 16)):
        for n in (on_cpu,) if device == "cpu" else (32, 128, 512):
            found[f"{name} training step, {n} faces"] = lambda v, d, w=network, n=n: training_step(w, n, v, d)
        for n in (1, 32, 256):
            found[f"{name} inference, {n} faces"] = lambda v, d, w=network, n=n: inference(w, n, v, d)
    for branches in (2, 4, 9, 15):
        found[f"diversity loss, {branches} branches"] = lambda v, d, b=branches: diversity_loss(b, False, v, d)
    found["diversity loss, 9 branches, pairs both ways"] = lambda v, d: diversity_loss(9, True, v, d)
    for faces in (1000, 2000, 4000):
        found[f"input pipeline, {faces:,} faces"] = lambda v, d, n=faces: input_pipeline(n, v, d)
    found["first batch of FER+, cold"] = lambda v, d: first_batch(False, v, d)
    found["first batch of FER+, warm"] = lambda v, d: first_batch(True, v, d)
    found["preprocessing, 224 pixels"] = preprocessing
    for faces in (320, 640, 1280):
        found[f"growth: epoch of {faces:,} faces"] = lambda v, d, n=faces: training_epoch(n, v, d)
    for branches in (1, 3, 5, 7, 9, 12, 15):
        found[f"growth: ESR-{branches} training step"] = lambda v, d, b=branches: training_step("esr", 32, v, d, b)
    return found


if __name__ == "__main__":
    name, variant, device = sys.argv[1:4]
    print(json.dumps(asdict(measurements(device)[name](variant, device))))
