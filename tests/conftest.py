"""The plugins of the suite. A process that deals out tests to the workers of pytest-xdist imports nothing heavy."""

import gc
import os
from importlib import import_module

import pytest
import scheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker of pytest-xdist has a core to itself
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(scheduling, "scheduling")
    if hasattr(config, "workerinput") or config.getoption("dist", "no") == "no" or config.option.collectonly:
        gc.disable()  # until all is collected: a fifth of the time of the imports
        pytest.register_assert_rewrite("shared_fixtures")
        config.pluginmanager.register(import_module("shared_fixtures"), "shared_fixtures")
