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
from mia_lightning.training.plan.memory import free_on, free_on_host

# An array may take a quarter of what is free: beside it stand others, and what is computed from them.
_SHARE = 4


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
