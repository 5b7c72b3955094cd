"""The documentation site: it builds without a warning, and its pages load nothing from other hosts."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium, opened

ROOT = Path(__file__).parents[2]
REQUIRED = "MIA_REQUIRE_DOCS"  # set where a missing mkdocs is a failure, not a reason to skip
BUILT = "MIA_SITE"  # the folder of the site, where it is built already

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if BUILT in os.environ:
        return Path(os.environ[BUILT])
    if not os.environ.get(REQUIRED):
        pytest.importorskip("material", reason="needs pip install -e '.[docs]'")
        pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_nothing_is_loaded_from_other_hosts(site: Path) -> None:
    loaded = re.compile(
        r"<(?:script|img|iframe|source|video|link)\b[^>]*?\b(?:src|href|srcset)=[\"']?((?:https?:)?//[^\"' >]+)"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert {page.name: found for page in pages if (found := loaded.findall(page.read_text()))} == {}
    imported = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)")
    assert {sheet.name: found for sheet in site.rglob("*.css") if (found := imported.findall(sheet.read_text()))} == {}
    assert [
        page.name for page in pages if 'class="mermaid"' in page.read_text()
    ] == []  # whose script comes from a host


def test_formulas_are_drawn(site: Path) -> None:
    pages = [site / "reference" / "figures.html", site / "explanation" / "attacks.html"]
    assert all(page.read_text().count("<math ") > 10 for page in pages)
    assert [page.name for page in site.rglob("*.html") if "arithmatex" in page.read_text()] == []


def test_the_api_says_what_a_class_takes(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference" / "api" / "models.html").read_text())
    assert "count: AtLeast1 = 64" in re.sub(r"\s+", " ", text)
    assert "Annotated[" not in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "page", ["index", "how-to/served_models", "reference/figures", "reference/settings/target", "reference/api/audit"]
)
def test_a_page_is_drawn(site: Path, browser: Any, page: str, width: int, scheme: str) -> None:
    with opened(browser, site / f"{page}.html", width=width, scheme=scheme) as found:
        found.page.wait_for_load_state()
        assert [url for url in found.requests if not url.startswith(("file:", "data:", "blob:"))] == []
        assert found.errors == []
        assert found.overflow() <= 0
        is_dark = found.page.evaluate("document.body.getAttribute('data-md-color-scheme')") == "slate"
        assert is_dark == (scheme == "dark")
