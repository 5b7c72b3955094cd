"""The numbers of the tensors in a file: ranges of it, checked against its size before a tensor is made of them."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MOST_REPEATS = 2**10  # of a number, by a stride of 0


DAMAGED = "it is damaged, or torch.save has not written it"


class NotReadError(Exception):
    """Why a file cannot be read: a clause."""


@dataclass(eq=False)
class Storage:
    """Numbers of tensors: a range of the file, known at once or, in the older form, after the tensors."""

    dtype: torch.dtype
    numbers: "np.ndarray[Any, Any] | None" = None
    tensors: list[tuple[Tensor, torch.dtype, int, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    def checked(self, dtype: torch.dtype, count: int) -> "Storage":
        """Itself, if it holds as many numbers as a pickle says."""
        if dtype is not self.dtype or self.numbers is None or count * dtype.itemsize > len(self.numbers):
            raise NotReadError("it lacks the numbers of a tensor")
        return self

    def tensor(self, dtype: torch.dtype, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        if self.numbers is not None:
            return self._view(dtype, offset, size, stride)
        made = torch.empty(0, dtype=dtype)
        self.tensors.append((made, dtype, offset, size, stride))
        return made

    def fill(self) -> None:
        """Give the tensors of the older form their numbers."""
        if self.numbers is None:
            raise NotReadError("it lacks the numbers of a tensor")
        for made, dtype, offset, size, stride in self.tensors:
            made.data = self._view(dtype, offset, size, stride)

    def _view(self, dtype: torch.dtype, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        assert self.numbers is not None
        whole = (*size, *stride, offset)
        if len(size) != len(stride) or not all(type(each) is int and each >= 0 for each in whole):
            raise NotReadError("it has a tensor of a shape that is none")
        count = len(self.numbers) // dtype.itemsize
        reach = 0 if 0 in size else sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        # A stride of 0 repeats numbers, of which a file that is small could make a tensor that is not.
        if offset + reach > count or prod(size) > max(count, 1) * (1 if 0 not in stride else _MOST_REPEATS):
            raise NotReadError("it has a tensor that is larger than its numbers")
        if not count or 0 in size:
            return torch.empty(size, dtype=dtype)
        return self._flat(dtype, count).as_strided(size, stride, offset)

    def _flat(self, dtype: torch.dtype, count: int) -> Tensor:
        assert self.numbers is not None
        numbers = self.numbers[: count * dtype.itemsize]
        if numbers.ctypes.data % dtype.itemsize:
            numbers = np.array(numbers)
        return torch.from_numpy(numbers).view(dtype)


@dataclass(frozen=True)
class StorageType:
    dtype: torch.dtype


def dtype_of(kind: object) -> torch.dtype:
    if not isinstance(kind, StorageType):
        raise NotReadError("it has tensors of a kind that is not known")
    return kind.dtype
