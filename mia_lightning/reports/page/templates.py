"""What the self-contained pages share: their templates' environment, and plotly.js written into the page."""

import base64
from functools import cache
from importlib.resources import files

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@cache
def environment(*packages: str) -> Environment:
    """Templates of `packages`, looked for in this order; all text is escaped, and an unknown name is an error.

    The environment is made once, since it keeps the compiled templates.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, ".") for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def base64_of(content: bytes) -> str:
    """Content for an address that holds it."""
    return base64.b64encode(content).decode()


@cache
def plotly_javascript() -> Markup:
    """The script of the installed plotly, for a `<script>` of a page that loads nothing."""
    return Markup(read_once(files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")))


# Where the function that holds all of plotly.js begins and ends.
_BEGINNING, _END = '(typeof self !== "undefined" ? self : this, () => {\n', "\n}));"


def read_once(script: str) -> str:
    """plotly.js with its one large function in parentheses of its own; any other script as it is.

    A browser skims a function until it is called, and then reads it in full: of five megabytes a fifth of the time that
    passes before the first figure. Parentheses say that it will be called at once.
    """
    if script.count(_BEGINNING) != 1 or not script.rstrip().endswith(_END):
        return script
    held = script.rstrip().removesuffix(_END).replace(_BEGINNING, _BEGINNING.replace("() =>", "(() =>"))
    return f"{held}\n}})));\n"
