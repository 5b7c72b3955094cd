"""Audits of estimators that are fitted already: their shadow models are fitted here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from estimator_audits import areas, noise, settings
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

import mia_lightning as mia
from mia_lightning.datasets.form import Field, Form


def given(N: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, label = noise(N)
    return x, label, np.random.default_rng(1).permutation(N) < N // 2


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "named"), [("network", "a network"), (None, "`target.kind`")])
def test_estimators_for_what_is_none_or_is_not_known_are_said_to_understate(
    kind: str | None, named: str, tmp_path: Path
) -> None:
    x, label, member = given()
    path = tmp_path / "predictions.csv"
    path.write_text("p_1\n" + "\n".join(map(str, np.random.default_rng(2).random(240).tolist())) + "\n")
    few = settings(membership=mia.Given(member_N=member), shadow=mia.Real(count=2), attacks=[mia.Loss()])
    target = mia.Predictions(path=path, kind=kind, asking=mia.Asking(answer="probabilities"))
    report = mia.audit(x, label, target=target, shadow_estimator=RandomForestClassifier(2), **few)
    assert named in str(report.trust.understated)
    assert "RandomForestClassifier" in str(report.trust.understated)


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
