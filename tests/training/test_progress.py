"""Stages: bars where there is a console, remarks and seconds in any case."""

import io

from rich.console import Console

from mia_lightning.training.progress import Stages


def test_stages_show_bars_and_remarks_and_keep_the_seconds() -> None:
    text = io.StringIO()
    with Stages(Console(file=text, width=100)) as stages, stages.clock("shadow"), stages.stage("shadow", 7):
        stages.remark("One sentence.")
    assert "shadow" in text.getvalue()
    assert "7/7" in text.getvalue()
    assert "One sentence." in text.getvalue()
    assert stages.remarks == ["One sentence."]
    assert list(stages.seconds) == ["shadow"]


def test_without_a_console_nothing_is_printed() -> None:
    with Stages() as stages, stages.stage("shadow", 3):
        stages.remark("One sentence.")
    assert stages.remarks == ["One sentence."]
