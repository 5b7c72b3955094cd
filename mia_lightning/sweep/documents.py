"""What finished runs found, as one document for another program: Markdown for a pull request, JUnit XML for CI."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from mia_lightning.reports.names import REPORT
from mia_lightning.reports.reading import report_content
from mia_lightning.sweep.rows import Row, summarise
from mia_lightning.sweep.summary import run_names, sweep_markdown
from mia_lightning.terminal.results import print_document


def print_results(folders: Sequence[Path], output: str, *, in_sweep: bool) -> None:
    """Print what the runs in `folders` left as `output` wants it; nothing for text.

    `json` prints the document of each run, in a sweep on one line; `markdown` a report of one run, or the table of
    several; `junit` one XML document with a test suite for each run, or variant of an experiment.
    """
    if output == "json":
        for folder in folders:
            print_document(folder, on_a_line=in_sweep)
    elif output != "text":
        text = junit(folders) if output == "junit" else markdown_of(folders)
        print(text, end="")


def markdown_of(folders: Sequence[Path]) -> str:
    """One report, or the table of several runs or variants."""
    rows = summarise(folders)
    places = {row.path for row in rows}
    if len(folders) == 1 and len(places) == 1 and rows[0].attack is not None:
        from mia_lightning.reports.markdown import report_markdown
        from mia_lightning.reports.reading import read_report

        return report_markdown(read_report(rows[0].path))
    return sweep_markdown(rows)


def junit(folders: Sequence[Path]) -> str:
    """A test suite for each run or variant, with the tests `audit` (it has a report), `target` (it is what it is taken
    for) and `gate`, if there is one.

    A gate above its limit is a failure; an undetermined one, a target that is not confirmed, and a run without a report
    are errors.
    """
    suites = ET.Element("testsuites", name="mia-lightning")
    by_place: dict[tuple[str, str | None], list[Row]] = {}
    found = summarise(folders)
    names, several = run_names(found), len(folders) > 1
    for row in found:
        by_place.setdefault((row.path, row.variant), []).append(row)
    for (path, variant), rows in by_place.items():
        first = rows[0]
        name = _legal(f"{names[first.run]}, {variant}" if variant and several else variant or names[first.run])
        suite = ET.SubElement(suites, "testsuite", name=name, time=f"{first.seconds.get('total', 0.0):.3f}")
        properties = ET.SubElement(suite, "properties")
        ET.SubElement(properties, "property", name="settings", value=_legal(" ".join(first.overrides)))
        for row in rows:
            for figure in ("auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "advantage"):
                if row.found.get(figure) is not None:
                    where = f"leakage.{row.attack}.{figure}"
                    ET.SubElement(properties, "property", name=_legal(where), value=f"{row.found[figure]:.6g}")
        _tests(suite, name, first, report_content(Path(path) / REPORT) if first.attack else None)
        _count(suite)
    _count(suites)
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="US-ASCII"?>\n{ET.tostring(suites, encoding="us-ascii").decode()}\n'


def _tests(suite: ET.Element, name: str, row: Row, report: dict[str, Any] | None) -> None:
    def test(of: str, problem: str | None = None, kind: str = "", message: str = "", said: str = "") -> None:
        case = ET.SubElement(suite, "testcase", classname=name, name=of)
        if problem is not None:
            ET.SubElement(case, problem, type=kind, message=_legal(message)).text = _legal(message)
        if said:
            ET.SubElement(case, "system-out").text = _legal(said)

    if report is None:
        code = "lost" if row.exit_code is None else f"exit code {row.exit_code}"
        test("audit", "error", code, row.reason or "the run has no report.json")
        return
    test("audit", said="\n".join(report["warnings"]))
    trust = report.get("trust") or {}
    if trust.get("verdict") in ("void", "unconfirmed"):
        test("target", "error", trust["verdict"], " ".join(trust.get("reasons", ())))
    else:
        test("target")
    gate = report.get("gate")
    if gate is not None:
        problem = {"below": None, "above": "failure"}.get(gate["status"], "error")
        figures = [f"{each['attack']}: {each['value']} [{each['low']}, {each['high']}]" for each in gate["attacks"]]
        test("gate", problem, gate["status"], gate["sentence"], "\n".join(figures))


def _count(element: ET.Element) -> None:
    cases = list(element.iter("testcase"))
    element.set("tests", str(len(cases)))
    for kind in ("failure", "error"):
        element.set(f"{kind}s", str(sum(case.find(kind) is not None for case in cases)))


def _legal(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
