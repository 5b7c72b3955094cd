"""The form of a record: one tensor or several named ones, each of a kind.

A record of several tensors is stored as one row of bytes, the tensors side by side. So records of every form are one
tensor `x_N`: they are gathered, moved, mapped into memory, compared and hashed in the same way.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

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

    def seen(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """The stored values as a network sees them: integers of a waveform as parts of their range, in [-1, 1)."""
        if self.kind == "waveform" and not self.dtype.is_floating_point:
            return value.to(dtype) / -torch.iinfo(self.dtype).min
        return value.to(torch.int64 if self.is_code else dtype)


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

    def seen(self, stored: Tensor, dtype: torch.dtype) -> Records:
        """Stored records `[..., *features]` as a network sees them, numbers in `dtype`."""
        if self.is_one:
            return self.fields[0].seen(stored, dtype)
        values: dict[str, Tensor] = {}
        for name, value in self.unpacked(stored).items():
            field = self.field(name)
            values[name] = field.seen(value, dtype)
            if field.mask is not None:
                values[field.mask] = (value != field.padding).to(torch.int64)
        return values

    def described(self) -> list[dict[str, Any]]:
        """The fields as JSON: what keys and fingerprints of records depend on beside their bytes."""
        return [{**vars(field), "dtype": str(field.dtype), "shape": list(field.shape)} for field in self.fields]


def first_of(records: Records) -> Tensor:
    """One of the tensors, by which the number of records and the device are known."""
    return records if isinstance(records, Tensor) else next(iter(records.values()))


def of_model(records: Records, k: int) -> Records:
    """What model k is given of `[K, B, *features]`."""
    if isinstance(records, Tensor):
        return records[k]
    return {name: value[k] for name, value in records.items()}
