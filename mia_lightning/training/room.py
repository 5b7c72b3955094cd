"""Where large arrays are held: in memory, or in a file on disk where they would take too much of it."""

import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from mia_lightning.errors import InputError

# An array may take a quarter of what is free: beside it stand others, and what is computed from them.
_SHARE = 4
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Room:
    """Makes arrays where there is room for them; what they hold is the same wherever they lie.

    Attributes:
        max_bytes: the most that one array takes of a device's memory, or of the host's; None for a quarter of what is
            free there when it is made.
        folder: where larger ones lie, in files without a name that are gone with the array, also after a crash; None
            for the temporary folder of the system ($TMPDIR). It should be on a disk: files of a tmpfs are memory.
    """

    max_bytes: int | None = None
    folder: Path | None = None

    def empty(
        self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """A tensor to be filled: on `device`, else in the host's memory, else mapped from a file.

        Pages of a file are no memory that a process has to itself: the kernel writes them to the disk and drops them
        when memory is short.

        Raises:
            InputError: it fits neither memory nor disk.
        """
        size = prod(shape) * dtype.itemsize
        device = torch.device(device)
        if device.type == "cuda" and size <= self._limit(device):
            return torch.empty(*shape, dtype=dtype, device=device)
        if device.type not in ("cpu", "cuda") or size <= self._limit(torch.device("cpu")):
            return torch.empty(*shape, dtype=dtype, device="cpu" if device.type == "cuda" else device)
        return torch.frombuffer(self._map(size), dtype=dtype).view(*shape)

    def _limit(self, device: torch.device) -> int:
        if self.max_bytes is not None:
            return self.max_bytes
        return (free_on(device) if device.type == "cuda" else free_on_host()) // _SHARE

    def _map(self, size: int) -> mmap.mmap:
        folder = Path(tempfile.gettempdir()) if self.folder is None else self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                if hasattr(os, "posix_fallocate"):  # a disk that is full at the first write would kill the process
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                return mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise InputError(
                f"The answers of all models take {size / 2**30:.3g} GiB, more than memory should hold, and no file of "
                f"that size can be made in '{folder.absolute()}' ({error.strerror or error}); free disk there, choose "
                "another folder by the run's output folder or by TMPDIR, or lower `shadow.count`."
            ) from error


def free_on(device: torch.device) -> int:
    """Bytes that can still be taken on a CUDA device, those that torch holds in reserve among them."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def free_on_host() -> int:
    """Bytes of memory that can still be taken: of the machine, or of the containers (cgroups) around this process."""
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
    """Limits less what processes hold, from this process's own group (version 2) up; files in memory can be dropped."""
    found: list[int] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        return found
    for group in (place := _CGROUPS / own.lstrip("/"), *place.parents):
        if not group.is_relative_to(_CGROUPS):
            break
        try:
            limit = (group / "memory.max").read_text().strip()
            held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:  # the root of all groups has no limit
            continue
        if limit != "max":
            found.append(int(limit) - int(held.get("anon", 0)) - int(held.get("shmem", 0)))
    return found
