"""Whole runs whose answers lie on disk: every attack says what it says of answers in memory, to the bit."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import mia_lightning as mia
from mia_lightning.attacks.interface import Attack
from mia_lightning.attacks.label_only import BoundaryLabelOnly
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.rmia import Rmia
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.interface import Defense
from mia_lightning.defenses.temperature import Temperature
from mia_lightning.defenses.top_k import TopK
from mia_lightning.models.mlp import MLP
from mia_lightning.run.definition import Audit
from mia_lightning.run.observation import Observation, observe_models
from mia_lightning.run.preparation import engine_of
from mia_lightning.shadows.real import Real
from mia_lightning.targets.interface import Target
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.targets.services.amazon_ml import AmazonML
from mia_lightning.targets.trained import Trained
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.plan.room import Room
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

RECIPE = Recipe(epochs=3, batches_per_epoch=3, optimizer=partial(torch.optim.Adam, lr=0.02))
ATTACKS = [
    mia.Loss(),
    Lira(),
    Rmia(online=False, a=0.5),
    mia.Shokri(hidden=[4], training=RECIPE),
    BoundaryLabelOnly(),
]


def mapped_files(folder: Path) -> int:
    """Files without a name in the folder of which this process maps pages."""
    return sum(f"{folder}/" in line for line in Path("/proc/self/maps").read_text().splitlines())


def observed(
    population: Population, *, target: Target, attacks: Sequence[Attack], defenses: Sequence[Defense], room: Room | None
) -> Observation:
    audit = Audit(
        population,
        model=partial(MLP, hidden=[8]),
        membership=mia.Halves(),
        target=target,
        shadow=Real(count=12),
        training=RECIPE,
        trainer=TrainerSettings(accelerator="cpu"),
        defenses=defenses,
        attacks=attacks,
    )
    return observe_models(engine_of(audit, Stages()), audit, room=room)


HIDES = (TopK(k=2), Temperature(temperature=2.0))


@pytest.mark.parametrize(
    ("target", "defenses"),
    [
        pytest.param(Trained(count=2), HIDES, id="trained-defended"),
        pytest.param(LeaveOneOut(folds=3), (), id="leave_one_out-open"),
        pytest.param(AmazonML(passes=1), (), id="amazon_ml-open"),
        pytest.param(Trained(count=2), (), id="trained-open"),
        pytest.param(LeaveOneOut(folds=3), HIDES, id="leave_one_out-defended"),
        pytest.param(AmazonML(passes=1), HIDES, id="amazon_ml-defended"),
    ],
)
@pytest.mark.slow
def test_attacks_say_the_same(target: Target, defenses: tuple[Defense, ...], blobs: Population, tmp_path: Path) -> None:
    reports = []
    for room in (None, Room(max_bytes=0, folder=tmp_path)):
        observation = observed(blobs, target=target, attacks=ATTACKS, defenses=defenses, room=room)
        signals = {id(each): each for each in (observation.target_signals, observation.shadow_signals)}
        assert mapped_files(tmp_path) == (0 if room is None else len(signals))
        reports.append(mia.attack(observation, attacks=ATTACKS, defenses=defenses))
        del observation, signals
    in_memory, on_disk = (report.scores for report in reports)
    assert in_memory is not None
    assert on_disk is not None
    assert len(in_memory.score) > 500
    np.testing.assert_array_equal(on_disk.score, in_memory.score)
    np.testing.assert_array_equal(on_disk.is_flagged, in_memory.is_flagged)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
