"""An audit of a model that answers over a network finds what one of the same model in memory finds."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fault_proxy import FaultProxy
from model_server import Model, ModelServer, serving
from torch import nn

import mia_lightning as mia
from mia_lightning.attacks.lira import Lira
from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.population import Population
from mia_lightning.models.mlp import MLP
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.pace import Pace
from mia_lightning.targets.endpoints.predict_v1 import PredictV1

NETWORK = partial(MLP, hidden=[16], activation="relu", dropout=0.0)
NUM, MEMBERS = 160, list(range(0, 160, 2))


@pytest.fixture(scope="module")
def digits() -> Population:
    all_digits = load_digits()
    return replace(all_digits, x_N=all_digits.x_N[:NUM].contiguous(), label_N=all_digits.label_N[:NUM].contiguous())


@pytest.fixture(scope="module")
def network(digits: Population) -> nn.Module:
    """Trained on its members until it knows them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORK(digits.input_shape, digits.num_classes)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        x_N = digits.records(torch.arange(NUM))
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x_N[MEMBERS]), digits.label_N[MEMBERS]).backward()
            optimizer.step()
    return network.eval()


@contextmanager
def served(network: nn.Module, digits: Population, *, rate: float = 0.0) -> Iterator[tuple[Model, str]]:
    """Softmax of the network's logits, with faults on the way at a rate."""

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            records = digits.normalised(torch.from_numpy(x).to(digits.x_N.dtype))
            return network(records).double().softmax(1).numpy()

    model = Model(predict)
    with ExitStack() as stack:
        server = stack.enter_context(serving(ModelServer(model)))
        if rate == 0.0:
            yield model, server.url
        else:
            yield model, stack.enter_context(serving(FaultProxy(server.server_address[1], rate=rate, seed=0))).url


def audit(digits: Population, target: Any, **options: Any) -> mia.AuditReport:
    return mia.audit(
        digits,
        model=NETWORK,
        target=target,
        membership=mia.Given(member_N=MEMBERS),
        shadow=options.pop("shadow", mia.Real(count=8)),
        attacks=options.pop("attacks", [mia.Loss(), Lira(online=False)]),
        training=mia.Recipe(epochs=10, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.02)),
        trainer=mia.TrainerSettings(accelerator="cpu"),
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "rate"), [pytest.param(OpenInference, 0.3, marks=pytest.mark.slow), (PredictV1, 0.0)]
)
def test_the_scores_are_those_of_the_model_in_memory(
    protocol: Any, rate: float, digits: Population, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = Pace._sleep
    monkeypatch.setattr(Pace, "_sleep", lambda self, seconds: sleep(self, seconds / 1000))
    expected = audit(digits, network)
    with served(network, digits, rate=rate) as (model, url):
        asking = Asking(responses=tmp_path / "responses", retries=30, sentinels=0)
        target = protocol(url=url, model="digits", asking=asking)
        found = audit(digits, target)
        assert len(model.asked) == NUM
        asked = model.num_asked
        again = audit(digits, target)
        assert model.num_asked == asked  # a second attack pays nothing
    assert expected.scores is not None
    for report in (found, again):
        assert report.scores is not None
        for name in ("attack", "target", "record", "label", "is_member"):
            np.testing.assert_array_equal(getattr(report.scores, name), getattr(expected.scores, name))
        np.testing.assert_allclose(report.scores.score, expected.scores.score, rtol=1e-4, atol=1e-4)
        assert report.target.train_accuracy == expected.target.train_accuracy
    assert found.scores is not None
    assert again.scores is not None
    np.testing.assert_array_equal(again.scores.score, found.scores.score)


@pytest.mark.slow
def test_shadow_records_are_made_by_asking_it(digits: Population, network: nn.Module) -> None:
    source = mia.ModelBased(count=2, records_per_class=4, k_max=16, conf_min=0.12, iter_max=20, rounds=1)
    with served(network, digits) as (model, url):
        target = OpenInference(url=url, model="digits", asking=Asking(sentinels=0, batch_size=256))
        report = audit(digits, target, shadow=source, attacks=[mia.Loss()])
        assert report.scores is not None
        assert max(model.asked.values()) == 1
        in_memory = audit(digits, network, shadow=source, attacks=[mia.Loss()])
        # Chains compare probabilities, of which the served ones have more digits, and so may go other ways.
        assert model.num_asked > NUM + 10 * 4
    assert report.target.train_accuracy == in_memory.target.train_accuracy


def test_what_the_server_lacks_ends_the_audit_in_a_sentence(digits: Population, network: nn.Module) -> None:
    with served(network, digits) as (model, url):
        target = OpenInference(url=url, model="digits", output="absent", asking=Asking(sentinels=0))
        with pytest.raises(mia.InputError, match=r"none of which is target.output=absent"):
            audit(digits, target)
        target = OpenInference(url=url, model="digits", asking=Asking(budget=100))
        asked = model.num_asked
        with pytest.raises(
            mia.InputError, match=r"160 different records.*budget=100 has only 100 left, so nothing was asked"
        ):
            audit(digits, target)
        assert model.num_asked == asked
