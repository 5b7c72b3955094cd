"""The cores that affinity and quotas leave, and how threads wait, before torch is imported."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quick import slow_but

from mia_lightning.training.plan import cgroups, cores
from mia_lightning.training.plan.cores import available_cores, prepare_for_sharing
from mia_lightning.training.plan.threads import allowed_threads, numbers_of_threads, using_threads
from mia_lightning.training.step.recipe import Recipe

CPU = torch.device("cpu")


class Machine:
    """A machine of so many cores, with the files of its control groups."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        patch.setattr(cgroups, "ROOT", folder)
        patch.setattr(cgroups, "OF_PROCESS", folder / "of_process")
        self.cores(8)
        self.of_process()

    def cores(self, count: int) -> None:
        self.patch.setattr(os, "sched_getaffinity", lambda process: set(range(count)), raising=False)

    def of_process(self, *lines: str) -> None:
        (self.folder / "of_process").write_text("".join(f"{line}\n" for line in lines))

    def write(self, files: Mapping[str, str]) -> None:
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


V1, HYBRID = "4:cpu,cpuacct:/a/b", "0::/init"
QUOTAS: dict[str, tuple[tuple[str, ...], dict[str, str], int]] = {
    "version 2": (("0::/a/b",), {"a/b/cpu.max": "300000 100000"}, 3),
    "version 2, another period": (("0::/a/b",), {"a/b/cpu.max": "25000 12500"}, 2),
    "version 2, a part of a core": (("0::/a/b",), {"a/b/cpu.max": "10000 100000"}, 1),
    "version 2, rounded up": (("0::/a/b",), {"a/b/cpu.max": "250000 100000"}, 3),
    "version 2, none": (("0::/a/b",), {"a/b/cpu.max": "max 100000"}, 8),
    "version 2, of the group around": (("0::/a/b",), {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
    "version 2, the tightest": (("0::/a/b",), {"a/b/cpu.max": "500000 100000", "a/cpu.max": "400000 100000"}, 4),
    "version 2, seen from within": (("0::/",), {"cpu.max": "200000 100000"}, 2),
    "version 2, a path from another place": (("0::/../../c",), {"cpu.max": "200000 100000"}, 2),
    "version 2, more than there are": (("0::/",), {"cpu.max": "6400000 100000"}, 8),
    "version 2, of nobody here": (("0::/a",), {"b/cpu.max": "100000 100000"}, 8),
    "version 1": ((V1, HYBRID), {"cpu/a/b/cpu.cfs_quota_us": "200000", "cpu/a/b/cpu.cfs_period_us": "100000"}, 2),
    "version 1, by both names": (
        (V1,),
        {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "200000", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000"},
        2,
    ),
    "version 1, none": ((V1,), {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}, 8),
    "version 1, of the group around": (
        (V1,),
        {
            "cpu/a/b/cpu.cfs_quota_us": "-1",
            "cpu/a/b/cpu.cfs_period_us": "100000",
            "cpu/a/cpu.cfs_quota_us": "50000",
            "cpu/a/cpu.cfs_period_us": "50000",
        },
        1,
    ),
    "version 1, the container's own": (
        ("7:cpuset:/docker/1", "4:cpu,cpuacct:/docker/1"),
        {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"},
        3,
    ),
    "version 1, of another controller": (
        ("4:cpuset:/a",),
        {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"},
        8,
    ),
    "no groups": ((), {}, 8),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_a_quota_counts_as_fewer_cores(case: str, machine: Machine) -> None:
    lines, files, expected = QUOTAS[case]
    machine.of_process(*lines)
    machine.write(files)
    assert available_cores() == expected


def test_affinity_counts_and_where_the_system_has_none_all_cores(machine: Machine) -> None:
    machine.cores(3)
    assert available_cores() == 3
    machine.patch.delattr(os, "sched_getaffinity")
    machine.patch.setattr(os, "cpu_count", lambda: 5)
    assert available_cores() == 5
    machine.patch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1


def test_a_system_without_groups_has_no_quota(machine: Machine) -> None:
    (machine.folder / "of_process").unlink()
    assert available_cores() == 8


@given(count=st.integers(1, 200))
def test_all_half_and_one_thread_are_tried(count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: count)
        patch.setattr("mia_lightning.training.plan.threads.available_cores", lambda: 1000)
        tried = numbers_of_threads(Recipe(), CPU)
        assert tried == sorted(tried, reverse=True)
        assert set(tried) == {count, max(1, count // 2), 1}
        assert numbers_of_threads(Recipe(threads=7), CPU) == [7]  # what is set is obeyed
        assert numbers_of_threads(Recipe(), torch.device("cuda")) == [count]


def test_no_more_threads_than_cores_and_no_more_than_torch_has(machine: Machine) -> None:
    machine.patch.setattr(torch, "get_num_threads", lambda: 6)
    assert allowed_threads() == 6
    machine.of_process("0::/")
    machine.write({"cpu.max": "400000 100000"})
    assert allowed_threads() == 4
    assert numbers_of_threads(Recipe(), CPU) == [4, 2, 1]


def test_threads_are_used_within_the_context_alone() -> None:
    before = torch.get_num_threads()
    for inside in (before, before + 1):
        with using_threads(inside):
            assert torch.get_num_threads() == inside
            torch.set_num_threads(before + 2)
        assert torch.get_num_threads() == before

    def failing() -> None:
        with using_threads(before + 1):
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert torch.get_num_threads() == before


NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


@pytest.fixture
def before_torch(machine: Machine) -> Machine:
    """Nothing is set, and torch seems not to be imported yet."""
    for name in NAMES:
        machine.patch.setenv(name, "")  # so that it is put back
        machine.patch.delenv(name)
    machine.patch.delitem(sys.modules, "torch")
    return machine


def said() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


@pytest.mark.parametrize("name", cores._WAITING)
def test_threads_sleep_while_they_wait_unless_the_user_says_how(name: str, before_torch: Machine) -> None:
    prepare_for_sharing()
    assert said() == cores._PASSIVE
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    for passive in cores._PASSIVE:
        before_torch.patch.delenv(passive)
    before_torch.patch.setenv(name, "1")
    prepare_for_sharing()
    assert said() == {name: "1"}


def test_a_quota_limits_the_threads_of_all_libraries_unless_the_user_says_how_many(before_torch: Machine) -> None:
    before_torch.of_process("0::/")
    before_torch.write({"cpu.max": "200000 100000"})
    prepare_for_sharing()
    assert said() == {**cores._PASSIVE, "OMP_NUM_THREADS": "2"}
    before_torch.patch.setenv("OMP_NUM_THREADS", "5")
    prepare_for_sharing()
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_once_torch_is_imported_nothing_is_set(before_torch: Machine) -> None:
    before_torch.patch.setitem(sys.modules, "torch", torch)
    prepare_for_sharing()
    assert said() == {}


# What `main` finds in the environment when torch is imported for the first time, whoever imports it.
AT_IMPORT = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(7)
sys.meta_path.insert(0, Watch())
sys.argv = [{program!r}, *{arguments!r}]
from {module} import main
main()
"""


@pytest.mark.costly
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("mia_lightning.command.main", ("shadow.count=2",)),
        ("mia_lightning.serve.command", ("run", "--port", "0")),
    ],
)
@pytest.mark.parametrize("given", slow_but([None], [None, "ACTIVE"]))
def test_the_commands_settle_it_before_torch_is_imported(
    module: str, arguments: tuple[str, ...], given: str | None, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text("{}")
    code = AT_IMPORT.format(program="command", module=module, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (7, [given or "PASSIVE"]), done.stderr
