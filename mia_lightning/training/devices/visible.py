"""Which GPUs the scheduler gave to this process, and which of them a process that it starts is to see.

Slurm, Ray and people name them in CUDA_VISIBLE_DEVICES. A process counts from 0 what is named there, so that indices
need no translation. Only slices of a GPU (MIG) are otherwise: whatever is named, a process sees the first one alone.
"""

import os

_NAMED = "CUDA_VISIBLE_DEVICES"


def slices() -> list[str]:
    """The names of the slices that were given, as they were given; none where whole GPUs were."""
    names = [name.strip() for name in os.environ.get(_NAMED, "").split(",")]
    return names if all(name.startswith("MIG-") for name in names) else []


def environment_of(index: int) -> dict[str, str]:
    """What is to be set for a process that is to use the device `index` of those that were given."""
    given = slices()
    return {_NAMED: given[index]} if given else {}


def index_there(index: int) -> int:
    """The index of that device in the process."""
    return 0 if slices() else index
