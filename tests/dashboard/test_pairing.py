"""How much the figures of two runs go together, against the influences of `mia-compare`, and on the page."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from chromium import opened
from dashboard_runs import report_of, write_run
from kept_runs import keep
from made_reports import build_report

from mia_lightning.dashboard.command import main
from mia_lightning.dashboard.pairing import MOST_RUNS, influence, pairs_of
from mia_lightning.metrics.intervals.influence import Observed, correlation
from mia_lightning.metrics.intervals.influence import influence as of_record
from mia_lightning.reports.rows import RunRow, read_run


def scores(seed: int, shift: float, count: int = 200) -> dict[str, Any]:
    """One attack; the records are equally hard for all runs."""
    hard = np.random.default_rng(0).normal(size=count)
    random = np.random.default_rng(seed)
    is_member = random.random(count) < 0.5
    score = np.round(hard + random.normal(size=count) / 2 + shift * is_member, 1)
    return {
        "attack": ["loss"] * count,
        "target": np.zeros(count, np.int64),
        "record": random.permutation(count),
        "label": np.zeros(count, np.int64),
        "is_member": is_member,
        "score": score,
        "is_flagged": score > 0.5,
    }


def in_order(columns: dict[str, Any]) -> list[np.ndarray]:
    order = columns["record"].argsort()
    return [columns[name][order] for name in ("score", "is_flagged", "is_member")]


@pytest.mark.parametrize("figure", ["auc", "advantage"])
def test_correlations_are_those_of_the_influences_of_records(tmp_path: Path, figure: str) -> None:
    columns = [scores(seed, shift) for seed, shift in enumerate((0.5, 1.0, 1.5))]
    folders = [write_run(tmp_path / str(place), scores=each) for place, each in enumerate(columns)]
    for folder, each in zip(folders, columns, strict=True):
        pq.write_table(pa.table(each), folder / "scores.parquet", write_page_checksum=True)
    ((pairs),) = pairs_of([(read_run(folder), folder) for folder in folders], ["loss"])
    parts = []
    for each in columns:
        score, is_flagged, is_member = (torch.from_numpy(column)[None] for column in in_order(each))
        seen = Observed(score, is_flagged, is_member, torch.ones_like(is_member))
        parts.append(of_record(figure, seen))
        mine = influence(figure, *in_order(each))
        np.testing.assert_allclose(mine, parts[-1].part_TN[0].numpy(), rtol=1e-9, atol=1e-12)
    expected = [correlation(parts[row], parts[column]) for row in (1, 2) for column in range(row)]
    assert (pairs["attack"], pairs["runs"]) == (0, [0, 1, 2])
    assert pairs[figure] == pytest.approx(expected, abs=6e-4)
    assert max(map(abs, expected)) > 0.1


def test_only_runs_of_one_data_set_and_one_target_are_paired(tmp_path: Path) -> None:
    folders = [tmp_path / str(place) for place in range(6)]
    for place, folder in enumerate(folders):
        write_run(folder, scores=None if place == 5 else scores(place, 1.0))
    rows = [read_run(folder) for folder in folders]
    changes: list[dict[str, Any]] = [
        {}, {}, {"fingerprint": "cd" * 32}, {"num_targets": 2}, {"plan": "one_canary"}, {}
    ]  # fmt: skip
    rows = [row.model_copy(update=change) for row, change in zip(rows, changes, strict=True)]
    runs = list(zip(rows, folders, strict=True))
    (pairs,) = pairs_of(runs, ["loss", "shokri"])
    assert pairs["runs"] == [0, 1]
    assert len(pairs["auc"]) == len(pairs["advantage"]) == 1
    assert pairs_of(runs[:1], ["loss"]) == []
    (folders[0] / "scores.parquet").write_bytes(b"damaged")
    assert pairs_of(runs, ["loss"]) == []


def test_the_pairs_of_very_many_runs_are_not_counted(tmp_path: Path) -> None:
    row = RunRow.of(report_of())
    assert pairs_of([(row, tmp_path)] * (MOST_RUNS + 1), ["loss"]) == []


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.xdist_group("chromium")
def test_the_page_pairs_the_difference_of_one_attack(browser: Any, tmp_path: Path) -> None:
    reports = {"strong": build_report(shift=2.5), "weak": build_report(shift=0.8, seed=1)}
    for name, report in reports.items():
        keep(report, tmp_path / "runs" / name)
    page_path = tmp_path / "page.html"
    with pytest.raises(SystemExit):
        main([str(tmp_path / "runs"), "--output", str(page_path)])
    with opened(browser, page_path) as page:
        for place in range(2):
            page.page.check(f'input[data-run="{place}"]')
        largest = page.page.locator("#compare-differences li").all_inner_texts()
        page.page.select_option("#attack", "loss")
        paired = page.page.locator("#compare-differences li").all_inner_texts()
        page.page.select_option("#figure", "tpr_at_fpr_0.01")
        rate = page.page.locator("#compare-differences li").all_inner_texts()
        assert page.errors == []
    ((_, strong), (_, weak)) = sorted(reports.items())
    a, b = (report.attacks[1].overall.auc for report in (strong, weak))
    parts = [_influence(report) for report in (strong, weak)]
    r = correlation(*parts)
    low, high = (
        a.value - b.value + sign * np.sqrt(x**2 + y**2 - 2 * r * x * y)
        for sign, x, y in ((-1, a.value - a.low, b.high - b.value), (1, a.high - a.value, b.value - b.low))
    )
    said = f"{a.value - b.value:+.3f} [{low:+.3f},\u00a0{high:+.3f}]".replace("-", "−")
    assert said in paired[0]
    assert "paired over the records that they share" in paired[0]
    assert "as if they shared no record" in largest[0]
    assert "as if they shared no record" in rate[0]


def _influence(report: Any) -> Any:
    scores = report.scores
    of = scores.attack == "loss"
    score, is_flagged, is_member = (
        torch.from_numpy(each[of])[None] for each in (scores.score, scores.is_flagged, scores.is_member)
    )
    return of_record("auc", Observed(score, is_flagged, is_member, torch.ones_like(is_member)))
