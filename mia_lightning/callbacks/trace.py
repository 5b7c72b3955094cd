"""All looks of a training: a table with one row for each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, overload

import pyarrow as pa

from mia_lightning.callbacks.look import Look
from mia_lightning.terminal.amounts import show, signed


class Trace(Sequence[Look]):
    """Looks in the order of epochs; `len` counts them, and `trace[-1]` is the last.

    >>> trace = Trace([Look(epoch=0, step=10, num_members=50, num_nonmembers=50, auc=0.5)])
    >>> len(trace), trace[-1].auc, trace.columns[:3]
    (1, 0.5, ('epoch', 'step', 'num_members'))
    """

    def __init__(self, looks: Sequence[Look] = ()) -> None:
        self._looks = list(looks)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: epoch, step, gap, auc with its limits, ... (`Look`)."""
        return tuple(Look(epoch=0, step=0, num_members=0, num_nonmembers=0).row())

    def rows(self) -> list[dict[str, Any]]:
        """A dictionary for each look; `pandas.DataFrame(trace.rows())` is a table of pandas."""
        return [look.row() for look in self._looks]

    def to_arrow(self) -> pa.Table:
        """The same as a table of pyarrow."""
        return pa.table({name: [row[name] for row in self.rows()] for name in self.columns})

    def append(self, look: Look) -> None:
        """One look more."""
        self._looks.append(look)

    def until(self, epoch: int) -> "Trace":
        """The looks before an epoch."""
        return Trace([look for look in self._looks if look.epoch < epoch])

    def state(self) -> list[dict[str, Any]]:
        """Numbers and texts, from which `of_state` makes the same trace."""
        return [{each.name: getattr(look, each.name) for each in fields(look)} for look in self._looks]

    @classmethod
    def of_state(cls, state: Sequence[Mapping[str, Any]]) -> "Trace":
        """The trace whose `state` this is."""
        return cls([Look(**each) for each in state])

    @overload
    def __getitem__(self, place: int) -> Look: ...

    @overload
    def __getitem__(self, place: slice) -> list[Look]: ...

    def __getitem__(self, place: int | slice) -> Look | list[Look]:
        return self._looks[place]

    def __len__(self) -> int:
        return len(self._looks)

    def __iter__(self) -> Iterator[Look]:
        return iter(self._looks)

    def __repr__(self) -> str:
        lines = [f"Trace of {len(self)} looks: epoch, gap, AUC of the loss attack with its limits"]
        for look in self._looks:
            found = [show(each) for each in (look.auc, look.auc_low, look.auc_high)]
            seen = "" if look.auc is None else f"{signed(look.gap)}  {found[0]} [{found[1]}, {found[2]}]"
            lines.append(f"{look.epoch:5d}  {seen or look.reason}")
        return "\n".join(lines)
