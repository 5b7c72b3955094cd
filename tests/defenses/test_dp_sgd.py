"""DP-SGD as a defence: what it asks of a recipe and a model, what it guarantees, and that it trains."""

import math
import sys
import warnings
from dataclasses import dataclass, replace
from functools import partial

import oracles
import pytest
import torch
from opacus.accountants import RDPAccountant
from opacus.accountants.utils import get_noise_multiplier
from torch import Tensor, nn
from training_jobs import train_with

from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.accountant import Guarantee, delta_below, epsilon_of, noise_multiplier_for
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.interface import OutputDefense, TrainingDefense
from mia_lightning.defenses.l2 import L2
from mia_lightning.defenses.poisson import PoissonSampler
from mia_lightning.errors import InputError
from mia_lightning.models.cnn import CNN
from mia_lightning.models.fitted import RangeScaledMLP
from mia_lightning.models.mlp import MLP
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.batches import StackBatches
from mia_lightning.training.step.recipe import EarlyStopping, Recipe, cross_entropy, default_recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

SGD = partial(torch.optim.SGD, lr=0.1)


def recipe_with(**settings: object) -> Recipe:
    return Recipe(**{"epochs": 3, "batch_size": 8, "optimizer": SGD, **settings})  # type: ignore[arg-type]


def train(make: object, population: Population, recipe: Recipe, records: list[Tensor] | None = None) -> TrainedStack:
    records = [torch.arange(40), torch.arange(20, 60)] if records is None else records
    network = bind_shapes(make, population.input_shape, population.num_classes)  # type: ignore[arg-type]
    return train_with(
        Engine(seed=0, settings=TrainerSettings(accelerator="cpu")), network, population, records, recipe, role="target"
    )


# --- settings and recipe ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"noise_multiplier": None}, "give exactly one of them"),
        ({"epsilon": 3.0}, "`defense.dp_sgd.noise_multiplier` is 1.0 and `defense.dp_sgd.epsilon` is 3.0"),
    ],
)
def test_noise_is_given_once(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        DPSGD(**settings)  # type: ignore[arg-type]


def test_it_says_what_it_is() -> None:
    assert DPSGD().describe() == "DP-SGD with noise multiplier 1, clipping norm 1"
    described = DPSGD(noise_multiplier=None, epsilon=3.5, clip_norm=0.1).describe()
    assert described == "DP-SGD with epsilon 3.5, clipping norm 0.1"
    assert isinstance(DPSGD(), TrainingDefense)
    assert not isinstance(DPSGD(), OutputDefense)


def test_the_default_recipe_takes_it_and_other_defences_stand_beside_it() -> None:
    adapted = L2(strength=0.5).adapt(DPSGD().adapt(default_recipe()))
    assert adapted.gradient_rule == DPSGD()
    assert adapted.sampler == PoissonSampler(batch_size=100)
    assert (adapted.epochs, adapted.batch_size) == (100, 100)
    assert default_recipe().sampler is StackBatches


def test_a_public_number_of_records_fixes_the_steps() -> None:
    adapted = DPSGD(num_records=1000).adapt(recipe_with(batch_size=96))
    assert adapted.sampler == PoissonSampler(batch_size=96, num_records=1000)
    assert [adapted.steps_per_epoch(n) for n in (900, 1000, 1100)] == [11, 11, 11]
    guarantees = {DPSGD(num_records=1000).guarantee(recipe_with(batch_size=96), n) for n in (900, 1000, 1100)}
    (guarantee,) = guarantees
    assert (guarantee.num_records, guarantee.sample_rate, guarantee.steps) == (1000, 0.096, 33)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"gradient_clip_norm": 1.0}, r"`training.gradient_clip_norm` is 1\.0, which does not go with defense=dp_sgd"),
        ({"accumulate_batches": 2}, "`training.accumulate_batches` is 2, which does not go with defense=dp_sgd"),
        ({"early_stopping": EarlyStopping()}, "the choice of the epoch is not accounted for"),
        ({"objective": lambda logits, label: cross_entropy(logits, label) - cross_entropy(logits, label).mean()},
         "`training.objective` lets the records of a batch reach each other"),
    ],
)  # fmt: skip
def test_a_recipe_that_the_accountant_cannot_follow_is_refused(
    settings: dict[str, object], sentence: str, blobs: Population
) -> None:
    with pytest.raises(InputError, match=sentence):
        DPSGD().adapt(recipe_with(**settings))
    # Also where another defence sets it afterwards.
    later = replace(DPSGD().adapt(recipe_with()), **settings)
    with pytest.raises(InputError, match=sentence):
        train_with(
            Engine(seed=0, settings=TrainerSettings(accelerator="cpu")),
            bind_shapes(MLP, blobs.input_shape, 3),
            blobs,
            [torch.arange(40)],
            later,
            role="target",
            validation_N=torch.arange(40, 50),
        )


