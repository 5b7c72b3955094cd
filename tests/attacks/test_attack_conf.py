"""The defaults of attacks in Python are those of `conf/attack`."""

from dataclasses import fields
from functools import partial
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from mia_lightning.command.mistakes import config_directory

NAMES = [
    *("gap", "confidence", "entropy", "modified_entropy"),
    *("class_confidence", "class_entropy", "class_modified_entropy"),
    *("attack_p", "quantile_regression", "augmentation_label_only", "boundary_label_only"),
    *("attack_r", "calibrated_loss", "lira_online", "lira_offline", "rmia_online", "rmia_offline"),
]


def values(setting: Any) -> Any:
    """What can be compared by ==: partial functions and nested dataclasses taken apart, tuples as lists."""
    if isinstance(setting, partial):
        return setting.func, setting.keywords
    if hasattr(setting, "__dataclass_fields__"):
        return {each.name: values(getattr(setting, each.name)) for each in fields(setting)}
    return list(setting) if isinstance(setting, tuple) else setting


@pytest.mark.parametrize("name", NAMES)
def test_the_python_defaults_are_those_of_the_configuration(name: str) -> None:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose("config", overrides=[f"attack={name}"])
    attack = instantiate(config.attack[name], _convert_="all")
    assert attack.name == name
    assert values(attack) == values(type(attack)())
