"""`report.html` in a real browser: what it shows, what it does when it is used, and what it never does."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from chromium import SCREENSHOTS, Opened, accessibility_violations, chromium, opened
from real_reports import AUDITS, EVIL

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("chromium")]
PORTRAIT, LANDSCAPE = 695, 1024  # CSS pixels between the margins of A4

Run = Callable[[str], Path]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`run_of(name)`: the folder of that audit, which is run at most once."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("reports") / name
            AUDITS[name](folder)
            made[name] = folder
        return made[name]

    return run


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def label(attack: dict[str, Any]) -> str:
    if attack["defense"] is None:
        return attack["name"]
    return f"{attack['name']} ({'adaptive, ' if attack['adaptive'] else ''}{attack['defense']})"


def shown(value: float | None) -> str:
    if value is None:
        return "–"
    return "0.000" if f"{abs(value):.3f}" == "0.000" else f"{value:.3f}".replace("-", "−")


def moved(value: float) -> str:
    return "0.000" if f"{abs(value):.3f}" == "0.000" else f"{value:+.3f}".replace("-", "−")


def interval(figure: dict[str, Any]) -> str:
    if figure["low"] is None:
        return ""
    if figure["high"] is None:
        return f"at least {shown(figure['low'])}"
    return f"[{shown(figure['low'])}, {shown(figure['high'])}]"


def cell(figure: dict[str, Any]) -> str:
    """What a table says of a figure of report.json."""
    spread = "" if figure["spread"] is None else f"SD {figure['spread']:.3f}"
    return shown(figure["value"]) + interval(figure) + spread


def table(opened: Opened, name: str) -> list[dict[str, str]]:
    """The rows of the table in the region `name`, by the text of their heads."""
    return opened.page.get_by_role("region", name=name, exact=True).locator("table").evaluate(
        """(table) => {
          const text = (cell) => cell.textContent.replace(/\\s+/g, " ").trim();
          const heads = [...table.querySelectorAll("thead th")].map(text);
          const rows = [...table.querySelectorAll("tbody tr")];
          return rows.map((row) => Object.fromEntries([...row.children].map((cell, i) => [heads[i], text(cell)])));
        }"""
    )  # fmt: skip


def main_figures(attack: dict[str, Any], attacks: list[dict[str, Any]]) -> dict[str, str]:
    """The row of the first table of attacks, without columns in which none of them has a figure."""
    overall = attack["overall"]
    defined = {fpr for each in attacks for fpr, figure in each["overall"]["tpr_at_fpr"].items() if cell(figure) != "–"}
    of_attack = {fpr: cell(figure) for fpr, figure in overall["tpr_at_fpr"].items() if fpr in defined}
    rates = {f"TPR at {float(fpr) * 100:g} % FPR": text for fpr, text in of_attack.items()}
    counts = {"members": overall["num_members"], "non‑members": overall["num_nonmembers"]}  # unbroken
    names = ("precision", "recall", "accuracy", "auc", "average_precision")
    figures = {name.replace("_", " ").replace("auc", "AUC"): cell(overall[name]) for name in names}
    return {"attack": label(attack), **{name: f"{n:,}" for name, n in counts.items()}, **figures, **rates}


def class_figures(report: dict[str, Any], attack: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of the table of classes."""
    rows = []
    for group, of_target in zip(attack["per_class"], report["target"]["per_class"], strict=True):
        at_once = group["auc_simultaneous"]
        rows.append(
            {
                "class": " ".join(group["class_name"].split()),
                "members": f"{group['num_members']:,}",
                "non‑members": f"{group['num_nonmembers']:,}",  # unbroken
                "train accuracy": shown(of_target["train_accuracy"]),
                "test accuracy": shown(of_target["test_accuracy"]),
                "gap": shown(of_target["generalization_gap"]),
                "precision": cell(group["precision"]),
                "precision at 1:1 (balanced)": cell(group["precision_balanced"]),
                "recall": cell(group["recall"]),
                "accuracy": cell(group["accuracy"]),
                "advantage": cell(group["advantage"]),
                "AUC": cell(group["auc"]),
                "AUC, simultaneous interval": (interval(at_once) if at_once else "") or "–",
                "average precision": cell(group["average_precision"]),
            }
        )
    return rows