@dataclass(frozen=True, kw_only=True)
class Mixing(Recipe):
    """What other defences put into a recipe."""

    mix: object = None
    batch_objective: object = None


@pytest.mark.parametrize("setting", ["mix", "batch_objective"])
def test_defences_that_mix_records_are_refused(setting: str) -> None:
    plain = Mixing(epochs=3, batch_size=8, optimizer=SGD)
    assert DPSGD().adapt(plain).gradient_rule == DPSGD()
    with pytest.raises(InputError, match="leave out defences such as mixup"):
        DPSGD().adapt(replace(plain, **{setting: cross_entropy}))


def test_other_batches_are_refused(blobs: Population) -> None:
    recipe = replace(DPSGD().adapt(recipe_with()), sampler=StackBatches)
    with pytest.raises(InputError, match="needs its own Poisson batches, but another defence has changed them"):
        train(MLP, blobs, recipe)


class Centred(MLP):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Branching(MLP):
    """Looks at a value, which vmap cannot."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if float(x.detach().sum()) > 0 else 2 * x)


class Remembering(MLP):
    """Keeps a mean of the records in a buffer, in place."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__(input_shape, num_classes, hidden=[4])
        self.register_buffer("mean", torch.zeros(input_shape))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return super().forward(x)


class Squeezing(MLP):
    """Loses the axis of the records where there is one record."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x).squeeze(0)
        return logits - logits.mean(1, keepdim=True)


class Refusing(MLP):
    """Says itself what is wrong where it is given one record."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise InputError("give more records")
        return super().forward(x)


def looking(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    """A loss that looks at a value, which vmap cannot."""
    loss_KB = cross_entropy(logits_KBC, label_KB)
    return loss_KB if float(loss_KB.detach().sum()) > 0 else 2 * loss_KB


def test_a_model_that_fails_on_one_record_is_refused_with_its_own_words(blobs: Population) -> None:
    with pytest.raises(
        InputError, match=r"The model Squeezing .* on a record by itself \(Dimension out of range"
    ) as caught:
        train(Squeezing, blobs, DPSGD().adapt(recipe_with()))
    assert "vmap" not in str(caught.value)
    with pytest.raises(InputError, match=r"^give more records$"):
        train(Refusing, blobs, DPSGD().adapt(recipe_with()))


def test_a_loss_of_which_vmap_takes_no_gradient_is_refused_by_its_name(blobs: Population) -> None:
    with pytest.raises(
        InputError, match=r"`training\.objective` does not go .* vmap cannot take the gradient"
    ) as caught:
        train(MLP, blobs, DPSGD().adapt(recipe_with(objective=looking)))
    assert "MLP" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (Centred, "The model Centred does not go with defense=dp_sgd: it lets the records of a batch reach each other"),
        (Branching, "The model Branching does not go with defense=dp_sgd: it has no gradients of single records"),
        (Remembering, "The model Remembering does not go with defense=dp_sgd: vmap cannot take the gradient of each"),
        (partial(RangeScaledMLP, hidden=[4], activation="tanh"), "it takes something of its training records before"),
    ],
)
def test_a_model_that_joins_records_is_refused(make: object, sentence: str, blobs: Population) -> None:
    with pytest.raises(InputError, match=sentence):
        train(make, blobs, DPSGD().adapt(recipe_with()))


