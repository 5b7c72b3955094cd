"""Several devices, here processes on the CPU, where something goes wrong: it is said, and no process is left behind."""

import multiprocessing
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from device_jobs import ADAM, Scaled, records
from device_jobs import _no_process_is_left as _no_process_is_left
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor
from training_jobs import train_with

from mia_lightning.errors import InputError
from mia_lightning.training.engine import Engine
from mia_lightning.training.step.recipe import Recipe, cross_entropy
from mia_lightning.training.trainer import TrainerSettings

pytestmark = [pytest.mark.devices, pytest.mark.xdist_group("devices")]
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def test_where_there_is_no_space_the_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"cannot be written to .*mia_lightning_.*No space left.*TMPDIR"):
        train_by(cross_entropy)


def refuses(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    if multiprocessing.parent_process() is not None:
        raise InputError("A sentence of the other process.")
    return cross_entropy(logits_KBC, label_KB)


def breaks(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    if multiprocessing.parent_process() is not None:
        raise ZeroDivisionError("a bug of the other process")
    return cross_entropy(logits_KBC, label_KB)


def is_killed(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return cross_entropy(logits_KBC, label_KB)


def exits(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    if multiprocessing.parent_process() is not None:
        os._exit(7)
    return cross_entropy(logits_KBC, label_KB)


def parent_number() -> int:
    """Of the process that trains, in one that it has started."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    return parent.pid


def said_by(process: int) -> Path:
    """Is there when one of the processes that this one started has signalled to it."""
    return Path(tempfile.gettempdir()) / f"mia-signalled-{process}"


def signals(number: signal.Signals) -> None:
    """To the parent, of the first process that does so: a second Ctrl-C would end the tests."""
    if multiprocessing.parent_process() is None:
        return
    try:
        said_by(parent_number()).touch(exist_ok=False)
    except FileExistsError:
        pass
    else:
        os.kill(parent_number(), number)
    time.sleep(600)


def interrupts(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    signals(signal.SIGINT)
    return cross_entropy(logits_KBC, label_KB)


def terminates(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    """Of a process that asks its parent to end again and again, also while that ends the others."""
    while multiprocessing.parent_process() is not None:
        os.kill(parent_number(), signal.SIGTERM)
        time.sleep(0.01)
    return cross_entropy(logits_KBC, label_KB)


@pytest.fixture
def _unsignalled() -> Iterator[None]:
    said_by(os.getpid()).unlink(missing_ok=True)
    yield
    said_by(os.getpid()).unlink(missing_ok=True)


def train_by(objective: object) -> None:
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", devices=2))
    recipe = Recipe(epochs=2, batch_size=9, optimizer=ADAM, objective=objective, execution="loop")
    train_with(engine, Scaled, records(), [torch.arange(9)] * 2, recipe, role="shadow")


@pytest.mark.slow
def test_a_refusal_of_one_process_is_its_sentence() -> None:
    with pytest.raises(InputError, match=r"^A sentence of the other process\.$"):
        train_by(refuses)


@pytest.mark.slow
def test_a_killed_process_is_named() -> None:
    with pytest.raises(InputError, match=r"on cpu process [01] was ended by SIGKILL.*fewer `trainer.devices`"):
        train_by(is_killed)


@pytest.mark.slow
@pytest.mark.usefixtures("_unsignalled")
def test_ctrl_c_ends_all_processes() -> None:
    with pytest.raises(KeyboardInterrupt):
        train_by(interrupts)


@pytest.mark.slow
def test_a_request_to_end_ends_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SimpleNamespace(TemporaryDirectory=partial(tempfile.TemporaryDirectory, dir=tmp_path))
    monkeypatch.setattr("mia_lightning.training.devices.processes.tempfile", folder)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        train_by(terminates)
    assert signal.getsignal(signal.SIGTERM) is before
    assert list(tmp_path.iterdir()) == []  # the records too


def takes_two(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    """Of a process with memory for two models at once."""
    if multiprocessing.parent_process() is not None and len(logits_KBC) > 2:
        raise torch.OutOfMemoryError("of the test")
    return cross_entropy(logits_KBC, label_KB)


@pytest.mark.slow
def test_where_memory_runs_out_in_a_process_it_goes_on_with_fewer_at_once() -> None:
    trained = []
    for devices, objective in ((1, cross_entropy), (2, takes_two)):
        engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", devices=devices))
        recipe = Recipe(epochs=3, batch_size=9, optimizer=SGD, objective=objective, execution="stack")
        trained.append(train_with(engine, Scaled, records(), [torch.arange(18)] * 5, recipe, role="shadow"))
    one, two = trained
    for name, tensor in one.stack.state_dict().items():
        torch.testing.assert_close(two.stack.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    assert ["memory ran out with 3 models" in remark for remark in engine.stages.remarks] == [True]
    assert [plan.chunk for plan in engine.plans] == [2]


@pytest.mark.slow
def test_a_bug_in_one_process_keeps_its_traceback() -> None:
    with pytest.raises(
        RuntimeError, match=r"(?s)Training on cpu process [01] failed:.*in breaks.*ZeroDivisionError: a b"
    ):
        train_by(breaks)


@pytest.mark.slow
def test_a_process_that_ends_without_a_word_is_named() -> None:
    with pytest.raises(InputError, match=r"on cpu process [01] ended with exit code 7.*__main__"):
        train_by(exits)


FOLDERS = [str(folder) for folder in Path(__file__).parents[:2]]  # of the tests
ORPHANS = """
import sys
sys.path[:0] = {folders!r}
from test_devices_ended import outlives, train_by

if __name__ == "__main__":
    train_by(outlives)
"""


def outlives(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    """Of a process that kills its parent and waits."""
    if multiprocessing.parent_process() is not None:
        print(os.getpid(), flush=True)
        os.kill(parent_number(), signal.SIGKILL)
        time.sleep(600)
    return cross_entropy(logits_KBC, label_KB)


@pytest.mark.slow
def test_no_process_outlives_its_parent(tmp_path: Path, forks: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ORPHANS.format(folders=FOLDERS))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # which a killed process cannot clear
    command = [str(forks / "python"), str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
        said, _ = run.communicate(timeout=300)  # to the end of the pipe, which is open while any of them lives
    assert run.returncode == -signal.SIGKILL
    assert said.strip()


NOTEBOOK = """
import sys
sys.path[:0] = {folders!r}
from test_devices_ended import train_by
from mia_lightning.training.step.recipe import cross_entropy

def own(logits, label):
    return cross_entropy(logits, label)

train_by(own)
"""


@pytest.mark.slow
def test_what_other_processes_cannot_import_is_one_sentence(forks: Path) -> None:
    code, command = NOTEBOOK.format(folders=FOLDERS), [str(forks / "python"), "-"]
    run = subprocess.run(command, input=code, capture_output=True, text=True, timeout=300, check=False)
    assert "InputError: The processes of several `trainer.devices` cannot import what they are to train" in run.stderr
    assert "define it in a module rather than in a notebook" in run.stderr
