"""The first idea of the project: a model trained inside a stack is the model that would have been trained alone."""

from functools import partial

import pytest
import torch
from clipped_gradients import Pictures
from quick import slow_but
from torch import Tensor, nn
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.module import StackModule
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

MODELS = 4
SIZES = [24, 31, 29, 24]  # ragged; all in four batches of at most 8

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=3e-3),
}


class DroppingImages(nn.Sequential):
    """Element-wise and channel-wise dropout."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(input_shape[0], 6, 3),
            nn.Dropout2d(0.3),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(6 * 16, num_classes),
        )


class SeveralNames(nn.Module):
    """Layers, dropout, normalisation and a buffer under several names each, and a tied weight."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.first, self.drop, self.norm = nn.Linear(*input_shape, 5), nn.Dropout(0.3), nn.BatchNorm1d(5)
        self.again, self.head = nn.Linear(5, 5), nn.Linear(5, num_classes)
        self.third = nn.Linear(5, 5)
        self.third.weight = self.again.weight
        self.layers = nn.Sequential(self.first, self.drop, self.norm, nn.Tanh(), self.again, self.drop)
        self.rest = nn.ModuleDict({"layers": nn.ModuleList([self.layers, self.norm, self.third]), "head": self.head})
        self.register_buffer("level", torch.zeros(()))
        self.rest.register_buffer("height", self.level)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.level.mul_(0.9).add_(0.1)
        inner, norm, third = self.rest["layers"]
        return self.rest["head"](norm(third(torch.tanh(inner(x))))) * (1 + self.rest.height)


NETWORKS = {
    "several-names": ("blobs", SeveralNames),
    "mlp": ("blobs", partial(MLP, hidden=[8])),
    "mlp-dropout": ("blobs", partial(MLP, hidden=[8, 8], activation="relu", dropout=0.4)),
    "cnn-batchnorm": ("pictures", partial(CNN, channels=[4, 4], hidden=8, kernel_size=3, batch_norm=True)),
    "norms-tied-frozen": (
        "pictures",
        partial(Pictures, norm=partial(nn.BatchNorm2d, 4), flat_norm=partial(nn.BatchNorm1d, 4, momentum=None)),
    ),
    "dropout2d": ("pictures", DroppingImages),
}


def records_of(population: Population, sizes: list[int] = SIZES) -> list[Tensor]:
    order = [torch.randperm(len(population), generator=generator(k, "records")) for k in range(len(sizes))]
    return [o[:size] for o, size in zip(order, sizes, strict=True)]


def train(
    network: str,
    request: pytest.FixtureRequest,
    optimizer: str = "sgd",
    precision: str = "64",
    models: list[int] | None = None,
    **recipe: object,
) -> TrainedStack:
    population_name, make = NETWORKS[network]
    population = request.getfixturevalue(population_name)
    chosen = list(range(MODELS)) if models is None else models
    every = records_of(population)
    return train_with(
        Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision=precision)),
        bind_shapes(make, population.input_shape, population.num_classes),
        population,
        [every[k] for k in chosen],
        Recipe(**{"epochs": 4, "batch_size": 8, "optimizer": OPTIMIZERS[optimizer], **recipe}),
        role="shadow",
        models=chosen,
    )


def assert_equal_stacks(one: TrainedStack, other: TrainedStack, tolerance: float) -> None:
    left, right = one.stack.networks.state_dict(), other.stack.networks.state_dict()
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


PAIRS = slow_but(
    [("mlp-dropout", "sgd"), ("mlp-dropout", "adamw"), ("cnn-batchnorm", "sgd"), ("norms-tied-frozen", "sgd")],
    [(network, optimizer) for network in NETWORKS for optimizer in ("sgd", "adamw")],
)


@pytest.mark.costly
@pytest.mark.parametrize(("network", "optimizer"), PAIRS)
def test_chunks_and_loop_give_the_models_of_the_whole_stack(
    network: str, optimizer: str, request: pytest.FixtureRequest
) -> None:
    together = train(network, request, optimizer, execution="stack")
    assert together.execution == "stack"
    for other in ({"chunk": 1}, {"chunk": 3}, {"execution": "loop"}):
        assert_equal_stacks(together, train(network, request, optimizer, **other), 1e-8)


