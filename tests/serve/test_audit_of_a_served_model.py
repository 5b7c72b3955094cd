"""An audit of a model behind `mia-serve` is that of the same model in memory."""

from contextlib import chdir
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick import quick_audit
from serving import make_run, served

import mia_lightning as mia
from mia_lightning.attacks.label_only import BoundaryLabelOnly
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.thresholds import ModifiedEntropy
from mia_lightning.datasets.location import load_location
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.top_k import TopK
from mia_lightning.models.mlp import MLP
from mia_lightning.targets.checkpoint import Checkpoint
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.predict_v1 import PredictV1

TRAINING = mia.Recipe(epochs=10, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.005))
ONE_WAY: dict[str, Any] = {"execution": "stack", "chunk": None}


SHOWN: list[tuple[tuple[str, ...], list[Any]]] = [
    (("--answers", "labels"), [LabelsOnly()]),
    (("--answers", "top:3"), [TopK(k=3)]),
    (("--defense", "rounding.digits=2"), [Rounding(digits=2)]),
    (("--defense", "top_k.k=3", "--defense", "rounding.digits=1"), [TopK(k=3), Rounding(digits=1)]),
]


@pytest.mark.costly
@pytest.mark.parametrize(
    ("options", "hides", "protocol"),
    [  # each of the ways to hide, and each protocol, is also met in plain runs
        pytest.param(*shown, protocol, marks=() if place % 2 == (protocol is PredictV1) else pytest.mark.slow)
        for place, shown in enumerate(SHOWN)
        for protocol in (OpenInference, PredictV1)
    ],
)
def test_what_is_not_shown_is_hidden_from_shadow_models_too(
    protocol: Any, options: tuple[str, ...], hides: list[Any], run_folder: Path, digits: Population
) -> None:
    """As for the model in memory behind the output defence that hides as much; digits show in 300 numbers."""
    settings = quick_audit(
        model=partial(MLP, hidden=[16]),
        membership=mia.Given(path=run_folder / "members.csv"),
        shadow=mia.Real(count=4),
        attacks=[mia.Loss(), ModifiedEntropy()],
    )
    here = mia.audit(digits, target=Checkpoint(path=run_folder / "target.safetensors"), defenses=hides, **settings)
    with served(str(run_folder), *options) as client:
        target = protocol(url=str(client.base_url).rstrip("/"), model="target", asking=Asking(sentinels=4))
        there = mia.audit(digits, target=target, **settings)
    assert here.scores is not None
    assert there.scores is not None
    np.testing.assert_allclose(there.scores.score, here.scores.score, rtol=1e-6, atol=1e-6)
    assert there.threat_model is not None
    assert there.threat_model.access == ", ".join(each.describe() for each in hides)


@dataclass(frozen=True, kw_only=True)
class InMemory:
    """A run whose target is audited in memory: its folder, its records, and how it is audited."""

    run: Path
    population: Population
    settings: dict[str, Any]
    report: mia.AuditReport


@pytest.fixture(scope="module")
def location(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> InMemory:
    folder, root = tmp_path_factory.mktemp("location"), shared_data / "location"
    with chdir(folder):
        run = make_run(folder / "run", "dataset=location", f"dataset.root={root}", "dataset.train_size=400")
    population = load_location(root=root)
    settings: dict[str, Any] = {
        "model": partial(MLP, hidden=[16]),
        "membership": mia.Given(path=run / "members.csv"),
        "shadow": mia.Real(count=8),
        # Both are trained in one way, whichever a probe would find faster: rounding differs from way to way.
        "attacks": [
            mia.Loss(),
            mia.Shokri(training=replace(mia.Shokri().training, **ONE_WAY)),
            Lira(online=False),
            BoundaryLabelOnly(draws=1),
        ],
        "training": replace(TRAINING, **ONE_WAY),
        "trainer": mia.TrainerSettings(accelerator="cpu"),
        "store": mia.Store(dir=folder / "store"),
    }
    report = mia.audit(population, target=Checkpoint(path=run / "target.safetensors"), **settings)
    return InMemory(run=run, population=population, settings=settings, report=report)


@pytest.mark.slow
@pytest.mark.xdist_group("served location")
@pytest.mark.parametrize("protocol", [OpenInference, PredictV1])
def test_location_over_the_network_as_in_memory(protocol: Any, location: InMemory) -> None:
    """With the same shadow models, which the store holds only if they were trained on the same records."""
    here = location.report
    with served(str(location.run)) as client:
        target = protocol(url=str(client.base_url).rstrip("/"), model="target", asking=Asking(batch_size=128))
        there = mia.audit(location.population, target=target, **location.settings)
        counted = client.get("/counts").json()["records"]
    assert there.run.store["shadow"].trained == 0
    assert here.scores is not None
    assert there.scores is not None
    np.testing.assert_array_equal(there.scores.score, here.scores.score)
    assert there.attacks == here.attacks
    assert there.target.generalization_gap == here.target.generalization_gap
    assert there.endpoint is not None
    assert there.endpoint.num_sent == counted
    assert (there.endpoint.num_varied, there.endpoint.num_changed) == (0, 0)
