"""The form of a record, which an attacker without data knows: the type, and the range of each feature."""

from dataclasses import dataclass

import torch
from torch import Tensor

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
        low_F, high_F: smallest and largest value of each feature, of the records' type.
        is_whole_F: which features are whole numbers, such as the binary ones of a table of floats.
        shape: of one record.
    """

    low_F: Tensor
    high_F: Tensor
    is_whole_F: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, population: Population) -> "Domain":
        """The ranges of these records."""
        flat = population.x_N.flatten(1)
        low_F, high_F = flat.amin(0), flat.amax(0)
        is_whole_F = torch.ones_like(low_F, dtype=torch.bool)
        if flat.is_floating_point():
            is_whole_F = (flat == flat.floor()).all(0) & (torch.maximum(-low_F, high_F) < _WHOLE)
        return cls(low_F=low_F, high_F=high_F, is_whole_F=is_whole_F, shape=population.input_shape)

    @property
    def num_features(self) -> int:
        return len(self.low_F)

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
