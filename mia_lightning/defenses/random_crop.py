"""More records by augmentation: images shifted at random in each step."""

from dataclasses import replace
from typing import ClassVar

from mia_lightning.datasets.augmentation import Crop
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1
from mia_lightning.training.step.recipe import Recipe


@settings("defense.random_crop")
class RandomCrop:
    """Trains on images that are padded and cropped to their size at a random place (`training.augment`).

    Attributes:
        padding: rows and columns on each side, the farthest that an image is shifted.
    """

    name: ClassVar[str] = "random_crop"

    padding: AtLeast1 = 2

    def describe(self) -> str:
        return f"random crop, padding {self.padding}"

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with the crop behind its own augmentations; records that are no images are refused later, with
        the reason (`Recipe.check_records`)."""
        return replace(recipe, augment=(*recipe.augment, Crop(padding=self.padding)))