def test_batch_normalisation_is_refused(pictures: Population) -> None:
    make = partial(CNN, channels=[4], hidden=8, kernel_size=3, batch_norm=True)
    with pytest.raises(InputError, match="The model CNN does not go with defense=dp_sgd: it has batch normalisation"):
        train(make, pictures, DPSGD().adapt(recipe_with()))
    make = partial(CNN, channels=[4], hidden=8, kernel_size=3, batch_norm=False)
    assert train(make, pictures, DPSGD().adapt(recipe_with(epochs=1))).failed_epoch_K.tolist() == [-1, -1]


# --- the accountant --------------------------------------------------------------------------------------


@pytest.mark.costly
@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), [(1.1, 0.1, 30, 1e-4), (0.6, 0.01, 200, 1e-5)])
def test_epsilon_is_that_of_opacus_stepped_by_hand(noise: float, rate: float, steps: int, delta: float) -> None:
    accountant = RDPAccountant()
    for _ in range(steps):
        accountant.step(noise_multiplier=noise, sample_rate=rate)
    observed = epsilon_of(noise_multiplier=noise, sample_rate=rate, steps=steps, delta=delta)
    assert observed == pytest.approx(accountant.get_epsilon(delta), rel=1e-12)


@pytest.mark.parametrize(("epsilon", "steps"), [(0.5, 100), (3.0, 100), (8.0, 500)])
@pytest.mark.slow
def test_the_noise_meets_its_epsilon_closely(epsilon: float, steps: int) -> None:
    noise = noise_multiplier_for(epsilon=epsilon, sample_rate=0.1, steps=steps, delta=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = get_noise_multiplier(
            target_epsilon=epsilon, target_delta=1e-4, sample_rate=0.1, steps=steps, accountant="rdp"
        )
    assert noise == expected
    reached = epsilon_of(noise_multiplier=noise, sample_rate=0.1, steps=steps, delta=1e-4)
    assert epsilon - 0.01 <= reached <= epsilon


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (5.0, 20), (2.0, 16)])
def test_without_sampling_epsilon_is_a_little_above_that_of_the_gaussian_mechanism(noise: float, steps: int) -> None:
    """At q = 1 the steps are one Gaussian mechanism with μ = √steps / σ, whose ε is known exactly."""
    exact = oracles.epsilon_of_gaussian(1e-5, math.sqrt(steps) / noise)
    bound = epsilon_of(noise_multiplier=noise, sample_rate=1.0, steps=steps, delta=1e-5)
    assert exact <= bound <= 1.15 * exact


def test_the_order_that_opacus_remarks_on_is_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 < epsilon_of(noise_multiplier=50.0, sample_rate=0.1, steps=1, delta=1e-5) < 0.2
        assert epsilon_of(noise_multiplier=50.0, sample_rate=0.1, steps=1, delta=0.5) == 0.0


@pytest.mark.parametrize(("num_records", "delta"), [(1, 0.1), (9, 0.1), (10, 0.01), (999, 1e-3), (1000, 1e-4)])
def test_delta_is_the_largest_power_of_ten_below_one_over_n(num_records: int, delta: float) -> None:
    assert delta_below(num_records) == delta < 1 / num_records <= 10 * delta


def test_the_guarantee_has_all_that_it_rests_on() -> None:
    recipe = recipe_with(epochs=5, batch_size=100)
    guarantee = DPSGD(noise_multiplier=1.3).guarantee(recipe, 1250)
    rate, steps = 100 / 1250, 5 * 13
    epsilon = epsilon_of(noise_multiplier=1.3, sample_rate=rate, steps=steps, delta=1e-4)
    assert guarantee == Guarantee(
        epsilon=epsilon, delta=1e-4, noise_multiplier=1.3, sample_rate=rate, steps=steps, num_records=1250
    )
    assert DPSGD(noise_multiplier=1.3).guarantee(DPSGD(noise_multiplier=1.3).adapt(recipe), 1250) == guarantee
    told = guarantee.describe()
    for words in (
        f"({epsilon:.4g}, 0.0001)-differentially private under adding or removing one record",
        "Opacus' RDP accountant; 65 steps on Poisson samples at rate 0.08; noise multiplier 1.3",
        "the number of records, 1250, is taken as public and neither preprocessing nor the choice of settings",
    ):
        assert words in told
    chosen = DPSGD(noise_multiplier=None, epsilon=2.0, delta=1e-6).guarantee(recipe, 1250)
    assert chosen.delta == 1e-6
    assert 1.99 <= chosen.epsilon <= 2.0


