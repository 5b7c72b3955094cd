"""The command as a person runs it: exit codes, sentences, files.

The main cases run in a subprocess; the many kinds of mistakes call `main` in this process, which spares the imports.
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
from command_line import Call, Ended

from mia_lightning.store.documents import sealed

QUICK = ["logger=none", "shadow.count=4", "training.epochs=8", "dataset.train_size=60", "trainer.accelerator=cpu"]
GROUPS = ["model", "membership", "target", "shadow", "training", "trainer", "logger", "attack", "defense"]
DATASETS = (
    "adult, audio, cifar10, cifar100, csv, datamodule, diabetes, digits, images, location, mnist, npz, purchase, "
    "table, texas, text"
)
FIRST_ROWS = ["membership=given", "membership.member_N=[0,1,2,3,4,5,6,7,8,9]"]
QUICK_ATTACK = ["attack.shokri.training.epochs=3"]
QUICKER = [*QUICK, "attack=loss", "shadow.count=2", "training.epochs=2"]


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HYDRA_", "MIA_"))}
    command = [sys.executable, "-m", "mia_lightning", *arguments]
    return subprocess.run(command, cwd=folder, env={**kept, **environment}, capture_output=True, text=True, timeout=300)


def refused(result: Ended | subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("mia-lightning: ")
    assert "Traceback" not in result.stderr + result.stdout
    assert len(result.stderr.strip().splitlines()) == 1
    for part in parts:
        assert part in result.stderr


def reports(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("report.json"))]


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


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["shadow.cont=3"], ["`shadow.cont`", "did you mean `shadow.count`?"]),
        (["datset=digits"], ["`datset`", "did you mean `dataset`?"]),
        (["dataset=digit"], ["dataset=digit", DATASETS, "did you mean `digits`?"]),
        (["attack=[shokri,lira]"], ["attack=lira", "shokri"]),
        (["experiment=nothing"], ["experiment=nothing"]),
        (["dataset.train_size=[1,"], ["dataset.train_size=[1,"]),
        (["seed=1,2"], ["`seed=1,2` holds several values", "add --multirun", "seed=[1,2]"]),
        (["dataset.path=a,b.csv"], ["write dataset.path=[a,b.csv]", """typed "dataset.path='a,b.csv'"."""]),
        (["dataset.path=fold=1.npz"], ["""type "dataset.path='fold=1.npz'"."""]),
        (["dataset.path=data (1).csv"], ["""type "dataset.path='data (1).csv'"."""]),
        (["dataset.path=Bücher.csv"], ["""type "dataset.path='Bücher.csv'"."""]),
        (["+dataset.path=it's.csv"], ["""type '+dataset.path="it'"'"'s.csv"'."""]),
        (
            ["dataset.path=my", "data (1).csv"],
            ["`data (1).csv` is no setting", """"dataset.path='my data (1).csv'"."""],
        ),
        (["data.csv"], ["`data.csv` is no setting; settings are given as key=value"]),
        (["data set=x"], ["`data set=x` cannot be read; settings are given as key=value"]),
        (["dataset=npz", "dataset.path=${x}.npz"], ["""type 'dataset.path='"'"'\\${x}.npz'"'"''."""]),
        (["dataset=csv", "dataset.path=2024.10", "dataset.label_column=y"], ["""typed "dataset.path='2024.10'"."""]),
        (["dataset=csv", "dataset.path=x", "dataset.label_column=1.0"], ["""typed "dataset.label_column='1.0'"."""]),
        (["dataset=csv", "dataset.path=x", "dataset.label_column=true"], ["""typed "dataset.label_column='true'"."""]),
        (
            ["dataset=csv", "dataset.path=x", "dataset.label_column=y", "dataset.drop_columns=[a,1.5]"],
            ["""typed "dataset.drop_columns=[a,'1.5']"."""],
        ),
        (["--no-such-flag"], ["--no-such-flag"]),
        (["--experimental-rerun", "config.pickle"], ["--experimental-rerun reads a pickle", ".hydra/overrides.yaml"]),
        (["+extra.key=1"], ["`extra`"]),
        (["model=custom"], ["`model._target_` is not set"]),
        (["dataset=csv", "dataset.path=x.csv"], ["`dataset.label_column` is not set"]),
        (["dataset=null"], ["dataset=null is no choice", DATASETS]),
        *(([f"{group}=null"], [f"{group}=null is no choice"]) for group in GROUPS),
        (["attack=5"], ["attack=5 is no choice", "shokri"]),
        (["experiment=5"], ["experiment=5 is no choice"]),
        (["hydra=null"], ["hydra=null"]),
        (["~seed"], ["`seed` is not set"]),
        (["~save_models"], ["`save_models` is not set"]),
        (["~defense.adaptive"], ["`defense.adaptive` is None"]),
        (["defense.adaptive=maybe"], ["`defense.adaptive` is 'maybe'"]),
        (["defense=top_kk"], ["did you mean `top_k`?"]),
        (["attack=[lira]"], ["attack=lira", "did you mean `lira_offline` or `lira_online`?"]),
        (["defense=top_k", "defense.top_k=null"], ["`defense.top_k` is empty"]),
        (["scale=small"], ["`scale` is 'small', which only experiments have"]),
        (["~model"], ["`model` has no `_target_`", "cnn, custom"]),
        (["~dataset"], ["`dataset` is empty", DATASETS]),
        (["~dataset._target_"], ["`dataset` has no `_target_`"]),
        (["attack.loss=null"], ["`attack.loss` is empty"]),
        (["~shadow.count", "shadow.count=3"], ["`shadow.count` in this configuration"]),
        (["--resolve"], ["--resolve"]),
        (["hydra.run.dir=in_the_way"], ["in_the_way", "set hydra.run.dir"]),
        (["hydra.run.dir=in_the_way/below"], ["in_the_way", "set hydra.run.dir"]),
        (["save_models=maybe"], ["`save_models` is 'maybe'", "true or false"]),
        (["save_models=null"], ["`save_models` is None"]),
        (["convergence=maybe"], ["`convergence` is 'maybe'", "true or false"]),
        (["trainer.progress_bar=foo"], ["`trainer.progress_bar` is 'foo'"]),
        (["-m", "hydra/launcher=slurmm"], ["hydra/launcher=slurmm is not", "local, ray, slurm", "mean `slurm`?"]),
        (
            ["target=open_inference", "target.asking.buget=5"],
            ["there is no setting `target.asking.buget` (did you mean `target.asking.budget`?)"],
        ),
        (["store.dirr=x"], ["there is no setting `store.dirr` (did you mean `store.dir`?)"]),
        (["store.dir=null", "shadow.shards=2"], ["`shadow.shards` is 2, and `store.dir` is null"]),
        (["output=yaml"], ["`output` is 'yaml'", "one of text, json"]),
        (["logger=[wandb,tensorboard]"], ["`logger` takes one choice", "logger=wandb_and_tensorboard"]),
        (["model=[mlp,cnn]"], ["model=[mlp,cnn] names several, and `model` takes one choice."]),
        (["model=custom", "model._target_=my_package.Net", "model.width=7"], ["+model.width=7", "my_package.Net"]),
        (["target.path=a.ckpt"], ["`target.path` is a setting of", "target=checkpoint"]),
    ],
)
def test_mistakes_that_need_no_torch_are_one_sentence(
    call: Call, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    (tmp_path / "in_the_way").touch()
    refused(call(*arguments), *parts)
    assert not reports(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["model=custom", "model._target_=nowhere.Net"], ["`model`", "nowhere"]),
        (["+model.depth=3"], ["`model.depth` is no setting"]),
        (["+training.speed=3"], ["`training.speed` is no setting; the settings are epochs, "]),
        (["+attack.shokri.training.speed=3"], ["`attack.shokri.training.speed` is no setting"]),
        (["dataset._target_=mia_lightning.make_population"], ["`dataset.x` is not set, and make_population needs it"]),
        (
            ["trainer.callbacks=[{_target_:pytorch_lightning.callbacks.ModelCheckpoint,every_n_epoch:1}]"],
            ["`trainer.callbacks[0].every_n_epoch` is no setting of ModelCheckpoint (did you mean `every_n_epochs`?)"],
        ),
        (["training.optimizer.lr=abc"], ["`training.optimizer.lr` is 'abc'; it must be a number."]),
        (["training.optimizer.lr=-1"], ["`training.optimizer.lr` is -1, and Adam refuses it: Invalid learning rate"]),
        (
            ["+guess.training={optimizer:{_target_:torch.optim.SGD,_partial_:true,lr:abc}}"],
            ["`guess.training.optimizer.lr` is 'abc'; it must be a number."],
        ),
        (["attack.shokri.training.optimizer.lr=abc"], ["`attack.shokri.training.optimizer.lr` is 'abc'"]),
        (["dataset.train_size=1.5"], ["`dataset.train_size` is 1.5"]),
        (["dataset.train_size=true"], ["`dataset.train_size` is True"]),
        (["membership.train_size=abc"], ["`dataset.train_size` is 'abc'"]),
        (["membership.validation=1.5"], ["`membership.validation` is 1.5"]),
        (["membership=given", "membership.path=5"], ["`membership.path` 5 is not a file"]),
        (["target=checkpoint", "target.path=5", "target.prefix=5", *FIRST_ROWS], ["`target.path` 5 is not a file"]),
        (["shadow.count=true"], ["`shadow.count` is True"]),
        (["target.count=true"], ["`target.count` is True"]),
        (["training.optimizer._target_=torch.optim.Adafactor"], ["Adafactor", "element by element"]),
        (["dataset=npz", "dataset.path=absent.npz"], ["absent.npz"]),
        (["membership=given"], ["membership.path"]),
        (["target=checkpoint", "target.path=x.pt"], ["membership=given"]),
        (["attack=[]"], ["`attack` is empty"]),
        (["shadow.count=many"], ["`shadow.count` is 'many'"]),
        (["training.optimizer.lr=1e30", "model.activation=relu"], ["target 0 was no longer finite in epoch"]),
        (["trainer.options=5"], ["`trainer.options` is 5", "deterministic"]),
        (["trainer.options={logger:foo}"], ["`trainer.options.logger` is 'foo'"]),
        (["trainer.callbacks=5"], ["`trainer.callbacks` is 5"]),
        (["training.gradient_clip_norm=abc"], ["`training.gradient_clip_norm` is 'abc'"]),
        (["training.scheduler=5"], ["`training.scheduler` is 5", "`_target_`"]),
        (
            [
                "training.scheduler={_target_:torch.optim.lr_scheduler.OneCycleLR,_partial_:true,max_lr:0.1,"
                "total_steps:1}"
            ],
            ["`training.scheduler` ends after step 1, but the models of target take"],
        ),
        (["model.hidden=7"], ["`model.hidden` is 7"]),
        (["model.dropout=x"], ["`model.dropout` is 'x'"]),
        (["model.output=odds"], ["`model.output` is 'odds'; it must be one of auto, logits, probabilities, log_"]),
        (["model.output=probabilities"], ["`model.output` is 'probabilities', but the model MLP gives -"]),
        (["guess.model={hidden:[8],output:probabilities}"], ["output` is 'probabilities', but the model MLP gives -"]),
        (["attack.shokri.hidden=[x]"], ["`attack.shokri.hidden` is ['x']"]),
        (["attack.shokri.activation=foo"], ["`attack.shokri.activation` is 'foo'"]),
        (["attack=shokri", "attack.shokri.training.optimizer.lr=1e30"], ["all 10 attack networks", "lower"]),
        (["membership._target_=builtins.dict"], ["`membership` is {", "conf/membership"]),
        (["logger._target_=collections.OrderedDict"], ["`logger` is OrderedDict()", "conf/logger"]),
        (["model=custom", "model._target_=torch.nn.Lineer"], ["torch.nn has no `Lineer` (did you mean `Linear`?)"]),
        (
            ["target=estimator", "target.estimator._target_=sklearn.ensemble.RandomForrestClassifier"],
            ["did you mean `RandomForestClassifier`?); it has ", "ForestClassifier, "],
        ),
        (
            ["target=estimator", "target.estimator=RandomForestClassifier"],
            ["'RandomForestClassifier'", "target.estimator._target_=, such as sklearn.ensemble.RandomForestClassifier"],
        ),
        (
            [
                "target=estimator",
                "target.estimator._target_=sklearn.tree.DecisionTreeClassifier",
                "+target.estimator.trees=5",
            ],
            ["`target.estimator.trees` is no setting of DecisionTreeClassifier", "max_depth"],
        ),
        (
            [
                "target=estimator",
                "target.estimator._target_=sklearn.tree.DecisionTreeClassifier",
                "target.estimator.max_depth=5",
            ],
            ["DecisionTreeClassifier type a plus: +target.estimator.max_depth=5"],
        ),
        (["shadow.estimator=RandomForestClassifier"], ["`shadow.estimator` is 'RandomForestClassifier'", "_target_="]),
        (["model=custom", "model._target_=sklearn.tree.DecisionTreeClassifier"], ["DecisionTreeClassifier", "target"]),
        (["model=custom", "model._target_=Net"], ["`_target_` is Net, without its module"]),
        (["model._target_=torch.nn.Linear"], ["`model._target_` is of your own; add model=custom"]),
    ],
)
def test_mistakes_in_values_are_one_sentence(
    call: Call, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    refused(call(*QUICK, "trainer.progress_bar=false", *arguments), *parts)
    assert not reports(tmp_path)


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
def test_a_run_that_is_stopped_in_the_middle_leaves_no_report(tmp_path: Path, way: str) -> None:
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
        [sys.executable, "-m", "mia_lightning", *arguments],
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
            time.sleep(0.1)
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


def test_an_exit_in_the_middle_of_a_job_is_a_bug(call: Call, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "from mia_lightning.attacks.loss import Loss\n"
        "class Broken(Loss):\n    def fit(self, shadows, engine):\n        raise SystemExit\n"
    )
    quick = [*QUICKER, "hydra.run.dir=here"]
    assert call(*quick, "attack.loss._target_=broken.Broken").returncode == 1
    assert json.loads((tmp_path / "here" / "outcome.json").read_text())["exit_code"] == 1


def test_a_bug_keeps_its_traceback_and_exits_with_1(call: Call, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "from mia_lightning.attacks.loss import Loss\n"
        "class Broken(Loss):\n    def fit(self, shadows, engine):\n        raise RuntimeError('a bug')\n"
    )
    result = call(*QUICKER, "attack.loss._target_=broken.Broken", "hydra.run.dir=here")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "a bug" in result.stderr
    assert not reports(tmp_path)
    assert json.loads((tmp_path / "here" / "outcome.json").read_text()) == {
        "exit_code": 1,
        "reason": "RuntimeError: a bug",
    }


def test_options_of_the_trainer_need_no_plus(call: Call, tmp_path: Path) -> None:
    assert call(*QUICKER, "trainer.options={deterministic:true}", "hydra.run.dir=here").returncode == 0
    assert (tmp_path / "here" / "report.json").is_file()


def test_a_bug_in_what_a_configuration_names_keeps_its_traceback(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def load(name):\n    raise RuntimeError('a bug of mine')\n")
    done = call(*QUICK, "dataset._target_=mine.load", "hydra.run.dir=here")
    assert done.returncode == 1
    assert "RuntimeError: a bug of mine" in done.stderr
    assert "Traceback" in done.stderr


def test_nothing_of_an_earlier_run_stands_beside_a_failure(call: Call, tmp_path: Path) -> None:
    assert call(*QUICKER, "save_models=true", "hydra.run.dir=here").returncode == 0
    assert call(*QUICKER, "training.scheduler=5", "hydra.run.dir=here").returncode == 2
    left = {path.name for path in (tmp_path / "here").iterdir()}
    assert not left & {"report.json", "scores.parquet", "per_class.csv", "figures", "target.safetensors"}
    assert "outcome.json" in left


def test_members_are_checked_before_pictures_are_decoded(call: Call, tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True)
        (tmp_path / "pictures" / name).write_bytes(b"no image")
    (tmp_path / "rows.csv").write_text("file\ncat/3.png\n")
    given = ["membership=given", "membership.path=rows.csv"]
    result = call("dataset=images", "dataset.path=pictures", *given)
    assert result.returncode == 2
    assert "names 'cat/3.png', which is none of the 2 records" in result.stderr
    (tmp_path / "rows.csv").write_text("file\ncat/1.png\n")
    assert "cannot be read as an image" in call("dataset=images", "dataset.path=pictures", *given).stderr
