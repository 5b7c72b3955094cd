"""Shadow records that are noisy versions of real records (Shokri et al. 2017, section V-C)."""

from typing import ClassVar, Literal

import torch

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import counter_hash, derive
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, Share
from mia_lightning.shadows.domain import TokenPool, below, binary_features, distinct, row_blocks
from mia_lightning.shadows.interface import Source, Synthesis
from mia_lightning.shadows.labelled import labelled
from mia_lightning.targets.black_box import BlackBox


@settings("shadow")
class Noisy(Source):
    """Real records with a share of their features changed: binary ones are flipped, others taken from another record.

    Categories are taken from another record; a token becomes one of all tokens of the records, each as likely as it is
    frequent, and padding stays.

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
        x_NF, pools = known.entries_NF, TokenPool.all_of(known)
        N, F = x_NF.shape
        key = torch.tensor(derive(seed, "shadow", "noisy"), device=known.device)
        is_binary_F = binary_features(x_NF) & ~known.is_code_F
        num_changed = round(self.fraction * F)
        noisy_NF = x_NF.clone()
        for row_B in row_blocks(N, F, known.device):
            feature_BI = distinct(key.expand_as(row_B), row_B, num_changed, F)
            random_BI = counter_hash(key, row_B[:, None], feature_BI, 1)
            # The value comes from another record: a record is never its own donor.
            donor_BI = (row_B[:, None] + 1 + below(random_BI, max(1, N - 1))) % N
            own_BI = x_NF[row_B[:, None], feature_BI]
            noisy_BI = torch.where(is_binary_F[feature_BI], 1 - own_BI, x_NF[donor_BI, feature_BI])
            for pool in pools:
                is_text_BI = (feature_BI >= pool.place.start) & (feature_BI < pool.place.stop)
                token_BI = torch.where(pool.is_padding(own_BI), own_BI, pool.drawn(random_BI))
                noisy_BI = torch.where(is_text_BI, token_BI, noisy_BI)
            noisy_NF[row_B[:, None], feature_BI] = noisy_BI
        return labelled(known.stored(noisy_NF), known, target, own_N=known.label_N if self.label == "own" else None)
