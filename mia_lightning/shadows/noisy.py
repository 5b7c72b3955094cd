"""Shadow records that are noisy versions of real records (Shokri et al. 2017, section V-C)."""

from typing import ClassVar, Literal

import torch

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import counter_hash, derive
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, Share
from mia_lightning.shadows.domain import below, binary_features, distinct, row_blocks
from mia_lightning.shadows.interface import Source, Synthesis
from mia_lightning.shadows.labelled import labelled
from mia_lightning.targets.black_box import BlackBox


@settings("shadow")
class Noisy(Source):
    """Real records with a share of their features changed: binary ones are flipped, others taken from another record.

    Attributes:
        count: K, the number of shadow models.
        fraction: share of the features that change, rounded to whole features; chosen at random for each record.
        label: `target`, the class that the target predicts, or `own`, that of the real record.
    """

    count: AtLeast1 = 64
    fraction: Share = 0.1
    label: Literal["target", "own"] = "target"
    source: ClassVar[str] = "noisy"

    def synthesise(self, known: Population, target: BlackBox, *, seed: int) -> Synthesis:
        """The records of `known` with noise, in their order, without exact duplicates."""
        x_NF = known.x_N.flatten(1)
        N, F = x_NF.shape
        key = torch.tensor(derive(seed, "shadow", "noisy"), device=known.device)
        is_binary_F = binary_features(x_NF)
        num_changed = round(self.fraction * F)
        noisy_NF = x_NF.clone()
        for row_B in row_blocks(N, F, known.device):
            feature_BI = distinct(key.expand_as(row_B), row_B, num_changed, F)
            random_BI = counter_hash(key, row_B[:, None], feature_BI, 1)
            # The value comes from another record: a record is never its own donor.
            donor_BI = (row_B[:, None] + 1 + below(random_BI, max(1, N - 1))) % N
            flipped_BI = 1 - x_NF[row_B[:, None], feature_BI]
            noisy_NF[row_B[:, None], feature_BI] = torch.where(
                is_binary_F[feature_BI], flipped_BI, x_NF[donor_BI, feature_BI]
            )
        x_N = noisy_NF.view(known.x_N.shape)
        return labelled(x_N, known, target, own_N=known.label_N if self.label == "own" else None)
