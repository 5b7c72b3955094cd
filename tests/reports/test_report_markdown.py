"""A report as Markdown, read back by a parser of Markdown."""

import pytest
from markdown_it import MarkdownIt

from mia_lightning.reports.markdown import markdown, markdown_table, report_markdown
from mia_lightning.reports.schema import AboutSection, AuditReport, TrustSection
from mia_lightning.reports.selection import by_strength
from mia_lightning.reports.sentences import headline

EVIL = [
    "a|b", "![x](http://a.example/x.png)", "[x](javascript:alert(1))", "<b>bold</b>", "*a* _b_ ~~c~~", "a_b_c",
    "\\", "`", "@someone", "# head", "- item", "[x][y]", "a `code|x` b", "two\nlines",
]  # fmt: skip


def parsed(text: str) -> list:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def plain(token) -> str:
    return "".join(each.content for each in token.children).replace("\u200b", "")


def cells(text: str) -> list[list[str]]:
    rows: list[list[str]] = []
    tokens = parsed(text)
    for place, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("th_open", "td_open"):
            rows[-1].append(plain(tokens[place + 1]))
    return rows


@pytest.mark.parametrize("text", EVIL)
def test_names_of_the_data_stay_text(text: str) -> None:
    read = cells(markdown_table([text, "b"], [[text, "1"], ["x", text]], 1))
    shown = " ".join(text.replace("`code|x`", "code|x").split())
    assert read == [[shown, "b"], [shown, "1"], ["x", shown]]
    tokens = [child.type for token in parsed(f"Read {markdown(text)} here.") for child in token.children or ()]
    assert not {"link_open", "image", "html_inline", "em_open", "strong_open", "s_open"} & set(tokens)
    assert "@s" not in markdown(text)


def test_the_table_holds_the_figures_of_the_attacks(report: AuditReport) -> None:
    text = report_markdown(report)
    head, *rows = cells(text)
    assert head[:3] == ["attack", "AUC", "TPR at 1 % FPR"]
    for row, attack in zip(rows, by_strength(report), strict=True):
        auc, tpr = attack.overall.auc, attack.overall.tpr_at_fpr["0.01"]
        assert row[0] == attack.name
        assert row[1] == f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"
        assert row[2] == f"{tpr.value:.3f} [{tpr.low:.3f}, {tpr.high:.3f}]"
    assert text.splitlines()[0].endswith(" ".join(headline(report).split()))
    for warning in report.warnings:
        assert warning in text
    assert "<script>" not in text.replace("\\<script>", "")
    assert "\n\n\n" not in text


def test_a_target_that_is_not_what_it_seems_is_said_first(report: AuditReport) -> None:
    trust = TrustSection(verdict="void", reasons=("Its rows are shuffled.",))
    about = AboutSection(title="Audit | 7", model="net")
    text = report_markdown(report.model_copy(update={"trust": trust, "about": about}))
    assert text.startswith("## Audit \\| 7: This audit cannot be trusted\n")
    assert text.index("Its rows are shuffled.") < text.index("| attack |")


def test_nothing_measured_is_said_in_dashes(make_report) -> None:
    text = report_markdown(make_report(class_names=("only",), per_class=0))
    assert "Leakage could not be measured" in text.splitlines()[0]
    assert set(cells(text)[1][1:]) == {"–"}
