"""The likelihood-ratio attack of Carlini et al., "Membership Inference Attacks From First Principles" (2022)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mia_lightning.attacks.description import DescribedByTask
from mia_lightning.attacks.interface import Attack, Evidence, Needs
from mia_lightning.attacks.normal import Normal, Side, joined, sides
from mia_lightning.attacks.references import Others, check_references, finite, left_out_threshold
from mia_lightning.attacks.statistics import normal_statistics
from mia_lightning.attacks.views import image_views
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName, ImageShape, Shift
from mia_lightning.tasks import Task
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals

# With fewer shadow models the published code has one variance for all records (section VI-C of the paper).
_FEWEST_FOR_RECORD_VARIANCE = 64


@settings("attack.{name}")
class Lira(DescribedByTask):
    """Score: how likely the target's φ, the scaled logit of a record, is where a model trained on the record.

    Online that is the log likelihood ratio between the shadow models that trained on the record and those that did
    not. Offline it is the log probability that models that did not train on it have no higher a φ. Both are in nats,
    and larger for members.

    Attributes:
        online: whether the shadow models that trained on a record are used; each record must then be in some of them,
            as under membership=halves.
        name: in reports; by default `lira_online` or `lira_offline`.
        variance: `record`, `fixed`, or `auto` for `moderated` (`Normal.variance`): one for each record, drawn towards
            that of all records, the more so the fewer its shadow models are (BaVarIA-n).
        published: as `Normal.published`, where `auto` is fixed below 64 shadow models; log-likelihoods are averaged
            over views, not summed; and offline the score is minus the log density under the out-models, which is large
            on both sides of their mean, where the paper has P[Z ≤ φ].
        shift, flip: further queries about images: the 4 `shift` copies moved by so many pixels, and the mirror image.
        image_shape: of an image, `[..., rows, columns]`, where records are flattened ones; None where they are not.

    Source: Carlini et al. (2022), section V and algorithm 1; of moderated variances: Brännvall (2026), see `moderated`.
    """

    online: bool = True
    name: AttackName = ""
    variance: Literal["auto", "record", "fixed"] = "auto"
    published: bool = False
    shift: Shift = 0
    flip: bool = False
    image_shape: ImageShape | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", "lira_online" if self.online else "lira_offline")

    @property
    def needs(self) -> Needs:
        views = image_views(self.shift, self.flip, self.image_shape)
        return Needs(
            out_models=2,
            in_models=2 if self.online else 0,
            compares_shadows=True,
            classes=bool(views),
            views=views,
        )

    def described(self, task: Task) -> str:
        wording = task.wording
        if self.online:
            return (
                f"Log likelihood ratio of the record's {wording.normal} between shadow models that trained on it and "
                f"that did not, both normal ({self.variance} variance); one threshold, the best on the shadow models."
            )
        return (
            f"Log probability that shadow models that did not train on the record have {wording.no_closer}, normal "
            f"({self.variance} variance); one threshold, the best on the shadow models."
        )

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedLira":
        """Fit the out-models of each record, and online the in-models.

        Raises:
            DoesNotApplyError: a record with fewer than two out-models, or online with fewer than two in-models, as
                under membership=disjoint; or too few shadow models for a threshold.
        """
        check_references(shadows, self.needs, self.name, offline="lira_offline")
        return fitted_to(shadows, self._normal(shadows.num_models), self, online=self.online)

    def _normal(self, num_models: int) -> Normal:
        if self.variance != "auto":
            return Normal(variance=self.variance, published=self.published)
        if not self.published:
            return Normal(variance="moderated")
        return Normal(variance="record" if num_models >= _FEWEST_FOR_RECORD_VARIANCE else "fixed", published=True)


def fitted_to(shadows: Evidence, normal: Normal, attack: Attack, *, online: bool) -> "FittedLira":
    """The distributions of each record over its shadow models, and the threshold of the ratio or the tail.

    Args:
        attack: its name, and the views that it needs.

    Raises:
        DoesNotApplyError: too few shadow models for a threshold.
    """
    views = tuple(view.name for view in attack.needs.views)
    phi_KAN = logits(shadows.signals, shadows.label_N, views)
    every_K = torch.arange(shadows.num_models)
    score_KN = _left_out(phi_KAN, phi_KAN, shadows, every_K, normal, shadows.signals.task, online=online)
    threshold = left_out_threshold(score_KN, shadows, attack.name)
    del score_KN
    parts = list(sides(phi_KAN, shadows, Others.of(shadows), normal, online=online))
    insides = [inside for _, inside, _ in parts if inside is not None]
    return FittedLira(
        threshold=threshold,
        normal=normal,
        inside=joined(insides) if insides else None,
        outside=joined([outside for _, _, outside in parts]),
        views=views,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedLira:
    """The distributions of each record; `inside` is None offline; `views` are the names of those asked about."""

    threshold: float
    normal: Normal
    inside: Side | None
    outside: Side
    views: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def constants(self) -> Hashable:
        return self.normal, self.inside is not None, self.views

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Log likelihood ratio, or offline log P[Z ≤ φ], in nats, summed over views: `[T, N]`, float64.

        Larger for members; −inf for a record with fewer than two models on a side.
        """
        phi_TAN = logits(signals, label_N, self.views)
        columns = slice(phi_TAN.shape[-1])
        inside = None if self.inside is None else self.inside.columns(columns)
        return _score(phi_TAN, inside, self.outside.columns(columns), self.normal, signals.task)

    def score_left_out(self, shadows: Evidence, row_T: Tensor, signals: Signals | None = None) -> Tensor:
        """As `score`, of shadow models that are each compared with the others; what all records say of variances, too,
        is the others'.
        """
        phi_KAN = logits(shadows.signals, shadows.label_N, self.views)
        phi_TAN = phi_KAN[row_T] if signals is None else logits(signals, shadows.label_N, self.views)
        task = shadows.signals.task
        return _left_out(phi_TAN, phi_KAN, shadows, row_T, self.normal, task, online=self.inside is not None)


