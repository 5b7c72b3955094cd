"""What a recipe refuses: optimisers and schedules that would let models of a stack move each other."""

from functools import partial

import pytest
import torch
from torch import nn

from mia_lightning.errors import InputError
from mia_lightning.training.step.module import clip_each_model, mean_over_real
from mia_lightning.training.step.recipe import EarlyStopping, Recipe, cross_entropy

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
    Recipe(epochs=1, batch_size=1, optimizer=optimizer).check()


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
        (partial(LARS, lr=0.1), r"\(LARS\) does not act element by element"),
        *[
            (partial(torch.optim.Adafactor, lr=lr), r"\(Adafactor\) does not act element by element")
            for lr in (1e-2, 1e-4, 1e-6)
        ],
        (partial(torch.optim.LBFGS, lr=0.1), "cannot drive a stack of models"),
        (partial(torch.optim.Muon, lr=0.1), "cannot drive a stack of models: Muon only supports 2D"),
        (partial(torch.optim.SGD, lr="fast"), r"`training.optimizer.lr` is 'fast'; it must be a number"),
        (lambda parameters: 3, "made a int, not a torch Optimizer"),
    ],
)
def test_other_optimisers_are_refused(optimizer: object, sentence: str) -> None:
    recipe = Recipe(epochs=1, batch_size=1, optimizer=optimizer)
    with pytest.raises(InputError, match=sentence):
        recipe.make_optimizer([nn.Parameter(torch.zeros(1))])


def test_the_fused_implementation_is_taken_unless_another_is_chosen() -> None:
    parameters = [nn.Parameter(torch.zeros(2))]
    assert Recipe(epochs=1, batch_size=1, optimizer=ADAM).make_optimizer(parameters).defaults["fused"] is True
    chosen = Recipe(epochs=1, batch_size=1, optimizer=partial(ADAM, foreach=True)).make_optimizer(parameters)
    assert chosen.defaults["fused"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"epochs": 0}, "`training.epochs` is 0"),
        ({"epochs": 1.5}, "`training.epochs` is 1.5"),
        ({"batch_size": 0}, "`training.batch_size` is 0"),
        ({"batch_size": None}, "give exactly one of them"),
        ({"batches_per_epoch": 3}, "give exactly one of them"),
        ({"accumulate_batches": 0}, "`training.accumulate_batches` is 0"),
        ({"chunk": -1}, "`training.chunk` is -1"),
        ({"epochs": True}, "`training.epochs` is True"),
        ({"early_stopping": 5}, "`training.early_stopping` is 5"),
        ({"gradient_clip_norm": 0.0}, "`training.gradient_clip_norm` is 0.0"),
        ({"execution": "fast"}, "must be one of auto, stack, loop"),
        ({"scheduler_interval": "day"}, "must be one of epoch, step"),
    ],
)
def test_values_out_of_range_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Recipe(**{"epochs": 1, "batch_size": 1, "optimizer": ADAM, **arguments})


def test_early_stopping_may_be_a_mapping() -> None:
    recipe = Recipe(epochs=1, batch_size=1, optimizer=ADAM, early_stopping={"patience": 3})
    assert recipe.early_stopping == EarlyStopping(patience=3)
    with pytest.raises(InputError, match="it takes `patience` and `min_delta`"):
        Recipe(epochs=1, batch_size=1, optimizer=ADAM, early_stopping={"patients": 3})


def test_early_stopping_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="patience` is 0"):
        EarlyStopping(patience=0)
    with pytest.raises(InputError, match=r"min_delta` is -0\.1"):
        EarlyStopping(min_delta=-0.1)


def test_a_schedule_that_follows_a_metric_is_refused() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    recipe = Recipe(epochs=1, batch_size=1, optimizer=ADAM, scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(InputError, match="ReduceLROnPlateau"):
        recipe.make_scheduler(optimizer)
    with pytest.raises(InputError, match=r"`training.scheduler` cannot be made: .*step_size"):
        Recipe(epochs=1, batch_size=1, optimizer=ADAM, scheduler=torch.optim.lr_scheduler.StepLR).check()
    with pytest.raises(InputError, match="made a int, not a torch LRScheduler"):
        Recipe(epochs=1, batch_size=1, optimizer=ADAM, scheduler=lambda _: 3).make_scheduler(optimizer)


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


def test_cross_entropy_is_torchs() -> None:
    logits_KBC, label_KB = torch.randn(2, 5, 3), torch.randint(3, (2, 5))
    expected = nn.functional.cross_entropy(logits_KBC.flatten(0, 1), label_KB.flatten(), reduction="none").view(2, 5)
    torch.testing.assert_close(cross_entropy(logits_KBC, label_KB), expected)


def test_a_chunk_is_a_number_or_automatic_or_all_at_once() -> None:
    for chunk in (1, 7, "auto", None):
        assert Recipe(epochs=1, batch_size=1, optimizer=ADAM, chunk=chunk).chunk == chunk
    with pytest.raises(
        InputError, match=r"`training.chunk` is 'some'; it must be a whole number of at least 1 or auto"
    ):
        Recipe(epochs=1, batch_size=1, optimizer=ADAM, chunk="some")
