"""The bare loop of `shadow_training.py` in a process of its own.

Once this package has trained something, its process keeps the memory that a step frees (`training/step/heap.py`), of
which loops of others in the same process would have the use, too.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import torch


@cache
def process() -> ProcessPoolExecutor:
    """One process, with as many threads of torch as this one has."""
    return ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (torch.get_num_threads(),))


def bare_loop(name: str, epochs: int, precision: str, count: int, compared: int) -> tuple[float, list[float]]:
    """Seconds per model, and the final losses of the first `compared` models, on the CPU.

    Args:
        name: of the setting.
        count: how many models are trained.
    """
    from shadow_training import SETTINGS, measured, train_by_bare_loop
    from training_settings import make_case

    (setting,) = (each for each in SETTINGS if each.name == name)
    case = make_case(setting, torch.device("cpu"), epochs, precision)
    return measured(train_by_bare_loop, case, count, compared)