def logits(signals: Signals, label_N: Tensor, views: Sequence[str] = ()) -> Tensor:
    """φ of the record itself and of each of the named views, `[K, 1 + A, N]`; of other tasks, their S statistics."""
    phi_KAN = finite(normal_statistics(signals, label_N))
    if not views:
        return phi_KAN
    assert signals.views is not None, "the views were not observed"
    place_A = [signals.views.names.index(name) for name in views]
    return torch.cat([phi_KAN, finite(signals.views.scaled_logit_KAN[:, place_A].double())], dim=1)


def _left_out(
    phi_TAN: Tensor, phi_KAN: Tensor, shadows: Evidence, row_T: Tensor, normal: Normal, task: Task, *, online: bool
) -> Tensor:
    row_T = row_T.to(phi_KAN.device)
    score_TN = phi_KAN.new_empty(len(row_T), phi_KAN.shape[2], dtype=torch.float64)
    for columns, inside, outside in sides(phi_KAN, shadows, Others.of(shadows, row_T), normal, online=online):
        score_TN[:, columns] = _score(phi_TAN[..., columns].double(), inside, outside, normal, task)
    return score_TN


def _score(phi_TAN: Tensor, inside: Side | None, outside: Side, normal: Normal, task: Task) -> Tensor:
    is_known_TN = outside.is_known_TN
    if inside is not None:
        score_TAN = inside.log_density(phi_TAN) - outside.log_density(phi_TAN)
        is_known_TN = is_known_TN & inside.is_known_TN
    elif normal.published:
        score_TAN = -outside.log_density(phi_TAN)
    else:
        score_TAN = task.log_tail(phi_TAN, outside.mean, outside.std)
    score_TN = score_TAN.mean(1) if normal.published else score_TAN.sum(1)
    return score_TN.where(is_known_TN, -torch.inf)
