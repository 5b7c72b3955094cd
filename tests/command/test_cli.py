"""The command as a person runs it: exit codes, sentences, files.

The main cases run in a subprocess; the others call `main` in this process, or fork it, which spares the imports.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import Call
from command_runs import DATASETS, QUICK, QUICKER, refused, reports

from mia_lightning.store.documents import sealed

QUICK_ATTACK = ["attack.shokri.training.epochs=3"]


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HYDRA_", "MIA_"))}
    command = [sys.executable, "-m", "mia_lightning", *arguments]
    return subprocess.run(command, cwd=folder, env={**kept, **environment}, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_run_leaves_all_its_files_and_prints_a_short_table(tmp_path: Path) -> None:
    result = run(tmp_path, *QUICK, *QUICK_ATTACK, "hydra.run.dir=here", "save_models=true")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "here"
    for name in ("report.json", "report.html", "scores.parquet", "per_class.csv", "config.yaml", "outcome.json"):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "target.safetensors").is_file()
    assert (folder / "shadow.safetensors").is_file()
    assert list((folder / "figures").glob("*.png"))
    assert not list(folder.rglob("*.partial"))
    assert json.loads((folder / "outcome.json").read_text()) == {"exit_code": 0, "reason": None}
    (report,) = reports(tmp_path)
    assert [attack["name"] for attack in report["attacks"]] == ["shokri", "loss", "ratio_offline"]
    assert len(pq.read_table(folder / "scores.parquet")) == 3 * 120
    with (folder / "per_class.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 10
    assert report["run"]["config"]["shadow"]["count"] == 4
    assert "shokri" in result.stdout
    assert "Results: " in result.stdout
    assert "here/report.html" in result.stdout
    table = [line for line in result.stdout.splitlines() if line.startswith(("attack", "shokri", "loss", "ratio"))]
    assert len(table) == 4
    assert max(map(len, table)) <= 100


def test_a_plan_prints_what_a_run_would_take_and_leaves_its_folder_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "report.json").write_text("{}")  # of an earlier run
    result = call(*QUICK, *QUICK_ATTACK, "hydra.run.dir=here", "estimate=true")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "1 target model x 8 epochs",
        "4 shadow models x 8 epochs",
        "The models answer for 2,336 records",
        "10 attack/shokri models x 3 epochs",
        "All that is trained and answered",
    ]
    assert (tmp_path / "here" / "report.json").read_text() == "{}"
    assert not (tmp_path / "here" / "execution.json").exists()


def test_a_single_audit_knows_the_experiment_that_it_is(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(
        "mia_lightning.command.main._audit", lambda job, _: (0, seen.append(job.configuration.experiment))
    )
    call("experiment=multi_run_epsilon")
    call("shadow.count=4")
    assert seen == [{"name": "multi_run_epsilon", "variant": None}, None]


def test_a_plan_of_an_experiment_is_refused(call: Call) -> None:
    refused(call("estimate=true", "experiment=shokri2017/location"), "`estimate` is true", "compares several runs")
    refused(call(*QUICK, "estimate=3"), "`estimate` is 3")


@pytest.mark.slow
def test_a_run_keeps_how_its_models_were_trained(call: Call, tmp_path: Path) -> None:
    arguments = (*QUICK, "attack=loss", "hydra.run.dir=here", "shadow.count=2")
    assert call(*arguments).returncode == 0
    kept = json.loads((tmp_path / "here" / "execution.json").read_text())
    assert kept["schema"] == "mia_lightning.execution/2"
    assert [(plan["role"], plan["num_models"]) for plan in kept["plans"]] == [("target", 1), ("shadow", 2)]
    (report,) = reports(tmp_path)
    assert [plan["role"] for plan in report["run"]["execution"]] == ["target", "shadow"]
    assert report["run"]["peak_memory"]["process"] > 10**8
    page = (tmp_path / "here" / "report.html").read_text()
    assert "How the models were trained" in page
    assert "peak memory" in page
    kept["plans"][1]["chunk"] = 1  # what an interrupted run may have found
    del kept["check"]
    (tmp_path / "here" / "execution.json").write_bytes(sealed(kept, "execution.json"))
    assert call(*arguments).returncode == 0
    (report,) = reports(tmp_path)
    assert report["run"]["execution"][1]["chunk"] == 1


@pytest.mark.slow
def test_a_run_is_the_same_twice_and_other_under_another_seed(call: Call, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = call(
            *QUICK,
            *QUICK_ATTACK,
            f"hydra.run.dir={name}",
            f"seed={seed}",
            "shadow.count=2",
            "training.epochs=2",
            "store.dir=null",
        )
        assert result.returncode == 0, result.stderr
    a, b, c = (pq.read_table(tmp_path / name / "scores.parquet").to_pydict() for name in "abc")
    assert a == b
    assert a["score"] != c["score"]


@pytest.mark.slow
def test_a_run_says_whether_more_shadow_models_would_help(call: Call, tmp_path: Path) -> None:
    arguments = (*QUICK, "attack=loss")
    assert call(*arguments, "convergence=true", "hydra.run.dir=with").returncode == 0
    assert call(*arguments, "~convergence", "hydra.run.dir=without").returncode == 0
    told, untold = reports(tmp_path)
    if told["attacks"][0]["convergence"] is None:
        told, untold = untold, told
    assert untold["attacks"][0]["convergence"] is None
    found = told["attacks"][0]["convergence"]
    assert [point["num_shadows"] for point in found["points"]] == [2, 4]
    assert found["verdict"] == "settled"  # the losses of a target are what they are


@pytest.mark.slow
def test_a_sweep_runs_every_job_in_a_folder_of_its_own_and_exits_with_the_worst_code(
    call: Call, tmp_path: Path
) -> None:
    result = call("-m", *QUICKER, "dataset.train_size=40,5000,50", "hydra.sweep.dir=sweep")
    assert result.returncode == 2
    assert "`dataset.train_size` is 5000" in result.stderr
    assert re.findall(r"Job (\d): .*dataset.train_size=(\d+)", result.stderr) == [
        ("0", "40"),
        ("1", "5000"),
        ("2", "50"),
    ]
    assert [report["membership"]["num_members"] for report in reports(tmp_path / "sweep")] == [40, 50]
    outcomes = [json.loads((tmp_path / "sweep" / str(job) / "outcome.json").read_text()) for job in range(3)]
    assert [outcome["exit_code"] for outcome in outcomes] == [0, 2, 0]
    assert "5000" in outcomes[1]["reason"]


def test_own_data_and_own_architecture_from_the_working_folder(call: Call, tmp_path: Path) -> None:
    (tmp_path / "my_package.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, input_shape, num_classes, width=4):\n"
        "        super().__init__(nn.Linear(input_shape[0], width), nn.ReLU(), nn.Linear(width, num_classes))\n"
    )
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "my.npz", x=rng.normal(size=(200, 5)), label=np.arange(200) % 3)
    own = ["dataset=npz", "dataset.path=my.npz", "model=custom", "model._target_=my_package.Net", "+model.width=7"]
    rest = ["logger=none", "shadow.count=2", "training.epochs=2", "attack=loss", "trainer.accelerator=cpu"]
    result = call(*own, *rest)
    assert result.returncode == 0, result.stderr
    (report,) = reports(tmp_path)
    assert report["target"]["architecture"] == "Net"
    assert report["target"]["num_parameters"] == 5 * 7 + 7 + 7 * 3 + 3
    assert report["dataset"]["name"] == "my"
    assert report["membership"]["num_members"] == 50  # a quarter


@pytest.mark.slow
def test_membership_that_is_known(call: Call, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).permutation(1797)[:300]
    lines = ["row,member", *(f"{row},{int(i < 120)}" for i, row in enumerate(rows))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    given = ["membership=given", "membership.path=rows.csv"]
    result = call(*QUICKER, *given, "save_models=true", "hydra.run.dir=first")
    assert result.returncode == 0, result.stderr
    (report,) = reports(tmp_path)
    assert (report["membership"]["num_members"], report["membership"]["num_nonmembers"]) == (120, 180)
    table = pq.read_table(tmp_path / "first" / "scores.parquet").to_pydict()
    members = {record for record, is_member in zip(table["record"], table["is_member"], strict=True) if is_member}
    assert members == set(rows[:120].tolist())


def test_the_configuration_can_be_extended_by_a_folder_of_ones_own(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine" / "attack").mkdir(parents=True)
    (tmp_path / "mine" / "attack" / "yeom.yaml").write_text(
        "# @package attack.yeom\n_target_: mia_lightning.attacks.loss.Loss\nname: yeom\n"
    )
    result = call("--config-dir", "mine", *QUICKER, "attack=[loss,yeom]")
    assert result.returncode == 0, result.stderr
    (report,) = reports(tmp_path)
    assert [attack["name"] for attack in report["attacks"]] == ["loss", "yeom"]


@pytest.mark.slow
def test_the_default_logger_is_wandb_offline_without_a_prompt(tmp_path: Path) -> None:
    result = run(tmp_path, *QUICK[1:], "attack=loss")
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.costly
@pytest.mark.parametrize(("way", "code"), [("interrupted", 130), ("terminated", 143)])
def test_a_signal_in_the_middle_leaves_no_report(call: Call, tmp_path: Path, way: str, code: int) -> None:
    number = {"interrupted": "SIGINT", "terminated": "SIGTERM"}[way]
    (tmp_path / "my_package.py").write_text(
        "import signal\nimport pytorch_lightning as pl\n"
        "class Stopped(pl.Callback):\n"
        f"    def on_train_epoch_end(self, trainer, module):\n        signal.raise_signal(signal.{number})\n"
    )
    result = call(*QUICKER, "trainer.callbacks=[{_target_:my_package.Stopped}]", "hydra.run.dir=here")
    assert result.returncode == code
    assert f"mia-lightning: {way}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not reports(tmp_path)
    assert json.loads((tmp_path / "here" / "outcome.json").read_text()) == {"exit_code": code, "reason": way}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["killed", "interrupted", "terminated"])
def test_a_run_that_is_stopped_in_the_middle_leaves_no_report(tmp_path: Path, forks: Path, way: str) -> None:
    (tmp_path / "watch.py").write_text(
        "import pathlib\nimport pytorch_lightning as pl\n"
        "class Started(pl.Callback):\n"
        "    def on_train_epoch_end(self, trainer, module):\n        pathlib.Path('started').touch()\n"
    )
    arguments = [
        *QUICK,
        "training.epochs=1000000",
        "trainer.callbacks=[{_target_:watch.Started}]",
        "hydra.run.dir=here",
    ]
    sent, code = {
        "interrupted": (signal.SIGINT, 130),
        "terminated": (signal.SIGTERM, 143),
        "killed": (signal.SIGKILL, -signal.SIGKILL),
    }[way]
    process = subprocess.Popen(
        [str(forks / "mia-lightning"), *arguments],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores the signal, and its children would inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not (tmp_path / "started").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(sent)
        _, printed = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == code
    assert not reports(tmp_path)
    assert not (tmp_path / "here" / "report.html").exists()
    if way != "killed":
        assert f"mia-lightning: {way}" in printed
        assert "Traceback" not in printed
        assert json.loads((tmp_path / "here" / "outcome.json").read_text()) == {"exit_code": code, "reason": way}


def test_ctrl_c_while_hydra_is_imported_has_no_traceback(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from mia_lightning.command.main import main\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'hydra':\n            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 130
    assert result.stderr.splitlines() == ["mia-lightning: interrupted; no report was written for this run."]


@pytest.mark.slow
def test_a_failing_run_leaves_no_report_of_an_earlier_one_in_its_folder(call: Call, tmp_path: Path) -> None:
    quick = [*QUICKER, "hydra.run.dir=here"]
    assert call(*quick).returncode == 0
    assert reports(tmp_path)
    refused(call(*quick, "dataset.train_size=5000"), "`dataset.train_size` is 5000")
    assert not reports(tmp_path)
    assert not (tmp_path / "here" / "report.html").exists()
    assert json.loads((tmp_path / "here" / "outcome.json").read_text())["exit_code"] == 2


def test_a_setting_without_effect_is_said_to_have_none(call: Call) -> None:
    quick = [*QUICKER, "membership=halves"]
    result = call(*quick, "~trainer.progress_bar")
    assert result.returncode == 0, result.stderr
    assert "mia-lightning: dataset.train_size has no effect under membership=halves" in result.stderr.splitlines()
    silent = call(*(argument for argument in quick if "train_size" not in argument))
    assert silent.returncode == 0
    assert "no effect" not in silent.stderr


def test_a_run_that_trains_what_shards_were_to_train_says_so(call: Call) -> None:
    quick = [*QUICKER, "store.dir=store", "shadow.shards=2"]
    sentence = (
        "mia-lightning: shadow.shards divides shadow models among the runs of a sweep (--multirun); this run trained "
        "them itself"
    )
    result = call(*quick)
    assert result.returncode == 0, result.stderr
    assert sentence in result.stderr.splitlines()
    again = call(*quick)  # as where shards have trained them before
    assert again.returncode == 0
    assert "--multirun" not in again.stderr


@pytest.mark.slow
def test_the_saved_target_of_a_run_is_a_checkpoint(call: Call, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("row\n" + "".join(f"{row}\n" for row in range(60)))
    quick = [*QUICKER, "membership=given", "membership.path=rows.csv"]
    assert call(*quick, "save_models=true", "hydra.run.dir=first").returncode == 0
    result = call(*quick, "target=checkpoint", "target.path=first/target.safetensors", "hydra.run.dir=second")
    assert result.returncode == 0, result.stderr
    first, second = (pq.read_table(tmp_path / name / "scores.parquet").to_pydict() for name in ("first", "second"))
    assert first == second


@pytest.mark.slow
def test_early_stopping_from_the_command_line(call: Call, tmp_path: Path) -> None:
    stopping = ["training.early_stopping={patience:2}", "membership.validation=50", "training.epochs=200"]
    result = call(*QUICKER, *stopping)
    assert result.returncode == 0, result.stderr
    (report,) = reports(tmp_path)
    assert report["membership"]["num_validation"] == 50


def test_help_lists_choices_settings_and_examples(tmp_path: Path) -> None:
    result = run(tmp_path, "--help")
    assert result.returncode == 0
    for part in (
        f"dataset: {DATASETS}",
        "membership: bernoulli, disjoint, given, halves",
        "train_size:",
        "Examples",
    ):
        assert part in result.stdout
    assert run(tmp_path, "--version").stdout.startswith("mia-lightning 0.")


@pytest.mark.slow
def test_nothing_heavy_is_imported_for_help_or_a_mistake(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from mia_lightning.command.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'wandb', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    for argument in ("--help", "shadow.cont=3", "model=custom"):
        command = [sys.executable, "-c", script, argument]
        assert "heavy: []" in subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_options_of_the_trainer_need_no_plus(call: Call, tmp_path: Path) -> None:
    assert call(*QUICKER, "trainer.options={deterministic:true}", "hydra.run.dir=here").returncode == 0
    assert (tmp_path / "here" / "report.json").is_file()
