"""The form of a record: one tensor or several named ones, each of a kind.

A record of several tensors is stored as one row of bytes, the tensors side by side. So records of every form are one
tensor `x_N`: they are gathered, moved, mapped into memory, compared and hashed in the same way.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mia_lightning.errors import InputError

Kind = Literal["numeric", "image", "tokens", "waveform", "category"]
Records = Tensor | dict[str, Tensor]
"""What a network is called with: a tensor, or named tensors as keyword arguments."""

_ALIGNMENT = 8  # bytes: of the widest type, so that each row of bytes can be viewed as any


@dataclass(frozen=True, kw_only=True)
class Field:
    """One tensor of a record.

    Attributes:
        name: the keyword by which a network takes it; "" where the record is this tensor alone.
        kind: `numeric`, `image` and `waveform` are given to a network as floating point; `tokens` and `category` as
            int64, never scaled.
        dtype: in which it is stored.
        shape: of one record.
        padding: of `tokens`, the id that fills up a short text; None where there is none.
        mask: of `tokens`, the keyword by which a network also takes which of them are no padding (int64, 1 or 0); None
            for a network that finds out by itself.
        sizes: of `tokens` the number of ids; of `category` the number of codes of each entry.
        columns: names of the entries; () where they have none.
        vocabulary: of `category`, the names of the codes of each entry; of `tokens`, the tokens by id, or ().
        has_gaps: of `numeric`, whether NaN stands for a number that is missing.
        sample_rate: of `waveform`, in Hz.
    """

    name: str = ""
    kind: Kind = "numeric"
    dtype: torch.dtype = torch.float32
    shape: tuple[int, ...]
    padding: int | None = None
    mask: str | None = None
    sizes: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    vocabulary: tuple[tuple[str, ...], ...] = ()
    has_gaps: bool = False
    sample_rate: int | None = None

    @property
    def is_code(self) -> bool:
        """Whether its values are names (of tokens, of categories) and no quantities."""
        return self.kind in ("tokens", "category")

    @property
    def nbytes(self) -> int:
        """Of one record."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def num_entries(self) -> int:
        """Numbers of one record."""
        return math.prod(self.shape)

    @property
    def words(self) -> str:
        """For sentences, such as `tokens [128]`."""
        return f"{self.kind} {list(self.shape)}{' with gaps' if self.has_gaps else ''}"

    @property
    def named_words(self) -> str:
        """With its name, if it has one: such as `numbers` (numeric [4])."""
        return f"`{self.name}` ({self.words})" if self.name else self.words

    def seen(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """The stored values as a network sees them.

        The pixels of a uint8 image are divided by 255, and integers of a waveform by the magnitude of the least of
        their type, so that they are in [-1, 1).
        """
        if self.is_code:
            return value.to(torch.int64)
        value = value.to(dtype)
        if self.kind == "image" and self.dtype == torch.uint8:
            return value / 255
        if self.kind == "waveform" and not self.dtype.is_floating_point:
            return value / -torch.iinfo(self.dtype).min
        return value

    def is_real(self, value: Tensor) -> Tensor:
        """Bool: which values are no padding."""
        return torch.ones_like(value, dtype=torch.bool) if self.padding is None else value.ne(self.padding)


@dataclass(frozen=True, kw_only=True)
class Form:
    """The fields of a record, in the order in which they are stored: those of the widest type first.

    Attributes:
        fields: one without a name, or several with different names.
    """

    fields: tuple[Field, ...]

    @classmethod
    def of(cls, fields: Sequence[Field]) -> "Form":
        """The form of these fields, in any order."""
        return cls(fields=tuple(sorted(fields, key=lambda field: (-field.dtype.itemsize, field.name))))

    @property
    def is_one(self) -> bool:
        """Whether a record is one tensor, which is then stored as it is."""
        return not self.fields[0].name

    def check_one(self, what: str, mend: str) -> None:
        """Raise an `InputError` for a record of several tensors, where only one can pass.

        Args:
            what: that takes one tensor, as a sentence begins.
            mend: what helps.
        """
        if not self.is_one:
            raise InputError(f"{what} takes one tensor for a record, and a record here is {self.words}; {mend}.")

    @property
    def row_bytes(self) -> int:
        """Of a record of several tensors; a multiple of the width of every type."""
        return -(-sum(field.nbytes for field in self.fields) // _ALIGNMENT) * _ALIGNMENT

    def field(self, name: str) -> Field:
        """The field of this name."""
        return next(field for field in self.fields if field.name == name)

    def of_kind(self, *kinds: Kind) -> tuple[Field, ...]:
        """The fields of these kinds."""
        return tuple(field for field in self.fields if field.kind in kinds)

    def packed(self, values: Mapping[str, Tensor]) -> Tensor:
        """Named tensors `[..., *shape]` of the fields' types as rows of bytes, uint8 `[..., row_bytes]`."""
        batch = values[self.fields[0].name].shape[: values[self.fields[0].name].ndim - len(self.fields[0].shape)]
        row = values[self.fields[0].name].new_zeros((*batch, self.row_bytes), dtype=torch.uint8)
        start = 0
        for field in self.fields:
            value = values[field.name].to(field.dtype).reshape(*batch, -1).contiguous()
            if field.dtype.is_floating_point:  # equal values are equal bytes
                value = torch.where(value.isnan(), torch.nan, value + 0.0)
            row[..., start : start + field.nbytes] = value.view(torch.uint8)
            start += field.nbytes
        return row

    def unpacked(self, row: Tensor) -> dict[str, Tensor]:
        """Rows of bytes, `[..., row_bytes]`, as named tensors `[..., *shape]`, which share their memory."""
        values, start = {}, 0
        for field in self.fields:
            part = row[..., start : start + field.nbytes].view(field.dtype)
            values[field.name] = part.reshape(*row.shape[:-1], *field.shape)
            start += field.nbytes
        return values

    @property
    def num_entries(self) -> int:
        """Numbers of one record, of all fields together."""
        return sum(field.num_entries for field in self.fields)

    @property
    def is_quantity(self) -> bool:
        """Whether a record is one tensor of quantities without gaps, so that records can be averaged."""
        return self.is_one and not (self.fields[0].is_code or self.fields[0].has_gaps)

    def lacking(self, stored: Tensor) -> Field | None:
        """The first field of which one of the stored records `[N, *features]` lacks a number; None where none does."""
        values = {"": stored} if self.is_one else self.unpacked(stored)
        return next((each for each in self.fields if each.has_gaps and bool(values[each.name].isnan().any())), None)

    @property
    def is_image(self) -> bool:
        """Whether a record is an image alone."""
        return self.is_one and self.fields[0].kind == "image"

    def entries(self, stored: Tensor) -> Tensor:
        """Stored records `[..., *features]` as flat rows of numbers, `[..., num_entries]`, the fields side by side.

        Of one tensor they keep their type; of several they are float64, which holds whole numbers up to 2**53.
        """
        if self.is_one:
            return stored.flatten(-len(self.fields[0].shape)) if self.fields[0].shape else stored
        parts = self.unpacked(stored)
        return torch.cat([parts[field.name].reshape(*stored.shape[:-1], -1).double() for field in self.fields], -1)

    def stored(self, entries: Tensor) -> Tensor:
        """Flat rows of numbers, as `entries` gives them, as records that are stored."""
        if self.is_one:
            return entries.reshape(*entries.shape[:-1], *self.fields[0].shape)
        parts = entries.split([field.num_entries for field in self.fields], -1)
        return self.packed(
            {f.name: part.reshape(*part.shape[:-1], *f.shape) for f, part in zip(self.fields, parts, strict=True)}
        )

    @property
    def has_quantities(self) -> bool:
        """Whether some of its numbers are quantities, and no codes."""
        return any(not field.is_code for field in self.fields)

    @property
    def is_code_F(self) -> Tensor:
        """Bool `[num_entries]`: which numbers of a flat row are codes."""
        return torch.cat([torch.full((field.num_entries,), field.is_code) for field in self.fields])

    def places(self) -> list[tuple[Field, slice]]:
        """The fields, each with the places of its numbers in a flat row."""
        found, start = [], 0
        for field in self.fields:
            found.append((field, slice(start, start + field.num_entries)))
            start += field.num_entries
        return found

    @property
    def words(self) -> str:
        """What a record is, for sentences: such as `tokens [128]`, or `numbers (numeric [4]), codes (category [3])`."""
        return ", ".join(field.named_words for field in self.fields)

    @property
    def seen_shape(self) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
        """What a network's constructor is given as `input_shape`.

        Of one tensor its shape; of several that of the one field of numbers or pixels, else the shape of each field by
        its name.
        """
        of_numbers = self.fields if self.is_one else self.of_kind("numeric", "image")
        if len(of_numbers) == 1:
            return of_numbers[0].shape
        return {field.name: field.shape for field in self.fields}

    def parameters(self) -> dict[str, Any]:
        """What a network's constructor is given of the form, where it takes parameters of these names.

        `form` is this form. Of tokens: `vocabulary_size`, and `padding_id`, which may be None. Of categories:
        `category_sizes`, for each entry its number of codes. Of a table: `num_numeric`, the entries that are numbers.
        Of waveforms: `sample_rate`, in Hz.
        """
        found: dict[str, Any] = {"form": self}
        tokens = self.of_kind("tokens")
        if tokens:
            widest = max(tokens, key=lambda field: field.sizes)
            found |= {"vocabulary_size": widest.sizes[0], "padding_id": widest.padding}
        if self.of_kind("numeric", "category"):
            found["category_sizes"] = tuple(size for field in self.of_kind("category") for size in field.sizes)
            found["num_numeric"] = sum(field.num_entries for field in self.of_kind("numeric"))
        if waveforms := self.of_kind("waveform"):
            found["sample_rate"] = waveforms[0].sample_rate
        return found

    def seen(self, stored: Tensor, dtype: torch.dtype) -> Records:
        """Stored records `[..., *features]` as a network sees them, numbers in `dtype`."""
        if self.is_one:
            return self.fields[0].seen(stored, dtype)
        values: dict[str, Tensor] = {}
        for name, value in self.unpacked(stored).items():
            field = self.field(name)
            values[name] = field.seen(value, dtype)
            if field.mask is not None:
                values[field.mask] = field.is_real(value).to(torch.int64)
        return values

    def described(self) -> list[dict[str, Any]]:
        """The fields as JSON: what keys and fingerprints of records depend on beside their bytes."""
        return [{**vars(field), "dtype": str(field.dtype), "shape": list(field.shape)} for field in self.fields]


def called(network: nn.Module, records: Any) -> Any:
    """What a network gives for records: a tensor is its argument, named ones are keyword arguments."""
    return network(**records) if isinstance(records, Mapping) else network(records)


def each_of(records: Records, change: Callable[[Tensor], Tensor]) -> Records:
    """The records with each tensor changed, such as `lambda x: x[:3]`."""
    if isinstance(records, Tensor):
        return change(records)
    return {name: change(value) for name, value in records.items()}


def first_few(records: Records, count: int) -> Records:
    """The first `count` records of `[B, *features]`."""
    return each_of(records, lambda x: x[:count])


def moved(records: Records, device: torch.device | str) -> Records:
    """The records on the device."""
    return each_of(records, lambda x: x.to(device))


def one_tensor(records: Records) -> Tensor:
    """The tensor that records are; those of a form of several tensors are never asked for so."""
    assert isinstance(records, Tensor)
    return records


def tensors_of(records: Records) -> list[Tensor]:
    """The tensors that records are, in order."""
    return [records] if isinstance(records, Tensor) else list(records.values())


def first_of(records: Records) -> Tensor:
    """One of the tensors, by which the number of records and the device are known."""
    return tensors_of(records)[0]


def of_model(records: Records, k: int) -> Records:
    """What model k is given of `[K, B, *features]`."""
    return each_of(records, lambda x: x[k])


def shape_of(records: Records) -> str:
    """The shapes of the tensors, for sentences."""
    if isinstance(records, Tensor):
        return str(tuple(records.shape))
    return ", ".join(f"`{name}` {tuple(value.shape)}" for name, value in records.items())
