"""Room for large arrays: in memory, or in a file on disk where they would take too much memory."""

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

# An array may take a quarter of the free memory: others stand beside it, and results that are computed from them.
_SHARE = 4
# Bytes of an array that is small beside the memory of any process, so that nobody asks how much is free.
_SMALL = 2**20


@dataclass(frozen=True, kw_only=True)
class Room:
    """Makes arrays where there is room for them; results do not depend on where they lie.

    Attributes:
        max_bytes: the most that one array takes of a device's memory, or of the host's; None for a quarter of what is
            free there when it is made.
        folder: where larger arrays lie, in files without a name that vanish with the array, also after a crash; None
            for the temporary folder of the system ($TMPDIR). It should be on a disk: files of a tmpfs take memory.
    """

    max_bytes: int | None = None
    folder: Path | None = None

    def empty(
        self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """A tensor to be filled: on `device`, else in the host's memory, else mapped from a file.

        Pages of a mapped file do not count as the memory of the process: where memory is short, the kernel writes them
        to the disk and drops them.

        Raises:
            InputError: it fits neither memory nor disk.
        """
        size = prod(shape) * dtype.itemsize
        device = torch.device(device)
        if self.is_on_disk(shape, dtype=dtype, device=device):
            return torch.frombuffer(self._map(size), dtype=dtype).view(*shape)
        is_off_device = device.type == "cuda" and self._exceeds(size, device)
        return torch.empty(*shape, dtype=dtype, device="cpu" if is_off_device else device)

    def is_on_disk(
        self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> bool:
        """Whether a tensor of this shape would be mapped from a file."""
        size, device = prod(shape) * dtype.itemsize, torch.device(device)
        if device.type == "cuda" and not self._exceeds(size, device):
            return False
        return device.type in ("cpu", "cuda") and self._exceeds(size, torch.device("cpu"))

    def _exceeds(self, size: int, device: torch.device) -> bool:
        """Whether an array is too large for the memory of the device."""
        if self.max_bytes is not None:
            return size > self.max_bytes
        if size <= _SMALL:
            return False
        return size > (free_on(device) if device.type == "cuda" else free_on_host()) // _SHARE

    def _map(self, size: int) -> mmap.mmap:
        folder = Path(tempfile.gettempdir()) if self.folder is None else self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process at the first write
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                return mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise InputError(
                f"The answers of all models take {size / 2**30:.3g} GiB, more than memory should hold, and no file of "
                f"that size can be made in '{folder.absolute()}' ({error.strerror or error}); free space there, choose "
                "another output folder of the run or another TMPDIR, or lower `shadow.count`."
            ) from error
