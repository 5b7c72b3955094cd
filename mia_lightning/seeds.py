"""Named randomness: every draw is a function of the run's seed and a name, and of nothing else.

Two kinds are needed. A *generator* is an ordinary `torch.Generator` seeded by name, for draws made once.
The *counter hash* is a pure function from integers to uniform integers; it is used where a draw must be the
same however the work is cut up (dropout inside a stack, the batch order of many models at once).
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

Name = str | int
States = dict[str, object]

_INT64 = 2**64
_GOLDEN = 0x9E3779B97F4A7C15 - _INT64
_MIX_1 = 0xBF58476D1CE4E5B9 - _INT64
_MIX_2 = 0x94D049BB133111EB - _INT64


def derive(seed: int, *names: Name) -> int:
    """A seed in [0, 2**63) for the named draw: equal names give equal seeds, on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *names: Name, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh `torch.Generator` for the named draw."""
    return torch.Generator(device).manual_seed(derive(seed, *names))


@contextmanager
def isolated(seed: int, *names: Name) -> Iterator[None]:
    """Seed the global CPU generators of torch, numpy and random by name, and restore them afterwards.

    For code that only knows the global generators, such as the initialisation of an `nn.Module`.
    """
    value = derive(seed, *names)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(value)
            np.random.seed(value % 2**32)
            random.seed(value)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def states() -> States:
    """The states of the global CPU generators, by whose they are."""
    name, numbers, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (name, np.asarray(numbers).tobytes(), *rest),
        "Python": random.getstate(),
    }


def drawn_since(before: States) -> str | None:
    """Whose generator has been drawn from since; None for none."""
    return next((name for name, state in states().items() if state != before[name]), None)


def counter_hash(key: Tensor, *counters: Tensor | int) -> Tensor:
    """Uniform int64 from integer keys and counters (the splitmix64 finaliser, once per counter).

    Args:
        key: int64, any shape.
        counters: int64 tensors that broadcast with `key`, or integers.

    Returns:
        int64 of the broadcast shape, uniform over all 64 bits; the same on every device.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014), section 3.
    """
    value = _finalise(key + _GOLDEN)
    for counter in counters:
        value = _finalise((value ^ counter) + _GOLDEN)
    return value


def _finalise(value: Tensor) -> Tensor:
    value = (value ^ _logical_shift(value, 30)) * _MIX_1
    value = (value ^ _logical_shift(value, 27)) * _MIX_2
    return value ^ _logical_shift(value, 31)


def _logical_shift(value: Tensor, bits: int) -> Tensor:
    return (value >> bits) & ((1 << (64 - bits)) - 1)
