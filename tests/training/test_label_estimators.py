"""Estimators of several labels, against scikit-learn's own API."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

import mia_lightning as mia
from mia_lightning.errors import InputError
from mia_lightning.training.engine import Engine
from mia_lightning.training.estimators.answers import HIDDEN, SMALLEST, votes_of
from mia_lightning.training.estimators.estimators import EstimatorModels, Making, fit_estimators
from mia_lightning.training.estimators.frames import Layout
from mia_lightning.training.estimators.label_answers import way_of_labels
from mia_lightning.training.estimators.making import is_fitted, new_estimator, ready

N, F = 90, 3
RECORDS = [torch.arange(0, N, 2), torch.arange(1, N, 2)]


def people(L: int = 3) -> mia.Population:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(N, F)).astype(np.float32)
    y = x[:, [0] * L] + draw.normal(size=(N, L)) > 0.3
    return mia.make_population(x, y.astype(int), task=mia.Multilabel())


def fitted(make: Any, population: mia.Population, **how: Any) -> EstimatorModels:
    asked = torch.ones(len(RECORDS), N, dtype=torch.bool)
    making = Making(make=make, processes=1, **how)
    return fit_estimators(making, Engine(seed=3), population, RECORDS, asked, role="shadow")


def alone(models: EstimatorModels, make: Any, population: mia.Population, k: int) -> Any:
    """Model k, fitted by scikit-learn's own API."""
    rows = RECORDS[k]
    own = ready(make, Layout(), models._fits[k].seed)
    return own.fit(population.x_N.numpy()[rows], population.label_N.long().numpy()[rows])


def shares(own: Any, x: np.ndarray) -> np.ndarray:
    """The probability of each label, one record and label after the other."""
    given = own.predict_proba(x)
    if not isinstance(given, list):
        return np.asarray(given)
    return np.array([[float(label[i, 1]) for label in given] for i in range(len(x))])


