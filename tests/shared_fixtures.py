"""Fixtures that the whole suite shares: small populations, and guards against leaking global state.

A plugin that `conftest.py` registers.
"""

import gc
import io
import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from zlib import crc32

import hypothesis
import numpy as np
import pytest
import torch
from command_line import call as call
from compositions import _merged_once as _merged_once
from forks import forked_commands
from hypothesis.internal.conjecture import providers
from matplotlib.figure import Figure
from torch import Tensor
from warm_processes import _warm_processes as _warm_processes

from mia_lightning.datasets.population import Population
from mia_lightning.metrics.model_free import model_free_warning
from mia_lightning.seeds import generator
from mia_lightning.training.plan.memory import free_on_host
from mia_lightning.training.plan.planner import Planner

# The same examples each time, on a machine of any speed: a change is judged by what it changes.
hypothesis.settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")
# It also draws the constants of all modules that are imported so far, which differ with the order of the tests.
providers._get_local_constants = lambda: providers._local_constants
# The background of a shell ignores Ctrl-C, and what the tests start there would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What the imports and the collection have made stays: collecting garbage need not look at it each time. Nor need
    pytest open and close each logger of torch six times a test, as it does for those that pass nothing on.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger):
            logger.propagate = True
    gc.collect()
    gc.freeze()
    gc.enable()


def _wandb() -> dict[str, str]:
    return {name: os.environ[name] for name in os.environ if name.startswith("WANDB_")}


def _seed(name: str) -> None:
    """Else they begin with entropy, and a test that draws from them fails once in a while."""
    torch.default_generator.manual_seed(seed := crc32(name.encode()))
    np.random.seed(seed)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
    """A fixture that several tests share draws the same whichever of them comes first."""
    if fixturedef.scope != "function":
        _seed(f"{fixturedef.baseid}::{fixturedef.argname}")
    return (yield)


@pytest.fixture
def global_generators(_nothing_leaks: None) -> Iterator[None]:
    """For a test that draws from the global generators on purpose, such as the weights of a network that it makes."""
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)
    random.setstate(python_state)


@pytest.fixture(autouse=True)
def _nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test leaves the global generators (a slow one may draw), torch's precision and WANDB_* as it found them."""
    _seed(request.node.nodeid)
    environment, precision = _wandb(), torch.get_float32_matmul_precision()
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    random.setstate(python_state)
    if request.node.get_closest_marker("slow") and not request.node.get_closest_marker("costly"):
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
    assert torch.get_float32_matmul_precision() == precision
    # Not `random`, from which wandb draws its waits.
    assert torch.equal(torch.get_rng_state(), torch_state), "it drew from torch's generator"
    (_, numbers, *place), (_, numbers_before, *place_before) = np.random.get_state(), numpy_state
    assert (numbers.tobytes(), *place) == (numbers_before.tobytes(), *place_before), "it drew from numpy's generator"
    assert _wandb() == environment


RASTERISED = (
    "tests/reports/test_report_files",
    "tests/reports/test_report_page",
    "tests/comparison/test_comparison_",
    "tests/remedies/test_remedies_page",
    "tests/docs/",
    "tests/benchmarks/",
)


@pytest.fixture(scope="session", autouse=True)
def _rasterised_once() -> Iterator[None]:
    """Outside the tests of pictures every picture file is the first: they are half of the time of a small run."""
    first: list[bytes] = []
    savefig = Figure.savefig

    def save(figure: Figure, place: Any, **options: Any) -> None:
        if os.environ.get("PYTEST_CURRENT_TEST", "").startswith(RASTERISED) or not isinstance(place, io.BytesIO):
            savefig(figure, place, **options)
            return
        if not first:
            savefig(figure, place, **options)
            first.append(place.getvalue())
            return
        place.write(first[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture(scope="session", autouse=True)
def _the_machine_is_looked_at_once() -> Iterator[None]:
    """What Lightning asks for each trainer (the installed packages), torch for each step of Adam (the GPUs), and the
    package for each array (how much memory is free, for which it reads nine files).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_fabric.utilities.registry.entry_points", cache(entry_points))
        patch.setattr("mia_lightning.training.plan.room.free_on_host", cache(free_on_host))
        patch.setattr("torch.cuda._device_count_nvml", cache(torch.cuda._device_count_nvml))
        yield


@pytest.fixture(scope="session", autouse=True)
def _ways_of_training_are_measured_alone() -> Iterator[None]:
    """By the time of their one thread: by the clock on the wall the other workers would have a part in what is chosen,
    and a stack of a hundred models be trained in chunks of four.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Planner.__init__.__kwdefaults__, "clock", time.thread_time)
        yield


@pytest.fixture(scope="session", autouse=True)
def _splits_are_checked_once() -> Iterator[None]:
    """Whether members differ without a model does not change from one run to the next on the same records."""
    found: dict[Any, str | None] = {}

    def check(population: Population, member_N: Tensor, nonmember_N: Tensor, *, seed: int) -> str | None:
        tensors = [each.cpu().numpy().tobytes() for each in (population.label_N, member_N, nonmember_N)]
        key = (population.record_digests().tobytes(), *tensors, seed)
        if key not in found:
            found[key] = model_free_warning(population, member_N, nonmember_N, seed=seed)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mia_lightning.run.preparation.model_free_warning", check)
        yield


@pytest.fixture(scope="session")
def forks() -> Iterator[Path]:
    """The folder of commands that are forks of a warm process (`forks.py`)."""
    with forked_commands() as folder:
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the real data sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("MIA_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets in {folder} (or in $MIA_SHARED_DATA)")
    return folder


@pytest.fixture
def blobs() -> Population:
    """120 records of 6 features around 3 class centres, with overlap: quick to train on, not separable."""
    numbers = generator(0, "blobs")
    label_N = torch.arange(120) % 3
    centre_C = torch.randn(3, 6, generator=numbers)
    x_N = centre_C[label_N] + torch.randn(120, 6, generator=numbers)
    return Population(name="blobs", x_N=x_N, label_N=label_N, class_names=("a", "b", "c"))


@pytest.fixture
def pictures() -> Population:
    """60 images [2, 6, 6] as uint8, in 3 classes."""
    numbers = generator(0, "pictures")
    x_N = torch.randint(0, 256, (60, 2, 6, 6), generator=numbers, dtype=torch.uint8)
    return Population(
        name="pictures",
        x_N=x_N,
        label_N=torch.arange(60) % 3,
        class_names=("a", "b", "c"),
        scale=1 / 255,
        mean=torch.full((2, 1, 1), 0.5),
        std=torch.full((2, 1, 1), 0.25),
    )
