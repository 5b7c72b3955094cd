"""Before anything is trained: the records and the plan that all ways of training share, and the remedies that apply."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import torch

from mia_lightning.datasets.augmentation import takes_index
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership import Halves, Membership
from mia_lightning.membership.draws import population_size
from mia_lightning.remedies.catalogue import Remedy
from mia_lightning.run.completion import completed
from mia_lightning.run.definition import Audit, no_network
from mia_lightning.run.filling import filled
from mia_lightning.run.preparation import prepare
from mia_lightning.seeds import generator
from mia_lightning.shadows.real import Real
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.engine import Engine
from mia_lightning.training.setup import Setup

FEWEST_NONMEMBERS = 500  # of a target: five of them are at 1 % FPR
_FEWEST_BLOCKS = 4  # so that thresholds can be learnt on the blocks of other targets
_BLOCK = 4  # models that partition the records, at least where these suffice
_MOST_HELD_OUT = 500


@dataclass(frozen=True, eq=False, kw_only=True)
class Tried:
    """What is trained with and without each remedy.

    Attributes:
        audit: without a remedy; every model is a target once.
        folder: for the files; None for none.
        remedies: that apply.
        inapplicable: the others, each with the reason.
        architecture: of the networks.
        plan: who trains on what.
        notes: about the records and the plan.
    """

    audit: Audit
    folder: Path | None
    remedies: tuple[Remedy, ...]
    inapplicable: tuple[tuple[Remedy, str], ...]
    architecture: str
    plan: Membership
    notes: tuple[str, ...]


def set_up(audit: Audit, remedies: Sequence[Remedy], *, named: bool) -> Tried:
    """The audit whose every model is a target once, and the remedies that apply to it.

    Args:
        named: whether somebody has named them; one that does not apply is then refused.

    Raises:
        InputError: as an audit; no networks are trained; a remedy that is named does not apply, or none does.
    """
    planned, notes = _planned(audit, remedies)
    setup = _prepared(planned)
    applying, inapplicable = [], []
    for remedy in remedies:
        reason = _refusal(planned, remedy)
        if reason is None:
            applying.append(remedy)
        elif named:
            raise InputError(f"`remedies` has {remedy.name}, which does not apply: {reason}")
        else:
            inapplicable.append((remedy, reason))
    if not applying:
        raise InputError(f"No remedy applies; of {inapplicable[0][0].name}: {inapplicable[0][1]}")
    return Tried(
        audit=planned,
        folder=audit.folder,
        remedies=tuple(applying),
        inapplicable=tuple(inapplicable),
        architecture=setup.architecture.name,
        plan=setup.membership,
        notes=notes,
    )


def _prepared(audit: Audit) -> Setup:
    """What would be trained, checked; remarks are those of the run itself, later."""
    return prepare(Engine(seed=audit.seed, settings=audit.trainer, stages=Stages(), store=audit.store), audit)


def _refusal(audit: Audit, remedy: Remedy) -> str | None:
    """Why a remedy does not apply, at its first strength."""
    try:
        _prepared(replace(audit, defenses=(*audit.defenses, remedy.strengths[0])))
    except InputError as error:
        return str(error)
    return None


def _planned(audit: Audit, remedies: Sequence[Remedy]) -> tuple[Audit, tuple[str, ...]]:
    """The audit of models that are trained here, each a target once, and notes about what differs from that given."""
    stages = Stages()
    audit = completed(audit, stages)
    if audit.model is no_network or audit.attacked.own_kind is not None:
        raise InputError(
            "Remedies change how networks are trained, and this audit trains none; give the architecture as `model`, "
            "or judge defences of the answers by `defense=` alone."
        )
    plan = filled(audit, audit.population)
    if plan.is_trials:
        raise InputError(
            f"membership={plan.plan_name} has trials of one record, by which remedies cannot be compared; use "
            "membership=halves or disjoint."
        )
    size = int(plan.member_KN[0].sum())
    is_held_out = any(remedy.holds_out for remedy in remedies)
    population, held_out, whole = _records(audit, size, len(plan.validation_N), is_held_out=is_held_out)
    scored = len(population) - held_out - population_size(None, audit.needs.population, len(population))
    own_size = None if 2 * size > scored else size
    width = 2 if own_size is None else round(scored / size)
    num_models = max(_FEWEST_BLOCKS, ceil(audit.shadow.count / width)) * width
    notes = [*stages.notes]
    if not audit.attacked.is_trained_here:
        notes.append(
            "The target is trained already: what remedies change is measured on models that are trained here, by "
            "`model` and `training`."
        )
    if not whole:
        notes.append(f"Of the {len(audit.population):,} records {len(population):,} are used, drawn at random.")
    if own_size is None:
        notes.append(f"Each model trains on {scored // 2:,} records, half of those there are, and not on {size:,}.")
    planned = replace(
        audit,
        data=population,
        membership=Halves(train_size=own_size, validation=held_out),
        target=LeaveOneOut(folds=min(8, num_models // width)),
        shadow=Real(count=num_models),
        shadow_estimator=None,
        guess=None,
        shard=None,
        gate=None,
        logger=None,
        output=None,
        save_models=False,
        convergence=False,
        adaptive=True,
    )
    return planned, tuple(notes)


def _records(audit: Audit, size: int, validation: int, *, is_held_out: bool) -> tuple[Population, int, bool]:
    """The records, how many of them are held out from training, and whether they are all that there are.

    As many are used as give a target five hundred non-members, and a block four models: beyond that they make intervals
    shorter, and training longer.
    """
    population = audit.population
    wanted = max(_BLOCK * size, size + FEWEST_NONMEMBERS)
    held_out = validation or (min(_MOST_HELD_OUT, wanted // 10, len(population) // 10) if is_held_out else 0)
    total = wanted + held_out
    total += population_size(None, audit.needs.population, ceil(total / 0.9))
    if total >= len(population) or any(takes_index(each) for each in audit.training.augment):
        return population, held_out, True
    draws = generator(audit.seed, "remedies", "records")
    chosen_N = torch.zeros(len(population), dtype=torch.bool)
    chosen_N[torch.randperm(len(population), generator=draws)[:total]] = True
    return population.chosen(chosen_N.to(population.device)), held_out, False
