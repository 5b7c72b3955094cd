"""Differential privacy of the target: the guarantee beside what the attacks rule out."""

from collections.abc import Sequence

from mia_lightning.datasets.canaries import canary_mask
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.accountant import Guarantee
from mia_lightning.membership import Membership
from mia_lightning.metrics.privacy_bounds import (
    CONFIDENCE,
    correct_guesses,
    largest_certifiable_epsilon,
    most_telling_threshold,
    multi_run_epsilon,
    one_run_epsilon,
)
from mia_lightning.reports.privacy_section import EpsilonBound, PrivacySection, TrialBound, TrialsSection
from mia_lightning.run.observation import Observation, delta_of
from mia_lightning.run.scoring import AttackOutcome

# Share of the canaries that an attack guesses to be in, and again to be out; fixed before any score is seen.
_GUESSED = 0.25


def privacy_section(observation: Observation, outcomes: Sequence[AttackOutcome]) -> PrivacySection | None:
    """Upper and lower bounds on the targets' epsilon; None where there is neither.

    The lower ones are of one run (Steinke et al. 2023) under `bernoulli`, and of many runs under `one_canary`; the
    confidence holds for all attacks together (Bonferroni).
    """
    membership, guarantee = observation.membership.columns(observation.target_columns), observation.guarantee
    has_canaries, has_trials = membership.has_coins, membership.is_trials
    if guarantee is None and not has_canaries and not has_trials:
        return None
    delta = delta_of(guarantee, membership)
    return PrivacySection(
        epsilon=None if guarantee is None else guarantee.epsilon,
        delta=delta,
        statement="No guarantee was asked for." if guarantee is None else _sentence(guarantee),
        num_canaries=int(membership.scored_KN[0].sum()) if has_canaries else None,
        confidence=CONFIDENCE,
        lower=_lower(membership, outcomes, delta) if has_canaries else (),
        trials=_trials(membership, observation.population, outcomes, delta) if has_trials else None,
    )


def _lower(membership: Membership, outcomes: Sequence[AttackOutcome], delta: float) -> tuple[EpsilonBound, ...]:
    canary_N = membership.scored_KN[0]
    is_member_M = membership.member_KN[0][canary_N]
    guesses = max(1, int(_GUESSED * len(is_member_M)))
    bounds = []
    for outcome in outcomes:
        correct = correct_guesses(outcome.score_TN[0][canary_N], is_member_M, guesses_in=guesses, guesses_out=guesses)
        low = one_run_epsilon(
            len(is_member_M),
            2 * guesses,
            correct,
            delta=delta,
            confidence=_of_each(outcomes),
        )
        bounds.append(EpsilonBound(attack=outcome.name, epsilon_low=low, num_guesses=2 * guesses, num_correct=correct))
    return tuple(bounds)


def _trials(
    membership: Membership, population: Population, outcomes: Sequence[AttackOutcome], delta: float
) -> TrialsSection:
    (canary,) = membership.scored_KN[0].nonzero().flatten().tolist()
    is_in_T = membership.member_KN[membership.targets, canary]
    num_in, num_out = int(is_in_T.sum()), int((~is_in_T).sum())
    level = {"delta": delta, "confidence": _of_each(outcomes)}
    bounds = []
    for outcome in outcomes:
        assert outcome.shadow_score_K is not None
        threshold = most_telling_threshold(
            outcome.shadow_score_K, membership.member_KN[membership.shadows, canary], **level
        )
        is_flagged_T = outcome.score_TN[:, canary] >= threshold
        right, wrong = int((is_flagged_T & is_in_T).sum()), int((is_flagged_T & ~is_in_T).sum())
        bounds.append(
            TrialBound(
                attack=outcome.name,
                epsilon_low=multi_run_epsilon(right, num_in, wrong, num_out, **level),
                threshold=threshold,
                true_positives=right,
                false_positives=wrong,
            )
        )
    canary_N = canary_mask(population)
    return TrialsSection(
        record=canary,
        class_name=population.strata.name_of(canary),
        is_natural=canary_N is None or not bool(canary_N[canary]),
        num_in=num_in,
        num_out=num_out,
        num_shadows=len(membership.block_K) - membership.num_targets,
        largest_epsilon=largest_certifiable_epsilon(num_in, num_out, **level),
        lower=tuple(bounds),
    )


def _of_each(outcomes: Sequence[AttackOutcome]) -> float:
    """The confidence of one attack by which that of all together is kept (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / len(outcomes)


def _sentence(guarantee: Guarantee) -> str:
    text = guarantee.describe()
    return text[0].upper() + text[1:]
