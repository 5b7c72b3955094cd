"""`plan=true`: what a run would take, a sentence for each stage, and nothing trained."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

import mia_lightning as mia
from mia_lightning.attacks.interface import DoesNotApplyError
from mia_lightning.attacks.label_only import BoundaryLabelOnly
from mia_lightning.attacks.quantile_regression import QuantileRegression
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dropout import Dropout
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.shadows.guess import Guess
from mia_lightning.shadows.marginal import Marginal
from mia_lightning.shadows.model_based import ModelBased
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.interface import Endpoint
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.targets.services.amazon_ml import AmazonML
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.setup import Setup
from mia_lightning.training.trained import TrainedStack

QUICK = {
    "model": partial(MLP, hidden=[8]),
    "membership": mia.Disjoint(train_size=20),
    "shadow": mia.Real(count=4),
    "training": mia.Recipe(epochs=8, batch_size=10, optimizer=partial(torch.optim.Adam, lr=0.02)),
    "trainer": mia.TrainerSettings(accelerator="cpu"),
}


@pytest.fixture(autouse=True)
def _nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Engine, job: TrainingJob) -> TrainedStack:
        raise AssertionError(f"{job.role} is trained")

    monkeypatch.setattr(Engine, "run", refuse)


def starts(sentences: list[str]) -> list[str]:
    return [sentence.split(":")[0] for sentence in sentences]


def test_every_stage_that_trains_has_its_sentence(blobs: Population) -> None:
    sentences = mia.estimate(blobs, **QUICK)
    assert starts(sentences) == [
        "1 target model x 8 epochs",
        "4 shadow models x 8 epochs",
        "The models answer for 500 records",  # of the shadow models about all records of the plan
        "3 attack/shokri models x 30 epochs",
        "All that is trained and answered",
    ]
    assert all("about " in sentence for sentence in sentences)


def test_the_attacker_s_guess_and_defences_are_planned_as_they_would_be_trained(blobs: Population) -> None:
    guessed = Guess(training=mia.Recipe(epochs=3, batch_size=10, optimizer=partial(torch.optim.SGD, lr=0.1)))
    sentences = mia.estimate(blobs, **QUICK, attacks=[mia.Loss()], guess=guessed)
    assert starts(sentences)[:2] == ["1 target model x 8 epochs", "4 shadow models x 3 epochs"]
    sentences = mia.estimate(blobs, **QUICK, attacks=[mia.Loss()], defenses=[Dropout()], adaptive=False)
    assert len(sentences) == 4


def test_where_every_model_is_a_target_the_attack_networks_of_all_folds_are_one_stack(blobs: Population) -> None:
    settings = {**QUICK, "membership": mia.Halves(), "target": LeaveOneOut(folds=2)}
    sentences = mia.estimate(blobs, **settings)
    assert starts(sentences) == [
        "4 shadow models x 8 epochs",
        "The models answer for 480 records",
        "6 attack/shokri models x 30 epochs",
        "All that is trained and answered",
    ]


def test_regressors_of_targets_are_planned_too(blobs: Population) -> None:
    attack = QuantileRegression()
    sentences = mia.estimate(blobs, **{**QUICK, "membership": mia.Halves()}, attacks=[attack])
    assert starts(sentences)[3] == "1 attack/quantile_regression model x 100 epochs"
    skipped = mia.estimate(blobs, **{**QUICK, "membership": mia.Halves()}, attacks=[mia.Loss()], skip_inapplicable=True)
    assert len(skipped) == 4


def test_records_that_are_made_later_are_not_estimated(blobs: Population) -> None:
    sentences = mia.estimate(blobs, **{**QUICK, "shadow": Marginal(count=4)})
    assert len(sentences) == 2
    assert sentences[0].startswith("1 target model x 8 epochs: about ")
    assert sentences[1].startswith("The shadow models train on records of shadow=marginal")


@pytest.mark.usefixtures("global_generators")
def test_a_service_is_not_estimated_and_a_target_that_is_there_takes_nothing(blobs: Population) -> None:
    sentences = mia.estimate(blobs, **{**QUICK, "target": AmazonML()}, attacks=[mia.Loss()])
    assert sentences == [
        "What a service trains is not estimated.",
        "All that is trained and answered: about 0.0 s here.",
    ]
    guessed = mia.estimate(blobs, **{**QUICK, "target": AmazonML(shadows="guessed")}, attacks=[mia.Loss()])
    assert starts(guessed) == [
        "What a service trains is not estimated.",
        "4 shadow models x 8 epochs",
        "All that is trained and answered",
    ]
    network = MLP(input_shape=(6,), num_classes=3, hidden=[4])
    given = {**QUICK, "target": network, "membership": mia.Given(member_N=torch.arange(40))}
    assert starts(mia.estimate(blobs, **given, attacks=[mia.Loss()])) == [
        "4 shadow models x 8 epochs",
        "The models answer for 600 records",
        "All that is trained and answered",
    ]


def test_a_served_model_is_asked_so_often_and_not_yet(blobs: Population) -> None:
    """Once for each record and each view of it, and twice for sentinels."""

    @dataclass(frozen=True, kw_only=True)
    class Served(EndpointTarget):
        def connect(self, setup: Setup) -> Endpoint:
            raise AssertionError("asked")

    target = Served(asking=Asking(sentinels=5, price_per_thousand=3.0))
    attack = BoundaryLabelOnly()
    settings = {**QUICK, "target": target, "membership": mia.Given(member_N=torch.arange(40)), "attacks": [attack]}
    num = len(blobs) * (1 + len(attack.needs.views)) + 10
    sentences = mia.estimate(blobs, **settings)
    assert sentences[0] == (
        f"The served model is asked about at most {num:,} records, at a cost of about {num * 3 / 1000:.2f}; kept "
        "answers cost nothing."
    )
    free = {**settings, "target": Served(), "shadow": ModelBased(count=4)}
    assert "records, and further ones to make shadow records; kept answers" in mia.estimate(blobs, **free)[0]


def test_canaries_take_their_places(blobs: Population) -> None:
    sentences = mia.estimate(blobs, **QUICK, attacks=[mia.Loss()], canaries=mia.Canaries(count=6))
    assert len(sentences) == 4


def test_what_cannot_be_run_cannot_be_planned(blobs: Population) -> None:
    few = {**QUICK, "membership": mia.Disjoint(train_size=20, population=5), "attacks": [QuantileRegression()]}
    with pytest.raises(DoesNotApplyError, match=r"population"):
        mia.estimate(blobs, **few)
    assert not any("quantile" in sentence for sentence in mia.estimate(blobs, **few, skip_inapplicable=True))
    with pytest.raises(InputError, match=r"`attack` is empty"):
        mia.estimate(blobs, **QUICK, attacks=[])
    with pytest.raises(InputError, match=r"train_size"):
        mia.estimate(blobs, **{**QUICK, "membership": mia.Disjoint(train_size=200)})
