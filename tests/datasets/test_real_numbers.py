"""The doctor's visits of `randhie`, which the package statsmodels holds, audited by the command of the page."""

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import Call

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "regression.md"


@pytest.mark.slow
def test_visits_by_the_commands_of_the_page(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("statsmodels", reason="needs real numbers: pip install statsmodels")
    (block,) = re.findall(r"^```text\n(python -c .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    make, audit = map(shlex.split, block.replace("\\\n", "").splitlines())
    assert make[:2] == ["python", "-c"]
    exec(make[2], {})
    ended = call(*audit[1:], "trainer.accelerator=cpu")
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / "visits" / "report.json").read_text())
    assert report["dataset"]["num_records"] == 20_190
    assert (report["dataset"]["values"], report["task"]["utility"]) == (["mdvis"], "R²")
    assert (report["membership"]["num_members"], report["target"]["architecture"]) == (300, "Tabular")
    assert report["target"]["generalization_gap"] > 0.05
    assert report["attacks"][0]["overall"]["auc"]["value"] > 0.5
