"""The gradients of DP-SGD against a slow loop over records, and its noise against its law."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from clipped_gradients import CLIP, MODELS, NETWORKS, WIDTH, gradients_of, slow_gradient, stack_of
from scipy.stats import chi2, kstest
from torch import Tensor, nn

from mia_lightning.datasets.population import Population
from mia_lightning.defenses import private_gradients
from mia_lightning.defenses.private_gradients import PrivateGradients, counter_normal, trainable
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.stack.stack import MakeNetwork, Stack
from mia_lightning.training.step.rules import Step


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[Population, MakeNetwork]:
    population_name, make = NETWORKS[request.param]
    population = request.getfixturevalue(population_name)
    return population, bind_shapes(make, population.input_shape, population.num_classes)


def step_of(population: Population, *, number: int = 3, execution: str = "stack") -> Step:
    """Model 0 sees no record, model 1 five and model 2 all seven places; padding holds what must not count."""
    index_KB = torch.randint(len(population), (MODELS, WIDTH), generator=generator(0, "records"))
    is_real_KB = torch.arange(WIDTH) < torch.tensor([[0], [5], [7]])
    x = population.records(index_KB, torch.float64)
    x[~is_real_KB] = torch.inf
    return Step(
        number=number,
        x=x,
        label_KB=population.label_N[index_KB],
        index_KB=index_KB,
        is_real_KB=is_real_KB,
        execution=execution,
    )


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("at_once", [2**25, 1])
def test_the_gradient_is_that_of_a_slow_loop_over_records(
    case: tuple[Population, MakeNetwork], execution: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_gradients, "_GRADIENT_NUMBERS", at_once)
    population, make = case
    stack, step = stack_of(make), step_of(population, execution=execution)
    assert step.is_real_KB is not None
    seen = [(step.x[k][real_B], step.label_KB[k][real_B]) for k, real_B in enumerate(step.is_real_KB)]
    networks = [stack.model(k).train() for k in range(MODELS)]
    norms = [
        norm
        for k in range(MODELS)
        for norm in slow_gradient(networks[k], *seen[k], clip_norm=1.0, expected_size=1.0)[1]
    ]
    clip_norm = sorted(norms)[5]  # of 12 records: some are clipped, others are not
    gradients = gradients_of(stack, clip_norm=clip_norm)
    loss_K = gradients(stack, step)
    for k, (x_B, label_B) in enumerate(seen):
        size = float(gradients.expected_size_K[k])
        expected, _ = slow_gradient(networks[k], x_B, label_B, clip_norm=clip_norm, expected_size=size)
        assert trainable(stack).keys() == expected.keys()
        for name, parameter in trainable(stack).items():
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad[k], expected[name], rtol=1e-10, atol=1e-12)
        if len(x_B):
            torch.testing.assert_close(loss_K[k], nn.functional.cross_entropy(networks[k](x_B), label_B))
    assert all(p.grad is None for p in stack.networks.parameters() if not p.requires_grad)


def test_a_batch_without_padding_needs_no_mask(blobs: Population) -> None:
    stack = stack_of(bind_shapes(partial(MLP, hidden=[8]), blobs.input_shape, 3))
    index_KB = torch.arange(MODELS * 4).view(MODELS, 4)
    step = Step(
        number=0,
        x=blobs.records(index_KB, torch.float64),
        label_KB=blobs.label_N[index_KB],
        index_KB=index_KB,
        is_real_KB=None,
        execution="stack",
    )
    loss_K = gradients_of(stack)(stack, step)
    bare = {name: p.grad for name, p in trainable(stack).items()}
    masked = replace(step, is_real_KB=torch.ones_like(index_KB, dtype=torch.bool))
    torch.testing.assert_close(loss_K, gradients_of(stack)(stack, masked))
    for name, p in trainable(stack).items():
        torch.testing.assert_close(p.grad, bare[name])


def test_an_empty_batch_does_nothing_but_noise(case: tuple[Population, MakeNetwork]) -> None:
    population, make = case
    stack, step = stack_of(make), step_of(population)
    gradients = gradients_of(stack, noise_multiplier=1.5)
    loss_K = gradients(stack, step)
    assert float(loss_K[0]) == 0.0
    for name, parameter in trainable(stack).items():
        assert parameter.grad is not None
        noise = 1.5 * CLIP * counter_normal(gradients.noise_key_K[name], 3, parameter.shape[1:])
        torch.testing.assert_close(parameter.grad[0], noise[0] / 4.0)
        assert not torch.allclose(parameter.grad[1], noise[1] / 5.5)


def test_a_record_whose_gradient_is_not_finite_counts_as_none(blobs: Population) -> None:
    """Its loss is reported as it is, so that the model is left out; the gradients stay those of the others."""
    stack = stack_of(bind_shapes(partial(MLP, hidden=[8], activation="relu"), blobs.input_shape, 3))
    step = step_of(blobs)
    assert step.is_real_KB is not None
    broken = replace(step, x=step.x.clone())
    broken.x[2, 4] = torch.nan
    left_out = replace(step, is_real_KB=step.is_real_KB.clone())
    assert left_out.is_real_KB is not None
    left_out.is_real_KB[2, 4] = False
    gradients = gradients_of(stack)
    loss_K = gradients(stack, broken)
    assert loss_K.isfinite().tolist() == [True, True, False]
    observed = {name: p.grad for name, p in trainable(stack).items()}
    gradients(stack, left_out)
    for name, p in trainable(stack).items():
        torch.testing.assert_close(observed[name], p.grad)


def sensitivity(gradients: PrivateGradients, stack: Stack, step: Step) -> float:
    """By how much, in 2-norm, one record more or less moves the sum that the noise is added to."""
    assert step.is_real_KB is not None
    without = replace(step, is_real_KB=step.is_real_KB.clone())
    assert without.is_real_KB is not None
    without.is_real_KB[2, 0] = False
    sums, less = gradients.clipped_sums(stack, step)[0], gradients.clipped_sums(stack, without)[0]
    return float(torch.stack([(sums[name] - less[name])[2].norm() for name in sums]).norm())


def test_one_record_moves_the_sum_by_the_clipping_norm_at_most_and_further_if_clipping_is_off(
    blobs: Population,
) -> None:
    stack, step = stack_of(bind_shapes(partial(MLP, hidden=[8]), blobs.input_shape, 3)), step_of(blobs)
    step.x[2, 0] *= 1000
    gradients = gradients_of(stack)
    assert sensitivity(gradients, stack, step) == pytest.approx(CLIP)
    assert sensitivity(replace(gradients, clip_norm=1e9), stack, step) > 2 * CLIP


# --- noise -----------------------------------------------------------------------------------------------

Draw = Callable[[Tensor, int, "tuple[int, ...]"], Tensor]
STEPS = 40


def noise_of(make: MakeNetwork, population: Population) -> dict[str, Tensor]:
    """By parameter, the noise of 40 steps in units of its stated deviation, `[K, S, P]`: gradients of empty batches."""
    stack = stack_of(make)
    gradients = gradients_of(stack, noise_multiplier=2.0)
    noise: dict[str, list[Tensor]] = {name: [] for name in trainable(stack)}
    for number in range(STEPS):
        step = step_of(population, number=number)
        gradients(stack, replace(step, is_real_KB=torch.zeros_like(step.index_KB, dtype=torch.bool)))
        for name, parameter in trainable(stack).items():
            assert parameter.grad is not None
            scale = (gradients.expected_size_K / (2.0 * CLIP)).view(-1, *(1 for _ in parameter.shape[1:]))
            noise[name].append((parameter.grad * scale).flatten(1))
    return {name: torch.stack(each, dim=1) for name, each in noise.items()}


def is_sound(noise: dict[str, Tensor]) -> bool:
    """Variance by a chi-square, the law by Kolmogorov-Smirnov, and no correlation between models, steps, parameters."""
    every_KSP = torch.cat(list(noise.values()), dim=2)
    count = every_KSP.numel()
    power = float(every_KSP.square().sum())
    if not chi2.ppf(5e-5, count) < power < chi2.ppf(1 - 5e-5, count):
        return False
    if kstest(every_KSP.flatten().numpy(), "norm").pvalue < 1e-4:
        return False
    pairs = [
        (every_KSP[0], every_KSP[1]),
        (every_KSP[1], every_KSP[2]),
        (every_KSP[:, 1:], every_KSP[:, :-1]),
        (every_KSP[:, :1].expand_as(every_KSP[:, 1:]), every_KSP[:, 1:]),
        (every_KSP[..., 1:], every_KSP[..., :-1]),
        (noise["first.weight"], noise["second.weight"]),
    ]
    return all(abs(float((one * other).mean())) < 4.5 / one.numel() ** 0.5 for one, other in pairs)


class Twins(nn.Module):
    """Two layers of one shape, so that noise used for both would show."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(input_shape[0], 30), nn.Linear(input_shape[0], 30)
        self.head = nn.Linear(30, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(x) * self.second(x)))


