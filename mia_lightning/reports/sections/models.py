"""How well the target and the shadow models do on their members and on other records."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.groups import in_group
from mia_lightning.datasets.population import Population
from mia_lightning.membership import Membership
from mia_lightning.metrics.target_accuracy import TargetAccuracy, utility_by_membership
from mia_lightning.reports.schema import (
    ShadowSection,
    SynthesisClass,
    SynthesisSection,
    TargetClass,
    TargetGroup,
    TargetSection,
)
from mia_lightning.run.observation import Observation
from mia_lightning.shadows.interface import Synthesis
from mia_lightning.training.models import Models
from mia_lightning.training.signals import Signals


def target_section(population: Population, membership: Membership, targets: Models, signals: Signals) -> TargetSection:
    accuracies = _accuracies(population, membership, membership.targets, signals)
    train, test = (float(np.mean([getattr(a, f"{part}_accuracy") for a in accuracies])) for part in ("train", "test"))
    train_C, test_C = (
        _defined_mean([getattr(a, f"{part}_accuracy_C") for a in accuracies]) for part in ("train", "test")
    )
    members_C = torch.stack([a.num_members_C for a in accuracies]).sum(0)
    nonmembers_C = torch.stack([a.num_nonmembers_C for a in accuracies]).sum(0)
    return TargetSection(
        architecture=targets.architecture_name,
        num_parameters=targets.num_parameters,
        size_unit=targets.size_unit,
        num_targets=membership.num_targets,
        train_accuracy=train,
        test_accuracy=test,
        generalization_gap=train - test,
        per_class=tuple(
            TargetClass(
                class_index=c,
                class_name=name,
                num_members=int(members_C[c]),
                num_nonmembers=int(nonmembers_C[c]),
                train_accuracy=_or_none(train_C[c]),
                test_accuracy=_or_none(test_C[c]),
                generalization_gap=_or_none(train_C[c] - test_C[c]),
            )
            for c, name in enumerate(population.strata.names)
        ),
        per_group=_target_groups(population, membership, signals),
    )


def _target_groups(population: Population, membership: Membership, signals: Signals) -> tuple[TargetGroup, ...]:
    sections = []
    for name, of_group_N in groups_of(population.group_N, population.group_names):
        accuracies = _accuracies(population, membership, membership.targets, signals, of_group_N)
        train, test = (
            float(
                _defined_mean([torch.tensor(getattr(a, f"{part}_accuracy"), dtype=torch.float64) for a in accuracies])
            )
            for part in ("train", "test")
        )
        sections.append(
            TargetGroup(
                group_name=name,
                train_accuracy=_or_none(train),
                test_accuracy=_or_none(test),
                generalization_gap=_or_none(train - test),
            )
        )
    return tuple(sections)


def shadow_section(observation: Observation, whole: Population) -> ShadowSection:
    """Accuracies are on the shadow models' own records, of their own labels."""
    membership = observation.membership
    accuracies = _accuracies(whole, membership, membership.shadows, observation.shadow_signals)
    return ShadowSection(
        source=observation.audit.shadow.source,
        architecture=observation.shadows.architecture_name,
        count=len(accuracies),
        left_out=observation.left_out,
        synthesis=None if observation.synthesis is None else _synthesis_section(observation.synthesis, whole),
        train_accuracy=float(np.mean([a.train_accuracy for a in accuracies])),
        test_accuracy=float(np.mean([a.test_accuracy for a in accuracies])),
    )


def _synthesis_section(synthesis: Synthesis, population: Population) -> SynthesisSection:
    """Numbers of records and queries; a wanted class without any record has failed."""
    yield_C = synthesis.yield_C.tolist()
    wanted_C = None if synthesis.wanted_C is None else synthesis.wanted_C.tolist()
    query_C = None if synthesis.query_C is None else synthesis.query_C.tolist()
    num_records = len(synthesis.x_M)
    return SynthesisSection(
        num_records=num_records,
        num_queries=synthesis.num_queries,
        queries_per_record=synthesis.num_queries / num_records,
        per_class=tuple(
            SynthesisClass(
                class_index=c,
                class_name=name,
                num_records=yield_C[c],
                num_wanted=None if wanted_C is None else wanted_C[c],
                num_queries=None if query_C is None else query_C[c],
            )
            for c, name in enumerate(population.class_names)
        ),
        failed_classes=tuple(
            name
            for c, name in enumerate(population.class_names)
            if wanted_C is not None and wanted_C[c] > 0 and yield_C[c] == 0
        ),
    )


def _accuracies(
    population: Population, membership: Membership, rows: slice, signals: Signals, among_N: Tensor | None = None
) -> list[TargetAccuracy]:
    """Of each model in `rows`, on all records or on those where the bool mask is True."""
    among_N = torch.ones(len(population), dtype=torch.bool) if among_N is None else among_N
    of_SN = population.strata.of_SN
    return [
        utility_by_membership(
            population.task, answer_NC, population.label_N, of_SN, member_N & among_N, nonmember_N & among_N
        )
        for answer_NC, member_N, nonmember_N in zip(
            (each_NC.cpu() for each_NC in signals.log_probability_KANC[:, 0]),
            membership.member_KN[rows],
            membership.unseen_KN[rows],
            strict=True,
        )
    ]


def groups_of(group_N: Tensor | None, names: Sequence[str]) -> list[tuple[str, Tensor]]:
    """The groups by their names, with their records, bool `[N]`; empty where the records have none."""
    if group_N is None:
        return []
    return [(name, in_group(group_N, number)) for number, name in enumerate(names)]


def _defined_mean(values: Sequence[Tensor]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean over targets of those that are not NaN; NaN where all are."""
    array = np.stack([value.double().numpy() for value in values])
    count = np.isfinite(array).sum(axis=0)
    total: np.ndarray[Any, np.dtype[np.float64]] = np.nansum(array, axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
