"""Whole audits of estimators, against closed forms and a plain attack that knows scikit-learn alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

import mia_lightning as mia
from mia_lightning.datasets.form import Field, Form
from mia_lightning.errors import InputError
from mia_lightning.reports.sections.structure import structure_sentences
from mia_lightning.training.estimators.frames import Layout
from mia_lightning.training.estimators.making import ready


def noise(N: int = 240, C: int = 2, F: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Records whose labels can only be learnt by heart."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(N, F)).astype(np.float32), draw.integers(0, C, N)


def settings(**changed: Any) -> dict[str, Any]:
    return {
        "membership": mia.Halves(),
        "shadow": mia.Real(count=8),
        "attacks": [mia.Loss(), mia.Lira()],
        **changed,
    }


def of(make: Any, **how: Any) -> mia.Estimator:
    return mia.Estimator(make, **{"processes": 1, **how})


def areas(report: mia.AuditReport) -> dict[str, float]:
    return {attack.name: attack.overall.auc.value or 0.0 for attack in report.attacks}


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


def given(N: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, label = noise(N)
    return x, label, np.random.default_rng(1).permutation(N) < N // 2


def test_a_fitted_one_is_attacked_with_clones_of_its_own() -> None:
    x, label, member = given()
    forest = RandomForestClassifier(8, max_depth=9, random_state=0).fit(x[member], label[member])
    plan = mia.Given(member_N=member)
    report = mia.audit(x, label, target=forest, **settings(membership=plan))
    assert report.shadow.architecture == "RandomForestClassifier(max_depth=9, n_estimators=8, random_state=0)"
    assert report.trust.understated is None
    assert areas(report)["lira_online"] > 0.75
    assert any("estimators that are fitted here" in each for each in report.notes)
    assert report.structure is not None
    assert report.structure.leaves is not None
    assert report.structure.leaves.num_records == member.sum()


def test_networks_stay_where_they_are_asked_for() -> None:
    x, label, member = given()
    forest = RandomForestClassifier(8, random_state=0).fit(x[member], label[member])
    given_model = {"model": lambda: torch.nn.Linear(4, 2), "membership": mia.Given(member_N=member)}
    for more in ({}, {"shadow_estimator": None}):
        report = mia.audit(x, label, target=mia.Sklearn(estimator=forest), **settings(**given_model, **more))
        assert report.shadow.architecture == "Linear"
        assert report.trust.understated is not None
    report = mia.audit(
        x, label, target=mia.Sklearn(estimator=forest), **settings(**given_model, shadow_estimator="own")
    )
    assert report.shadow.architecture.startswith("RandomForest")


def test_answers_alone_are_attacked_with_estimators(tmp_path: Path) -> None:
    x, label, member = given()
    forest = RandomForestClassifier(8, random_state=0).fit(x[member], label[member])
    path = tmp_path / "predictions.csv"
    rows = "\n".join(",".join(map(str, row)) for row in forest.predict_proba(x).tolist())
    path.write_text(f"0,1\n{rows}\n")
    report = mia.audit(
        x,
        label,
        target=mia.Predictions(path=path, kind="trees"),
        shadow_estimator=RandomForestClassifier(8),
        **settings(membership=mia.Given(member_N=member)),
    )
    assert report.trust.understated is None
    assert areas(report)["lira_online"] > 0.75


def test_shadow_models_train_on_as_many_records_as_a_given_target() -> None:
    x, label = noise()
    member = np.arange(240) < 100
    forest = DecisionTreeClassifier(random_state=0).fit(x[member], label[member])
    plan = mia.Given(member_N=member)
    report = mia.audit(x, label, target=forest, **settings(membership=plan, shadow=mia.Real(count=64)))
    assert report.membership.shadow_train_size == 100
    few = settings(membership=plan, shadow=mia.Real(count=4), attacks=[mia.Loss()])
    report = mia.audit(x, label, target=forest, **few)
    assert report.membership.shadow_train_size == 120
    assert any("100" in each and "`shadow.count`" in each for each in report.warnings)


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


@pytest.mark.slow
def test_what_the_store_holds_is_not_fitted_again(tmp_path: Path) -> None:
    x, label = noise()
    store = mia.Store(dir=tmp_path)
    forest = RandomForestClassifier(5)
    first = mia.audit(x, label, target=of(forest), store=store, **settings())
    places = store.places("models")
    assert len(places) == 9
    assert all(artefact is not None and artefact.content is None for artefact in map(store.get, places))
    again = mia.audit(x, label, target=of(forest), store=store, **settings())
    assert {role: (each.found, each.trained) for role, each in again.run.store.items()} == {
        "target": (1, 0),
        "shadow": (8, 0),
    }
    assert areas(again) == areas(first)
    store.forget(places[3])
    mended = mia.audit(x, label, target=of(forest), store=store, **settings())
    assert sum(each.trained for each in mended.run.store.values()) == 1
    assert areas(mended) == areas(first)
    more = mia.audit(x, label, target=of(forest), store=store, **settings(shadow=mia.Real(count=10)))
    assert more.run.store["shadow"].found == 8
    other = mia.audit(x, label, target=of(RandomForestClassifier(6)), store=store, **settings())
    assert sum(each.found for each in other.run.store.values()) == 0


def test_pickles_are_kept_where_they_are_asked_for_alone(tmp_path: Path) -> None:
    x, label = noise()
    store = mia.Store(dir=tmp_path, estimators=True)
    few = settings(shadow=mia.Real(count=4), attacks=[mia.Loss()])
    mia.audit(x, label, target=of(DecisionTreeClassifier()), store=store, **few)
    artefacts = [store.get(place) for place in store.places("models")]
    assert artefacts
    assert all(artefact is not None and artefact.content is not None for artefact in artefacts)


def test_weights_that_are_none_are_not_saved() -> None:
    x, label = noise()
    with pytest.raises(InputError, match="estimators have no weights"):
        mia.Audit(x, label, target=of(DecisionTreeClassifier), save_models=True)


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


@pytest.mark.slow
def test_an_audit_finds_what_shards_have_fitted(tmp_path: Path) -> None:
    """And the scores are those of one job; a shard fits no model of another."""
    x, label = noise(N=80)
    how = settings(target=of(DecisionTreeClassifier()), shadow=mia.Real(count=4), attacks=[mia.CalibratedLoss()])
    store = mia.Store(dir=tmp_path)
    for number, part in enumerate(("1 shadow model ", "1 shadow model ", "2 shadow models ")):
        said = mia.train_shard(x, label, shard=mia.Shard(number=number, count=3), store=store, **how)
        assert part in said
    found, alone = mia.audit(x, label, store=store, **how), mia.audit(x, label, **how)
    reused = found.run.store["shadow"]
    assert (reused.found, reused.trained) == (4, 0)
    assert found.scores is not None
    assert alone.scores is not None
    np.testing.assert_array_equal(found.scores.score, alone.scores.score)


def test_shards_of_what_the_store_cannot_keep_are_refused(tmp_path: Path) -> None:
    x, label = noise()

    shard = mia.Shard(number=0, count=2)
    with (tmp_path / "open").open("w") as file:

        def make() -> DecisionTreeClassifier:
            assert not file.closed
            return DecisionTreeClassifier()

        how = settings(target=of(make), shard=shard, store=mia.Store(dir=tmp_path / "store"))
        with pytest.raises(InputError, match=r"shadow\.shards.*store"):
            mia.train_shard(x, label, **how)


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


def test_a_fitted_pipeline_gets_the_table_that_its_clones_get() -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install pandas")
    x, label, member = given()
    codes = torch.from_numpy((x[:, 0] > 0).astype(np.int64))[:, None]
    form = Form.of(
        [
            Field(name="numbers", shape=(2,), columns=("age", "hours")),
            Field(
                name="codes",
                kind="category",
                dtype=torch.int64,
                shape=(1,),
                sizes=(2,),
                columns=("sex",),
                vocabulary=(("f", "m"),),
            ),
        ]
    )
    people = mia.Population(
        name="table",
        x_N=form.packed({"numbers": torch.from_numpy(x[:, 1:3]), "codes": codes}),
        label_N=torch.from_numpy(label),
        class_names=("no", "yes"),
        form=form,
    )
    frame = pandas.DataFrame({"age": x[:, 1], "hours": x[:, 2], "sex": np.where(codes[:, 0] == 1, "m", "f")})
    columns = make_column_transformer((OneHotEncoder(), ["sex"]), ("passthrough", ["age", "hours"]))
    pipeline = make_pipeline(columns, RandomForestClassifier(8, random_state=0))
    pipeline.fit(frame[member], label[member])
    observation = mia.observe(people, target=pipeline, **settings(membership=mia.Given(member_N=member)))
    votes = 8 * pipeline.predict_proba(frame)
    found = observation.target_signals.log_probability_KANC[0, 0].exp().numpy()
    assert np.allclose(found, (votes + 0.5) / 9, atol=1e-6)
    (structure,) = observation.audit.attacked.structures(observation.targets, people, observation.membership)
    assert structure is not None
    assert structure.num_records == member.sum()


DIES = """
import os
import sys

