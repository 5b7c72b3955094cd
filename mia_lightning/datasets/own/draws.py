"""Whether code draws from the generators that a process shares."""

import random

import numpy as np
import torch

States = dict[str, object]


def states() -> States:
    """Of the global generators, by whose they are."""
    name, numbers, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (name, np.asarray(numbers).tobytes(), *rest),
        "Python": random.getstate(),
    }


def drawn_since(before: States) -> str | None:
    """Whose generator has been drawn from since; None for none."""
    return next((name for name, state in states().items() if state != before[name]), None)
