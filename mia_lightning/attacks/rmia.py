"""The relative attack of Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks" (2024)."""

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.references import Others, check_references, finite, left_out_threshold
from mia_lightning.attacks.relative import Averages, Relative, relative_scores
from mia_lightning.attacks.relative_choice import TRIED_A, TRIED_GAMMA, choose
from mia_lightning.attacks.statistics import log_confidence
from mia_lightning.errors import InputError
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


@dataclass(frozen=True, kw_only=True)
class RmiaOnline:
    """Score a record by the share of a population than which the target favours it more, against shadow models.

    Attributes:
        a: in [0, 1], of the population's records, which have no in-models; or `auto`, one of 0, 0.1, ..., 1.
        gamma: above 0, how many times as large as that of z the ratio must be; or `auto`, one of 1, 1.1, 1.25, 1.5, 2,
            3 and 4. The paper's experiments have 2, and tune `a` alone.

    What is `auto` is chosen, both together, as what has the largest mean AUC where shadow models are attacked with each
    other; of equals a gamma of 2 is taken, or the nearest to it, and the smallest `a`. Targets have no say.

    Among the records of one target the score never falls where p(x given θ) / p(x) rises, so that online the constants
    decide which records tie, and no more. Those with the largest AUC may tie more non-members with the best records
    than others do, and so have a lower TPR at a low FPR.
    """

    name: str = "rmia_online"
    a: float | str = "auto"
    gamma: float | str = "auto"
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
        a, gamma: as of `RmiaOnline`, `auto` included; `a` serves the record too.
    """

    name: str = "rmia_offline"
    a: float | str = "auto"
    gamma: float | str = "auto"
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
        """As `score`, of shadow models that are each compared with the others; `a` and gamma are those of the fit."""
        log_p_KN = _log_p(shadows.signals, shadows.label_N)
        log_p_TN = log_p_KN[row_T] if signals is None else _log_p(signals, shadows.label_N)
        is_online = self.averages.inside_TN is not None
        return _left_out(log_p_TN, log_p_KN, shadows, row_T, self.relative, online=is_online)


def _check(name: str, a: float | str, gamma: float | str) -> None:
    if not (a == "auto" or (_is_number(a) and 0 <= float(a) <= 1)):
        raise InputError(f"`attack.{name}.a` is {a!r}; it must be auto or a number from 0 to 1.")
    if not (gamma == "auto" or (_is_number(gamma) and isfinite(float(gamma)) and float(gamma) > 0)):
        raise InputError(f"`attack.{name}.gamma` is {gamma!r}; it must be auto or a number above 0.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fit(shadows: Evidence, name: str, a: float | str, gamma: float | str, *, online: bool) -> FittedRmia:
    log_p_KN, population_Z = _log_p(shadows.signals, shadows.label_N), _population(shadows)
    relative, remarks = _constants(log_p_KN, shadows, population_Z, a, gamma, online=online)
    score_KN = _left_out(log_p_KN, log_p_KN, shadows, torch.arange(shadows.num_models), relative, online=online)
    threshold = left_out_threshold(score_KN, shadows, name)
    del score_KN
    averages = Averages.of(log_p_KN, shadows, Others.of(shadows), online=online)
    return FittedRmia(
        threshold=threshold,
        relative=relative,
        averages=averages,
        population_Z=population_Z,
        remarks=remarks,
    )


def _constants(
    log_p_KN: Tensor, shadows: Evidence, population_Z: Tensor, a: float | str, gamma: float | str, *, online: bool
) -> tuple[Relative, tuple[str, ...]]:
    """The constants as given, or chosen, and what to say of them."""
    Z = len(population_Z)
    ties = f"The score is a share of {Z} records of the population: at most {Z + 1} values, so ties are common."
    if not isinstance(a, str) and not isinstance(gamma, str):
        return Relative(a=float(a), gamma=float(gamma)), (ties,)
    tried_a = TRIED_A if isinstance(a, str) else (float(a),)
    tried_gamma = TRIED_GAMMA if isinstance(gamma, str) else (float(gamma),)
    relative = choose(log_p_KN, shadows, population_Z, tried_a, tried_gamma, online=online)
    chosen = [
        f"{n} = {v:g}" for n, v, given in (("a", relative.a, a), ("gamma", relative.gamma, gamma)) if given == "auto"
    ]
    verb = "were" if len(chosen) > 1 else "was"
    return relative, (ties, f"{' and '.join(chosen)} {verb} chosen by attacking the shadow models with each other.")


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
