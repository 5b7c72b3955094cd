"""What the self-contained pages share: their templates' environment, and plotly.js written into the page."""

from functools import cache
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def environment(*packages: str) -> Environment:
    """Templates of `packages`, looked for in this order; all text is escaped, and an unknown name is an error."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, ".") for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def plotly_javascript() -> Markup:
    """The script of the installed plotly, for a `<script>` of a page that loads nothing."""
    return Markup(files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8"))
