"""Shadow records from the marginal distributions of the features (Shokri et al. 2017, section V-C)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import counter_hash, derive
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, AtLeast2
from mia_lightning.shadows.domain import TokenPool, below, row_blocks
from mia_lightning.shadows.interface import Source, Synthesis
from mia_lightning.shadows.labelled import labelled
from mia_lightning.targets.black_box import BlackBox


@settings("shadow")
class Marginal(Source):
    """Records whose features are drawn independently, each from its values in the attacker's records.

    A text has the length of one of them, and each of its tokens is drawn from all tokens of the records.

    Attributes:
        count: K, the number of shadow models.
        records: how many to draw; None for as many as the attacker has.
        label: `target`, the class that the target predicts, or `own`, drawn from the marginal of the labels.
    """

    count: AtLeast1 = 64
    records: AtLeast2 | None = None
    label: Literal["target", "own"] = "target"
    source: ClassVar[str] = "marginal"

    def synthesise(self, known: Population, target: BlackBox, *, seed: int) -> Synthesis:
        """The drawn records, without exact duplicates."""
        x_NF = known.entries_NF
        N, F = x_NF.shape
        M = self.records or N
        key = torch.tensor(derive(seed, "shadow", "marginal"), device=known.device)
        feature_F = torch.arange(F, device=known.device)
        row_M = torch.arange(M, device=known.device)
        x_M = torch.cat(
            [
                x_NF[below(counter_hash(key, row_B[:, None], feature_F), N), feature_F]
                for row_B in row_blocks(M, F, known.device)
            ]
        )
        for number, pool in enumerate(TokenPool.all_of(known)):
            x_M[:, pool.place] = _texts(x_NF[:, pool.place], pool, key, row_M, F + 1 + number)
        own_M = known.label_N[below(counter_hash(key, row_M, F), N)] if self.label == "own" else None
        return labelled(known.stored(x_M), known, target, own_N=own_M)


def _texts(known_NL: Tensor, pool: TokenPool, key: Tensor, row_M: Tensor, number: int) -> Tensor:
    """Tokens `[M, L]`, independent of each other, where a text of the known ones has any; its padding elsewhere."""
    model_ML = known_NL[below(counter_hash(key, row_M, number), len(known_NL))]
    place_L = torch.arange(known_NL.shape[1], device=known_NL.device)
    drawn_ML = pool.drawn(counter_hash(key, row_M[:, None], number, place_L))
    return torch.where(pool.is_padding(model_ML), model_ML, drawn_ML)
