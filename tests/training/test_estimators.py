"""Estimators one by one: how they are made, fitted and asked, against scikit-learn's own API and slow loops."""

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from slow_leaves import shares

from mia_lightning.attacks.normal import step_of_votes
from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.tasks import Regression
from mia_lightning.training.engine import Engine
from mia_lightning.training.estimators.answers import HIDDEN, log_probabilities, way_of
from mia_lightning.training.estimators.estimators import EstimatorModels, fit_estimators
from mia_lightning.training.estimators.frames import Layout, RecordFiles
from mia_lightning.training.estimators.leaves import structure_of
from mia_lightning.training.estimators.making import Making, is_estimator, new_estimator, ready, seeded_alone


def blobs(N: int = 120, C: int = 3, F: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    label = np.arange(N) % C
    return (draw.normal(size=(N, F)) + label[:, None]).astype(np.float32), label


def population(N: int = 120, C: int = 3) -> Population:
    x, label = blobs(N, C)
    return Population(
        name="blobs", x_N=torch.from_numpy(x), label_N=torch.from_numpy(label), class_names=tuple("abcdefgh"[:C])
    )


def fitted(
    make: Any,
    *,
    role: str = "shadow",
    engine: Engine | None = None,
    records: list[torch.Tensor] | None = None,
    **how: Any,
) -> EstimatorModels:
    people = how.pop("people", None) or population()
    N = len(people)
    records = records or [torch.arange(0, N, 2), torch.arange(1, N, 2)]
    asked = torch.ones(len(records), N, dtype=torch.bool)
    making = Making(make=make, **{"processes": 1, **how})
    return fit_estimators(making, engine or Engine(seed=3), people, records, asked, role=role)


def asked_alone(estimator: Any, x: Any, y: np.ndarray, C: int) -> np.ndarray:
    way = way_of(estimator, x, y, range(C))
    return log_probabilities(estimator, way, x, C, range(C))


def test_every_part_has_a_seed_of_its_own_and_one_thread() -> None:
    pipeline = make_pipeline(StandardScaler(), BaggingClassifier(ExtraTreesClassifier(n_jobs=4), n_jobs=2))
    first, again, other = (ready(pipeline, Layout(), seed).get_params() for seed in (5, 5, 6))
    seeds = {name: value for name, value in first.items() if name.endswith("random_state")}
    assert len(seeds) == 2
    assert len(set(seeds.values())) == 2
    assert all(again[name] == value != other[name] for name, value in seeds.items())
    assert {value for name, value in first.items() if name.endswith("n_jobs")} == {None}
    assert pipeline.get_params()["baggingclassifier__n_jobs"] == 2, "the user's own estimator was changed"


class Sparse(ClassifierMixin, BaseEstimator):
    """An estimator whose `get_params` names what it was given alone, as CatBoost's does."""

    def __init__(
        self,
        depth: int | None = None,
        thread_count: int | None = None,
        random_seed: int | None = None,
        random_state: int | None = None,
        allow_writing_files: bool | None = None,
    ) -> None:
        self.given = {name: value for name, value in locals().items() if name != "self" and value is not None}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return dict(self.given)

    def set_params(self, **given: Any) -> "Sparse":
        self.given |= given
        return self

    def fit(self, x: Any, y: Any) -> "Sparse":
        return self

    def predict(self, x: Any) -> Any:
        return np.zeros(len(x))


def test_seeds_and_threads_that_an_estimator_does_not_name_are_set_too() -> None:
    alone, other = (ready(Sparse(depth=3), Layout(), seed).get_params() for seed in (5, 6))
    assert alone.keys() == {"depth", "thread_count", "random_state", "allow_writing_files"}
    assert (alone["thread_count"], alone["allow_writing_files"]) == (1, False)
    assert alone["random_state"] != other["random_state"]
    seeded = ready(Sparse(random_seed=1, thread_count=4), Layout(), 5).get_params()
    assert seeded.keys() == {"thread_count", "random_seed", "allow_writing_files"}
    assert seeded["random_seed"] != 1
    within = ready(make_pipeline(StandardScaler(), Sparse()), Layout(), 5).get_params()
    assert within["sparse"].given.keys() == {"thread_count", "random_state", "allow_writing_files"}


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


def test_a_model_is_a_function_of_seed_role_and_number_alone() -> None:
    forest = RandomForestClassifier(5)
    records = [torch.arange(0, 120, 2)] * 3
    people = population()
    first = fitted(forest, records=records).observe(people).log_probability_KANC
    assert torch.equal(fitted(forest, records=records[:2]).observe(people).log_probability_KANC, first[:2])
    assert not torch.equal(first[0], first[1]), "two models have one seed"
    other = fitted(forest, records=records, role="target").observe(people).log_probability_KANC
    assert not torch.equal(other, first)


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one() -> None:
    forest = RandomForestClassifier(5, n_jobs=2)
    records = [torch.arange(k % 2, 120, 2) for k in range(6)]
    people = population()
    one, two = (fitted(forest, records=records, processes=processes) for processes in (1, 2))
    wanted = torch.rand(6, 120, generator=torch.Generator().manual_seed(0)) < 0.5
    for mask in (None, wanted):
        found = [each.observe(people, wanted=mask).log_probability_KANC for each in (one, two)]
        assert torch.equal(found[0].nan_to_num(1), found[1].nan_to_num(1))
    changed = people.part(slice(0, 50))
    found = [each.observe(changed).log_probability_KANC for each in (one, two)]
    assert torch.equal(*found)
    assert torch.equal(found[0], one.observe(people).log_probability_KANC[:, :, :50])


def test_models_are_chosen_and_answer_as_before() -> None:
    models, people = fitted(DecisionTreeClassifier()), population()
    second = models.select(torch.tensor([False, True]))
    assert torch.equal(second.observe(people).log_probability_KANC, models.observe(people).log_probability_KANC[1:])
    assert second.num_models == 1


@pytest.mark.usefixtures("global_generators")
def test_the_global_generators_are_seeded_and_restored() -> None:
    np.random.seed(1)
    expected = np.random.random(3)
    np.random.seed(1)
    with seeded_alone(5):
        drawn = np.random.random()
    assert np.array_equal(np.random.random(3), expected)
    with seeded_alone(5):
        assert np.random.random() == drawn


class Drawn(ClassifierMixin, BaseEstimator):
    """Not determined by its seed."""

    count = 0

    def fit(self, x: Any, y: Any) -> "Drawn":
        Drawn.count += 1
        self.share_, self.classes_ = 1 / (1 + Drawn.count), np.unique(y)
        return self

    def predict_proba(self, x: Any) -> Any:
        rest = (1 - self.share_) / (len(self.classes_) - 1)
        return np.array([[self.share_] + [rest] * (len(self.classes_) - 1)] * len(x))


def test_an_estimator_that_its_seed_does_not_determine_is_found_out() -> None:
    engine = Engine(seed=0)
    fitted(Drawn(), engine=engine)
    assert any("Drawn" in each and "not determined by its seed" in each for each in engine.stages.remarks)
    engine = Engine(seed=0)
    fitted(RandomForestClassifier(3), engine=engine)
    assert not engine.stages.remarks


def test_a_refused_resample_is_a_model_that_failed() -> None:
    people = population()
    of_one_class = (people.label_N == 0).nonzero().squeeze(1)
    models = fitted(LogisticRegression(), records=[torch.arange(0, 120, 2), of_one_class])
    assert models.failed_epoch_K.tolist() == [-1, 0]
    assert models.failure is not None
    assert "class" in models.failure
    answers = models.observe(people).log_probability_KANC
    assert bool(answers[1].isnan().all())
    assert bool(answers[0].isfinite().all())


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


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (5, "int"),
        ("RandomForestClassifier", "target.estimator._target_=, such as sklearn.ensemble"),
        (lambda: object(), "object, which has no `fit`"),
        (StandardScaler, "StandardScaler, which has none of predict_proba"),
        (LinearRegression(), "LinearRegression, which predicts numbers"),
        (KMeans(3), "KMeans, which learns nothing of labels; give a classifier"),
        (GaussianMixture(3), "GaussianMixture, which learns nothing of labels"),
        (make_pipeline(StandardScaler(), IsolationForest()), "Pipeline, which learns nothing of labels"),
    ],
)
def test_what_makes_no_classifier_is_refused(make: Any, named: str) -> None:
    with pytest.raises(InputError) as caught:
        new_estimator(make)
    assert named in str(caught.value)


