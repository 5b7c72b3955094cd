"""The family of attacks that compare what a target makes of a record with what models in general make of it: the log of
p(x given θ) / p(x).

RMIA, BASE and InfoRMIA are members of it. On the records of one target RMIA's score never falls as this ratio rises,
and InfoRMIA adds a constant, so that they differ in ties and across targets, not in the order of records.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from math import log
from typing import Literal

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.references import Others, check_references, finite, left_out_threshold, record_slices
from mia_lightning.attacks.relative import relative_scores
from mia_lightning.attacks.statistics import tempered_log_confidence
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName, NotNegative, Positive, Share
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals

# How much of log p(x) the code published with BASE takes offline, for want of models that trained on the record.
_OFFLINE_WEIGHT = 0.33


@settings("attack.{name}")
class Ratio:
    """Score: log p(x given θ) − `weight` · log p(x), in nats; larger for members.

    p(x given θ) is what the target gives to the record's true class at a temperature, p(x) a mean of that over shadow
    models: online ½ (mean in + mean out), offline, and always for records of the population,
    ½ ((1 + a) mean out + 1 − a).

    Attributes:
        online: whether the shadow models that trained on a record are used; each record must then be in some of them,
            as under membership=halves.
        name: in reports; by default `ratio_online` or `ratio_offline`.
        temperature: T above 0: what a model gives to a record is softmax(log p / T) at the true class.
        soft_margin: at least 0; what is taken from the exponent of the true class.
        a: in [0, 1], of the records that have no in-models; at 1 p(x) is the mean over out-models.
        weight: above 0; None for 1, offline for 0.33.
        population: what the ratio is compared with: nothing (`none`), the mean of the log ratios of a population
            (`mean`), or by the share of a population whose ratio times gamma is at most as large (`share`).
        gamma: above 0, of `share`; None for that of the task: 2, of numbers 1.

    What each published attack is:

    - BASE (Lassila, Östman, Ngo: "Practical Bayes-Optimal Membership Inference Attacks", 2025): the defaults, online
      and offline, where each record has as many in- as out-models.
    - RMIA (Zarifzadeh et al. 2024): `population=share`, offline with `weight=1`; it is `Rmia` without `trim`.
    - InfoRMIA (Tao and Shokri, 2025): `population=mean`, offline with `weight=1`. Its second term, the divergence of
      the target from p over the population, is estimated by an unweighted mean over z.
    """

    online: bool = True
    name: AttackName = ""
    temperature: Positive = 2.0
    soft_margin: NotNegative = 0.0
    a: Share = 1.0
    weight: Positive | None = None
    population: Literal["none", "mean", "share"] = "none"
    gamma: Positive | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", "ratio_online" if self.online else "ratio_offline")

    @property
    def needs(self) -> Needs:
        return Needs(
            population=self.population != "none", out_models=1, in_models=1 if self.online else 0, compares_shadows=True
        )

    @property
    def description(self) -> str:
        models = "shadow models, those that trained on it and those that did not"
        models = models if self.online else "shadow models that did not train on it"
        against = {
            "none": "",
            "mean": ", less the mean of that over a population",
            "share": ", by the share of a population that it exceeds",
        }
        return (
            f"How much more likely the target makes the record than {models} do on average, as a log ratio"
            f"{against[self.population]}; one threshold, the best on the shadow models."
        )

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedRatio":
        """Average over the out-models of each record, and online over the in-models.

        Raises:
            DoesNotApplyError: a record without out-models, or online without in-models, as under membership=disjoint;
                a population is needed and there is none; or too few shadow models for a threshold.
        """
        check_references(shadows, self.needs, self.name, offline="ratio_offline")
        log_p_KN = self.log_p(shadows.signals, shadows.label_N)
        score_KN = _left_out(log_p_KN, log_p_KN, shadows, torch.arange(shadows.num_models), self)
        threshold = left_out_threshold(score_KN, shadows, self.name)
        del score_KN
        return FittedRatio(
            threshold=threshold,
            ratio=self,
            means=LogMeans.of(log_p_KN, shadows, Others.of(shadows), online=self.online),
            population_Z=_population(shadows),
        )

    def log_p(self, signals: Signals, label_N: Tensor) -> Tensor:
        """log p(x given θ), finite, `[K, N]` float64."""
        temperature, soft_margin = self.temperature, self.soft_margin
        return finite(tempered_log_confidence(signals, label_N, temperature=temperature, soft_margin=soft_margin))

    def compared(self, log_p_TN: Tensor, means: "LogMeans", population_Z: Tensor, default_gamma: float) -> Tensor:
        """Scores `[T, N]` of the first N records of the means; −inf where these are not known."""
        num_records = log_p_TN.shape[1]
        weight = self.weight or (1.0 if self.online else _OFFLINE_WEIGHT)
        marginal_TN = weight * means.log_marginal(self.a)[:, :num_records]
        score_TN = log_p_TN - marginal_TN
        if self.population != "none":
            assert int(population_Z.max()) < num_records, "the population is not observed"
            log_p_TZ, marginal_TZ = log_p_TN[:, population_Z], weight * means.log_offline(self.a)[:, population_Z]
            if self.population == "mean":
                score_TN = score_TN - (log_p_TZ - marginal_TZ).mean(1, keepdim=True)
            else:
                gamma = self.gamma or default_gamma
                score_TN = relative_scores(log_p_TN, marginal_TN, log_p_TZ, marginal_TZ, gamma)
        return score_TN.where(means.is_known_TN[:, :num_records], -torch.inf)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedRatio:
    """Log means over the shadow models of each record; `population_Z` are the numbers of its records."""

    threshold: float
    ratio: Ratio
    means: "LogMeans"
    population_Z: Tensor
    remarks: tuple[str, ...] = ()

    @property
    def constants(self) -> Hashable:
        return self.ratio

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """In nats, or a share of the population, `[T, N]`, float64; larger for members.

        −inf without the models to compare a record with. Where a population is compared with, the records must hold it.
        """
        log_p_TN = self.ratio.log_p(signals, label_N)
        return self.ratio.compared(log_p_TN, self.means, self.population_Z, signals.task.factor)

    def score_left_out(self, shadows: Evidence, row_T: Tensor, signals: Signals | None = None) -> Tensor:
        """As `score`, of shadow models that are each compared with the others."""
        log_p_KN = self.ratio.log_p(shadows.signals, shadows.label_N)
        row_T = row_T.to(log_p_KN.device)
        log_p_TN = log_p_KN[row_T] if signals is None else self.ratio.log_p(signals, shadows.label_N)
        return _left_out(log_p_TN, log_p_KN, shadows, row_T, self.ratio)


@dataclass(frozen=True, eq=False, kw_only=True)
class LogMeans:
    """The log of the mean probability of the true class over the shadow models that each target is compared with.

    Attributes:
        inside_TN: float64, over those that trained on the record; None where only the others are used.
        outside_TN: float64, over those that did not.
        is_known_TN: bool; whether there is a model on every side that is used.
    """

    inside_TN: Tensor | None
    outside_TN: Tensor
    is_known_TN: Tensor

    @classmethod
    def of(cls, log_p_KN: Tensor, shadows: Evidence, others: Others, *, online: bool) -> "LogMeans":
        member_KN = shadows.member_KN.to(log_p_KN.device)
        parts: list[list[Tensor]] = []
        for columns in record_slices(*log_p_KN.shape):
            inside_Kn = member_KN[:, columns]
            sides = (~inside_Kn, inside_Kn) if online else (~inside_Kn,)
            parts.append([_log_mean(log_p_KN[:, columns], side_Kn, others) for side_Kn in sides])
        outside_TN, *rest = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
        is_known_TN = torch.stack([outside_TN, *rest]).isfinite().all(0)
        return cls(inside_TN=rest[0] if rest else None, outside_TN=outside_TN, is_known_TN=is_known_TN)

    def log_marginal(self, a: float) -> Tensor:
        """log p(x), `[T, N]`: in and out have equal weights, whatever the numbers of their models."""
        if self.inside_TN is None:
            return self.log_offline(a)
        return torch.logaddexp(self.inside_TN, self.outside_TN) - log(2)

    def log_offline(self, a: float) -> Tensor:
        """log of ½ ((1 + a) mean out + 1 − a)."""
        if a == 1:
            return self.outside_TN
        rest = self.outside_TN.new_tensor((1 - a) / 2).log()
        return torch.logaddexp(self.outside_TN + log((1 + a) / 2), rest)


def _left_out(log_p_TN: Tensor, log_p_KN: Tensor, shadows: Evidence, row_T: Tensor, ratio: Ratio) -> Tensor:
    means = LogMeans.of(log_p_KN, shadows, Others.of(shadows, row_T), online=ratio.online)
    return ratio.compared(log_p_TN, means, _population(shadows), shadows.signals.task.factor)


def _log_mean(log_p_Kn: Tensor, side_Kn: Tensor, others: Others) -> Tensor:
    """`[T, n]`; −inf without models. Sums are taken of p over its largest value, so that none vanishes."""
    top_n = log_p_Kn.where(side_Kn, -torch.inf).amax(0)
    top_n = top_n.where(side_Kn.any(0), 0.0)
    total_Tn = others.sum((log_p_Kn - top_n).exp().where(side_Kn, 0.0))
    count_Tn = others.sum(side_Kn)
    smallest = torch.finfo(torch.float64).tiny  # the largest value may be one that a target leaves out
    mean_Tn = total_Tn.clamp(min=smallest).log() + top_n - count_Tn.clamp(min=1.0).log()
    return mean_Tn.where(count_Tn > 0, -torch.inf)


def _population(shadows: Evidence) -> Tensor:
    return shadows.population_N.to(shadows.signals.log_probability_KANC.device).nonzero().squeeze(1)
