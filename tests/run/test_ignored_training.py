"""What of a user's own way of training is not called, and which command answers for a defence in training."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.training.stack.architecture import own_training

pytestmark = pytest.mark.usefixtures("global_generators")  # networks are made here


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Own(Plain):
    def training_step(self, batch: object, batch_idx: int) -> None:
        raise AssertionError("it is never called")

    def configure_optimizers(self) -> None:
        raise AssertionError("it is never called")


class Hooked(Plain):
    def on_train_epoch_start(self) -> None:
        raise AssertionError("it is never called")


class Holds(nn.Module):
    """A network of which a LightningModule is a part alone."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.head = Own(), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.part(x))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Own, ("training_step", "configure_optimizers")),
        (Hooked, ("on_train_epoch_start",)),
        (lambda: nn.Sequential(Own()), ("training_step", "configure_optimizers")),
        (Plain, ()),
        (Holds, ()),
        (lambda: nn.Linear(6, 3), ()),
    ],
)
def test_what_a_lightning_module_says_of_its_training_is_found(make: object, expected: tuple[str, ...]) -> None:
    assert own_training(make()) == expected


def test_a_module_of_the_other_package_counts_as_well() -> None:
    base = type("LightningModule", (nn.Module,), {"training_step": lambda self: None})
    own = type("Net", (base,), {"training_step": lambda self: 1})
    assert own_training(own()) == ("training_step",)
    assert own_training(type("Net", (base,), {})()) == ()


def warnings_of(blobs: Population, **settings: object) -> list[str]:
    report = mia.audit(
        blobs,
        membership=mia.Disjoint(train_size=20),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        training=mia.Recipe(epochs=1),
        **settings,
    )
    return [each for each in report.warnings if "LightningModule" in each]


def test_that_it_is_ignored_is_a_warning(blobs: Population) -> None:
    (told,) = warnings_of(blobs, model=Own)
    for part in ("`model`", "Own", "training_step", "configure_optimizers", "`training`"):
        assert part in told
    assert warnings_of(blobs, model=Plain) == []
    (guessed,) = warnings_of(blobs, model=partial(nn.Linear, 6, 3), guess=mia.Guess(model=Own))
    assert "`guess.model`" in guessed


@pytest.mark.parametrize("defenses", [[mia.LabelSmoothing()], [mia.L2(), mia.Dropout()]])
def test_a_defence_of_a_trained_target_names_the_command_that_answers(
    defenses: list[mia.Defense], blobs: Population
) -> None:
    with pytest.raises(mia.InputError) as refused:
        mia.audit(
            blobs,
            model=partial(nn.Linear, 6, 3),
            target=nn.Linear(6, 3),
            membership=mia.Given(member_N=torch.arange(120) < 60),
            defenses=defenses,
        )
    names = ",".join(each.name for each in defenses)
    assert f"mia-lightning --multirun target=trained membership=halves 'defense=[],[{names}]'" in str(refused.value)


@pytest.mark.slow
def test_the_command_runs(tmp_path: Path, blobs: Population) -> None:
    with pytest.raises(mia.InputError) as refused:
        mia.audit(
            blobs,
            model=partial(nn.Linear, 6, 3),
            target=nn.Linear(6, 3),
            membership=mia.Given(member_N=torch.arange(120) < 60),
            defenses=[mia.LabelSmoothing()],
        )
    found = re.search(r"mia-lightning (--multirun .*') with", str(refused.value))
    quick = "training.epochs=2 shadow.count=2 attack=[loss] logger=none store.dir=null hydra.sweep.dir=sweep"
    command = f"{sys.executable} -m mia_lightning {found[1]} {quick}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "sweep").glob("*/report.json"))) == 2
