"""Whole audits of estimators of several labels: a closed form, chance, and a null."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

import mia_lightning as mia

L = 4


def noise(N: int = 320, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Records whose labels can only be learnt by heart."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(N, 4)).astype(np.float32), draw.integers(0, 2, (N, L))


def audited(make: Any, *, seed: int = 0, **changed: Any) -> mia.AuditReport:
    x, label = noise()
    settings = {"membership": mia.Halves(), "shadow": mia.Real(count=8), "seed": seed, **changed}
    return mia.audit(x, label, task="multilabel", target=mia.Estimator(make, processes=1), **settings)


def test_a_memorising_neighbour_is_found_out() -> None:
    """It has all labels of a member right, and those of others as a coin has: AUC 1 − P(all right) / 2."""
    report = audited(KNeighborsClassifier(1), attacks=[mia.Loss(), mia.Gap()], shadow=mia.Real(count=4))
    assert report.scores is not None
    mine = report.scores.attack == "gap"
    score, member = report.scores.score[mine], report.scores.is_member[mine]
    assert (score[member] == 1).all()
    share = (score[~member] == 1).mean()
    assert abs(share - 2.0**-L) < 4 * (2.0**-L / (~member).sum()) ** 0.5
    of_loss, of_gap = (attack.overall.auc.value for attack in report.attacks)
    assert of_gap == pytest.approx(1 - share / 2, abs=1e-9)
    assert of_loss == pytest.approx(1 - share / 2, abs=share / 2)  # float32 breaks ties between labels on and off
    assert report.target.train_accuracy == 1.0
    assert report.target.test_accuracy == pytest.approx(0.5, abs=0.15)


class Constant(ClassifierMixin, BaseEstimator):
    def fit(self, x: Any, y: Any) -> "Constant":
        self.classes_ = [np.array([0, 1])] * y.shape[1]
        return self

    def predict_proba(self, x: Any) -> Any:
        return [np.full((len(x), 2), 0.5) for _ in self.classes_]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def test_a_constant_one_is_at_chance() -> None:
    report = audited(Constant(), attacks=[mia.Loss(), mia.Lira()])
    of_loss, of_lira = (attack.overall.auc for attack in report.attacks)
    assert of_lira.value == 0.5
    assert of_loss.low is not None
    assert of_loss.high is not None
    assert of_loss.low <= 0.5 <= of_loss.high


class Underfitted(DecisionTreeClassifier):
    """Sees none of its records."""

    def fit(self, x: Any, y: Any) -> Any:
        draw = np.random.default_rng(self.random_state)
        return super().fit(draw.normal(size=x.shape), draw.integers(0, 2, y.shape))


@pytest.mark.slow
def test_no_attack_finds_what_is_not_there() -> None:
    low = [0, 0]
    for seed in range(16):
        report = audited(Underfitted(), seed=seed, attacks=[mia.Loss(), mia.Lira()])
        for place, attack in enumerate(report.attacks):
            assert attack.overall.auc.low is not None
            assert attack.overall.auc.high is not None
            low[place] += not attack.overall.auc.low <= 0.5 <= attack.overall.auc.high
    assert max(low) <= 4, "more than the 99.9 % limit of 16 intervals of 95 %"
