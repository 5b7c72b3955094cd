"""The README's picture of a report: the top of `report.html`, as Chromium shows it.

    python benchmarks/screenshots.py [--output docs/report.png] [--folder FOLDER]

Runs `mia-lightning` with its defaults (scikit-learn's digits, 64 shadow models, two attacks), without a store, or takes
the run in FOLDER, and writes the page from its heading to the end of what figures mean and do not mean: 1,200
pixels wide, in light colours. Needs the program `chromium` and the package playwright.

Ends with 1 where the picture would be larger than 300 kB.
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

WIDTH = 1200
MAX_BYTES = 300_000
LAST = "section[aria-labelledby=meaning]"
MARGIN = 24  # pixels below it


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the README's picture of a report.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "report.png")
    parser.add_argument("--folder", type=Path, help="of a run; without it, the default audit is run")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        folder = options.folder or default_run(Path(work))
        picture = top_of(folder / "report.html")
    if len(picture) > MAX_BYTES:
        print(f"The picture has {len(picture):,} bytes, more than {MAX_BYTES:,}.", file=sys.stderr)
        return 1
    options.output.write_bytes(picture)
    print(f"{options.output}: {len(picture):,} bytes")
    return 0


def default_run(work: Path) -> Path:
    """The folder of a run of the command without settings, but for the places of its files."""
    command = [str(Path(sysconfig.get_path("scripts")) / "mia-lightning"), "store.dir=null", "hydra.run.dir=run"]
    subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)
    return work / "run"


def top_of(page: Path) -> bytes:
    """A PNG of the page from its top to the end of the section `LAST`."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("There is no program chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        opened.goto(page.resolve().as_uri())
        box = opened.locator(LAST).bounding_box()
        assert box is not None
        height = box["y"] + box["height"] + MARGIN
        picture = opened.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()
    return picture


if __name__ == "__main__":
    sys.exit(main())
