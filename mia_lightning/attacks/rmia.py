"""The relative attack of Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks" (2024)."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import BeforeValidator
from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.references import Others, check_references, left_out_threshold
from mia_lightning.attacks.relative import (
    TRIED_A,
    TRIED_GAMMA,
    TRIED_TEMPERATURE,
    Averages,
    Relative,
    Tried,
    choose,
    relative_scores,
)
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName, Auto, NotNegative, Positive, Share, ShareBelowHalf
from mia_lightning.settings.words import Words
from mia_lightning.tasks import Task
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


class _Unset(float):
    """A factor that nobody has set."""


def _left_open(given: object) -> object:
    """What nobody has set stays so in a changed copy."""
    return None if isinstance(given, _Unset) else given


@settings("attack.{name}")
class Rmia:
    """Score: the share of a population than which the target favours the record more, in [0, 1]; larger for members.

    What the target gives a record is compared with what shadow models give it: online with those that trained on it and
    those that did not, offline with the latter alone.

    Attributes:
        online: whether the shadow models that trained on a record are used; each record must then be in some of them,
            as under membership=halves.
        name: in reports; by default `rmia_online` or `rmia_offline`.
        a: in [0, 1], of the records that have no in-models: those of the population, and offline all; or `auto`, one of
            0, 0.1, ..., 1.
        gamma: above 0, how many times as large as that of z the ratio must be; or `auto`, one of 1, 1.1, 1.25, 1.5, 2,
            3 and 4. The paper's experiments have 2, and tune `a` alone. None for 2, of numbers (task=regression) for 1:
            their likelihoods are of one size, so that at 2 most records would tie.
        temperature: T above 0: what a model gives to a record is softmax(log p / T) at the true class; or `auto`, one
            of 1, 1.5, 2, 3, 4 and 6. The published configurations have 2. At 1, where a network is sure of most of its
            members, what it gives to them is near 1 throughout, and ratios hardly differ.
        soft_margin: at least 0; what is taken from the exponent of the true class. 0.6 with the paper's images.
        trim: below 0.5; means over shadow models leave out this share of them at either end, in- and out-models sorted
            together. 0.2 in the published configurations.

    What is `auto` is chosen, all together, as what has the largest mean AUC where shadow models are attacked with each
    other; of equals a temperature and a gamma of 2 are taken, or the nearest to it, and the smallest `a`. Targets have
    no say.

    Among the records of one target the score never falls where p(x given θ) / p(x) rises, so that online `a` and gamma
    decide which records tie, and no more. Those with the largest AUC may tie more non-members with the best records
    than others do, and so have a lower TPR at a low FPR.

    Where the published code differs: it counts ratios above gamma, not those that equal it as in the paper (this
    matters only between answers that are equal, such as rounded ones or labels alone); the records of its population
    are scored ones, so that it has in-models of them; and it takes the majority over views of an image.

    Source: Zarifzadeh, Liu and Shokri (2024), equations 2 to 4.
    """

    online: bool = True
    name: AttackName = ""
    a: Share | Auto = "auto"
    gamma: Annotated[Positive | Auto | None, BeforeValidator(_left_open), Words("a number above 0, or auto")] = None
    temperature: Positive | Auto = 2.0
    soft_margin: NotNegative = 0.0
    trim: ShareBelowHalf = 0.0

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", "rmia_online" if self.online else "rmia_offline")
        if self.gamma is None:
            object.__setattr__(self, "gamma", _Unset(Task.factor))

    @property
    def needs(self) -> Needs:
        return Needs(population=True, out_models=1, in_models=1 if self.online else 0, compares_shadows=True)

    @property
    def description(self) -> str:
        if self.online:
            return (
                "Share of a population than which the target makes the record more likely, both relative to shadow "
                "models, those that trained on it and those that did not; one threshold, the best on the shadow models."
            )
        return (
            "Share of a population than which the target makes the record more likely, both relative to shadow models "
            "that did not train on it; one threshold, the best on the shadow models."
        )

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedRmia":
        """Average over the out-models of each record, and online over the in-models.

        Raises:
            DoesNotApplyError: no population; a record without out-models, or online without in-models, as under
                membership=disjoint; or too few shadow models for a threshold.
        """
        check_references(shadows, self.needs, self.name, offline="rmia_offline")
        population_Z = _population(shadows)
        relative, log_p_KN = choose(
            shadows,
            population_Z,
            self._tried(shadows.signals.task),
            online=self.online,
            soft_margin=self.soft_margin,
            trim=self.trim,
        )
        every_K = torch.arange(shadows.num_models)
        score_KN = _left_out(log_p_KN, log_p_KN, shadows, every_K, relative, online=self.online)
        threshold = left_out_threshold(score_KN, shadows, self.name)
        del score_KN
        return FittedRmia(
            threshold=threshold,
            relative=relative,
            averages=Averages.of(log_p_KN, shadows, Others.of(shadows), online=self.online, trim=self.trim),
            population_Z=population_Z,
            remarks=self._remarks(relative, len(population_Z)),
        )

    def _tried(self, task: Task) -> Tried:
        gamma = task.factor if self.gamma is None or isinstance(self.gamma, _Unset) else self.gamma
        return Tried(
            temperature=TRIED_TEMPERATURE if self.temperature == "auto" else (self.temperature,),
            gamma=TRIED_GAMMA if gamma == "auto" else (gamma,),
            a=TRIED_A if self.a == "auto" else (self.a,),
        )

    def _remarks(self, relative: Relative, num_population: int) -> tuple[str, ...]:
        ties = (
            f"The score is a share of {num_population} records of the population: at most {num_population + 1} values, "
            "so ties are common."
        )
        names = [name for name in ("a", "gamma", "temperature") if getattr(self, name) == "auto"]
        *before, last = [f"{name} = {getattr(relative, name):g}" for name in names] or [""]
        if not last:
            return (ties,)
        listed, verb = (f"{', '.join(before)} and {last}", "were") if before else (last, "was")
        return ties, f"{listed} {verb} chosen by attacking the shadow models with each other."


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedRmia:
    """What shadow models give each record, and which records are the population (int64 `population_Z`)."""

    threshold: float
    relative: Relative
    averages: Averages
    population_Z: Tensor
    remarks: tuple[str, ...] = ()

    @property
    def constants(self) -> Hashable:
        return self.relative, self.averages.both_TN is not None

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Share in [0, 1], `[T, N]`, float64; larger for members, −inf without the models to compare a record with.

        The records must hold the population.
        """
        return _scores(self.relative.log_p(signals, label_N), self.averages, self.population_Z, self.relative)

    def score_left_out(self, shadows: Evidence, row_T: Tensor, signals: Signals | None = None) -> Tensor:
        """As `score`, of shadow models that are each compared with the others; the constants are those of the fit."""
        log_p_KN = self.relative.log_p(shadows.signals, shadows.label_N)
        log_p_TN = log_p_KN[row_T] if signals is None else self.relative.log_p(signals, shadows.label_N)
        is_online = self.averages.both_TN is not None
        return _left_out(log_p_TN, log_p_KN, shadows, row_T, self.relative, online=is_online)


