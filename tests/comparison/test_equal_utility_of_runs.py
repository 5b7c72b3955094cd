"""`mia-compare --equal-utility`: two recipes at several strengths, where their targets are equally good."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kept_runs import keep
from made_reports import ReportMaker

import mia_lightning as mia
from mia_lightning.comparison.differences.command import main
from mia_lightning.comparison.differences.sides import sides_in
from mia_lightning.reports.schema import AuditReport, TaskSection, TrustSection

Said = Callable[..., tuple[int, str, str]]
STRENGTHS = ((1, 0.6), (2, 0.75), (3, 0.9))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Exit code, stdout and stderr of `mia-compare --equal-utility`."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--equal-utility", *(str(each) for each in arguments)])
        code = ended.value.code
        assert isinstance(code, int)
        return (code, *capsys.readouterr())

    return run


def with_right_answers(report: AuditReport, accuracy: float, architecture: str) -> AuditReport:
    """`gap` in the place of `loss`: non-members are answered right so often, members always."""
    scores = report.scores
    assert scores is not None
    random = np.random.default_rng(round(100 * accuracy))
    is_gap = scores.attack == "loss"
    right = scores.is_member | (random.random(len(scores.score)) < accuracy)
    attack = np.where(is_gap, "gap", scores.attack)
    kept = dataclasses.replace(scores, attack=attack, score=np.where(is_gap, right.astype(float), scores.score))
    sections = (report.attacks[0], report.attacks[1].model_copy(update={"name": "gap"}))
    target = report.target.model_copy(update={"architecture": architecture, "test_accuracy": accuracy})
    return report.model_copy(update={"scores": kept, "attacks": sections, "target": target})


@pytest.fixture(scope="module")
def kept(make_report: ReportMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cnn` leaks more at each accuracy than `mlp`; three strengths each."""
    folder = tmp_path_factory.mktemp("curves")
    for architecture, leak in (("cnn", 1.0), ("mlp", 0.4)):
        for strength, accuracy in STRENGTHS:
            config = {"model": {"name": architecture}, "training": {"epochs": strength}}
            made = make_report(shift=leak * strength, seed=strength, config=config)
            keep(with_right_answers(made, accuracy, architecture), folder / f"{architecture}{strength}")
    return folder