def test_one_that_cannot_be_pickled_is_fitted_in_this_process() -> None:
    lock = threading.Lock()

    def make() -> Any:
        with lock:
            return DecisionTreeClassifier()

    engine = Engine(seed=0)
    models = fitted(make, engine=engine, processes=2)
    assert models.failure is None
    assert any("cannot be sent to other processes" in each for each in engine.stages.remarks)


class Ends(LogisticRegression):
    def fit(self, x: Any, y: Any) -> Any:
        import os

        os._exit(1)


@pytest.mark.slow
def test_a_process_that_ends_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"ended before it was done.*target\.processes"):
        fitted(Ends(), processes=2)


def table() -> Population:
    """Two columns of numbers, one with gaps, and two of categories."""
    x, label = blobs(C=2, F=2)
    x[::9, 1] = np.nan
    fields = [
        Field(name="numbers", kind="numeric", shape=(2,), columns=("age", "hours"), has_gaps=True),
        Field(
            name="codes",
            kind="category",
            dtype=torch.int64,
            shape=(2,),
            sizes=(2, 3),
            columns=("sex", "work"),
            vocabulary=(("f", "m"), ("none", "some", "much")),
        ),
    ]
    form = Form.of(fields)
    codes = torch.stack([torch.from_numpy(label), torch.arange(120) % 3], 1)
    return Population(
        name="table",
        x_N=form.packed({"numbers": torch.from_numpy(x), "codes": codes}),
        label_N=torch.from_numpy(label),
        class_names=("no", "yes"),
        form=form,
    )


