"""Networks with one output on two classes, as targets and as models that are trained, against plain PyTorch."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from given_setup import given_setup
from torch import Tensor, nn
from training_jobs import train_with

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.existing import Existing
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.stack.way import ask
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make


class One(nn.Module):
    """One number a record."""

    def __init__(self, after: Callable[[Tensor], Tensor] = lambda z: z) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.layers(x))


def squeezed(z: Tensor) -> Tensor:
    return z.squeeze()


def sigmoid_squeezed(z: Tensor) -> Tensor:
    return torch.sigmoid(z).squeeze(-1)


class Squeezed(One):
    def __init__(self) -> None:
        super().__init__(squeezed)


class Sigmoid(One):
    def __init__(self) -> None:
        super().__init__(torch.sigmoid)


@pytest.fixture
def two(blobs: Population) -> Population:
    return replace(blobs, label_N=blobs.label_N % 2, class_names=("no", "yes"))


def test_the_one_output_of_a_target_is_the_logit_or_the_probability_of_the_second_class(two: Population) -> None:
    network = One()
    with torch.no_grad():
        logit_N = network(two.x_N).squeeze(1)
    expected_NC = torch.stack([nn.functional.logsigmoid(-logit_N), nn.functional.logsigmoid(logit_N)], -1)
    for after in (lambda z: z, squeezed, torch.sigmoid, sigmoid_squeezed):
        given = One(after)
        given.load_state_dict(network.state_dict())
        models = Existing(network=given).obtain(given_setup(two))
        torch.testing.assert_close(models.observe(two).log_probability_KANC[0, 0], expected_NC, rtol=1e-4, atol=1e-5)
        assert models.architecture.name == "One"


class Counts(One):
    """It counts its calls in a buffer, and holds a lock, so that it cannot be copied."""

    def __init__(self) -> None:
        super().__init__(torch.sigmoid)
        self.lock = threading.Lock()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Words(nn.Module):
    """Logits of words, whose numbers are below 10: an index that is scaled would be out of range."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.embedding, self.norm, self.last = nn.Embedding(10, 4), nn.LayerNorm(4), nn.Linear(4, 1)
        with torch.no_grad():
            self.last.weight *= 0.05
            self.last.bias.fill_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.embedding(x.long()).mean(1))).squeeze(-1)


def given_answer(network: nn.Module, population: Population) -> str | None:
    return Existing(network=network).obtain(given_setup(population)).architecture.one_output


@pytest.mark.parametrize("bias", [0.5, -3.0])
def test_logits_that_lie_in_0_and_1_by_chance_are_logits(bias: float, two: Population) -> None:
    words = replace(two, x_N=(two.x_N.abs() * 3).clamp(max=9).floor())
    network = Words(bias)
    with torch.no_grad():
        logits_N = network(words.x_N)
    assert bool(((logits_N > 0) & (logits_N < 1)).all()) == (bias == 0.5)
    assert given_answer(network, words) == "logit"
    assert given_answer(nn.Sequential(network, nn.Sigmoid()), words) == "probability"
    assert ask(bind_records(partial(Words, bias), words)(), words.x_N).shape == (len(words), 2)


def test_weights_of_zero_tell_nothing_so_that_others_are_drawn(two: Population) -> None:
    network = One()
    nn.init.zeros_(network.layers[2].weight)
    nn.init.zeros_(network.layers[2].bias)
    assert given_answer(network, two) == "logit"
    assert given_answer(nn.Sequential(network, nn.Sigmoid()), two) == "probability"


@pytest.mark.costly
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float16])
def test_numbers_that_overflow_say_nothing(dtype: torch.dtype, two: Population) -> None:
    assert given_answer(One(torch.sigmoid).to(dtype), two) == "probability"
    assert given_answer(One(lambda z: 1 / (1 + torch.exp(-z))).to(dtype), two) == "probability"
    assert given_answer(One(lambda z: torch.exp(z) / (1 + torch.exp(z))).to(dtype), two) == "probability"
    assert given_answer(One().to(dtype), two) == "logit"


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
def test_what_cannot_be_copied_is_asked_with_other_weights(two: Population) -> None:
    network = Counts()
    assert given_answer(network, two) == "probability"
    scripted = torch.jit.trace(One(torch.sigmoid).eval(), two.x_N[:3])
    assert given_answer(scripted, two) == "probability"
    assert given_answer(torch.jit.trace(One().eval(), two.x_N[:3]), two) == "logit"


def test_a_logit_that_lies_in_0_and_1_by_chance_is_found_where_the_network_cannot_be_copied(two: Population) -> None:
    network = Counts()
    network.after = nn.Identity()
    nn.init.zeros_(network.layers[2].weight)
    nn.init.constant_(network.layers[2].bias, 0.5)
    assert given_answer(network, two) == "logit"
    assert network.layers[2].bias.item() == 0.5


def test_what_fails_with_any_other_weights_is_no_probability(two: Population) -> None:
    class Fixed(Counts):
        def forward(self, x: Tensor) -> Tensor:
            assert self.layers[2].bias.item() == self.bias, "other weights"
            return super().forward(x)

    network = Fixed()
    network.bias = network.layers[2].bias.item()
    assert given_answer(network, two) == "logit"


