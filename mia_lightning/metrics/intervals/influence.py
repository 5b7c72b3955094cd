"""How much each record moves a figure: what pairs the figures of two runs that share records.

The influence of record n on a figure is its derivative by the weight of the record. The sum of the squares of all
influences is the variance of the figure over records; the sum of the products of those on two figures is their
covariance. A record that is evidence about both models pairs them so, whether or not it was a member of both.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mia_lightning.metrics.intervals.bootstrap import FEWEST
from mia_lightning.metrics.intervals.crossed import auc_contributions, share_contributions
from mia_lightning.metrics.intervals.crossed_thresholds import tpr_contributions
from mia_lightning.metrics.roc import allowed_false_positives

TOO_FEW = "none: it takes two members and two non-members of each target"


@dataclass(frozen=True, eq=False)
class Observed:
    """What an attack says of T targets on N records.

    Attributes:
        score_TN: float64, higher = more likely a member.
        is_flagged_TN, member_TN, scored_TN: bool; as for `over_targets.target_figures`.
    """

    score_TN: Tensor
    is_flagged_TN: Tensor
    member_TN: Tensor
    scored_TN: Tensor

    @property
    def inside_TN(self) -> Tensor:
        """The members that are evidence."""
        return self.member_TN & self.scored_TN

    @property
    def outside_TN(self) -> Tensor:
        """The non-members that are evidence."""
        return ~self.member_TN & self.scored_TN

    @property
    def fewest(self) -> int:
        """The smallest number of members or of non-members of a target."""
        return int(torch.minimum(self.inside_TN.sum(1).min(), self.outside_TN.sum(1).min()))


@dataclass(frozen=True, eq=False)
class Influence:
    """A figure of each target, and what its records contribute.

    Attributes:
        value_T: float64.
        part_TN: float64, the influence of record n on the figure of target t; 0 where it is no evidence.
        missing: "" or "none: " and why influences say nothing.
        is_coarse: whether a target's threshold allows fewer than ten false positives, whose influences are rough.
    """

    value_T: Tensor
    part_TN: Tensor
    missing: str = ""
    is_coarse: bool = False

    @property
    def part_N(self) -> Tensor:
        """On the mean over targets."""
        return self.part_TN.mean(0)


def influence(name: str, seen: Observed) -> Influence:
    """The influences on a figure: `auc`, `advantage`, `precision_balanced`, `tpr_at_fpr_<rate>`, or, for as many
    members and non-members as there are, `accuracy`, `precision` or `recall`.

    The squares of the influences on the AUC add up to `areas.delong`, whose placements these are.
    """
    if seen.fewest < 2:
        nothing_T = torch.full((len(seen.score_TN),), torch.nan, dtype=torch.float64)
        return Influence(nothing_T, torch.zeros(seen.score_TN.shape, dtype=torch.float64), TOO_FEW)
    if name == "auc":
        return _scaled(seen, *auc_contributions(seen.score_TN, seen.member_TN, seen.scored_TN))
    if name.startswith("tpr_at_fpr_"):
        return _at_fpr(seen, float(name.removeprefix("tpr_at_fpr_")))
    tpr_T, of_tpr_TN = share_contributions(seen.is_flagged_TN, seen.inside_TN)
    fpr_T, of_fpr_TN = share_contributions(seen.is_flagged_TN, seen.outside_TN)
    if name == "advantage":
        return _scaled(seen, tpr_T - fpr_T, of_tpr_TN - of_fpr_TN)
    if name == "recall":
        return _scaled(seen, tpr_T, of_tpr_TN)
    share_T = torch.full_like(tpr_T, 0.5)  # of members
    if name != "precision_balanced":
        share_T = seen.inside_TN.sum(1) / (seen.inside_TN | seen.outside_TN).sum(1).double()
    found_T, alarms_T = share_T * tpr_T, (1 - share_T) * fpr_T
    of_found_TN, of_alarms_TN = share_T[:, None] * of_tpr_TN, (1 - share_T[:, None]) * of_fpr_TN
    if name == "accuracy":
        return _scaled(seen, found_T + 1 - share_T - alarms_T, of_found_TN - of_alarms_TN)
    assert name in ("precision", "precision_balanced"), name
    square_T1 = (found_T + alarms_T).square()[:, None]
    part_TN = (alarms_T[:, None] * of_found_TN - found_T[:, None] * of_alarms_TN) / square_T1
    missing = "" if bool((found_T + alarms_T > 0).all()) else "none: the attack flagged no record of a target"
    return _scaled(seen, found_T / (found_T + alarms_T), part_TN.nan_to_num(0.0), missing)


def correlation(one: Influence, other: Influence) -> float:
    """Of two figures over the records that both have; below 1, as if one record more told the two apart.

    Else two figures that no record tells apart would be known to be equal in the population.
    """
    part_FN = torch.stack([one.part_N, other.part_N])
    variance_F = part_FN.square().sum(1) + part_FN.square().amax(1) / 2
    size = float(variance_F.prod().sqrt())
    if one.missing or other.missing or size == 0.0:
        return 0.0
    return float((part_FN[0] * part_FN[1]).sum()) / size


def influence_of_shares(is_right_TN: Tensor, seen: Observed) -> dict[str, Influence]:
    """On the shares of records that targets answer right: `train_accuracy`, `test_accuracy`, `generalization_gap`."""
    (train_T, of_train_TN), (test_T, of_test_TN) = (
        share_contributions(is_right_TN, kind_TN) for kind_TN in (seen.inside_TN, seen.outside_TN)
    )
    return {
        "train_accuracy": _scaled(seen, train_T, of_train_TN),
        "test_accuracy": _scaled(seen, test_T, of_test_TN),
        "generalization_gap": _scaled(seen, train_T - test_T, of_train_TN - of_test_TN),
    }


def _at_fpr(seen: Observed, max_fpr: float) -> Influence:
    value_T, part_TN, missing = tpr_contributions(seen.score_TN, seen.member_TN, seen.scored_TN, max_fpr)
    fewest = min(allowed_false_positives(max_fpr, n0) for n0 in seen.outside_TN.sum(1).tolist())
    return replace(_scaled(seen, value_T, part_TN, missing), is_coarse=fewest < FEWEST)


def _scaled(seen: Observed, value_T: Tensor, part_TN: Tensor, missing: str = "") -> Influence:
    """With sample variances: n − 1 in the place of n, for members and non-members apart."""
    factor_TN = torch.zeros_like(part_TN)
    for kind_TN in (seen.inside_TN, seen.outside_TN):
        n_T1 = kind_TN.sum(1, keepdim=True).double()
        factor_TN += kind_TN * (n_T1 / (n_T1 - 1)).sqrt()
    return Influence(value_T, part_TN * factor_TN, missing)
