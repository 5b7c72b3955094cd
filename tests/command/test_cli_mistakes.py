"""What is typed wrong is one sentence, and what is wrong with the code is a traceback."""

import json
from pathlib import Path

import pytest
from command_line import Call
from command_runs import DATASETS, QUICK, QUICKER, refused, reports

GROUPS = ["model", "membership", "target", "shadow", "training", "trainer", "logger", "attack", "defense"]

FIRST_ROWS = ["membership=given", "membership.member_N=[0,1,2,3,4,5,6,7,8,9]"]


@pytest.mark.costly
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
        (
            ["dataset=csv", "dataset.path=x", "dataset.label_column=[y,1.5]"],
            ["""typed "dataset.label_column=[y,'1.5']"."""],
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
        (
            ["experiment=mismatch", "attack=[loss]"],
            ["`attack.shokri` has settings", "attack=shokri", "'~attack.shokri'"],
        ),
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


@pytest.mark.costly
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
