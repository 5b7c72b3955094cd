"""How much memory models take while they train, how much is free, and which errors say that it ran out."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mia_lightning.errors import InputError, first_line
from mia_lightning.training.plan.cgroups import cgroups

# Of the free memory; the rest is for what is not estimated: workspaces, fragmentation, other processes.
SHARE_OF_FREE = 0.8
MODELS_IN_STREAMS = 4  # of a loop, at the same time, where each has a stream of the device


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes that one model of a role takes.

    Attributes:
        parameters: of the model, with its buffers; a trained model takes no more.
        held: while its chunk trains: parameters, gradients, optimiser state, its batch.
        activations: from forward to backward, and what backward needs beside them.
        made: of `held`, what each step makes anew: gradients, its batch.
    """

    parameters: int
    held: int
    activations: int
    made: int = 0

    def bytes(
        self, execution: str, chunk: int, num_models: int, *, cuda_graphs: bool = False, streams: bool = False
    ) -> int:
        """The bytes of `num_models` models, of which `chunk` train at once and the others are trained already.

        Args:
            streams: whether some models of a loop are stepped at the same time.
            cuda_graphs: whether steps are recorded. Graphs have memory of their own for what a step makes, beside that
                of the steps that are taken as they are.
        """
        at_work = chunk if execution == "stack" else min(chunk, MODELS_IN_STREAMS) if streams else 1
        steps = at_work * self.activations + (chunk * self.made + at_work * self.activations if cuda_graphs else 0)
        return chunk * self.held + steps + (num_models - chunk) * self.parameters


@contextmanager
def saved_tensors() -> Iterator[dict[int, int]]:
    """Within the context, the bytes of all that autograd keeps for backward, by the address of its storage."""
    size: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        size[storage.data_ptr()] = max(storage.nbytes(), size.get(storage.data_ptr(), 0))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield size


def memory_budget(device: torch.device) -> int:
    """Bytes that training may take on the device: a share of the free memory."""
    return int(SHARE_OF_FREE * (free_on(device) if device.type == "cuda" else free_on_host()))


def free_on(device: torch.device) -> int:
    """Free bytes on a CUDA device, with those that torch holds in reserve."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def free_on_host() -> int:
    """Free bytes of memory: of the machine, or of the containers (cgroups) around this process, whichever are fewer."""
    return max(0, min(_free_of_machine(), *_free_of_cgroups(), 2**63 - 1))


def _free_of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # no Linux: half of all there is
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, ValueError, OSError):
            return 2**33


def _free_of_cgroups() -> list[int]:
    """The limit of each group (version 2) around this process, less what its processes hold beside cached files."""
    found: list[int] = []
    for group in cgroups("memory"):
        try:
            limit = (group / "memory.max").read_text().strip()
            held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:  # the root of all groups has no limit
            continue
        if limit != "max":
            found.append(int(limit) - int(held.get("anon", 0)) - int(held.get("shmem", 0)))
    return found


def peak_memory(device: torch.device) -> dict[str, int]:
    """The most bytes so far: `process`, resident in main memory; `device`, allocated by torch on the CUDA device."""
    try:
        import resource
    except ImportError:  # Windows
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"process": peak if sys.platform == "darwin" else peak * 1024}
    if device.type == "cuda":
        found["device"] = torch.cuda.max_memory_allocated(device)
    return found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # torch's allocator of main memory and CUDA's libraries raise a plain RuntimeError.
    said = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in said)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Within the context, memory that runs out is the fault of the input.

    Raises:
        InputError: it has run out, and nothing smaller could be tried.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"Memory ran out ({first_line(error)}); use fewer or smaller records or models, or a machine with more."
        ) from error


def release(device: torch.device) -> None:
    """Free the memory of models that nothing refers to any more."""
    import gc

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
