"""Whole audits of estimators that predict numbers, and of weighted records, against slow loops."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.tree import DecisionTreeClassifier

import mia_lightning as mia
from mia_lightning.errors import InputError
from mia_lightning.reports.sections.structure import structure_sentences
from mia_lightning.training.estimators.frames import Layout
from mia_lightning.training.estimators.making import ready


def noise(N: int = 160, F: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Records whose values can only be learnt by heart."""
    draw = np.random.default_rng(0)
    return draw.normal(size=(N, F)).astype(np.float32), (100 + 20 * draw.normal(size=N)).astype(np.float32)


def settings(**changed: Any) -> dict[str, Any]:
    return {
        "task": "regression",
        "membership": mia.Halves(),
        "shadow": mia.Real(count=6),
        "attacks": [mia.Loss(), mia.Lira()],
        **changed,
    }


def of(make: Any) -> mia.Estimator:
    return mia.Estimator(make, processes=1)


@pytest.mark.costly
@pytest.mark.parametrize(
    "make",
    [pytest.param(RandomForestRegressor(6), marks=pytest.mark.slow), GradientBoostingRegressor(n_estimators=20)],
)
def test_scores_are_those_of_a_plain_attack(make: Any) -> None:
    """The same regressors through scikit-learn's own API, and the attacks as loops over the records."""
    x, y = noise()
    observation = mia.observe(x, y, target=of(make), **settings(attacks=[mia.Loss(), mia.Lira(variance="fixed")]))
    report = mia.attack(observation)
    member_KN = observation.membership.member_KN.numpy()
    fits = [*observation.targets._fits, *observation.shadows._fits]  # type: ignore[attr-defined]

    def predicted(seed: int, rows: np.ndarray) -> np.ndarray:
        return ready(make, Layout(), seed).fit(x[rows], y[rows]).predict(x).astype(np.float32).astype(float)

    residual_KN = np.stack([y - predicted(fit.seed, member_KN[k]) for k, fit in enumerate(fits)])
    target, shadow_KN, inside = residual_KN[0], residual_KN[1:], member_KN[1:]
    unit = np.sqrt((shadow_KN[~inside] ** 2).mean())
    target, shadow_KN = target / unit, shadow_KN / unit

    def pooled(side: np.ndarray) -> float:
        squares = sum(((shadow_KN[side[:, i], i] - shadow_KN[side[:, i], i].mean()) ** 2).sum() for i in range(len(x)))
        return float(np.sqrt(squares / sum(side[:, i].sum() - 1 for i in range(len(x)))))

    lira = [
        np.subtract(
            *(norm.logpdf(target[i], shadow_KN[side[:, i], i].mean(), pooled(side)) for side in (inside, ~inside))
        )
        for i in range(len(x))
    ]
    assert report.scores is not None
    for name, expected in (("loss", norm.logpdf(target)), ("lira_online", np.array(lira))):
        mine = report.scores.attack == name
        assert np.allclose(report.scores.score[mine], expected[report.scores.record[mine]], atol=1e-3)
    plain = y - residual_KN[0]
    assert report.target.train_accuracy == pytest.approx(r2_score(y[member_KN[0]], plain[member_KN[0]]), abs=1e-5)
    assert report.target.test_accuracy == pytest.approx(r2_score(y[~member_KN[0]], plain[~member_KN[0]]), abs=1e-5)
    assert report.structure is not None
    assert report.structure.leaves is not None
    assert any("knows the value" in each for each in structure_sentences(report.structure, report.dataset.values))


def areas(report: mia.AuditReport) -> dict[str, float]:
    return {attack.name: attack.overall.auc.value or 0.0 for attack in report.attacks}


def test_a_memorising_neighbour_is_found_out_and_a_constant_one_is_at_chance() -> None:
    x, y = noise()
    report = mia.audit(x, y, target=of(KNeighborsRegressor(1)), **settings(attacks=[mia.Loss()]))
    assert report.target.train_accuracy == 1.0
    assert areas(report)["loss"] == 1.0
    draw = np.random.default_rng(1)
    constant = mia.audit(
        draw.normal(size=(400, 2)).astype(np.float32), draw.normal(size=400), target=of(DummyRegressor()), **settings()
    )
    for attack in constant.attacks:
        assert attack.overall.auc.low is not None
        assert attack.overall.auc.high is not None
        assert attack.overall.auc.low <= 0.5 <= attack.overall.auc.high


@pytest.mark.slow
def test_every_attack_runs_or_says_why_not() -> None:
    x, y = noise(N=320)
    attacks = [mia.Shokri(), mia.Loss(), mia.CalibratedLoss(), mia.Lira(), mia.Rmia(gamma="auto"), mia.Gap()]
    report = mia.audit(
        x, y, target=of(RandomForestRegressor(5)), **settings(attacks=attacks, skip_inapplicable=True, convergence=True)
    )
    assert {*areas(report)} == {"shokri", "loss", "calibrated_loss", "lira_online", "rmia_online"}
    assert all(area > 0.7 for area in areas(report).values())


@pytest.mark.parametrize(
    ("make", "task", "named"),
    [
        (DecisionTreeClassifier, "regression", ["DecisionTreeClassifier", "regressor"]),
        (LogisticRegression, "multilabel", ["LogisticRegression", "MultiOutputClassifier"]),
        (LinearRegression, "classification", ["LinearRegression", "classifier"]),
    ],
)
def test_what_does_not_answer_as_the_task_asks_is_refused(make: Any, task: str, named: list[str]) -> None:
    x, y = noise()
    label = {
        "regression": y,
        "multilabel": np.stack([y > 100, y > 90], 1).astype(int),
        "classification": (y > 100).astype(int),
    }[task]
    with pytest.raises(InputError) as caught:
        mia.Audit(x, label, target=of(make), **settings(task=task, attacks=[mia.Loss()]))
    assert all(each in str(caught.value) for each in named)


def test_weights_that_a_fit_does_not_take_are_refused() -> None:
    x, y = noise()
    label, weight = (y > 100).astype(int), np.linspace(0.5, 2, len(x))
    short = settings(task="classification", attacks=[mia.Loss()])
    with pytest.raises(InputError, match=r"weights.*KNeighborsClassifier.*sample_weight"):
        mia.audit(x, label, weight=weight, target=of(KNeighborsClassifier()), **short)
    report = mia.audit(x, label, weight=weight, target=of(DecisionTreeClassifier()), **short)
    assert any("weights" in each for each in report.notes)
    people = mia.make_population(x, label)
    given = replace(people, weight_N=torch.from_numpy(weight).float())
    same = mia.audit(given, target=of(DecisionTreeClassifier()), **{**short, "task": None})
    assert areas(same) == areas(report)
