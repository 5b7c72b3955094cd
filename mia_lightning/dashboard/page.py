"""The page: one self-contained file, opened from disk, that loads nothing from anywhere.

plotly.js, style and scripts are written into it. Its content security policy refuses the network; `unsafe-eval` is
there because the WebGL of plotly.js compiles its drawing commands. Text from runs travels as JSON in which `<` is
escaped, and the scripts of the page put it in place as text, never as markup.
"""

from datetime import datetime
from typing import Any

from mia_lightning.reports.page.templates import environment, plotly_javascript


def dashboard_page(content: dict[str, Any], *, made: datetime, command: str, watched: float | None) -> str:
    """The page for `content` (see `page_content`).

    Args:
        made: when, in UTC.
        command: that made it, as typed.
        watched: seconds between two looks for new runs; None for a page that is written once.
    """
    templates = environment("mia_lightning.dashboard", "mia_lightning.reports.page")
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return templates.get_template("dashboard.html.jinja").render(
        content=content,
        made=f"{made.day} {made:%B %Y, %H:%M:%S} UTC",
        command=command,
        watched=watched,
        plotly=plotly_javascript(),
    )
