"""`mia-serve` as a person runs it: what it says, how it ends, and what it refuses."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import httpx
import pytest
from serving import make_run

from mia_lightning.serve.command import main, prepare


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mia_lightning.serve", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_it_says_where_it_is_and_what_to_type_and_ends_cleanly(run_folder: Path, ending: signal.Signals) -> None:
    options = ["--port", "0", "--token-variable", "MY_TOKEN"] if ending is signal.SIGTERM else ["--port", "0"]
    process = start(run_folder.parent, "run", *options, MY_TOKEN="hush-hush")
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("mia-serve: http://127.0.0.1:"), line
    address = line.split()[1]
    assert httpx.get(f"{address}/v2/health/ready", timeout=300).json() == {"ready": True}
    words = shlex.split(line.partition("Next: ")[2])
    token = ["target.token_variable=MY_TOKEN"] if ending is signal.SIGTERM else []
    assert words[:6] == [
        *("mia-lightning", "target=open_inference", f"target.url={address}", "target.model=target", *token),
        *("membership=given", "membership.path=run/members.csv")[: 2 - len(token)],
    ]
    for typed in ("dataset=digits", "model.hidden=[16]", "training.epochs=20", "shadow.count=4"):
        assert typed in words
    assert not any(word.startswith(("dataset.train_size", "save_models", "attack")) for word in words)
    process.send_signal(ending)
    out, errors = process.communicate(timeout=300)
    assert (process.returncode, out, errors) == (0, "", "mia-serve: ended.\n")
    assert "hush" not in line


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    before = list(sys.path)
    try:
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
    finally:
        sys.path[:] = before
    out, sentence = capsys.readouterr()
    assert (ended.value.code, out, sentence.count("\n")) == (2, "", 1)
    assert sentence.startswith("mia-serve: ")
    return sentence


@pytest.mark.costly
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--member", "1"], "`--member` is 1, but"),
        (["--member", "-1"], "argument --member"),
        (["--model", "shadow"], "holds 4 models; choose one by --member, from 0"),
        (["--model", "shadow", "--member", "4"], "holds 4 models, numbered from 0; give a smaller"),
        (["--model", "attack"], "argument --model: invalid choice: 'attack'"),
        (["--name", "a/b"], "'a/b' is no name"),
        (["--answers", "logits"], "`--answers` is 'logits'; it must be probabilities, labels or top:K"),
        (["--answers", "top:0"], "`--answers` is 'top:0'"),
        (["--answers", "top:99"], "`--answers` is 'top:99', and the model knows 10 classes"),
        (["--defense", "roundin"], "defense=roundin is not one of the choices"),
        (["--defense", "rounding.digit=2"], "`defense.rounding.digit`"),
        (["--defense", "rounding.digits"], "`--defense` is 'rounding.digits'"),
        (["--defense", "top k"], "`--defense` is 'top k'"),
        (["--defense", "rounding.digits=99"], "`defense.rounding.digits` is 99"),
        (["--defense", "l2"], "`--defense` l2 changes how a model is trained"),
        (["--faults", "fire=1"], "`--faults` has the kind 'fire'"),
        (["--latency", "-1"], "argument --latency: '-1' is out of range; give a number from 0 to 3600"),
        (["--latency", "soon"], "argument --latency: 'soon' is out of range"),
        (["--port", "70000"], "argument --port: '70000' is no port"),
        (
            ["--host", "no.such.host.invalid"],
            "`--host` no.such.host.invalid and `--port` 0 cannot be used (there is no such host)",
        ),
        (["--max-bytes", "0"], "argument --max-bytes: '0' is no whole number; give one of at least 1"),
        (["--max-records", "many"], "argument --max-records: 'many' is no whole number"),
        (["--token-variable", "MIA_NO_SUCH"], "`--token-variable` is MIA_NO_SUCH, and this environment variable holds"),
        (["--token-variable", "PATH", "--token-header", "a b"], "`--token-header` is 'a b'"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    run_folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert sentence in refused(capsys, str(run_folder), "--port", "0", *options)


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no report at" in refused(capsys, str(tmp_path), "--port", "0")
    assert "arguments are required: RUN_FOLDER" in refused(capsys)


def test_a_run_that_left_no_models(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_bytes((run_folder / "report.json").read_bytes())
    sentence = refused(capsys, str(tmp_path), "--port", "0")
    assert "has no target.safetensors; run the audit again with save_models=true" in sentence


def test_a_run_that_leaves_nothing_to_be_served_is_not_sent_to_leave_more(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((run_folder / "report.json").read_bytes())
    content["structure"] = {"leaves": None}
    (tmp_path / "report.json").write_text(json.dumps(content))
    sentence = refused(capsys, str(tmp_path), "--port", "0")
    assert "a run of an estimator" in sentence
    assert "save_models" not in sentence


def changed(run_folder: Path, tmp_path: Path, section: str, **values: object) -> str:
    """A copy of the run whose report says something else."""
    content = json.loads((run_folder / "report.json").read_bytes())
    content[section].update(values)
    (tmp_path / "report.json").write_text(json.dumps(content))
    (tmp_path / "target.safetensors").write_bytes((run_folder / "target.safetensors").read_bytes())
    return str(tmp_path)


def test_a_run_from_python_names_no_model(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is a run from Python" in refused(capsys, changed(run_folder, tmp_path, "run", config={}), "--port", "0")


def test_data_that_is_no_longer_what_it_was(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(run_folder, tmp_path, "dataset", input_shape=[65])
    assert "had 10 and [65] in the run" in refused(capsys, folder, "--port", "0")


def test_a_port_that_is_in_use(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        sentence = refused(capsys, str(run_folder), "--port", port)
    assert f"`--port` {port} cannot be used (Address already in use)" in sentence


def test_a_server_without_its_libraries(
    run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'mia-lightning[serve]'" in refused(capsys, str(run_folder), "--port", "0")


def test_only_this_machine_is_served_unless_another_address_is_asked_for(run_folder: Path) -> None:
    by_default = prepare([str(run_folder), "--port", "0"])
    with by_default.listening:
        assert by_default.listening.getsockname()[0] == "127.0.0.1"
        assert len(by_default.sentences) == 1
    everywhere = prepare([str(run_folder), "--port", "0", "--host", "0.0.0.0"])
    with everywhere.listening:
        assert everywhere.sentences[0].startswith("warning: other machines can reach this address")


@pytest.mark.slow
def test_several_targets_need_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chdir(tmp_path):
        folder = make_run(tmp_path / "two", "target.count=2", "membership=halves")
    assert "holds 2 models; choose one by --member" in refused(capsys, str(folder), "--port", "0")
    ready = prepare([str(folder), "--port", "0", "--member", "1"])
    with ready.listening:
        assert "membership.path=ROWS.csv" in ready.sentences[0]
