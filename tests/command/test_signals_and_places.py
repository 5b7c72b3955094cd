"""Signals at any moment of a run, readers that end early, and places that are none."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Call

QUICK = [
    *("attack=loss", "shadow.count=2", "training.epochs=2", "dataset.train_size=40", "trainer.accelerator=cpu"),
    *("store.dir=null", "logger=none"),
]


def outcome(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "outcome.json").read_text())
    return content


@pytest.mark.costly
@pytest.mark.parametrize(
    "place",
    [
        "mia_lightning.command.job.Job.of",
        "mia_lightning.run.preparation.filled",
        "mia_lightning.run.observation.observe_models",
        "mia_lightning.reports.files.save_report",
        "mia_lightning.command.main._print_result",
    ],
)
def test_sigterm_at_any_moment(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def terminated(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    module, _, name = place.rpartition(".")
    if module.endswith("Job"):
        monkeypatch.setattr(place, terminated)
    else:
        __import__(module)
        for each in list(sys.modules.values()):  # wherever it has been imported to
            if getattr(each, "__name__", "").startswith("mia_lightning") and name in vars(each):
                monkeypatch.setitem(vars(each), name, terminated)
    before = signal.getsignal(signal.SIGTERM)
    result = call(*QUICK, "hydra.run.dir=here")
    assert result.returncode == 143
    assert result.stderr.splitlines()[-1] == "mia-lightning: terminated; no report was written for this run."
    assert "Traceback" not in result.stderr
    has_report = (tmp_path / "here" / "report.json").exists()
    assert has_report == (name == "_print_result")
    expected = {"exit_code": 0, "reason": None} if has_report else {"exit_code": 143, "reason": "terminated"}
    assert outcome(tmp_path / "here") == expected
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_ends_a_sweep_in_the_run_that_it_meets(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("mia_lightning.command.job.Job.of", terminated)
    result = call("-m", *QUICK, "hydra.sweep.dir=sweep", "seed=0,1")
    assert result.returncode == 143
    assert outcome(tmp_path / "sweep" / "0")["reason"] == "terminated"
    assert not (tmp_path / "sweep" / "1" / "outcome.json").exists()


def test_a_signal_while_the_configuration_is_composed_waits_for_the_folder(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mia_lightning.command import main

    def check(arguments: list[str]) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(main, "check_flags", check)
    assert call(*QUICK, "hydra.run.dir=here").returncode == 143
    assert outcome(tmp_path / "here") == {"exit_code": 143, "reason": "terminated"}
    refused = call("seed=[")  # the folder will never be known
    assert refused.returncode == 143


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_run_that_nobody_reads_ends_as_it_would(tmp_path: Path, stream: str) -> None:
    """The gate's exit code, with the summary or the progress going to a reader that has ended."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "mia_lightning",
        *QUICK,
        "hydra.run.dir=here",
        "gate.metric=auc",
        "gate.limit=0.01",
    ]
    others = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writing}
    done = subprocess.run(command, cwd=tmp_path, text=True, timeout=300, **others)  # type: ignore[call-overload]
    os.close(writing)
    assert done.returncode == outcome(tmp_path / "here")["exit_code"] == 3
    assert (tmp_path / "here" / "report.json").is_file()
    assert "Traceback" not in (done.stderr or "")
    if stream == "stderr":
        assert done.stdout.splitlines()[-1].startswith("Results: ")


@pytest.mark.costly
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["store.dir='~nobody_such/x'"], "`store.dir` is '~nobody_such/x' and there is no such home folder"),
        (["dataset=npz", "dataset.path=" + "x" * 300], "File name too long"),
        (["dataset=npz", "dataset.path=\udcff.npz"], "no text in UTF-8"),
        (["hydra.run.dir=\udcff"], "no text in UTF-8"),
    ],
)
def test_paths_that_are_none(call: Call, arguments: list[str], part: str) -> None:
    result = call(*QUICK, *arguments)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert part in result.stderr


def test_a_nul_in_a_configuration_of_ones_own(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "own.yaml").write_text(
        '_target_: mia_lightning.datasets.npz.load_npz\npath: "a\\0b"\ntrain_size: 10\n'
    )
    result = call("--config-dir=mine", *QUICK, "dataset=own")
    assert result.returncode == 2
    assert "`dataset.path` is 'a\\x00b'" in result.stderr


