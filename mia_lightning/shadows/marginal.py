"""Shadow records from the marginal distributions of the features (Shokri et al. 2017, section V-C)."""

from typing import ClassVar, Literal

import torch

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import counter_hash, derive
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, AtLeast2
from mia_lightning.shadows.domain import below, row_blocks
from mia_lightning.shadows.interface import Source, Synthesis
from mia_lightning.shadows.labelled import labelled
from mia_lightning.targets.black_box import BlackBox


@settings("shadow")
class Marginal(Source):
    """Records whose features are drawn independently, each from its values in the attacker's records.

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
