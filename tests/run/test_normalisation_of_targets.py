"""A target that is given records otherwise scaled than in training: the mend is named."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from roads_to_targets import Case, audit, right
from sklearn.datasets import load_digits
from torch import nn

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.run.normalisations import normalisations
from mia_lightning.targets.endpoints.sklearn import Sklearn

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make


def image_network(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(108, 10))


@dataclass(frozen=True, kw_only=True)
class Images:
    """uint8 images of digits, some labels wrong, and a network trained on them under a normalisation."""

    network: nn.Module
    population: Population
    member_N: np.ndarray


def images(mean: list[float], std: list[float], *, scale: float = 1 / 255) -> Images:
    digits = load_digits()
    rng = np.random.default_rng(0)
    label_N = np.where(rng.random(900) < 1 / 7, rng.integers(0, 10, 900), digits.target[:900])
    C = len(mean)
    x_N = np.repeat(np.round(digits.images[:900] * 15.9375).astype("uint8")[:, None], C, axis=1)
    constants = [torch.tensor(each).view(C, 1, 1) for each in (mean, std)]
    right_population = make_population(x_N, label_N, scale=scale, mean=constants[0], std=constants[1])
    member_N = rng.permutation(900) < 300
    members = torch.from_numpy(member_N.nonzero()[0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = image_network(C)
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        records = right_population.records(members)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(records), right_population.label_N[members]).backward()
            optimizer.step()
    return Images(network=network.eval(), population=right_population, member_N=member_N)


NORMALISATIONS = {
    "one channel": ([0.485], [0.225]),
    "from -1 to 1": ([0.5], [0.5]),
    "ImageNet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "MNIST": ([0.1307], [0.3081]),
}


@pytest.mark.parametrize("name", NORMALISATIONS)
@pytest.mark.slow
def test_the_normalisation_that_mends_is_named(name: str) -> None:
    mean, std = NORMALISATIONS[name]
    made = images(mean, std)
    plain = replace(made.population, mean=None, std=None)
    as_case = partial(Case, network=made.network, member_N=made.member_N, order_N=np.arange(900))
    options: Any = {"model": partial(image_network, len(mean))}
    config = {"dataset": {"mean": None, "std": None, "scale": None}}
    wrong = audit(as_case(population=plain), made.network, config=config, **options)
    assert wrong.trust.verdict == "void"
    numbers = [",".join(f"{each:g}" for each in part) for part in (mean, std)]
    if len(mean) > 1:
        numbers = [f"[{each}]" for each in numbers]
    assert wrong.trust.mend == f"set dataset.mean={numbers[0]} dataset.std={numbers[1]}"
    assert wrong.trust.cause is not None
    assert wrong.trust.cause.startswith("preprocessing")
    of_python = audit(as_case(population=plain), made.network, **options)
    assert of_python.trust.mend is not None
    assert f"mean={numbers[0]}, std={numbers[1]}" in of_python.trust.mend
    assert audit(as_case(population=made.population), made.network, **options).trust.verdict == "sound"


@pytest.mark.slow
def test_records_that_were_not_to_be_scaled() -> None:
    made = images([0.0], [1.0], scale=1.0)
    case = Case(
        network=made.network,
        population=replace(made.population, scale=1 / 255),
        member_N=made.member_N,
        order_N=np.arange(900),
    )
    found = audit(case, made.network, model=partial(image_network, 1), config={"dataset": {"mean": 0, "scale": None}})
    assert found.trust.verdict in ("void", "unconfirmed")
    if found.trust.verdict == "void":
        assert "dataset.scale=1" in str(found.trust.mend)


class Standardised:
    """Somebody's estimator, which takes columns brought to mean 0 and deviation 1."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def predict_proba(self, x_NF: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.case.network(torch.from_numpy(x_NF).float()).double().softmax(1).numpy()


@pytest.mark.slow
def test_an_estimator_that_takes_normalised_records_is_told_from_one_that_does_not() -> None:
    case = right()
    found = audit(case, Sklearn(estimator=Standardised(case), kind="network"), config={"dataset": {"mean": 50}})
    assert found.trust.verdict == "void"
    assert "mean 0 and deviation 1" in str(found.trust.cause)
    mended = audit(case, Sklearn(estimator=Standardised(case), kind="network", normalised=True))
    assert mended.trust.verdict == "sound"


@pytest.mark.slow
def test_images_that_were_to_stay_bytes_are_told() -> None:
    """Given in [0, 1], as they are in files of numpy, to a network that was trained on bytes."""
    made = images([0.0], [1.0], scale=1.0)
    whole = made.population
    case = Case(
        network=made.network,
        population=make_population(whole.x_N.float() / 255, whole.label_N),
        member_N=made.member_N,
        order_N=np.arange(900),
    )
    found = audit(case, made.network, model=partial(image_network, 1))
    assert found.trust.verdict == "void"
    assert "scale=255" in str(found.trust.mend)


@pytest.mark.parametrize(
    ("mean", "deviation", "is_tried"), [(0.0, 1.0, False), (0.1, 0.95, False), (2.0, 1.0, True), (0.0, 3.0, True)]
)
def test_records_that_are_standardised_by_other_constants_are_not_wrong(
    mean: float, deviation: float, is_tried: bool
) -> None:
    """A network that has hardly been trained may answer better about them when they are standardised once more."""
    random = np.random.default_rng(0)
    x_N = (mean + deviation * random.normal(size=(400, 8))).astype("float32")
    population = make_population(x_N, random.integers(0, 2, 400))
    names = [each.name for each in normalisations(population, as_network=True)]
    assert ("each column brought to mean 0 and deviation 1" in names) == is_tried
