"""Which tests run in one worker of pytest-xdist."""

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


@pytest.mark.slow
def test_a_group_and_the_quick_tests_of_a_file_are_in_one_worker(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        parts = (CONTENT, QUICK, GROUPED if name != "three" else "")
        (tmp_path / f"test_{name}.py").write_text("\n".join(parts).replace("NAME", name))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: slow\n")
    (tmp_path / "seen").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "scheduling", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parent), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {path.stem: path.read_text() for path in (tmp_path / "seen").iterdir()}
    assert len(seen) == 3 * 6 + 2 * 6
    assert len(set(seen.values())) == 2
    for name in ("one-", "two-", "three-", "group-"):
        assert len({worker for test, worker in seen.items() if test.startswith(name)}) == 1, name
