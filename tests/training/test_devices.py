"""Several devices, here processes on the CPU: the same models as on one, and no process left behind."""

import io
import multiprocessing
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import pytorch_lightning as pl
import torch
from device_jobs import ADAM, Scaled, records
from device_jobs import _no_process_is_left as _no_process_is_left
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException
from rich.console import Console
from torch import Tensor
from training_jobs import job_of, train_with

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.cnn import CNN
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.devices import processes
from mia_lightning.training.devices.local_shard import HANDED_OVER
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.recipe import EarlyStopping, Recipe, cross_entropy
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

pytestmark = [pytest.mark.devices, pytest.mark.xdist_group("devices")]
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


@dataclass(frozen=True, kw_only=True)
class Both:
    """The same models trained on one device and on two."""

    one: TrainedStack
    two: TrainedStack
    engine: Engine
    shown: str


def engine_on(devices: int, precision: str = "64", stages: Stages | None = None) -> Engine:
    settings = TrainerSettings(accelerator="cpu", devices=devices, precision=precision)
    return Engine(seed=3, settings=settings, stages=stages or Stages())


def seven(engine: Engine) -> TrainingJob:
    """Seven models in groups of 2, 4 and 1 steps per epoch; the fifth has inputs that are not finite."""
    sizes = [40, 40, 70, 40, 70, 10, 40]
    scale_KF = torch.rand(7, 6, generator=torch.Generator().manual_seed(2)) + 0.5
    scale_KF[4] = torch.inf
    return job_of(
        engine,
        Scaled,
        records(),
        [torch.arange(10 * k, 10 * k + size) for k, size in enumerate(sizes)],
        Recipe(
            epochs=25,
            batch_size=20,
            optimizer=partial(torch.optim.Adam, lr=0.05),
            early_stopping=EarlyStopping(patience=3),
            execution="stack",  # of the two, the faster is another on a busy machine
        ),
        role="attack/test",
        models=[4, 1, 4, 0, 9, 2, 3],
        validation_N=torch.arange(130, 160),
        buffers={"scale": scale_KF},
    )


def trained_on(devices: int, precision: str, stages: Stages | None = None) -> tuple[TrainedStack, Engine]:
    engine = engine_on(devices, precision, stages)
    return engine.run(seven(engine)), engine


@pytest.fixture(scope="module")
def both() -> Both:
    one, _ = trained_on(1, "64")
    text = io.StringIO()
    with Stages(Console(file=text, width=120)) as stages:
        two, engine = trained_on(2, "64", stages)
    return Both(one=one, two=two, engine=engine, shown=text.getvalue())


def test_shards_that_are_trained_apart_are_the_models_of_one_device() -> None:
    """In this process; that two processes hand them over is slow to see."""
    job = seven(engine_on(1))
    whole = engine_on(1).run(job)
    states = list(whole.stack.states())
    tolerance = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}
    for shard in job.shards(2):
        part = engine_on(1).run(job.part(shard))
        for k, state in zip(shard, part.stack.states(), strict=True):
            for name, tensor in state.items():
                torch.testing.assert_close(tensor, states[k][name], **tolerance)
        torch.testing.assert_close(part.validation_loss_EK, whole.validation_loss_EK[:, shard], **tolerance)
        assert torch.equal(part.failed_epoch_K, whole.failed_epoch_K[shard])
        assert torch.equal(part.stopped_epoch_K, whole.stopped_epoch_K[shard])


@pytest.mark.slow
def test_two_processes_train_what_one_does(both: Both) -> None:
    for one, two in zip(both.one.stack.states(), both.two.stack.states(), strict=True):
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=1e-12, atol=1e-12, equal_nan=True)
    assert both.two.stack.dtype == torch.float64
    assert both.two.execution == both.one.execution


