"""Estimators that predict numbers, and weights of records, against scikit-learn's own API."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from slow_leaves import shares

import mia_lightning as mia
from mia_lightning.errors import InputError
from mia_lightning.store.artefacts import Store
from mia_lightning.training.engine import Engine
from mia_lightning.training.estimators.estimators import EstimatorModels, fit_estimators
from mia_lightning.training.estimators.frames import Layout
from mia_lightning.training.estimators.leaves import structure_of
from mia_lightning.training.estimators.making import Making, is_fitted, new_estimator, ready, weights_keyword

N, F = 90, 3
RECORDS = [torch.arange(0, N, 2), torch.arange(1, N, 2)]


def people(task: str = "regression", D: int = 1) -> mia.Population:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(N, F)).astype(np.float32)
    y = 40 + 7 * x[:, :D] + draw.normal(size=(N, D))
    if task == "classification":
        return mia.make_population(x, (x[:, 0] + draw.normal(size=N) > 0).astype(int))
    return mia.make_population(x, y[:, 0] if D == 1 else y, task=mia.Regression())


def fitted(make: Any, population: mia.Population, *, engine: Engine | None = None) -> EstimatorModels:
    asked = torch.ones(len(RECORDS), N, dtype=torch.bool)
    making = Making(make=make, processes=1)
    return fit_estimators(making, engine or Engine(seed=3), population, RECORDS, asked, role="shadow")


@pytest.mark.parametrize(
    ("make", "D"),
    [
        (RandomForestRegressor(4), 1),
        (RandomForestRegressor(4), 2),
        (GradientBoostingRegressor(n_estimators=5), 1),
        (make_pipeline(StandardScaler(), LinearRegression()), 2),
    ],
)
def test_answers_are_predictions(make: Any, D: int) -> None:
    population = people(D=D)
    models = fitted(make, population)
    signals = models.observe(population)
    x, y = population.x_N.numpy(), population.label_N.numpy()
    for k, rows in enumerate(RECORDS):
        own = ready(make, Layout(), models._fits[k].seed).fit(x[rows], y[rows]).predict(x)
        assert np.array_equal(signals.log_probability_KANC[k, 0].numpy(), own.reshape(N, D).astype(np.float32))
    assert signals.task.name == "regression"
    assert (signals.form.kind, signals.atoms) == ("full", None)


class Wide(LinearRegression):
    def predict(self, X: Any) -> Any:
        return np.stack([super().predict(X)] * 2, 1)


class Infinite(LinearRegression):
    def predict(self, X: Any) -> Any:
        return super().predict(X) * np.inf


@pytest.mark.parametrize(("make", "named"), [(Wide, "[90, 2]"), (Infinite, "1 finite number for each of 90")])
def test_predictions_that_are_no_numbers_are_said(make: Any, named: str) -> None:
    failure = fitted(make, people()).failure
    assert failure is not None
    assert named in failure
    assert make.__name__ in failure


@pytest.mark.parametrize(
    ("make", "outputs", "named"),
    [
        (LogisticRegression, "numbers", "LogisticRegression, which predicts classes"),
        (make_pipeline(RandomForestClassifier()), "numbers", "Pipeline, which predicts classes"),
        (DecisionTreeRegressor, "classes", "DecisionTreeRegressor, which predicts numbers"),
        (KMeans, "numbers", "KMeans, which learns nothing of labels; give a regressor"),
        (LogisticRegression, "labels", "records have several"),
    ],
)
def test_what_answers_with_something_else_is_refused(make: Any, outputs: Any, named: str) -> None:
    with pytest.raises(InputError) as caught:
        new_estimator(make, outputs)
    assert named in str(caught.value)
    assert new_estimator(make, None) is not None


def test_a_regressor_has_learnt_or_has_not() -> None:
    x, y = people().x_N.numpy(), people().label_N.numpy()
    assert not is_fitted(LinearRegression())
    assert is_fitted(LinearRegression().fit(x, y))
    assert is_fitted(DummyRegressor().fit(x, y))


def test_leaves_of_regressors_against_a_slow_loop() -> None:
    x, y = people().x_N.numpy(), people().label_N.numpy().round(-1)
    for estimator in (DecisionTreeRegressor(random_state=0), GradientBoostingRegressor(n_estimators=3, random_state=0)):
        trees = np.asarray(getattr(estimator.fit(x, y), "estimators_", [estimator]), object).reshape(-1)
        found = structure_of(estimator, x, y)
        assert found is not None
        assert (found.alone, found.disclosed) == pytest.approx(shares(trees, x, y))


WEIGHT_N = torch.linspace(0.1, 5, N)


def weighted(population: mia.Population) -> mia.Population:
    return replace(population, weight_N=WEIGHT_N)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_weights_of_records_reach_the_fit(task: str) -> None:
    population = people(task)
    kind: Any = DecisionTreeClassifier if task == "classification" else DecisionTreeRegressor
    tree = make_pipeline(StandardScaler(), kind(max_depth=2))
    models = fitted(tree, weighted(population))
    found = models.observe(population).log_probability_KANC[:, 0].numpy()
    x, y, weight = population.x_N.numpy(), population.label_N.numpy(), WEIGHT_N.numpy()
    for k, rows in enumerate(RECORDS):
        own = ready(tree, Layout(), models._fits[k].seed)
        own.fit(x[rows], y[rows], **{own.steps[-1][0] + "__sample_weight": weight[rows]})
        assert (models._fits[k].weight_n == weight[rows]).all()
        if task == "regression":
            assert np.array_equal(found[k, :, 0], own.predict(x).astype(np.float32))
        else:
            count = own[-1].tree_.n_node_samples[own[-1].apply(own[:-1].transform(x))][:, None]
            assert np.allclose(np.exp(found[k]), (count * own.predict_proba(x) + 1 / 2) / (count + 1), atol=1e-6)
    assert not np.array_equal(found, fitted(tree, population).observe(population).log_probability_KANC[:, 0].numpy())


@pytest.mark.slow
def test_weights_are_part_of_a_key(tmp_path: Path) -> None:
    engine = Engine(seed=3, store=Store(dir=tmp_path))
    for population, found in ((people(), 0), (weighted(people()), 0), (weighted(people()), 2), (people(), 2)):
        fitted(DecisionTreeRegressor(), population, engine=engine)
        assert engine.reused["shadow"].found == found


@pytest.mark.parametrize(
    ("estimator", "keyword"),
    [
        (DecisionTreeRegressor(), "sample_weight"),
        (KNeighborsClassifier(), None),
        (make_pipeline(StandardScaler(), KNeighborsClassifier()), None),
        (make_pipeline(StandardScaler(), LogisticRegression()), "logisticregression__sample_weight"),
        (GridSearchCV(make_pipeline(LogisticRegression()), {}), "logisticregression__sample_weight"),
        (GridSearchCV(KNeighborsClassifier(), {}), None),
    ],
)
def test_the_keyword_of_weights(estimator: Any, keyword: str | None) -> None:
    assert weights_keyword(estimator) == keyword
