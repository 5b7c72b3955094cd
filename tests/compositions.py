"""What Hydra reads and merges for one test serves the next: the same files under the same choices are merged once.

Hydra parses the command line, finds the choices and applies the settings each time, as it does for a person.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from omegaconf import DictConfig


@pytest.fixture(scope="session", autouse=True)
def _merged_once() -> Iterator[None]:
    with merged_once():
        yield


@contextmanager
def merged_once() -> Iterator[None]:
    """As long as the context is open."""
    loaded: dict[Any, Any] = {}
    merged: dict[Any, DictConfig] = {}
    read, merge = ConfigRepository.load_config, ConfigLoaderImpl._compose_config_from_defaults_list

    def load(repository: ConfigRepository, config_path: str) -> Any:
        """As read before, unless the file has changed or is none (a class that a plugin has registered)."""
        key = _file(repository, config_path)
        if key is None:
            return read(repository, config_path)
        if key not in loaded:
            loaded[key] = read(repository, config_path)
        result = copy.copy(loaded[key])  # Hydra notes the parents of what stands in `defaults`, and the package
        result.header, result.defaults_list = copy.copy(result.header), copy.deepcopy(result.defaults_list)
        return result

    def compose(loader: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
        key = tuple(
            (_file(repo.delegate, each.config_path), each.config_path, each.package, each.primary) for each in defaults
        )
        if key not in merged:
            repo.cache = copy.deepcopy(repo.cache)  # merging moves nodes
            merged[key] = merge(loader, defaults, repo)
        return copy.deepcopy(merged[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose)
        yield


def _file(repository: ConfigRepository, config_path: str) -> tuple[str, int, int] | None:
    """The file of a configuration and its state; None where it is no file."""
    for source in repository.get_sources():
        if source.is_config(config_path):
            if source.scheme() != "file":
                return None
            path = Path(source.path, config_path if config_path.endswith(".yaml") else f"{config_path}.yaml")
            state = path.stat()
            return str(path.resolve()), state.st_mtime_ns, state.st_size
    return None
