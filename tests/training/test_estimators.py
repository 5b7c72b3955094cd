"""Estimators one by one: how they are made, fitted and asked, against scikit-learn's own API and slow loops."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fitted_estimators import blobs, fitted, population
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.ensemble import BaggingClassifier, ExtraTreesClassifier, IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from slow_leaves import shares

from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.training.engine import Engine
from mia_lightning.training.estimators.frames import Layout, RecordFiles
from mia_lightning.training.estimators.leaves import structure_of
from mia_lightning.training.estimators.making import new_estimator, ready, seeded_alone


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


def test_a_file_that_is_lost_is_a_fit_more(tmp_path: Path) -> None:
    models, people = fitted(RandomForestClassifier(3)), population()
    before = models.observe(people.part(slice(0, 40))).log_probability_KANC
    for fit in models._fits:
        Path(fit.path).unlink()
    assert torch.equal(models.observe(people.part(slice(0, 40))).log_probability_KANC, before)


class Leaves(LogisticRegression):
    def fit(self, X: Any, y: Any) -> Any:
        raise SystemExit(3)


def test_an_estimator_does_not_end_the_process() -> None:
    assert fitted(Leaves).failure == "SystemExit: 3"


def test_a_fault_that_is_not_the_estimators_is_not_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(files: RecordFiles, index: np.ndarray) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(RecordFiles, "rows", lost)
    with pytest.raises(OSError, match="the disk is gone"):
        fitted(DecisionTreeClassifier())