def test_an_epsilon_that_cannot_be_met_is_refused_before_anything_trains(blobs: Population) -> None:
    impossible = DPSGD(noise_multiplier=None, epsilon=1e-3, delta=1e-6)
    for attempt in (
        lambda: impossible.guarantee(recipe_with(), 40),
        lambda: train(MLP, blobs, impossible.adapt(recipe_with())),
    ):
        with pytest.raises(InputError, match=r"`defense.dp_sgd.epsilon` is 0.001, which cannot be met at delta 1e-06"):
            attempt()


def test_without_opacus_only_what_needs_the_accountant_is_refused(
    blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("opacus.accountants", "opacus.accountants.utils"):
        monkeypatch.setitem(sys.modules, module, None)
    train(MLP, blobs, DPSGD().adapt(recipe_with(epochs=1)))
    for attempt in (
        lambda: DPSGD().guarantee(recipe_with(), 40),
        lambda: train(MLP, blobs, DPSGD(noise_multiplier=None, epsilon=3.21).adapt(recipe_with())),
    ):
        with pytest.raises(InputError, match=r"needs the package `opacus`.*pip install 'mia-lightning\[dp\]'"):
            attempt()


# --- training --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_mlp_learns_the_digits_under_differential_privacy() -> None:
    digits = load_digits()
    recipe = Recipe(epochs=12, batch_size=90, optimizer=partial(torch.optim.Adam, lr=0.01))
    defense = DPSGD(noise_multiplier=None, epsilon=8.0)
    records = [torch.arange(900), torch.arange(897, 1797)]
    trained = train(partial(MLP, hidden=[32]), digits, defense.adapt(recipe), records)
    assert defense.guarantee(recipe, 900).epsilon <= 8.0
    assert trained.failed_epoch_K.tolist() == [-1, -1]
    log_probability_KNC = trained.observe(digits).log_probability_KANC[:, 0]
    right_KN = log_probability_KNC.argmax(2) == digits.label_N
    assert float(right_KN[0, 900:].double().mean()) > 0.8
    assert float(right_KN[1, :897].double().mean()) > 0.8


@pytest.mark.slow
def test_models_of_unequal_size_have_noise_and_rates_of_their_own(blobs: Population) -> None:
    """Under a target epsilon, a model with fewer records needs more noise; each is the model trained alone."""
    recipe = DPSGD(noise_multiplier=None, epsilon=1.0).adapt(recipe_with(batch_size=10))
    records = [torch.arange(40), torch.arange(31)]
    models = [DPSGD(noise_multiplier=None, epsilon=1.0).guarantee(recipe, len(r)) for r in records]
    assert models[0].noise_multiplier < models[1].noise_multiplier
    together = train(MLP, blobs, recipe, records)
    alone = train(MLP, blobs, recipe, records[:1])
    for name, tensor in alone.stack.networks.state_dict().items():
        torch.testing.assert_close(together.stack.networks.state_dict()[name][:1], tensor)


def test_what_is_predicted_under_noise_does_not_follow_one_record(blobs: Population) -> None:
    """Huge noise: with or without a record that outweighs all others, the models stay close to noise alone."""
    x_N = blobs.x_N.clone()
    x_N[0] *= 1000
    population = Population(name="outlier", x_N=x_N, label_N=blobs.label_N, class_names=blobs.class_names)
    recipe = DPSGD(noise_multiplier=20.0, num_records=40).adapt(recipe_with(epochs=5))
    one, other = (
        train(nn_linear, population, recipe, [torch.arange(start, 40)]).stack.networks.state_dict() for start in (0, 1)
    )
    moved = torch.cat([(one[name] - other[name]).flatten() for name in one])
    assert float(moved.norm()) < 0.1 / 8 * 15  # lr C / B for each of 15 steps at most


def nn_linear(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return nn.Linear(input_shape[0], num_classes)
