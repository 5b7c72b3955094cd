"""What the tests' own cache of configurations gives is what Hydra composes without it."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal import config_loader_impl
from hydra._internal.defaults_list import create_defaults_list
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from mia_lightning.command.mistakes import config_directory


def composed(folder: Path, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose("config", [f"hydra.searchpath=[file://{folder}]", *overrides], return_hydra_config=True)
    return OmegaConf.to_container(config, resolve=False)  # type: ignore[return-value]


COMMANDS = [
    (),
    ("shadow.count=3",),
    ("shadow.count=4", "attack=[loss,rmia_online]"),
    ("attack=[loss,rmia_online]", "seed=1"),
    ("attack=loss", "dataset=npz", "dataset.path=x", "+model.depth=3"),
    ("+experiment=shokri2017/location",),
    ("experiment=shokri2017/location", "shadow.count=2"),
    ("~defense", "seed=2"),
]


def test_choices_lead_to_the_same_files_found_anew_or_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(command: tuple[str, ...]) -> dict[str, Any] | str:
        try:
            return composed(tmp_path, *command)
        except ConfigCompositionException as error:
            return str(error)

    cached = [[attempt(command) for command in COMMANDS] for _ in range(2)]
    monkeypatch.setattr(config_loader_impl, "create_defaults_list", create_defaults_list)
    plain = [attempt(command) for command in COMMANDS]
    assert cached == [plain, plain]
    assert sum(isinstance(each, dict) for each in plain) >= 5


def test_a_file_that_changes_or_appears_is_seen(tmp_path: Path) -> None:
    mine = tmp_path / "attack" / "mine.yaml"
    mine.parent.mkdir()
    mine.write_text("# @package attack.mine\n_target_: mine.First\n")
    assert composed(tmp_path, "attack=mine")["attack"] == {"mine": {"_target_": "mine.First"}}
    mine.write_text("# @package attack.mine\ndefaults: [other]\n_target_: mine.Second\n")
    with pytest.raises(ConfigCompositionException, match="attack/other"):
        composed(tmp_path, "attack=mine")
    (tmp_path / "attack" / "other.yaml").write_text("# @package attack.other\n_target_: mine.Other\n")
    assert composed(tmp_path, "attack=mine")["attack"].keys() == {"mine", "other"}
