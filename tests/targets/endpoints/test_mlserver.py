"""MLServer with real scikit-learn models, asked through the Open Inference Protocol."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from given_setup import given_setup
from mlserver_process import environment, serving
from quick import quick_audit
from sklearn.ensemble import RandomForestClassifier
from sklearn.naive_bayes import GaussianNB

import mia_lightning as mia
from mia_lightning.attacks.lira import Lira
from mia_lightning.datasets.digits import load_digits
from mia_lightning.datasets.population import Population
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.models import EndpointModels, EndpointTarget
from mia_lightning.targets.endpoints.open_inference import OpenInference
from mia_lightning.targets.endpoints.sklearn import Sklearn
from mia_lightning.training.signals import AnswerForm, Signals

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mlserver")]

ASKING = Asking(batch_size=200)


@pytest.fixture(scope="module")
def digits() -> Population:
    """600 of them, of which the first third are members; the normalisation is of no concern to the models."""
    every = load_digits()
    return every.part(slice(0, 600))


@pytest.fixture(scope="module")
def estimators(digits: Population) -> dict[str, Any]:
    x, label = digits.x_N[:200].numpy(), digits.label_N[:200].numpy()
    return {
        "forest": RandomForestClassifier(30, random_state=0).fit(x, label),
        "bayes": GaussianNB(var_smoothing=0.05).fit(x.astype(np.float64), label),
    }


@pytest.fixture(scope="module")
def url(estimators: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = environment(tmp_path_factory.mktemp("mlserver") / "environment")
    with serving(place, tmp_path_factory.mktemp("models"), estimators) as url:
        yield url


def observed(target: EndpointTarget, population: Population) -> Signals:
    models = target.obtain(given_setup(population))
    assert isinstance(models, EndpointModels)
    signals = models.observe(population)
    models.close()
    return signals


@pytest.mark.parametrize("name", ["forest", "bayes"])
@pytest.mark.parametrize("normalised", [False, True])
def test_probabilities_are_those_of_the_estimator(
    url: str, estimators: dict[str, Any], digits: Population, name: str, normalised: bool
) -> None:
    population = digits if not normalised else replace(digits, x_N=digits.normalised(digits.x_N) * 16, scale=1 / 16)
    served = observed(OpenInference(url=url, model=name, output="predict_proba", asking=ASKING), population)
    here = observed(Sklearn(estimator=estimators[name]), population)
    assert torch.equal(served.log_probability_KANC, here.log_probability_KANC)
    assert served.form == here.form
    wanted = estimators[name].predict_proba(population.x_N.numpy())
    shown = served.log_probability_KANC[0, 0].double().exp().numpy()
    np.testing.assert_allclose(
        shown, wanted, atol=1e-6 if served.form.digits is None else 0.5 * 10**-served.form.digits
    )


@pytest.mark.parametrize("output", [None, "predict"])
def test_labels_are_taken_for_labels(
    url: str, estimators: dict[str, Any], digits: Population, output: str | None
) -> None:
    served = observed(OpenInference(url=url, model="forest", output=output, asking=ASKING), digits)
    assert served.form == AnswerForm(kind="labels")
    label_N = served.log_probability_KANC[0, 0].argmax(1)
    assert label_N.tolist() == estimators["forest"].predict(digits.x_N.numpy()).tolist()


def audit(population: Population, target: EndpointTarget) -> mia.AuditReport:
    options = quick_audit(attacks=[mia.Loss(), Lira(online=False)])
    membership = mia.Given(member_N=list(range(200)))
    return mia.audit(population, target=target, membership=membership, shadow=mia.Real(count=8), **options)


@pytest.mark.parametrize("name", ["forest", "bayes"])
def test_an_audit_through_the_network_is_that_of_the_estimator(
    url: str, estimators: dict[str, Any], digits: Population, name: str
) -> None:
    served = audit(digits, OpenInference(url=url, model=name, output="predict_proba", asking=ASKING))
    here = audit(digits, Sklearn(estimator=estimators[name]))
    assert served.scores is not None
    assert here.scores is not None
    np.testing.assert_array_equal(served.scores.score, here.scores.score)
    assert served.target.train_accuracy == here.target.train_accuracy
    assert served.target.test_accuracy == here.target.test_accuracy
    if name == "forest":  # which knows its records by heart
        assert served.target.train_accuracy == 1.0
        assert served.attacks[0].overall.auc.value > 0.6
