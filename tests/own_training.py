"""K of a user's LightningModule trained here, and the same trained one by one by an ordinary `pl.Trainer`."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import derive, generator, isolated
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.own.lightning import base_of
from mia_lightning.training.own.making import made_for_stacks
from mia_lightning.training.own.taken import taken
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.stack.layers import CounterDropout
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings, quiet_lightning

SEED, ROLE = 7, "shadow"


def records_of(population: Population, sizes: Sequence[int]) -> list[Tensor]:
    """Training records of as many models as there are sizes."""
    order = [torch.randperm(len(population), generator=generator(k, "records")) for k in range(len(sizes))]
    return [o[:size].sort().values for o, size in zip(order, sizes, strict=True)]


def own_job(
    make: Callable[..., nn.Module], population: Population, sizes: Sequence[int] = (22, 22, 22), **recipe: Any
) -> TrainingJob:
    """The training of models on so many records each, by their own step."""
    settings = Recipe(**{"epochs": 3, "batch_size": 8, **recipe})
    made, _ = made_for_stacks(make, population, max_epochs=settings.epochs)
    make_network = bind_records(made, population)
    how = taken(make_network, population, settings, num_records=max(sizes))
    return TrainingJob(
        seed=SEED,
        role=ROLE,
        make_network=make_network,
        population=population,
        records_K=records_of(population, sizes),
        recipe=how.recipe,
        architecture=how.architecture,
    )


def trained(job: TrainingJob, **engine: Any) -> TrainedStack:
    """The models in float64."""
    return Engine(seed=SEED, settings=TrainerSettings(accelerator="cpu", precision="64"), **engine).run(job)


class _Epochs(Sampler[list[int]]):
    """The batches of one model, epoch after epoch, as places among its records."""

    def __init__(self, job: TrainingJob, k: int) -> None:
        key = torch.tensor([derive(SEED, ROLE, job.models[k], "order")])
        places = torch.arange(len(job.records_K[k]))
        self.batches = job.recipe.batches([places], key, torch.device("cpu"))
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        self.batches.set_epoch(self.epoch)
        self.epoch += 1
        for index_KB, is_real_KB in self.batches:
            assert is_real_KB is None  # nothing is padded
            yield index_KB[0].tolist()


class _Keyed(pl.Callback):
    """Tells keyed dropout the step, and seeds the global generators for each step as a stack does."""

    def __init__(self, key: int) -> None:
        self.key, self.step = key, 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        for layer in pl_module.modules():
            if isinstance(layer, CounterDropout):
                layer.calls = 0
                layer.step.fill_(self.step)
        value = derive(self.key, "step", self.step)
        torch.manual_seed(value)
        np.random.seed(value % 2**32)
        random.seed(value)
        self.step += 1


def _key_dropout(module: nn.Module, k: int) -> None:
    for path, layer in list(module.named_modules()):
        if isinstance(layer, nn.Dropout):
            parent, _, name = path.rpartition(".")
            keyed = CounterDropout(layer.p)
            keyed.key.fill_(derive(SEED, ROLE, k, "dropout", path))
            setattr(module.get_submodule(parent), name, keyed)


def solo(job: TrainingJob, make: Callable[..., nn.Module], k: int) -> dict[str, Tensor]:
    """The state of model k after an ordinary fit of an ordinary module."""
    population, recipe = job.population, job.recipe
    with isolated(SEED, ROLE, job.models[k], "initialisation"):
        module: Any = make()
    assert base_of(module) is not None
    _key_dropout(module, job.models[k])  # the rest stays what it is
    index = job.records_K[k]
    data = TensorDataset(population.records(index, torch.float64), population.label_N[index])
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=recipe.epochs,
        precision="64-true",
        gradient_clip_val=recipe.gradient_clip_norm,
        accumulate_grad_batches=recipe.accumulate_batches,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[_Keyed(derive(SEED, ROLE, job.models[k], "order"))],
    )
    with quiet_lightning(), isolated(0, "solo"):
        trainer.fit(module, DataLoader(data, batch_sampler=_Epochs(job, k)))
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def assert_solo(found: TrainedStack, job: TrainingJob, make: Callable[..., nn.Module], tolerance: float = 1e-8) -> None:
    """All models are what they are alone."""
    for k in range(job.num_models):
        expected, state = solo(job, make, k), found.stack.state_of(k)
        assert {name for name, _ in found.stack.networks.named_parameters()} <= expected.keys()
        for name, tensor in state.items():
            if name in expected:
                torch.testing.assert_close(
                    tensor.detach(),
                    expected[name].to(tensor.dtype),
                    rtol=tolerance,
                    atol=tolerance,
                    msg=lambda text, name=name, k=k: f"model {k}, {name}: {text}",
                )


def differs_from_start(found: TrainedStack, job: TrainingJob) -> bool:
    """Whether training moved all parameters that are trained."""
    start = job.stack(range(job.num_models)).double()
    after = dict(found.stack.networks.named_parameters())
    return all(not torch.allclose(p, after[name]) for name, p in start.networks.named_parameters() if p.requires_grad)


MakeModule = Callable[..., nn.Module] | partial[nn.Module]
