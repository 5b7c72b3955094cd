"""The benchmark of answers runs; its rows are those of the membership."""

from pathlib import Path

import pytest
from benchmark_scripts import run


@pytest.mark.slow
def test_the_quick_run_counts_rows(forks: Path) -> None:
    lines = run("answers", "--quick", forks=forks).splitlines()
    rows = {line[:14].strip(): [int(cell.replace(",", "")) for cell in line[14:].split()[:2]] for line in lines[2:]}
    assert rows["shokri, loss"] == [5 * 100, 5 * 1797]
    assert 5 * 100 < rows["lira_offline"][0] <= 100 + 4 * 500
