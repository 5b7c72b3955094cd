"""Whole audits of estimators, against closed forms and a plain attack that knows scikit-learn alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from estimator_audits import areas, noise, of, settings
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

import mia_lightning as mia
from mia_lightning.errors import InputError
from mia_lightning.reports.sections.structure import structure_sentences
from mia_lightning.training.estimators.frames import Layout
from mia_lightning.training.estimators.making import ready


def test_the_class_of_an_estimator_is_a_target_that_is_fitted_here() -> None:
    x, label = noise(N=40)
    by_class = mia.Audit(x, label, target=DecisionTreeClassifier)
    assert by_class.attacked.is_trained_here
    assert by_class.fitted_here[0].name == "DecisionTreeClassifier()"


def test_a_memorising_neighbour_is_found_out() -> None:
    x, label = noise(N=600, C=30)
    report = mia.audit(x, label, target=of(KNeighborsClassifier(1)), **settings(attacks=[mia.Loss(), mia.Gap()]))
    assert report.target.train_accuracy == 1.0
    expected = 1 - report.target.test_accuracy / 2
    assert areas(report)["loss"] == pytest.approx(expected, abs=1e-9)
    assert expected > 0.95


class Constant(ClassifierMixin, BaseEstimator):
    def fit(self, x: Any, y: Any) -> "Constant":
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x: Any) -> Any:
        return np.full((len(x), len(self.classes_)), 1 / len(self.classes_))


def test_a_constant_one_is_at_chance() -> None:
    x, label = noise()
    assert set(areas(mia.audit(x, label, target=of(Constant), **settings())).values()) == {0.5}


class Leaky(LogisticRegression):
    """Knows nothing but who its records are."""

    def fit(self, x: Any, y: Any) -> "Leaky":
        self.known_ = {tuple(row) for row in np.asarray(x).tolist()}
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x: Any) -> Any:
        share = np.array([0.5 + 0.3 * (tuple(row) in self.known_) * (row[0] > 0) for row in np.asarray(x).tolist()])
        return np.stack([1 - share, share], 1)


def test_a_planted_leak_is_found_by_shadow_models_of_its_own_kind() -> None:
    x, _ = noise()
    report = mia.audit(x, np.ones(240, int) * (x[:, 1] > 0), target=of(Leaky()), **settings())
    assert areas(report)["lira_online"] > 0.7
    assert report.shadow.architecture == report.target.architecture == "Leaky()"


class Underfitted(DecisionTreeClassifier):
    """Sees none of its records."""

    def fit(self, x: Any, y: Any) -> Any:
        draw = np.random.default_rng(self.random_state)
        return super().fit(draw.normal(size=x.shape), draw.integers(0, 2, len(y)))


@pytest.mark.slow
def test_no_attack_finds_what_is_not_there() -> None:
    x, label = noise(N=200)
    low = [0, 0]
    for seed in range(20):
        report = mia.audit(x, label, target=of(Underfitted()), seed=seed, **settings())
        for place, attack in enumerate(report.attacks):
            assert attack.overall.auc.low is not None
            assert attack.overall.auc.high is not None
            low[place] += not attack.overall.auc.low <= 0.5 <= attack.overall.auc.high
    assert max(low) <= 5, "more than the 99.9 % limit of 20 intervals of 95 %"


@pytest.mark.slow
def test_scores_are_those_of_a_plain_attack() -> None:
    """The same forests through scikit-learn's own API, and LiRA as a loop over the records."""
    x, label = noise()
    trees, C = 10, 2
    forest = RandomForestClassifier(trees)
    attacks = [mia.Lira(variance="fixed")]
    observation = mia.observe(x, label, target=of(forest), seed=4, **settings(attacks=attacks))
    report = mia.attack(observation)
    assert report.scores is not None
    member_KN = observation.membership.member_KN.numpy()
    seeds = {fit.number: fit.seed for fit in observation.shadows._fits}  # type: ignore[attr-defined]

    def phi(seed: int, members: np.ndarray) -> np.ndarray:
        model = ready(forest, Layout(), seed).fit(x[members], label[members])
        votes = sum(tree.predict_proba(x) for tree in model.estimators_)[np.arange(len(x)), label]
        share = (votes + 1 / C) / (trees + 1)
        return np.log(share / (1 - share))

    target = phi(observation.targets._fits[0].seed, member_KN[0])  # type: ignore[attr-defined]
    shadow_KN = np.stack([phi(seeds[k], member_KN[1 + k]) for k in range(8)])
    inside = member_KN[1:]

    def pooled(side: np.ndarray) -> float:
        squares = [(shadow_KN[side[:, i], i] - shadow_KN[side[:, i], i].mean()) ** 2 for i in range(len(x))]
        return float(np.sqrt(sum(map(np.sum, squares)) / sum(side[:, i].sum() - 1 for i in range(len(x)))))

    def step(mean: float) -> float:
        votes = (trees + 1) / (1 + np.exp(-mean)) - 1 / C
        low = min(max(votes - 0.5, 0), trees - 1)
        ends = [(v + 1 / C) / (trees + 1) for v in (low, low + 1)]
        return float(np.log(ends[1] / (1 - ends[1])) - np.log(ends[0] / (1 - ends[0])))

    expected = []
    for i in range(len(x)):
        densities = []
        for side in (inside, ~inside):
            mean = shadow_KN[side[:, i], i].mean()
            densities.append(norm.logpdf(target[i], mean, max(pooled(side), step(mean) / np.sqrt(12))))
        expected.append(densities[0] - densities[1])
    mine = report.scores.attack == "lira_online"
    found = report.scores.score[mine]
    assert np.allclose(found, np.array(expected)[report.scores.record[mine]], atol=1e-4)


