"""`comparison.html` and `index.html` in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import accessibility_violations, chromium, opened

from mia_lightning.comparison.files import save_comparison, save_index
from mia_lightning.comparison.schema import ComparisonReport

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("chromium")]

PAPER = 695  # CSS pixels between the margins of A4


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def pages(comparison: ComparisonReport, tmp_path: Path) -> dict[str, Path]:
    save_comparison(comparison, tmp_path / "study")
    save_index([(tmp_path / "study", comparison)], tmp_path)
    return {"comparison": tmp_path / "study" / "comparison.html", "index": tmp_path / "index.html"}


@pytest.mark.slow
def test_opens_from_disk_and_shows_the_numbers(
    browser: Any, comparison: ComparisonReport, pages: dict[str, Path]
) -> None:
    path = pages["comparison"]
    with opened(browser, path) as page:
        rows = page.page.locator("section[aria-labelledby=variants] tbody tr").evaluate_all(
            "rows => rows.map((row) => [...row.children].map((cell) => cell.firstChild?.textContent ?? ''))"
        )
        for variant, row in zip(comparison.variants, rows, strict=True):
            assert row[0] == variant.name
            if variant.skipped:
                assert row[1] == f"not run: {variant.skipped}"
                continue
            (attack,) = variant.attacks
            figures = [attack.accuracy, attack.precision, attack.recall, attack.auc]
            values = [variant.train_accuracy, variant.test_accuracy, variant.generalization_gap]
            assert row[1:5] == [*(f"{value:.3f}" for value in values), attack.name]
            assert sorted(row[5:]) == sorted(f"{figure.value:.3f}" for figure in figures)
        assert page.page.inner_text("h1") == comparison.title
        assert page.page.locator("i").count() == page.page.locator("b").count() == 0  # names stay text
        assert page.page.locator("img:not([alt])").count() == 0
        assert page.requests == [path.as_uri()]
        assert page.errors == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("name", ["comparison", "index"])
def test_fits_the_window_and_is_accessible(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    with opened(browser, pages[name], width=width, scheme=scheme) as page:
        assert page.overflow() <= 0
        page.screenshot(f"{name}_{width}_{scheme}")
        files = list(pages[name].parent.glob("figures/*.png"))
        assert page.legible_pictures() == len(files)
        assert accessibility_violations(page.page) == []
        assert page.errors == []


@pytest.mark.slow
def test_prints_without_cut_tables(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["comparison"], width=PAPER, scheme="dark") as page:
        page.page.emulate_media(media="print", color_scheme="dark")
        page.page.wait_for_function("getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'")
        cut = page.page.locator("table, img").evaluate_all(
            f"(all) => all.map((each) => each.getBoundingClientRect().right).filter((right) => right > {PAPER + 1})"
        )
        assert cut == []
