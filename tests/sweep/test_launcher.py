"""The launcher: what is run, what is skipped, in which order, and how the command ends."""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.global_hydra import GlobalHydra
from made_reports import build_report
from quick import slow_but

from mia_lightning.command.job import Job
from mia_lightning.command.main import main
from mia_lightning.sweep.runs import FINISHED, Outcome, Run, begin

Sweep = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def report() -> bytes:
    """The content of a whole `report.json`."""
    return build_report().model_dump_json(by_alias=True).encode()


@dataclass
class Recorder:
    """A backend that notes what it is given, and ends each run as `codes` says by a part of its settings; one that has
    a result has a report."""

    report: bytes

    codes: dict[str, int] = field(default_factory=dict)
    waves: list[list[Run]] = field(default_factory=list)
    instead: Callable[[], None] | None = None

    def run(self, runs: Sequence[Run], *, folder: Path) -> None:
        self.waves.append(list(runs))
        for run in runs:
            begin(run)
            if self.instead is not None:
                self.instead()
            code = next((code for part, code in self.codes.items() if part in run.overrides), 0)
            if code in FINISHED:
                (run.folder / "report.json").write_bytes(self.report)
            Outcome(exit_code=code, reason=f"because of {run.label}" if code else None).keep(run.folder)

    def labels(self) -> list[list[str]]:
        return [[run.label for run in wave] for wave in self.waves]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, report: bytes) -> Recorder:
    """The backend `recording.Backend`."""
    made = Recorder(report)
    module = ModuleType("recording")
    module.Backend = lambda: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "recording", module)
    monkeypatch.setattr("mia_lightning.sweep.launcher.get_class", lambda _: module.Backend)
    return made


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sweep:
    """`mia-lightning --multirun` in this process; its exit code, and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["mia-lightning", "--multirun", *arguments, "hydra.sweep.dir=sweep"])
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            GlobalHydra.instance().clear()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setenv("COLUMNS", "200")
    return run


ELSEWHERE = "hydra.launcher.backend=recording.Backend"


def test_what_is_finished_is_not_run_again_and_what_failed_is(sweep: Sweep, recorder: Recorder) -> None:
    recorder.codes = {"seed=1": 2, "seed=2": 3, "seed=3": 5}
    code, printed = sweep(ELSEWHERE, "seed=0,1,2,3")
    assert code == 2
    assert "because of seed=1" in printed
    recorder.codes = {}
    code, printed = sweep(ELSEWHERE, "seed=0,1,2,3")
    assert code == 3  # run 2 has its answer
    assert "2 of 4 runs are finished already" in printed
    assert recorder.labels() == [["seed=0", "seed=1", "seed=2", "seed=3"], ["seed=1", "seed=3"]]
    assert sweep(ELSEWHERE, "seed=0,1,2,3")[0] == 3
    assert len(recorder.waves) == 2


@pytest.mark.costly
@pytest.mark.parametrize(
    ("old", "new"),
    slow_but(
        [(b'"num_classes":4', b'"num_classes":"4"')],
        [(b'"overall"', b'"overill"'), (b'"num_classes":4', b'"num_classes":"4"')],
    ),
)
def test_what_has_no_whole_report_is_run_again_whatever_its_outcome_says(
    old: bytes, new: bytes, sweep: Sweep, recorder: Recorder, report: bytes, tmp_path: Path
) -> None:
    """Of four runs one has no report, one is cut off, one has another name or type in it, and one is whole."""
    assert old in report
    sweep(ELSEWHERE, "seed=0,1,2,3")
    (tmp_path / "sweep" / "0" / "report.json").unlink()
    (tmp_path / "sweep" / "1" / "report.json").write_bytes(report[:-2])
    (tmp_path / "sweep" / "2" / "report.json").write_bytes(report.replace(old, new, 1))
    assert sweep(ELSEWHERE, "seed=0,1,2,3")[0] == 0
    assert [[run.folder.name for run in wave] for wave in recorder.waves[1:]] == [["0", "1", "2"]]


@pytest.mark.costly
@pytest.mark.parametrize(("codes", "worst"), [((0, 0), 0), ((4, 0), 4), ((5, 3), 5), ((1, 5), 1), ((2, 1), 2)])
def test_the_sweep_exits_with_its_worst_code(
    codes: tuple[int, int], worst: int, sweep: Sweep, recorder: Recorder
) -> None:
    recorder.codes = {"seed=0": codes[0], "seed=1": codes[1]}
    assert sweep(ELSEWHERE, "seed=0,1")[0] == worst


@pytest.mark.slow
def test_other_settings_in_a_sweep_that_has_run_overwrite_nothing(
    sweep: Sweep, recorder: Recorder, tmp_path: Path
) -> None:
    sweep(ELSEWHERE, "seed=0,1")
    code, printed = sweep(ELSEWHERE, "seed=2,1,1")
    assert code == 0
    assert recorder.labels()[1] == ["seed=2"]
    assert recorder.waves[1][0].folder == tmp_path / "sweep" / "3"
    assert f"Run 0 (seed=2) is in {tmp_path / 'sweep' / '3'}, since 0 holds a run with other settings" in printed
    assert "Run 2 is the same as run 1" in printed
    assert f"Run 0 (seed=2) is in {tmp_path / 'sweep' / '3'}, as before" in sweep(ELSEWHERE, "seed=2,4")[1]


def test_a_run_is_told_what_the_sweep_was_told_but_for_the_sweep_itself(
    sweep: Sweep, recorder: Recorder, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    sweep(
        "--config-dir",
        "mine",
        ELSEWHERE,
        "seed=0,1",
        "training.epochs=7",
        "hydra.job.chdir=false",
        "hydra.mode=MULTIRUN",
    )
    (runs,) = recorder.waves
    for number, run in enumerate(runs):
        assert run.arguments == (
            "--config-dir=mine",
            "hydra.job.chdir=false",
            f"seed={number}",
            "training.epochs=7",
            "hydra.mode=RUN",
            f"hydra.run.dir='{tmp_path / 'sweep' / str(number)}'",
        )
        assert run.directory == tmp_path
        assert run.number == number


def test_shards_go_first_and_the_job_when_all_have_ended_well(sweep: Sweep, recorder: Recorder, tmp_path: Path) -> None:
    recorder.codes = {"shadow.shard=1": 5}
    code, printed = sweep(ELSEWHERE, "shadow.shards=1,3")
    assert code == 5
    shards = [f"shadow.shards=3 shard {i}" for i in range(3)]
    assert recorder.labels() == [[*shards, "shadow.shards=1"]]
    assert [run.folder.name for run in recorder.waves[0]] == ["shard_0", "shard_1", "shard_2", "0"]
    assert [run.overrides[-1] for run in recorder.waves[0][:3]] == [f"shadow.shard={i}" for i in range(3)]
    outcome = Outcome.of(tmp_path / "sweep" / "1")
    assert outcome == Outcome(
        exit_code=5, reason="shard 1 of its shadow models failed: because of shadow.shards=3 shard 1"
    )
    assert "shard 1 of its shadow models failed" in " ".join(printed.split())

    recorder.codes = {}
    assert sweep(ELSEWHERE, "shadow.shards=1,3")[0] == 0
    assert recorder.labels()[1:] == [[shards[1]], ["shadow.shards=3"]]
    outcomes = [json.loads(path.read_text())["exit_code"] for path in (tmp_path / "sweep").rglob("outcome.json")]
    assert outcomes == [0] * 5


@pytest.mark.costly
@pytest.mark.parametrize("shards", ["0", "x", "null", "1.5"])
def test_shards_that_are_no_number_are_left_to_the_job(shards: str, sweep: Sweep, recorder: Recorder) -> None:
    sweep(ELSEWHERE, f"shadow.shards={shards}", "seed=0,1")
    assert recorder.labels() == [["seed=0", "seed=1"]]


def test_sigterm_leaves_by_an_exception(sweep: Sweep, recorder: Recorder) -> None:
    recorder.instead = lambda: os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    code, printed = sweep(ELSEWHERE, "seed=0,1")
    assert code == 143
    assert "mia-lightning: terminated" in printed
    assert "not ended" not in printed  # nothing had been run
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interruption_shows_what_has_ended(sweep: Sweep, recorder: Recorder) -> None:
    def interrupt() -> None:
        if (recorder.waves[0][0].folder / "outcome.json").exists():  # the first has ended
            raise KeyboardInterrupt

    recorder.instead = interrupt
    code, printed = sweep(ELSEWHERE, "seed=0,1")
    assert code == 130
    assert "interrupted" in printed
    assert "not ended" in printed


def test_settings_are_shown_as_they_were_typed(sweep: Sweep, recorder: Recorder) -> None:
    recorder.codes = {"attack=[loss,gap]": 2}
    _, printed = sweep(ELSEWHERE, "attack=[loss,gap],[loss]")
    assert recorder.labels() == [["attack=[loss,gap]", "attack=[loss]"]]
    assert printed.count("attack=[loss,gap]") == 3  # as its name in the table, beside its run, and in its reason


def test_a_run_without_an_outcome_is_lost(sweep: Sweep, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "run", lambda *_, **__: None)
    code, printed = sweep(ELSEWHERE, "seed=0,1")
    assert code == 5
    assert "it left no outcome" in printed


def test_settings_that_a_backend_does_not_have_are_one_sentence(sweep: Sweep) -> None:
    code, printed = sweep("hydra/launcher=slurm", "+hydra.launcher.particle=x", "seed=0,1")
    assert code == 2
    (sentence,) = [line for line in printed.splitlines() if line.startswith("mia-lightning: ")]
    assert "particle" in sentence


def test_slurm_that_is_not_there_is_one_sentence(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, printed = sweep("hydra/launcher=slurm", "seed=0,1")
    assert code == 2
    (sentence,) = [line for line in printed.splitlines() if line.startswith("mia-lightning: ")]
    assert "there is no sbatch on this machine" in sentence


@pytest.mark.slow
def test_on_this_machine_finished_runs_are_skipped_as_well(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report: bytes
) -> None:
    done: list[int] = []

    def run(job: Job, _: object, folder: Path) -> tuple[int, None]:
        seed = job.configuration.seed
        done.append(seed)
        (folder / "report.json").write_bytes(report)
        return (2 if seed == 1 and len(done) < 4 else 0), None

    monkeypatch.setattr("mia_lightning.command.main._run", run)
    assert sweep("seed=0,1,2")[0] == 2
    code, printed = sweep("seed=0,1,2")
    assert (code, done) == (0, [0, 1, 2, 1])
    assert "2 of 3 runs are finished already" in printed
    assert sweep("seed=3,2")[0] == 0
    assert done[4:] == [3]
    assert (tmp_path / "sweep" / "3" / ".hydra" / "overrides.yaml").read_text() == "- seed=3\n"
    assert (tmp_path / "sweep" / "0" / ".hydra" / "overrides.yaml").read_text() == "- seed=0\n"


@pytest.mark.slow
def test_shards_on_this_machine(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[object] = []

    def run(job: Job, *_: object) -> tuple[int, None]:
        shard = job.configuration.shard
        done.append(None if shard is None else shard.number)
        return 0, None

    monkeypatch.setattr("mia_lightning.command.main._run", run)
    assert sweep("shadow.shards=2")[0] == 0
    assert done == [0, 1, None]
    assert all(
        json.loads((tmp_path / "sweep" / place / "outcome.json").read_text())["exit_code"] in FINISHED
        for place in ("0", "0/shard_0", "0/shard_1")
    )
