"""What a recipe refuses: optimisers and schedules that would let models of a stack move each other."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from mia_lightning.errors import InputError, SettingError
from mia_lightning.training.step.losses import mean_over_real
from mia_lightning.training.step.optimizers import clip_each_model
from mia_lightning.training.step.recipe import EarlyStopping, Recipe, cross_entropy, default_recipe

ADAM = partial(torch.optim.Adam, lr=1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
        ADAM,
        partial(torch.optim.AdamW, lr=1e-3),
        partial(torch.optim.RMSprop, lr=1e-3),
        partial(torch.optim.Adagrad, lr=1e-2),
        partial(torch.optim.NAdam, lr=1e-3),
        partial(torch.optim.RAdam, lr=1e-3),
        partial(torch.optim.Adamax, lr=1e-3),
        torch.optim.Adadelta,
        partial(torch.optim.Rprop, lr=1e-3),
        partial(torch.optim.ASGD, lr=1e-3),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    ],
)
def test_element_wise_optimisers_are_taken(optimizer: object) -> None:
    Recipe(epochs=1, batch_size=1, optimizer=optimizer)


class LARS(torch.optim.SGD):
    """Scales each parameter's step by its norm: over a stack, a norm of all models."""

    def step(self, closure: object = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = p.grad * p.norm() / p.grad.norm()
        super().step()


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        (partial(LARS, lr=0.1), r"` is LARS, which does not act element by element.* use SGD"),
        *[
            (partial(torch.optim.Adafactor, lr=lr), r"` is Adafactor, which does not act element by element")
            for lr in (1e-2, 1e-4, 1e-6)
        ],
        (partial(torch.optim.LBFGS, lr=0.1), r"` is LBFGS with lr=0\.1, which fails: .*closure.*change its settings"),
        (partial(torch.optim.Muon, lr=0.1), r"` is Muon with lr=0\.1, which fails: Muon only supports 2D"),
        (lambda parameters: 3, r"` makes 3, which is no torch\.optim\.Optimizer; set its `_target_`"),
        (partial(torch.optim.SGD, lr="fast"), r"\.lr` is 'fast'; it must be a number"),
        (
            partial(torch.optim.Adam, lr=-1),
            r"\.lr` is -1, and Adam refuses it: Invalid learning rate: -1; give another",
        ),
        (
            partial(torch.optim.SGD, lr=0.1, momentumm=0.9),
            r"\.momentumm` is no setting of SGD \(did you mean `momentum",
        ),
    ],
)
def test_other_optimisers_are_refused(optimizer: object, sentence: str) -> None:
    with pytest.raises(SettingError, match="^`training.optimizer" + sentence):
        Recipe(epochs=1, batch_size=1, optimizer=optimizer)


@pytest.mark.parametrize(
    ("scheduler", "sentence"),
    [
        (lr_scheduler.ReduceLROnPlateau, "` is ReduceLROnPlateau, .*; use a schedule that is fixed beforehand"),
        (lambda optimizer: 3, "` makes 3, which is no torch LRScheduler; set its `_target_`"),
        (lr_scheduler.StepLR, r"\.step_size` is not set, and StepLR needs it; give a whole number"),
        (partial(lr_scheduler.StepLR, step_size="two"), r"\.step_size` is 'two'; it must be a whole number"),
        (
            partial(lr_scheduler.StepLR, step_size=0),
            r"\.step_size` is 0, and StepLR refuses it: .*; give another value",
        ),
        (partial(lr_scheduler.MultiStepLR, milestones=5), r"\.milestones` is 5; it must be a list of whole numbers"),
        (partial(lr_scheduler.CosineAnnealingLR, T_max=9, eta=1), r"\.eta` is no setting of CosineAnnealingLR"),
    ],
)
def test_other_schedules_are_refused(scheduler: object, sentence: str) -> None:
    with pytest.raises(SettingError, match="^`training.scheduler" + sentence):
        Recipe(epochs=1, batch_size=1, optimizer=ADAM, scheduler=scheduler)


def test_a_schedule_without_a_step_to_spare_is_taken() -> None:
    once = partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=1)
    assert Recipe(epochs=1, batches_per_epoch=1, optimizer=ADAM, scheduler=once).scheduler is once


def test_a_mistake_in_another_recipe_is_said_of_its_own_place() -> None:
    with pytest.raises(SettingError) as refused:
        Recipe(epochs=1, batch_size=1, optimizer=partial(torch.optim.SGD, lr="fast"))
    assert str(refused.value.at("guess.training")).startswith("`guess.training.optimizer.lr` is 'fast'")


