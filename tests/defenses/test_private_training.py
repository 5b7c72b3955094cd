"""Private training: chunks, the loop, a model alone and an ordinary loop over records make the same models."""

from functools import partial

import pytest
import torch
from clipped_gradients import CLIP, MODELS, NETWORKS, slow_gradient
from quick import slow_but
from torch import Tensor
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.poisson import PoissonSampler
from mia_lightning.defenses.private_gradients import counter_normal
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import derive, generator, isolated
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

SIZES = [24, 31, 29]
SGD = partial(torch.optim.SGD, lr=0.2, momentum=0.9)
NETWORKS_TO_TRAIN = {**NETWORKS, "dropout": ("blobs", partial(MLP, hidden=[8, 8], dropout=0.4))}


def records_of(population: Population) -> list[Tensor]:
    return [torch.randperm(len(population), generator=generator(k, "records"))[:size] for k, size in enumerate(SIZES)]


def train(
    network: str, request: pytest.FixtureRequest, *, models: list[int] | None = None, **recipe: object
) -> TrainedStack:
    population_name, make = NETWORKS_TO_TRAIN[network]
    population = request.getfixturevalue(population_name)
    chosen = list(range(MODELS)) if models is None else models
    plain = Recipe(**{"epochs": 3, "batch_size": 8, "optimizer": SGD, **recipe})
    return train_with(
        Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision="64")),
        bind_shapes(make, population.input_shape, population.num_classes),
        population,
        [records_of(population)[k] for k in chosen],
        DPSGD(clip_norm=CLIP, noise_multiplier=0.7).adapt(plain),
        role="shadow",
        models=chosen,
    )


def assert_same(one: TrainedStack, other: TrainedStack, k: int | None = None) -> None:
    left, right = one.stack.networks.state_dict(), other.stack.networks.state_dict()
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor if k is None else tensor[[k]], right[name], rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("network", slow_but(["mlp"], NETWORKS_TO_TRAIN))
def test_chunks_loop_and_a_model_alone_give_the_models_of_the_whole_stack(
    network: str, request: pytest.FixtureRequest
) -> None:
    together = train(network, request, execution="stack")
    assert together.execution == "stack"
    for other in ({"chunk": 1}, {"chunk": 2}, {"execution": "loop"}):
        assert_same(together, train(network, request, **other))
    for k in range(MODELS):
        alone = train(network, request, models=[k])
        assert_same(together, alone, k)
        torch.testing.assert_close(together.train_loss_EK[:, [k]], alone.train_loss_EK)


def test_an_ordinary_loop_over_records_gives_the_same_network(
    blobs: Population, request: pytest.FixtureRequest
) -> None:
    """Independent of the engine: torch.optim on one nn.Module, record by record, with the same batches and noise."""
    trained = train("mlp", request)
    k, steps = 1, 4
    with isolated(7, "shadow", k, "initialisation"):
        network = MLP(input_shape=blobs.input_shape, num_classes=3, hidden=[8]).double()
    optimizer = SGD(network.parameters())
    key_K = torch.tensor([derive(7, "shadow", k, "order")])
    batches = PoissonSampler(batch_size=8)([records_of(blobs)[k]], key_K, batches_per_epoch=steps)
    for epoch in range(3):
        batches.set_epoch(epoch)
        for s, (index_KB, is_real_KB) in enumerate(batches):
            index_B = index_KB[0][is_real_KB[0]]
            x_B, label_B = blobs.x_N[index_B].double(), blobs.label_N[index_B]
            gradient, _ = slow_gradient(network, x_B, label_B, clip_norm=CLIP, expected_size=8.0)
            for name, parameter in network.named_parameters():
                key = torch.tensor([derive(7, "shadow", k, "gradient noise", name)])
                noise = counter_normal(key, epoch * steps + s, parameter.shape)[0]
                parameter.grad = gradient[name] + 0.7 * CLIP * noise / 8.0
            optimizer.step()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(trained.stack.model(k).state_dict()[name], tensor, rtol=1e-8, atol=1e-8)


@pytest.mark.costly
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_lower_precision_trains_nearly_the_same_models(precision: str, blobs: Population) -> None:
    recipe = DPSGD(clip_norm=CLIP).adapt(Recipe(epochs=2, batch_size=8, optimizer=SGD))
    make = bind_shapes(partial(MLP, hidden=[8]), blobs.input_shape, 3)
    trained = {
        kind: train_with(
            Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision=kind)),
            make,
            blobs,
            records_of(blobs),
            recipe,
            role="shadow",
        )
        for kind in ("64", precision)
    }
    for name, tensor in trained["64"].stack.networks.state_dict().items():
        other = trained[precision].stack.networks.state_dict()[name]
        assert other.dtype == torch.float32
        assert float((other.double() - tensor).abs().max()) < (1e-5 if precision == "32" else 0.05)
