"""`conf/` mirrors the package: every file composes, and lists every parameter of what it names."""

import inspect
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from mia_lightning.attacks.shokri import Shokri, default_training
from mia_lightning.command.configuration import Configuration
from mia_lightning.command.mistakes import config_directory
from mia_lightning.training.step.recipe import Recipe, default_recipe

CONF = config_directory()
CHOICES = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("hydra", "experiment")
)
EXPERIMENTS = sorted(
    str(path.relative_to(CONF / "experiment").with_suffix("")) for path in CONF.glob("experiment/**/*.yaml")
)
# Filled in by the framework, or by the user's own class.
PASSED_BY_THE_FRAMEWORK = {
    "input_shape",
    "num_classes",
    "num_numeric",
    "category_sizes",
    "vocabulary_size",
    "padding_id",
    "sample_rate",
}
NOT_IN_YAML = {"objective", "of_classes", "batch_objective", "mix", "sampler", "gradient_rule", "loading", "own", "fit"}
NOT_IN_SIGNATURE = {"train_size", "shards", "shard", "output"}  # taken off where a configuration is resolved


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def nodes(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from nodes(value)


@pytest.mark.costly
@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_lists_every_parameter(choice: str) -> None:
    group = choice.split("=")[0]
    config = OmegaConf.to_container(composed(choice), resolve=False)
    for node in nodes(config[group]):
        if node["_target_"] in ("???", "own") or node["_target_"].startswith("torch."):
            continue
        target = get_object(node["_target_"])
        listed = {name for name in node if not name.startswith("_")}
        if group == "shadow":
            listed.discard("estimator")  # taken off where a configuration is resolved
        taken = set(inspect.signature(target).parameters) - (PASSED_BY_THE_FRAMEWORK - listed) - NOT_IN_YAML
        assert listed - NOT_IN_SIGNATURE == taken - NOT_IN_SIGNATURE, node["_target_"]


@pytest.mark.costly
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_says_its_command(experiment: str) -> None:
    assert composed(f"experiment={experiment}").seed == 0
    assert f"experiment={experiment}" in (CONF / "experiment" / f"{experiment}.yaml").read_text()


def test_an_experiments_scalars_win_over_the_defaults() -> None:
    assert composed("experiment=shokri2017/location").shadow.count == 60


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_says_a_command_that_uses_it(choice: str) -> None:
    group, name = choice.split("=")
    lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
    assert any(line.startswith("# mia-lightning ") for line in lines[:4])


NAMED = [each for each in CHOICES if each.startswith(("attack=", "defense=")) and each != "attack=all"]


@pytest.mark.parametrize("choice", NAMED)
def test_attacks_and_defences_have_a_place_of_their_own_so_that_lists_work(choice: str) -> None:
    group, name = choice.split("=")
    assert (CONF / group / f"{name}.yaml").read_text().startswith(f"# @package {group}.{name}\n")
    node = composed(choice)[group]
    assert set(node) - {"adaptive"} == {name}
    assert instantiate(node[name]).name == name


def test_all_attacks_are_all_there_are() -> None:
    config = composed("attack=all")
    assert [f"attack={name}" for name in sorted(config.attack)] == [
        each for each in NAMED if each.startswith("attack=")
    ]
    assert config.skip_inapplicable is True
    assert composed().skip_inapplicable is False


def test_no_defence_is_the_default_and_several_keep_their_order() -> None:
    assert composed().defense == {"adaptive": True}
    assert list(composed("defense=[rounding,top_k]").defense) == ["adaptive", "rounding", "top_k"]
    assert list(composed("defense=[top_k,rounding]").defense) == ["adaptive", "top_k", "rounding"]


def test_the_sections_are_those_of_the_configuration() -> None:
    # Of `shadow`, of `model`, and of the choice of an experiment.
    made_elsewhere = {"shards", "estimator", "model_output", "experiment"}
    assert {*composed(), *made_elsewhere} == {each.name for each in fields(Configuration)}


def test_the_python_defaults_are_those_of_the_configuration() -> None:
    def values(recipe: Recipe) -> dict[str, Any]:
        fields = {name: getattr(recipe, name) for name in recipe.__dataclass_fields__}
        optimizer = fields.pop("optimizer")
        return {**fields, "optimizer": (optimizer.func, optimizer.keywords)}

    config = composed()
    assert values(instantiate(config.training, _convert_="all")) == values(default_recipe())
    shokri = instantiate(config.attack.shokri, _convert_="all")
    assert values(shokri.training) == values(default_training())
    assert (shokri.input, list(shokri.hidden), shokri.activation) == ("log_probabilities", [64], Shokri().activation)
    assert shokri.max_vectors == Shokri().max_vectors


def test_only_yaml_lies_in_conf() -> None:
    assert all(path.suffix == ".yaml" for path in Path(CONF).rglob("*") if path.is_file())
