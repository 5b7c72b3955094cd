"""The L2 penalty: the optimiser's steps are those along the gradient of the penalised loss."""

from collections.abc import Iterable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from mia_lightning.defenses.interface import OutputDefense, TrainingDefense
from mia_lightning.defenses.l2 import L2
from mia_lightning.errors import InputError
from mia_lightning.training.step.recipe import Recipe, default_recipe


def recipe_with(optimizer: object) -> Recipe:
    return Recipe(epochs=3, batch_size=7, optimizer=optimizer)  # type: ignore[arg-type]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, penalty: float) -> list[Tensor]:
    """Five steps on the loss plus penalty times the sum of squares, by autograd."""
    random = torch.Generator().manual_seed(1)
    x, label = torch.randn(12, 4, generator=random, dtype=torch.float64), torch.arange(12) % 3
    for _ in range(5):
        loss = nn.functional.cross_entropy(net(x), label)
        if penalty:
            loss = loss + penalty * sum((p**2).sum() for p in net.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("strength", [0, 0.001, 0.3])
@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=0.1),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
        partial(torch.optim.Adam, lr=0.01),
        partial(torch.optim.Adam, lr=0.01, weight_decay=0.02),
        partial(torch.optim.RMSprop, lr=0.01),
        partial(torch.optim.NAdam, lr=0.01),
        torch.optim.Adagrad,
    ],
)
def test_training_equals_that_on_the_penalised_loss(optimizer: object, strength: float) -> None:
    defended = L2(strength=strength).adapt(recipe_with(optimizer))
    plain, adapted = network(), network()
    expected = steps(plain, optimizer(plain.parameters()), penalty=strength)  # type: ignore[operator]
    observed = steps(adapted, defended.make_optimizer(adapted.parameters()), penalty=0.0)
    for one, other in zip(observed, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_the_step_of_sgd_is_along_autograds_gradient() -> None:
    net, lr, strength = network(), 0.1, 0.05
    x, label = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).double(), torch.arange(6) % 3
    penalised = nn.functional.cross_entropy(net(x), label) + strength * sum((p**2).sum() for p in net.parameters())
    gradients = torch.autograd.grad(penalised, list(net.parameters()))
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = (
        L2(strength=strength).adapt(recipe_with(partial(torch.optim.SGD, lr=lr))).make_optimizer(net.parameters())
    )
    nn.functional.cross_entropy(net(x), label).backward()
    optimizer.step()
    for parameter, start, gradient in zip(net.parameters(), before, gradients, strict=True):
        torch.testing.assert_close((start - parameter.detach()) / lr, gradient, rtol=1e-9, atol=1e-12)


def test_it_joins_the_weight_decay_that_is_there_and_changes_nothing_else() -> None:
    recipe = recipe_with(partial(torch.optim.Adam, lr=0.01, weight_decay=0.25))
    defended = L2(strength=0.5).adapt(recipe)
    (group,) = defended.make_optimizer([nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["weight_decay"], group["lr"]) == (1.25, 0.01)
    assert (defended.epochs, defended.batch_size, defended.objective) == (3, 7, recipe.objective)
    (untouched,) = recipe.make_optimizer([nn.Parameter(torch.zeros(1))]).param_groups
    assert untouched["weight_decay"] == 0.25
    twice = L2(strength=1.0).adapt(defended).make_optimizer([nn.Parameter(torch.zeros(1))])
    assert twice.param_groups[0]["weight_decay"] == 3.25


def test_the_default_recipe_takes_it() -> None:
    (group,) = L2().adapt(default_recipe()).make_optimizer([nn.Parameter(torch.zeros(1))]).param_groups
    assert group["weight_decay"] == 0.002


def test_the_optimiser_stays_a_fused_one() -> None:
    defended = L2().adapt(default_recipe())
    assert defended.make_optimizer([nn.Parameter(torch.zeros(1))]).param_groups[0]["fused"] is True


def without_arguments(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        (partial(torch.optim.Rprop, lr=0.1), r"\(Rprop\) has no `weight_decay`"),
        (without_arguments, r"\(SGD\) takes no `weight_decay` from outside"),
        (partial(torch.optim.AdamW, lr=0.001), r"\(AdamW\) keeps `weight_decay` out of the gradient"),
        (partial(torch.optim.AdamW, lr=0.001, weight_decay=0), r"\(AdamW\) keeps"),
        (partial(torch.optim.NAdam, lr=1e-5, decoupled_weight_decay=True), r"\(NAdam\) keeps"),
    ],
)
@pytest.mark.parametrize("strength", [0.0, 1e-12, 0.001])
def test_optimisers_that_cannot_penalise_are_refused(optimizer: object, sentence: str, strength: float) -> None:
    with pytest.raises(InputError, match=rf"`training\.optimizer`.*{sentence}"):
        L2(strength=strength).adapt(recipe_with(optimizer))


def test_it_says_what_it_is() -> None:
    assert (L2().name, L2().describe(), L2(strength=5e-4).describe()) == ("l2", "L2 penalty 0.001", "L2 penalty 0.0005")
    assert isinstance(L2(), TrainingDefense)
    assert not isinstance(L2(), OutputDefense)
