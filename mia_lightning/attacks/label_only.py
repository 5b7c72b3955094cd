"""The label-only attacks of Choquette-Choo et al., "Label-only membership inference attacks" (2021).

Both ask about changed copies of a record, and look at nothing but whether each is given the true class. One counts the
views of an image that are; the other asks how much noise the answer survives, which estimates the distance to the
decision boundary. Of several labels all must be right.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor

from mia_lightning.attacks.description import DescribedByTask
from mia_lightning.attacks.interface import DoesNotApplyError, Needs
from mia_lightning.attacks.operating_point import OneThreshold
from mia_lightning.attacks.statistics import all_right
from mia_lightning.attacks.views import Noise, View, image_views
from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName, Draws, FromList, ImageShape, Positive, Shift
from mia_lightning.tasks import Task
from mia_lightning.training.signals import Signals


@settings("attack.{name}")
class AugmentationLabelOnly(DescribedByTask, OneThreshold):
    """Score: the share of an image and its views that are classified correctly, in [0, 1]; larger for members.

    Attributes:
        shift: d, for the 4 d views that are moved by columns and rows whose numbers add up to d; 0 for none.
        flip: whether the mirror image is a view.
        image_shape: of an image, `[..., rows, columns]`, where records are flattened ones; None where they are not.
    """

    name: AttackName = "augmentation_label_only"
    shift: Shift = 1
    flip: bool = True
    image_shape: ImageShape | None = None

    def __post_init__(self) -> None:
        if not self.views:
            raise InputError(
                f"`attack.{self.name}.shift` is 0 and `attack.{self.name}.flip` false, which leaves no views to ask "
                "about; set one of them."
            )

    def described(self, task: Task) -> str:
        return (
            f"The share of {1 + len(self.views)} queries, the image and its views, that are answered with the "
            f"{task.wording.truth}; one threshold, the best on the shadow models."
        )

    @property
    def views(self) -> tuple[View, ...]:
        """The copies that are asked about beside the image itself."""
        return image_views(self.shift, self.flip, self.image_shape)

    @property
    def needs(self) -> Needs:
        return Needs(views=self.views, right=True)

    def statistic(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Share of the image and its views that are classified correctly, `[K, N]` float64.

        Raises:
            DoesNotApplyError: a view was not observed.
        """
        correct_KAN = correct_views(self.name, self.views, signals)
        return (all_right(signals, label_N) + correct_KAN.sum(1, dtype=torch.float64)) / (1 + len(self.views))


@settings("attack.{name}")
class BoundaryLabelOnly(DescribedByTask, OneThreshold):
    """Score: the largest noise that leaves the record correctly classified; larger for members.

    A misclassified record scores below all others, as in the paper.

    Attributes:
        scales: of noise, increasing (`mia_lightning.attacks.views.Noise`): shares of a feature's standard deviation,
            and probabilities that a binary feature flips.
        draws: noisy copies at each scale.
    """

    name: AttackName = "boundary_label_only"
    scales: Annotated[Sequence[Positive], FromList, MinLen(1)] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
    draws: Draws = 4

    def __post_init__(self) -> None:
        if any(after <= scale for scale, after in pairwise(self.scales)):
            raise InputError(
                f"`attack.{self.name}.scales` is {list(self.scales)}; each must be above the one before it."
            )

    def described(self, task: Task) -> str:
        return (
            f"The largest of {len(self.scales)} scales of noise up to which the record keeps its {task.wording.truth}, "
            f"mean of {self.draws} draws, {1 + len(self.views)} queries; one threshold, the best on the shadow models."
        )

    @property
    def views(self) -> tuple[Noise, ...]:
        """The noisy copies, all draws of the smallest scale first."""
        return tuple(Noise(scale=scale, draw=draw) for scale in self.scales for draw in range(self.draws))

    @property
    def needs(self) -> Needs:
        return Needs(views=self.views, right=True)

    def statistic(self, signals: Signals, label_N: Tensor) -> Tensor:
        """Largest scale up to which every scale leaves the record correct, mean over draws, `[K, N]` float64.

        It is 0 where the smallest scale is too much, and -1 where the record itself is misclassified.

        Raises:
            DoesNotApplyError: a view was not observed.
        """
        correct_KAN = correct_views(self.name, self.views, signals)
        correct_KSDN = correct_KAN.unflatten(1, (len(self.scales), -1))
        is_kept_KDN = torch.ones_like(correct_KSDN[:, 0])
        num_kept_KDN = torch.zeros_like(is_kept_KDN, dtype=torch.int32)
        for correct_KDN in correct_KSDN.unbind(1):  # one scale after another: no number for each view in memory
            is_kept_KDN &= correct_KDN
            num_kept_KDN += is_kept_KDN
        scale_S = torch.tensor([0.0, *self.scales], dtype=torch.float64, device=num_kept_KDN.device)
        distance_KN = scale_S[num_kept_KDN].mean(1)
        return distance_KN.masked_fill(all_right(signals, label_N) < 1, -1.0)


def correct_views(attack: str, views: Sequence[View], signals: Signals) -> Tensor:
    """Whether each view was classified correctly, bool `[K, A, N]`, in the order of these views.

    Args:
        attack: its name, for messages.

    Raises:
        DoesNotApplyError: one of them was not observed.
    """
    names = [view.name for view in views]
    observed = () if signals.views is None else signals.views.names
    missing = [name for name in names if name not in observed]
    if missing or signals.views is None:
        raise DoesNotApplyError(
            f"attack={attack} needs answers for the view {missing[0]}, which was not asked about; ask about its "
            "`needs.views` by mia_lightning.attacks.views.observe_views."
        )
    place_A = [signals.views.names.index(name) for name in names]
    return signals.views.is_correct_KAN[:, place_A]
