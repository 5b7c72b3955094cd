"""Settings of how a served model is asked."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.asking import Asking


@pytest.mark.parametrize(("name", "value"), [("responses", " "), ("classes", "abc"), ("timeout", float("inf"))])
def test_a_value_that_means_nothing_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"`target.asking.{name}` is "):
        Asking(**{name: value})


def test_whole_numbers_of_numpy_and_lists_of_a_configuration_are_taken() -> None:
    asking = Asking(budget=np.int64(5), classes=OmegaConf.create(["x", 7]))
    assert type(asking.budget) is int
    assert asking.classes == ("x", "7")
    assert Asking().budget is None
