"""Small populations with a form, and networks for them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.population import Population, make_population

LENGTH, VOCABULARY = 9, 30


def texts(count: int = 120, *, seed: int = 0, length: int = LENGTH) -> Tensor:
    """Tokens `[N, length]` int64, padded with 0 behind 3 to 9 of them."""
    draws = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (count, LENGTH), generator=draws)
    ids = torch.where(torch.arange(LENGTH) < torch.randint(3, LENGTH + 1, (count, 1), generator=draws), ids, 0)
    return torch.nn.functional.pad(ids, (0, length - LENGTH))


def labels(count: int = 120, *, seed: int = 0) -> Tensor:
    """Classes of three."""
    return torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(100 + seed))


def text_population(count: int = 120, *, length: int = LENGTH) -> Population:
    """Records that are tokens alone."""
    kinds = {"kind": "tokens", "padding": 0, "sizes": (VOCABULARY,)}
    return make_population(texts(count, length=length), labels(count), name="texts", kinds=kinds)


def table_population(count: int = 120, *, gaps: bool = True) -> Population:
    """Records of two named tensors: numbers, with gaps, and categories."""
    draws = torch.Generator().manual_seed(1)
    numbers = torch.randn(count, 4, generator=draws)
    if gaps:
        numbers[torch.rand(count, 4, generator=draws) < 0.1] = torch.nan
    codes = torch.stack([torch.randint(0, size, (count,), generator=draws) for size in (5, 2, 7)], 1)
    kinds = {
        "numbers": {"kind": "numeric", "has_gaps": gaps},
        "codes": {"kind": "category", "sizes": (5, 2, 7)},
    }
    return make_population({"numbers": numbers, "codes": codes.to(torch.uint8)}, labels(count), name="t", kinds=kinds)


def pictures_population() -> Population:
    """Records of which a form says that they are images."""
    x = torch.randint(256, (120, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    form = Form(fields=(Field(kind="image", dtype=torch.uint8, shape=(1, 8, 8)),))
    return make_population(x, labels(), name="pictures", form=form)


def mixed_population() -> Population:
    """Records of numbers and tokens."""
    given = {"a": torch.zeros(120, 2), "ids": torch.ones(120, 3).long()}
    return make_population(given, labels(), name="mixed", kinds={"ids": "tokens"})


class Words(nn.Module):
    """The mean of embeddings, padding aside, with dropout."""

    def __init__(self, vocabulary_size: int, padding_id: int, num_classes: int) -> None:
        super().__init__()
        self.padding_id = padding_id
        self.embedding = nn.Embedding(vocabulary_size, 6, padding_idx=padding_id)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(6, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        assert ids.dtype == torch.int64
        real = (ids != self.padding_id).to(self.head.weight.dtype)[..., None]
        return self.head(self.drop((self.embedding(ids) * real).sum(-2) / real.sum(-2).clamp(min=1)))


class Columns(nn.Module):
    """Embeddings of categories beside numbers, each tensor by its name."""

    def __init__(
        self, num_numeric: int, category_sizes: tuple[int, ...], num_classes: int, hidden: Sequence[int] = (8,)
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, 3) for size in category_sizes)
        self.hidden = nn.Linear(num_numeric + 3 * len(category_sizes), hidden[0])
        self.head = nn.Linear(hidden[0], num_classes)

    def forward(self, *, codes: Tensor, numbers: Tensor) -> Tensor:
        assert codes.dtype == torch.int64
        parts = [embedding(codes[..., i]) for i, embedding in enumerate(self.embeddings)]
        return self.head(torch.tanh(self.hidden(torch.cat([numbers.nan_to_num(0.0), *parts], -1))))


CASES = {"tokens": (text_population, Words), "named": (table_population, Columns)}


def full_table() -> Population:
    """A table without gaps."""
    return table_population(gaps=False)
