"""The form of a record, which an attacker without data knows: the type, and the range of each feature."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.datasets.form import Form
from mia_lightning.datasets.population import Population
from mia_lightning.seeds import counter_hash

_INT63 = 2**63 - 1
# Floats above this number are whole numbers only because they have too few digits.
_WHOLE = 2**24
# Random numbers at once: bounds memory, not results.
_NUMBERS = 2**24


@dataclass(frozen=True, eq=False, kw_only=True)
class Domain:
    """The ranges of the features, which are numbered in the order of a flattened record.

    Attributes:
        low_F, high_F: smallest and largest value of each feature, of the records' type; gaps aside. Of codes, from 0
            to the last one.
        is_whole_F: which features are whole numbers, such as the binary ones of a table of floats.
        shape: of one record.
        form: of the records; None where they are one tensor of numbers or pixels.
    """

    low_F: Tensor
    high_F: Tensor
    is_whole_F: Tensor
    shape: tuple[int, ...]
    form: Form | None = None

    @classmethod
    def of(cls, population: Population) -> "Domain":
        """The ranges of these records."""
        flat, form = population.entries_NF, population.form
        low_F, high_F = flat.amin(0), flat.amax(0)
        if form is not None:
            low_F, high_F = _limits(flat, form)
        is_whole_F = torch.ones_like(low_F, dtype=torch.bool)
        if flat.is_floating_point():
            is_whole_F = ((flat == flat.floor()) | flat.isnan()).all(0) & (torch.maximum(-low_F, high_F) < _WHOLE)
        return cls(low_F=low_F, high_F=high_F, is_whole_F=is_whole_F, shape=population.input_shape, form=form)

    @property
    def num_features(self) -> int:
        return len(self.low_F)

    def stored(self, x_BF: Tensor) -> Tensor:
        """Flat records `[B, F]` as a population stores them."""
        return x_BF.view(-1, *self.shape) if self.form is None else self.form.stored(x_BF)

    def value(self, random: Tensor, feature: Tensor) -> Tensor:
        """Uniform values of the features at the indices `feature`, whole numbers where the feature is one.

        Args:
            random: int64, uniform, of the shape of `feature`.
        """
        low, high = self.low_F[feature], self.high_F[feature]
        if not low.is_floating_point():
            return _whole(random, low, high)
        is_whole = self.is_whole_F[feature]
        real = torch.lerp(low.double(), high.double(), unit(random)).to(low.dtype)
        return torch.where(is_whole, _whole(random, low.where(is_whole, 0), high.where(is_whole, 0)), real)


def _limits(flat: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """The smallest and largest values of each feature, without gaps; of codes by their number."""
    low_F, high_F = flat.amin(0), flat.amax(0)
    if flat.is_floating_point():
        gap = flat.isnan()
        low_F, high_F = flat.masked_fill(gap, torch.inf).amin(0), flat.masked_fill(gap, -torch.inf).amax(0)
        empty_F = gap.all(0)
        low_F, high_F = low_F.masked_fill(empty_F, 0.0), high_F.masked_fill(empty_F, 0.0)
    for field, place in form.places():
        if field.is_code:
            low_F[place] = 0
            high_F[place] = torch.tensor(field.sizes, device=flat.device).to(high_F.dtype) - 1
    return low_F, high_F


@dataclass(frozen=True, eq=False)
class TokenPool:
    """The tokens of known records, whatever their places: those of a text are drawn from them."""

    place: slice
    padding: int | None
    token_T: Tensor

    @classmethod
    def all_of(cls, known: Population) -> "list[TokenPool]":
        """One for each field of tokens that a form has."""
        if known.form is None:
            return []
        x_NF, pools = known.entries_NF, []
        for field, place in known.form.places():
            if field.kind == "tokens":
                value = x_NF[:, place]
                real = value[field.is_real(value)]
                pools.append(cls(place, field.padding, real if len(real) else value.flatten()))
        return pools

    def drawn(self, random: Tensor) -> Tensor:
        """A token for each of the uniform int64, each as often as it occurs."""
        return self.token_T[below(random, len(self.token_T))]

    def is_padding(self, value: Tensor) -> Tensor:
        """Bool: which tokens fill up a text; they stay what they are."""
        return torch.zeros_like(value, dtype=torch.bool) if self.padding is None else value == self.padding


def _whole(random: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (low.long() + below(random, high.long() - low.long() + 1)).to(low.dtype)


def unit(random: Tensor) -> Tensor:
    """Uniform float64 in [0, 1) from uniform int64: the upper 53 bits."""
    return ((random >> 11) & (2**53 - 1)).double() / 2**53


def below(random: Tensor, bound: Tensor | int) -> Tensor:
    """Uniform int64 in [0, bound) from uniform int64 (the bias is of the order of bound / 2**63)."""
    return (random & _INT63) % bound


def row_blocks(num_rows: int, num_features: int, device: torch.device) -> tuple[Tensor, ...]:
    """The row numbers from 0, int64, in blocks small enough to hold a random number for each feature of each row."""
    blocks: tuple[Tensor, ...] = torch.arange(num_rows, device=device).split(max(1, _NUMBERS // num_features))
    return blocks


def binary_features(x_NF: Tensor) -> Tensor:
    """Bool `[F]`: features with the values 0 and 1; also those with one of them, where all features are 0 or 1.

    So a constant feature counts as binary among binary ones (a place that nobody visited), but not among numbers (the
    black corner of a picture).
    """
    in_range_F = ((x_NF == 0) | (x_NF == 1)).all(0)
    if bool(in_range_F.all()):
        return in_range_F
    return in_range_F & (x_NF.amin(0) != x_NF.amax(0))


def distinct(key_B: Tensor, step_B: Tensor, count: int, num_features: int) -> Tensor:
    """`count` distinct numbers below `num_features` for each row, int64 `[B, count]`, all subsets equally likely.

    Row i is a function of `key_B[i]` and `step_B[i]` (int64).

    Source: Floyd's algorithm; Bentley and Floyd, "A sample of brilliance" (1987).
    """
    last_I = torch.arange(num_features - count, num_features, device=key_B.device)
    random_IB = counter_hash(key_B, step_B, torch.arange(count, device=key_B.device)[:, None])
    chosen_IB = below(random_IB, last_I[:, None] + 1)
    is_taken_FB = torch.zeros(num_features, len(key_B), dtype=torch.bool, device=key_B.device)
    for i, last in enumerate(range(num_features - count, num_features)):
        drawn_1B = chosen_IB[i : i + 1]
        drawn_1B.masked_fill_(is_taken_FB.gather(0, drawn_1B), last)
        is_taken_FB.scatter_(0, drawn_1B, True)
    return chosen_IB.T
