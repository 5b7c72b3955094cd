"""A browser, and pages over synthetic runs, for all tests of the dashboard."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from dashboard_runs import many_reports, normal_scores, report_of, write_run
from made_reports import report as report

from mia_lightning.dashboard.command import main

EVIL = "<img src=x onerror=alert(1)>\"'&amp;"


@dataclass(frozen=True, kw_only=True)
class Site:
    """A page, and the reports behind it by the name of their run."""

    page: Path
    reports: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")  # its event loop must end before other tests start one
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Sixty runs over data sets, architectures and defences, and one whose texts are markup."""
    root = tmp_path_factory.mktemp("dashboard")
    reports = {f"day-{place % 4}/run-{place:02d}": each for place, each in enumerate(many_reports(60))}
    reports[f"odd/{EVIL}"] = report_of(dataset=EVIL, architecture=EVIL, defense="<b>bold</b>", test=0.9)
    for place, (name, content) in enumerate(reports.items()):
        shifts = {attack["name"]: 4 * attack["overall"]["auc"]["value"] - 2 for attack in content["attacks"]}
        write_run(root / "outputs" / name, content, scores=normal_scores(shifts, count=300, seed=place))
    with pytest.raises(SystemExit) as ended:
        main([str(root / "outputs"), "--output", str(root / "pages" / "dashboard.html")])
    assert ended.value.code == 0
    return Site(
        page=root / "pages" / "dashboard.html",
        reports={f"outputs/{name}": content for name, content in reports.items()},
    )