def check_numbers(page: Opened, folder: Path) -> None:
    """The tiles and tables against report.json."""
    report = content(folder)
    best = max(report["attacks"], key=lambda attack: attack["overall"]["auc"]["value"])
    tiles = page.page.get_by_label("Main figures", exact=True).locator("dd").all_inner_texts()
    auc, *decided = [best["overall"][name]["value"] for name in ("auc", "precision", "recall")]
    expected = [auc]
    lowest = [attack["overall"]["tpr_at_fpr"] for attack in report["attacks"]]
    rate = next((rate for rate in lowest[0] if any(each[rate]["value"] is not None for each in lowest)), None)
    if rate is not None:
        expected.append(max(each[rate]["value"] for each in lowest if each[rate]["value"] is not None))
    expected += decided
    expected += [report["target"][name] for name in ("train_accuracy", "test_accuracy", "generalization_gap")]
    assert [tile.split("\n")[0] for tile in tiles] == [shown(value) for value in expected]
    assert table(page, "Main figures of the attacks") == [
        main_figures(attack, report["attacks"]) for attack in report["attacks"]
    ]
    for attack in report["attacks"]:
        page.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert table(page, f"Classes under {label(attack)}") == class_figures(report, attack)
    facts = page.page.inner_text("table[aria-labelledby=run]")
    assert report["dataset"]["fingerprint"] in facts
    for stage, seconds in report["run"]["seconds"].items():
        assert f"{stage} {seconds:.1f}" in facts


@pytest.mark.slow
def test_opens_from_disk_and_asks_for_nothing_else(browser: Any, run_of: Run) -> None:
    path = run_of("digits") / "report.html"
    with opened(browser, path) as page:
        plots = page.page.locator(".plot")
        for place in range(plots.count()):
            plots.nth(place).locator(".main-svg").first.wait_for()

        assert plots.count() >= 11
        assert page.requests == [path.as_uri()]
        assert page.errors == []


@pytest.mark.slow
def test_shows_the_numbers_of_the_report(browser: Any, run_of: Run) -> None:
    folder = run_of("digits")
    with opened(browser, folder / "report.html") as page:
        check_numbers(page, folder)
        facts = page.page.inner_text("table[aria-labelledby=run]")
        report = content(folder)
        for role, reuse in report["run"]["store"].items():
            assert f"{role}: {reuse['found']} found, {reuse['trained']} trained" in facts
        assert set(report["run"]["store"]) == {"target", "shadow"}
        config = page.page.locator("pre").inner_text()
        assert json.loads(config) == report["run"]["config"]


@pytest.mark.slow
def test_histograms_count_the_scores(browser: Any, run_of: Run) -> None:
    folder = run_of("digits")
    scores = pq.read_table(folder / "scores.parquet").to_pydict()
    attack, score, is_member = (np.array(scores[name]) for name in ("attack", "score", "is_member"))
    with opened(browser, folder / "report.html") as page:
        drawn = [page.page.evaluate(f"document.getElementById('scores-{n}').data") for n in range(2)]
        captions = page.page.locator(".pair figcaption").all_inner_texts()

    for name, traces in zip(("shokri", "loss"), drawn, strict=True):
        (caption,) = [each for each in captions if each.startswith(f"{name}:")]  # the strongest attack comes first
        for trace, side in zip(traces, (True, False), strict=True):
            values = score[(attack == name) & (is_member == side)]
            shares = np.array(trace["y"][1:-1:2])
            edges = np.array(trace["x"][::2])
            assert trace["name"] == ("members" if side else "non-members")
            assert shares.sum() == pytest.approx(1, abs=1e-2)
            for share, low, high in list(zip(shares, edges, edges[1:], strict=False))[1:-1]:
                # edges are drawn with four digits, so that scores beside one may be on its other side
                near = 1e-3 * (abs(low) + abs(high))
                assert np.mean((values >= low + near) & (values < high - near)) - 1e-3 <= share
                assert share <= np.mean((values >= low - near) & (values < high + near)) + 1e-3
            median = f"{np.quantile(values, 0.5, method='lower'):.3g}"
            assert median.replace("-", "−") in caption


