"""A scikit-learn estimator as a target."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from given_setup import given_setup
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.in_process import IN_PROCESS
from mia_lightning.targets.endpoints.sklearn import EstimatorEndpoint, Sklearn


def fitted(
    population: Population, estimator: Any = None, *, label: Callable[[Any], Any] = lambda label_N: label_N
) -> Any:
    estimator = LogisticRegression() if estimator is None else estimator
    return estimator.fit(population.x_N.flatten(1).numpy(), label(population.label_N.numpy()))


def endpoint(population: Population, estimator: Any, **options: Any) -> EstimatorEndpoint:
    return Sklearn(estimator=estimator, **options).connect(given_setup(population))


@pytest.mark.parametrize("make", [LogisticRegression, KNeighborsClassifier, lambda: RandomForestClassifier(5)])
@pytest.mark.usefixtures("global_generators")
def test_probabilities_are_those_of_the_estimator(blobs: Population, make: Callable[[], Any]) -> None:
    estimator = fitted(blobs, make())
    answers = endpoint(blobs, estimator).ask(blobs.x_N)
    np.testing.assert_array_equal(answers, estimator.predict_proba(blobs.x_N.numpy()))


def test_classes_by_other_names_come_in_the_data_sets_order(blobs: Population) -> None:
    names = np.array(["c", "a", "b"])
    shuffled = replace(blobs, class_names=("c", "a", "b"))
    estimator = fitted(blobs, label=lambda label_N: names[label_N])  # classes_ are a, b, c
    plain = fitted(blobs)
    answers = endpoint(shuffled, estimator).ask(blobs.x_N)
    np.testing.assert_allclose(answers, plain.predict_proba(blobs.x_N.numpy()), atol=1e-3)
    assert answers[0] == pytest.approx(estimator.predict_proba(blobs.x_N[:1].numpy())[0][[2, 0, 1]])


def test_the_order_of_the_classes_may_be_given(blobs: Population) -> None:
    asking = replace(IN_PROCESS, classes=("b", "c", "a"))
    estimator = fitted(blobs)
    answers = endpoint(blobs, estimator, asking=asking).ask(blobs.x_N)  # numbers are places in that order
    np.testing.assert_array_equal(answers, estimator.predict_proba(blobs.x_N.numpy()))


def test_a_class_that_it_never_saw_has_probability_0(blobs: Population) -> None:
    rows = blobs.label_N != 1
    estimator = LogisticRegression().fit(blobs.x_N[rows].numpy(), blobs.label_N[rows].numpy())
    answers = np.array(endpoint(blobs, estimator).ask(blobs.x_N))
    assert answers.shape == (120, 3)
    np.testing.assert_array_equal(answers[:, [0, 2]], estimator.predict_proba(blobs.x_N.numpy()))
    assert (answers[:, 1] == 0).all()


def test_without_probabilities_the_labels_are_the_answers(blobs: Population) -> None:
    names = np.array(["a", "b", "c"])
    estimator = fitted(blobs, RidgeClassifier(), label=lambda label_N: names[label_N])
    answers = endpoint(blobs, estimator).ask(blobs.x_N)
    assert [blobs.class_names[each] for each in answers] == estimator.predict(blobs.x_N.numpy()).tolist()
    assert all(type(each) is int for each in answers)


def test_pictures_are_flattened_and_may_be_normalised(pictures: Population) -> None:
    estimator = fitted(pictures, KNeighborsClassifier(3))
    raw = endpoint(pictures, estimator).ask(pictures.x_N)
    np.testing.assert_array_equal(raw, estimator.predict_proba(pictures.x_N.flatten(1).numpy()))
    x_NF = pictures.normalised(pictures.x_N).flatten(1).numpy()
    of_normalised = KNeighborsClassifier(3).fit(x_NF, pictures.label_N.numpy())
    normalised = endpoint(pictures, of_normalised, normalised=True).ask(pictures.x_N)
    np.testing.assert_array_equal(normalised, of_normalised.predict_proba(x_NF))


def test_bfloat16_records_are_asked_about_in_float32(blobs: Population) -> None:
    estimator = fitted(blobs)
    x_N = blobs.x_N.bfloat16()
    answers = endpoint(blobs, estimator).ask(x_N)
    np.testing.assert_array_equal(answers, estimator.predict_proba(x_N.float().numpy()))


def test_the_identity_follows_content_and_not_the_object(blobs: Population) -> None:
    def identity(estimator: Any, **options: Any) -> Any:
        return endpoint(blobs, estimator, **options).identity

    first = identity(fitted(blobs))
    assert identity(fitted(blobs)) == first
    assert identity(fitted(blobs, LogisticRegression(C=0.5))) != first
    assert identity(fitted(blobs), normalised=True) != first

    class Odd:
        def __init__(self) -> None:
            self.file = open(__file__)  # noqa: SIM115  # of which nothing can be said

        def predict(self, x: Any) -> Any:
            return np.zeros(len(x), int)

    odd = Odd()
    with odd.file:
        assert identity(odd) != identity(odd)


@pytest.mark.parametrize("write", [joblib.dump, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_is_read_only_where_that_is_allowed(
    blobs: Population, tmp_path: Path, write: Callable[[Any, Path], object]
) -> None:
    path, estimator = tmp_path / "model.joblib", fitted(blobs)
    write(estimator, path)
    with pytest.raises(InputError, match=r"runs whatever code its .*target.allow_pickle=true"):
        Sklearn(path=path).connect(given_setup(blobs))
    allowed = Sklearn(path=path, allow_pickle=True).connect(given_setup(blobs))
    assert allowed.place == "model.joblib"
    assert "sha256" in allowed.identity
    np.testing.assert_array_equal(allowed.ask(blobs.x_N), estimator.predict_proba(blobs.x_N.numpy()))


def test_a_pickle_that_is_not_allowed_runs_nothing(tmp_path: Path, blobs: Population) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="is a pickle"):
        Sklearn(path=path).connect(given_setup(blobs))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is not a file"), (b"no pickle", "cannot be read .*write it anew with joblib.dump")]
)
def test_files_that_are_none(blobs: Population, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.pkl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Sklearn(path=path, allow_pickle=True).connect(given_setup(blobs))


@pytest.mark.parametrize(("options", "word"), [({}, "neither"), ({"estimator": 1, "path": "m.pkl"}, "both")])
def test_one_of_estimator_and_path(options: Any, word: str) -> None:
    with pytest.raises(InputError, match=f"target=sklearn has {word} of `target.estimator` and `target.path`"):
        Sklearn(**options)


def test_what_is_no_fitted_classifier_is_refused(blobs: Population) -> None:
    with pytest.raises(InputError, match=r"The estimator LogisticRegression .* is not fitted"):
        endpoint(blobs, LogisticRegression())
    with pytest.raises(InputError, match="has neither predict_proba nor predict"):
        endpoint(blobs, object())


def test_other_records_than_it_was_fitted_on_are_refused(blobs: Population, pictures: Population) -> None:
    with pytest.raises(InputError, match=r"does not take records of 72 features of uint8 \(ValueError: X has 72"):
        endpoint(pictures, fitted(blobs)).ask(pictures.x_N)


class Answering:
    """With whatever it is told to."""

    def __init__(self, *, classes: Any = None, **answers: Any) -> None:
        if classes is not None:
            self.classes_ = np.array(classes)
        for name, answer in answers.items():
            setattr(self, name, lambda x, answer=answer: answer)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Answering(predict_proba=np.zeros((2, 3))), r"predict_proba with float64 of shape \[2, 3\] instead of \[4, cl"),
        (Answering(predict_proba=[np.zeros((4, 2))] * 2), r"of shape \[2, 4, 2\]"),
        (Answering(predict_proba=np.zeros((4, 3), int)), "predict_proba with int64"),
        (Answering(predict_proba=np.zeros((4, 3)), classes=[0, 1]), r"instead of \[4, 2\], by its classes_"),
        (Answering(predict=np.zeros((4, 2))), r"predict with float64 of shape \[4, 2\] instead of \[4\]"),
        (Answering(predict=np.array(["a", "b", "d", "a"])), "has the class 'd'"),
        (Answering(predict=np.array([0, 1, 2, 0]), classes=[0, 1]), "predict with 2, which is none of its own"),
    ],
)
def test_answers_that_are_none(blobs: Population, estimator: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        endpoint(blobs, estimator).ask(blobs.x_N[:4])


def test_without_classes_the_columns_are_those_of_the_data_set(blobs: Population) -> None:
    estimator = Answering(predict_proba=np.full((4, 3), 1 / 3, np.float32))
    opened = endpoint(blobs, estimator)
    assert opened.ask(blobs.x_N[:4]) == [[pytest.approx(1 / 3)] * 3] * 4
    opened.close()


def test_it_is_asked_at_once_and_once_only() -> None:
    assert Sklearn(estimator=1).asking == Asking(batch_size=1024, concurrency=1, retries=0, sentinels=0)


class OneNumber:
    """An estimator that answers `method` with one probability for each record."""

    def __init__(self, method: str, shape: tuple[int, ...] = (), classes: Any = None) -> None:
        self.shape = shape
        setattr(self, method, self._answer)
        if classes is not None:
            self.classes_ = np.array(classes)

    def _answer(self, x: Any) -> Any:
        return (1 / (1 + np.exp(-x[:, 0].astype(float)))).reshape(-1, *self.shape)


@pytest.mark.parametrize("method", ["predict_proba", "predict"])
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize(("classes", "second"), [(None, 1), (["no", "yes"], 1), (["YES", "NO"], 0), ([0, 1], 1)])
def test_one_probability_of_two_classes(
    blobs: Population, method: str, shape: tuple[int, ...], classes: Any, second: int
) -> None:
    of_two = replace(blobs, label_N=blobs.label_N % 2, class_names=("no", "yes"))
    signals = Sklearn(estimator=OneNumber(method, shape, classes)).obtain(given_setup(of_two)).observe(of_two)
    wanted = 1 / (1 + np.exp(-of_two.x_N[:, 0].double().numpy()))
    np.testing.assert_allclose(signals.log_probability_KANC[0, 0, :, second].exp(), wanted, rtol=1e-5)


def test_labels_are_places_only_where_they_can_be_no_names(blobs: Population) -> None:
    estimator = fitted(blobs, RidgeClassifier(), label=lambda label_N: label_N + 1)
    predicted = estimator.predict(blobs.x_N.numpy())

    def read(names: tuple[str, ...], **asking: Any) -> list[int]:
        target = Sklearn(estimator=estimator, asking=replace(IN_PROCESS, **asking))
        signals = target.obtain(given_setup(replace(blobs, class_names=names))).observe(blobs)
        return signals.log_probability_KANC[0, 0].argmax(1).tolist()

    assert read(("1", "2", "3")) == (predicted - 1).tolist()
    assert read(("3", "2", "1")) == (3 - predicted).tolist()
    with pytest.raises(InputError, match=r"target.asking.labels"):
        read(("1", "2", "3"), labels="places")
    with pytest.raises(InputError, match="the class 3, which is neither"):
        read(("a", "b", "c"))
