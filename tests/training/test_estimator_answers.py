"""The answers of estimators: votes are smoothed, scores are logits, classes are aligned."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fitted_estimators import asked_alone, blobs, fitted, population
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from mia_lightning.attacks.normal import step_of_votes
from mia_lightning.datasets.population import make_population
from mia_lightning.tasks import Regression
from mia_lightning.training.estimators.answers import HIDDEN, log_probabilities, way_of
from mia_lightning.training.estimators.making import is_estimator


@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier])
def test_votes_of_a_forest_are_smoothed(kind: type) -> None:
    x, y = blobs()
    forest = kind(7, random_state=0).fit(x, y)
    votes = sum(tree.predict_proba(x) for tree in forest.estimators_)
    expected = np.log((votes + 1 / 3) / 8)
    assert np.allclose(asked_alone(forest, x, y, 3), expected, atol=1e-6)
    assert way_of(forest, x, y, range(3)).votes.atoms == 7


def test_two_classes_are_smoothed_by_half_a_vote() -> None:
    x, y = blobs(C=2)
    forest = RandomForestClassifier(5, random_state=0).fit(x, y)
    votes = sum(tree.predict(x) for tree in forest.estimators_)
    found = np.exp(asked_alone(forest, x, y, 2))
    assert np.allclose(found[:, 1], (votes + 0.5) / 6, atol=1e-6)
    assert np.allclose(found.sum(1), 1)


def test_nearest_neighbours_vote_and_boosting_does_not() -> None:
    x, y = blobs()
    near = KNeighborsClassifier(4).fit(x, y)
    assert np.allclose(asked_alone(near, x, y, 3), np.log((4 * near.predict_proba(x) + 1 / 3) / 5), atol=1e-6)
    boosting = GradientBoostingClassifier(n_estimators=3, random_state=0).fit(x, y)
    assert way_of(boosting, x, y, range(3)).votes.atoms is None
    assert np.allclose(asked_alone(boosting, x, y, 3), np.log(boosting.predict_proba(x)), atol=1e-6)


def test_a_tree_is_smoothed_by_the_records_in_its_leaf() -> None:
    x, y = blobs()
    tree = DecisionTreeClassifier(max_depth=2, random_state=0).fit(x, y)
    leaf = tree.apply(x)
    for i in range(0, len(x), 7):
        same = y[leaf == leaf[i]]
        expected = [math.log(((same == c).sum() + 1 / 3) / (len(same) + 1)) for c in range(3)]
        way = way_of(tree, x, y, range(3))
        assert np.allclose(log_probabilities(tree, way, x[i : i + 1], 3, range(3))[0], expected, atol=1e-6)
    assert way_of(tree, x, y, range(3)).votes.atoms is None, "leaves of several classes have finer steps than one vote"
    whole = DecisionTreeClassifier(random_state=0).fit(x, y)
    assert way_of(whole, x, y, range(3)).votes.atoms == 1


def test_scores_are_logits_and_labels_are_labels() -> None:
    x, y = blobs()
    ridge = RidgeClassifier().fit(x, y)
    expected = torch.log_softmax(torch.from_numpy(ridge.decision_function(x)).double(), 1).numpy()
    assert np.allclose(asked_alone(ridge, x, y, 3), expected, atol=1e-5)
    x, y = blobs(C=2)
    ridge = RidgeClassifier().fit(x, y)
    expected = torch.nn.functional.logsigmoid(torch.from_numpy(ridge.decision_function(x))).numpy()
    assert np.allclose(asked_alone(ridge, x, y, 2)[:, 1], expected, atol=1e-5)
    labels = Labels().fit(x, y)
    found = asked_alone(labels, x, y, 2)
    assert (found.argmax(1) == labels.predict(x)).all()
    assert set(np.unique(found).tolist()) == {np.float32(math.log(HIDDEN)).item(), 0.0}


class Labels:
    def fit(self, x: Any, y: Any) -> "Labels":
        self.tree = DecisionTreeClassifier(random_state=0).fit(x, y)
        return self

    def predict(self, x: Any) -> Any:
        return self.tree.predict(x)


def test_a_class_that_a_resample_lacks_is_aligned() -> None:
    x, y = blobs()
    kept = y != 1
    model = LogisticRegression().fit(x[kept], y[kept])
    way = way_of(model, x[kept], y[kept], range(3))
    found = np.exp(log_probabilities(model, way, x, 3, range(3)))
    n = int(kept.sum())
    assert np.allclose(found[:, 1], 1 / (n + 3))
    assert np.allclose(found.sum(1), 1, atol=1e-6)
    assert np.allclose(found[:, 2] / found[:, [0, 2]].sum(1), model.predict_proba(x)[:, 1], atol=1e-6)
    forest = RandomForestClassifier(4, random_state=0).fit(x[kept], y[kept])
    way = way_of(forest, x[kept], y[kept], range(3))
    assert np.allclose(np.exp(log_probabilities(forest, way, x, 3, range(3)))[:, 1], (0 + 1 / 3) / 5)


BOOSTING: dict[str, tuple[str, dict[str, Any]]] = {
    "xgboost": ("XGBClassifier", {}),
    "lightgbm": ("LGBMClassifier", {"verbose": -1}),
    "catboost": ("CatBoostClassifier", {"verbose": False}),
}


@pytest.mark.costly
@pytest.mark.parametrize("library", BOOSTING)
def test_boosting_of_other_libraries(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = pytest.importorskip(library, reason=f"needs {library}: pip install {library}")
    name, settings = BOOSTING[library]
    kind = getattr(module, name)
    people = population()
    without_1 = (people.label_N != 1).nonzero().squeeze(1)
    models = fitted(kind(n_estimators=3, **settings), records=[torch.arange(0, 120, 2), without_1])
    assert models.failure is None, "a gap in the classes is no reason to refuse a resample"
    probability = models.observe(people).log_probability_KANC.exp()[:, 0]
    assert torch.allclose(probability.sum(-1), torch.ones(2, 120), atol=1e-5)
    assert bool((probability.argmax(-1)[1] != 1).all())
    assert models.kind == "trees"
    again = fitted(kind(n_estimators=3, **settings), records=[torch.arange(0, 120, 2), without_1])
    assert torch.equal(again.observe(people).log_probability_KANC.exp()[:, 0], probability)
    assert not any(tmp_path.iterdir()), "the library wrote files into the current folder"


NOTHING_RANDOM: dict[str, dict[str, Any]] = {  # and no files
    "catboost": {"boosting_type": "Plain", "bootstrap_type": "No", "random_strength": 0, "allow_writing_files": False}
}


@pytest.mark.parametrize("library", BOOSTING)
def test_boosting_of_numbers_is_that_fitted_alone(library: str) -> None:
    module = pytest.importorskip(library, reason=f"needs {library}: pip install {library}")
    name, settings = BOOSTING[library]
    kind = getattr(module, name.replace("Classifier", "Regressor"))
    settings = settings | NOTHING_RANDOM.get(library, {})
    x, _ = blobs()
    value = (x[:, 0] + 0.1 * np.arange(len(x))).astype(np.float32)
    people = make_population(x, value, task=Regression())
    records = [torch.arange(0, 120, 2), torch.arange(1, 120, 2)]
    models = fitted(kind(n_estimators=3, **settings), people=people, records=records)
    found = models.observe(people).log_probability_KANC
    for k, record_n in enumerate(records):
        expected = kind(n_estimators=3, **settings).fit(x[record_n], value[record_n]).predict(x)
        assert np.allclose(found[k, 0, :, 0], expected, rtol=1e-5)


class WithoutClasses:
    def fit(self, x: Any, y: Any) -> "WithoutClasses":
        self.model = LogisticRegression().fit(x, y)
        return self

    def predict_proba(self, x: Any) -> Any:
        return self.model.predict_proba(x)


class TooManyColumns(WithoutClasses):
    def predict_proba(self, x: Any) -> Any:
        return np.full((len(x), 9), 1 / 9)


class NoDistribution(LogisticRegression):
    def predict_proba(self, x: Any) -> Any:
        return super().predict_proba(x) * 2


class WrongShape(LogisticRegression):
    def predict_proba(self, x: Any) -> Any:
        return super().predict_proba(x)[:, :2]


class OtherClasses(LogisticRegression):
    def fit(self, x: Any, y: Any) -> "OtherClasses":
        super().fit(x, y)
        self.classes_ = np.array(["a", "b", "c"])
        return self


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (TooManyColumns, "TooManyColumns has no `classes_`"),
        (NoDistribution, "NoDistribution.predict_proba gives probabilities that add up to 2"),
        (WrongShape, "WrongShape.predict_proba gives float32 of shape [120, 2]"),
        (OtherClasses, "OtherClasses has the classes ['a', 'b', 'c']"),
    ],
)
def test_answers_that_are_none_are_said(make: Any, named: str) -> None:
    failure = fitted(make).failure
    assert failure is not None
    assert named in failure


def test_an_estimator_without_classes_is_taken_where_its_columns_show_them() -> None:
    people = population()
    found = fitted(WithoutClasses).observe(people).log_probability_KANC
    assert torch.allclose(found, fitted(LogisticRegression()).observe(people).log_probability_KANC)


@pytest.mark.parametrize(("atoms", "C"), [(1, 2), (5, 2), (50, 3)])
def test_the_step_of_a_vote(atoms: int, C: int) -> None:
    def phi(votes: float) -> float:
        share = (votes + 1 / C) / (atoms + 1)
        return math.log(share / (1 - share))

    for votes in np.linspace(0, atoms, 4 * atoms + 1):
        low = min(max(votes - 0.5, 0.0), atoms - 1.0)
        found = step_of_votes(torch.tensor(phi(votes), dtype=torch.float64), atoms, C)
        assert float(found) == pytest.approx(phi(low + 1) - phi(low), rel=1e-6)


class WithoutNumbers(LogisticRegression):
    def predict_proba(self, X: Any) -> Any:
        return np.where(np.arange(len(X))[:, None] == 1, np.nan, super().predict_proba(X))


def test_answers_that_are_no_numbers_are_counted() -> None:
    failure = fitted(WithoutNumbers).failure
    assert failure is not None
    assert "WithoutNumbers.predict_proba gives NaN or infinite numbers for 1 of 120 records" in failure


def test_an_ensemble_whose_last_part_decides_how_it_answers() -> None:
    parts = [("tree", DecisionTreeClassifier()), ("linear", LogisticRegression())]
    assert is_estimator(StackingClassifier(parts))
    models = fitted(StackingClassifier(parts, cv=2))
    assert (models.failure, models.method) == (None, "predict_proba")
    scores = fitted(StackingClassifier(parts, final_estimator=LinearSVC(), cv=2))
    assert (scores.failure, scores.method) == (None, "decision_function")