@pytest.mark.costly
@pytest.mark.parametrize(
    ("make", "votes"),
    [
        (RandomForestClassifier(4), 4),
        (make_pipeline(StandardScaler(), RandomForestClassifier(4)), 4),
        (KNeighborsClassifier(5), 5),
        (MultiOutputClassifier(RandomForestClassifier(4)), 4),
        (MultiOutputClassifier(LogisticRegression()), None),
        (OneVsRestClassifier(LogisticRegression()), None),
        (ClassifierChain(LogisticRegression()), None),
        (MLPClassifier((4,), max_iter=5), None),
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.filterwarnings("ignore")
def test_answers_are_the_log_probabilities_of_labels(make: Any, votes: int | None) -> None:
    population = people()
    models = fitted(make, population)
    signals = models.observe(population)
    found = signals.log_probability_KANC[:, 0].double().exp().numpy()
    for k in range(len(RECORDS)):
        expected = shares(alone(models, make, population, k), population.x_N.numpy())
        if votes is not None:
            expected = (votes * expected + 0.5) / (votes + 1)
        assert np.allclose(found[k], expected, atol=1e-6)
    assert (signals.task.name, signals.form.kind, signals.atoms) == ("multilabel", "full", votes)


@pytest.mark.costly
@pytest.mark.parametrize("make", [RandomForestClassifier(4), KNeighborsClassifier(5), MLPClassifier((4,), max_iter=5)])
@pytest.mark.filterwarnings("ignore")
def test_a_single_label_is_fitted_as_two_classes(make: Any) -> None:
    population = people(1)
    for multiple in (make, MultiOutputClassifier(make)):
        models = fitted(multiple, population)
        votes = models.atoms
        assert (votes is None) == isinstance(make, MLPClassifier)
        for k in range(len(RECORDS)):
            seed = models._fits[k].seed
            own = ready(multiple, Layout(), seed)
            inner = own if multiple is make else own.estimator
            rows = RECORDS[k]
            inner.fit(population.x_N.numpy()[rows], population.label_N.numpy()[rows, 0])
            expected = inner.predict_proba(population.x_N.numpy())[:, 1:]
            expected = expected if votes is None else (votes * expected + 0.5) / (votes + 1)
            found = models.observe(population).log_probability_KANC[k, 0].double().exp().numpy()
            assert np.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("weighs", "of"), [(True, "the records in a leaf"), (False, "one vote")])
def test_a_tree_is_smoothed_by_its_leaves(weighs: bool, of: str) -> None:
    population, tree = people(), DecisionTreeClassifier(max_depth=3)
    models = fitted(tree, population, weighs_leaves=weighs)
    found = models.observe(population).log_probability_KANC[0, 0].double().exp().numpy()
    own, x = alone(models, tree, population, 0), population.x_N.numpy()
    count = own.tree_.n_node_samples[own.apply(x)][:, None]
    whole = shares(own, x)
    expected = (count * whole + 0.5) / (count + 1) if of == "the records in a leaf" else whole
    assert np.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("make", [RidgeClassifier(), OneVsRestClassifier(LinearSVC())])
def test_scores_are_logits_of_labels(make: Any) -> None:
    population = people()
    models = fitted(make, population)
    found = models.observe(population).log_probability_KANC[0, 0].double().numpy()
    score = alone(models, make, population, 0).decision_function(population.x_N.numpy())
    assert np.allclose(found, -np.log1p(np.exp(-score)), atol=1e-5)
    assert models.method == "decision_function"


def test_labels_alone_hide_their_probabilities() -> None:
    population, make = people(), MultiOutputClassifier(LinearSVC())
    models = fitted(make, population)
    signals = models.observe(population)
    own = alone(models, make, population, 0).predict(population.x_N.numpy())
    found = signals.log_probability_KANC[0, 0].double().exp().numpy()
    assert np.allclose(found, np.where(own == 1, 1 - HIDDEN, HIDDEN), rtol=1e-5)
    assert models.shows_labels_alone
    assert signals.form.kind == "full"


def constant(kind: Any, state: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Fitted to labels of which the second is always of one state."""
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(20, 2)), draw.integers(0, 2, (20, 2))
    y[:, 1] = state
    return kind.fit(x, y), x, y


@pytest.mark.parametrize("state", [0, 1])
def test_a_state_that_was_never_seen_gets_the_share_of_one_record(state: int) -> None:
    forest, x, y = constant(RandomForestClassifier(6, random_state=0), state)
    way = way_of_labels(forest, x, y)
    found = np.exp(way.answers(forest, x, 2, ()).astype(float))
    assert way.votes.atoms == 6
    assert np.allclose(found[:, 1], (6 * state + 0.5) / 7)
    bayes, x, y = constant(MultiOutputClassifier(GaussianNB()), state)
    found = np.exp(way_of_labels(bayes, x, y).answers(bayes, x, 2, ()).astype(float))
    assert np.allclose(found[:, 1], (1 + 20 * state) / 22 if state else 1 / 22, atol=1e-6)


def test_probabilities_of_0_and_1_stay_finite() -> None:
    class Sure(ClassifierMixin, BaseEstimator):
        def predict_proba(self, x: Any) -> Any:
            return np.tile([0.0, 1.0], (len(x), 1))

    way = way_of_labels(Sure(), np.zeros((3, 1)), np.array([[0, 1], [1, 0]]))
    found = way.answers(Sure(), np.zeros((3, 1)), 2, ())
    assert found[0].tolist() == [np.float32(np.log(SMALLEST)), np.float32(-SMALLEST)]


class Answers(ClassifierMixin, BaseEstimator):
    def __init__(self, given: Any = None, classes: Any = None) -> None:
        self.given, self.classes = given, classes
        if classes is not None:
            self.classes_ = classes

    def predict_proba(self, x: Any) -> Any:
        return self.given


HALF = np.full((1, 2), 0.5)


@pytest.mark.parametrize(
    ("given", "classes", "named"),
    [
        ([HALF] * 2, None, ["2 labels", "have 3"]),
        ([HALF] * 3, [["a", "b"]] * 3, ["['a', 'b']", "0 and 1"]),
        ([HALF, HALF, np.ones((1, 3)) / 3], None, ["label 2", "[1, 3]"]),
        (np.full((1, 4), 0.5), None, ["[1, 4]", "3 labels", "MultiOutputClassifier"]),
        (np.full((1, 3), 1.5), None, ["no probability", "MultiOutputClassifier"]),
        (np.full((1, 3), np.nan), None, ["no probability"]),
    ],
)
def test_answers_that_are_none_of_the_labels_are_said(given: Any, classes: Any, named: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        way_of_labels(Answers(given, classes), np.zeros((2, 1)), np.array([[0, 1, 0], [1, 0, 1]]))
    assert all(each in str(caught.value) for each in named)
    assert "Answers" in str(caught.value)


def test_scores_of_another_shape_are_said() -> None:
    class Narrow(RidgeClassifier):
        def decision_function(self, X: Any) -> Any:
            return super().decision_function(X)[:, :1]

    failure = fitted(Narrow(), people()).failure
    assert failure is not None
    assert all(each in failure for each in ("Narrow.decision_function", "[90, 1]", "3 labels"))


@pytest.mark.parametrize(
    ("make", "takes"),
    [
        (LogisticRegression, False),
        (make_pipeline(StandardScaler(), LogisticRegression()), False),
        (LinearRegression, False),
        (DecisionTreeClassifier, True),
        (MultiOutputClassifier(LogisticRegression()), True),
        (Answers, True),
    ],
)
def test_what_takes_one_label_alone_is_refused(make: Any, takes: bool) -> None:
    class Unfitted(Answers):
        def fit(self, x: Any, y: Any) -> Any:
            return self

        def __sklearn_tags__(self) -> Any:
            raise AttributeError("of another library")

    make = Unfitted if make is Answers else make
    if takes:
        assert new_estimator(make, "labels") is not None
        return
    with pytest.raises(InputError) as caught:
        new_estimator(make, "labels")
    assert "several" in str(caught.value)
    assert "MultiOutputClassifier" in str(caught.value)


def test_an_estimator_of_labels_has_learnt_or_has_not() -> None:
    x, y = people().x_N.numpy(), people().label_N.long().numpy()
    forest = RandomForestClassifier(2, random_state=0)
    for make in (forest, MultiOutputClassifier(LogisticRegression()), KNeighborsClassifier()):
        assert not is_fitted(make)
        assert is_fitted(make.fit(x, y))


@pytest.mark.parametrize("inner", [LogisticRegression(), KNeighborsClassifier(5)])
def test_a_wrapper_around_one_votes_as_that_does(inner: Any) -> None:
    x, y = people().x_N.numpy(), people().label_N.long().numpy()[:, 0]
    assert votes_of(OneVsRestClassifier(inner).fit(x, y), x).atoms == votes_of(inner.fit(x, y), x).atoms
