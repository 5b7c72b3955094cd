"""Handwritten digits, bundled with scikit-learn: small enough for a first run and for tests."""

from dataclasses import replace

import numpy as np

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name


@checked("dataset")
def load_digits(*, name: Name = "digits") -> Population:
    """1,797 images of 8 x 8 grey values in 10 classes, flattened to `[1797, 64]`; networks for images are given images.

    The values 0 to 16 stay uint8, and `scale = 1 / 16` normalises them to [0, 1].

    Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits" (UCI, 1998), the test part.
    """
    from sklearn import datasets  # slow to import

    x, label = datasets.load_digits(return_X_y=True)
    population = make_population(x.astype(np.uint8), label, name=name, scale=1 / 16)
    return replace(population, image_shape=(1, 8, 8))
