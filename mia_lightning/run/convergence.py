"""Whether more shadow models would help: an attack fitted anew on growing numbers of them."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Attack, DoesNotApplyError, Evidence
from mia_lightning.metrics.figures import Figure, Figures
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.over_targets import target_figures
from mia_lightning.seeds import generator
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals

MAX_FPR = 0.01
REPLICATES = 1000
# Numbers of one matrix of replicates by records.
_SLICE_NUMBERS = 2**21

Verdict = Literal["still rising", "settled"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What an attack said of T targets on their N records, and what is true.

    `score_TN`: float64; `is_flagged_TN`, `member_TN`, `scored_TN`: bool; all on the CPU.
    """

    score_TN: Tensor
    is_flagged_TN: Tensor
    member_TN: Tensor
    scored_TN: Tensor

    def figures(self) -> Figures:
        """AUC, and TPR at 1 % FPR, means over targets."""
        return target_figures(self.score_TN, self.is_flagged_TN, self.member_TN, self.scored_TN, max_fprs=(MAX_FPR,))


@dataclass(frozen=True, kw_only=True)
class Point:
    """What an attack achieves with so many shadow models; `tpr` is that at 1 % FPR."""

    num_shadows: int
    auc: Figure
    tpr: Figure


@dataclass(frozen=True, kw_only=True)
class Convergence:
    """What an attack achieves with growing numbers of shadow models.

    Attributes:
        points: with ascending numbers of shadow models, the last with all of them.
        gain: AUC with all of them minus AUC with half of them; None where there is no verdict.
        gain_low: lower limit of the gain, one-sided at 97.5 %; None likewise.
        verdict: `still rising` where `gain_low` is above 0.
        reason: why there is no verdict; None where there is one.
    """

    points: tuple[Point, ...]
    gain: float | None = None
    gain_low: float | None = None
    verdict: Verdict | None = None
    reason: str | None = None


def converge(
    attack: Attack, name: str, shadows: Evidence, signals: Signals, whole: Outcome, engine: Engine
) -> Convergence:
    """Fit the attack on a quarter and on half of the blocks of shadow models, and compare with all of them.

    What a subset cannot serve (too few references for a record) is left out. The evidence about the targets is the
    same for all numbers, and so are the records that a replicate draws.

    Args:
        name: of the attack, which names the draws.
        shadows: all shadow models.
        signals: of the T targets, on the first N records of the evidence.
        whole: what the attack says with all shadow models.
    """
    blocks = shadows.block_K.unique()
    outcomes: dict[int, Outcome] = {}
    points = []
    for count in block_counts(len(blocks)):
        kept_K = torch.isin(shadows.block_K, blocks[:count])
        try:
            outcomes[count] = (
                whole if count == len(blocks) else _subset(attack, shadows, kept_K, signals, whole, engine)
            )
        except DoesNotApplyError:
            continue
        figures = outcomes[count].figures()
        points.append(Point(num_shadows=int(kept_K.sum()), auc=figures.auc, tpr=figures.tpr_at_fpr[f"{MAX_FPR:g}"]))
    half = outcomes.get(len(blocks) // 2)
    if half is None:
        reason = "half of the shadow models are too few for this attack; raise `shadow.count`"
        return Convergence(points=tuple(points), reason=reason)
    high, low = points[-1].auc, points[-2].auc
    if high.value is None or low.value is None:
        return Convergence(points=tuple(points), reason=high.reason or low.reason)
    gain_B = gain_draws(whole, half, REPLICATES, generator(engine.seed, "convergence", name))
    gain_low = float(gain_B.quantile(TAIL))
    return Convergence(
        points=tuple(points),
        gain=high.value - low.value,
        gain_low=gain_low,
        verdict="still rising" if gain_low > 0 else "settled",
    )


def block_counts(num_blocks: int) -> list[int]:
    """A quarter, half and all of the blocks, ascending; none of less than two but all."""
    return sorted({num_blocks, *(count for count in (num_blocks // 4, num_blocks // 2) if count >= 2)})


def gain_draws(whole: Outcome, half: Outcome, replicates: int, random: torch.Generator) -> Tensor:
    """AUC of `whole` minus AUC of `half`, means over targets, of redrawn data sets, float64 `[replicates]`.

    Records are redrawn, members and non-members alike, since one record may be a member of some targets alone; both
    AUCs, and all targets, see the same ones.
    """
    is_scored_N = whole.scored_TN.any(0)
    member_TM, scored_TM = whole.member_TN[:, is_scored_N], whole.scored_TN[:, is_scored_N]
    T, M = member_TM.shape
    width = max(1, _SLICE_NUMBERS // M)
    parts = []
    for start in range(0, replicates, width):
        size = min(width, replicates - start)
        drawn_BM = torch.randint(M, (size, M), generator=random)
        one_BM = torch.ones((), dtype=torch.float64).expand(size, M)
        weight_BM = torch.zeros(size, M, dtype=torch.float64).scatter_add(1, drawn_BM, one_BM)
        gain_B = torch.zeros(size, dtype=torch.float64)
        for t in range(T):
            sides = (weight_BM * (member_TM[t] & scored_TM[t]), weight_BM * (~member_TM[t] & scored_TM[t]))
            high_B, low_B = (weighted_auc(each.score_TN[t, is_scored_N], *sides) for each in (whole, half))
            gain_B += high_B - low_B
        parts.append(gain_B / T)
    return torch.cat(parts)


def weighted_auc(score_M: Tensor, member_BM: Tensor, nonmember_BM: Tensor) -> Tensor:
    """AUC, float64 `[B]`, where record m counts `member_BM` times as a member and `nonmember_BM` times as none.

    Pairs of equal scores count half. 0 where there are no members or no non-members.
    """
    sorted_M, order_M = score_M.double().sort()
    below_M = torch.searchsorted(sorted_M, sorted_M)
    upto_M = torch.searchsorted(sorted_M, sorted_M, right=True)
    count_BM = torch.nn.functional.pad(nonmember_BM[:, order_M].double().cumsum(1), (1, 0))
    won_BM = (count_BM[:, below_M] + count_BM[:, upto_M]) / 2
    won_B = (member_BM[:, order_M] * won_BM).sum(1)
    pairs_B = member_BM.double().sum(1) * nonmember_BM.double().sum(1)
    auc_B: Tensor = won_B / pairs_B.clamp(min=1)
    return auc_B


def _subset(
    attack: Attack, shadows: Evidence, kept_K: Tensor, signals: Signals, whole: Outcome, engine: Engine
) -> Outcome:
    """What the attack says with some of the shadow models; its training leaves no curves, remarks or bars."""
    folder = None if engine.folder is None else engine.folder / "convergence" / str(int(kept_K.sum()))
    quiet = replace(engine, stages=Stages(), losses={}, folder=folder)
    fitted = attack.fit(shadows.select(kept_K), quiet)
    score_TN = fitted.score(signals, shadows.label_N[: whole.score_TN.shape[1]]).cpu()
    return replace(whole, score_TN=score_TN, is_flagged_TN=score_TN >= fitted.threshold)
