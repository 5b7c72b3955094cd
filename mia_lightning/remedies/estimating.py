"""What it would take to try remedies; nothing is trained."""

from collections.abc import Sequence
from dataclasses import replace

from mia_lightning.audit import entered
from mia_lightning.remedies.catalogue import ALL, chosen
from mia_lightning.remedies.setting_up import set_up
from mia_lightning.run.definition import Audit
from mia_lightning.run.estimate import measured
from mia_lightning.terminal.amounts import duration


def estimate_remedies(audit: Audit, *, remedies: Sequence[str] | str = ALL) -> list[str]:
    """What `try_remedies` would take: a sentence for doing nothing and for each remedy, and one for all together.

    Each remedy is measured at its first strength, by a few steps of throw-away networks.

    Raises:
        InputError: as `try_remedies`, as far as this can be told before anything is trained.
    """
    with entered():
        tried = set_up(audit, chosen(remedies), named=remedies != ALL)
        one = measured(tried.audit).seconds
        sentences = [f"Doing nothing: {len(tried.plan.block_K)} models, about {duration(one)}."]
        total = one
        for remedy in tried.remedies:
            if not remedy.trains:
                continue
            defended = replace(tried.audit, defenses=(*tried.audit.defenses, remedy.strengths[0]))
            seconds = measured(defended).seconds * len(remedy.strengths)
            total += seconds
            sentences.append(f"{remedy.name}, {len(remedy.strengths)} strengths: at most about {duration(seconds)}.")
        of_answers = [each.name for each in tried.remedies if not each.trains]
        if of_answers:
            sentences.append(f"No training for {', '.join(of_answers)}: they change the answers of doing nothing.")
        sentences += [f"{remedy.name} does not apply: {reason}" for remedy, reason in tried.inapplicable]
    return [*sentences, f"All that is trained and answered: at most about {duration(total)} here."]