@pytest.fixture
def curves(kept: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return Path(shutil.copytree(kept, tmp_path, dirs_exist_ok=True))


def test_two_architectures_where_both_are_equally_accurate(curves: Path, said: Said) -> None:
    code, out, error = said(curves)
    assert (code, error) == (0, "")
    assert out.startswith("At equal utility cnn leaks more than mlp: AUC +")
    content = json.loads(said(curves, "--json")[1])
    assert content["schema"] == "mia_lightning.equal_utility/1"
    assert content["attack"] == "shokri"
    assert content["low"] < content["value"] < content["high"]
    assert [len(each) for each in content["strengths"]] == [3, 3]
    utilities = [point["utility"] for point in content["points"]]
    assert utilities == sorted(utilities)
    assert content["value"] == pytest.approx(np.mean([point["first"] - point["second"] for point in content["points"]]))
    by_setting = json.loads(said(curves, "--json", "--by", "model.name")[1])
    assert (by_setting["first"], by_setting["value"]) == ("model.name=cnn", content["value"])


def test_a_run_in_doubt_gives_no_verdict(curves: Path, said: Said) -> None:
    path = curves / "mlp2" / "report.json"
    report = mia.read_report(path).model_copy(update={"trust": TrustSection(verdict="sound", understated="why")})
    path.write_text(report.model_dump_json(by_alias=True))
    assert "are not judged at equal utility" in said(curves)[1]


def test_curves_that_do_not_overlap_are_said(make_report: ReportMaker, tmp_path: Path, said: Said) -> None:
    for architecture, offset in (("cnn", 0.0), ("mlp", 0.5)):
        for strength, accuracy in STRENGTHS:
            made = make_report(shift=0.5 * strength, seed=strength, config={"at": strength, "of": architecture})
            own = with_right_answers(made, (accuracy + 9) / 10 - offset, architecture)
            keep(own, tmp_path / f"{architecture}{strength}")
    code, out, _ = said(tmp_path)
    assert code == 0
    assert "never equally good" in out
    assert json.loads(said(tmp_path, "--json")[1])["value"] is None


@pytest.mark.parametrize(
    ("runs", "options", "named"),
    [
        (("cnn1", "cnn2", "cnn3", "mlp1", "mlp2"), (), "2 strengths"),
        (("cnn1", "cnn2", "cnn3"), (), "is 'architecture', of which all sides have 'cnn'"),
        (("",), ("--by", "model.depth"), "model.depth"),
        (("",), ("--attack", "lira"), "`attack`"),
    ],
)
def test_bad_input_is_one_sentence(
    runs: tuple[str, ...], options: tuple[str, ...], named: str, curves: Path, said: Said
) -> None:
    code, out, error = said(*(curves / run for run in runs), *options)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert named in error


def test_runs_without_right_answers_and_targets_without_a_curve_are_refused(
    curves: Path, make_report: ReportMaker, said: Said
) -> None:
    made = make_report(config={"model": {"name": "mlp"}, "training": {"epochs": 9}})
    keep(made, curves / "without")
    assert "attack=[loss,gap]" in said(curves, "--by", "model.name")[2]
    other = with_right_answers(make_report(per_class=100, config={"at": 9}), 0.8, "mlp")
    keep(other, curves / "without")
    assert "other members" in said(curves)[2]


def test_a_utility_that_is_no_accuracy_has_no_curve(curves: Path, said: Said) -> None:
    for folder in curves.iterdir():
        path = folder / "report.json"
        task = TaskSection(name="multilabel", utility="mean AUROC", stratum="label", strata_name="labels")
        path.write_text(mia.read_report(path).model_copy(update={"task": task}).model_dump_json(by_alias=True))
    code, _, error = said(curves)
    assert (code, error.count("\n")) == (2, 1)
    assert "mean AUROC" in error


def test_several_attacks_leave_open_which_is_meant(curves: Path, said: Said) -> None:
    for folder in curves.iterdir():
        path = folder / "report.json"
        report = mia.read_report(path)
        more = report.attacks[0].model_copy(update={"name": "lira"})
        path.write_text(report.model_copy(update={"attacks": (*report.attacks, more)}).model_dump_json(by_alias=True))
    assert "`--attack`" in said(curves)[2]


def of_strengths(make_report: ReportMaker, architecture: str, leak: float) -> list[AuditReport]:
    return [
        with_right_answers(
            make_report(shift=leak * strength, seed=strength, config={"of": architecture}), accuracy, architecture
        )
        for strength, accuracy in STRENGTHS
    ]


def test_reports_in_memory_give_the_figures_of_their_folders(
    make_report: ReportMaker, curves: Path, said: Said
) -> None:
    cnn, mlp = of_strengths(make_report, "cnn", 1.0), of_strengths(make_report, "mlp", 0.4)
    found = mia.difference_at_equal_utility(cnn, mlp, names=("cnn", "mlp"))
    content = json.loads(said(curves, "--json")[1])
    assert (found.value, found.low, found.high) == (content["value"], content["low"], content["high"])
    assert str(found) == found.sentence == content["sentence"]
    assert found.strengths == (("cnn (1)", "cnn (2)", "cnn (3)"), ("mlp (1)", "mlp (2)", "mlp (3)"))
    turned = mia.difference_at_equal_utility(mlp, cnn[::-1], attack="shokri")
    assert turned.value == pytest.approx(-(found.value or 0.0))
    assert turned.strengths[1] == ("the second (3)", "the second (2)", "the second (1)")


def test_what_cannot_be_compared_in_python_is_one_sentence(make_report: ReportMaker) -> None:
    cnn, mlp = of_strengths(make_report, "cnn", 1.0), of_strengths(make_report, "mlp", 0.4)
    numbers = [
        each.model_copy(update={"task": each.task.model_copy(update={"name": "regression", "utility": "R²"})})
        for each in (*cnn, *mlp)
    ]
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: mia.difference_at_equal_utility(cnn[:2], mlp), r"the first.* 2 strengths"),
        (lambda: mia.difference_at_equal_utility([], mlp), r"the first.* 0 strengths"),
        (lambda: mia.difference_at_equal_utility(cnn, cnn), "given twice"),
        (lambda: mia.difference_at_equal_utility(cnn, mlp, names=("a", "a")), r"`names`.*'a'"),
        (lambda: mia.difference_at_equal_utility(cnn, mlp, attack="lira"), r"`attack`.*'lira'"),
        (lambda: mia.difference_at_equal_utility(numbers[:3], numbers[3:]), "task regression.*R²"),
        (lambda: mia.difference_at_equal_utility(["run"], mlp), "'run' is no report"),  # type: ignore[list-item]
    ]
    for work, named in refused:
        with pytest.raises(mia.InputError, match=named):
            work()


def test_trainings_of_a_recipe_are_in_the_order_of_their_seeds_whatever_their_folders(
    make_report: ReportMaker, tmp_path: Path
) -> None:
    """As of a sweep, where 10 comes before 9."""
    for width, folders in ((1, "78"), (2, ("9", "10"))):
        for seed, folder in enumerate(folders):
            keep(make_report(seed=seed, config={"seed": seed, "width": width}), tmp_path / folder)
    sides = sides_in([tmp_path])
    assert [[run.report.run.seed for run in side.runs] for side in sides] == [[0, 1], [0, 1]]
    assert sorted(side.name for side in sides) == ["width=1", "width=2"]
