"""Every model is asked about the records whose answers somebody reads, and about no others."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from quick import quick_audit
from torch import Tensor, nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.run import observation as module
from mia_lightning.training.engine import Engine
from mia_lightning.training.trained import TrainedStack

OWN = (mia.Loss(), mia.ClassEntropy(), mia.Shokri())
COMPARED = (mia.Lira(online=False, name="lira"), mia.Rmia(online=False, name="rmia"), mia.AttackR(), mia.AttackP())
rows: list[int] = []


class Counting(nn.Sequential):
    """Counts the rows that it answers in eval mode; under `training.execution=loop` each call is one model's."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            rows.append(len(x))
        return super().forward(x)


def asked() -> int:
    """Rows, without the few records on which an architecture is inspected."""
    return sum(num for num in rows if num >= 40)


@pytest.fixture(autouse=True)
def _count_anew() -> Iterator[None]:
    rows.clear()
    yield
    rows.clear()


@pytest.fixture(scope="module")
def many() -> Population:
    """3,000 records, of which an audit reads few."""
    generator = torch.Generator().manual_seed(1)
    x_N = torch.randn(3000, 6, generator=generator)
    return Population(name="many", x_N=x_N, label_N=x_N[:, :3].argmax(1), class_names=("a", "b", "c"))


def settings(execution: str, attacks: Any, **options: Any) -> dict[str, Any]:
    recipe = mia.Recipe(
        epochs=4, batch_size=10, optimizer=partial(torch.optim.Adam, lr=0.02), execution=execution, chunk=None
    )
    plan = {"membership": mia.Disjoint(train_size=20), "shadow": mia.Real(count=4), **options}
    return quick_audit(attacks=attacks, training=recipe, **plan)


def test_attacks_on_a_models_own_records_ask_about_these_alone(many: Population) -> None:
    mia.audit(many, **{**settings("loop", OWN[:2]), "model": Counting})
    assert asked() == 5 * 40  # a target and four shadow models


def test_attacks_that_compare_models_ask_all_of_them_about_all_records_that_are_evidence(many: Population) -> None:
    observation = mia.observe(many, **{**settings("loop", COMPARED[:1]), "model": Counting})
    evidence_N = observation.membership.scored_KN.any(0)
    assert asked() == 40 + 4 * int(evidence_N.sum())
    assert torch.equal(observation.asked_KN, evidence_N.expand(4, -1))


@pytest.mark.parametrize("attacks", [pytest.param(OWN, marks=pytest.mark.slow), COMPARED])
@pytest.mark.parametrize(
    "plan", [mia.Disjoint(train_size=20), pytest.param(mia.Halves(train_size=750), marks=pytest.mark.slow)]
)
def test_the_scores_are_those_of_asking_about_everything(
    many: Population, monkeypatch: pytest.MonkeyPatch, attacks: Any, plan: Any
) -> None:
    audit = settings("stack", attacks, membership=plan, shadow=mia.Real(count=8))
    few = mia.audit(many, **audit)
    monkeypatch.setattr(
        module, "asked_of_shadows", lambda membership, _: torch.ones_like(membership.member_KN[membership.shadows])
    )
    monkeypatch.setattr(TrainedStack, "about", lambda models, *_: models)
    everything = mia.audit(many, **audit)
    assert np.array_equal(few.scores.attack, everything.scores.attack)
    np.testing.assert_allclose(few.scores.score, everything.scores.score, rtol=1e-4, atol=1e-5)
    assert few.target == everything.target
    assert few.shadow == everything.shadow


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_answers_are_those_of_the_models_alone_and_nan_elsewhere(blobs: Population, execution: str) -> None:
    observation = mia.observe(blobs, **{**settings(execution, OWN[:1]), "model": partial(MLP, hidden=[8])})
    models = observation.shadows
    assert isinstance(models, TrainedStack)
    generator = torch.Generator().manual_seed(2)
    wanted_KN = torch.rand(4, len(blobs), generator=generator) < torch.tensor([0.0, 0.1, 0.5, 1.0])[:, None]
    counted: list[int] = []
    answers_KN = models.about(wanted_KN, counted.append).observe(blobs).log_probability_KANC[:, 0]
    assert sum(counted) == int(wanted_KN.sum())
    assert bool(answers_KN[~wanted_KN].isnan().all())
    for k in range(4):
        with torch.no_grad():
            alone = models.stack.model(k)(blobs.records(torch.arange(len(blobs)))).log_softmax(-1)
        torch.testing.assert_close(answers_KN[k][wanted_KN[k]], alone[wanted_KN[k]])


def test_an_attack_that_reads_more_asks_for_what_is_missing(many: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = settings("stack", OWN[:1])
    expected = mia.audit(many, **{**audit, "attacks": COMPARED[:1]})
    observation = mia.observe(many, **audit)
    monkeypatch.setattr(Engine, "run", lambda *_, **__: pytest.fail("something was trained"))
    report = mia.attack(observation, attacks=COMPARED[:1])
    np.testing.assert_allclose(report.scores.score, expected.scores.score, rtol=1e-5)


def test_the_store_keeps_the_answers_of_the_records_that_were_asked_about(
    many: Population, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = {**settings("stack", OWN[:1]), "store": mia.Store(dir=tmp_path, answers=True)}
    expected = mia.audit(many, **audit)
    monkeypatch.setattr(TrainedStack, "log_probability", lambda *_: pytest.fail("something was asked"))
    monkeypatch.setattr(TrainedStack, "_ask_each", lambda *_: pytest.fail("something was asked"))
    again = mia.audit(many, **audit)
    assert np.array_equal(again.scores.score, expected.scores.score)
