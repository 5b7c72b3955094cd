"""The benchmark of the monitor runs, and what it prints hangs together; no time is asserted."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from benchmark_scripts import cells, imported, run
from scipy.stats import norm, ttest_1samp

from mia_lightning.seeds import generator


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("monitor", monkeypatch)


@pytest.mark.slow
def test_the_quick_run_of_the_overhead_prints_a_row_for_each_network(
    shared_data: Path, script: ModuleType, forks: Path
) -> None:
    printed = run("monitor", "overhead", "--quick", "--root", str(shared_data), forks=forks).splitlines()
    header, _, *body = [cells(line) for line in printed if line.startswith("|")]
    assert header == list(script.OVERHEAD)
    assert [row[:2] for row in body] == [["mlp 784-256-10", "2,000 + 2,000"], ["cnn", "2,000 + 2,000"]]


@pytest.mark.slow
def test_the_quick_run_of_the_screening_prints_every_score_and_chance(
    shared_data: Path, script: ModuleType, forks: Path
) -> None:
    settings = ("--quick", "--shadows", "16", "--targets", "2", "--root", str(shared_data / "location"))
    printed = run("monitor", "screening", *settings, forks=forks).splitlines()
    header, _, *body = [cells(line) for line in printed if line.startswith("|")]
    assert header == list(script.SCREENING)
    assert [row[0].partition(" ")[0] for row in body] == ["LiRA,", "LT-IQR", "final", "final", "chance"]
    assert "2 targets, 8 + 8 shadow models" in printed[-1]


def test_precision_is_the_share_of_vulnerable_records_among_the_first(script: ModuleType) -> None:
    score_M = torch.arange(100.0)
    vulnerable_M = torch.zeros(100, dtype=torch.bool)
    vulnerable_M[[99, 96, 93, 10]] = True
    assert script.precisions(score_M, vulnerable_M) == pytest.approx([1.0, 0.4, 0.3, 0.5])
    assert script.precisions(-score_M, vulnerable_M) == pytest.approx([0.0, 0.0, 0.0, 1.0])


def test_lira_is_the_ratio_of_two_normal_densities(script: ModuleType) -> None:
    draws = generator(0, "lira")
    phi_KN, phi_N = torch.randn(12, 5, generator=draws).double(), torch.randn(5, generator=draws).double()
    member_KN = torch.rand(12, 5, generator=draws) < 0.5
    for i, found in enumerate(script.lira(phi_N, phi_KN, member_KN).tolist()):
        inside, outside = (phi_KN[kind, i].numpy() for kind in (member_KN[:, i], ~member_KN[:, i]))
        densities = [norm(np.mean(each), (np.var(each, ddof=1) + 1e-6) ** 0.5) for each in (inside, outside)]
        expected = densities[0].logpdf(float(phi_N[i])) - densities[1].logpdf(float(phi_N[i]))
        assert found == pytest.approx(expected, abs=1e-9)


def test_the_interval_is_students(script: ModuleType) -> None:
    values = [0.31, 0.52, 0.44, 0.4]
    low, high = ttest_1samp(values, 0).confidence_interval()
    assert script.interval(values) == f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]"
