"""Label-only attack by distance to the decision boundary, estimated by noise.

Source: Choquette-Choo et al., "Label-only membership inference attacks" (2021); to them, too, a misclassified record is
nearer than any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.one_statistic import FittedStatistic, fit_threshold
from mia_lightning.attacks.statistics import correctness
from mia_lightning.attacks.view_answers import correct_views
from mia_lightning.attacks.views import Noise
from mia_lightning.errors import InputError
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


@dataclass(frozen=True, kw_only=True)
class BoundaryLabelOnly:
    """Score a record by the largest noise that leaves it correctly classified; nothing but labels is looked at.

    Attributes:
        scales: of noise, increasing (`mia_lightning.attacks.views.Noise`): shares of a feature's standard deviation,
            and probabilities that a binary feature flips.
        draws: noisy copies at each scale.
    """

    name: str = "boundary_label_only"
    scales: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
    draws: int = 4

    def __post_init__(self) -> None:
        if type(self.draws) is not int or self.draws < 1:
            raise InputError(f"`attack.{self.name}.draws` is {self.draws!r}; it must be a whole number of at least 1.")
        is_number = [isinstance(scale, int | float) and 0 < scale < torch.inf for scale in self.scales]
        if not is_number or not all(is_number) or any(after <= scale for scale, after in pairwise(self.scales)):
            raise InputError(
                f"`attack.{self.name}.scales` is {list(self.scales)}; give at least one number above 0, and each above "
                "the one before."
            )

    @property
    def description(self) -> str:
        return (
            f"The largest of {len(self.scales)} scales of noise up to which the record keeps its true class, mean of "
            f"{self.draws} draws, {1 + len(self.views)} queries; one threshold, the best on the shadow models."
        )

    @property
    def views(self) -> tuple[Noise, ...]:
        """All draws of the smallest scale first."""
        return tuple(Noise(scale=scale, draw=draw) for scale in self.scales for draw in range(self.draws))

    @property
    def needs(self) -> Needs:
        return Needs(views=self.views)

    def fit(self, shadows: Evidence, engine: Engine) -> FittedStatistic:
        """Learn the threshold.

        Raises:
            DoesNotApplyError: the views were not observed.
        """
        statistic = partial(distance, self.name, self.views)
        return fit_threshold(self.name, statistic, shadows)


def distance(name: str, views: tuple[Noise, ...], signals: Signals, label_N: Tensor) -> Tensor:
    """Largest scale up to which every scale leaves the record correct, mean over draws, `[K, N]` float64.

    It is 0 where the smallest scale is too much, and -1 where the record itself is misclassified; larger for members.

    Args:
        views: all draws of the smallest scale first.
    """
    scales = list(dict.fromkeys(view.scale for view in views))
    correct_KAN = correct_views(name, [view.name for view in views], signals)
    correct_KSDN = correct_KAN.unflatten(1, (len(scales), -1))
    is_kept_KDN = torch.ones_like(correct_KSDN[:, 0])
    num_kept_KDN = torch.zeros_like(is_kept_KDN, dtype=torch.int32)
    for correct_KDN in correct_KSDN.unbind(1):  # one scale after another: no number for each view in memory
        is_kept_KDN &= correct_KDN
        num_kept_KDN += is_kept_KDN
    scale_S = torch.tensor([0.0, *scales], dtype=torch.float64, device=num_kept_KDN.device)
    distance_KN = scale_S[num_kept_KDN].mean(1)
    return distance_KN.masked_fill(correctness(signals, label_N) < 1, -1.0)
