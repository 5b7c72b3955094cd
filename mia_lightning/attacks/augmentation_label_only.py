"""Label-only attack by augmentation of Choquette-Choo et al., "Label-only membership inference attacks" (2021)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.one_statistic import FittedStatistic, fit_threshold
from mia_lightning.attacks.statistics import correctness
from mia_lightning.attacks.view_answers import correct_views
from mia_lightning.attacks.views import View, image_views
from mia_lightning.errors import InputError
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


@dataclass(frozen=True, kw_only=True)
class AugmentationLabelOnly:
    """Score an image by the share of its views that are classified correctly; nothing but labels is looked at.

    Attributes:
        shift: d, for the 4 d views that are moved by columns and rows whose numbers add up to d; 0 for none.
        flip: whether the mirror image is a view.
        image_shape: of an image, `[..., rows, columns]`, where records are flattened ones; None where they are not.
    """

    name: str = "augmentation_label_only"
    shift: int = 1
    flip: bool = True
    image_shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if type(self.shift) is not int or self.shift < 0:
            raise InputError(f"`attack.{self.name}.shift` is {self.shift!r}; it must be a whole number, 0 for none.")
        if not self.views:
            raise InputError(
                f"`attack.{self.name}` has neither `shift` nor `flip`; give it one, for views to ask about."
            )

    @property
    def description(self) -> str:
        return (
            f"The share of {1 + len(self.views)} queries, the image and its views, that are answered with the true "
            "class; one threshold, the best on the shadow models."
        )

    @property
    def views(self) -> tuple[View, ...]:
        """Beside the image itself."""
        return image_views(self.shift, self.flip, self.image_shape)

    @property
    def needs(self) -> Needs:
        return Needs(views=self.views)

    def fit(self, shadows: Evidence, engine: Engine) -> FittedStatistic:
        """Learn the threshold.

        Raises:
            DoesNotApplyError: the views were not observed.
        """
        statistic = partial(share_of_correct, self.name, tuple(view.name for view in self.views))
        return fit_threshold(self.name, statistic, shadows)


def share_of_correct(name: str, views: tuple[str, ...], signals: Signals, label_N: Tensor) -> Tensor:
    """Share of the record and its views that are classified correctly, `[K, N]` float64; larger for members."""
    correct_KAN = correct_views(name, views, signals)
    itself_KN = correctness(signals, label_N)
    return (itself_KN + correct_KAN.sum(1, dtype=torch.float64)) / (1 + len(views))
