"""A target that shows less than it knows is attacked as one behind the output defence that hides as much."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quick import quick_audit
from torch import Tensor

import mia_lightning as mia
from mia_lightning.attacks.thresholds import ModifiedEntropy
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.interface import OutputDefense, apply_all
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.top_k import TopK
from mia_lightning.models.mlp import MLP
from mia_lightning.shadows.model_based import ModelBased
from mia_lightning.targets.existing import Existing
from mia_lightning.training.models import Models
from mia_lightning.training.plan.room import Room
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import AnswerForm, Signals
from mia_lightning.training.trained import TrainedStack

FORMS: list[tuple[AnswerForm, tuple[OutputDefense, ...]]] = [
    (AnswerForm(), ()),
    (AnswerForm(kind="labels"), (LabelsOnly(),)),
    (AnswerForm(kind="top_k", k=2), (TopK(k=2),)),
    (AnswerForm(digits=1), (Rounding(digits=1),)),
    (AnswerForm(kind="top_k", k=2, digits=2), (TopK(k=2), Rounding(digits=2))),
]


class Terse(Models):
    """Models whose answers have lost something before anybody sees them."""

    num_models = 1
    architecture_name = "unknown"

    def __init__(self, whole: TrainedStack, form: AnswerForm, hides: tuple[OutputDefense, ...]) -> None:
        self.whole, self.form, self.hides = whole, form, hides
        self.failed_epoch_K = torch.tensor([-1])

    def _observed(self, population: Population, wanted_KN: Tensor, room: Room, answered: Any) -> Signals:
        signals = self.whole.observe(population, room=room, wanted=wanted_KN, answered=answered)
        return replace(
            signals, log_probability_KANC=apply_all(self.hides, signals.log_probability_KANC), form=self.form
        )

    def select(self, kept_K: Tensor) -> "Terse":
        return self

    def save(self, path: Path) -> None:
        raise AssertionError


@dataclass(frozen=True, eq=False, kw_only=True)
class TerseTarget(Existing):
    form: AnswerForm
    hides: tuple[OutputDefense, ...]

    def obtain(self, setup: Setup) -> Terse:  # type: ignore[override]
        return Terse(super().obtain(setup), self.form, self.hides)


def network() -> MLP:
    torch.manual_seed(0)
    return MLP((6,), 3, hidden=[8])


@pytest.mark.costly
@pytest.mark.parametrize(("form", "hides"), FORMS)
@pytest.mark.usefixtures("global_generators")
def test_shadow_models_answer_as_the_target_does(
    blobs: Population, form: AnswerForm, hides: tuple[OutputDefense, ...]
) -> None:
    settings = quick_audit(
        membership=mia.Given(member_N=torch.arange(60)),
        shadow=mia.Real(count=4),
        attacks=[mia.Loss(), ModifiedEntropy()],
    )
    terse = mia.audit(blobs, **settings, target=TerseTarget(network=network(), form=form, hides=hides))
    behind = mia.audit(blobs, **settings, target=network(), defenses=hides)
    assert terse.scores is not None
    assert behind.scores is not None
    assert (terse.scores.score == behind.scores.score).all()
    assert [attack.overall for attack in terse.attacks] == [attack.overall for attack in behind.attacks]
    assert terse.threat_model is not None
    assert behind.threat_model is not None
    assert terse.threat_model.access == behind.threat_model.access
    assert (terse.threat_model.access == "full") == (not hides)
    assert terse.defense is None  # nobody defended it on purpose
    assert [attack.adaptive for attack in terse.attacks] == [False, False]


@pytest.mark.slow
@pytest.mark.usefixtures("global_generators")
def test_shadow_records_are_made_from_what_is_seen(blobs: Population) -> None:
    """Of labels alone the search sees probabilities of 1."""
    settings = quick_audit(
        membership=mia.Given(member_N=torch.arange(60)),
        shadow=ModelBased(count=2, records_per_class=2, k_max=4, iter_max=60),
        attacks=[mia.Loss()],
    )
    hides = (LabelsOnly(),)
    form = AnswerForm(kind="labels")
    terse = mia.audit(blobs, **settings, target=TerseTarget(network=network(), form=form, hides=hides))
    behind = mia.audit(blobs, **settings, target=network(), defenses=hides)
    assert terse.shadow.synthesis == behind.shadow.synthesis
    assert not any("defended target" in warning for warning in terse.warnings)
    assert any("defended target" in warning for warning in behind.warnings)
