"""This machine: what it is, and how fast it multiplies matrices."""

import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from mia_lightning.seeds import generator


def machine(device: torch.device) -> str:
    """Processor, cores, threads and versions; the GPU where it is used."""
    parts = [_processor(), f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads"]
    if device.type == "cuda":
        parts.append(f"on {torch.cuda.get_device_name(device)}")
    parts += [f"torch {torch.__version__}", f"pytorch-lightning {version('pytorch-lightning')}"]
    parts.append(f"Python {platform.python_version()}")
    if hasattr(os, "getloadavg"):
        parts.append(f"load average before the run {os.getloadavg()[0]:.1f}")
    return ", ".join(parts)


def _processor() -> str:
    description = Path("/proc/cpuinfo")
    if description.is_file():
        for line in description.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def accelerator_of(device: torch.device) -> str:
    return "gpu" if device.type == "cuda" else "cpu"


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, eq=False)
class MatrixProduct:
    """A float32 matrix product [m, k] x [k, n] and the rates that it reached."""

    name: str
    m: int
    k: int
    n: int
    device: torch.device
    rate_R: list[float] = field(default_factory=list)

    def measure(self, at_least: float) -> None:
        """One round, of `at_least` seconds: GFLOP/s."""
        numbers = generator(0, "benchmark", "matrix product")
        left = torch.randn(self.m, self.k, generator=numbers).to(self.device)
        right = torch.randn(self.k, self.n, generator=numbers).to(self.device)
        out = torch.mm(left, right)
        repeats, seconds = 1, 0.0
        while seconds < at_least:
            repeats *= 2
            synchronise(self.device)
            start = time.perf_counter()
            for _ in range(repeats):
                torch.mm(left, right, out=out)
            synchronise(self.device)
            seconds = time.perf_counter() - start
        self.rate_R.append(repeats * 2 * self.m * self.k * self.n / seconds / 1e9)

    @property
    def rate(self) -> float:
        return statistics.median(self.rate_R)

    def __str__(self) -> str:
        return f"{self.name} [{self.m}, {self.k}] x [{self.k}, {self.n}]: {self.rate:.0f} GFLOP/s"


def large_products(device: torch.device, largest: int) -> list[MatrixProduct]:
    """Square ones of several sizes."""
    return [MatrixProduct("large", size, size, size, device) for size in (512, 1024, 2048, 4096) if size <= largest]