@pytest.mark.costly
@pytest.mark.parametrize(("network", "optimizer"), PAIRS)
def test_a_model_trained_alone_is_the_model_of_the_stack(
    network: str, optimizer: str, request: pytest.FixtureRequest
) -> None:
    together = train(network, request, optimizer, gradient_clip_norm=0.5)
    for k in range(MODELS):
        alone = train(network, request, optimizer, models=[k], gradient_clip_norm=0.5)
        for name, tensor in alone.stack.networks.state_dict().items():
            torch.testing.assert_close(together.stack.networks.state_dict()[name][k], tensor[0], rtol=1e-8, atol=1e-8)


@pytest.mark.costly
@pytest.mark.parametrize("network", ["mlp", "mlp-dropout", "cnn-batchnorm"])
def test_float32_agrees_as_far_as_the_order_of_summation_lets_a_model_agree_with_itself(
    network: str, request: pytest.FixtureRequest
) -> None:
    exact = train(network, request, precision="64")
    together, looped = (train(network, request, precision="32", execution=e) for e in ("stack", "loop"))
    for name, tensor in exact.stack.networks.state_dict().items():
        rounding = (looped.stack.networks.state_dict()[name].double() - tensor).abs().max()
        difference = (together.stack.networks.state_dict()[name].double() - tensor).abs().max()
        assert difference <= 10 * rounding + 1e-6, name


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_ragged_padding_changes_nothing_whatever_it_holds(
    execution: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = train("cnn-batchnorm", request, execution=execution)
    original = StackModule.training_step
    padded = []

    def step(self: StackModule, batch: tuple[Tensor, Tensor | None], batch_index: int) -> None:
        _, is_real_KB = batch
        if is_real_KB is not None:
            padded.append(int((~is_real_KB).sum()))
        records = self.records

        def poisoned(index: Tensor, dtype: torch.dtype) -> Tensor:
            x = records(index, dtype)
            assert isinstance(x, Tensor)
            if is_real_KB is not None:
                x[~is_real_KB] = 1e6
            return x

        self.records = poisoned
        original(self, batch, batch_index)
        self.records = records

    monkeypatch.setattr(StackModule, "training_step", step)
    after = train("cnn-batchnorm", request, execution=execution)
    assert sum(padded) > 0
    assert_equal_stacks(before, after, 0.0)


def test_models_with_other_numbers_of_steps_train_apart_and_come_back_in_order(blobs: Population) -> None:
    sizes = [40, 12, 41, 8]  # 5, 2, 6 and 1 steps of an epoch
    recipe = Recipe(epochs=3, batch_size=8, optimizer=OPTIMIZERS["sgd"])
    engine = Engine(seed=1, settings=TrainerSettings(accelerator="cpu", precision="64"))
    make = bind_shapes(partial(MLP, hidden=[5]), blobs.input_shape, 3)
    records = records_of(blobs, sizes)
    together = train_with(engine, make, blobs, records, recipe, role="shadow")
    for k in range(4):
        alone = train_with(engine, make, blobs, [records[k]], recipe, role="shadow", models=[k])
        for name, tensor in alone.stack.networks.state_dict().items():
            torch.testing.assert_close(together.stack.networks.state_dict()[name][k], tensor[0], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(together.train_loss_EK[:, k], alone.train_loss_EK[:, 0])


def test_an_ordinary_training_loop_gives_the_same_network(blobs: Population) -> None:
    """Independent of the engine: torch.optim on one nn.Module, fed with the batches that the plan states."""
    from mia_lightning.seeds import derive, isolated
    from mia_lightning.training.step.batches import StackBatches

    recipe = Recipe(epochs=3, batch_size=8, optimizer=OPTIMIZERS["adamw"], gradient_clip_norm=0.3)
    make = bind_shapes(partial(MLP, hidden=[5]), blobs.input_shape, 3)
    records = records_of(blobs)
    trained = train_with(
        Engine(seed=3, settings=TrainerSettings(accelerator="cpu", precision="64")),
        make,
        blobs,
        records,
        recipe,
        role="shadow",
    )
    k = 2
    with isolated(3, "shadow", k, "initialisation"):
        network = make().double()
    optimizer = recipe.optimizer(network.parameters())
    batches = StackBatches([records[k]], torch.tensor([derive(3, "shadow", k, "order")]), batches_per_epoch=4)
    for epoch in range(3):
        batches.set_epoch(epoch)
        for index_KB, _ in batches:
            loss = nn.functional.cross_entropy(network(blobs.x_N[index_KB[0]].double()), blobs.label_N[index_KB[0]])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.3)
            optimizer.step()
    taken = trained.stack.model(k)
    assert type(taken) is MLP
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(taken.state_dict()[name], tensor, rtol=1e-8, atol=1e-8)


def test_each_model_stops_early_for_itself_and_is_what_it_was_then(blobs: Population) -> None:
    recipe = Recipe(
        epochs=40,
        batch_size=8,
        optimizer=partial(torch.optim.Adam, lr=0.05),
        early_stopping=EarlyStopping(patience=2),
    )
    held_out = torch.arange(90, 120)
    records = [torch.arange(start, start + 30) for start in (0, 30, 60)]
    engine = Engine(seed=5, settings=TrainerSettings(accelerator="cpu", precision="64"))
    make = bind_shapes(partial(MLP, hidden=[16]), blobs.input_shape, 3)
    together = train_with(engine, make, blobs, records, recipe, role="shadow", validation_N=held_out)
    stopped = together.stopped_epoch_K.tolist()
    assert len(set(stopped)) > 1
    assert max(stopped) < 39
    assert together.validation_loss_EK is not None
    for k, epoch in enumerate(stopped):
        alone = train_with(engine, make, blobs, [records[k]], recipe, role="shadow", models=[k], validation_N=held_out)
        fixed = Recipe(epochs=epoch + 1, batch_size=8, optimizer=recipe.optimizer)
        plain = train_with(engine, make, blobs, [records[k]], fixed, role="shadow", models=[k])
        assert alone.stopped_epoch_K.tolist() == [epoch]
        for name, tensor in plain.stack.networks.state_dict().items():
            torch.testing.assert_close(together.stack.networks.state_dict()[name][k], tensor[0], rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(alone.stack.networks.state_dict()[name][0], tensor[0], rtol=1e-8, atol=1e-8)
        losses = together.validation_loss_EK[: epoch + 1, k]
        assert epoch - int(losses.argmin()) == 2
        assert together.train_loss_EK[epoch + 1 :, k].isnan().all()


def test_a_model_that_breaks_in_its_very_last_update_is_reported(blobs: Population) -> None:
    recipe = Recipe(epochs=1, batches_per_epoch=1, optimizer=partial(torch.optim.SGD, lr=1e38))
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
    make = bind_shapes(partial(MLP, hidden=[5], activation="relu"), blobs.input_shape, 3)
    x_N = blobs.x_N.clone()
    x_N[0] = 1e6
    huge = Population(name="huge", x_N=x_N, label_N=blobs.label_N, class_names=blobs.class_names)
    trained = train_with(engine, make, huge, [torch.arange(9), torch.arange(1, 9)], recipe, role="shadow")
    finite = [all(bool(t[k].isfinite().all()) for t in trained.stack.networks.parameters()) for k in range(2)]
    assert trained.train_loss_EK.isfinite().all()
    assert [epoch < 0 for epoch in trained.failed_epoch_K.tolist()] == finite
    assert not all(finite)


def test_what_becomes_of_a_model_after_it_stopped_is_no_failure(blobs: Population) -> None:
    """The learning rate explodes from epoch 4 on, when only the first model has stopped."""
    engine = Engine(seed=5, settings=TrainerSettings(accelerator="cpu"))
    make = bind_shapes(partial(MLP, hidden=[16], activation="relu"), blobs.input_shape, 3)
    stopping = train_with(
        engine,
        make,
        blobs,
        [torch.arange(start, start + 30) for start in (0, 30, 60)],
        Recipe(
            epochs=40,
            batch_size=8,
            optimizer=partial(torch.optim.Adam, lr=0.05),
            scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 1.0 if epoch < 4 else 1e36),
            early_stopping=EarlyStopping(patience=2),
        ),
        role="shadow",
        validation_N=torch.arange(90, 120),
    )
    stopped_before = (stopping.stopped_epoch_K >= 0) & (stopping.stopped_epoch_K < 4)
    assert 0 < int(stopped_before.sum()) < 3
    assert ((stopping.failed_epoch_K < 0) == stopped_before).all()
    for tensor in stopping.stack.networks.state_dict().values():
        assert tensor[stopped_before].isfinite().all()


def test_a_model_whose_loss_is_not_finite_does_not_touch_its_neighbours(blobs: Population) -> None:
    poisoned = Population(
        name="blobs",
        x_N=torch.cat([blobs.x_N, torch.full((1, 6), 3e38)]),
        label_N=torch.cat([blobs.label_N, torch.tensor([0])]),
        class_names=blobs.class_names,
    )
    records = records_of(blobs)
    with_poison = [*records[:2], torch.cat([records[2][:-1], torch.tensor([120])]), records[3]]
    engine = Engine(seed=2, settings=TrainerSettings(accelerator="cpu"))
    make = bind_shapes(partial(MLP, hidden=[5], activation="relu"), blobs.input_shape, 3)
    calm = Recipe(epochs=3, batch_size=8, optimizer=OPTIMIZERS["sgd"])
    bad = train_with(engine, make, poisoned, with_poison, calm, role="shadow")
    good = train_with(engine, make, poisoned, records, calm, role="shadow")
    assert bad.failed_epoch_K.tolist() == [-1, -1, 0, -1]
    assert good.failed_epoch_K.tolist() == [-1] * 4
    for name, tensor in good.stack.networks.state_dict().items():
        for k in (0, 1, 3):
            torch.testing.assert_close(bad.stack.networks.state_dict()[name][k], tensor[k], rtol=1e-5, atol=1e-6)


@pytest.mark.costly
@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("network", ["mlp-dropout", "cnn-batchnorm"])
def test_schedules_and_accumulation_are_those_of_a_model_alone(
    network: str, interval: str, request: pytest.FixtureRequest
) -> None:
    options: dict[str, object] = {
        "scheduler": partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9),
        "scheduler_interval": interval,
        "accumulate_batches": 2,
    }
    together = train(network, request, **options)
    for other in ({"chunk": 3}, {"execution": "loop"}):
        assert_equal_stacks(together, train(network, request, **options, **other), 1e-8)
    alone = train(network, request, models=[1], **options)
    for name, tensor in alone.stack.networks.state_dict().items():
        torch.testing.assert_close(together.stack.networks.state_dict()[name][1], tensor[0], rtol=1e-8, atol=1e-8)