@pytest.mark.slow
def test_the_keyboard_reaches_and_uses_everything(browser: Any, run_of: Run) -> None:
    with opened(browser, run_of("digits") / "report.html") as page:
        wanted = page.page.locator("select, summary, [tabindex='0']").evaluate_all(
            """(all) => all.filter((each) => each.checkVisibility())
              .map((each, place) => each.dataset.wanted = String(place))"""
        )
        reached, unseen = [], []
        for _ in range(10 * len(wanted)):
            page.page.keyboard.press("Tab")
            number, outline = page.page.evaluate(
                "[document.activeElement.dataset.wanted, getComputedStyle(document.activeElement).outlineStyle]"
            )
            if number is not None:
                reached.append(number)
                unseen += [number] if outline == "none" else []
            if page.page.evaluate("document.activeElement === document.body"):
                break
        assert len(wanted) >= 8
        assert reached == wanted
        assert unseen == []

        def lines() -> list[Any]:
            return page.page.evaluate(
                "document.getElementById('precision-recall-0').data"
                ".filter((t) => t.meta && t.meta.kind === 'line' && t.visible !== false).map((t) => t.meta.group)"
            )

        assert len(lines()) == 11
        page.page.focus("#menu-0")
        page.page.keyboard.press("ArrowDown")
        first = int(page.page.input_value("#menu-0"))
        assert sorted(map(str, lines())) == sorted([str(first), "overall"])
        button = page.page.locator("#roc .modebar-btn").first
        button.focus()
        assert page.page.evaluate("document.activeElement.classList.contains('modebar-btn')")
        page.page.wait_for_function("getComputedStyle(document.querySelector('#roc .modebar')).opacity === '1'")
        page.page.focus("summary:has-text('Configuration')")
        assert not page.page.is_visible("pre")
        page.page.keyboard.press("Enter")
        assert page.page.is_visible("pre")
        assert page.errors == []


@pytest.mark.slow
def test_text_of_the_data_stays_text(browser: Any, run_of: Run) -> None:
    folder = run_of("hundred_classes")
    with opened(browser, folder / "report.html") as page:
        alerts: list[str] = []
        page.page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
        page.page.select_option("#menu-0", EVIL)
        page.page.get_by_text("Configuration", exact=True).click()

        assert page.page.title() == f"Membership leakage of MLP on {EVIL}"
        assert EVIL in page.page.inner_text("header")
        assert page.page.inner_text(".tall tbody th >> nth=0") == EVIL
        assert page.page.inner_text(".tall tbody th >> nth=-1") == "</script><b>bold</b>"
        assert json.loads(page.page.locator("pre").inner_text()) == {"logger": {"name": EVIL}}
        assert EVIL[:23] in page.page.text_content("#precision-recall-0 .legend")
        named = page.page.evaluate("document.getElementById('precision-recall-0').data.map((t) => t.meta?.name ?? '')")
        assert any(name.startswith("&lt;img src=x onerror=alert(1)&gt;") for name in named)
        assert page.page.locator("img, b").count() == 0
        assert alerts == []
        assert page.requests == [(folder / "report.html").as_uri()]
        assert page.errors == []


@pytest.mark.slow
def test_names_the_members_of_the_highest_scores_with_their_pictures(browser: Any, run_of: Run) -> None:
    folder = run_of("pictures")
    report, scores = content(folder), pq.read_table(folder / "scores.parquet").to_pylist()
    best = max(report["attacks"], key=lambda attack: attack["overall"]["auc"]["value"])["name"]
    own = [row for row in scores if row["attack"] == best]
    flagged = [row for row in own if row["is_member"] and row["is_flagged"]]
    highest = sorted(flagged, key=lambda row: -row["score"])[:10]
    others = [row["score"] for row in own if not row["is_member"]]
    names = report["dataset"]["class_names"]
    with opened(browser, folder / "report.html") as page:
        rows = table(page, "Members with the highest scores")
        section = page.page.locator("section[aria-labelledby=highest-scores]")
        pictures = section.locator("img.record")
        pixels = pictures.evaluate_all("(all) => all.map((each) => [each.complete, each.naturalWidth, each.alt])")
        told = section.inner_text()
        assert page.requests == [(folder / "report.html").as_uri()]
        assert page.errors == []

    assert [row["record"] for row in rows] == [str(row["record"]) for row in highest]
    assert [row["class"] for row in rows] == [names[row["label"]] for row in highest]
    assert [row["score"] for row in rows] == [f"{row['score']:.4g}".replace("-", "−") for row in highest]
    shares = [np.mean(np.array(others) >= row["score"]) for row in highest]
    assert [row["non‑members that score as high"] for row in rows] == [f"{100 * share:.1f} %" for share in shares]
    assert pixels == [[True, 8, f"Record {row['record']}"] for row in highest]
    assert f"flags {len(flagged)} members" in told
    assert "This does not confirm that they are exposed." in told


@pytest.mark.slow
def test_without_scripts_the_tables_remain(browser: Any, run_of: Run) -> None:
    folder = run_of("digits")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    assert not page.is_visible("#roc")
    assert not page.is_visible("#menu-0")
    assert page.is_visible("body > noscript")
    best = max(attack["overall"]["auc"]["value"] for attack in content(folder)["attacks"])
    assert f"{best:.3f}" in page.inner_text("section[aria-labelledby=attacks]")
    context.close()


