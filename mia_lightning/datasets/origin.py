"""Which of a user's own sets the records come from."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the sets.

    Attributes:
        name: "training set", "validation set", ...
        source: what gave it, such as `train_dataloader`; "" for a dataset that was given itself.
        num_records: in it.
        is_training: whether a model of the user was trained on it.
    """

    name: str
    source: str
    num_records: int
    is_training: bool

    def __str__(self) -> str:
        source = f" (`{self.source}`)" if self.source else ""
        return f"{self.num_records:,} records of the {self.name}{source}"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The sets, in the order of their records.

    Attributes:
        name: of the DataModule or dataset that gave them.
        parts: the training set first.
        doubt: why the training set may be another one than in an earlier training; None for no doubt.
    """

    name: str
    parts: tuple[Part, ...]
    doubt: str | None = None

    @property
    def training(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.is_training)

    @property
    def held_out(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if not part.is_training)

    def as_members(self) -> str:
        """The sentence of a report in which the sets say who is a member."""
        return (
            f"The members are the {_joined(self.training)} of {self.name}; the non-members are the "
            f"{_joined(self.held_out)}."
        )

    def as_pool(self, plan: str) -> str:
        """The sentence of a report in which the sets play no part."""
        return (
            f"The records of {self.name} are one pool: {_joined(self.parts)}. membership={plan} says anew who trains "
            "on which, whatever set they come from."
        )


def _joined(parts: Sequence[Part]) -> str:
    """The parts in words."""
    words = [str(part) for part in parts]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
