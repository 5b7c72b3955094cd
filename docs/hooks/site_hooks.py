"""Hooks of the documentation site: pages that are made, and formulas as MathML, which needs no script and no font."""

import html
import re
from typing import Any

from generated_pages import ROOT, pages
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_INCLUDED = re.compile(r"^<!-- include (\S+\.py) -->$", re.MULTILINE)
_FUNCTION = re.compile(r"(<mi>(?:log|ln|max|min)</mi>)(?=<m[^o])")  # `log p`, but `log(1 - p)`
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made."""
    for address, text in pages().items():
        files.append(File.generated(config, address, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Shows the files of Python that a page includes."""

    def shown(match: re.Match[str]) -> str:
        return f'```python title="{match[1]}"\n{(ROOT / match[1]).read_text()}```'

    return _INCLUDED.sub(shown, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Draws the formulas."""

    def drawn(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        return _FUNCTION.sub(r'\1<mspace width="0.17em"/>', convert(html.unescape(match[2]).strip(), display=display))

    return _FORMULA.sub(drawn, content)
