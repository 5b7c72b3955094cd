"""The relative attack of Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks" (2024)."""

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.references import Others, check_references, finite, left_out_threshold
from mia_lightning.attacks.relative import Averages, Relative, relative_scores
from mia_lightning.attacks.statistics import log_confidence
from mia_lightning.errors import InputError
from mia_lightning.training.fit import Engine
from mia_lightning.training.signals import Signals

# What `a` is chosen from where it is `auto`, and the most shadow models that are attacked to choose it.
TRIED = tuple(step / 10 for step in range(11))
_MOST_ATTACKED = 16


@dataclass(frozen=True, kw_only=True)
class RmiaOnline:
    """Score a record by the share of a population than which the target favours it more, against shadow models.

    Attributes:
        a: in [0, 1], of the population's records, which have no in-models; or `auto`, the one of 0, 0.1, ..., 1 with
            which shadow models are attacked best.
        gamma: above 0. The paper's experiments have 2; 1 was taken here after a look at networks on digits, where it
            ranks better (AUC 0.73 against 0.68). Set it beforehand: it is not learnt on the shadow models.
    """

    name: str = "rmia_online"
    a: float | str = "auto"
    gamma: float = 1.0
    needs: ClassVar[Needs] = Needs(population=True, out_models=1, in_models=1)

    def __post_init__(self) -> None:
        _check(self.name, self.a, self.gamma)

    @property
    def description(self) -> str:
        return (
            "Share of a population than which the target makes the record more likely, both relative to shadow models, "
            "those that trained on it and those that did not; one threshold, the best on the shadow models."
        )

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedRmia":
        """Average over the in- and the out-models of each record.

        Raises:
            DoesNotApplyError: no population, a record without in- or without out-models, as under membership=disjoint,
                or too few shadow models for a threshold.
        """
        check_references(shadows, self.needs, self.name, offline="rmia_offline")
        return _fit(shadows, self.name, self.a, self.gamma, online=True)