class Seen(ClassifierMixin, BaseEstimator):
    """Keeps what it is given."""

    frames: list[Any] = []  # noqa: RUF012

    def fit(self, x: Any, y: Any) -> "Seen":
        Seen.frames.append(x)
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x: Any) -> Any:
        return np.full((len(x), len(self.classes_)), 1 / len(self.classes_))


def test_a_pipeline_gets_the_table_with_its_names() -> None:
    pytest.importorskip("pandas", reason="needs pandas: pip install pandas")
    Seen.frames.clear()
    fitted(make_pipeline(Seen()), people=table())
    frame = Seen.frames[0]
    assert list(frame.columns) == ["age", "hours", "sex", "work"]
    assert frame["sex"].tolist()[:3] == ["f", "f", "f"]
    assert frame["work"].tolist()[:3] == ["none", "much", "some"]
    assert frame["hours"].isna().sum() == sum(i % 9 == 0 for i in range(0, 120, 2))


def test_a_bare_estimator_gets_columns_of_numbers_fitted_on_its_own_records() -> None:
    people, engine = table(), Engine(seed=0)
    records = [torch.arange(0, 60), torch.arange(60, 120)]
    Seen.frames.clear()
    fitted(Seen(), people=people, engine=engine, records=records)
    values = people.form.unpacked(people.x_N)  # type: ignore[union-attr]
    for given, rows in zip((Seen.frames[0], Seen.frames[-1]), records, strict=True):
        numbers, codes = values["numbers"][rows].numpy().copy(), values["codes"][rows].numpy()
        numbers[np.isnan(numbers[:, 1]), 1] = np.nanmedian(numbers[:, 1])
        # Categories in the order of their names: f, m; much, none, some.
        one_hot = [codes[:, 0] == 0, codes[:, 0] == 1, *(codes[:, 1] == place for place in (2, 0, 1))]
        assert np.allclose(np.asarray(given, float), np.column_stack([numbers, *one_hot]).astype(float))
    assert any("ColumnTransformer" in each for each in engine.stages.notes)


