"""plotly.js as it is written into pages: the installed one, but for a pair of parentheses."""

from importlib.resources import files

import pytest

from mia_lightning.reports.page.templates import plotly_javascript, read_once


def test_the_script_is_the_installed_one_but_for_parentheses() -> None:
    installed = files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8").rstrip()
    beginning = "self : this, () => {"
    assert installed.count(beginning) == 1
    before, after = installed.split(beginning)
    expected = f"{before}self : this, (() => {{{after.removesuffix('}));')}}})));"
    assert str(plotly_javascript()).rstrip() == expected
    assert "</script" not in expected.lower()


@pytest.mark.parametrize("script", ["", "var Plotly = 1;", '(typeof self !== "undefined" ? self : this, () => {\n1'])
def test_another_script_is_left_alone(script: str) -> None:
    assert read_once(script) == script
