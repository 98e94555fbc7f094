"""Where a network runs: the devices that a machine has, and what a forked process does before it computes."""

import os

import torch


def find_device(device: str | int | torch.device) -> torch.device:
    """Return a device that PyTorch can use here; "auto" is a CUDA GPU, else Apple's (MPS), else the CPU.

    Raises:
        ValueError: for any other device; it names those there are.
    """
    if isinstance(device, str) and device == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        return torch.device(next((kind for kind, is_there in there.items() if is_there), "cpu"))
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"device is {device!r}; expected 'auto', 'cpu', 'cuda', 'cuda:1', ...; this machine has "
            f"{', '.join(available_devices())}"
        ) from error
    if place.type == "cpu":
        return torch.device("cpu")
    there = available_devices()
    if (str(place) if place.index is not None else f"{place.type}:0") in there:
        return place
    lacking = ", but PyTorch finds no CUDA GPU here" if place.type == "cuda" and "cuda:0" not in there else ""
    raise ValueError(
        f"device is {str(place)!r}{lacking}; this machine has {', '.join(there)}: set device to one of these, or to "
        "'auto'"
    )


def available_devices() -> list[str]:
    """Name the devices that PyTorch can use here: the CPU, then every GPU (cuda:0, ..., mps:0, xpu:0, ...)."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    return ["cpu", *(f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count()))]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 natively: CUDA from 8.0, CPUs with AVX512-BF16, AMX or Arm's BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def use_one_thread_after_fork() -> None:
    """Have forked processes compute with one thread.

    A fork copies one thread only. Where the parent has computed, OpenMP in the child still counts on the others and
    waits for them without end; with one thread it asks for none. Systems without fork (Windows) need nothing.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