def _left_out(
    log_p_TN: Tensor, log_p_KN: Tensor, shadows: Evidence, row_T: Tensor, relative: Relative, *, online: bool
) -> Tensor:
    row_T = row_T.to(log_p_KN.device)
    averages = Averages.of(log_p_KN, shadows, Others.of(shadows, row_T), online=online, trim=relative.trim)
    return _scores(log_p_TN, averages, _population(shadows), relative)


def _scores(log_p_TN: Tensor, averages: Averages, population_Z: Tensor, relative: Relative) -> Tensor:
    """`[T, N]` for the first N records of the averages; −inf where these are not known."""
    num_records = log_p_TN.shape[1]
    assert int(population_Z.max()) < num_records, "the population is not observed"
    log_marginal_TN = averages.log_marginal(relative.a)[:, :num_records]
    log_marginal_TZ = averages.of_population(population_Z).log_marginal(relative.a)
    score_TN = relative_scores(log_p_TN, log_marginal_TN, log_p_TN[:, population_Z], log_marginal_TZ, relative.gamma)
    return score_TN.masked_fill_(~averages.is_known_TN[:, :num_records], -torch.inf)


def _population(shadows: Evidence) -> Tensor:
    return shadows.population_N.to(shadows.signals.log_probability_KANC.device).nonzero().squeeze(1)
