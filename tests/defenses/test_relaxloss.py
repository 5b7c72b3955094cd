"""RelaxLoss against the paper's algorithm, written out for one model and one batch at a time."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.defenses.interface import OutputDefense, TrainingDefense
from mia_lightning.defenses.label_smoothing import LabelSmoothing
from mia_lightning.defenses.relaxloss import RelaxLoss, relaxed_loss
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.recipe import default_recipe
from mia_lightning.training.trainer import TrainerSettings


def gradient_of_the_paper(logits_BC: Tensor, label_B: Tensor, epoch: int, alpha: float) -> Tensor:
    """The direction of one step with respect to the logits, from their closed forms, record by record."""
    B, C = logits_BC.shape
    probability_BC = logits_BC.softmax(-1)
    loss = sum(-math.log(float(probability_BC[i, label_B[i]])) for i in range(B)) / B
    gradient_BC = torch.zeros_like(logits_BC)
    for i in range(B):
        p, y = probability_BC[i], int(label_B[i])
        hard = p - nn.functional.one_hot(label_B[i], C)  # of the cross-entropy from a hard label
        soft = torch.stack([p[c] - (p[y] if c == y else (1 - p[y]) / (C - 1)) for c in range(C)])
        if loss >= alpha:
            gradient_BC[i] = hard / B
        elif epoch % 2 == 0:
            gradient_BC[i] = -hard / B
        else:
            gradient_BC[i] = soft / B
    return gradient_BC


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
@pytest.mark.parametrize("has_padding", [False, True])
def test_each_model_descends_ascends_or_flattens_by_its_own_loss(epoch: int, has_padding: bool) -> None:
    numbers = generator(0, "relaxloss")
    logits_KBC = torch.randn(4, 6, 5, generator=numbers, dtype=torch.float64)
    label_KB = torch.randint(0, 5, (4, 6), generator=numbers)
    confident = nn.functional.one_hot(label_KB, 5) * torch.tensor([0.0, 2.0, 4.0, 6.0]).view(4, 1, 1)
    logits_KBC = (logits_KBC + confident).requires_grad_()
    size_K = [6, 5, 4, 3] if has_padding else [6] * 4
    is_real_KB = torch.arange(6) < torch.tensor(size_K)[:, None] if has_padding else None
    relaxed_loss(logits_KBC, label_KB, is_real_KB, epoch, alpha=1.0).sum().backward()
    losses = []
    for k, size in enumerate(size_K):
        logits_BC = logits_KBC[k, :size].detach()
        losses.append(float(nn.functional.cross_entropy(logits_BC, label_KB[k, :size])))
        expected = gradient_of_the_paper(logits_BC, label_KB[k, :size], epoch, 1.0)
        torch.testing.assert_close(logits_KBC.grad[k, :size], expected, rtol=1e-9, atol=1e-12)
        assert not logits_KBC.grad[k, size:].any()
    assert min(losses) < 1.0 < max(losses)  # both sides of alpha were seen


def test_flattening_keeps_the_probability_of_the_label_and_evens_out_the_others() -> None:
    logits = torch.tensor([[[3.0, 1.0, -1.0]]], requires_grad=True)
    relaxed_loss(logits, torch.tensor([[0]]), None, 1, alpha=5.0).sum().backward()
    torch.testing.assert_close(logits.grad[0, 0, 0], torch.tensor(0.0), atol=1e-7, rtol=0)
    assert logits.grad[0, 0, 1] > 0 > logits.grad[0, 0, 2]  # a step makes the larger of them smaller


@pytest.mark.parametrize("alpha", [0.3, 0.7])
@pytest.mark.slow
def test_the_training_loss_of_every_model_stays_about_alpha(alpha: float, blobs: Population) -> None:
    far_apart = replace(blobs, x_N=blobs.x_N * 3)
    recipe = replace(default_recipe(), epochs=200, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.05))
    records_K = [torch.randperm(120, generator=generator(k, "records"))[:60] for k in range(4)]
    make = bind_shapes(partial(MLP, hidden=[16]), (6,), 3)
    engine = Engine(seed=1, settings=TrainerSettings(accelerator="cpu"))
    plain = train_with(engine, make, far_apart, records_K, recipe, role="target").train_loss_EK[-20:].mean(0)
    relaxed = train_with(engine, make, far_apart, records_K, RelaxLoss(alpha=alpha).adapt(recipe), role="target")
    assert bool((plain < 0.2).all())
    assert bool(((relaxed.train_loss_EK[-20:].mean(0) - alpha).abs() < 0.15).all())


def test_what_it_cannot_be_combined_with_is_refused() -> None:
    recipe = default_recipe()
    for first in (LabelSmoothing(), RelaxLoss()):
        with pytest.raises(InputError, match=r"defense=relaxloss relaxes the cross-entropy.*another loss"):
            RelaxLoss().adapt(first.adapt(recipe))
    with pytest.raises(InputError, match=r"defense=label_smoothing smooths the cross-entropy.*relaxloss"):
        LabelSmoothing().adapt(RelaxLoss().adapt(recipe))
    with pytest.raises(InputError, match=r"`training\.accumulate_batches` is 2"):
        RelaxLoss().adapt(replace(recipe, accumulate_batches=2))


def test_it_says_what_it_is() -> None:
    assert (RelaxLoss().name, RelaxLoss(alpha=1.5).describe()) == ("relaxloss", "RelaxLoss 1.5")
    assert isinstance(RelaxLoss(), TrainingDefense)
    assert not isinstance(RelaxLoss(), OutputDefense)
