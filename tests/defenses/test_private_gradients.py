"""The gradients of DP-SGD against a slow loop over records, and its noise against its law."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from quick import slow_but
from scipy.stats import chi2, kstest
from torch import Tensor, nn
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.defenses import private_gradients
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.poisson import PoissonSampler
from mia_lightning.defenses.private_gradients import PrivateGradients, counter_normal, trainable
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import derive, generator, isolated
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.stack.stack import MakeNetwork, Stack
from mia_lightning.training.step.recipe import Recipe, cross_entropy
from mia_lightning.training.step.rules import Step
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


class Pictures(nn.Module):
    """Convolution, group normalisation, a tied weight and a frozen parameter."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(input_shape[0], 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.mix = nn.Linear(4, 4)
        self.mix_again = nn.Linear(4, 4)
        self.mix_again.weight = self.mix.weight
        self.head = nn.Linear(4, num_classes)
        self.head.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.relu(self.norm(self.convolution(x))).mean((2, 3))
        return self.head(self.mix_again(torch.tanh(self.mix(pooled))))


NETWORKS = {"mlp": ("blobs", partial(MLP, hidden=[8])), "pictures": ("pictures", Pictures)}
MODELS, WIDTH = 3, 7
CLIP = 0.4


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


def stack_of(make: MakeNetwork) -> Stack:
    return Stack.build(make, range(MODELS), seed=5, role="shadow").double()


def gradients_of(stack: Stack, *, clip_norm: float = CLIP, noise_multiplier: float = 0.0) -> PrivateGradients:
    return PrivateGradients(
        objective=cross_entropy,
        clip_norm=clip_norm,
        noise_multiplier_K=torch.full((MODELS,), noise_multiplier, dtype=torch.float64),
        expected_size_K=torch.tensor([4.0, 5.5, 6.0], dtype=torch.float64),
        noise_key_K={
            name: torch.tensor([derive(1, "shadow", k, "gradient noise", name) for k in range(MODELS)])
            for name in trainable(stack)
        },
    )


def slow_gradient(
    network: nn.Module, x_B: Tensor, label_B: Tensor, *, clip_norm: float, expected_size: float
) -> tuple[dict[str, Tensor], list[float]]:
    """One record at a time, by autograd on the ordinary network: clipped jointly, summed, divided; and the norms."""
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    norms = []
    for x, label in zip(x_B, label_B, strict=True):
        loss = nn.functional.cross_entropy(network(x[None]), label[None])
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        norms.append(float(torch.sqrt(sum((g**2).sum() for g in gradients))))
        for name, g in zip(parameters, gradients, strict=True):
            total[name] += g * min(1.0, clip_norm / norms[-1])
    return {name: g / expected_size for name, g in total.items()}, norms


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


# --- training --------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("network", slow_but(["mlp"], NETWORKS_TO_TRAIN))
def test_chunks_loop_and_a_model_alone_give_the_models_of_the_whole_stack(
    network: str, request: pytest.FixtureRequest
) -> None:
    together = train(network, request)
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
