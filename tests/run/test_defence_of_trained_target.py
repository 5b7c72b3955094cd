"""Which command answers for a defence in the training of a target that is trained already."""

import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population

pytestmark = pytest.mark.usefixtures("global_generators")  # networks are made here


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
def test_the_command_runs(tmp_path: Path, blobs: Population, forks: Path) -> None:
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
    command = f"{forks}/mia-lightning {found[1]} {quick}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "sweep").glob("*/report.json"))) == 2