@dataclass(frozen=True, kw_only=True)
class RmiaOffline:
    """As `RmiaOnline`, from shadow models that did not train on the record alone.

    Attributes:
        a, gamma: as of `RmiaOnline`; `a` serves the record too.
    """

    name: str = "rmia_offline"
    a: float | str = "auto"
    gamma: float = 1.0
    needs: ClassVar[Needs] = Needs(population=True, out_models=1)

    def __post_init__(self) -> None:
        _check(self.name, self.a, self.gamma)

    @property
    def description(self) -> str:
        return (
            "Share of a population than which the target makes the record more likely, both relative to shadow models "
            "that did not train on it; one threshold, the best on the shadow models."
        )

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedRmia":
        """Average over the out-models of each record.

        Raises:
            DoesNotApplyError: no population, a record without out-models, or too few shadow models for a threshold.
        """
        check_references(shadows, self.needs, self.name)
        return _fit(shadows, self.name, self.a, self.gamma, online=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedRmia:
    """What shadow models give each record, and which records are the population (int64 `population_Z`)."""

    threshold: float
    relative: Relative
    averages: Averages
    population_Z: Tensor
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Share in [0, 1], `[T, N]`, float64; −inf for a record without the models that it is compared with.

        The records must hold the population.
        """
        return _scores(_log_p(signals, label_N), self.averages, self.population_Z, self.relative)

    def score_left_out(self, shadows: Evidence, row_T: Tensor, signals: Signals | None = None) -> Tensor:
        """As `score`, of shadow models that are each compared with the others; `a` is that of the fit."""
        log_p_KN = _log_p(shadows.signals, shadows.label_N)
        log_p_TN = log_p_KN[row_T] if signals is None else _log_p(signals, shadows.label_N)
        is_online = self.averages.inside_TN is not None
        return _left_out(log_p_TN, log_p_KN, shadows, row_T, self.relative, online=is_online)


def _check(name: str, a: float | str, gamma: float) -> None:
    is_number = isinstance(a, int | float) and not isinstance(a, bool)
    if not (a == "auto" or (is_number and 0 <= float(a) <= 1)):
        raise InputError(f"`attack.{name}.a` is {a!r}; it must be auto or a number from 0 to 1.")
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not (gamma > 0 and isfinite(gamma)):
        raise InputError(f"`attack.{name}.gamma` is {gamma!r}; it must be a number above 0.")


def _fit(shadows: Evidence, name: str, a: float | str, gamma: float, *, online: bool) -> FittedRmia:
    log_p_KN, population_Z = _log_p(shadows.signals, shadows.label_N), _population(shadows)
    Z = len(population_Z)
    remarks = [f"The score is a share of {Z} records of the population: at most {Z + 1} values, so ties are common."]
    if isinstance(a, str):
        a = _best_a(log_p_KN, shadows, gamma, online=online)
        remarks.append(f"a = {a:g} was chosen by attacking the shadow models with each other.")
    relative = Relative(a=float(a), gamma=float(gamma))
    score_KN = _left_out(log_p_KN, log_p_KN, shadows, torch.arange(shadows.num_models), relative, online=online)
    threshold = left_out_threshold(score_KN, shadows, name)
    del score_KN
    averages = Averages.of(log_p_KN, shadows, Others.of(shadows), online=online)
    return FittedRmia(
        threshold=threshold,
        relative=relative,
        averages=averages,
        population_Z=population_Z,
        remarks=tuple(remarks),
    )


def _best_a(log_p_KN: Tensor, shadows: Evidence, gamma: float, *, online: bool) -> float:
    """The first of `TRIED` with the largest mean AUC on shadow models that are evenly spaced among all."""
    num_attacked = min(shadows.num_models, _MOST_ATTACKED)
    row_T = torch.linspace(0, shadows.num_models - 1, num_attacked).round().long().to(log_p_KN.device)
    member_TN, scored_TN = (matrix.to(row_T.device)[row_T] for matrix in (shadows.member_KN, shadows.scored_KN))
    averages = Averages.of(log_p_KN, shadows, Others.of(shadows, row_T), online=online)
    population_Z = _population(shadows)
    mean_auc = []
    for a in TRIED:
        score_TN = _scores(log_p_KN[row_T], averages, population_Z, Relative(a=a, gamma=gamma))
        usable_TN = scored_TN & (score_TN > -torch.inf)
        place_TN = (score_TN * len(population_Z)).round().where(usable_TN, 0.0).long()
        mean_auc.append(_mean_auc(place_TN, usable_TN & member_TN, usable_TN & ~member_TN))
    return TRIED[mean_auc.index(max(mean_auc))]


def _mean_auc(place_TN: Tensor, inside_TN: Tensor, outside_TN: Tensor) -> float:
    """Mean AUC over targets of scores that are small whole numbers, ties counted half; 0.5 where none has one."""
    num_targets, num_places = len(place_TN), int(place_TN.max()) + 1
    first_T1 = num_places * torch.arange(num_targets, device=place_TN.device).unsqueeze(1)
    inside_TV, outside_TV = (
        (place_TN + first_T1)[side_TN]
        .bincount(minlength=num_targets * num_places)
        .view(num_targets, num_places)
        .double()
        for side_TN in (inside_TN, outside_TN)
    )
    won_T = (inside_TV * (outside_TV.cumsum(1) - outside_TV / 2)).sum(1)
    pairs_T = inside_TV.sum(1) * outside_TV.sum(1)
    is_judged_T = pairs_T > 0
    return float((won_T / pairs_T)[is_judged_T].mean()) if bool(is_judged_T.any()) else 0.5


def _left_out(
    log_p_TN: Tensor, log_p_KN: Tensor, shadows: Evidence, row_T: Tensor, relative: Relative, *, online: bool
) -> Tensor:
    row_T = row_T.to(log_p_KN.device)
    averages = Averages.of(log_p_KN, shadows, Others.of(shadows, row_T), online=online)
    return _scores(log_p_TN, averages, _population(shadows), relative)


def _scores(log_p_TN: Tensor, averages: Averages, population_Z: Tensor, relative: Relative) -> Tensor:
    """`[T, N]` for the first N records of the averages; −inf where these are not known."""
    num_records = log_p_TN.shape[1]
    assert int(population_Z.max()) < num_records, "the population is not observed"
    log_marginal_TN = averages.log_marginal(relative.a)[:, :num_records]
    log_marginal_TZ = averages.of_population(population_Z).log_marginal(relative.a)
    score_TN = relative_scores(log_p_TN, log_marginal_TN, log_p_TN[:, population_Z], log_marginal_TZ, relative.gamma)
    return score_TN.masked_fill_(~averages.is_known_TN[:, :num_records], -torch.inf)


def _log_p(signals: Signals, label_N: Tensor) -> Tensor:
    return finite(log_confidence(signals, label_N))


def _population(shadows: Evidence) -> Tensor:
    return shadows.population_N.to(shadows.signals.log_probability_KANC.device).nonzero().squeeze(1)
