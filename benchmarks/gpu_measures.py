"""What the parts of `gpu.py` measure with."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from this_machine import synchronise
from training_settings import SEED

from mia_lightning.training.engine import Engine
from mia_lightning.training.trainer import TrainerSettings

PREFIX = "measured "  # of a line in which a part gives a measurement as JSON
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a part is given."""

    device: torch.device
    seconds: float
    rehearse: bool
    images: Path | None
    location: Path | None
    started: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.perf_counter() - self.started)

    def engine(self, precision: str = "32") -> Engine:
        accelerator = "gpu" if self.device.type == "cuda" else "cpu"
        settings = TrainerSettings(accelerator=accelerator, devices=1, precision=precision, progress_bar=False)
        return Engine(seed=SEED, settings=settings)


def say(what: str, **measured: Any) -> None:
    """A measurement, for the script that runs the parts."""
    print(PREFIX + json.dumps({"what": what, **measured}), flush=True)


def timed(options: Options, work: Callable[[], Result]) -> tuple[float, Result, dict[str, float]]:
    """Seconds, the result, and on a GPU the most memory that was allocated meanwhile."""
    is_cuda = options.device.type == "cuda"
    synchronise(options.device)
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = work()
    synchronise(options.device)
    seconds = time.perf_counter() - start
    return seconds, result, {"peak_gib": torch.cuda.max_memory_allocated() / 2**30} if is_cuda else {}