BROKEN: dict[str, Draw] = {
    "off": lambda key_K, step, shape: 0 * counter_normal(key_K, step, shape),
    "too small": lambda key_K, step, shape: 0.97 * counter_normal(key_K, step, shape),
    "not normal": lambda key_K, step, shape: counter_normal(key_K, step, shape).sign(),
    "reused across steps": lambda key_K, step, shape: counter_normal(key_K, 0, shape),
    "reused in the next step": lambda key_K, step, shape: counter_normal(key_K, step // 2, shape),
    "reused across models": lambda key_K, step, shape: counter_normal(key_K[:1].expand_as(key_K), step, shape),
    "reused across parameters": lambda key_K, step, shape: counter_normal(torch.arange(len(key_K)), step, shape),
}


def test_noise_is_normal_of_the_stated_variance_and_drawn_anew_everywhere(blobs: Population) -> None:
    assert is_sound(noise_of(bind_shapes(Twins, blobs.input_shape, 3), blobs))


@pytest.mark.costly
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_noise_is_caught(fault: str, blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_gradients, "counter_normal", BROKEN[fault])
    assert not is_sound(noise_of(bind_shapes(Twins, blobs.input_shape, 3), blobs))


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1,), ()])
def test_the_noise_of_a_row_is_a_function_of_its_key_and_step_alone(shape: tuple[int, ...]) -> None:
    key_K = torch.tensor([3, 8, 11])
    noise = counter_normal(key_K, 4, shape)
    assert noise.shape == (3, *shape)
    assert noise.dtype == torch.float64
    for k in range(3):
        torch.testing.assert_close(counter_normal(key_K[k : k + 1], 4, shape)[0], noise[k], rtol=0, atol=0)
    assert not torch.equal(counter_normal(key_K, 5, shape), noise)


