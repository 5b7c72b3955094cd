"""Settings of how a served model is asked."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.asking import Asking


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", 0),
        ("budget", 1.5),
        ("budget", True),
        ("batch_size", 0),
        ("batch_size", None),
        ("concurrency", -1),
        ("requests_per_second", 0),
        ("requests_per_second", float("nan")),
        ("timeout", 0.0),
        ("timeout", None),
        ("timeout", "soon"),
        ("timeout", True),
        ("retries", -1),
        ("retries", 1.0),
        ("sentinels", -1),
        ("sentinels", None),
        ("price_per_thousand", -0.5),
        ("price_per_thousand", float("inf")),
        ("responses", " "),
        ("answer", "odds"),
        ("classes", "abc"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"`target.asking.{name}` is "):
        Asking(**{name: value})


def test_whole_numbers_of_numpy_and_lists_of_a_configuration_are_taken() -> None:
    asking = Asking(budget=np.int64(5), classes=OmegaConf.create(["x", 7]))
    assert type(asking.budget) is int
    assert asking.classes == ("x", "7")
    assert Asking().budget is None
