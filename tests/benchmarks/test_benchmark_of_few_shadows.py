"""The benchmark of few shadow models runs, and its intervals are what they say."""

import json
from pathlib import Path

import pytest
import torch
from benchmark_scripts import cells, imported, run

from mia_lightning.metrics.intervals.crossed import auc_contributions, crossed_interval
from mia_lightning.metrics.roc import tpr_at_fpr

COUNTS = ["4", "8"]


@pytest.mark.slow
def test_the_quick_run_has_a_row_for_each_number_of_shadow_models(tmp_path: Path, forks: Path) -> None:
    printed = run("few_shadows", "--data", "digits", "--quick", "--json", str(tmp_path / "rows.json"), forks=forks)
    assert printed.startswith("digits: 135 members and 135 non-members")
    lines = [cells(line) for line in printed.splitlines() if line.startswith("| ")]
    assert [line[0] for line in lines if line[0].isdigit()] == COUNTS * 3 * 4  # values and two differences
    for row in json.loads((tmp_path / "rows.json").read_text()):
        assert row["pairs"] == 6 if row["models"] == 4 else 5
        assert ("less LiRA" in row, "less RMIA" in row) == (row["attack"] != "LiRA", row["attack"] != "RMIA")


def test_values_and_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """TPR by the package's exact ROC; contributions add up to 0; the variance is that of the crossed bootstrap."""
    few_shadows = imported("few_shadows", monkeypatch)
    random = torch.Generator().manual_seed(0)
    member_TN = torch.rand(40, 500, generator=random) < 0.5
    scored_TN = torch.rand(40, 500, generator=random) < 0.9
    score_TN = torch.randn(40, 500, generator=random).double() + member_TN
    score_TN[:20] = score_TN[:20].round(decimals=1)  # with ties
    value_T, contribution_TN = few_shadows.tpr_contributions(score_TN, member_TN, scored_TN)
    for t in range(40):
        of_t = scored_TN[t]
        expected = tpr_at_fpr(score_TN[t, of_t], member_TN[t, of_t], max_fpr=0.01).tpr
        assert float(value_T[t]) == pytest.approx(expected, abs=1e-12)
    assert float(contribution_TN.sum(1).abs().max()) < 1e-9
    areas = auc_contributions(score_TN, member_TN, scored_TN)
    mine, package = few_shadows.Estimate.of(*areas), crossed_interval(*areas)
    assert package.low is not None
    assert mine.low == pytest.approx(package.low, abs=2e-3)  # there on the logit scale
    assert mine.high == pytest.approx(package.high, abs=2e-3)
