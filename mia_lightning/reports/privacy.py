"""What was guaranteed of the target's differential privacy, and what the attacks rule out, side by side."""

from collections.abc import Sequence

from mia_lightning.defenses.accountant import Guarantee
from mia_lightning.membership import Membership
from mia_lightning.metrics.privacy_bounds import correct_guesses, one_run_epsilon
from mia_lightning.observation import Observation
from mia_lightning.reports.schema import EpsilonBound, PrivacySection
from mia_lightning.scoring import AttackOutcome

# Share of the canaries that an attack guesses to be in, and as many to be out; fixed before any score is seen.
_GUESSED = 0.25
_CONFIDENCE = 0.95


def privacy_section(observation: Observation, outcomes: Sequence[AttackOutcome]) -> PrivacySection | None:
    """Upper and lower bounds on the first target's epsilon; None where there is neither.

    The lower ones are of one run (Steinke et al. 2023), for the plan of independent coins alone; the confidence holds
    for all attacks together (Bonferroni).
    """
    plan, guarantee = observation.plan.columns(observation.target_columns), observation.guarantee
    has_canaries = plan.plan == "bernoulli"
    if guarantee is None and not has_canaries:
        return None
    delta = guarantee.delta if guarantee is not None else 1.0 / (10 * int(plan.member_KN[0].sum()))
    return PrivacySection(
        epsilon=None if guarantee is None else guarantee.epsilon,
        delta=delta,
        statement="No guarantee was asked for." if guarantee is None else _sentence(guarantee),
        num_canaries=int(plan.scored_KN[0].sum()) if has_canaries else None,
        confidence=_CONFIDENCE,
        lower=_lower(plan, outcomes, delta) if has_canaries else (),
    )


def _lower(plan: Membership, outcomes: Sequence[AttackOutcome], delta: float) -> tuple[EpsilonBound, ...]:
    canary_N = plan.scored_KN[0]
    is_member_M = plan.member_KN[0][canary_N]
    guesses = max(1, int(_GUESSED * len(is_member_M))) if len(is_member_M) > 1 else 0
    bounds = []
    for outcome in outcomes:
        correct = correct_guesses(outcome.score_TN[0][canary_N], is_member_M, guesses_in=guesses, guesses_out=guesses)
        low = one_run_epsilon(
            len(is_member_M),
            2 * guesses,
            correct,
            delta=delta,
            confidence=1 - (1 - _CONFIDENCE) / len(outcomes),
        )
        bounds.append(EpsilonBound(attack=outcome.name, epsilon_low=low, num_guesses=2 * guesses, num_correct=correct))
    return tuple(bounds)


def _sentence(guarantee: Guarantee) -> str:
    text = guarantee.describe()
    return text[0].upper() + text[1:]
