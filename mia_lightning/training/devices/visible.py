"""Which GPUs the scheduler gave to this process, and which of them a process that it starts is to see.

Slurm, Ray and people name them in CUDA_VISIBLE_DEVICES. A process counts from 0 what is named there, so that indices
need no translation. Only slices of a GPU (MIG) are otherwise: whatever is named, a process sees the first one alone.
"""

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

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


@contextmanager
def having(variables: Mapping[str, str]) -> Iterator[None]:
    """With these variables in the environment within the context, which a process inherits that starts there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


def environment_without_driver() -> dict[str, str]:
    """What is to be set where there is no NVIDIA driver, for torch to know it without looking.

    lightning_fabric makes torch ask NVML, whose library it looks for at each step of an optimiser: some 0.4 ms.
    """
    return {} if _has_driver() else {"PYTORCH_NVML_BASED_CUDA_CHECK": "0"}


@cache
def _has_driver() -> bool:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True