def test_nothing_of_the_target_is_changed_to_find_out(two: Population) -> None:
    network = nn.Sequential(nn.BatchNorm1d(6), One(torch.sigmoid)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    models = Existing(network=network).obtain(given_setup(two))
    assert network.training
    assert not network._forward_hooks
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        alone = network.eval()(two.x_N[:1]).reshape(-1)
    one = replace(two, x_N=two.x_N[:1], label_N=two.label_N[:1])
    torch.testing.assert_close(models.observe(one).log_probability_KANC[0, 0, 0, 1:].exp(), alone)


def test_what_the_output_is_taken_for_is_said(two: Population, tmp_path: Path) -> None:
    torch.save(One().state_dict(), tmp_path / "one.pt")
    settings = {"shadow": mia.Real(count=2), "attacks": [mia.Loss()], "training": mia.Recipe(epochs=1)}
    settings["trainer"] = TrainerSettings(accelerator="cpu")
    given = {**settings, "membership": mia.Given(member_N=range(40))}
    for kind, target in {
        "probability": Existing(network=One(torch.sigmoid)),
        "logit": mia.Checkpoint(path=tmp_path / "one.pt"),
    }.items():
        said = [
            remark
            for remark in mia.audit(two, model=One, target=target, **given).warnings
            if remark.startswith("The target gives")
        ]
        assert len(said) == 1
        assert f"{kind} of the second class, yes" in said[0]
    said = mia.audit(two, model=One, membership=mia.Disjoint(train_size=20), **settings).notes
    assert [remark for remark in said if "One" in remark and "logit of the second class, yes" in remark]


def test_a_checkpoint_of_a_model_with_one_output_is_read(two: Population, tmp_path: Path) -> None:
    network = One()
    torch.save(network.state_dict(), tmp_path / "one.pt")
    report = mia.audit(
        two,
        model=One,
        membership=mia.Given(member_N=range(40)),
        target=mia.Checkpoint(path=tmp_path / "one.pt"),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        training=mia.Recipe(epochs=1),
        trainer=TrainerSettings(accelerator="cpu"),
    )
    with torch.no_grad():
        right_N = (network(two.x_N).squeeze(1) > 0) == two.label_N.bool()
    assert report.target.train_accuracy == pytest.approx(float(right_N[:40].double().mean()))


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("make", [One, Squeezed, lambda: nn.Linear(6, 1)], ids=["column", "squeezed", "linear"])
def test_a_stack_of_them_is_trained_by_binary_cross_entropy(
    make: Callable[[], nn.Module], execution: str, two: Population
) -> None:
    bound = bind_records(make, two)
    recipe = Recipe(epochs=3, batch_size=30, optimizer=partial(torch.optim.SGD, lr=0.1), execution=execution)
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", precision="64"))
    trained = train_with(engine, bound, two, [torch.arange(30), torch.arange(30, 60)], recipe, role="shadow")
    for k, records in enumerate((slice(0, 30), slice(30, 60))):
        alone = make().double()
        alone.load_state_dict({name: value[0] for name, value in first(engine, bound, two, recipe, k).items()})
        optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(
                alone(two.x_N[records].double()).reshape(-1), two.label_N[records].double()
            ).backward()
            optimizer.step()
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(trained.stack.state_of(k)[name].squeeze(0).view_as(value), value)


def first(engine: Engine, bound: Callable[[], nn.Module], two: Population, recipe: Recipe, k: int) -> dict[str, Tensor]:
    """The weights of model k before training."""
    still = replace(recipe, epochs=1, optimizer=partial(torch.optim.SGD, lr=0.0))
    return dict(train_with(engine, bound, two, [torch.arange(30)], still, role="shadow", models=[k]).stack.state())


def test_a_model_with_one_probability_is_refused_as_any_that_gives_probabilities(two: Population) -> None:
    with pytest.raises(InputError, match="gives probabilities"):
        mia.audit(two, model=Sigmoid, shadow=mia.Real(count=2), membership=mia.Disjoint(train_size=20))


def test_numbers_that_are_no_scores_are_refused(two: Population) -> None:
    for after in (lambda z: (z > 0).long(), lambda z: z > 0):
        with pytest.raises(InputError, match=r"\[B, C\], here \[2, 2\]"):
            given_answer(One(after), two)


def test_a_function_that_gives_the_same_network_each_time_is_refused(two: Population, blobs: Population) -> None:
    for population, network in ((two, One()), (blobs, nn.Linear(6, 3))):
        with pytest.raises(InputError, match="the same"):
            mia.audit(
                population, model=lambda n=network: n, shadow=mia.Real(count=2), membership=mia.Disjoint(train_size=20)
            )


def test_one_output_for_three_classes_is_refused(blobs: Population) -> None:
    with pytest.raises(InputError, match=r"gives \[\d, 1\] for records"):
        mia.audit(blobs, model=One, shadow=mia.Real(count=2), membership=mia.Disjoint(train_size=20))
