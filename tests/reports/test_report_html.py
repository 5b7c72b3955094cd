"""The page: self-contained, escaped, accessible, and with the report's numbers in it."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest

from mia_lightning.reports.curves import attack_curves
from mia_lightning.reports.page.html import html_page
from mia_lightning.reports.schema import AuditReport, DefenseSection, FieldSection, SynthesisSection, TaskSection
from mia_lightning.reports.selection import knowledge_pairs
from mia_lightning.reports.sentences import headline

EVIL = "<script>alert(1)</script>"


class _Page(HTMLParser):
    """Tags with their attributes, the text outside scripts and styles, and the plots' JSON."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.plots = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "plots":
            self.plots += data
        elif not self._inside:
            self.text.append(data)


@pytest.fixture(scope="module")
def text(report: AuditReport) -> str:
    return html_page(report, {attack.name: attack_curves(report.scores, attack.name) for attack in report.attacks})


@pytest.fixture(scope="module")
def page(text: str) -> _Page:
    return _Page(text)


def test_nothing_is_loaded(page: _Page) -> None:
    loading = {"src", "href", "srcset", "action", "formaction", "data", "poster", "background", "ping"}
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in loading & set(attributes):
            assert attributes[name].startswith(("data:", "#")), (tag, attributes)
    policy = next(attributes for tag, attributes in page.tags if "http-equiv" in attributes)["content"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "connect-src" not in policy


def test_style_loads_nothing(text: str) -> None:
    style = text[text.index("<style>") : text.index("</style>")]

    assert "url(" not in style
    assert "@import" not in style


def test_text_from_the_data_is_escaped(text: str, page: _Page) -> None:
    assert EVIL not in text
    assert EVIL in "".join(page.text)
    assert sum(tag == "script" for tag, _ in page.tags) == 3


def test_plots_hold_the_curves(report: AuditReport, page: _Page) -> None:
    plots = json.loads(page.plots)

    assert set(plots) == {
        "precision-recall-0",
        "precision-recall-1",
        "roc",
        "scores-0",
        "scores-1",
        "leakage-vs-gap",
        "precision-by-class",
        "precision-by-records",
        "training-0",
        "training-1",
    }
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert set(plots) <= ids
    decision = plots["precision-recall-0"]["data"][-1]
    assert decision["x"] == [report.attacks[0].overall.recall.value]
    assert decision["y"] == [report.attacks[0].overall.precision_balanced.value]
    points = plots["leakage-vs-gap"]["data"][1]
    assert points["y"] == sorted(
        (float(f"{group.auc.value:.4g}") for group in report.attacks[1].per_class[:3]), reverse=True
    )
    assert "&lt;script&gt;" in "".join(points["hovertext"])
    assert max(len(trace["x"]) for plot in plots.values() for trace in plot["data"]) <= 300
    defined = [group for group in report.attacks[0].per_class if group.precision_balanced.value is not None]
    precisions = [group.precision_balanced.value for group in defined]
    spread = plots["precision-by-class"]["data"][0]
    for x, y in zip(spread["x"][2::2], spread["y"][2::2], strict=True):  # the upper end of each step
        assert y == pytest.approx(np.mean([precision <= x + 1e-3 for precision in precisions]), abs=1e-3)
    by_records = plots["precision-by-records"]["data"][0]
    assert by_records["x"] == [group.num_members for group in defined]
    assert by_records["y"] == pytest.approx(precisions, abs=1e-3)


def test_defences_synthesis_and_unknown_architectures_are_said(report: AuditReport) -> None:
    synthesis = SynthesisSection(
        num_records=90,
        num_queries=4500,
        queries_per_record=50.0,
        per_class=(),
        failed_classes=("dog", "<i>cat"),
    )
    changed = report.model_copy(
        update={
            "defense": DefenseSection(names=("top_k",), description="top 3 classes", adaptive=False),
            "shadow": report.shadow.model_copy(update={"source": "model_based", "synthesis": synthesis}),
            "target": report.target.model_copy(update={"architecture": "unknown (service)", "num_parameters": None}),
        }
    )
    text = html_page(changed, {attack.name: attack_curves(report.scores, attack.name) for attack in report.attacks})
    for part in (
        "top 3 classes; the attacker does not know it",
        "90 records without duplicates, 4,500 queries to the target, 50.0 per record",
        "no record of the classes dog, &lt;i&gt;cat",
        "unknown (service), an unknown number of parameters",
    ):
        assert part in text


def test_numbers_of_the_report_stand_in_the_page(report: AuditReport, page: _Page) -> None:
    words = "".join(page.text)
    overall = report.attacks[0].overall

    for figure in (overall.auc, overall.precision, overall.recall, overall.average_precision):
        assert f"{figure.value:.3f}" in words
    assert headline(report) in words
    assert f"{100 * overall.auc.value:.0f} of 100 pairs" in words
    assert report.warnings[0] in words
    assert "0.719" in words
    assert "torch 2.14.1" in words
    assert "shadows 20.5" in words
    assert '"name": "made-up"' in words


def test_reasons_stand_where_figures_are_missing(report: AuditReport, page: _Page) -> None:
    words = "".join(page.text)

    assert report.attacks[0].per_class[3].auc.reason in words
    assert report.attacks[0].overall.tpr_at_fpr["0.001"].reason in words


def test_reasons_name_a_few_classes_and_speak_of_figures_that_are_shown(make_report) -> None:
    report = make_report(class_names=tuple(f"class {c}" for c in range(60)), per_class=2)
    curves = {attack.name: attack_curves(report.scores, attack.name) for attack in report.attacks}
    words = " ".join("".join(_Page(html_page(report, curves)).text).split())
    section = words[words.index("Missing and uncertain figures") : words.index("Members and non-members are counted")]

    flagless = [
        group.class_name
        for group in report.attacks[0].per_class
        if group.precision.reason == "the attack flagged no record"
    ]
    assert len(flagless) > 9
    listed = f"({', '.join(flagless[:8])} and {len(flagless) - 8} more)"
    assert listed in section
    assert "false-positive rate of 0.001" not in section


def test_attackers_are_paired_by_what_they_know_of_the_defence(report: AuditReport) -> None:
    section = report.attacks[0].model_copy(update={"defense": "temperature 5"})
    by_name = {
        name: section.model_copy(update={"name": name, "adaptive": adaptive})
        for name, adaptive in (
            ("shokri", True), ("shokri-unaware", False), ("loss", False), ("loss-adaptive", True), ("gap", True)
        )
    }  # fmt: skip
    defended = report.model_copy(update={"attacks": tuple(by_name.values())})

    assert knowledge_pairs(report) == []
    assert [(plain.name, knowing.name) for plain, knowing in knowledge_pairs(defended)] == [
        ("shokri-unaware", "shokri"),
        ("loss", "loss-adaptive"),
    ]


def test_the_menu_offers_each_class_that_has_a_curve(page: _Page) -> None:
    menus = [attributes for tag, attributes in page.tags if tag == "select"]
    labels = {attributes["for"] for tag, attributes in page.tags if tag == "label"}
    options = [attributes["value"] for tag, attributes in page.tags if tag == "option"]

    assert {menu["id"] for menu in menus} == labels
    assert options == ["all", "0", "1", "2"] * 2


def test_the_page_can_be_read_aloud(page: _Page) -> None:
    assert ("html", {"lang": "en"}) in page.tags
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        if attributes.get("class") == "plot":
            assert attributes["role"] == "group"  # it holds buttons, which an image may not
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_chance_is_called_chance(make_report) -> None:
    report = make_report(shift=0.0)
    curves = {attack.name: attack_curves(report.scores, attack.name) for attack in report.attacks}
    words = "".join(_Page(html_page(report, curves)).text)

    assert "No membership leakage found" in words
    assert "is no better than chance" in words


def test_pooled_curves_say_so(make_report) -> None:
    report = make_report(num_targets=3)
    curves = {attack.name: attack_curves(report.scores, attack.name) for attack in report.attacks}

    assert "one threshold for all targets together" in html_page(report, curves)


def test_a_time_of_another_form_stands_as_it_is(report: AuditReport) -> None:
    run = report.run.model_copy(update={"created": "some day"})
    curves = {attack.name: attack_curves(report.scores, attack.name) for attack in report.attacks}

    assert "some day" in html_page(report.model_copy(update={"run": run}), curves)


def test_a_record_is_called_what_its_form_says(report: AuditReport) -> None:
    assert "records of shape 1 × 4 × 4, " in rendered(report, (1, 4, 4), None)
    several = (
        FieldSection(name="numbers", kind="numeric", shape=(3,), has_gaps=True),
        FieldSection(name="categories", kind="category", shape=(2,), sizes=(4, 5)),
    )
    words = "records that are <code>numbers</code> (numeric [3] with gaps), <code>categories</code> (category [2]), "
    assert words in rendered(report, (16,), several)
    sound = (FieldSection(name="", kind="waveform", shape=(4000,), sample_rate=8000),)
    assert "records that are waveform [4000] at 8,000 Hz, " in rendered(report, (4000,), sound)


def rendered(report: AuditReport, shape: tuple[int, ...], form: tuple[FieldSection, ...] | None) -> str:
    dataset = report.dataset.model_copy(update={"input_shape": shape, "form": form})
    return page_of(report.model_copy(update={"dataset": dataset}))


def page_of(report: AuditReport) -> str:
    return html_page(report, {attack.name: attack_curves(report.scores, attack.name) for attack in report.attacks})


def test_the_utility_of_a_label_is_not_the_mean_of_all(report: AuditReport) -> None:
    task = TaskSection(name="multilabel", utility="mean AUROC", stratum="label", strata_name="labels")
    page = page_of(report.model_copy(update={"task": task}))
    assert ">train mean AUROC<" in page
    task = task.model_copy(update={"stratum_utility": "AUROC"})
    page = page_of(report.model_copy(update={"task": task}))
    assert ">train AUROC<" in page
    assert ">train mean AUROC<" not in page  # but of groups, of which this report has none
    assert "Train mean AUROC of the target" in page
