"""Where and how a network is computed: device, precision, memory format, compiled code, and several processes."""

import ctypes
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.classifier import ExpressionClassifier
from models.device import find_device, multiplies_bfloat16

COMPILE_AFTER = {"cpu": 1500, "cuda": 3000}
"""Steps from which compiling pays for itself ("auto"); benchmarks/ measures the gain of a step and the cost."""

LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # besides WORLD_SIZE, from torchrun


class Batch(NamedTuple):
    """One batch on the training device, or this process's share of it.

    Attributes:
        images: (n, 3, S, S), float RGB in [0, 1], at the network's size.
        targets: labels of the whole batch, of all processes: (N,) or (N, K).
        indices: the faces' positions in the data set, (n,), on the CPU.
        shares: faces that each process has of the batch.
        is_full: whether a training batch has the usual number of faces, which compiled code is made for.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    shares: list[int]
    is_full: bool


@dataclass(frozen=True)
class Hardware:
    """What `choose_hardware` found and was asked for; see there.

    Attributes:
        device: where the network of this process runs.
        precision: type that convolutions and matrix products are computed in.
        memory_format: order of the dimensions of pictures and weights in memory.
        compile: "on", "off", or "auto" to compile where there are enough steps ahead.
        rank: number of this process; 0 writes and speaks.
        processes: how many share the work.
    """

    device: torch.device
    precision: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    compile: str = "off"
    rank: int = 0
    processes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    @property
    def fused_optimizer(self) -> bool:
        """Whether PyTorch's fused optimizers are the fast ones: on the CPU they copy every channels_last weight."""
        contiguous = self.memory_format == torch.contiguous_format
        return self.device.type == "cuda" or (self.device.type == "cpu" and contiguous)

    def to_device(self, tensor: Tensor) -> Tensor:
        """Bring pictures or labels to the device, without waiting for it."""
        return tensor.to(self.device, non_blocking=True)

    def prepare(self, model: ExpressionClassifier, steps: int) -> nn.Module:
        """Return what a training step calls: the network on its device, compiled and shared over processes as asked.

        Args:
            model: the network; its weights stay where they are, in the memory format chosen.
            steps: training steps ahead, for `compile="auto"`.
        """
        model.to(self.device, memory_format=self.memory_format)
        worth_it = self.compile == "auto" and steps >= COMPILE_AFTER.get(self.device.type, steps + 1)
        for region in model.compiled_parts():
            if self.compile == "on" or worth_it:
                region.compile(dynamic=False)
            else:
                region._compiled_call_impl = None  # compiled for an earlier stage
        if self.processes == 1:
            return model
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def forward(self, model: nn.Module, images: Tensor, batch: Batch) -> Any:
        """Return what a network makes of a batch's pictures, of all processes and in float32.

        Args:
            model: the network, or what `prepare` made of it.
            images: this process's pictures (n, 3, S, S), augmented or as `batch.images` has them.
            batch: where they are from.
        """
        with self.computing(compiled=batch.is_full):
            outputs = model(images.contiguous(memory_format=self.memory_format))
        return self.gather(_in_float32(outputs), batch.shares)

    @contextmanager
    def computing(self, compiled: bool = False) -> Iterator[None]:
        """Compute at `precision`; compiled code is for full training batches alone, and not worth making for others."""
        stance = nullcontext() if compiled or self.compile == "off" else torch.compiler.set_stance("force_eager")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16), stance:
            yield

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss of the whole batch."""
        (loss * self.processes).backward()  # the processes' gradients are averaged

    def gather(self, values: Any, shares: Sequence[int]) -> Any:
        """Join the shares that all processes have of a batch; the gradient flows into this process's own share.

        Args:
            values: a tensor, None, or a NamedTuple of them. Faces are in the first dimension of labels (N,) and scores
                (N, K), in the second of whatever has more dimensions: (B, N, ...).
            shares: faces that each process holds, in the order of the processes.
        """
        if self.processes == 1 or values is None:
            return values
        if isinstance(values, tuple):
            return type(values)(*(self.gather(value, shares) for value in values))
        dimension = 0 if values.ndim < 3 else 1
        rows = values.movedim(dimension, 0)
        padded = rows.new_zeros((max(shares), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        gathered = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(gathered, padded)
        parts = [part[:count] for part, count in zip(gathered, shares, strict=True)]
        parts[self.rank] = rows
        return torch.cat(parts).movedim(0, dimension)

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers: BatchNorm's statistics, which CPU processes keep apart."""
        if self.processes > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def shared_seed(self) -> int:
        """Draw a number from PyTorch's random state that is the same in all processes: the first one's."""
        seed = torch.randint(2**62, ())
        if self.processes > 1:
            seed = self.to_device(seed)
            dist.broadcast(seed, src=0)
        return int(seed)

    def wait_for_everyone(self) -> None:
        """Return when all processes have come here."""
        if self.processes > 1:
            dist.barrier()


