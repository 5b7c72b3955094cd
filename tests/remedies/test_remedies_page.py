"""A report on remedies as sentences, on the terminal, and as a page in a real browser."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import accessibility_violations, chromium, opened
from rich.console import Console

from mia_lightning.remedies import RemedyReport, read_remedies
from mia_lightning.remedies.files import remedies_page, save_remedies
from mia_lightning.remedies.picture import LOST, remedies_plot
from mia_lightning.remedies.schema import Difference, EqualUtility, Leakage, RemedyResult, Strength
from mia_lightning.remedies.words import harm_sentence, headline, remedies_csv, render_remedies
from mia_lightning.reports.pictures import Picture

NO_PICTURE = Picture("", b"", b"")
NOTHING = Strength(
    description="nothing",
    settings=(),
    utility=0.9,
    train_utility=1.0,
    auc=Leakage(value=0.8, attack="loss"),
    tpr_at_fpr={"0.001": Leakage(value=None, reason="too few non-members"), "0.01": Leakage(value=0.2, attack="loss")},
)


def strength(name: str, utility: float, auc: float, verdict: str) -> Strength:
    """With limits 0.01 around each difference."""

    def moved(value: float) -> Difference:
        return Difference(value=value, low=value - 0.01, high=value + 0.01)

    return Strength(
        description=name,
        settings=("defense=l2",),
        utility=utility,
        train_utility=0.95,
        utility_difference=moved(utility - 0.9),
        auc=Leakage(value=auc, attack="lira_offline", difference=moved(auc - 0.8)),
        tpr_at_fpr={
            "0.001": Leakage(value=None, reason="too few non-members"),
            "0.01": Leakage(value=0.1, attack="loss", difference=moved(-0.1)),
        },
        p_adjusted=0.01,
        verdict=verdict,
    )


def remedy(name: str, *strengths: Strength, at: float) -> RemedyResult:
    difference = Difference(value=at - 0.8, low=at - 0.81, high=at - 0.79)
    return RemedyResult(
        name=name,
        trains=True,
        strengths=strengths,
        best=0,
        at_equal_utility=EqualUtility(
            auc=at, difference=difference, strength=strengths[0].description, is_between=False
        ),
    )


@pytest.fixture
def report() -> RemedyReport:
    broken = Strength(description="strong 3", settings=(), skipped="the loss of models was no longer finite")
    return RemedyReport(
        created="2026-01-01T00:00:00+00:00",
        seconds=12.0,
        command="mia-lightning experiment=remedies",
        versions={"python": "3"},
        seed=0,
        dataset="<b>records</b>",
        architecture="MLP",
        epochs=5,
        utility="accuracy",
        num_models=16,
        num_members=50,
        num_nonmembers=500,
        num_validation=0,
        attacks=("loss", "lira_offline"),
        give_up=0.01,
        estimand="95 % intervals",
        nothing=NOTHING,
        remedies=(
            remedy(
                "early_stopping",
                strength("strong 1", 0.895, 0.6, "leaks less"),
                strength("strong 2", 0.9 - 2 * LOST, 0.5, "leaks less"),
                broken,
                at=0.6,
            ),
            remedy("label_smoothing", strength("smooth", 0.9, 0.85, "leaks more"), at=0.8),
            RemedyResult(name="random_crop", trains=True, skipped="a record is no image"),
        ),
        notes=("A note.",),
        warnings=("A warning.",),
    )


def test_the_sentences_name_what_helps_and_what_makes_it_worse(report: RemedyReport) -> None:
    assert "early_stopping" in headline(report)
    assert "0.600" in headline(report)
    assert "smooth (AUC +0.050)" in (harm_sentence(report) or "")
    idle = report.model_copy(update={"remedies": (report.remedies[1],)})
    assert headline(idle).startswith("No remedy")
    calm = report.model_copy(update={"remedies": (report.remedies[0],)})
    assert harm_sentence(calm) is None


def test_the_terminal_shows_each_remedy_and_what_was_not_measured(report: RemedyReport) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_remedies(report), crop=False)
    text = " ".join(console.export_text().split())
    for said in (
        "doing nothing",
        "strong 1",
        "smooth",
        "random_crop was not measured: a record is no image",
        "strong 3",
    ):
        assert said in text
    assert "strong 2" not in text  # only the best strength of each


def test_why_low_figures_are_no_evidence_stands_before_them(report: RemedyReport) -> None:
    broken = report.model_copy(update={"broken": ("The targets know no more than chance.",)})
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_remedies(broken), crop=False)
    for text in (console.export_text(), remedies_page(broken, NO_PICTURE)):
        assert 0 < text.index("understated: The targets know no more") < text.index(headline(report)[:30])


def test_where_nothing_was_measured_no_settings_are_an_example(report: RemedyReport) -> None:
    assert "the same settings with defense=l2, for example" in remedies_page(report, NO_PICTURE)
    idle = report.model_copy(update={"remedies": report.remedies[-1:]})
    assert "for example" not in remedies_page(idle, NO_PICTURE)


def test_the_csv_has_a_row_for_each_strength(report: RemedyReport) -> None:
    rows = list(csv.DictReader(io.StringIO(remedies_csv(report).decode())))
    assert [row["strength"] for row in rows] == ["nothing", "strong 1", "strong 2", "strong 3", "smooth"]
    assert float(rows[1]["auc_difference"]) == pytest.approx(-0.2)
    assert float(rows[1]["tpr_at_fpr_0.01_low"]) == pytest.approx(-0.11)
    assert rows[3]["skipped"]


def test_the_picture_leaves_out_what_loses_too_much(report: RemedyReport) -> None:
    plot = remedies_plot(report)
    assert plot["layout"]["xaxis"]["range"][0] > 0.9 - LOST
    names = next(trace for trace in plot["data"] if trace["name"] == "names")
    assert len(names["x"]) == 3  # doing nothing, and the ends in sight of two remedies


def test_no_name_stands_for_another_point(report: RemedyReport) -> None:
    """One that ends where doing nothing stands has its name in the legend alone; chance is shown where it is near."""
    idle = remedy("idle", strength("still", 0.9, 0.801, "no difference shown"), at=0.8)
    plot = remedies_plot(report.model_copy(update={"remedies": (*report.remedies, idle)}))
    names = next(trace for trace in plot["data"] if trace["name"] == "names")
    assert sorted(names["text"]) == ["doing nothing", "early_stopping", "label_smoothing"]
    assert any(trace["name"] == "idle" for trace in plot["data"])
    assert plot["layout"]["shapes"] == []
    near = remedy("near", strength("near", 0.9, 0.55, "leaks less"), at=0.55)
    plot = remedies_plot(report.model_copy(update={"remedies": (near,)}))
    assert len(plot["layout"]["shapes"]) == 1
    assert plot["layout"]["yaxis"]["range"][0] < 0.5


def test_a_saved_report_is_read_back(report: RemedyReport, tmp_path: Path) -> None:
    save_remedies(report, tmp_path)
    assert read_remedies(tmp_path) == read_remedies(tmp_path / "remedies.json") == report
    assert "early_stopping" in repr(report)
    assert "not measured" not in repr(report)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.xdist_group("chromium")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 375)])
def test_the_page_opens_from_disk_without_overflow_and_with_all_figures(
    browser: Any, report: RemedyReport, tmp_path: Path, scheme: str, width: int
) -> None:
    save_remedies(report, tmp_path)
    path = tmp_path / "remedies.html"
    with opened(browser, path, width=width, scheme=scheme) as page:
        rows = page.page.locator("section[aria-labelledby=strengths] tbody tr").evaluate_all(
            "rows => rows.map((row) => [...row.children].map((cell) => cell.firstChild?.textContent ?? ''))"
        )
        assert rows == [
            [
                each.description,
                "0.950",
                f"{each.utility:.3f}",
                f"{each.auc.value:.3f}",
                "lira_offline",
                "0.100",
                each.verdict,
            ]
            for result in report.remedies
            for each in result.strengths
            if each.skipped is None
        ]
        assert page.page.locator("b").count() == 0  # names stay text
        assert page.legible_pictures() == 1
        assert page.requests == [path.as_uri()]
        assert page.errors == []
        assert page.overflow() == 0
        assert accessibility_violations(page.page) == []
