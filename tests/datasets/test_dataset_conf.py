import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_method
from omegaconf import OmegaConf

from mia_lightning.datasets.own.reading import read_own

FOLDER = Path(__file__).parents[2] / "conf" / "dataset"
FILES = sorted(FOLDER.glob("*.yaml"))
OF_OURS = [path for path in FILES if path.stem != "datamodule"]  # which makes somebody's own class


def read(path: Path) -> dict[str, Any]:
    node = OmegaConf.load(path)
    content = OmegaConf.to_container(node)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def test_yaml_lists_every_setting_of_ours_for_a_class_of_somebody_elses() -> None:
    content = read(FOLDER / "datamodule.yaml")
    assert (content.pop("_target_"), content.pop("train_size")) == ("???", None)
    parameters = dict(inspect.signature(read_own).parameters)
    for passed in ("data", "task"):  # by the command
        parameters.pop(passed)
    assert content == {name: each.default for name, each in parameters.items()}


@pytest.mark.parametrize("path", OF_OURS, ids=lambda path: path.stem)
def test_yaml_lists_every_parameter_of_the_loader(path: Path) -> None:
    content = read(path)
    target = content.pop("_target_")
    module, _, function = target.rpartition(".")
    assert function == f"load_{path.stem}"
    assert path.stem.startswith(module.removeprefix("mia_lightning.datasets."))  # cifar10 and cifar100 share a file
    content.pop("train_size")
    parameters = inspect.signature(get_method(target)).parameters
    assert set(content) == set(parameters)
    for name, parameter in parameters.items():
        if name == "task":  # that of the run
            assert content[name] == "${task}"
        elif parameter.default is not inspect.Parameter.empty:
            assert content[name] == parameter.default, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_first_line_is_the_command(path: Path) -> None:
    assert path.read_text().startswith(f"# mia-lightning dataset={path.stem}")


def test_root_of_location_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIA_DATA", raising=False)
    assert OmegaConf.load(FOLDER / "location.yaml").root == "data/location"
    monkeypatch.setenv("MIA_DATA", "/mnt/sets")
    assert OmegaConf.load(FOLDER / "location.yaml").root == "/mnt/sets/location"
