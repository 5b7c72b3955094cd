"""The system's Chromium, driven by Playwright: what pages are opened in, and what they did wrong."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
PATIENCE = 300_000  # milliseconds, with a browser on a busy machine
REQUIRED = "MIA_REQUIRE_CHROMIUM"  # set where a missing browser is a failure, not a reason to skip


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; the test is skipped, or fails under $MIA_REQUIRE_CHROMIUM, where there is none.

    Playwright keeps an event loop running in this thread until it ends, so that it must not outlive the tests that
    use it: others start loops of their own.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _do_without("needs the package playwright: pip install playwright")
    path = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
    if path is None:
        _do_without("needs the program chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=PATIENCE)
        try:
            yield browser
        finally:
            browser.close()


def accessibility_violations(page: Any) -> list[dict[str, Any]]:
    """What axe-core calls serious or critical of a page."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        _do_without("needs the package axe-playwright-python: pip install axe-playwright-python")
    violations = Axe().run(page).response["violations"]
    return [each for each in violations if each["impact"] in ("serious", "critical")]


def _do_without(reason: str) -> NoReturn:
    if os.environ.get(REQUIRED):
        pytest.fail(f"{reason} (${REQUIRED} is set)")
    pytest.skip(reason)


@dataclass
class Opened:
    """A page, the addresses that it asked for after its own, and its errors."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def overflow(self) -> int:
        """Pixels that the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def legible_pictures(self) -> int:
        """How many pictures are seen whose letters, 18 pixels high in the file, have more than 9 pixels here."""
        heights = self.page.locator("figure img").evaluate_all(
            "all => all.map((each) => (18 * each.getBoundingClientRect().width) / each.naturalWidth)"
        )
        return sum(height > 9 for height in heights)

    def screenshot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@contextmanager
def opened(browser: Any, path: Path, *, width: int = 1440, scheme: str = "light") -> Iterator[Opened]:
    """`path` from disk, in a window of `width` pixels and the colour scheme "light" or "dark"."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    try:
        context.set_default_timeout(PATIENCE)
        found = Opened(page=context.new_page())
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda message: message.type == "error" and found.errors.append(message.text))
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.goto(path.resolve().as_uri())
        yield found
    finally:
        context.close()
