"""One finished run on digits, whose models are served."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import httpx
import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console
from serving import served

from mia_lightning import job
from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.population import Population
from mia_lightning.mistakes import config_directory

TYPED = [
    "dataset=digits",
    "model.hidden=[16]",
    "training.epochs=20",
    "training.optimizer.lr=0.02",
    "dataset.train_size=60",
    "shadow.count=4",
]
OTHERS = ["trainer.accelerator=cpu", "trainer.progress_bar=false", "logger=none", "attack=loss", "store.dir=null"]


def make_run(folder: Path, *overrides: str) -> Path:
    """A run with `save_models=true`, as the command leaves it."""
    typed = [*TYPED, *OTHERS, "save_models=true", *overrides]
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        resolved = job.resolve(compose("config", overrides=typed))
    job.run(resolved, folder, Console(quiet=True))
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {each}\n" for each in typed))
    return folder


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
