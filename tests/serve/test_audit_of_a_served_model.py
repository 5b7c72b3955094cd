"""An audit of a model behind `mia-serve` is that of the same model in memory."""

from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from serve.conftest import make_run
from serving import served

import mia_lightning as mia
from mia_lightning.attacks.boundary_label_only import BoundaryLabelOnly
from mia_lightning.attacks.lira import LiraOffline
from mia_lightning.datasets.location import load_location
from mia_lightning.models.mlp import MLP
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.predict_v1 import PredictV1
from mia_lightning.targets.existing import Checkpoint

TRAINING = mia.Recipe(epochs=10, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.005))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [OpenInference, PredictV1])
def test_location_over_the_network_as_in_memory(protocol: Any, shared_data: Path, tmp_path: Path) -> None:
    location = shared_data / "location"
    with chdir(tmp_path):
        run = make_run(tmp_path / "run", "dataset=location", f"dataset.root={location}", "dataset.train_size=400")
    population = load_location(root=location)
    settings: dict[str, Any] = {
        "model": partial(MLP, hidden=[16]),
        "membership": mia.Given(path=run / "members.csv"),
        "shadow": mia.Real(count=8),
        "attacks": [mia.Loss(), mia.Shokri(), LiraOffline(), BoundaryLabelOnly(draws=1)],
        "training": TRAINING,
        "trainer": mia.TrainerSettings(accelerator="cpu"),
    }
    here = mia.audit(population, target=Checkpoint(path=run / "target.safetensors"), **settings)
    with served(str(run)) as client:
        target = protocol(url=str(client.base_url).rstrip("/"), model="target", asking=Asking(batch_size=128))
        there = mia.audit(population, target=target, **settings)
        counted = client.get("/counts").json()["records"]
    assert here.scores is not None
    assert there.scores is not None
    np.testing.assert_array_equal(there.scores.score, here.scores.score)
    assert there.attacks == here.attacks
    assert there.target.generalization_gap == here.target.generalization_gap
    assert there.endpoint is not None
    assert there.endpoint.num_sent == counted
    assert (there.endpoint.num_varied, there.endpoint.num_changed) == (0, 0)