@pytest.mark.slow
def test_a_forest_on_adult(shared_data: Path) -> None:
    from mia_lightning.datasets.adult import load_adult

    whole = load_adult(root=shared_data / "adult")
    chosen = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[:4000]
    people = whole.chosen(torch.zeros(len(whole), dtype=torch.bool).index_fill(0, chosen, True))
    report = mia.audit(people, target=mia.Estimator(RandomForestClassifier(100)), **settings(shadow=mia.Real(count=16)))
    assert areas(report)["lira_online"] >= 0.82
    assert report.target.train_accuracy > 0.99
    assert report.structure is not None
    assert report.structure.leaves is not None


@pytest.mark.slow
@pytest.mark.parametrize("plan", [mia.Halves(), mia.Disjoint(train_size=40)])
def test_every_attack_runs_or_says_why_not(plan: Any) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from mia_lightning.command.job import Job
    from mia_lightning.command.mistakes import config_directory

    with initialize_config_dir(str(config_directory().absolute()), version_base="1.3"):
        content = OmegaConf.to_container(compose("config", ["attack=all"]), resolve=False)
    assert isinstance(content, dict)
    attacks = [
        Job.__dict__["_make"](type("_", (), {"_trusted": True})(), node, name)
        for name, node in content["attack"].items()
    ]
    x, label = noise(N=320)
    report = mia.audit(
        x,
        label,
        target=of(RandomForestClassifier(5)),
        **settings(membership=plan, attacks=attacks, skip_inapplicable=True, convergence=True),
    )
    assert len(report.attacks) > 8
    assert all(attack.overall.auc.value is not None for attack in report.attacks)


@pytest.mark.slow
def test_every_model_is_a_target_once() -> None:
    x, label = noise()
    report = mia.audit(
        x,
        label,
        target=mia.LeaveOneOut(folds=2),
        shadow_estimator=RandomForestClassifier(5),
        **settings(shadow=mia.Real(count=12)),
    )
    assert report.target.architecture == "RandomForestClassifier(n_estimators=5)"
    assert report.target.num_targets == 12
    assert areas(report)["lira_online"] > 0.7
    assert report.structure is not None


def test_a_target_that_cannot_be_fitted_is_a_sentence() -> None:
    x, label = noise()

    class Refuses(LogisticRegression):
        def fit(self, x: Any, y: Any) -> Any:
            raise RuntimeError("too warm")

    with pytest.raises(InputError, match=r"target\.estimator.*Refuses.*too warm"):
        mia.audit(x, label, target=of(Refuses), **settings())


def test_what_is_wrong_with_answers_is_a_clause_of_that_sentence() -> None:
    x, label = noise()

    class GivesNothing(LogisticRegression):
        def predict_proba(self, x: Any) -> Any:
            return super().predict_proba(x) * np.nan

    with pytest.raises(InputError, match=r"target\.estimator.*GivesNothing.*\(.*NaN.*[^.]\)"):
        mia.audit(x, label, target=of(GivesNothing), **settings())


def test_shadow_models_that_refuse_a_resample_are_left_out() -> None:
    x, label = noise(N=200)
    label[:] = 0
    label[:4] = 1  # in some resamples, not in others

    report = mia.audit(x, label, target=of(LogisticRegression()), seed=3, **settings(attacks=[mia.Loss()]))
    assert report.shadow.left_out == (2, 3)
    assert any("could not be fitted" in each for each in [*report.warnings, *report.broken])


def test_a_defence_of_networks_is_refused_for_an_estimator_that_is_fitted_here() -> None:
    x, label = noise(N=40)
    with pytest.raises(InputError, match=r"^defense=dropout changes how a network is trained, .*estimator"):
        mia.audit(x, label, target=of(DecisionTreeClassifier), **settings(defenses=[mia.Dropout()]))


def test_what_is_missing_or_no_estimator_is_named() -> None:
    x, label = noise()
    with pytest.raises(InputError, match="`model` is not set"):
        mia.Audit(x, label)
    with pytest.raises(InputError, match="no `fit`"):
        mia.Audit(x, label, target=of(lambda: object()))
    with pytest.raises(InputError, match="no `fit`"):
        mia.Audit(x, label, target=of(DecisionTreeClassifier), shadow_estimator=lambda: 5)


def test_the_fits_are_estimated() -> None:
    x, label = noise()
    sentences = mia.estimate(x, label, target=of(DecisionTreeClassifier()), **settings())
    assert any("9 fits of DecisionTreeClassifier()" in each for each in sentences)


def test_the_report_says_what_was_found(tmp_path: Path) -> None:
    x, label = noise()
    report = mia.audit(x, label, target=of(DecisionTreeClassifier()), output=tmp_path, **settings())
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["target"]["architecture"] == "DecisionTreeClassifier()"
    assert content["structure"]["leaves"]["num_records"] == 120
    assert content["target"]["num_parameters"] == content["structure"]["leaves"]["num_nodes"]
    page = (tmp_path / "report.html").read_text()
    assert content["target"]["size_unit"] == "nodes"
    assert page.count(f"{content['target']['num_parameters']:,} nodes") == 2
    for sentence in structure_sentences(report.structure):
        assert sentence.partition(":")[0] in page
    unknown = mia.audit(x, label, target=of(DummyClassifier()), **settings(attacks=[mia.Loss()]))
    assert any("not known" in each for each in structure_sentences(unknown.structure))


def test_unequal_votes_are_said() -> None:
    x, label = noise()
    report = mia.audit(
        x, label, target=of(RandomForestClassifier(8)), shadow_estimator=RandomForestClassifier(4), **settings()
    )
    assert any("8 votes" in each and "of 4" in each for each in report.warnings)