@pytest.mark.parametrize("module", ["mia_lightning", "mia_lightning.serve"])
def test_a_working_folder_that_is_gone(tmp_path: Path, module: str) -> None:
    program = f"cd '{tmp_path}' && mkdir gone && cd gone && rmdir ../gone && '{sys.executable}' -m {module} run"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == 2
    assert "the working folder cannot be used (No such file or directory)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_wandb_without_a_home(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(wandb, "init", fails)
    result = call(*QUICK[:-1], "logger=wandb")
    assert result.returncode == 2
    assert "Could not determine home directory" in result.stderr
    assert "logger=none" in result.stderr


TOP_K = "_target_:mia_lightning.defenses.top_k.TopK"
EXPERIMENT = "title:t,question:q,source:s"


@pytest.mark.costly
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["attack=[loss,gap,loss]"], "attack=[loss,gap,loss] names loss twice"),
        (["defense=[top_k,top_k]"], "names top_k twice"),
        ([f"+defense.a={{{TOP_K}}}", f"+defense.b={{{TOP_K}}}"], "holds top_k twice"),
        (["dataset._target_=nowhere.X"], "`dataset` cannot be made: No module named 'nowhere'"),
        (["dataset._target_=builtins.dict"], "`dataset` makes {'name': 'digits'}"),
        (["training.optimizer._partial_=3"], "`training.optimizer` cannot be made"),
        (["training.optimizer.lr=inf"], "`training.optimizer.lr` is inf"),
        (["trainer.devices=1000000000"], "`trainer.devices` is 1000000000"),
        (["shadow.shards=1000000000", "store.dir=st"], "`shadow.shards` is 1000000000"),
        (["shadow.count=1000000000000"], "`shadow.count` is 1000000000000"),
        (["model.hidden=[1000000000]"], "`model.hidden` is [1000000000] and no layer is larger than 1000000"),
        (["experiments=5"], "`experiments` is 5"),
        (["experiments=[1]"], "`experiments` is 1"),
        (["experiments=[{experiment:defenses,set:5}]"], "`experiments.set` is 5"),
        ([f"comparison={{{EXPERIMENT},variants:5}}"], "`comparison.variants` is 5"),
        ([f"comparison={{{EXPERIMENT},variants:{{a:{{set:5}}}}}}"], "`comparison.variants.set` is 5"),
        ([f"comparison={{{EXPERIMENT},variants:{{a:{{sett:[]}}}}}}"], "`comparison.variants.sett` is no setting"),
        ([f"comparison={{{EXPERIMENT},variants:{{a:{{x:z}}}}}}"], "`comparison.variants.x` is 'z'"),
        ([f"comparison={{{EXPERIMENT},findings:5,variants:{{a:{{}}}}}}"], "`comparison.findings` is 5"),
        (["comparison={variants:{a:{}}}"], "`comparison.title` is not set"),
        (
            [f"comparison={{{EXPERIMENT},variants:{{a:{{}}}}}}", "scales={small:5}", "scale=small"],
            "`scales.small` is 5",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_slips_are_one_sentence(call: Call, arguments: list[str], part: str) -> None:
    result = call(*QUICK, *arguments)
    assert result.returncode == 2, result.stderr
    assert part in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_is_given_twice_is_said(call: Call) -> None:
    result = call(*QUICK, "trainer.progress_bar=false", "seed=1", "seed=2")
    assert (result.returncode, result.stderr) == (
        0,
        "mia-lightning: seed is given more than once; the last, 2, counts\n",
    )


@pytest.mark.costly
@pytest.mark.parametrize("section", ["canary", "store"])
def test_a_section_may_be_empty(call: Call, section: str) -> None:
    names = {"canary": ["count", "kind"], "store": ["dir", "answers"]}[section]
    quick = [each for each in QUICK if not each.startswith("store.")]
    result = call(*quick, "estimate=true", *(f"~{section}.{name}" for name in names))
    assert result.returncode == 0, result.stderr
