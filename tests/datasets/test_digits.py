import numpy as np
import torch
from sklearn import datasets

from mia_lightning.datasets.digits import load_digits


def test_digits_are_those_of_scikit_learn() -> None:
    population = load_digits()
    bunch = datasets.load_digits()
    assert (population.name, len(population), population.num_classes) == ("digits", 1797, 10)
    assert population.input_shape == (64,)
    assert population.image_shape == (1, 8, 8)
    assert population.x_N.dtype == torch.uint8
    np.testing.assert_array_equal(population.x_N.numpy(), bunch.data)
    np.testing.assert_array_equal(population.label_N.numpy(), bunch.target)


def test_digits_are_normalised_to_one() -> None:
    x = load_digits().records(torch.arange(1797))
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)