@pytest.mark.parametrize("name", ["hundred_classes", "several_targets", "defended"])
@pytest.mark.slow
def test_shows_the_numbers_of_other_reports(browser: Any, run_of: Run, name: str) -> None:
    folder = run_of(name)
    with opened(browser, folder / "report.html") as page:
        check_numbers(page, folder)
        assert page.errors == []


@pytest.mark.slow
def test_shows_the_most_exposed_records(browser: Any, run_of: Run) -> None:
    folder = run_of("several_targets")
    with opened(browser, folder / "report.html") as page:
        page.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        for attack in content(folder)["attacks"]:
            exposed = attack["vulnerability"]["most_exposed"]
            rows = table(page, f"Most exposed records under {attack['name']}")
            assert [row["record"] for row in rows] == [str(each["record"]) for each in exposed]
            assert [row["advantage"] for row in rows] == [f"{each['advantage']:.3f}" for each in exposed]
            assert [row["p, adjusted"] for row in rows] == [f"{each['p_adjusted']:.2g}" for each in exposed]
        assert "all targets together" in page.page.inner_text("section[aria-labelledby=scores]")


@pytest.mark.slow
def test_compares_attackers_with_and_without_knowledge_of_the_defence(browser: Any, run_of: Run) -> None:
    folder = run_of("defended")
    attacks = {attack["name"]: attack for attack in content(folder)["attacks"]}
    with opened(browser, folder / "report.html") as page:
        rows = table(page, "Attackers with and without knowledge of the defence")
        gains = table(page, "What knowing the defence gains")
    assert [row["attack"] for row in rows] == ["shokri-unaware", "shokri", "loss-unaware", "loss"]
    assert [row["knows the defence"] for row in rows] == ["no", "yes", "no", "yes"]
    for row in rows:
        overall = attacks[row["attack"]]["overall"]
        for name in ("precision", "recall", "accuracy", "advantage"):
            assert row[name] == cell(overall[name])
        assert row["AUC"] == cell(overall["auc"])
    assert [row["attack"] for row in gains] == ["shokri less shokri-unaware", "loss less loss-unaware"]
    for row, each in zip(gains, content(folder)["knowledge"], strict=True):
        for name, figure in (("AUC", "auc"), ("advantage", "advantage")):
            assert row[name].startswith(moved(each["gains"][figure]["value"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [(name, *each) for name in AUDITS for each in ((375, "dark"), (1440, "light"))]
    + [("digits", 375, "light"), ("digits", 1440, "dark")],
)
def test_fits_the_window_and_is_accessible(browser: Any, run_of: Run, name: str, width: int, scheme: str) -> None:
    with opened(browser, run_of(name) / "report.html", width=width, scheme=scheme) as page:
        page.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        page.page.locator(".plot .main-svg").last.wait_for()
        assert page.overflow() <= 0
        plots = page.page.locator(".plot .main-svg")
        for place in range(plots.count()):
            box = plots.nth(place).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        background = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background))) > 600) == (scheme == "light")
        page.screenshot(f"report_{name}_{width}_{scheme}")
        assert accessibility_violations(page.page) == []
        assert page.errors == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(AUDITS))
def test_prints_without_cut_tables(browser: Any, run_of: Run, name: str) -> None:
    with opened(browser, run_of(name) / "report.html", scheme="dark") as page:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        paper = SCREENSHOTS / f"report_{name}.pdf"
        page.page.pdf(path=paper, format="A4", prefer_css_page_size=True)
        assert page.page.evaluate("[...document.querySelectorAll('details.print')].every((each) => each.open)")
        sizes = [box.split() for box in re.findall(rb"/MediaBox \[0 0 ([\d. ]+)\]", paper.read_bytes())]
        assert {float(width) > float(height) for width, height in sizes} == {False, True}  # some pages are landscape
        page.page.emulate_media(media="print", color_scheme="dark")
        page.page.wait_for_function("getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'")
        for width, where in ((PORTRAIT, "not"), (LANDSCAPE, "")):
            page.page.set_viewport_size({"width": width, "height": 900})
            cut = page.page.evaluate(
                """([width, not]) => [...document.querySelectorAll("table, .scroll, .plot .main-svg, pre")]
                  .filter((each) => !each.closest(".wide") === Boolean(not) && each.checkVisibility())
                  .filter((each) => each.getBoundingClientRect().right > width + 1
                    || (each.matches(".scroll") && each.scrollHeight > each.clientHeight + 1))
                  .map((each) => [each.className.baseVal ?? each.ariaLabel, each.getBoundingClientRect().right])""",
                [width, where],
            )
            assert cut == []
        assert not page.page.is_visible("#menu-0")
        assert page.errors == []
