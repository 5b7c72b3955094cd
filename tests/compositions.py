"""What Hydra reads and merges for one test serves the next: the same files under the same choices are merged once.

Hydra parses the command line and applies the settings each time, as it does for a person. Which files the choices lead
to it finds once, as long as no file of the search path changes.
"""

import copy
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides, create_defaults_list
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig


@pytest.fixture(scope="session", autouse=True)
def _merged_once() -> Iterator[None]:
    with merged_once():
        yield


@contextmanager
def merged_once() -> Iterator[None]:
    """As long as the context is open."""
    loaded: dict[Any, Any] = {}
    found: dict[Any, DefaultsList] = {}
    merged: dict[Any, bytes] = {}
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

    def find(
        repo: IConfigRepository, config_name: str | None, overrides_list: list[Override], **options: bool
    ) -> DefaultsList:
        settings = Overrides(repo, overrides_list).config_overrides
        ignored = {id(each) for each in (*settings, *(each for each in overrides_list if each.is_sweep_override()))}
        choices = tuple(each.input_line for each in overrides_list if id(each) not in ignored)
        key = (config_name, choices, *sorted(options.items()), *map(_files, repo.get_sources()))
        if key not in found:
            found[key] = create_defaults_list(repo, config_name, overrides_list, **options)
        return DefaultsList(
            defaults=list(found[key].defaults),
            config_overrides=settings,
            defaults_tree=found[key].defaults_tree,
            overrides=found[key].overrides,
        )

    def compose(loader: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> DictConfig:
        key = tuple(
            (_file(repo.delegate, each.config_path), each.config_path, each.package, each.primary) for each in defaults
        )
        if key not in merged:
            repo.cache = copy.deepcopy(repo.cache)  # merging moves nodes
            merged[key] = pickle.dumps(merge(loader, defaults, repo))
        return pickle.loads(merged[key])  # a quick deep copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load)
        patch.setattr("hydra._internal.config_loader_impl.create_defaults_list", find)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose)
        yield


def _files(source: ConfigSource) -> tuple[Any, ...]:
    """A folder of the search path and the state of all that is a configuration in it."""
    state = []
    folders = [source.path] if source.scheme() == "file" else []
    while folders:
        try:
            entries = sorted(os.scandir(folders.pop()), key=lambda entry: entry.path)
        except OSError:  # not there
            continue
        for entry in entries:
            if entry.is_dir():
                folders.append(entry.path)
            elif entry.name.endswith((".yaml", ".yml")):
                state.append((entry.path, entry.stat().st_mtime_ns, entry.stat().st_size))
    return source.scheme(), source.path, *state


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
