"""The membership of a run, filled by its plan: who trains on what."""

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, SettingError
from mia_lightning.membership import Membership, Wanted
from mia_lightning.run.definition import Audit
from mia_lightning.terminal.amounts import size
from mia_lightning.training.plan.memory import free_on_host

_BYTES = 2  # of one record and one model: whether it trained on it, and whether it is evidence


def filled(audit: Audit, population: Population, num_shadows: int | None = None) -> Membership:
    """The whole membership for real shadow records; the rows of the targets alone for records that are made later.

    Args:
        num_shadows: None for as many as are set.
    """
    reason = None if population.form is None else audit.shadow.refusal(population.form)
    if reason is not None:
        raise InputError(reason)
    if audit.shadow.makes_records:
        return _filled_for_targets(audit, population)
    plan, target, shadow = audit.membership, audit.attacked, audit.shadow
    if target.is_every_model and not plan.shares_records:
        raise InputError(
            "target=leave_one_out makes every model a target once, for which all must be drawn from the same "
            f"records, and membership={plan.name} gives the target records of its own; use membership=halves."
        )
    count = shadow.count if num_shadows is None else num_shadows
    _check_memory(target.count, count, population)
    wanted = Wanted(
        num_targets=target.count,
        num_shadows=count,
        seed=audit.seed,
        overlap=shadow.overlap,
        reserve=audit.needs.population,
        as_target=audit.shadow_estimators is not None and not target.is_trained_here,
    )
    membership = plan.fill(population, wanted)
    return membership.each_a_target() if target.is_every_model else membership


def _check_memory(num_targets: int, num_shadows: int, population: Population) -> None:
    """Refuse more models than there is memory to note who trains on what, before any of it is taken."""
    needed, free = _BYTES * (num_targets + num_shadows) * len(population), free_on_host()
    if needed > free:
        section, count = ("target", num_targets) if num_targets > num_shadows else ("shadow", num_shadows)
        rest = (
            f"is {count}, and for {len(population)} records it takes {size(needed)} to note which model trains on "
            f"which, where {size(free)} are free; give fewer."
        )
        raise SettingError(section, "count", rest)


def _filled_for_targets(audit: Audit, population: Population) -> Membership:
    plan, target, shadow = audit.membership, audit.attacked, audit.shadow
    if not plan.takes_made_records:
        raise InputError(
            f"shadow={shadow.source} makes records, and under membership={plan.name} attacks learn from models of the "
            "same real records, with the canary and without it; use shadow=real."
        )
    if target.is_every_model:
        raise InputError(
            f"target=leave_one_out attacks the shadow models themselves, but shadow={shadow.source} makes records by "
            "asking one target; use shadow=real."
        )
    if target.count > 1:
        raise InputError(
            f"`target.count` is {target.count}, but shadow={shadow.source} makes records by asking one target; set it "
            "to 1, and sweep `seed` for more."
        )
    wanted = Wanted(num_targets=1, num_shadows=0, seed=audit.seed, reserve=audit.needs.population)
    membership = plan.fill(population, wanted)
    if len(membership.validation_N) and not shadow.needs_records:
        raise InputError(
            f"`membership.validation` is {len(membership.validation_N)}, but shadow={shadow.source} is the attacker "
            "who has no real records, and its shadow models would stop early on those; set it to 0, or use another "
            "`shadow`."
        )
    if shadow.needs_records and not bool(membership.outside_N.any()):
        raise InputError(
            f"shadow={shadow.source} starts from records that are no evidence about the target, and "
            f"membership={plan.name} leaves none of the {len(population)}; use membership=disjoint, or "
            "shadow=model_based."
        )
    return membership