def test_dropout_is_drawn_for_each_record_and_step(blobs: Population) -> None:
    """Twice the same values: under one record's number the same gradient, under two records' numbers two."""
    stack = stack_of(bind_shapes(partial(MLP, hidden=[32], dropout=0.5), blobs.input_shape, 3)).train()
    gradients = gradients_of(stack, clip_norm=1e9)

    def sum_of(numbers: list[int], step: int) -> Tensor:
        index_KB = torch.tensor(numbers).expand(MODELS, -1)
        same_KB = torch.zeros_like(index_KB)
        x, label_KB = blobs.records(same_KB, torch.float64), blobs.label_N[same_KB]
        of = Step(number=step, x=x, label_KB=label_KB, index_KB=index_KB, is_real_KB=None, execution="stack")
        sums, _ = gradients.clipped_sums(stack, of)
        return torch.cat([g.flatten(1) for g in sums.values()], dim=1)

    one = sum_of([4], 0)
    torch.testing.assert_close(sum_of([4, 4], 0), 2 * one)
    assert not torch.allclose(sum_of([5], 0), one)
    assert not torch.allclose(sum_of([4], 1), one)
    torch.testing.assert_close(sum_of([4, 5, 6], 0), one + sum_of([5], 0) + sum_of([6], 0))
    assert not torch.allclose(one[0], one[1])
