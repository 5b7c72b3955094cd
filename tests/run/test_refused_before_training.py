"""Whatever can be refused is refused before any role is trained, whichever role it concerns."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mia_lightning as mia
from mia_lightning.attacks.quantile_regression import QuantileRegression
from mia_lightning.attacks.shokri import Shokri
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.noisy import Noisy
from mia_lightning.store.artefacts import Store
from mia_lightning.targets.checkpoint import Checkpoint
from mia_lightning.targets.existing import Existing
from mia_lightning.training.chunks import OneDevice
from mia_lightning.training.engine import Engine
from mia_lightning.training.step.recipe import Recipe

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make

CPU = mia.TrainerSettings(accelerator="cpu")
SGD = partial(torch.optim.SGD, lr=0.05)
ONE_CYCLE = torch.optim.lr_scheduler.OneCycleLR


def recipe(steps: int, interval: str = "step", **others: object) -> Recipe:
    """Five epochs, in batches of ten."""
    scheduler = partial(ONE_CYCLE, max_lr=0.1, total_steps=steps)
    settings = {"epochs": 5, "batch_size": 10, "optimizer": SGD, "scheduler": scheduler, "scheduler_interval": interval}
    return Recipe(**{**settings, **others})


PLAIN = Recipe(epochs=5, batch_size=10, optimizer=SGD)


class Probabilities(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 3), nn.Softmax(dim=1))


class InEvalModeAlone(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits if self.training else logits.softmax(1)


class InTrainModeAlone(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.softmax(1) if self.training else logits


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> object:
        return self.a(x) if self.training else (self.a(x), x)


def refused_untrained(monkeypatch: pytest.MonkeyPatch, blobs: Population, **settings: object) -> str:
    def trains(*_: object) -> None:
        raise AssertionError("a model was trained")

    monkeypatch.setattr(Engine, "run", trains)
    given: dict[str, object] = {"model": partial(MLP, hidden=[4]), "training": PLAIN, "shadow": mia.Real(count=2)}
    with pytest.raises(InputError) as caught:
        mia.audit(
            blobs,
            trainer=CPU,
            **{"membership": mia.Disjoint(train_size=20), "attacks": [mia.Loss()]} | given | settings,
        )
    return str(caught.value)


GIVEN = {"target": Existing(network=nn.Linear(6, 3)), "membership": mia.Given(member_N=range(20))}


@pytest.mark.costly
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        # 20 records are 2 batches, 10 steps; the shadow models of a given target have 60 records, 30 steps.
        (
            {"training": recipe(9)},
            ["ends after step 9", "of target take 10", "5 epochs of 2 steps"],
        ),
        ({"training": recipe(29), **GIVEN}, ["`training.scheduler` ends after step 29", "of shadow take 30"]),
        ({"training": recipe(4, "epoch")}, ["ends after step 4", "of target take 5 steps of it, in 5 epochs;"]),
        ({"guess": Guess(training=recipe(3))}, ["`guess.training.scheduler` ends after step 3", "of shadow take"]),
        (
            {"training": recipe(4, accumulate_batches=2)},
            ["ends after step 4", "of target take 5 steps of it, in 5 epochs of 1 steps"],
        ),
        (
            {"shadow": Noisy(count=2), "guess": Guess(training=recipe(4, "epoch"))},
            ["`guess.training.scheduler` ends after step 4", "of shadow take 5"],
        ),
        (
            {"attacks": [Shokri(training=replace(recipe(7), batch_size=None, batches_per_epoch=2))]},
            ["`attack.shokri.training.scheduler` ends after step 7", "of attack/shokri take 10"],
        ),
        (
            {"attacks": [QuantileRegression(training=recipe(4))], "membership": mia.Halves(population=20)},
            ["`attack.quantile_regression.training.scheduler` ends after step 4", "take 10"],
        ),
        (
            {
                "training": replace(
                    PLAIN, scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, [1.0, 0.5].__getitem__)
                )
            },
            ["`training.scheduler` ends after step 1", "of target take 5"],
        ),
        ({"training": recipe(60_000, epochs=35_000)}, ["ends after step 60000", "of target take 70000"]),
        (
            {"model": Probabilities},
            ["Probabilities gives probabilities, by its last layer `1` (Softmax)", "cross-entropy"],
        ),
        ({"guess": Guess(model=Probabilities)}, ["Probabilities gives probabilities, by its last layer `1` (Softmax)"]),
        ({"model": Probabilities, **GIVEN}, ["Probabilities gives probabilities, by its last layer `1` (Softmax)"]),
        (
            {"model": partial(InEvalModeAlone, 6, 3)},
            ["gives probabilities in eval mode, by its last layer the model its"],
        ),
        ({"model": partial(InTrainModeAlone, 6, 3)}, ["gives probabilities in train mode"]),
        ({"model": Features}, ["Features gives tuple", "in eval mode"]),
        ({"guess": Guess(model=Features)}, ["Features gives tuple", "in eval mode"]),
        (
            {
                "guess": Guess(
                    model=lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
                    training=replace(PLAIN, batch_size=1),
                )
            },
            ["batches of one"],
        ),
        ({"guess": Guess(training=replace(PLAIN, early_stopping={"patience": 2}))}, ["`membership.validation`"]),
    ],
)
def test_every_role_is_checked_before_the_first_is_trained(
    monkeypatch: pytest.MonkeyPatch, blobs: Population, settings: dict[str, object], words: list[str]
) -> None:
    said = refused_untrained(monkeypatch, blobs, **settings)
    for each in words:
        assert each in said


def test_schedules_that_are_long_enough_are_taken() -> None:
    for steps, records in ((10, [20]), (25, [20, 41]), (25, [50])):
        recipe(steps).check_schedule("shadow", records)
    recipe(5, "epoch").check_schedule("shadow", [10_000])
    recipe(70_000, epochs=35_000).check_schedule("shadow", [20])


def test_log_probabilities_and_objectives_of_probabilities_are_no_fault(blobs: Population) -> None:
    def likelihood(probability_KBC: Tensor, label_KB: Tensor) -> Tensor:
        return -probability_KBC.gather(-1, label_KB[..., None]).squeeze(-1).clamp(min=1e-9).log()

    for model, training in (
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(dim=1)), PLAIN),
        (Probabilities, replace(PLAIN, objective=likelihood)),
    ):
        observation = mia.observe(
            blobs,
            model=model,
            training=training,
            shadow=mia.Real(count=2),
            trainer=CPU,
            membership=mia.Disjoint(train_size=20),
        )
        log_NC = observation.shadow_signals.log_probability_KANC[0, 0]
        network = observation.shadows.stack.model(0)  # type: ignore[attr-defined]
        with torch.no_grad():
            output = network(blobs.x_N)
        known = ~log_NC.isnan().any(1)
        expected = output.log() if model is Probabilities else output
        torch.testing.assert_close(log_NC[known], expected[known], rtol=1e-4, atol=1e-4)


def test_a_schedule_whose_end_no_check_sees_ends_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, blobs: Population
) -> None:
    monkeypatch.setattr(Recipe, "check_schedule", lambda *_: None)
    with pytest.raises(InputError, match=r"`training.scheduler` has no further step at epoch 1 of target"):
        mia.audit(
            blobs,
            model=partial(MLP, hidden=[4]),
            training=recipe(3),
            trainer=CPU,
            attacks=[mia.Loss()],
            membership=mia.Disjoint(train_size=20),
        )


@pytest.mark.costly
@pytest.mark.parametrize("softmax", [nn.Softmax(dim=1), None], ids=["layer", "function"])
def test_a_target_that_gives_probabilities_has_the_signals_of_its_logits(
    blobs: Population, softmax: nn.Module | None
) -> None:
    class Functional(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(1)

    plain = nn.Sequential(nn.Linear(6, 3))
    target = Functional(*plain) if softmax is None else nn.Sequential(*plain, softmax)

    def observed(network: nn.Module) -> mia.Observation:
        return mia.observe(
            blobs,
            model=partial(MLP, hidden=[4]),
            training=PLAIN,
            shadow=mia.Real(count=2),
            trainer=CPU,
            target=network,
            membership=mia.Given(member_N=range(20)),
        )

    expected, found = observed(plain), observed(target)
    torch.testing.assert_close(
        found.target_signals.log_probability_KANC, expected.target_signals.log_probability_KANC, rtol=1e-5, atol=1e-5
    )
    told = [each for each in found.engine.stages.remarks if "The target gives probabilities" in each]
    assert len(told) == 1
    assert ("`1` (Softmax)" in told[0]) == (softmax is not None)
    assert not any("The target gives" in each for each in expected.engine.stages.remarks)


def test_a_stack_that_fails_keeps_its_finished_chunks(
    monkeypatch: pytest.MonkeyPatch, blobs: Population, tmp_path: Path
) -> None:
    """The third chunk fails; the next run trains it and what follows alone."""
    train: Callable[..., object] = OneDevice._train
    trained: list[list[int]] = []

    def failing(self: OneDevice, begun: object, *rest: object) -> object:
        if self.job.role == "shadow":
            if len(trained) == 2 and failing.is_broken:  # type: ignore[attr-defined]
                raise InputError("the disk is full.")
            trained.append(begun.places)  # type: ignore[attr-defined]
        return train(self, begun, *rest)

    failing.is_broken = True  # type: ignore[attr-defined]
    monkeypatch.setattr(OneDevice, "_train", failing)
    settings = {
        "model": partial(MLP, hidden=[4]),
        "training": replace(PLAIN, chunk=1),
        "trainer": CPU,
        "shadow": mia.Real(count=4),
        "membership": mia.Disjoint(train_size=20),
        "store": Store(dir=tmp_path),
    }
    with pytest.raises(InputError, match="the disk is full"):
        mia.observe(blobs, **settings)
    failing.is_broken = False  # type: ignore[attr-defined]
    observation = mia.observe(blobs, **settings)
    assert trained == [[0], [1], [2], [3]]
    assert observation.engine.reused["shadow"].found == 2


def test_the_model_of_a_checkpoint_need_not_be_one_to_train_where_the_shadow_models_are_others(
    blobs: Population, tmp_path: Path
) -> None:
    network = Probabilities()
    torch.save({"model": network.state_dict()}, tmp_path / "model.pth")
    settings: dict[str, object] = {
        "model": Probabilities,
        "target": Checkpoint(path=tmp_path / "model.pth"),
        "membership": mia.Given(member_N=range(20)),
        "training": PLAIN,
        "shadow": mia.Real(count=2),
        "trainer": CPU,
    }
    with pytest.raises(InputError, match="Probabilities gives probabilities"):
        mia.observe(blobs, **settings)
    observation = mia.observe(blobs, guess=Guess(model=partial(MLP, hidden=[4])), **settings)
    with torch.no_grad():
        expected = network(blobs.x_N).log()
    torch.testing.assert_close(observation.target_signals.log_probability_KANC[0, 0], expected, rtol=1e-4, atol=1e-4)
