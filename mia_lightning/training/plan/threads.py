"""Threads of torch on the CPU: which numbers are tried, and their use within a context."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mia_lightning.training.plan.cores import available_cores
from mia_lightning.training.step.recipe import Recipe


def allowed_threads() -> int:
    """The most threads: those of torch, as far as affinity and quota leave a core to each."""
    return min(torch.get_num_threads(), available_cores())


def numbers_of_threads(recipe: Recipe, device: torch.device) -> list[int]:
    """The numbers that are tried, the largest first: what the recipe sets, or all, half of them, and one.

    On another device than the CPU the number is left as it is.
    """
    if recipe.threads != "auto":
        return [recipe.threads]
    if device.type != "cpu":
        return [torch.get_num_threads()]
    most = allowed_threads()
    return sorted({most, max(1, most // 2), 1}, reverse=True)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """With so many threads within the context, which may set another number; afterwards with as many as before."""
    before = torch.get_num_threads()
    try:
        _use(count)
        yield
    finally:
        _use(before)


def _use(count: int) -> None:
    if torch.get_num_threads() != count:  # else torch would settle more than the number, such as MKL's own choice
        torch.set_num_threads(count)