def _in_float32(outputs: Any) -> Any:
    """Return a NamedTuple of tensors (or None) with bfloat16 values as float32."""
    if isinstance(outputs, tuple):
        return type(outputs)(*(_in_float32(values) for values in outputs))
    return outputs.float() if isinstance(outputs, Tensor) and outputs.dtype == torch.bfloat16 else outputs


def choose_hardware(
    device: str = "auto",
    precision: str = "auto",
    compile: str = "auto",
    memory_format: str = "auto",
    alone: bool = False,
) -> Hardware:
    """Find out where and how to compute; started by `torchrun` or `accelerate launch`, join the other processes.

    Args:
        device: "auto" for the first CUDA GPU, else Apple's, else the CPU; or a name such as "cpu" or "cuda:1".
        precision: "float32", "bfloat16", or "auto" for bfloat16 where the device multiplies it natively.
        compile: "on", "off", or "auto": `torch.compile` where a compiler is at hand and enough steps are ahead.
        memory_format: "contiguous", "channels_last", or "auto", which is channels_last.
        alone: join no other processes, whatever the environment says.

    Raises:
        ValueError: for other values, for a GPU that PyTorch does not find, and for an environment that names other
            processes but not where they are.
    """
    for name, value, *known in (
        ("precision", precision, "auto", "float32", "bfloat16"),
        ("compile", compile, "auto", "on", "off"),
        ("memory_format", memory_format, "auto", "contiguous", "channels_last"),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")
    place = find_device(device)
    rank, processes = 0, 1 if alone else _processes()
    if processes > 1:
        from accelerate import PartialState  # seconds of import that a single process does not need

        state = PartialState(cpu=place.type == "cpu")
        rank, place = state.process_index, state.device
        if rank > 0:
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - the first process speaks for all, to the end
    if place.type == "cpu":
        keep_freed_memory()
    bfloat16 = precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16(place))
    if place.type == "cuda":
        torch.backends.cudnn.allow_tf32 = bfloat16  # float32 means float32, in convolutions too
    if compile == "auto" and (processes > 1 or not _can_compile(place)):
        compile = "off"
    return Hardware(
        place,
        torch.bfloat16 if bfloat16 else torch.float32,
        torch.contiguous_format if memory_format == "contiguous" else torch.channels_last,
        compile,
        rank,
        processes,
    )


def _processes() -> int:
    """Return how many processes share the work, from the variables that torchrun sets; raises ValueError."""
    stated = os.environ.get("WORLD_SIZE", "1")
    if not stated.isdecimal() or int(stated) < 1:
        raise ValueError(f"the environment has WORLD_SIZE={stated!r}; expected the number of processes")
    found = [name for name in LAUNCHED if name in os.environ]
    if int(stated) > 1 and len(found) < len(LAUNCHED):
        missing = [name for name in LAUNCHED if name not in os.environ]
        raise ValueError(
            f"the environment has WORLD_SIZE={stated} ({', '.join(found) or 'nothing'} of torchrun's variables beside "
            f"it, and no {', '.join(missing)}): several processes are started by "
            f"`torchrun --nproc-per-node {stated} script.py`; for one process, unset WORLD_SIZE"
        )
    return int(stated)


def _can_compile(device: torch.device) -> bool:
    """Tell whether what `torch.compile` needs is there: a compiler, Python's headers, and a GPU in Triton's range."""
    on_cpu = device.type == "cpu"
    variable, *usual = ("CXX", "g++", "clang++") if on_cpu else ("CC", "gcc", "clang")
    compilers = [os.environ.get(variable, usual[0]), *usual]
    if not any(map(shutil.which, compilers)) or not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return False
    return on_cpu or (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0))


def keep_freed_memory() -> None:
    """Have the GNU C library reuse freed memory instead of returning it to the system; elsewhere nothing changes.

    A training step or a photograph frees and asks for what the one before it had; fetching it page by page takes a good
    part of its time.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from malloc.h
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