class Sided(torch.nn.Module):
    """Which of its two layers it uses depends on the records, so that a model may never use the other."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) if float(x.sum()) > 0 else self.right(x)


@pytest.mark.costly
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_layer_that_one_model_never_uses_is_what_it_would_be_alone(optimizer: str) -> None:
    """Its neighbour uses it, so the stack has a gradient for it: zero, which momentum and decay act upon."""
    x_N = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).abs()
    x_N[20:] *= -1
    sides = Population(name="sides", x_N=x_N, label_N=torch.arange(40) % 3, class_names=("a", "b", "c"))
    recipe = Recipe(epochs=4, batch_size=8, optimizer=OPTIMIZERS[optimizer], execution="loop")
    engine = Engine(seed=2, settings=TrainerSettings(accelerator="cpu", precision="64"))
    records = [torch.arange(20), torch.arange(20, 40)]
    together = train_with(engine, Sided, sides, records, recipe, role="shadow")
    for k in range(2):
        alone = train_with(engine, Sided, sides, [records[k]], recipe, role="shadow", models=[k])
        for name, tensor in alone.stack.networks.state_dict().items():
            torch.testing.assert_close(together.stack.networks.state_dict()[name][k], tensor[0], rtol=1e-8, atol=1e-8)


def test_models_with_fewer_records_than_batches_take_steps_without_any(blobs: Population) -> None:
    """With equal numbers of records some steps have no record of any model, and no padding either."""
    recipe = Recipe(epochs=3, batches_per_epoch=7, optimizer=OPTIMIZERS["adamw"])
    engine = Engine(seed=4, settings=TrainerSettings(accelerator="cpu", precision="64"))
    make = bind_shapes(partial(MLP, hidden=[5]), blobs.input_shape, 3)
    records = [torch.arange(5), torch.arange(5, 10), torch.arange(10, 14)]
    equal = train_with(engine, make, blobs, records[:2], recipe, role="shadow")
    ragged = train_with(engine, make, blobs, records, recipe, role="shadow")
    assert (equal.failed_epoch_K < 0).all()
    assert equal.train_loss_EK.isfinite().all()
    torch.testing.assert_close(equal.train_loss_EK, ragged.train_loss_EK[:, :2])
    for name, tensor in equal.stack.networks.state_dict().items():
        torch.testing.assert_close(ragged.stack.networks.state_dict()[name][:2], tensor, rtol=1e-8, atol=1e-8)
