"""Do members differ from non-members even without a model? Then an attack on the model measures that, too."""

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.datasets.vectors import Vectors
from mia_lightning.seeds import derive, generator

# Enough for a difference that would matter, whatever the size of the population and of its records.
MAX_RECORDS = 4000
MAX_FEATURES = 512
FOLDS = 5
NULL_ERRORS = 3.5


def model_free_warning(population: Population, member_N: Tensor, nonmember_N: Tensor, *, seed: int) -> str | None:
    """A warning if a classifier that sees only records and labels separates members from non-members; else None.

    Gradient-boosted trees, cross-validated on at most 4,000 records and 512 features drawn by name. If members and
    non-members are one random draw the AUC is 0.5 but for noise, of the null standard error
    √((n_1 + n_0 + 1) / (12 n_1 n_0)) of Mann and Whitney (1947). There is no warning up to 3.5 of these above 0.5, or
    with fewer than 50 records of a kind.

    Args:
        member_N, nonmember_N: bool, of one target.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    draws = generator(seed, "model-free check")
    sides = [_sample(mask_N.nonzero().squeeze(1), MAX_RECORDS // 2, draws) for mask_N in (member_N, nonmember_N)]
    if min(map(len, sides)) < 50:
        return None
    index = torch.cat(sides)
    is_member = np.repeat([True, False], [len(side) for side in sides])
    features = _features(population, index.to(population.device)).cpu()
    features = features[:, _sample(torch.arange(features.shape[1]), MAX_FEATURES, draws)]
    table = np.column_stack([features.float().numpy(), population.label_N.cpu()[index].numpy()])
    random_state = derive(seed, "model-free check") % 2**32
    trees = HistGradientBoostingClassifier(max_iter=50, random_state=random_state)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=random_state)
    score = cross_val_predict(trees, table, is_member, cv=folds, method="predict_proba")[:, 1]
    auc = float(roc_auc_score(is_member, score))
    n_1, n_0 = map(len, sides)
    if auc - 0.5 <= NULL_ERRORS * np.sqrt((n_1 + n_0 + 1) / (12 * n_1 * n_0)):
        return None
    return (
        f"Members and non-members differ before any model is looked at: a classifier that sees only records and labels "
        f"tells them apart with an AUC of {auc:.3f}, so the attacks measure that difference as well as the leakage, "
        "and low figures are no evidence."
    )


def _features(population: Population, index: Tensor) -> Tensor:
    """The records as they are stored, flattened; those with a form as vectors."""
    if population.form is None:
        return population.x_N[index].flatten(1)
    return Vectors.of(population, index)(index)


def _sample(index: Tensor, limit: int, draws: torch.Generator) -> Tensor:
    return index[torch.randperm(len(index), generator=draws)[:limit]]
