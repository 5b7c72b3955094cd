"""One finished run on digits, whose models are served."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import httpx
import pytest
from serving import make_run, served

from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.population import Population


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    with chdir(folder):
        return make_run(folder / "run")


@pytest.fixture(scope="session")
def digits() -> Population:
    return load_digits()


@pytest.fixture(scope="module")
def client(run_folder: Path) -> Iterator[httpx.Client]:
    """Of a server without any option."""
    with served(str(run_folder)) as client:
        yield client
