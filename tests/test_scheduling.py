"""Which tests run, and which of them in one worker of pytest-xdist."""

import subprocess
import sys
from pathlib import Path

import pytest

CONTENT = """
import os
from pathlib import Path
import pytest

def here(test):
    Path("seen", f"{test}.txt").write_text(os.environ["PYTEST_XDIST_WORKER"])
"""
QUICK = """
@pytest.mark.parametrize("i", range(6))
def test_quick(i):
    here(f"NAME-{i}")
"""
GROUPED = """
@pytest.mark.slow
@pytest.mark.xdist_group("several")
@pytest.mark.parametrize("i", range(6))
def test_grouped(i):
    here(f"group-NAME{i}")
"""


COSTLY = """
@pytest.mark.costly
@pytest.mark.parametrize("i", range(4))
def test_costly(i):
    here(f"costly-{i}")
"""


def pytest_in(folder: Path, *arguments: str) -> dict[str, str]:
    """The workers of the tests that a new process has run with the plugin, by their names."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: slow\n    costly: costly\n")
    (folder / "seen").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "scheduling", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.stem: path.read_text() for path in (folder / "seen").iterdir()}


@pytest.mark.slow
def test_the_first_case_of_a_costly_test_is_quick_and_the_others_are_slow(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("\n".join((CONTENT, QUICK.replace("NAME", "one"), COSTLY)))
    quick = set(pytest_in(tmp_path, "-m", "not slow"))
    assert quick == {*(f"one-{i}" for i in range(6)), "costly-0"}
    seen = pytest_in(tmp_path, "-m", "slow")
    assert set(seen) - quick == {"costly-1", "costly-2", "costly-3"}
    assert len({seen[f"costly-{i}"] for i in (1, 2, 3)}) == 1


@pytest.mark.slow
def test_a_group_and_the_quick_tests_of_a_file_are_in_one_worker(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        parts = (CONTENT, QUICK, GROUPED if name != "three" else "")
        (tmp_path / f"test_{name}.py").write_text("\n".join(parts).replace("NAME", name))
    seen = pytest_in(tmp_path)
    assert len(seen) == 3 * 6 + 2 * 6
    assert len(set(seen.values())) == 2
    for name in ("one-", "two-", "three-", "group-"):
        assert len({worker for test, worker in seen.items() if test.startswith(name)}) == 1, name
