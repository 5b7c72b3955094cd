"""Remedies, tried: the same recipe with and without them, compared with audits of their own."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from quick import quick_audit
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

import mia_lightning as mia
from mia_lightning.models.mlp import MLP
from mia_lightning.remedies import read_remedies
from mia_lightning.remedies.catalogue import CATALOGUE, NAMES, settings_of
from mia_lightning.remedies.estimating import estimate_remedies
from mia_lightning.remedies.setting_up import set_up
from mia_lightning.remedies.words import harm_sentence, headline, render_remedies

X, LABEL = load_digits(return_X_y=True)
X = (X / 16).astype("float32")


def audit(**options: object) -> mia.Audit:
    """Sixteen small networks of digits that know their records by heart."""
    recipe = mia.Recipe(epochs=12, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.02))
    settings = {"training": recipe, "shadow": mia.Real(count=16), "membership": mia.Disjoint(train_size=50)}
    return mia.Audit(X[:800], LABEL[:800], **quick_audit(**{**settings, **options}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("remedies")
    mia.try_remedies(audit(output=place), remedies=["fewer_epochs", "rounding", "early_stopping"])
    return place


@pytest.fixture(scope="module")
def report(folder: Path) -> mia.RemedyReport:
    return read_remedies(folder)


def result(report: mia.RemedyReport, name: str) -> object:
    return next(each for each in report.remedies if each.name == name)


@pytest.mark.slow
def test_doing_nothing_is_an_audit_of_every_model(folder: Path, report: mia.RemedyReport) -> None:
    whole = mia.read_report(folder / "nothing")
    (attack,) = whole.attacks
    assert report.nothing.auc.value == pytest.approx(attack.overall.auc.value)
    assert report.nothing.utility == pytest.approx(whole.target.test_accuracy)
    assert report.nothing.train_utility == pytest.approx(whole.target.train_accuracy)
    assert (report.num_models, report.num_members) == (whole.target.num_targets, whole.membership.num_members)
    assert report.num_validation == whole.membership.num_validation > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "defense"), [("fewer_epochs", mia.FewerEpochs(share=0.2)), ("rounding", mia.Rounding(digits=1))]
)
def test_a_remedy_is_an_audit_with_its_defence(report: mia.RemedyReport, name: str, defense: mia.Defense) -> None:
    remedies = [each for each in CATALOGUE if each.name in ("fewer_epochs", "rounding", "early_stopping")]
    planned = set_up(audit(), remedies, named=True).audit
    alone = mia.audit(replace(planned, defenses=[defense]))
    found = next(each for each in result(report, name).strengths if each.description == defense.describe())
    values = {each.name: each.overall.auc.value for each in alone.attacks}
    assert found.auc.value == pytest.approx(values["loss"])
    assert found.utility == pytest.approx(alone.target.test_accuracy)
    assert found.auc.difference.value == pytest.approx(values["loss"] - report.nothing.auc.value)
    assert found.utility_difference.value == pytest.approx(alone.target.test_accuracy - report.nothing.utility)


@pytest.mark.slow
def test_models_train_on_the_same_records_with_every_remedy(report: mia.RemedyReport) -> None:
    remedies = [each for each in CATALOGUE if each.name == "l2"]
    tried = set_up(audit(), remedies, named=True)
    plain = mia.observe(tried.audit)
    defended = mia.observe(replace(tried.audit, defenses=[mia.L2(strength=0.1)]))
    for name in ("member_KN", "scored_KN", "validation_N"):
        assert torch.equal(getattr(plain.membership, name), getattr(defended.membership, name))


@pytest.mark.slow
def test_the_order_is_that_of_the_auc_at_equal_utility(report: mia.RemedyReport) -> None:
    areas = [each.at_equal_utility.auc for each in report.remedies]
    assert areas == sorted(areas)
    assert result(report, "fewer_epochs").at_equal_utility.difference.value < 0


@pytest.mark.slow
def test_files_hold_what_was_found(folder: Path, report: mia.RemedyReport) -> None:
    kept = json.loads((folder / "remedies.json").read_text())
    assert kept["schema"] == "mia_lightning.remedies/1"
    page = (folder / "remedies.html").read_text()
    for remedy in report.remedies:
        for each in remedy.strengths:
            assert each.description in page
    assert (folder / "figures" / "remedies.png").read_bytes().startswith(b"\x89PNG")
    rows = (folder / "remedies.csv").read_text().splitlines()
    assert len(rows) == 2 + sum(len(each.strengths) for each in report.remedies)
    assert headline(report) in page
    render_remedies(report)


@pytest.mark.slow
def test_warnings_are_the_same_without_a_folder(tmp_path: Path) -> None:
    twice = {"data": np.concatenate([X[:300], X[:300]]), "label": np.concatenate([LABEL[:300], LABEL[:300]])}
    whole, alone = (
        mia.try_remedies(replace(audit(output=output), **twice), remedies=["rounding"]) for output in (tmp_path, None)
    )
    assert alone.warnings == whole.warnings == mia.read_report(tmp_path / "nothing").warnings
    assert ["of 50 members" in each for each in alone.warnings] == [True]


def test_a_damaged_or_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mia.InputError, match=r"remedies\.json"):
        read_remedies(tmp_path)
    (tmp_path / "remedies.json").write_text("{}")
    with pytest.raises(mia.InputError, match=r"remedies\.json"):
        read_remedies(tmp_path)


@pytest.mark.parametrize(
    ("names", "told"), [("l2", "l2"), ([], "remedies"), (["l3"], "l3"), ([3], "3"), (None, "None")]
)
def test_other_names_are_refused(names: object, told: str) -> None:
    with pytest.raises(mia.InputError, match=told):
        mia.try_remedies(audit(), remedies=names)


def test_something_else_than_an_audit_is_refused() -> None:
    with pytest.raises(mia.InputError, match="audit"):
        mia.try_remedies(X)
    with pytest.raises(mia.InputError, match="give_up"):
        mia.try_remedies(audit(), give_up=1.0)


def test_a_named_remedy_that_cannot_apply_is_refused() -> None:
    with pytest.raises(mia.InputError, match="random_crop"):
        mia.try_remedies(audit(), remedies=["random_crop", "l2"])


@pytest.mark.slow
def test_of_all_remedies_those_that_cannot_apply_are_left_out_with_the_reason() -> None:
    tried = set_up(audit(), CATALOGUE, named=False)
    reasons = {remedy.name: reason for remedy, reason in tried.inapplicable}
    assert set(reasons) == {"random_crop"}
    assert [each.name for each in tried.remedies] == [name for name in NAMES if name != "random_crop"]


def test_an_audit_in_which_no_remedy_applies_is_refused() -> None:
    (crop,) = (each for each in CATALOGUE if each.name == "random_crop")
    with pytest.raises(mia.InputError, match="random_crop"):
        set_up(audit(), [crop], named=False)


def test_estimators_are_refused() -> None:
    forest = mia.Audit(X, LABEL, target=RandomForestClassifier(), attacks=[mia.Loss()], shadow=mia.Real(count=4))
    with pytest.raises(mia.InputError, match="model"):
        mia.try_remedies(forest)


def test_trials_of_one_record_are_refused() -> None:
    trials = audit(membership=mia.OneCanary(train_size=50), target=mia.Trained(count=30))
    with pytest.raises(mia.InputError, match="one_canary"):
        mia.try_remedies(trials, remedies=["l2"])


@pytest.mark.usefixtures("global_generators")
def test_a_trained_target_is_trained_anew_on_as_many_records() -> None:
    network = MLP(input_shape=(64,), num_classes=10, hidden=[8])
    member_N = torch.zeros(800, dtype=torch.bool)
    member_N[:100] = True
    given = audit(target=network, membership=mia.Given(member_N=member_N))
    tried = set_up(given, [each for each in CATALOGUE if each.name == "l2"], named=True)
    assert tried.audit.attacked.is_trained_here
    assert abs(int(tried.plan.member_KN[0].sum()) - 100) <= 1
    assert any("trained already" in note for note in tried.notes)


@pytest.mark.usefixtures("global_generators")
def test_models_of_more_than_half_of_the_records_train_on_half() -> None:
    member_N = torch.ones(800, dtype=torch.bool)
    member_N[:100] = False
    network = MLP(input_shape=(64,), num_classes=10, hidden=[8])
    given = audit(target=network, membership=mia.Given(member_N=member_N))
    tried = set_up(given, [each for each in CATALOGUE if each.name == "l2"], named=True)
    assert int(tried.plan.member_KN[0].sum()) == 400
    assert any("400" in note and "700" in note for note in tried.notes)


def test_of_many_records_a_part_is_used() -> None:
    many = mia.Audit(
        torch.rand(5000, 4, generator=torch.Generator().manual_seed(0)),
        torch.arange(5000) % 2,
        **quick_audit(membership=mia.Disjoint(train_size=50)),
    )
    tried = set_up(many, [each for each in CATALOGUE if each.name == "l2"], named=True)
    assert len(tried.audit.population) == 550
    again = set_up(many, [each for each in CATALOGUE if each.name == "l2"], named=True)
    assert torch.equal(tried.audit.population.x_N, again.audit.population.x_N)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_other_tasks_have_their_own_utility(task: str) -> None:
    x = torch.rand(300, 6, generator=torch.Generator().manual_seed(0))
    label = x[:, 0] + x[:, 1] if task == "regression" else (x[:, :3] > 0.5).long()
    training = mia.Recipe(epochs=5, batch_size=20)
    one = mia.Audit(
        x,
        label,
        task=task,
        **quick_audit(shadow=mia.Real(count=16), membership=mia.Disjoint(train_size=60), training=training),
    )
    found = mia.try_remedies(one, remedies=["fewer_epochs"])
    (remedy,) = found.remedies
    assert found.utility == one.population.task.utility
    assert remedy.strengths[0].utility_difference.low < remedy.strengths[0].utility_difference.high


@pytest.mark.slow
def test_remedies_that_make_it_worse_are_named() -> None:
    found = mia.try_remedies(audit(attacks=[mia.Loss(), mia.Lira(online=False)]), remedies=["label_smoothing"])
    worse = [each.description for each in found.remedies[0].strengths if each.verdict == "leaks more"]
    sentence = harm_sentence(found)
    assert (sentence is None) == (not worse)
    assert all(each in (sentence or "") for each in worse)


@pytest.mark.slow
def test_the_estimate_trains_nothing_and_has_a_sentence_for_each_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = estimate_remedies(audit(), remedies=["fewer_epochs", "l2", "rounding"])
    assert [each.split(",")[0].split(":")[0] for each in sentences[:3]] == ["Doing nothing", "fewer_epochs", "l2"]
    assert "rounding" in sentences[3]


@pytest.mark.parametrize("remedy", CATALOGUE, ids=lambda each: each.name)
def test_what_is_typed_for_a_strength_makes_it(remedy: object) -> None:
    import yaml
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from mia_lightning.command.mistakes import config_directory

    for defense in remedy.strengths:
        first, *rest = settings_of(defense)
        assert first == f"defense={remedy.name}"
        content = yaml.safe_load((config_directory() / "defense" / f"{remedy.name}.yaml").read_text())
        content.pop("_target_")
        for each in OverridesParser.create().parse_overrides(rest):
            content[each.key_or_group.rpartition(".")[2]] = each.value()
        assert type(defense)(**content) == defense
