"""Stages: a live table on a terminal, plain lines elsewhere, remarks and seconds in any case."""

import io
import re
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.defenses.mixup import Mixup
from mia_lightning.terminal.display import LiveTable, Look, Quantiles, Row
from mia_lightning.terminal.progress import EpochBar, Stages, quantiles_of
from mia_lightning.training.engine import Engine
from mia_lightning.training.step.module import StackModule
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


class Seconds:
    """A clock that stands until it is told."""

    def __init__(self) -> None:
        self.value = 0.0

    def __call__(self) -> float:
        return self.value


@pytest.fixture
def now() -> Seconds:
    return Seconds()


def shown_on(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def terminal(**options: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, force_interactive=True, color_system=None, **options)


def test_stages_are_plain_lines_where_there_is_no_terminal(now: Seconds) -> None:
    console = Console(file=io.StringIO(), width=40)
    with Stages(console, now=now) as stages:
        with stages.clock("shadow"):
            stages.remark("One sentence that is longer than the console and has [brackets].")
            with stages.stage("shadow", 7, 3) as bar:
                now.value = 2.5
                bar.advance(Look(Quantiles(0.25, 0.5, 1.0)))
        with stages.clock("attack/loss"):
            stages.note("A note.")
    assert shown_on(console).splitlines() == [
        "shadow: started",
        "One sentence that is longer than the console and has [brackets].",
        "shadow: 3/3 models, 7/7 epochs, loss 0.500 (0.250-1.000), done in 2.5 s",
        "attack/loss: started",
        "A note.",
        "attack/loss: done in 0.0 s",
    ]
    assert stages.remarks == ["One sentence that is longer than the console and has [brackets]."]
    assert stages.seconds == {"shadow": 2.5, "attack/loss": 0.0}


def test_between_its_ends_a_stage_has_at_most_one_line_in_ten_seconds(now: Seconds) -> None:
    console = Console(file=io.StringIO(), width=200)
    with Stages(console, now=now) as stages, stages.stage("shadow", 100, 4) as bar:
        for epoch in range(100):
            now.value += 0.3
            bar.advance(None)
            if epoch == 49:
                bar.end_chunk(2, 50)
    assert shown_on(console).splitlines() == [
        "shadow: started",
        "shadow: 0/4 models, 34/100 epochs, about 0:20 left",
        "shadow: 2/4 models, 68/100 epochs, about 0:10 left",
        "shadow: 4/4 models, 100/100 epochs, done in 30.0 s",
    ]


def test_what_a_served_model_was_asked_has_lines_and_a_time_left_of_its_own(now: Seconds) -> None:
    console = Console(file=io.StringIO(), width=200)
    with Stages(console, now=now) as stages:
        stages.asking(5)(5)  # in no stage: nowhere to show it
        with stages.clock("target"):
            now.value = 4.0
            answered = stages.asking(2000)
            now.value = 14.0
            answered(500)
            now.value = 15.0
            answered(500)
            now.value = 34.0
            answered(1000)
            stages.asking(10)(10)
    assert shown_on(console).splitlines() == [
        "target: started",
        "target: 500/2,000 records, about 0:30 left",
        "target: 2,000/2,000 records",
        "target: 2,010/2,010 records, done in 34.0 s",
    ]


def test_a_terminal_shows_the_records_that_were_asked_about(now: Seconds) -> None:
    console = terminal(width=100)
    with Stages(console, now=now) as stages, stages.clock("target"):
        stages.asking(2000)(1500)
    assert "1,500/2,000 records" in shown_on(console)


def test_a_stage_that_fails_has_no_line_that_says_done(now: Seconds) -> None:
    console = Console(file=io.StringIO())

    def fail(stages: Stages) -> None:
        with stages.clock("target"):
            now.value = 1.0
            raise KeyError

    with Stages(console, now=now) as stages, pytest.raises(KeyError):
        fail(stages)
    assert shown_on(console).splitlines() == ["target: started"]
    assert stages.seconds == {"target": 1.0}


def test_a_terminal_shows_one_table_of_all_stages(now: Seconds) -> None:
    console = terminal(width=80)
    with Stages(console, now=now) as stages:
        with stages.clock("target"), stages.stage("target", 8, 1) as bar:
            bar.advance(Look(Quantiles(0.5, 0.5, 0.5)))
            now.value = 61.0
        stages.remark("One sentence with [brackets].")
        with stages.clock("shadow"), stages.stage("shadow", 40, 16) as bar:
            bar.advance(Look(Quantiles(0.25, 0.5, 0.75)))
        with stages.clock("attack/boundary_label_only"):
            pass
    last = shown_on(console).rpartition("stage")[2].splitlines()
    assert [line.split() for line in last[:3]] == [
        ["models", "epochs", "loss", "(10-90", "%)", "time", "left"],
        ["target", "1/1", "━━━━━━━━━━", "8/8", "0.500", "1:01"],
        ["shadow", "16/16", "━━━━━━━━━━", "40/40", "0.500", "(0.250-0.750)", "0:00"],
    ]
    assert last[3].startswith("attack/boundary_label")
    assert "…" in last[3]
    assert max(map(len, last)) <= 80
    assert "One sentence with [brackets]." in shown_on(console)


def test_a_terminal_that_is_too_low_shows_the_last_stages_until_the_end(now: Seconds) -> None:
    console = terminal(width=80, height=5)
    table = LiveTable(console, now)
    for number in range(6):
        table.begin(Row(name=f"attack/{number}", begun=0.0))
    assert table.table().row_count == 3
    table.close()
    assert table.table().row_count == 6


def test_without_a_console_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with Stages() as stages, stages.clock("shadow"), stages.stage("shadow", 3):
        stages.remark("One sentence.")
    assert stages.remarks == ["One sentence."]
    assert capsys.readouterr() == ("", "")


def test_the_time_left_is_by_the_pace_of_what_was_trained(now: Seconds) -> None:
    row = Row(name="shadow", begun=0.0)
    assert row.left(5.0) is None
    row = Row(name="shadow", begun=0.0, epochs=100, done=60, advanced=10, training_begun=20.0)
    assert row.left(40.0) == 2.0 * 40  # the other 50 were in the store
    row.seconds = 41.0
    assert row.left(50.0) is None


def test_losses_are_quantiles_over_the_models_that_still_train() -> None:
    loss_K = torch.rand(11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss_K[3] = torch.nan
    expected = np.nanquantile(loss_K.numpy(), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles_of(loss_K), expected, rtol=1e-12)
    assert str(Quantiles(0.12345, 0.12345, 0.12345)) == "0.123"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x_B: torch.Tensor) -> torch.Tensor:
        return self.linear(x_B.flatten(1))


def trained(stages: Stages, blobs: Population, **options: object) -> Engine:
    recipe = Recipe(
        epochs=6,
        batch_size=20,
        optimizer=partial(torch.optim.Adam, lr=0.05),
        **options,  # type: ignore[arg-type]
    )
    engine = Engine(seed=1, settings=TrainerSettings(accelerator="cpu"), stages=stages)
    records_K = [torch.arange(40), torch.arange(20, 60), torch.arange(40, 80), torch.arange(5, 45)]
    train_with(engine, Net, blobs, records_K, recipe, role="shadow", validation_N=torch.arange(90, 120))
    return engine


def test_models_epochs_and_losses_of_a_training_in_chunks(blobs: Population, now: Seconds) -> None:
    console = Console(file=io.StringIO(), width=200)
    with Stages(console, now=now) as stages:
        engine = trained(stages, blobs, chunk=2)
    line = shown_on(console).splitlines()[-1]
    found = re.fullmatch(
        r"shadow: 4/4 models, 12/12 epochs, loss (\d\.\d{3}) .*, batch accuracy \d+ % .*, done in 0\.0 s", line
    )
    assert found is not None, line
    of_last_chunk = engine.losses["shadow"][0][-1, 2:].mean()
    assert float(found[1]) == pytest.approx(float(of_last_chunk), abs=6e-4)


def test_the_losses_are_those_of_the_epoch_that_has_ended(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Quantiles] = []
    monkeypatch.setattr("mia_lightning.terminal.progress.SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(
        "mia_lightning.terminal.progress.quantiles_of", lambda loss_K: told.append(quantiles_of(loss_K)) or told[-1]
    )
    with Stages(Console(file=io.StringIO())) as stages:
        engine = trained(stages, blobs)
    expected = np.nanquantile(engine.losses["shadow"][0].numpy(), [0.1, 0.5, 0.9], axis=1).T
    np.testing.assert_allclose(told[::2], expected, rtol=1e-12)  # between them the accuracies


RECORDS_K = [torch.arange(40), torch.arange(20, 60), torch.arange(40, 80), torch.arange(5, 45)]


def looks(
    blobs: Population,
    monkeypatch: pytest.MonkeyPatch,
    records_K: Sequence[torch.Tensor] = RECORDS_K,
    epochs: int = 6,
    **options: object,
) -> tuple[list[Look | None], TrainedStack]:
    """What is seen of each epoch of one batch, and what became of the models."""
    told: list[Look | None] = []
    advance = EpochBar.advance
    monkeypatch.setattr("mia_lightning.terminal.progress.SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(EpochBar, "advance", lambda bar, look: told.append(look) or advance(bar, look))
    recipe = Recipe(
        epochs=epochs,
        batch_size=40,
        optimizer=partial(torch.optim.Adam, lr=0.05),
        **options,  # type: ignore[arg-type]
    )
    with Stages() as stages:
        engine = Engine(seed=1, settings=TrainerSettings(accelerator="cpu"), stages=stages)
        stack = train_with(engine, Net, blobs, records_K, recipe, role="shadow")
    monkeypatch.setattr(EpochBar, "advance", advance)
    return told, stack


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_the_accuracy_is_that_of_the_last_batch_before_its_step(
    blobs: Population, monkeypatch: pytest.MonkeyPatch, execution: str
) -> None:
    records_K = [*RECORDS_K[:3], torch.arange(5, 42)]  # the last is padded
    told, _ = looks(blobs, monkeypatch, records_K, execution=execution)
    assert len(told) == 6
    for epochs in (1, 4):
        _, stack = looks(blobs, monkeypatch, records_K, epochs, execution=execution)
        guessed_KN = stack.observe(blobs).log_probability_KANC[:, 0].argmax(-1)
        right = [float((guessed_KN[k] == blobs.label_N)[rows].double().mean()) for k, rows in enumerate(records_K)]
        assert told[epochs] is not None
        np.testing.assert_allclose(told[epochs].accuracy, np.quantile(right, [0.1, 0.5, 0.9]), rtol=1e-12)


def test_mixed_records_have_a_loss_and_no_accuracy(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    told, _ = looks(
        blobs, monkeypatch, mix=Mixup().adapt(Recipe(epochs=1, batch_size=1, optimizer=torch.optim.SGD)).mix
    )
    assert all(look is not None and look.accuracy is None for look in told)


def test_steps_at_which_nobody_looks_count_nothing(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    step = StackModule.training_step
    monkeypatch.setattr("mia_lightning.terminal.progress.SECONDS_BETWEEN_LOOKS", 1e9)
    monkeypatch.setattr(
        StackModule, "training_step", lambda module, *given: counted.append(module.counts_hits) or step(module, *given)
    )
    with Stages() as stages:
        trained(stages, blobs)  # two batches an epoch
    assert counted == [False, True] + [False] * 9 + [True]  # the first epoch and the last are looked at


def test_accuracies_stand_beside_the_losses(now: Seconds) -> None:
    look = Look(Quantiles(0.25, 0.5, 1.0), Quantiles(0.751, 0.886, 1.0))
    console, lines = terminal(width=80), Console(file=io.StringIO(), width=200)
    for each in (console, lines, wide := terminal(width=120)):
        with Stages(each, now=now) as stages, stages.clock("shadow"), stages.stage("shadow", 40, 16) as bar:
            bar.advance(look)
    assert "loss 0.500 (0.250-1.000), batch accuracy 89 % (75-100), done" in shown_on(lines)
    last = shown_on(console).rpartition("stage")[2].splitlines()
    assert " ".join(last[0].split()) == "models epochs loss (10-90 %) batch accuracy time left"
    assert " ".join(last[1].split()) == "shadow 16/16 40/40 0.500 (0.250-1.000) 89 % (75-100) 0:00"
    assert max(map(len, last)) <= 80
    assert "16/16 ━━━━━━━━━━  40/40" in shown_on(wide).rpartition("stage")[2]


def test_models_that_stop_early_complete_their_chunk(blobs: Population, now: Seconds) -> None:
    console = Console(file=io.StringIO(), width=200)
    with Stages(console, now=now) as stages:
        trained(stages, blobs, early_stopping=EarlyStopping(patience=1, min_delta=10.0), chunk=2)
    assert "shadow: 4/4 models, 12/12 epochs, loss" in shown_on(console)


def test_a_chunk_that_is_lost_is_not_counted(now: Seconds) -> None:
    console = Console(file=io.StringIO(), width=200)
    with Stages(console, now=now) as stages, stages.stage("shadow", 10, 4) as bar:
        for _ in range(3):
            bar.advance(None)
        bar.restart_chunk()
        bar.until(20)
        bar.end_chunk(2, 10)
        now.value = 11.0
        bar.advance(None)
    assert "shadow: 2/4 models, 11/20 epochs, about 0:25 left" in shown_on(console)  # 4 epochs in 11 s, 9 to go
