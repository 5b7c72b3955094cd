"""A small run, and `mia-serve` behind a real socket, in a thread of the test's own process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from hydra import compose, initialize_config_dir
from rich.console import Console

from mia_lightning.command.job import Job
from mia_lightning.command.mistakes import config_directory
from mia_lightning.serve.command import prepare
from mia_lightning.serve.listening import address_of, server_of

TYPED = [
    "dataset=digits",
    "model.hidden=[16]",
    "training.epochs=20",
    "training.optimizer.lr=0.02",
    "dataset.train_size=60",
    "shadow.count=4",
]
OTHERS = ["trainer.accelerator=cpu", "trainer.progress_bar=false", "logger=none", "attack=loss", "store.dir=null"]


@contextmanager
def served(*arguments: str) -> Iterator[httpx.Client]:
    """What the arguments of the command describe, on a free port, and a client of it."""
    ready = prepare([*arguments, "--port", "0"])
    server = server_of(ready.app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [ready.listening]})
    thread.start()
    try:
        with httpx.Client(base_url=address_of(ready.listening), timeout=300) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        ready.listening.close()


def make_run(folder: Path, *overrides: str) -> Path:
    """A run with `save_models=true`, as the command leaves it."""
    typed = [*TYPED, *OTHERS, "save_models=true", *overrides]
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        resolved = Job.of(compose("config", overrides=typed))
    resolved.run(folder, Console(quiet=True))
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {each}\n" for each in typed))
    return folder
