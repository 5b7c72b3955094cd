"""What a command prints: its result alone on stdout, everything else on stderr; `output=json`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Call

from mia_lightning.command.job import Job
from mia_lightning.errors import InputError
from mia_lightning.terminal.results import nothing_on_stdout, print_document, print_json

QUICK = [
    *("attack=loss", "shadow.count=2", "training.epochs=2", "dataset.train_size=40", "trainer.accelerator=cpu"),
    "store.dir=null",
]
NOISY = """
import os, sys
from torch import nn

print("said while it is imported")

class Net(nn.Sequential):
    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
        print("said by the model")
        os.write(1, b"written to the descriptor\\n")
        os.system("echo said by another process")
"""


@pytest.mark.usefixtures("global_generators")  # wandb's waits are drawn
def test_json_is_the_report_and_all_else_is_on_stderr_as_plain_lines(call: Call, tmp_path: Path) -> None:
    """A run with wandb, of a model that prints by all ways there are."""
    import wandb

    (tmp_path / "my_package.py").write_text(NOISY)
    # Enough epochs to learn something, else no gate passes.
    model = ["model=custom", "model._target_=my_package.Net", "training.epochs=20"]
    result = call(*QUICK, *model, "hydra.run.dir=here", "output=json", "gate.metric=auc", "gate.limit=0.99")
    wandb.teardown()
    folder = tmp_path / "here"
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads((folder / "report.json").read_text())
    assert json.loads(result.stdout)["run"]["config"]["output"] == "json"
    assert result.stdout.endswith("}\n")
    lines = result.stderr.splitlines()
    for part in ("said while it is imported", "said by the model", "written to the descriptor"):
        assert part in lines
    assert "said by another process" in lines
    for stage in ("target", "shadow", "attack/loss"):
        first, last = (line for line in lines if line.startswith(f"{stage}: "))
        assert first == f"{stage}: started"
        assert "done in " in last
    assert any(line.startswith("shadow: 2/2 models, 20/20 epochs, loss ") for line in lines)
    assert any(line.startswith("gate: passed") for line in lines)
    assert f"Results: {folder / 'report.html'}" in lines
    assert "\x1b" not in result.stderr
    assert list(folder.rglob("*.wandb"))


def test_text_is_the_summary_alone(call: Call, tmp_path: Path) -> None:
    result = call(*QUICK, "logger=none", "hydra.run.dir=here")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(("Membership leaks: AUC", "No membership leakage found: AUC"))
    assert result.stdout.splitlines()[-1] == f"Results: {tmp_path / 'here' / 'report.html'}"
    assert "started" not in result.stdout
    assert "shadow: started" in result.stderr
    silent = call(*QUICK, "logger=none", "trainer.progress_bar=false", "hydra.run.dir=there")
    assert silent.stderr == ""
    assert silent.stdout == result.stdout.replace("here", "there")


def test_a_mistake_is_the_last_line_of_stderr_and_stdout_is_empty(call: Call) -> None:
    result = call(*QUICK, "logger=none", "training.optimizer.lr=1e30", "model.activation=relu", "output=json")
    assert result.returncode == 2
    assert result.stdout == ""
    sentences = [line for line in result.stderr.splitlines() if line.startswith("mia-lightning: ")]
    assert sentences == [result.stderr.splitlines()[-1]]
    assert "no longer finite" in sentences[0]


@pytest.mark.slow
def test_a_sweep_has_a_document_on_each_line_and_again_when_it_is_started_again(call: Call, tmp_path: Path) -> None:
    arguments = ("-m", *QUICK, "logger=none", "hydra.sweep.dir=sweep", "seed=0,1,x", "output=json")
    first = call(*arguments)
    assert first.returncode == 2
    assert "`seed` is 'x'" in first.stderr
    documents = [json.loads(line) for line in first.stdout.splitlines()]
    assert [each["run"]["seed"] for each in documents] == [0, 1]
    reports = [json.loads((tmp_path / "sweep" / str(job) / "report.json").read_text()) for job in range(2)]
    assert documents == reports
    again = call(*arguments)
    assert again.stdout == first.stdout
    assert "2 of 3 runs are finished already" in again.stderr
    # Another output is no other run.
    table = call(*arguments[:-1])
    assert "2 of 3 runs are finished already" in table.stderr
    assert "loss" in table.stdout


def test_a_plan_is_a_document_as_well(call: Call) -> None:
    result = call(*QUICK, "logger=none", "estimate=true", "output=json")
    assert result.returncode == 0, result.stderr
    estimates = json.loads(result.stdout)["estimates"]
    assert estimates[0].startswith("1 target model x 2 epochs")
    assert estimates[-1].startswith("All that is trained")


@pytest.mark.slow
def test_the_document_of_an_experiment_is_its_comparison(call: Call, tmp_path: Path) -> None:
    experiment = tmp_path / "mine" / "experiment"
    experiment.mkdir(parents=True)
    (experiment / "pair.yaml").write_text(
        "# @package _global_\ncomparison:\n  title: t\n  question: q\n  source: s\n  variants:\n"
        "    none: {set: []}\n    top 1: {set: [defense=top_k, defense.top_k.k=1]}\n"
    )
    result = call("--config-dir=mine", *QUICK, "experiment=pair", "logger=none", "output=json", "hydra.run.dir=here")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads((tmp_path / "here" / "comparison.json").read_text())
    assert "[2/2] top 1" in result.stderr


def test_another_output_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra import compose, initialize_config_dir

    from mia_lightning.command.mistakes import config_directory

    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose("config", overrides=["output=yaml"])
        with pytest.raises(InputError, match="`output` is 'yaml'; it must be one of text, json"):
            Job.of(config)
        assert Job.of(compose("config", overrides=["~output"])).configuration.output == "text"


def test_what_is_printed_within_is_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with nothing_on_stdout():
        print("within")
        os.write(1, b"to the descriptor\n")
    print("after")
    printed = capfd.readouterr()
    assert printed.out == "before\nafter\n"
    assert sorted(printed.err.splitlines()) == ["to the descriptor", "within"]


@pytest.mark.parametrize("closed", ["1>&-", "2>&-"])
def test_a_closed_descriptor_is_no_matter(closed: str) -> None:
    program = (
        "import os; from mia_lightning.terminal.results import nothing_on_stdout\n"
        "with nothing_on_stdout(): pass\n"
        "import sys; sys.stdout and print('there')"
    )
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{program}" {closed}'], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "there\n" if closed.startswith("2") else "", "")


@pytest.mark.costly
@pytest.mark.parametrize(
    "program",
    [
        "print_json(list(range(100000)), on_a_line=False)",
        "Console().print('[' + 100000 * chr(10), markup=False)",
    ],
)
def test_a_reader_that_has_read_enough_is_no_mistake(program: str) -> None:
    program = (
        "from rich.console import Console; from mia_lightning.terminal.results import *\n"
        f"from mia_lightning.terminal.entry import run\nrun('it', lambda: {program} or 0, closed=None)\n"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"{sys.executable}" -c "{program}" | head -1'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[\n", "")


def test_documents_are_ascii_and_the_first_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_document(tmp_path, on_a_line=True)
    assert capsys.readouterr().out == ""
    (tmp_path / "summary.json").write_text('[{"x": 0.1}]')
    print_document(tmp_path, on_a_line=True)
    assert capsys.readouterr().out == '[{"x": 0.1}]\n'
    (tmp_path / "comparison.json").write_text('{"title": "é"}', encoding="utf-8")
    print_document(tmp_path, on_a_line=False)
    assert capsys.readouterr().out == '{\n  "title": "\\u00e9"\n}\n'
    print_json({"b": None}, on_a_line=True)
    assert capsys.readouterr().out == '{"b": null}\n'
