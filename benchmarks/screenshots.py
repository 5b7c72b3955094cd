"""The pictures of a report and of a dashboard in README and site: the tops of both pages, as Chromium shows them.

    python benchmarks/screenshots.py [--output docs] [--run FOLDER] [--sweep FOLDER]

`report.png` is of a run of `mia-lightning` with its defaults (scikit-learn's digits, 64 shadow models, three attacks),
the page to sign, from the heading to what to do. `dashboard.png` is of the page that `mia-dashboard`
makes of the 24 runs of

    mia-lightning --multirun "defense=[],dropout,mixup" dataset.train_size=50,100,200,400 training.epochs=20,100 \\
        shadow.count=16

from the heading to the first rows of the table. Both are 1,200 pixels wide and light; the runs have no store. FOLDER
is a run or a sweep that is there already. Needs the program `chromium` and the package playwright.

Ends with 1 where a picture would be larger than 300 kB, or 250 kB for the dashboard; neither is written then.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

WIDTH = 1200
MAX_BYTES = {"report.png": 300_000, "dashboard.png": 250_000}
LAST = {"report.png": "section.summary", "dashboard.png": "#runs tbody tr:nth-child(5)"}
MARGIN = {"report.png": 24, "dashboard.png": 0}  # pixels below it
READY = {"report.png": "#roc .main-svg", "dashboard.png": "#time-plot .main-svg"}  # which is drawn last

QUIET = ("store.dir=null", "logger=none", "trainer.progress_bar=false")
SWEPT = ("defense=[],dropout,mixup", "dataset.train_size=50,100,200,400", "training.epochs=20,100", "shadow.count=16")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the pictures of a report and of a dashboard in README and site.")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parents[1] / "docs", help="folder of the pictures"
    )
    parser.add_argument("--run", type=Path, help="folder of a run; without it, the default audit is run")
    parser.add_argument("--sweep", type=Path, help="folder of a sweep; without it, 24 audits are run")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pages = {
            "report.png": (options.run or default_run(work)) / "report.html",
            "dashboard.png": dashboard_of(options.sweep or sweep(work), work),
        }
        pictures = {name: top_of(page, name) for name, page in pages.items()}
    for name, picture in pictures.items():
        if len(picture) > MAX_BYTES[name]:
            print(f"{name} has {len(picture):,} bytes, more than {MAX_BYTES[name]:,}.", file=sys.stderr)
            return 1
    for name, picture in pictures.items():
        (options.output / name).write_bytes(picture)
        print(f"{options.output / name}: {len(picture):,} bytes")
    return 0


def default_run(work: Path) -> Path:
    """The folder of a run of the command without settings, but for the places of its files."""
    _call(work, "mia-lightning", *QUIET, "hydra.run.dir=run")
    return work / "run"


def sweep(work: Path) -> Path:
    """The folder of the sweep in `SWEPT`."""
    _call(work, "mia-lightning", "--multirun", *SWEPT, *QUIET, "hydra.sweep.dir=multirun")
    return work / "multirun"


def dashboard_of(runs: Path, work: Path) -> Path:
    """The page over the runs beneath a folder, which it calls multirun."""
    given = work / "shown" / "multirun"
    shutil.copytree(runs, given)
    _call(given.parent, "mia-dashboard", "multirun", "--output", "dashboard.html")
    return given.parent / "dashboard.html"


def _call(folder: Path, program: str, *arguments: str) -> None:
    command = [str(Path(sysconfig.get_path("scripts")) / program), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MIA_", "HYDRA_"))}
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)


def top_of(page: Path, name: str) -> bytes:
    """A PNG of the page from its top to the end of what is `LAST` of it."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("There is no program chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        opened.goto(page.resolve().as_uri())
        opened.locator(READY[name]).first.wait_for()
        box = opened.locator(LAST[name]).bounding_box()
        assert box is not None
        height = box["y"] + box["height"] + MARGIN[name]
        picture = opened.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()
    return picture


if __name__ == "__main__":
    sys.exit(main())
