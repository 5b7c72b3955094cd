"""What one way of training achieves: utility, and what each attack finds, with the influences of records on both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.metrics.figures import Figure
from mia_lightning.metrics.intervals.differences import Measured
from mia_lightning.metrics.intervals.influence import Influence, Observed, influence, influence_of_shares
from mia_lightning.run.observation import Observation
from mia_lightning.run.scoring import AttackOutcome, run_attacks
from mia_lightning.seeds import generator
from mia_lightning.tasks import Task

NUM_GROUPS = 50  # of records that are left out in turn, where a utility is no share of records
AUC = "auc"
RATES = ("0.001", "0.01")


@dataclass(frozen=True, eq=False, kw_only=True)
class Way:
    """What one way of training achieves.

    Attributes:
        utility: on the non-members of each target (`Task.utility`).
        train_utility: on its members, a mean.
        auc: by attack.
        tpr: by false-positive rate ("0.01"), by attack.
        left_out: numbers of the models that were no longer finite, with their blocks.
    """

    utility: Measured
    train_utility: float
    auc: Mapping[str, Measured]
    tpr: Mapping[str, Mapping[str, Measured]]
    left_out: tuple[int, ...]

    @property
    def num_targets(self) -> int:
        return len(self.utility.influence.value_T)


def way_of(observation: Observation) -> Way:
    """What the attacks of the audit find of the targets, by the attacker who knows its defences."""
    signals, outcomes = run_attacks(observation)
    informed = [each for each in outcomes if not each.name.endswith("-unaware")]
    seen = {each.name: _seen(each, observation) for each in informed}
    label_N, task = observation.population.label_N.cpu(), observation.population.task
    answers = [answer_ANC[0].cpu() for answer_ANC in signals.log_probability_KANC]
    first = next(iter(seen.values()))
    return Way(
        utility=measured(_utility(task, answers, label_N, first, observation.engine.seed)),
        train_utility=_train_utility(task, answers, label_N, first),
        auc={name: measured(influence(AUC, each)) for name, each in seen.items()},
        tpr={
            rate: {name: measured(influence(f"tpr_at_fpr_{rate}", each)) for name, each in seen.items()}
            for rate in RATES
        },
        left_out=observation.left_out,
    )


def measured(found: Influence) -> Measured:
    """A mean over targets with its influences; without a value where these are missing."""
    reason = found.missing.removeprefix("none: ") or None
    value = float(found.value_T.mean()) if reason is None else None
    return Measured(Figure(value=value, n=found.part_TN.shape[1], reason=reason), found)


def _seen(outcome: AttackOutcome, observation: Observation) -> Observed:
    membership = observation.membership
    return Observed(
        score_TN=outcome.score_TN,
        is_flagged_TN=outcome.is_flagged_TN,
        member_TN=membership.member_KN[membership.targets],
        scored_TN=membership.scored_KN[membership.targets],
    )


def _utility(task: Task, answers: Sequence[Tensor], label_N: Tensor, seen: Observed, seed: int) -> Influence:
    if not task.has_classes:
        return jackknifed(task, answers, label_N, seen.outside_TN, seed)
    is_right_TN = torch.stack([answer_NC.argmax(-1) == label_N for answer_NC in answers])
    return influence_of_shares(is_right_TN, seen)["test_accuracy"]


def _train_utility(task: Task, answers: Sequence[Tensor], label_N: Tensor, seen: Observed) -> float:
    rows = zip(answers, seen.inside_TN, strict=True)
    values = [task.utility_of(answer_NC[member_N], label_N[member_N]) for answer_NC, member_N in rows]
    return sum(values) / len(values)


def jackknifed(task: Task, answers: Sequence[Tensor], label_N: Tensor, of_TN: Tensor, seed: int) -> Influence:
    """The utility of each target on its records, and their influences where it is no share of them.

    The records are dealt into G groups. To first order the influences of group g add up to (U − U(−g)) (1 − 1 / G),
    with U(−g) the utility without it. This sum stands at one record of the group, the same for all targets: of a
    variance over records that is an estimate with G − 1 degrees of freedom.

    Args:
        answers: `[N, C]` of each target.
        of_TN: bool, on which records.
    """
    N = len(label_N)
    G = min(NUM_GROUPS, N)
    group_N = torch.randperm(N, generator=generator(seed, "remedies", "groups")) % G

    def utilities(kept_N: Tensor) -> Tensor:
        rows = zip(answers, of_TN & kept_N, strict=True)
        return torch.tensor(
            [task.utility_of(answer_NC[of_N], label_N[of_N]) for answer_NC, of_N in rows], dtype=torch.float64
        )

    value_T = utilities(torch.ones(N, dtype=torch.bool))
    part_TG = torch.stack([(value_T - utilities(group_N != g)) * (1 - 1 / G) for g in range(G)], 1)
    part_TN = torch.zeros(of_TN.shape, dtype=torch.float64)
    part_TN[:, [int((group_N == g).nonzero()[0]) for g in range(G)]] = part_TG - part_TG.mean(1, keepdim=True)
    return Influence(value_T, part_TN)
