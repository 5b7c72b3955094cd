"""Two processes with gloo: each asks about its share of the records, and the figures are those of one process."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from lit_project import loaders, made, trainer

import mia_lightning as mia

HERE = Path(__file__).parent


class Answers(mia.LeakageMonitor):
    """A monitor that looks once, at given weights, before anything is trained."""

    def on_train_start(self, trainer: object, pl_module: object) -> None:
        super().on_train_start(trainer, pl_module)
        self._look(trainer, pl_module)


@pytest.mark.slow
@pytest.mark.devices
def test_the_figures_are_those_of_one_process(tmp_path: Path, forks: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parents[1])]),
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        [forks / "python", str(HERE / "ddp_fit.py"), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert [row["epoch"] for row in told["trace"]] == [0, 1, 2]
    assert told["kept"] == 2
    last = told["trace"][-1]
    assert told["logged"]["leakage/loss/auc"] == pytest.approx(last["auc"], rel=1e-6)

    module = made()
    module.load_state_dict(torch.load(tmp_path / "last.pt", weights_only=True))
    alone = Answers(members=130, nonmembers=110)
    fitted = trainer(tmp_path, alone, max_epochs=1, limit_train_batches=1)
    with pytest.warns(UserWarning, match="understated"):
        fitted.fit(module, *loaders())
    expected = alone.trace[0].row()
    same = [name for name in expected if name not in ("epoch", "step")]
    assert {name: expected[name] for name in same} == {name: last[name] for name in same}
