"""Shadow records drawn from the marginals of the features (Shokri et al. 2017, section V-C)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import counter_hash, derive
from mia_lightning.shadows.domain import below, row_blocks
from mia_lightning.shadows.interface import Synthesis
from mia_lightning.shadows.labelled import labelled
from mia_lightning.shadows.settings import check_label, whole
from mia_lightning.targets.black_box import BlackBox


@dataclass(frozen=True, kw_only=True)
class Marginal:
    """Each feature drawn by itself from the values that the attacker's records have of it.

    Attributes:
        count: K, the number of shadow models.
        records: how many to draw; None for as many as the attacker holds.
        label: `target`, the class that the target predicts, or `own`, drawn from the marginal of the labels.
    """

    count: int = 64
    records: int | None = None
    label: str = "target"
    source: ClassVar[str] = "marginal"
    needs_records: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole("count", self.count))
        if self.records is not None:
            object.__setattr__(self, "records", whole("records", self.records, at_least=2))
        check_label(self.label)

    def synthesise(self, known: Population, target: BlackBox, *, seed: int) -> Synthesis:
        """The drawn records, without exact duplicates."""
        x_NF = known.x_N.flatten(1)
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
        own_M = known.label_N[below(counter_hash(key, row_M, F), N)] if self.label == "own" else None
        return labelled(x_M.view(M, *known.input_shape), known, target, own_N=own_M)
