"""A network for tables: categories embedded, numbers standardised, gaps marked, and a multilayer perceptron."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from mia_lightning.datasets.form import Records, tensors_of
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.models.shapes import Activation
from mia_lightning.models.takes import TABLE, Takes
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, FromList, ShareBelow1, Size, Widths

_RESOLUTION = 1e-6  # of float32, in which numbers are stored

Sizes = Annotated[Sequence[AtLeast1], FromList]


class Standardised(nn.Module):
    """Numbers `[B, F]` in units of the deviation from the mean of the training records, and where they are missing.

    The result is `[B, 2 F]`: the numbers, 0 for a gap (NaN), then 1 for each gap and 0 for the others. A number that is
    the same in all training records, or in none, is 0 throughout.

    Args:
        num_numeric: F.

    Buffers: `mean` and `scale`, `[F]`; the latter is 1 / deviation, or 0.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, num_numeric: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_numeric))
        self.register_buffer("scale", torch.ones(num_numeric))

    def fit_to(self, number_NF: Tensor) -> None:
        """Take the means and deviations from training records."""
        number_NF = number_NF.double()
        mean = number_NF.nanmean(0).nan_to_num(0.0)
        deviation = (number_NF - mean).square().nanmean(0).sqrt().nan_to_num(0.0)
        differs = deviation > _RESOLUTION * mean.abs()
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(differs, 1 / deviation, torch.zeros_like(deviation)))

    def forward(self, number_BF: Tensor) -> Tensor:
        is_gap = number_BF.isnan()
        standard = (number_BF - self.mean) * self.scale
        return torch.cat([torch.where(is_gap, torch.zeros_like(standard), standard), is_gap.to(standard.dtype)], -1)


class Embedded(nn.Module):
    """Categories, int64 codes `[B, F]`, as vectors side by side, `[B, F * width]`.

    Code 0 is that of a gap. A category that none of the training records has is taken for one, so that no vector is
    used that was not trained; that of a gap is 0 before training.

    Args:
        category_sizes: the number of codes of each of F categories.
        width: of a vector.

    Buffers: `start`, `[F]`, the place of each category's code 0 among all vectors; `is_known`, for each vector.
    """

    start: Tensor
    is_known: Tensor

    def __init__(self, category_sizes: Sequence[int], width: int) -> None:
        super().__init__()
        size_F = torch.tensor([*category_sizes], dtype=torch.int64)
        self.register_buffer("start", size_F.cumsum(0) - size_F)
        num_codes = sum(category_sizes)
        self.register_buffer("is_known", torch.ones(num_codes, dtype=torch.bool))
        self.vectors = nn.Embedding(num_codes, width)
        with torch.no_grad():
            self.vectors.weight[self.start] = 0.0

    def fit_to(self, code_NF: Tensor) -> None:
        """Take the known categories from training records."""
        self.is_known.fill_(False)
        self.is_known[(self.start + code_NF).flatten()] = True

    def forward(self, code_BF: Tensor) -> Tensor:
        place_BF = self.start + code_BF
        place_BF = torch.where(self.is_known[place_BF], place_BF, self.start)
        vectors: Tensor = self.vectors(place_BF)
        return vectors.flatten(-2)


class Tabular(nn.Module):
    """Embeddings of categories beside standardised numbers, through fully connected layers; logits `[B, C]`.

    A record is one tensor or several, of any names, in the order of their form: those of floating point are numbers,
    the others codes. What it takes from records, the scale of numbers and which categories are known, it takes from its
    own training records and from no others (`fit_to`).

    Args:
        num_numeric: numbers in a record; NaN stands for one that is missing.
        category_sizes: the number of codes of each category in a record; code 0 stands for one that is missing.
        num_classes: C.
        hidden: width of each hidden layer.
        embedding: width of the vector of a category.
        activation: tanh, relu or gelu.
        dropout: probability of dropping after each hidden layer.

    Raises:
        InputError: there are neither numbers nor categories.
    """

    takes_records: ClassVar[Takes] = TABLE

    @checked("model")
    def __init__(
        self,
        num_numeric: AtLeast0,
        category_sizes: Sizes,
        num_classes: AtLeast1,
        hidden: Widths = (128, 64),
        embedding: Size = 8,
        activation: Activation = "relu",
        dropout: ShareBelow1 = 0.0,
    ) -> None:
        super().__init__()
        width = 2 * num_numeric + embedding * len(category_sizes)
        if not width:
            raise InputError("model=tabular needs numbers or categories, and the records have neither: take another.")
        self.numbers = Standardised(num_numeric) if num_numeric else None
        self.categories = Embedded(category_sizes, embedding) if category_sizes else None
        self.layers = MLP((width,), num_classes, hidden=hidden, activation=activation, dropout=dropout)

    def fit_to(self, x_N: Records) -> None:
        """Take scales and known categories from training records: named tensors, or one."""
        number_NF, code_NF = _sides(tensors_of(x_N))
        if self.numbers is not None:
            self.numbers.fit_to(number_NF)
        if self.categories is not None:
            self.categories.fit_to(code_NF)

    def forward(self, *unnamed: Tensor, **named: Tensor) -> Tensor:
        number_BF, code_BF = _sides([*unnamed, *named.values()])
        parts = []
        if self.numbers is not None:
            parts.append(self.numbers(number_BF))
        if self.categories is not None:
            parts.append(self.categories(code_BF))
        logits_BC: Tensor = self.layers(torch.cat(parts, -1))
        return logits_BC


def _sides(given: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Numbers `[B, F]`, and codes, of all tensors of a record: those of floating point, and the others."""
    flat = [each.reshape(len(each), -1) for each in given]
    numbers, codes = ([each for each in flat if each.is_floating_point() is one] for one in (True, False))
    return _beside(numbers), _beside(codes)


def _beside(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts], -1) if parts else torch.empty(0)
