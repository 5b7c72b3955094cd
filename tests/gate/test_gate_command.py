"""The gate on the command line: exit codes, and what is refused before anything is trained."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gated import counted, report_of
from hydra.core.global_hydra import GlobalHydra

from mia_lightning.command.job import Job
from mia_lightning.gate import judge
from mia_lightning.terminal.exit_codes import worst


def test_the_worst_exit_code_is_that_of_what_was_not_done_then_that_of_the_gate() -> None:
    assert worst([]) == 0
    assert [worst(pair) for pair in ((0, 4), (3, 4), (3, 1), (4, 2), (1, 2), (3, 130), (143, 130))] == [
        4, 3, 1, 2, 2, 130, 143
    ]  # fmt: skip


QUICK = [
    "logger=none",
    "shadow.count=8",
    "training.epochs=40",
    "dataset.train_size=200",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "attack=lira_offline",
]


def command(forks: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HYDRA_", "MIA_"))}
    return subprocess.run(
        [forks / "mia-lightning", *QUICK, *arguments],
        cwd=folder,
        env=kept,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("exit_code", "limit", "word"),
    [(0, 0.9, "passed"), (3, 0.02, "failed"), (4, 0.2, "undetermined")],
)
@pytest.mark.slow
def test_the_command_exits_with_the_verdict(
    exit_code: int, limit: float, word: str, tmp_path: Path, forks: Path
) -> None:
    result = command(forks, tmp_path, "gate.metric=advantage", f"gate.limit={limit}", "hydra.run.dir=here")
    assert result.returncode == exit_code, result.stderr
    written = json.loads((tmp_path / "here" / "gate.json").read_text())
    assert (written["schema"], written["exit_code"]) == ("mia_lightning.gate/1", exit_code)
    assert written["sentence"].startswith(f"gate: {word}")
    assert written["sentence"] in result.stdout
    assert written["attacks"][0]["low"] < written["attacks"][0]["value"] < written["attacks"][0]["high"]
    outcome = json.loads((tmp_path / "here" / "outcome.json").read_text())
    assert outcome == {"exit_code": exit_code, "reason": written["sentence"] if exit_code else None}
    assert (tmp_path / "here" / "report.json").is_file()


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mia_lightning.command.main import main

    def run(*arguments: str, flags: tuple[str, ...] = ()) -> int:
        monkeypatch.setattr(sys, "argv", ["mia-lightning", *flags, *QUICK, *arguments])
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            GlobalHydra.instance().clear()
        return int(ended.value.code or 0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    return run


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run finds an advantage of 0.4 over 1,000 members and as many non-members, and trains nothing."""
    found = report_of({"loss": counted(0.9, 0.5, 1000)}, 1000)

    def run(job: Job, *_: object) -> Any:
        gate = job.configuration.judge
        return SimpleNamespace(**vars(found), gate=None if gate is None else judge(found, gate))

    monkeypatch.setattr("mia_lightning.command.job.Job.run", run)
    monkeypatch.setattr("mia_lightning.reports.console.render_summary", lambda _: "")


@pytest.mark.costly
@pytest.mark.parametrize(
    ("limits", "codes", "exit_code"),
    [
        pytest.param("0.9,0.8", [0, 0], 0, marks=pytest.mark.slow),
        pytest.param("0.9,0.41", [0, 4], 4, marks=pytest.mark.slow),
        ("0.9,0.2,0.41", [0, 3, 4], 3),
        ("0.2,2,0.41", [3, 2, 4], 2),
    ],
)
@pytest.mark.usefixtures("untrained")
def test_a_sweep_exits_with_the_worst_of_its_verdicts(
    limits: str, codes: list[int], exit_code: int, in_process: Any, tmp_path: Path
) -> None:
    sweep = ["gate.metric=advantage", f"gate.limit={limits}", "hydra.sweep.dir=sweep"]
    assert in_process(*sweep, flags=("-m",)) == exit_code
    outcomes = [json.loads((tmp_path / "sweep" / str(i) / "outcome.json").read_text()) for i in range(len(codes))]
    assert [outcome["exit_code"] for outcome in outcomes] == codes


@pytest.mark.costly
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["gate.metric=leak", "gate.limit=0.1"], "`gate.metric` is 'leak'"),
        (["gate.metric=auc"], "`gate.limit` is None"),
        (["gate.metric=auc", "gate.limit=0.6", "gate.attack=lira"], "`gate.attack` is 'lira'"),
        (["gate.metrc=auc"], "`gate.metrc` (did you mean `gate.metric`?)"),
    ],
)
def test_a_mistake_in_the_gate_is_said_before_anything_is_trained(
    arguments: list[str],
    part: str,
    in_process: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it was run")

    monkeypatch.setattr("mia_lightning.command.job.Job.run", never)
    assert in_process(*arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("mia-lightning: ")
    assert part in printed
    assert len(printed.strip().splitlines()) == 1


@pytest.mark.usefixtures("untrained")
def test_a_run_without_a_gate_leaves_no_verdict_of_an_earlier_one(in_process: Any, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "gate.json").write_text("{}")
    assert in_process("hydra.run.dir=here") == 0
    assert not (tmp_path / "here" / "gate.json").exists()


@pytest.mark.slow
def test_every_variant_of_an_experiment_passes_the_gate_or_costs_the_exit_code(in_process: Any, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "two.yaml").write_text(
        "# @package _global_\n"
        "comparison:\n"
        "  title: t\n  question: q\n  source: s\n"
        "  variants:\n    one: {set: []}\n    other: {set: [defense=top_k, defense.top_k.k=1]}\n"
    )
    config = ["experiment=two", "hydra.run.dir=here", "training.epochs=2"]
    gate, flags = ["gate.metric=advantage"], ("--config-dir", "mine")
    code = in_process(*config, *gate, "gate.limit=0.0001", flags=flags)
    statuses = [json.loads((tmp_path / "here" / name / "gate.json").read_text()) for name in ("one", "other")]
    assert code == worst(status["exit_code"] for status in statuses)
    assert code in (3, 4)
    outcome = json.loads((tmp_path / "here" / "outcome.json").read_text())
    assert outcome["exit_code"] == code
    assert "gate.json" in outcome["reason"]
