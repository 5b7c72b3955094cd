"""Records of zeros and ones as packed bits, of which a step reads a thirty-second part of what floats would take."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mia_lightning.datasets.form import Records
from mia_lightning.datasets.population import Population
from mia_lightning.training.step.recipe import Recipe

DEVICES = {"cuda"}
"""The types of devices where records are packed."""

_ROWS = 2**16  # packed at once


def refusal(recipe: Recipe, population: Population, device: torch.device) -> str | None:
    """Why the records are not packed, in a clause; None where they can be."""
    if recipe.packed_bits is False:
        return "`training.packed_bits` is false"
    if device.type not in DEVICES:
        return f"the device is {device.type}"
    if not population.is_near(device):
        return "the records stay on the host"
    return None if _are_bits(population) else "the records hold more than zeros and ones"


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedBits:
    """Records all of whose numbers are 0 or 1, eight of them in a byte.

    Attributes:
        byte_NQ: uint8, on the device; the first number of eight is the highest bit.
        shape: of a record.
        normalised: what a network sees of records `[..., *features]`, as `Population.normaliser` gives it.
    """

    byte_NQ: Tensor
    shape: tuple[int, ...]
    normalised: Callable[[Tensor, torch.dtype], Records]
    _tables: dict[torch.dtype, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, population: Population) -> "PackedBits":
        """The records, which are where `population.x_N` is and hold zeros and ones alone."""
        value_Q8 = _place_values(population.device)
        parts = []
        for x_M in population.x_N.split(_ROWS):
            bit_MF = x_M.flatten(1).to(torch.uint8)
            bit_MF = torch.nn.functional.pad(bit_MF, (0, -bit_MF.shape[1] % 8))
            parts.append((bit_MF.unflatten(1, (-1, 8)) * value_Q8).sum(-1, dtype=torch.uint8))
        return cls(
            byte_NQ=torch.cat(parts),
            shape=tuple(population.x_N.shape[1:]),
            normalised=population.normaliser(population.device),
        )

    def records(self, index: Tensor, dtype: torch.dtype) -> Records:
        """As `Population.records`, for indices on the device."""
        byte_MQ = self.byte_NQ.index_select(0, index.flatten())
        bit_MF = torch.nn.functional.embedding(byte_MQ.int(), self._table(dtype)).flatten(1)
        num_entries = torch.Size(self.shape).numel()
        x_MF = bit_MF[:, :num_entries].contiguous()  # as it lies decides on the order of sums
        return self.normalised(x_MF.view(*index.shape, *self.shape), dtype)

    def _table(self, dtype: torch.dtype) -> Tensor:
        """The eight numbers of each byte, `[256, 8]`."""
        if dtype not in self._tables:
            device = self.byte_NQ.device
            byte_Q = torch.arange(256, device=device)
            self._tables[dtype] = ((byte_Q[:, None] & _place_values(device)) > 0).to(dtype)
        return self._tables[dtype]


def _place_values(device: torch.device) -> Tensor:
    """128, 64, ..., 1."""
    return 2 ** torch.arange(7, -1, -1, device=device).to(torch.uint8)


def _are_bits(population: Population) -> bool:
    """Whether all numbers of all records, one tensor of quantities each, are 0 or 1."""
    x_N = population.x_N
    if population.form is not None or x_N.dim() < 2:
        return False
    return all(bool((((x_M == 0) & ~x_M.signbit()) | (x_M == 1)).all()) for x_M in x_N.split(_ROWS))
