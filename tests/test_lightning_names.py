"""Lightning's classes are known by name, and a user's own of the same name are none."""

from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringDataModule

from mia_lightning.datasets.own.datamodule import is_datamodule
from mia_lightning.lightning_names import base_named, overrides
from mia_lightning.training.given_trainer import is_trainer


def of_the_other_package(name: str) -> type:
    return type(name, (), {"__module__": "lightning.pytorch.core"})


@pytest.mark.parametrize("base", [pl.LightningModule, of_the_other_package("LightningModule")])
def test_lightnings_class_is_found_behind_a_users_of_its_name(base: Any) -> None:
    users = type("LightningModule", (base,), {"training_step": lambda self: None})
    for given in (users, users()):
        assert base_named(given, "Trainer", "LightningModule") is base
        assert base_named(given, "Trainer") is None
    assert overrides(users(), base, "training_step")
    assert not overrides(users(), base, "setup")


@pytest.mark.parametrize("name", ["LightningModule", "LightningDataModule", "Trainer"])
def test_a_users_class_of_such_a_name_is_none_of_lightnings(name: str) -> None:
    given = type(name, (), {})()
    assert base_named(given, name) is None
    assert not is_datamodule(given)
    assert not is_trainer(given)


@pytest.mark.usefixtures("global_generators")
def test_methods_are_own_ones_in_an_object_and_in_a_class_of_lightning_below_the_base() -> None:
    base = pl.LightningDataModule
    module = base()
    assert not overrides(module, base, "train_dataloader")
    assert not overrides(module, base, "no_such_method")
    module.train_dataloader = list
    assert overrides(module, base, "train_dataloader")
    assert overrides(BoringDataModule(), base, "train_dataloader")
