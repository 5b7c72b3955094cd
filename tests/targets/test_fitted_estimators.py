"""Fitted regressors and estimators of several labels as targets, against a plain attack on scikit-learn's own API."""

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import mia_lightning as mia
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.training.estimators.frames import Layout
from mia_lightning.training.estimators.making import Making, ready

N, K, TREES = 200, 8, 10


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool takes longer to start than so few fits."""
    monkeypatch.setattr(Making, "num_processes", 1)


def given(task: str, D: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Records, their numbers or labels, and who is a member."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(N, 4)).astype(np.float32)
    signal = 40 + 7 * (x[:, :D] + draw.normal(size=(N, D)))
    member = draw.permutation(N) < N // 2
    if task == "multilabel":
        return x, (signal > 41).astype(np.uint8), member
    return x, (signal[:, 0] if D == 1 else signal).astype(np.float32), member


def settings(member: np.ndarray, **changed: Any) -> dict[str, Any]:
    return {
        "membership": mia.Given(member_N=member),
        "shadow": mia.Real(count=K),
        "attacks": [mia.Loss(), mia.Lira(variance="fixed")],
        **changed,
    }


def areas(report: mia.AuditReport) -> dict[str, float]:
    return {attack.name: attack.overall.auc.value or 0.0 for attack in report.attacks}


def plain_lira(target_SN: np.ndarray, shadow_KSN: np.ndarray, in_KN: np.ndarray, least: Any) -> np.ndarray:
    """Log likelihood ratios, one record and statistic after the other, with one deviation for each statistic and side.

    Args:
        least: of a mean, the smallest deviation.
    """
    _, S, size = shadow_KSN.shape
    score_N = np.zeros(size)
    for s in range(S):
        pooled = []
        for side in (in_KN, ~in_KN):
            groups = [shadow_KSN[side[:, i], s, i] for i in range(size)]
            squares = sum(((each - each.mean()) ** 2).sum() for each in groups)
            pooled.append(np.sqrt(squares / sum(len(each) - 1 for each in groups)))
        for i in range(size):
            density = []
            for side, deviation in zip((in_KN, ~in_KN), pooled, strict=True):
                mean = shadow_KSN[side[:, i], s, i].mean()
                density.append(norm.logpdf(target_SN[s, i], mean, max(deviation, least(mean))))
            score_N[i] += density[0] - density[1]
    return score_N


def found_scores(report: mia.AuditReport) -> tuple[np.ndarray, np.ndarray]:
    assert report.scores is not None
    mine = report.scores.attack == "lira_online"
    return report.scores.score[mine], report.scores.record[mine]


@pytest.mark.slow
@pytest.mark.parametrize("D", [1, 2])
def test_a_fitted_regressor_is_attacked_as_by_a_plain_loop(D: int) -> None:
    x, y, member = given("regression", D)
    forest = RandomForestRegressor(TREES, random_state=0).fit(x[member], y[member])
    observation = mia.observe(x, y, target=forest, task="regression", **settings(member))
    report = mia.attack(observation)
    in_KN = observation.membership.member_KN[1:].numpy()

    def residuals(model: Any) -> np.ndarray:
        predicted = np.asarray(model.predict(x), np.float32)
        return (y - predicted).astype(float).reshape(N, -1).T

    shadows = [
        residuals(ready(forest, Layout(), fit.seed).fit(x[in_KN[k]], y[in_KN[k]]))
        for k, fit in enumerate(observation.shadows._fits)  # type: ignore[attr-defined]
    ]
    expected = plain_lira(residuals(forest), np.stack(shadows), in_KN, lambda mean: 0.0)
    score, record = found_scores(report)
    assert np.allclose(score, expected[record], atol=1e-4)
    assert report.shadow.architecture == f"RandomForestRegressor(n_estimators={TREES}, random_state=0)"
    assert report.target.architecture == report.shadow.architecture
    assert report.task.utility == "R²"
    assert report.target.train_accuracy == pytest.approx(forest.score(x[member], y[member]), abs=1e-4)
    assert report.target.test_accuracy == pytest.approx(forest.score(x[~member], y[~member]), abs=1e-4)
    assert areas(report)["loss"] > 0.75
    assert report.structure is not None
    assert report.trust.understated is None


@pytest.mark.slow
def test_a_fitted_estimator_of_labels_is_attacked_as_by_a_plain_loop() -> None:
    x, y, member = given("multilabel", 3)
    forest = RandomForestClassifier(TREES, random_state=0).fit(x[member], y[member])
    observation = mia.observe(x, y, target=forest, task="multilabel", **settings(member))
    report = mia.attack(observation)
    in_KN = observation.membership.member_KN[1:].numpy()

    def logits(model: Any) -> np.ndarray:
        on = np.stack([label[:, 1] for label in model.predict_proba(x)])
        on = (TREES * on + 0.5) / (TREES + 1)
        return np.where(y.T == 1, 1, -1) * np.log(on / (1 - on))

    def step(mean: float) -> float:
        votes = (TREES + 1) / (1 + np.exp(-mean)) - 0.5
        low = min(max(votes - 0.5, 0), TREES - 1)
        ends = [(v + 0.5) / (TREES + 1) for v in (low, low + 1)]
        return float(np.log(ends[1] / (1 - ends[1])) - np.log(ends[0] / (1 - ends[0]))) / np.sqrt(12)

    shadows = [
        logits(ready(forest, Layout(), fit.seed).fit(x[in_KN[k]], y[in_KN[k]]))
        for k, fit in enumerate(observation.shadows._fits)  # type: ignore[attr-defined]
    ]
    expected = plain_lira(logits(forest), np.stack(shadows), in_KN, step)
    score, record = found_scores(report)
    assert np.allclose(score, expected[record], atol=2e-4)
    assert areas(report)["lira_online"] > 0.75
    assert report.task.utility == "mean AUROC"
    assert report.structure is not None


def test_a_file_and_a_pipeline(tmp_path: Path) -> None:
    x, y, member = given("regression")
    fitted = make_pipeline(StandardScaler(), DecisionTreeRegressor(random_state=0)).fit(x[member], y[member])
    path = tmp_path / "model.joblib"
    joblib.dump(fitted, path)
    target = mia.Sklearn(path=path, allow_pickle=True)
    report = mia.audit(x, y, target=target, task="regression", **settings(member, attacks=[mia.Loss()]))
    assert report.target.train_accuracy == pytest.approx(1.0)
    assert areas(report)["loss"] > 0.9
    assert report.shadow.architecture.startswith("Pipeline")


def test_networks_stay_where_they_are_asked_for() -> None:
    x, y, member = given("regression")
    forest = RandomForestRegressor(TREES, random_state=0).fit(x[member], y[member])
    how = settings(member, attacks=[mia.Loss()], shadow=mia.Real(count=2), training=mia.Recipe(epochs=2))
    report = mia.audit(x, y, target=forest, task="regression", model=MLP, **how)
    assert report.shadow.architecture == "MLP"
    assert report.trust.understated is not None


def test_what_does_not_answer_as_the_task_asks_is_refused() -> None:
    x, y, member = given("regression")
    classifier = LogisticRegression().fit(x, y > 40)
    with pytest.raises(InputError, match=r"LogisticRegression, which predicts classes"):
        mia.audit(x, y, target=classifier, task="regression", **settings(member))
    with pytest.raises(InputError, match=r"LogisticRegression, which predicts classes"):
        mia.audit(x, y, target=classifier, task="regression", model=MLP, **settings(member))
    _, labels, _ = given("multilabel", 2)
    with pytest.raises(InputError, match=r"one label for each record.*MultiOutputClassifier"):
        mia.audit(x, labels, target=classifier, task="multilabel", **settings(member))
    other = MultiOutputClassifier(LogisticRegression()).fit(x, np.where(labels, "yes", "no"))
    with pytest.raises(InputError, match=r"not 0 and 1"):
        mia.audit(x, labels, target=other, task="multilabel", **settings(member))


def test_settings_of_classes_are_refused() -> None:
    x, y, member = given("regression")
    target = mia.Sklearn(estimator=LinearRegression().fit(x, y), asking=Asking(classes=["a", "b"]))
    with pytest.raises(InputError, match=r"target\.asking\.classes.*task=regression"):
        mia.audit(x, y, target=target, task="regression", **settings(member))
    target = mia.Sklearn(estimator=LinearRegression())
    with pytest.raises(InputError, match=r"is not fitted"):
        mia.audit(x, y, target=target, task="regression", **settings(member))


def test_what_an_estimator_raises_is_a_sentence() -> None:
    x, y, member = given("regression")
    narrow = LinearRegression().fit(x[:, :2], y)
    with pytest.raises(InputError, match=r"LinearRegression\(\).*4 columns.*ValueError"):
        mia.audit(x, y, target=narrow, task="regression", **settings(member))


def test_it_cannot_be_saved(tmp_path: Path) -> None:
    x, y, member = given("regression")
    forest = RandomForestRegressor(2, random_state=0).fit(x[member], y[member])
    with pytest.raises(InputError, match=r"save_models"):
        mia.audit(x, y, target=forest, task="regression", save_models=True, **settings(member))
    how = settings(member, attacks=[mia.Loss()], shadow=mia.Real(count=2))
    observation = mia.observe(x, y, target=forest, task="regression", **how)
    with pytest.raises(InputError, match=r"target\.safetensors"):
        observation.targets.save(tmp_path / "target.safetensors")


@pytest.mark.costly
@pytest.mark.parametrize(("names", "is_warned"), [(True, False), (False, True)])
def test_one_that_names_its_classes_is_not_warned_about_their_order(names: bool, is_warned: bool) -> None:
    x, _, member = given("regression")
    number = (x[:, 0] > 0).astype(np.int64)
    label = np.where(number == 1, "ill", "well")  # in the order of their names: the other way round
    fitted = DecisionTreeClassifier(random_state=0).fit(x[member], label[member] if names else number[member])
    how = settings(member, attacks=[mia.Loss()], shadow=mia.Real(count=2))
    report = mia.audit(x, label, target=fitted, **how)
    assert any("in the order" in each for each in report.warnings) is is_warned
    assert (report.target.train_accuracy == 1) is names


@pytest.mark.parametrize(
    ("estimator", "asking", "is_named"),
    [
        (LogisticRegression(), {}, False),
        (LogisticRegression(), {"classes": ["a", "b"]}, True),
        (LogisticRegression().fit([[0], [1]], ["a", "b"]), {}, True),
        (LogisticRegression().fit([[0], [1]], ["a", "b"]), {"labels": "places"}, False),
        (LogisticRegression().fit([[0], [1]], ["a", "c"]), {}, False),
        (MultiOutputClassifier(LogisticRegression()).fit([[0], [1]], [["a", "a"], ["b", "b"]]), {}, False),
    ],
)
def test_classes_are_named_where_all_of_them_are(estimator: Any, asking: dict[str, Any], is_named: bool) -> None:
    target = mia.Sklearn(estimator=estimator, asking=Asking(**asking))
    assert target.names_classes(("a", "b")) is is_named
