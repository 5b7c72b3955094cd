"""Records as vectors of numbers, whatever their kind: for distances, and for classifiers that know no form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.datasets.form import Field, one_tensor
from mia_lightning.datasets.population import Population
from mia_lightning.seeds import counter_hash

WIDTH = 512
"""Columns of a field of codes: one for each code, or, where there are more, columns that codes share by a hash."""
_BLOCK_NUMBERS = 2**22  # at once: bounds memory, not results


@dataclass(frozen=True, eq=False, kw_only=True)
class Vectors:
    """A record as one row of numbers `[width]`.

    Records without a form are as a network sees them, flattened. Of others, numbers of a table are brought to mean 0
    and deviation 1, a number that is missing becomes 0 and a 1 in a column of its own; each code of a category is a
    column, of √½ where a record has it, so that two records that differ in it alone have the distance 1; tokens are
    counted, whatever their order; images and waveforms are flattened. Where codes are more than 512, they share columns
    by a hash, with signs, which keeps distances on average.

    Attributes:
        population: the records.
        mean_F, std_F: float64, of the numbers of tables, side by side in the order of the form; [] without any.
    """

    population: Population
    mean_F: Tensor
    std_F: Tensor

    @classmethod
    def of(cls, population: Population, index: Tensor | None = None) -> "Vectors":
        """The vectors of these records; mean and deviation are those of the records at `index`, of all by default."""
        form, nothing = population.form, torch.zeros(0, dtype=torch.float64)
        if form is None or not form.of_kind("numeric"):
            return cls(population=population, mean_F=nothing, std_F=nothing)
        sums_3F = torch.zeros(3, sum(f.num_entries for f in form.of_kind("numeric")), dtype=torch.float64)
        index = torch.arange(len(population)) if index is None else index
        for index_B in index.to(population.device).split(max(1, _BLOCK_NUMBERS // form.num_entries)):
            x_BF = torch.cat([_flat(value).double() for _, value in _numbers(population, index_B)], 1)
            is_there_BF = ~x_BF.isnan()
            x_BF = x_BF.nan_to_num(0.0)
            sums_3F += torch.stack([x_BF.sum(0), x_BF.square().sum(0), is_there_BF.sum(0).double()]).cpu()
        total, squares, count = sums_3F
        mean_F = total / count.clamp(min=1)
        std_F = (squares / count.clamp(min=1) - mean_F.square()).clamp(min=0.0).sqrt()
        return cls(population=population, mean_F=mean_F, std_F=torch.where(std_F > 0, std_F, 1.0))

    @property
    def width(self) -> int:
        """Numbers of one vector."""
        return int(self(torch.zeros(1, dtype=torch.int64, device=self.population.device)).shape[1])

    def __call__(self, index_B: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The records at `index_B` (int64 `[B]`) as vectors `[B, width]`, on the device of the indices."""
        form = self.population.form
        if form is None:
            return one_tensor(self.population.records(index_B, dtype)).flatten(1)
        parts, start = [], 0
        for field, value in _fields(self.population, index_B):
            if field.is_code:
                parts.append(_columns(field, value, dtype))
                continue
            value = field.seen(value, dtype).reshape(len(index_B), -1)
            if field.kind != "numeric":
                parts.append(value)
                continue
            place = slice(start, start := start + field.num_entries)
            mean_F, std_F = (each[place].to(value) for each in (self.mean_F, self.std_F))
            parts.append(((value - mean_F) / std_F).nan_to_num(0.0))
            if field.has_gaps:
                parts.append(value.isnan().to(dtype))
        return torch.cat(parts, 1)


def _fields(population: Population, index_B: Tensor) -> list[tuple[Field, Tensor]]:
    """The fields, with the stored values of these records."""
    form = population.form
    assert form is not None
    rows = population.x_N.index_select(0, index_B.to(population.device)).to(index_B.device)
    if form.is_one:
        return [(form.fields[0], rows)]
    values = form.unpacked(rows)
    return [(field, values[field.name]) for field in form.fields]


def _numbers(population: Population, index_B: Tensor) -> list[tuple[Field, Tensor]]:
    return [each for each in _fields(population, index_B) if each[0].kind == "numeric"]


def _flat(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1)


def _columns(field: Field, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Counts of tokens, or categories one-hot, of √½; in columns that codes share by a hash where they are many."""
    code_BE = value.reshape(len(value), -1).long()
    weight_BE = torch.ones_like(code_BE, dtype=dtype)
    if field.kind == "tokens":
        weight_BE = field.is_real(code_BE).to(dtype)
    else:
        weight_BE *= 0.5**0.5
        sizes = torch.tensor([0, *field.sizes[:-1]], device=code_BE.device)
        code_BE = code_BE + sizes.cumsum(0)
    num_codes = field.sizes[0] if field.kind == "tokens" else sum(field.sizes)
    if num_codes > WIDTH:
        random_BE = counter_hash(code_BE)
        weight_BE = torch.where(random_BE < 0, -weight_BE, weight_BE)
        code_BE = (random_BE & (2**62 - 1)) % WIDTH
    counts_BV = torch.zeros(len(value), min(num_codes, WIDTH), dtype=dtype, device=value.device)
    return counts_BV.scatter_add_(1, code_BE, weight_BE)
