"""Measures what the project does against a plain version, side by side, and writes the table.

Run:  python -m benchmarks                       everything, about 35 minutes on two CPU cores
      python -m benchmarks --only training diversity --rounds 1
Each measurement runs in a process of its own, plain and ours in turn, so that both meet the same disturbances; the
ratio is the median over the rounds. Writes benchmarks/results/<date>_<machine>.md.
"""

import json
import platform
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import tyro
from tqdm.auto import tqdm

from benchmarks.measure import measurements
from utils.uhardware import choose_hardware

HERE = Path(__file__).parent


@dataclass
class Benchmark:
    """What to measure, and how often."""

    only: tuple[str, ...] = ()  # measure what has one of these texts in its name; everything where there is none
    rounds: int = 3  # plain and ours in turn, each in a new process, this many times
    device: str = "auto"  # "cpu", "cuda", or "auto" for a GPU where there is one
    output: Path = HERE / "results"  # folder of the table


def run(name: str, variant: str, device: str) -> dict:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.measure", name, variant, device]
    finished = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=HERE.parent)
    if finished.returncode:
        raise RuntimeError(f"{name}, {variant}: {finished.stderr.strip()[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def describe_time(seconds: list[float]) -> str:
    """Say median and range of the rounds' medians."""
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    if high < 1:
        return f"{1000 * middle:.3g} ms ({1000 * low:.3g} to {1000 * high:.3g})"
    return f"{middle:.3g} s ({low:.3g} to {high:.3g})"


def describe_machine(device: str) -> str:
    """Name processor, device, versions and the numbers of threads."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"model name\s*: (.*)", information.read_text("utf-8"))
        name = found[1].strip() if found else name
    parts = [f"{name}, {torch.get_num_threads()} threads"]
    if device == "cuda":
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"PyTorch {torch.__version__}", f"Python {platform.python_version()}"])


def main(benchmark: Benchmark) -> None:
    """Measure one after the other, and write the table after every line: a stopped run has written what it knows."""
    hardware = choose_hardware(benchmark.device)
    device = hardware.device.type
    names = [n for n in measurements(device) if not benchmark.only or any(text in n for text in benchmark.only)]
    if not names:
        known = ", ".join(measurements(device))
        raise SystemExit(f"no measurement has {' or '.join(benchmark.only)} in its name; there are: {known}")
    machine = describe_machine(device)
    stamp = re.sub(r"\W+", "_", machine.split(",")[0]).strip("_")
    kind = ("_cuda" if device == "cuda" else "") + ("_part" if benchmark.only else "")
    path = benchmark.output / f"{date.today().isoformat()}_{stamp}{kind}.md"
    benchmark.output.mkdir(parents=True, exist_ok=True)
    rows, peak = [], {"plain": 0.0, "ours": 0.0}
    for name in tqdm(names, unit=" measurements"):
        variants = ("ours",) if name.startswith("growth") or "first batch" in name else ("plain", "ours")
        found: dict[str, list[dict]] = {variant: [] for variant in variants}
        for _ in range(benchmark.rounds):
            for variant in variants:
                found[variant].append(run(name, variant, device))
        medians = {variant: [statistics.median(m["seconds"]) for m in found[variant]] for variant in variants}
        if name == "matrix product":
            peak = {variant: found[variant][0]["flop"] / statistics.median(medians[variant]) for variant in variants}
        rows.append(table_row(name, found, medians, peak))
        path.write_text("\n".join([*heading(machine, benchmark, hardware.precision), *rows]) + "\n", "utf-8")
    print(path.read_text("utf-8"))
    print(f"wrote {path}")


def heading(machine: str, benchmark: Benchmark, precision: torch.dtype) -> list[str]:
    """Say when, where and how was measured."""
    return [
        f"# Speed, {date.today().isoformat()}",
        "",
        f"{machine}. Plain: float32, eager, contiguous, see `benchmarks/plain.py`. Ours: {precision}, channels_last, "
        "compiled, but for single faces; BatchNorm folded for inference. "
        f"{benchmark.rounds} rounds, plain and ours in turn, each in a process of its own after two warm-up calls. "
        "Times are the median of the rounds' medians, with their range. The ratio is the median over the rounds. "
        "FLOP/s: matrix products and convolutions, as a share of a large matrix product in the same precision. "
        "Memory: peak of the process (CPU) or of the device (GPU).",
        "",
        "| what | plain | ours | plain / ours | ours per s | FLOP/s share, plain | ours | peak MiB, plain | ours |",
        "|---|---|---|---|---|---|---|---|---|",
    ]


def table_row(name: str, found: dict[str, list[dict]], medians: dict[str, list[float]], peak: dict[str, float]) -> str:
    """Return one line of the table."""
    ours = found["ours"][0]
    speed = ours["units"] / statistics.median(medians["ours"])
    shares, memory = {}, {}
    for variant, results in found.items():
        memory[variant] = f"{statistics.median(m['peak_mib'] for m in results):,.0f}"
        rate = results[0]["flop"] / statistics.median(medians[variant])
        shares[variant] = f"{rate / peak[variant]:.0%}" if rate and peak[variant] else ""
    plain, ratio = "", ""
    if "plain" in medians:
        plain = describe_time(medians["plain"])
        ratios = [a / b for a, b in zip(medians["plain"], medians["ours"], strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    cells = [name, plain, describe_time(medians["ours"]), ratio, f"{speed:,.1f}"]
    cells += [shares.get("plain", ""), shares["ours"], memory.get("plain", ""), memory["ours"]]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
