"""DP-SGD under tasks without classes: per-record gradients of the task's loss, and constants that are public."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tasks_data import N, records
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import mia_lightning as mia
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.errors import InputError
from mia_lightning.models.fitted import RangeScaledMLP
from mia_lightning.models.mlp import MLP
from mia_lightning.tasks import Task

PUBLIC = mia.Regression(label_mean=[40.0], label_std=[10.0])
SHORT = {
    "model": partial(MLP, hidden=[4]),
    "membership": mia.Halves(),
    "attacks": [mia.Loss()],
    "training": mia.Recipe(epochs=1, batch_size=40, optimizer=partial(torch.optim.SGD, lr=0.1)),
    "trainer": mia.TrainerSettings(accelerator="cpu"),
}


def test_a_regression_that_standardises_by_private_records_is_refused() -> None:
    with pytest.raises(InputError) as refused:
        mia.observe(records("regression"), **SHORT, shadow=mia.Real(count=2), defenses=[mia.DPSGD()])
    sentence = str(refused.value)
    assert all(each in sentence for each in ("task=regression", "dp_sgd", "`task.label_mean`", "`task.label_std`"))
    assert sentence.count(". ") == 0


def normalised(input_shape: tuple[int, ...], num_outputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(*input_shape, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, num_outputs)
    )


PRIVATE = {
    "private constants": (records("regression"), SHORT["model"]),
    "public constants": (replace(records("regression"), task=PUBLIC), SHORT["model"]),
    "labels": (records("multilabel"), SHORT["model"]),
    "batch normalisation": (records("multilabel"), normalised),
    "scales of records": (records("binary"), partial(RangeScaledMLP, hidden=[4], activation="tanh")),
}


@pytest.mark.costly
@pytest.mark.parametrize("case", PRIVATE)
def test_what_keeps_models_from_private_training_is_what_refuses_it(case: str) -> None:
    """The report, which advises it, has the sentence."""
    data, model = PRIVATE[case]
    options = {**SHORT, "model": model, "shadow": mia.Real(count=2)}
    try:
        mia.observe(data, **options, defenses=[mia.DPSGD()])
        refusal = None
    except InputError as error:
        refusal = str(error)
    assert (refusal is None) == (case in ("public constants", "labels"))
    assert mia.observe(data, **options).private_training == refusal


def slow_step(network: torch.nn.Module, x_N: Tensor, label_N: Tensor, clip_norm: float) -> Tensor:
    """The weights of the last layer after a step over all records, each by its own backward pass.

    Of a number with mean 40 and deviation 10 the loss is half the square of the residual in these units; of labels it
    is the sum of binary cross-entropies.
    """
    parameters = [*network.parameters()]
    total = [torch.zeros_like(each) for each in parameters]
    for x, label in zip(x_N, label_N, strict=True):
        output = network(x[None])[0]
        if label.ndim:
            loss = binary_cross_entropy_with_logits(output, label.float(), reduction="sum")
        else:
            loss = ((output - (label - 40) / 10) ** 2).sum() / 2
        gradient = torch.autograd.grad(loss, parameters)
        norm = float(torch.cat([each.flatten() for each in gradient]).norm())
        total = [a + b * min(1.0, clip_norm / norm) for a, b in zip(total, gradient, strict=True)]
    return parameters[-2].detach() - 0.1 * total[-2] / len(x_N)


@pytest.mark.costly
@pytest.mark.parametrize(("task", "public"), [("regression", PUBLIC), ("multilabel", None)])
def test_a_step_is_that_of_a_slow_loop_over_records(task: str, public: Task | None) -> None:
    """Batches of all records, and noise that rounds away: what is left are the clipped gradients."""
    data = records(task)
    data = data if public is None else replace(data, task=public)
    defense = DPSGD(noise_multiplier=1e-12, clip_norm=0.3)
    whole = mia.Recipe(epochs=1, batch_size=N, optimizer=partial(torch.optim.SGD, lr=0.1))
    made = {}
    for name, recipe in {"before": replace(whole, optimizer=partial(torch.optim.SGD, lr=0.0)), "after": whole}.items():
        options = {**SHORT, "training": recipe, "shadow": mia.Real(count=2), "defenses": [defense]}
        observed = mia.observe(data, **options)
        made[name] = observed.targets.stack.model(0)  # type: ignore[attr-defined]
    seen = observed.membership.member_KN[0]
    expected = slow_step(made["before"], data.x_N[seen], data.label_N[seen], 0.3)
    found = [*made["after"].parameters()][-2].detach()
    assert not torch.allclose(found, [*made["before"].parameters()][-2].detach(), atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_loss_of_numbers_that_mixes_records_is_refused() -> None:
    def centred(output_KBD: Tensor, truth_KBE: Tensor) -> Tensor:
        loss = (output_KBD[..., 0] - truth_KBE[..., 0]).square()
        return loss - loss.mean(1, keepdim=True) / 2

    recipe = replace(SHORT["training"], objective=centred)  # type: ignore[type-var]
    with pytest.raises(InputError, match=r"training.objective.*dp_sgd"):
        mia.observe(
            replace(records("regression"), task=PUBLIC),
            **{**SHORT, "training": recipe},
            shadow=mia.Real(count=2),
            defenses=[mia.DPSGD()],
        )


def test_a_loss_of_numbers_is_never_given_class_numbers() -> None:
    """Neither by the defence nor by its accountant; what it raises is raised."""

    def own(output_KBD: Tensor, truth_KBE: Tensor) -> Tensor:
        assert truth_KBE.shape[:2] == output_KBD.shape[:2]
        assert truth_KBE.is_floating_point()
        return (output_KBD[..., 0] - truth_KBE[..., 0]).square()

    recipe = replace(SHORT["training"], objective=own)  # type: ignore[type-var]
    observed = mia.observe(
        replace(records("regression"), task=PUBLIC),
        **{**SHORT, "training": recipe},
        shadow=mia.Real(count=2),
        defenses=[mia.DPSGD()],
    )
    assert observed.guarantee is not None
