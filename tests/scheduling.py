"""Which tests run, and in which worker of pytest-xdist; a plugin that `conftest.py` registers.

Of a `costly` test plain pytest runs the first case; the others are slow.

Tests of a group (`xdist_group`) run in one worker, so that a cluster or a browser starts once; so do quick and costly
tests of one file, which share what its fixtures make. Other slow tests are dealt out one by one. pytest-xdist 3.8 knows
a group by the end that it gives to the names of tests, which pytest 9.2 does not take; here the workers write down what
belongs together.
"""

import json
import os
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

WRITTEN = pytest.StashKey["tempfile.TemporaryDirectory[str]"]()
INPUT = "units_of_tests"  # of a worker: the file


def unit_of(item: pytest.Item) -> str:
    """What tests that run in one worker, one after another, have in common."""
    groups = {str(mark.args[0]) for mark in item.iter_markers("xdist_group")}
    if groups:
        return "_".join(sorted(groups))
    is_alone = item.get_closest_marker("slow") and not item.get_closest_marker("costly")
    return item.nodeid if is_alone else item.nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    begun = set()
    for item in items:
        if item.get_closest_marker("costly"):
            if (test := item.nodeid.partition("[")[0]) in begun:
                item.add_marker(pytest.mark.slow)
            begun.add(test)


class Units(LoadScopeScheduling):  # type: ignore[misc]
    """Units of many tests come first, as in `LoadScopeScheduling`."""

    @cached_property
    def _unit_of_test(self) -> dict[str, str]:
        units: dict[str, str] = json.loads(_file(self.config).read_text())
        return units

    def _split_scope(self, nodeid: str) -> str:
        return self._unit_of_test[nodeid]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    if WRITTEN not in node.config.stash:
        node.config.stash[WRITTEN] = tempfile.TemporaryDirectory(prefix="mia_lightning_tests_")
    node.workerinput[INPUT] = str(_file(node.config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Units:
    return Units(config, log)


@pytest.hookimpl(tryfirst=True)  # before the tests' names are sent
def pytest_collection_finish(session: pytest.Session) -> None:
    if INPUT in (given := getattr(session.config, "workerinput", {})):
        file = Path(given[INPUT])
        own = file.with_suffix(f".{os.getpid()}")
        own.write_text(json.dumps({item.nodeid: unit_of(item) for item in session.items}))
        own.replace(file)


def pytest_unconfigure(config: pytest.Config) -> None:
    if WRITTEN in config.stash:
        config.stash[WRITTEN].cleanup()


def _file(config: pytest.Config) -> Path:
    return Path(config.stash[WRITTEN].name, "units.json")
