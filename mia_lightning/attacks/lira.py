"""The likelihood-ratio attack of Carlini et al., "Membership Inference Attacks From First Principles" (2022)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.normal import Normal, Side, joined, sides
from mia_lightning.attacks.references import Others, check_references, finite, left_out_threshold
from mia_lightning.attacks.statistics import scaled_logit
from mia_lightning.errors import InputError
from mia_lightning.training.fit import Engine
from mia_lightning.training.signals import Signals

VARIANCES = ("auto", "record", "fixed")
# With fewer shadow models a variance of each record is too noisy (section VI-C of the paper).
_FEWEST_FOR_RECORD_VARIANCE = 64


@dataclass(frozen=True, kw_only=True)
class LiraOnline:
    """Score a record by the likelihood ratio of the target's φ: models that trained on it against those that did not.

    Attributes:
        variance: `record`, `fixed` (`Normal.variance`), or `auto`: fixed below 64 shadow models.
        published: as `Normal.published`; log-likelihoods are averaged over views, not summed.
    """

    name: str = "lira_online"
    variance: str = "auto"
    published: bool = False
    needs: ClassVar[Needs] = Needs(out_models=2, in_models=2)

    def __post_init__(self) -> None:
        _check(self.name, self.variance, self.published)

    @property
    def description(self) -> str:
        return (
            "Log likelihood ratio of the record's scaled logit between shadow models that trained on it and that did "
            f"not, both normal ({self.variance} variance); one threshold, the best on the shadow models."
        )

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedLira":
        """Fit the in-models and the out-models of each record.

        Raises:
            DoesNotApplyError: a record with fewer than two in- or out-models, as under membership=disjoint, or too few
                shadow models for a threshold.
        """
        check_references(shadows, self.needs, self.name, offline="lira_offline")
        return _fit(shadows, self.name, self.variance, self.published, online=True)


@dataclass(frozen=True, kw_only=True)
class LiraOffline:
    """Score a record by how far the target's φ stands above that of models that did not train on it.

    Attributes:
        variance: `record`, `fixed` (`Normal.variance`), or `auto`: fixed below 64 shadow models.
        published: as `Normal.published`; and the score is minus the log density under the out-models, the mean over
            views, which is large on both sides of their mean, where the paper has P[Z ≤ φ].
    """

    name: str = "lira_offline"
    variance: str = "auto"
    published: bool = False
    needs: ClassVar[Needs] = Needs(out_models=2)

    def __post_init__(self) -> None:
        _check(self.name, self.variance, self.published)

    @property
    def description(self) -> str:
        return (
            "Log probability that shadow models that did not train on the record have no higher a scaled logit, normal "
            f"({self.variance} variance); one threshold, the best on the shadow models."
        )

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedLira":
        """Fit the out-models of each record.

        Raises:
            DoesNotApplyError: a record with fewer than two out-models, or too few shadow models for a threshold.
        """
        check_references(shadows, self.needs, self.name)
        return _fit(shadows, self.name, self.variance, self.published, online=False)


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedLira:
    """The distributions of each record; `inside` is None offline."""

    threshold: float
    normal: Normal
    inside: Side | None
    outside: Side
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Log likelihood ratio, or offline log P[Z ≤ φ], in nats, summed over views: `[T, N]`, float64.

        −inf for a record with fewer than two models on a side.
        """
        phi_TAN = logits(signals, label_N)
        columns = slice(phi_TAN.shape[-1])
        inside = None if self.inside is None else self.inside.columns(columns)
        return _score(phi_TAN, inside, self.outside.columns(columns), self.normal)

    def score_left_out(self, shadows: Evidence, row_T: Tensor) -> Tensor:
        """As `score`, of shadow models that are each compared with the others; a fixed variance too is the others'.

        `auto` was settled when the attack was fitted.
        """
        phi_KAN = logits(shadows.signals, shadows.label_N)
        return _left_out(phi_KAN, shadows, row_T, self.normal, online=self.inside is not None)


def logits(signals: Signals, label_N: Tensor) -> Tensor:
    """φ of each view, `[K, A, N]`."""
    return finite(scaled_logit(signals, label_N)).unsqueeze(1)


def _check(name: str, variance: str, published: bool) -> None:
    if variance not in VARIANCES:
        raise InputError(f"`attack.{name}.variance` is {variance!r}; it must be one of {', '.join(VARIANCES)}.")
    if not isinstance(published, bool):
        raise InputError(f"`attack.{name}.published` is {published!r}; it must be true or false.")


def _fit(shadows: Evidence, name: str, variance: str, published: bool, *, online: bool) -> FittedLira:
    if variance == "auto":
        variance = "record" if shadows.num_models >= _FEWEST_FOR_RECORD_VARIANCE else "fixed"
    normal = Normal(variance=variance, published=published)
    phi_KAN = logits(shadows.signals, shadows.label_N)
    score_KN = _left_out(phi_KAN, shadows, torch.arange(shadows.num_models), normal, online=online)
    threshold = left_out_threshold(score_KN, shadows, name)
    del score_KN
    parts = list(sides(phi_KAN, shadows, Others.of(shadows), normal, online=online))
    insides = [inside for _, inside, _ in parts if inside is not None]
    outside = joined([outside for _, _, outside in parts])
    return FittedLira(threshold=threshold, normal=normal, inside=joined(insides) if insides else None, outside=outside)


def _left_out(phi_KAN: Tensor, shadows: Evidence, row_T: Tensor, normal: Normal, *, online: bool) -> Tensor:
    row_T = row_T.to(phi_KAN.device)
    score_TN = phi_KAN.new_empty(len(row_T), phi_KAN.shape[2], dtype=torch.float64)
    for columns, inside, outside in sides(phi_KAN, shadows, Others.of(shadows, row_T), normal, online=online):
        score_TN[:, columns] = _score(phi_KAN[..., columns][row_T].double(), inside, outside, normal)
    return score_TN


def _score(phi_TAN: Tensor, inside: Side | None, outside: Side, normal: Normal) -> Tensor:
    is_known_TN = outside.is_known_TN
    if inside is not None:
        score_TAN = inside.log_density(phi_TAN) - outside.log_density(phi_TAN)
        is_known_TN = is_known_TN & inside.is_known_TN
    elif normal.published:
        score_TAN = -outside.log_density(phi_TAN)
    else:
        score_TAN = torch.special.log_ndtr(outside.standardised(phi_TAN))
    score_TN = score_TAN.mean(1) if normal.published else score_TAN.sum(1)
    return score_TN.where(is_known_TN, -torch.inf)
