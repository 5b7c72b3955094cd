"""What a sweeper that optimises is given: figures of the reports, of runs that have them."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobStatus
from made_reports import build_report

from mia_lightning.command.main import main
from mia_lightning.errors import InputError
from mia_lightning.reports.files import save_report
from mia_lightning.sweep.launcher import SweepJob, _returned
from mia_lightning.sweep.objective import SweepSettings, objective_of
from mia_lightning.sweep.runs import Outcome, Run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_report(build_report(), folder)
    return folder


def test_figures_are_those_of_the_report(done: Path) -> None:
    content = json.loads((done / "report.json").read_text())
    overall = {attack["name"]: attack["overall"] for attack in content["attacks"]}
    assert objective_of(done, ["target.test_accuracy"]) == content["target"]["test_accuracy"]
    assert objective_of(done, ["leakage.loss.auc"]) == overall["loss"]["auc"]["value"]
    assert objective_of(done, ["leakage.shokri.tpr_at_fpr_0.01"]) == overall["shokri"]["tpr_at_fpr"]["0.01"]["value"]
    both = objective_of(done, ["target.train_accuracy", "leakage.loss.auc_low"])
    assert both == (content["target"]["train_accuracy"], overall["loss"]["auc"]["low"])


@pytest.mark.parametrize("figure", ["leakage.loss.auk", "leakage.gap.auc", "leakage.loss.tpr_at_fpr_0.0001"])
def test_a_figure_that_the_report_has_not_is_named(figure: str, done: Path) -> None:
    with pytest.raises(InputError, match=rf"`sweep\.objective` is '{figure}'"):
        objective_of(done, [figure])


def test_the_utility_of_another_task_has_both_names(tmp_path: Path) -> None:
    report = build_report()
    save_report(report.model_copy(update={"task": report.task.model_copy(update={"utility": "R²"})}), tmp_path)
    wanted = ["target.test_accuracy", "target.test_r2", "target.generalization_gap"]
    expected = (report.target.test_accuracy, report.target.test_accuracy, report.target.generalization_gap)
    assert objective_of(tmp_path, wanted) == expected


def test_figures_behind_an_output_defence_have_the_same_names(tmp_path: Path) -> None:
    report = build_report()
    attacks = tuple(
        each.model_copy(update={"defense": "top 1 class", "adaptive": adaptive})
        for each, adaptive in zip(report.attacks, (True, False), strict=True)
    )
    save_report(report.model_copy(update={"attacks": attacks}), tmp_path)
    for attack in report.attacks:
        assert objective_of(tmp_path, [f"leakage.{attack.name}.auc"]) == attack.overall.auc.value


@pytest.mark.parametrize(
    ("objective", "is_right"),
    [
        (None, True),
        ("target.test_accuracy", True),
        (["target.generalization_gap", "leakage.loss.auc"], True),
        ("leakage.loss-adaptive.auc", True),
        ("leakage.lira.v2.auc", True),
        ("target.accuracy", False),
        ("leakage.shokri.auc", False),
        ("leakage.loss", False),
        ("auc", False),
        ([], False),
        ("", False),
        (3, False),
        (["target.test_accuracy", 3], False),
    ],
)
def test_what_no_run_can_have_is_refused_beforehand(objective: Any, is_right: bool) -> None:
    if is_right:
        SweepSettings(objective=objective).check_attacks(["loss", "lira.v2"])
        return
    with pytest.raises(InputError, match=r"`sweep\.objective"):
        SweepSettings(objective=objective).check_attacks(["loss", "lira.v2"])


def test_the_sweeper_is_given_the_figure_or_that_the_run_failed(done: Path, tmp_path: Path) -> None:
    def returned(folder: Path, objective: tuple[str, ...], code: int) -> Any:
        run = Run(number=0, overrides=(), folder=folder, directory=folder, digest="d")
        job = SweepJob(run=run, shards=(), objective=objective)
        return _returned(job, Outcome(exit_code=code, reason=f"code {code}" if code else None))

    wanted = ("target.test_accuracy",)
    assert returned(done, (), 0).return_value == 0
    assert returned(done, (), 2).return_value == 2
    for code in (0, 3, 4):
        assert returned(done, wanted, code).return_value == objective_of(done, wanted)
    for folder, code, reason in ((done, 2, "code 2"), (done, 5, "code 5"), (tmp_path, 0, "no report")):
        failed = returned(folder, wanted, code)
        assert failed.status is JobStatus.FAILED
        with pytest.raises(InputError, match=reason):
            _ = failed.return_value


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(find_spec("optuna") is None, reason="needs hydra-optuna-sweeper, whose versions exclude others")
def test_optuna_finds_the_best_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    sweep = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "hydra.sweep.dir=sweep"]
    sweep += ["hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=1", "training.epochs=choice(1,2,15)"]
    run = ["shadow.count=2", "attack=[loss]", "dataset.train_size=60", "logger=none", "store.dir=store"]
    monkeypatch.setattr(sys, "argv", ["mia-lightning", "-m", *sweep, *run, "sweep.objective=target.test_accuracy"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        GlobalHydra.instance().clear()
    assert ended.value.code == 0
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    reports = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/report.json")]
    assert found["best_value"] == max(report["target"]["test_accuracy"] for report in reports)
    assert "Sweep" in capsys.readouterr().out