import numpy as np
from sklearn.tree import DecisionTreeClassifier

import mia_lightning as mia


class Dies(DecisionTreeClassifier):
    def fit(self, x, y):
        os.environ["FITS"] = str(int(os.environ.get("FITS", "0")) + 1)
        if os.environ.get("DIES") and os.environ["FITS"] == "6":
            os.kill(os.getpid(), 9)
        return super().fit(x, y)


if __name__ == "__main__":
    draw = np.random.default_rng(0)
    report = mia.audit(
        draw.normal(size=(80, 3)).astype(np.float32),
        draw.integers(0, 2, 80),
        target=mia.Estimator(Dies(), processes=1),
        membership=mia.Halves(),
        shadow=mia.Real(count=6),
        attacks=[mia.Loss()],
        store=mia.Store(dir=sys.argv[1]),
    )
    print(report.run.store["shadow"].found, report.run.store["shadow"].trained)
"""


@pytest.mark.slow
def test_a_killed_run_loses_the_fits_in_flight_alone(tmp_path: Path) -> None:
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    command = [sys.executable, str(script), str(tmp_path / "store")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, env={**environment, "DIES": "1"}, capture_output=True, check=False, timeout=300)
    assert killed.returncode == -9
    resumed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    # The target takes two fits, and the first shadow model two: the sixth fit is that of shadow model 2.
    assert resumed.stdout.split() == ["2", "4"], resumed.stderr
