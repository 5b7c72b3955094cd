"""Through a proxy with faults: each record once in the result, the budget held, nothing that was kept paid twice."""

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fault_proxy import FAULTS, TURNED_AWAY, FaultProxy
from model_server import Model, ModelServer, serving
from protocol_setup import population_of, setup_of
from scipy.special import softmax

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.models import EndpointModels
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.pace import Pace
from mia_lightning.targets.endpoints.predict_v1 import PredictV1

SECRET = "t0ken-that-nobody-may-see"
NUM, BATCH = 60, 5
PROTOCOLS = {"open_inference": OpenInference, "predict_v1": PredictV1}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = Pace._sleep
    monkeypatch.setattr(Pace, "_sleep", lambda self, seconds: sleep(self, seconds / 1000))
    monkeypatch.setenv("MIA_TOKEN", SECRET)


@pytest.fixture
def population() -> Population:
    return population_of(torch.randn(NUM, 4, generator=torch.Generator().manual_seed(1)))


def predict(x: np.ndarray) -> np.ndarray:
    return softmax(x[:, :3] * 3, axis=1)


@contextmanager
def served(rate: float, seed: int = 0, faults: tuple[str, ...] = FAULTS) -> Iterator[tuple[Model, FaultProxy]]:
    model = Model(predict)
    with (
        serving(ModelServer(model)) as server,
        serving(FaultProxy(server.server_address[1], rate=rate, seed=seed, faults=faults)) as proxy,
    ):
        yield model, proxy


@contextmanager
def target(url: str, protocol: str = "open_inference", **asking: Any) -> Iterator[EndpointModels]:
    settings = {"batch_size": BATCH, "retries": 60, "sentinels": 0, "timeout": 300.0, **asking}
    made = PROTOCOLS[protocol](url=url, model="m", asking=Asking(**settings))
    assert SECRET not in repr(made)
    models = made.obtain(setup_of(population_of(torch.zeros(3, 4))))
    try:
        yield models
    finally:
        models.close()


@pytest.mark.costly
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("concurrency", "seed"), [(1, 0), (4, 1)])
def test_every_record_has_its_answer_once_whatever_happens_on_the_way(
    protocol: str, concurrency: int, seed: int, population: Population, tmp_path: Path, capfd: Any
) -> None:
    with served(rate=0.5, seed=seed) as (model, proxy):
        with target(proxy.url, protocol, concurrency=concurrency, responses=tmp_path) as models:
            log_NC = models.observe(population).log_probability_KANC[0, 0]
            testimony = models.testimony()
        drawn = proxy.faults
    expected = np.log(predict(population.x_N.double().numpy())).astype(np.float32)
    assert np.array_equal(log_NC.numpy(), expected)
    assert drawn.total() > NUM // BATCH
    reached = sum(drawn[fault] for fault in drawn if fault not in TURNED_AWAY | {"cut before", "500"})
    assert model.num_asked == BATCH * reached
    assert testimony.num_sent == BATCH * sum(drawn[fault] for fault in drawn if fault not in TURNED_AWAY)
    assert testimony.num_spent == testimony.num_sent >= model.num_asked
    assert testimony.num_repeated == testimony.num_sent - NUM
    assert set(model.asked) == set(map(tuple, population.x_N.double().tolist()))
    out, err = capfd.readouterr()
    assert SECRET not in out + err + repr(testimony)
    assert all(SECRET.encode() not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.costly
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_is_overcome(fault: str, population: Population) -> None:
    with served(rate=0.6, seed=3, faults=(fault,)) as (_, proxy):
        with target(proxy.url) as models:
            log_NC = models.observe(population).log_probability_KANC[0, 0]
        assert proxy.faults[fault] > 0
    assert np.array_equal(log_NC.numpy(), np.log(predict(population.x_N.double().numpy())).astype(np.float32))


@pytest.mark.costly
@pytest.mark.parametrize("fault", sorted({*FAULTS} - {"delay"}))
def test_a_fault_that_stays_ends_in_a_sentence_without_secrets(fault: str, population: Population) -> None:
    sentence = r"did not answer records 0 to 4 in 2 attempts \(.*\)"
    with (
        served(rate=1.0, faults=(fault,)) as (_, proxy),
        target(proxy.url, retries=1, concurrency=1) as models,
        pytest.raises(InputError, match=sentence) as refusal,
    ):
        models.observe(population)
    assert SECRET not in str(refusal.value) + repr(refusal.value.__cause__) + repr(refusal.value.__context__)


@pytest.mark.costly
@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_server_is_never_asked_about_more_records_than_the_budget(
    concurrency: int, population: Population, tmp_path: Path
) -> None:
    budget, log_NC, sentences = NUM, None, []
    with served(rate=0.6, seed=5) as (model, proxy):
        while log_NC is None:
            before = model.num_asked
            with target(proxy.url, budget=budget, concurrency=concurrency, responses=tmp_path) as models:
                sentence = ""
                try:
                    log_NC = models.observe(population).log_probability_KANC[0, 0]
                except InputError as error:
                    sentence = str(error)
                    sentences.append(sentence)
                assert model.num_asked <= models.testimony().num_spent <= budget
            assert model.num_asked == before or "nothing was asked" not in sentence
            budget += 8
    assert len(sentences) > 1
    assert all("budget" in sentence for sentence in sentences)
    assert np.array_equal(log_NC.numpy(), np.log(predict(population.x_N.double().numpy())).astype(np.float32))


def in_a_child(do: Callable[[], object]) -> int:
    """The number of a process that does it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, none of which holds a lock of the child's
        number = os.fork()
    if number == 0:
        try:
            do()
        finally:
            os._exit(0)
    return number


def test_a_run_that_is_killed_asks_only_for_what_is_missing_when_it_starts_again(
    population: Population, tmp_path: Path
) -> None:
    model, go_on, stuck = Model(predict), threading.Event(), threading.Semaphore(0)

    def answer(method: str, path: str, body: Any) -> tuple[int, Any]:
        said = model(method, path, body)
        if not go_on.is_set() and model.num_asked > 6 * BATCH:
            stuck.release()
            go_on.wait(300)
        return said

    budget = NUM + 3 * BATCH
    with serving(ModelServer(answer)) as server:

        def audit() -> None:
            with target(server.url, budget=budget, concurrency=3, responses=tmp_path) as models:
                models.observe(population)

        child = in_a_child(audit)
        assert stuck.acquire(timeout=300)
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        go_on.set()
        with target(server.url, budget=budget, concurrency=3, responses=tmp_path) as models:
            log_NC = models.observe(population).log_probability_KANC[0, 0]
            testimony = models.testimony()
        assert model.num_asked <= testimony.num_spent <= budget
    assert np.array_equal(log_NC.numpy(), np.log(predict(population.x_N.double().numpy())).astype(np.float32))
    # Six requests were answered before the seventh, of which up to two could be on their way to the client's disk.
    assert 4 * BATCH <= testimony.num_found <= 6 * BATCH
    assert testimony.num_sent == NUM - testimony.num_found
    assert sum(count - 1 for count in model.asked.values()) <= 3 * BATCH
    assert max(model.asked.values()) <= 2
