"""Shadow models of an attacker who knows the target only roughly."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir
from quick import quick_audit

import mia_lightning as mia
from mia_lightning.command.job import Job
from mia_lightning.command.mistakes import config_directory
from mia_lightning.datasets.augmentation import Flip
from mia_lightning.datasets.population import Population
from mia_lightning.models.logistic_regression import LogisticRegression
from mia_lightning.models.mlp import MLP

PLAN = mia.Disjoint(train_size=20)
OTHER = mia.Recipe(epochs=9, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.1))


def observe(blobs: Population, **options: object) -> mia.Observation:
    settings = quick_audit(membership=PLAN, shadow=mia.Real(count=2), **options)
    return mia.observe(blobs, **{name: value for name, value in settings.items() if name != "attacks"})


def test_the_target_stays_and_the_shadow_models_are_the_guess(blobs: Population) -> None:
    known, guessed = observe(blobs), observe(blobs, guess=mia.Guess(model=LogisticRegression, training=OTHER))
    torch.testing.assert_close(
        known.target_signals.log_probability_KANC,
        guessed.target_signals.log_probability_KANC,
        rtol=0,
        atol=0,
        equal_nan=True,
    )
    assert guessed.shadows.architecture_name == "LogisticRegression"
    alone = observe(blobs, model=LogisticRegression, training=OTHER)
    torch.testing.assert_close(
        guessed.shadow_signals.log_probability_KANC,
        alone.shadow_signals.log_probability_KANC,
        rtol=0,
        atol=0,
        equal_nan=True,
    )
    assert known.audit.guess is None
    assert guessed.audit.guess is not None


def test_each_half_of_a_guess_leaves_the_other_as_it_is(blobs: Population) -> None:
    only_model = observe(blobs, guess=mia.Guess(model=partial(MLP, hidden=[3])))
    assert len(only_model.engine.losses["shadow"][0]) == 4
    only_training = observe(blobs, guess=mia.Guess(training=OTHER))
    assert len(only_training.engine.losses["shadow"][0]) == 9
    assert only_training.shadows.num_parameters == observe(blobs).shadows.num_parameters


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda _: mia.Guess(model=MLP((6,), 3)), "`guess.model` is a MLP"),
        (lambda _: mia.Guess(training=5), "`guess.training` is 5"),
        (
            lambda blobs: observe(blobs, guess=mia.Guess(training=OTHER), target=mia.GooglePrediction()),
            "`guess` describes shadow models that are trained here",
        ),
        (
            lambda blobs: observe(blobs, guess=mia.Guess(training=OTHER), target=mia.LeaveOneOut()),
            "under target=leave_one_out they are the targets",
        ),
        (
            lambda blobs: observe(blobs, guess=mia.Guess(training=replace(OTHER, augment=(Flip(),)))),
            "has a Flip, but a record has the shape",
        ),
    ],
)
@pytest.mark.usefixtures("global_generators")
def test_guesses_that_cannot_be_are_refused(blobs: Population, make: object, sentence: str) -> None:
    with pytest.raises(mia.InputError, match=sentence):
        make(blobs)  # type: ignore[operator]


def resolved(*overrides: str) -> Job:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return Job.of(compose("config", overrides=list(overrides)))


@pytest.mark.usefixtures("global_generators")
def test_on_the_command_line_a_guess_is_what_differs() -> None:
    guess = resolved("guess.model={hidden:[5]}", "guess.training={epochs:7}").guess
    assert guess is not None
    assert guess.model is not None
    assert guess.training is not None
    network = guess.model(input_shape=(6,), num_classes=3)
    assert [tuple(p.shape) for p in network.parameters()] == [(5, 6), (5,), (3, 5), (3,)]
    assert (guess.training.epochs, guess.training.batch_size) == (7, 100)
    other = resolved("guess.model={_target_:mia_lightning.models.logistic_regression.LogisticRegression}").guess
    assert other is not None
    assert isinstance(other.model((6,), 3), LogisticRegression)  # type: ignore[misc]
    assert other.training is None
    assert resolved().guess is None


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("guess=5", "`guess` is 5"),
        ("guess.model=mlp", "`guess.model` is 'mlp'"),
    ],
)
def test_what_is_no_guess_is_refused_at_once(override: str, sentence: str) -> None:
    with pytest.raises(mia.InputError, match=sentence):
        resolved(override)
