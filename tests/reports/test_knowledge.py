"""What knowing the defence gains: the difference of two attacks on the same targets and records."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from mia_lightning.membership import Membership
from mia_lightning.metrics.figures import NEW_TRAININGS, THESE_MODELS, Figure
from mia_lightning.metrics.over_targets import target_figures
from mia_lightning.reports.schema import AttackSection
from mia_lightning.reports.sections.knowledge import knowledge_sections
from mia_lightning.run.scoring import AttackOutcome

N = 400


def made(num_targets: int, shifts: tuple[float, float]) -> tuple[Membership, list[AttackOutcome], list[AttackSection]]:
    """An attack that does not know the defence, and one that does: members score N(shift, 1), much of it in common."""
    random = np.random.default_rng(num_targets)
    member_KN = torch.from_numpy(random.random((num_targets, N)).argsort(1) < N // 2)
    membership = Membership(
        plan_name="halves",
        member_KN=member_KN,
        scored_KN=torch.ones_like(member_KN),
        num_targets=num_targets,
        block_K=torch.arange(num_targets),
        validation_N=torch.empty(0, dtype=torch.int64),
    )
    common_TN = random.normal(size=(num_targets, N))
    outcomes, sections = [], []
    for name, shift in zip(("loss-unaware", "loss"), shifts, strict=True):
        score_TN = torch.from_numpy(common_TN + random.normal(size=(num_targets, N)) / 3) + shift * member_KN
        outcome = AttackOutcome(name=name, description="d", score_TN=score_TN, is_flagged_TN=score_TN > 0.5)
        figures = target_figures(score_TN, outcome.is_flagged_TN, member_KN, membership.scored_KN)
        outcomes.append(outcome)
        sections.append(
            AttackSection(name=name, description="d", num_targets=num_targets, overall=figures, per_class=())
        )
    return membership, outcomes, sections


@pytest.mark.parametrize(("num_targets", "estimand"), [(1, THESE_MODELS), (8, NEW_TRAININGS)])
def test_the_gain_is_the_difference_with_a_paired_interval(num_targets: int, estimand: str) -> None:
    membership, outcomes, sections = made(num_targets, (0.5, 0.9))
    (found,) = knowledge_sections([(sections[0], sections[1])], outcomes, membership)
    assert (found.attack, found.less, found.estimand) == ("loss", "loss-unaware", estimand)
    for name, gain in found.gains.items():
        without, knowing = (getattr(each.overall, name) for each in sections)
        assert gain.value == pytest.approx(knowing.value - without.value)
        assert gain.low < gain.value < gain.high
        if num_targets == 1:  # and not from the limits of both alone
            assert gain.high - gain.low < np.hypot(knowing.high - knowing.low, without.high - without.low)


def test_over_targets_it_is_no_shorter_than_that_of_a_paired_t_test() -> None:
    membership, outcomes, sections = made(8, (0.5, 0.9))
    (found,) = knowledge_sections([(sections[0], sections[1])], outcomes, membership)
    values = []
    for outcome in outcomes:
        shares = [[float(of[kind].double().mean()) for kind in (member, ~member)]
                  for of, member in zip(outcome.is_flagged_TN, membership.member_KN, strict=True)]  # fmt: skip
        values.append([inside - outside for inside, outside in shares])
    low, high = ttest_rel(values[1], values[0]).confidence_interval(0.95)
    gain = found.gains["advantage"]
    assert gain.value == pytest.approx((low + high) / 2)
    assert gain.high - gain.low >= (high - low) * 0.9


def test_without_limits_the_reason_is_there() -> None:
    membership, outcomes, sections = made(1, (0.5, 0.5))
    undefined = Figure(value=None, n=0, reason="nothing is flagged")
    without = sections[0].model_copy(
        update={"overall": sections[0].overall.model_copy(update={"advantage": undefined})}
    )
    (found,) = knowledge_sections([(without, sections[1])], outcomes, membership)
    gain = found.gains["advantage"]
    assert (gain.value, gain.low, gain.high) == (None, None, None)
    assert gain.interval == "none: nothing is flagged"


def test_trials_of_one_canary_and_runs_without_pairs_have_none() -> None:
    membership, outcomes, sections = made(8, (0.5, 0.9))
    assert knowledge_sections([], outcomes, membership) == ()
    trials = replace(membership, is_trials=True)
    assert knowledge_sections([(sections[0], sections[1])], outcomes, trials) == ()
