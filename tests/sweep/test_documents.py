"""Documents of finished runs for other programs, read back by parsers of their own."""

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from dashboard_runs import report_of
from made_reports import build_report
from markdown_it import MarkdownIt

from mia_lightning.comparison.schema import ComparisonReport, Variant
from mia_lightning.reports.files import save_report
from mia_lightning.sweep.documents import junit, markdown_of, print_results

GATE = {
    "figure": "AUC",
    "limit": 0.6,
    "confidence": 0.95,
    "attack": "worst",
    "attacks": [
        {"attack": "loss", "value": 0.7, "low": 0.6, "high": 0.8, "records_to_settle": None, "reason": None},
    ],
    "num_members": 100,
    "num_nonmembers": 100,
    "records_to_settle": None,
}


def run(folder: Path, code: int = 0, reason: str | None = None, *, overrides: tuple[str, ...] = (), **changes: Any):
    """The files of a run; without a report where `changes` has `report=None`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outcome.json").write_text(json.dumps({"exit_code": code, "reason": reason}))
    (folder / "run.json").write_text(json.dumps({"digest": "d", "overrides": list(overrides)}))
    if changes.get("report", True) is not None:
        content = {**report_of(attacks={"loss": {"auc": (0.7, 0.65, 0.75)}}), **changes}
        (folder / "report.json").write_text(json.dumps(content))
    return folder


def gated(status: str, code: int) -> dict[str, Any]:
    return {"gate": {**GATE, "status": status, "exit_code": code, "sentence": f"gate: {status} <&> \x00."}}


def suites(text: str) -> list[ET.Element]:
    root = ET.fromstring(text)
    assert root.tag == "testsuites"
    for element in (root, *root):
        cases = list(element.iter("testcase"))
        assert int(element.get("tests", "")) == len(cases)
        assert int(element.get("failures", "")) == sum(case.find("failure") is not None for case in cases)
        assert int(element.get("errors", "")) == sum(case.find("error") is not None for case in cases)
    return list(root)


def outcomes(suite: ET.Element) -> dict[str, str]:
    """The problem of each test: "" for none."""
    return {
        case.get("name", ""): next((each.tag for each in case if each.tag in ("failure", "error")), "")
        for case in suite.iter("testcase")
    }


@pytest.mark.parametrize(
    ("changes", "code", "expected"),
    [
        ({}, 0, {"audit": "", "target": ""}),
        (gated("below", 0), 0, {"audit": "", "target": "", "gate": ""}),
        (gated("above", 3), 3, {"audit": "", "target": "", "gate": "failure"}),
        (gated("undetermined", 4), 4, {"audit": "", "target": "", "gate": "error"}),
        ({"trust": {"verdict": "void", "reasons": ["rows"]}}, 0, {"audit": "", "target": "error"}),
        ({"trust": {"verdict": "unconfirmed"}}, 0, {"audit": "", "target": "error"}),
        ({"trust": {"verdict": "sound"}}, 0, {"audit": "", "target": ""}),
        ({"report": None}, 2, {"audit": "error"}),
        ({"report": None}, 1, {"audit": "error"}),
    ],
)
def test_each_run_is_a_suite_that_fails_as_the_run_does(
    changes: dict[str, Any], code: int, expected: dict[str, str], tmp_path: Path
) -> None:
    folder = run(tmp_path / "0", code, "`model` is <empty>." if code else None, overrides=("seed=1",), **changes)
    (suite,) = suites(junit([folder]))
    assert outcomes(suite) == expected
    assert suite.get("name") == "0 [seed=1]"
    assert (any(expected.values())) == (code != 0 or ("trust" in changes and expected["target"] == "error"))
    if "report" in changes:
        assert suite.find("testcase/error").get("message") == "`model` is <empty>."
    else:
        values = {each.get("name"): float(each.get("value")) for each in suite.iter("property")}
        assert values == {"leakage.loss.auc": 0.7}
    if "gate" in changes and code:
        assert "<&> \ufffd." in next(iter(suite.find("testcase[@name='gate']"))).get("message")


def test_a_sweep_is_one_document(tmp_path: Path) -> None:
    folders = [
        run(tmp_path / "0", overrides=("seed=0", "a=1")),
        run(tmp_path / "1", 2, "no | way", overrides=("seed=1", "a=1"), report=None),
        run(tmp_path / "2", 3, "gate", overrides=("seed=2", "a=1"), **gated("above", 3)),
        tmp_path / "gone",
    ]
    found = suites(junit(folders))
    assert [list(outcomes(suite).values()) for suite in found] == [["", ""], ["error"], ["", "", "failure"], ["error"]]
    text = markdown_of(folders)
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inline = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    for name in ("0: seed=0", "1: seed=1", "2: seed=2"):
        assert name in inline
    assert "0.700 [.650,.750]" in inline
    assert any("no | way" in each for each in inline)


def test_an_experiment_has_a_suite_for_each_variant(tmp_path: Path) -> None:
    run(tmp_path / "4" / "none", **gated("above", 3))
    report = ComparisonReport(
        **{"title": "t", "question": "q", "source": "s", "command": "c", "created": "now", "seconds": 1.0},
        **{"versions": {}, "estimand": "e", "statements": ()},
        variants=(Variant(name="no defence", folder="none"), Variant(name="noise", skipped="the data is not there.")),
    )
    (tmp_path / "4" / "comparison.json").write_text(report.model_dump_json(by_alias=True))
    run(tmp_path / "4", 2, "some variants could not be run", report=None)
    first, second = suites(junit([tmp_path / "4"]))
    assert (first.get("name"), outcomes(first)["gate"]) == ("no defence", "failure")
    assert (second.get("name"), outcomes(second)) == ("noise", {"audit": "error"})
    assert "no defence" in markdown_of([tmp_path / "4"])


def test_a_single_run_is_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_report(build_report(), tmp_path)
    (tmp_path / "outcome.json").write_text('{"exit_code": 0, "reason": null}')
    for output, start in (("markdown", "## Membership inference audit: "), ("junit", "<?xml"), ("json", "{\n")):
        print_results([tmp_path], output, in_sweep=False)
        assert capsys.readouterr().out.startswith(start)
    print_results([tmp_path], "json", in_sweep=True)
    assert len(capsys.readouterr().out.splitlines()) == 1
    print_results([tmp_path], "text", in_sweep=False)
    assert capsys.readouterr().out == ""
    shutil.rmtree(tmp_path / "figures")