def test_records_that_are_no_table_are_refused() -> None:
    form = Form.of([Field(kind="tokens", dtype=torch.int64, shape=(4,), padding=0, sizes=(9,))])
    people = Population(
        name="texts",
        x_N=torch.ones(120, 4, dtype=torch.int64),
        label_N=torch.arange(120) % 2,
        class_names=("a", "b"),
        form=form,
    )
    with pytest.raises(InputError, match=r"texts.*tokens"):
        fitted(DecisionTreeClassifier(), people=people)


def test_leaves_against_a_slow_loop() -> None:
    x, y = blobs(N=90)
    for estimator in (
        DecisionTreeClassifier(max_depth=5, random_state=0),
        RandomForestClassifier(4, random_state=0),
        make_pipeline(StandardScaler(), RandomForestClassifier(3, min_samples_leaf=3, random_state=0)),
        GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [3]}, cv=2),
        BaggingClassifier(DecisionTreeClassifier(), 3, random_state=0),
    ):
        estimator.fit(x, y)
        inner, z = getattr(estimator, "best_estimator_", estimator), x
        if hasattr(inner, "steps"):
            inner, z = inner.steps[-1][1], inner[:-1].transform(x)
        trees = [inner] if hasattr(inner, "tree_") else inner.estimators_
        found = structure_of(estimator, x, y)
        assert found is not None
        assert (found.alone, found.disclosed) == pytest.approx(shares(trees, z.astype(np.float32), y))
        assert found.num_leaves == sum(int((tree.tree_.children_left == -1).sum()) for tree in trees)
        assert (found.num_trees, found.num_records) == (len(trees), 90)
        assert found.num_nodes == sum(len(tree.tree_.children_left) for tree in trees)
    assert structure_of(LogisticRegression().fit(x, y), x, y) is None


@pytest.mark.parametrize(("atoms", "C"), [(1, 2), (5, 2), (50, 3)])
def test_the_step_of_a_vote(atoms: int, C: int) -> None:
    def phi(votes: float) -> float:
        share = (votes + 1 / C) / (atoms + 1)
        return math.log(share / (1 - share))

    for votes in np.linspace(0, atoms, 4 * atoms + 1):
        low = min(max(votes - 0.5, 0.0), atoms - 1.0)
        found = step_of_votes(torch.tensor(phi(votes), dtype=torch.float64), atoms, C)
        assert float(found) == pytest.approx(phi(low + 1) - phi(low), rel=1e-6)


def test_a_file_that_is_lost_is_a_fit_more(tmp_path: Path) -> None:
    models, people = fitted(RandomForestClassifier(3)), population()
    before = models.observe(people.part(slice(0, 40))).log_probability_KANC
    for fit in models._fits:
        Path(fit.path).unlink()
    assert torch.equal(models.observe(people.part(slice(0, 40))).log_probability_KANC, before)


class WithoutNumbers(LogisticRegression):
    def predict_proba(self, X: Any) -> Any:
        return np.where(np.arange(len(X))[:, None] == 1, np.nan, super().predict_proba(X))


class Leaves(LogisticRegression):
    def fit(self, X: Any, y: Any) -> Any:
        raise SystemExit(3)


def test_an_estimator_does_not_end_the_process() -> None:
    assert fitted(Leaves).failure == "SystemExit: 3"


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


def test_a_fault_that_is_not_the_estimators_is_not_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(files: RecordFiles, index: np.ndarray) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(RecordFiles, "rows", lost)
    with pytest.raises(OSError, match="the disk is gone"):
        fitted(DecisionTreeClassifier())
