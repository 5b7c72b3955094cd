"""The defaults of attacks in Python are those of `conf/attack`."""

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mia_lightning.command.mistakes import config_directory

NAMES = OmegaConf.load(Path(config_directory(), "attack", "all.yaml")).defaults


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
    kind = {"online": attack.online} if hasattr(attack, "online") else {}
    assert values(attack) == values(type(attack)(**kind))
    assert set(config.attack[name]) - {"_target_"} == {each.name for each in fields(attack)}


def test_every_attack_is_among_all_of_them() -> None:
    assert {path.stem for path in Path(config_directory(), "attack").glob("*.yaml")} == {*NAMES, "all"}
