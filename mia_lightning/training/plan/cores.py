"""The cores that this process may use, and how its threads wait for each other; for the time before torch is imported.

Threads of OpenMP divide an operation and wait for the last of them. By default they spin for some milliseconds before
they sleep. Where other processes use the cores too, the last is often not running at all, and those that spin keep it
from running. Threads that sleep at once take long to wake, even on a machine of their own: steps of small networks took
twice as long. Threads that spin for less than a time slice are as fast on a machine of their own as beside others.
"""

import math
import os
import sys
from pathlib import Path

from mia_lightning.training.plan.cgroups import cgroups

# By each of these a user says how threads wait: of OpenMP in general, of GNU's and of Intel's and LLVM's.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# GNU's rounds of spinning take 10 to 50 ns, so these are less than a millisecond; the scheduler of Linux takes a core
# away for some. On two cores 10,000 to 20,000 were the best of both; 50,000 were five times slower beside busy loops.
# Intel's and LLVM's count milliseconds.
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000", "KMP_BLOCKTIME": "1"}


def available_cores() -> int:
    """The cores of this process's affinity, or as many as the quota of a cgroup around it pays for, rounded up."""
    return max(1, math.ceil(min([_cores_of_affinity(), *map(_cores_of, cgroups("cpu"))])))


def prepare_for_sharing() -> None:
    """Let threads sleep where they wait for long, and have no more than a quota pays for; what a user set stays.

    It is for the commands, before torch is imported: OpenMP reads the environment once. Later nothing is changed.
    """
    if "torch" in sys.modules:
        return
    if not waiting_is_set():
        os.environ.update(_PASSIVE)
    cores = available_cores()
    if cores < _cores_of_affinity():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def waiting_is_set() -> bool:
    """Whether the environment says how threads wait."""
    return any(name in os.environ for name in _WAITING)


def _cores_of_affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores_of(group: Path) -> float:
    """The quota of a group, in cores; infinite where it has none."""
    try:
        quota, period = (group / "cpu.max").read_text().split()  # version 2
    except (OSError, ValueError):
        try:
            quota, period = ((group / f"cpu.cfs_{each}_us").read_text() for each in ("quota", "period"))
        except OSError:
            return math.inf
    if quota.strip() in ("max", "-1"):
        return math.inf
    return int(quota) / int(period)
