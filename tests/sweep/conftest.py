"""A Slurm of one node for the tests that want a real one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import pytest

CLUSTER = Path(__file__).parents[1] / "cluster"
DAEMONS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "srun")


def _started(*options: str) -> Iterator[Path]:
    """The `slurm.conf` of a cluster that is there for a while."""
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        _give_up(f"there is no {missing[0]}; apt-get install the packages of {CLUSTER / 'packages'}")
    with TemporaryDirectory(prefix="slurm_") as folder:
        try:
            start = [CLUSTER / "start", folder, *options]
            started = subprocess.run(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
            if started.returncode != 0:
                _give_up(f"it does not start here: {started.stdout.strip()}")
            yield Path(folder) / "slurm.conf"
        finally:
            subprocess.run([CLUSTER / "stop", folder], timeout=300, check=False)


def _give_up(reason: str) -> NoReturn:
    """Skip, or fail where Slurm must be there."""
    if os.environ.get("MIA_SLURM") == "required":
        pytest.fail(f"needs Slurm: {reason}")
    pytest.skip(f"needs Slurm: {reason}")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """With accounting, and the account `research`."""
    yield from _started("accounting")


@pytest.fixture(scope="session")
def slurm_without_accounting() -> Iterator[Path]:
    yield from _started()
