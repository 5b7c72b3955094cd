"""Stacks whose objective is given real responses in the place of labels, each model its own."""

from functools import partial

import pytest
import torch
from torch import Tensor
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

K = 3


def squared_error(output_KBC: Tensor, response_KB: Tensor) -> Tensor:
    return (output_KBC[..., 0] - response_KB).square()


def responses(population: Population) -> Tensor:
    return torch.randn(K, len(population), generator=generator(0, "responses"), dtype=torch.float64)


def train(
    population: Population,
    response_KN: Tensor | None,
    *,
    models: list[int] | None = None,
    hidden: tuple[int, ...] = (5,),
    validation_N: Tensor | None = None,
    **recipe: object,
) -> TrainedStack:
    models = list(range(K)) if models is None else models
    settings = {"epochs": 4, "batch_size": 16, "optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9), **recipe}
    engine = Engine(seed=3, settings=TrainerSettings(accelerator="cpu", precision="64"))
    return train_with(
        engine,
        bind_shapes(partial(MLP, hidden=hidden), population.input_shape, population.num_classes),
        population,
        [torch.arange(10 * k, 60 + 10 * k) for k in models],
        Recipe(objective=squared_error, **settings),
        role="regression",
        models=models,
        validation_N=validation_N,
        response_KN=None if response_KN is None else response_KN[models],
    )


def test_weights_of_classes_are_refused(blobs: Population) -> None:
    with pytest.raises(InputError, match=r"`training\.class_weights` .* learns no classes"):
        train(blobs, responses(blobs), class_weights="balanced")


@pytest.mark.costly
@pytest.mark.parametrize("other", [{"chunk": 1}, {"chunk": 2}, {"execution": "loop"}], ids=["chunk1", "chunk2", "loop"])
def test_chunks_and_loop_give_the_models_of_the_whole_stack(other: dict[str, object], blobs: Population) -> None:
    response_KN = responses(blobs)
    together, apart = train(blobs, response_KN), train(blobs, response_KN, **other)
    for name, tensor in together.stack.networks.state_dict().items():
        torch.testing.assert_close(tensor, apart.stack.networks.state_dict()[name], rtol=1e-8, atol=1e-8)


def test_a_model_trained_alone_is_the_model_of_the_stack_and_follows_its_own_responses(blobs: Population) -> None:
    response_KN = responses(blobs)
    together = train(blobs, response_KN).stack.networks.state_dict()
    changed_KN = response_KN.clone()
    changed_KN[1] += 1.0
    changed = train(blobs, changed_KN).stack.networks.state_dict()
    for k in range(K):
        alone = train(blobs, response_KN, models=[k]).stack.networks.state_dict()
        for name, tensor in together.items():
            torch.testing.assert_close(tensor[k], alone[name][0], rtol=1e-8, atol=1e-8)
            assert torch.equal(changed[name][k], tensor[k]) == (k != 1)


def test_a_linear_model_reaches_the_least_squares_of_each_row(blobs: Population) -> None:
    response_KN = responses(blobs)
    trained = train(blobs, response_KN, hidden=(), epochs=400, batch_size=60)
    for k in range(K):
        rows = torch.arange(10 * k, 60 + 10 * k)
        design = torch.cat([blobs.x_N[rows].double(), torch.ones(60, 1, dtype=torch.float64)], dim=1)
        solution = torch.linalg.lstsq(design, response_KN[k, rows, None]).solution.squeeze(1)
        state = {name: tensor[k, 0] for name, tensor in trained.stack.networks.state_dict().items()}
        found = torch.cat([state["logits.weight"], state["logits.bias"][None]])
        torch.testing.assert_close(found, solution, rtol=1e-6, atol=1e-6)
        best = (design @ solution - response_KN[k, rows]).square().mean()
        assert float(trained.train_loss_EK[-1, k]) == pytest.approx(float(best), rel=1e-6)


def test_held_out_records_are_judged_by_their_responses(blobs: Population) -> None:
    response_KN, held_out = responses(blobs), torch.arange(100, 120)
    trained = train(blobs, response_KN, validation_N=held_out, early_stopping=EarlyStopping(patience=50))
    assert trained.validation_loss_EK is not None
    output_KB2 = trained.stack(blobs.x_N[held_out].double(), shared=True)
    expected_K = (output_KB2[..., 0] - response_KN[:, held_out]).square().mean(1)
    torch.testing.assert_close(trained.validation_loss_EK[-1], expected_K.detach(), rtol=1e-9, atol=1e-9)


def test_without_responses_the_objective_is_given_labels(blobs: Population) -> None:
    as_labels = train(blobs, blobs.label_N.double().expand(K, -1)).stack.networks.state_dict()
    for name, tensor in train(blobs, None).stack.networks.state_dict().items():
        assert torch.equal(tensor, as_labels[name])
