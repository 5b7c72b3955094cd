"""What an attacker gains by knowing the defence: the difference of two attacks on the same targets and records."""

from collections.abc import Sequence

from mia_lightning.membership import Membership
from mia_lightning.metrics.figures import NEW_TRAININGS, THESE_MODELS
from mia_lightning.metrics.intervals.differences import (
    FEWEST_TARGETS,
    Measured,
    difference_of_models,
    difference_of_recipes,
)
from mia_lightning.metrics.intervals.influence import Observed, influence
from mia_lightning.reports.schema import AttackSection, GainSection, KnowledgeSection
from mia_lightning.run.scoring import AttackOutcome

FIGURES = ("auc", "advantage")


def knowledge_sections(
    pairs: Sequence[tuple[AttackSection, AttackSection]], outcomes: Sequence[AttackOutcome], membership: Membership
) -> tuple[KnowledgeSection, ...]:
    """One for each pair; none of trials, which are one record.

    Of fewer than four targets the differences are those of these models, else of new trainings.

    Args:
        pairs: of an attack by somebody who does not know the defence, and by somebody who does.
    """
    if membership.is_trials:
        return ()
    by_name = {each.name: each for each in outcomes}
    return tuple(
        _section(without, knowing, *(_seen(by_name[each.name], membership) for each in (without, knowing)))
        for without, knowing in pairs
    )


def _section(without: AttackSection, knowing: AttackSection, *seen: Observed) -> KnowledgeSection:
    is_of_models = len(seen[0].score_TN) < FEWEST_TARGETS
    gains = {}
    for figure in FIGURES:
        first, second = (
            [Measured(getattr(attack.overall, figure), influence(figure, each))]
            for attack, each in zip((knowing, without), reversed(seen), strict=True)
        )
        if is_of_models:
            change = difference_of_models(first, second)
        else:
            change = difference_of_recipes(first, second, same_targets=True)
        low, high = change.limits()
        values = [each[0].figure.value for each in (first, second)]
        value = None if None in values else change.value
        gains[figure] = GainSection(value=value, low=low, high=high, interval=change.method)
    estimand = THESE_MODELS if is_of_models else NEW_TRAININGS
    return KnowledgeSection(attack=knowing.name, less=without.name, estimand=estimand, gains=gains)


def _seen(outcome: AttackOutcome, membership: Membership) -> Observed:
    return Observed(
        score_TN=outcome.score_TN,
        is_flagged_TN=outcome.is_flagged_TN,
        member_TN=membership.member_KN[membership.targets],
        scored_TN=membership.scored_KN[membership.targets],
    )