def test_a_recipe_leaves_the_global_randomness_as_it_is() -> None:
    state = torch.get_rng_state()
    Recipe(epochs=1, batch_size=1, optimizer=ADAM, scheduler=partial(lr_scheduler.StepLR, step_size=1))
    assert torch.equal(state, torch.get_rng_state())


def test_the_fused_implementation_is_taken_unless_another_is_chosen() -> None:
    parameters = [nn.Parameter(torch.zeros(2))]
    assert Recipe(epochs=1, batch_size=1, optimizer=ADAM).make_optimizer(parameters).defaults["fused"] is True
    chosen = Recipe(epochs=1, batch_size=1, optimizer=partial(ADAM, foreach=True)).make_optimizer(parameters)
    assert chosen.defaults["fused"] is None


@pytest.mark.parametrize("arguments", [{"batch_size": None}, {"batches_per_epoch": 3}])
def test_one_of_two_ways_to_divide_the_records_is_given(arguments: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"`training.batch_size` is .*`training.batches_per_epoch`.*exactly one"):
        Recipe(**{"epochs": 1, "batch_size": 1, "optimizer": ADAM, **arguments})


def test_early_stopping_may_be_a_mapping() -> None:
    recipe = Recipe(epochs=1, batch_size=1, optimizer=ADAM, early_stopping={"patience": 3})
    assert recipe.early_stopping == EarlyStopping(patience=3)
    with pytest.raises(InputError, match=r"`training.early_stopping.patients` is no setting \(did you mean `patience`"):
        Recipe(epochs=1, batch_size=1, optimizer=ADAM, early_stopping={"patients": 3})
    with pytest.raises(InputError, match=r"`training.early_stopping` is 5; .*such as \{patience:10\}"):
        Recipe(epochs=1, batch_size=1, optimizer=ADAM, early_stopping=5)


@pytest.mark.usefixtures("global_generators")
def test_clipping_equals_torch_for_each_model_by_itself() -> None:
    gradients = [torch.randn(3, 4, 2) * torch.tensor([0.01, 1.0, 10.0]).view(3, 1, 1), torch.randn(3, 5)]
    expected = []
    for k in range(3):
        alone = [nn.Parameter(torch.zeros_like(g[k])) for g in gradients]
        for p, g in zip(alone, gradients, strict=True):
            p.grad = g[k].clone()
        nn.utils.clip_grad_norm_(alone, 2.0)
        expected.append([p.grad for p in alone])
    clip_each_model(gradients, 2.0)
    for k in range(3):
        for g, e in zip(gradients, expected[k], strict=True):
            torch.testing.assert_close(g[k], e)


def test_the_mean_loss_is_over_real_records() -> None:
    loss_KB = torch.tensor([[1.0, 2.0, 30.0], [4.0, 50.0, 60.0], [7.0, 8.0, 9.0]])
    is_real_KB = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert mean_over_real(loss_KB, is_real_KB).tolist() == [1.5, 4.0, 0.0]
    assert mean_over_real(loss_KB, None).tolist() == [11.0, 38.0, 8.0]


@pytest.mark.usefixtures("global_generators")
def test_cross_entropy_is_torchs() -> None:
    logits_KBC, label_KB = torch.randn(2, 5, 3), torch.randint(3, (2, 5))
    expected = nn.functional.cross_entropy(logits_KBC.flatten(0, 1), label_KB.flatten(), reduction="none").view(2, 5)
    torch.testing.assert_close(cross_entropy(logits_KBC, label_KB), expected)


def test_a_chunk_is_a_number_or_automatic_or_all_at_once() -> None:
    for chunk in (1, 7, "auto", None):
        assert Recipe(epochs=1, batch_size=1, optimizer=ADAM, chunk=chunk).chunk == chunk


def test_a_recipe_has_defaults() -> None:
    assert Recipe() == Recipe(epochs=100, batch_size=100, optimizer=Recipe().optimizer) == default_recipe()
    one = Recipe(epochs=1)
    assert (one.epochs, one.batch_size, one.batches_per_epoch) == (1, 100, None)
    assert one.steps_per_epoch(250) == 3
    by_number = Recipe(epochs=1, batches_per_epoch=7)
    assert (by_number.batch_size, by_number.steps_per_epoch(250)) == (None, 7)
    assert type(one.make_optimizer([nn.Parameter(torch.zeros(2))])) is torch.optim.Adam
    assert replace(one, epochs=2).batch_size == 100
    assert replace(by_number, epochs=2).batches_per_epoch == 7
