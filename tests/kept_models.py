"""Small trainings whose models are kept in a store."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from training_jobs import job_of

from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator
from mia_lightning.store.artefacts import Store
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.kept import KeptModels
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

ADAM = partial(torch.optim.Adam, lr=0.01)

RECIPE = Recipe(epochs=3, batch_size=20, optimizer=ADAM)


def records_of(models: range, count: int = 50) -> list[Tensor]:
    return [torch.randperm(120, generator=generator(k, "records"))[:count] for k in models]


def engine_and_job(population: Population, models: range = range(2), **changed: Any) -> tuple[Engine, TrainingJob]:
    """A small job and its engine; `changed` is handed to whichever takes it."""
    settings = changed.pop("settings", TrainerSettings(accelerator="cpu"))
    engine = Engine(seed=changed.pop("seed", 0), settings=settings)
    given: dict[str, Any] = {
        "make_network": partial(MLP, population.input_shape, 3, hidden=[8], dropout=0.2),
        "records_K": records_of(models),
        "recipe": RECIPE,
        "role": "shadow",
        "models": models,
        "keep": True,
        **changed,
    }
    make_network, records_K, recipe = (given.pop(name) for name in ("make_network", "records_K", "recipe"))
    return engine, job_of(engine, make_network, population, records_K, recipe, **given)


def key_of(store: Store, engine: Engine, job: TrainingJob, k: int = 0) -> str:
    return KeptModels.of(store, job, engine.settings).place(k)


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(dir=tmp_path / "store")


def stored(store: Store, population: Population, models: range, **changed: Any) -> tuple[Engine, TrainedStack]:
    engine, job = engine_and_job(population, models, records_K=records_of(models), **changed)
    engine = replace(engine, store=store)
    return engine, engine.run(job)


def same(first: TrainedStack, second: TrainedStack) -> bool:
    pairs = zip(first.stack.state().values(), second.stack.state().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and torch.equal(first.train_loss_EK, second.train_loss_EK)


def alike(first: TrainedStack, second: TrainedStack) -> bool:
    pairs = zip(first.stack.state().values(), second.stack.state().values(), strict=True)
    return all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


class Stopped(Exception):  # noqa: N818
    """In the middle of a training."""


class _StopAfter(pl.Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise Stopped


@contextmanager
def stopped_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The training inside is stopped when this epoch begins."""
    made = TrainerSettings.make

    def stopping(self: TrainerSettings, **given: Any) -> pl.Trainer:
        return made(self, **{**given, "callbacks": [*given["callbacks"], _StopAfter(epoch)]})

    with monkeypatch.context() as patched:
        patched.setattr(TrainerSettings, "make", stopping)
        with pytest.raises(Stopped):
            yield