@pytest.mark.slow
def test_losses_early_stops_and_failures_are_those_of_one(both: Both) -> None:
    tolerance = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}
    torch.testing.assert_close(both.two.train_loss_EK, both.one.train_loss_EK, **tolerance)
    torch.testing.assert_close(both.two.validation_loss_EK, both.one.validation_loss_EK, **tolerance)
    assert torch.equal(both.two.failed_epoch_K, both.one.failed_epoch_K)
    assert torch.equal(both.two.stopped_epoch_K, both.one.stopped_epoch_K)
    assert (both.one.failed_epoch_K >= 0).tolist() == [k == 4 for k in range(7)]
    assert len(set(both.one.stopped_epoch_K.tolist())) > 3  # the test speaks of something
    train, validation = both.engine.losses["attack/test"]
    assert train is both.two.train_loss_EK
    assert validation is both.two.validation_loss_EK


@pytest.mark.slow
def test_what_was_trained_apart_answers_as_one(both: Both) -> None:
    one, two = (each.observe(records()).log_probability_KANC for each in (both.one, both.two))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6, equal_nan=True)
    network = both.two.stack.model(2)
    torch.testing.assert_close(network(records().x_N.double()).log_softmax(1).float(), two[2, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_progress_of_all_processes_is_in_one_bar(both: Both) -> None:
    assert "attack/test: 7 models on 2 devices, at most 4 on each." in both.shown
    assert "125/125" in both.shown  # 25 epochs of the groups of two and of four steps on both devices, of one on one
    assert "loss" in both.shown


@pytest.mark.slow
def test_the_plan_that_is_kept_is_that_of_the_largest_shard(both: Both) -> None:
    (plan,) = both.engine.plans
    assert plan.num_models == 4


class Writes(pl.Callback):
    """Writes down the process and the models that it sees, in the folder of its trainer."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{os.getpid()}.txt").write_text(f"{pl_module.stack.num_models} {torch.get_num_threads()}")


@pytest.mark.slow
def test_convolutions_batch_norm_callbacks_and_checkpoints_in_two_processes(
    pictures: Population, tmp_path: Path
) -> None:
    make = bind_shapes(partial(CNN, channels=[3], hidden=4, kernel_size=3, batch_norm=True), pictures.input_shape, 3)
    trained = []
    for devices in (1, 2):
        callbacks = [] if devices == 1 else [Writes(), ModelCheckpoint(filename="{epoch}")]
        settings = TrainerSettings(accelerator="cpu", devices=devices, callbacks=callbacks)
        engine = Engine(seed=0, settings=settings, folder=tmp_path)
        recipe = Recipe(epochs=3, batch_size=10, optimizer=SGD, execution="loop")
        trained.append(train_with(engine, make, pictures, [torch.arange(30)] * 3, recipe, role="shadow"))
    one, two = trained
    for name, tensor in one.stack.state_dict().items():
        torch.testing.assert_close(two.stack.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    assert two.stack.model(1).training is False
    assert two.stack.networks.state_dict().keys() == one.stack.networks.state_dict().keys()
    seen = {path: path.read_text() for path in tmp_path.rglob("*.txt")}
    assert sorted(str(path.parent.relative_to(tmp_path)) for path in seen) == [
        "device_0/lightning/shadow",
        "device_1/lightning/shadow",
    ]
    threads = max(1, torch.get_num_threads() // 2)
    assert sorted(seen.values()) == [f"1 {threads}", f"2 {threads}"]
    assert str(os.getpid()) not in {path.stem for path in seen}
    assert len(list(tmp_path.rglob("*.ckpt"))) == 2


def test_what_is_handed_over_is_this_users_alone_whatever_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def look(shards: object, folder: Path) -> NoReturn:
        seen.append((folder / HANDED_OVER).stat().st_mode & 0o777)
        raise InputError("seen")

    monkeypatch.setattr(processes, "_processes", look)
    before = os.umask(0)
    try:
        with pytest.raises(InputError, match="seen"):
            engine_on(2).run(seven(engine_on(2)))
    finally:
        os.umask(before)
    assert seen == [0o600]


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
from test_devices import outlives, train_by

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
from test_devices import train_by
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
