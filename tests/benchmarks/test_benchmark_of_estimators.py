"""The benchmark of estimators runs; the pool and the loop give the same answers."""

from pathlib import Path

import pytest
from benchmark_scripts import run


@pytest.mark.slow
def test_the_quick_run_compares_answers(forks: Path) -> None:
    lines = run("estimators", "--quick", forks=forks).splitlines()
    rows = {line.split()[0]: line.split() for line in lines[2:]}
    assert set(rows) == {"forest", "boosting"}
    for row in rows.values():
        assert row[1:3] == ["4", "300"]
        assert row[-1] == "yes"
