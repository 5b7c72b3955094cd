"""How long the dashboard of many runs takes to be usable, in a browser that opens it from disk.

    python benchmarks/dashboard_load.py [--runs 2000] [--rounds 9] [--json FILE] [--page FILE] [--quick]

The page is made by the package's own functions from runs that are drawn at random: three attacks each with all four
figures, their intervals and curves, and forty settings, of which four differ. Chromium, headless and without a graphics
card, opens it in a new profile, and a script that was put into the page beforehand notes, in seconds from the start of
the navigation, the frames at which

- `table`: the table is there with its first twenty rows;
- `usable`: so is the figure of leakage against the gap, with all its points;
- `complete`: so are the two figures below;
- `filtered`: seconds from choosing one of three data sets until the browser has drawn what is left.

Medians over rounds with their range, after one round that is not counted. Ends with 1 where the figure has not as many
points as there are runs.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import render
from this_machine import machine

from mia_lightning.dashboard.content import Shown, page_content
from mia_lightning.dashboard.curves import GRID_F
from mia_lightning.dashboard.finding import Place
from mia_lightning.dashboard.page import dashboard_page
from mia_lightning.reports.rows import FIGURE_NAMES, RunRow

ATTACKS = ("shokri", "loss", "lira_offline")
ARCHITECTURES = ("MLP", "CNN", "ResNet", "ViT")
DATASETS = ("location", "purchase", "cifar10")
DEFENSES = (None, "top 3 classes", "DP-SGD with epsilon 8, clipping norm 1")
MEASURED = ("table", "usable", "complete", "filtered")
HEADER = ("seconds until", "median", "min to max")

# Notes the frame after the one in which something is there: by then the browser has painted it.
WATCH = """
  const noted = window.noted = {};
  const numPoints = (id) => (document.getElementById(id)?.data || [])
    .filter((trace) => trace.customdata).reduce((sum, trace) => sum + trace.x.length, 0);
  const isDrawn = (id) => document.querySelector(`#${id} .main-svg`) !== null && numPoints(id) > 0;
  const tests = {
    table: () => document.querySelectorAll("#runs tbody tr").length > 0,
    usable: () => isDrawn("gap-plot") && document.querySelectorAll("#runs tbody tr").length > 0,
    complete: () => isDrawn("gap-plot") && isDrawn("pareto-plot") && isDrawn("time-plot"),
  };
  const look = () => {
    for (const [name, test] of Object.entries(tests)) {
      if (!(name in noted) && test()) {
        noted[name] = null;
        requestAnimationFrame(() => { noted[name] = performance.now() / 1000; });
      }
    }
    if (!("complete" in noted)) requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
"""
FILTER = """
  async () => {
    const menu = document.getElementById("dataset"), start = performance.now();
    menu.value = "cifar10";
    menu.dispatchEvent(new Event("change"));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    return (performance.now() - start) / 1000;
  }
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Seconds until the dashboard of many runs is usable.")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="file for the measurements")
    parser.add_argument("--page", type=Path, help="where the page is kept")
    parser.add_argument("--quick", action="store_true", help="60 runs, one round: to test the script")
    options = parser.parse_args(arguments)
    num_runs, rounds = (60, 1) if options.quick else (options.runs, options.rounds)
    about = machine(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        page = options.page or Path(folder) / "dashboard.html"
        page.write_text(page_of(num_runs), encoding="utf-8")
        measured, num_points, version = measure(page, rounds)
        size = page.stat().st_size / 1e6
    print(f"{about}, Chromium {version}; {num_runs:,} runs in a page of {size:.1f} MB, {rounds} rounds\n")
    print(render(HEADER, table(measured)))
    if options.json:
        found = {"machine": about, "chromium": version, "runs": num_runs, "megabytes": size, "seconds": measured}
        options.json.write_text(json.dumps(found, indent=2))
    if num_points != num_runs:
        print(f"The figure has {num_points} points, not {num_runs}.", file=sys.stderr)
        return 1
    return 0


def page_of(num_runs: int) -> str:
    """The page of so many random runs."""
    draw = np.random.default_rng(0)
    shown = [_shown(number, draw) for number in range(num_runs)]
    content = page_content(shown, beside=Path("outputs"))
    return dashboard_page(content, made=datetime.now(UTC), command="mia-dashboard outputs", watched=None)


def _shown(number: int, draw: np.random.Generator) -> Shown:
    gap = float(draw.uniform(0, 0.4))
    figures = {name: _figures(gap, draw) for name in ATTACKS}
    defense = DEFENSES[number // 12 % 3]
    config = {
        "seed": number % 5,
        "training": {"epochs": 20 * (1 + number % 4), "batch_size": 100, **{f"setting_{i}": i for i in range(17)}},
        "model": {"hidden": [64 * (1 + number % 3)], **{f"setting_{i}": i for i in range(17)}},
        "logger": {"project": ("leakage", "nightly")[number % 2]},
    }
    content: dict[str, Any] = {
        "run": {
            "created": f"2026-{1 + number // 28 % 12:02}-{1 + number % 28:02}T{number % 24:02}:30:00+00:00",
            "seed": number % 5,
            "config": config,
            "seconds": {},
        },
        "dataset": {"name": DATASETS[number % 3], "num_records": 1000, "num_classes": 10},
        "membership": {"plan": "disjoint", "num_members": 100, "num_nonmembers": 100, "shadow_train_size": 100},
        "target": {
            "architecture": ARCHITECTURES[number // 3 % 4],
            "num_targets": 1,
            "train_accuracy": 0.97,
            "test_accuracy": 0.97 - gap,
            "generalization_gap": gap,
        },
        "shadow": {"count": 16 * (1 + number % 3), "source": "real"},
        "defense": None if defense is None else {"description": defense},
        "attacks": [{"name": name, "overall": overall} for name, overall in figures.items()],
    }
    folder = Path("outputs") / f"{2026}-{1 + number // 28 % 12:02}-{1 + number % 28:02}" / f"run-{number}"
    place = Place(folder=folder, name=str(folder), root="outputs", group=None, comparison=None)
    start = 24  # rates from 0.01: of a thousand non-members the curve has points from 0.001
    curve = np.clip(GRID_F[start:] ** (1 - gap), 0, 1).round(3).tolist()
    return Shown(place=place, run=RunRow.of(content), curves=dict.fromkeys(ATTACKS, (start, curve)))


def _figures(gap: float, draw: np.random.Generator) -> dict[str, Any]:
    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.02, "high": value + 0.02}

    auc = float(np.clip(0.5 + 0.9 * gap + draw.normal(0, 0.03), 0.4, 0.98))
    rates = {"0.01": figure(0.02 + gap / 4), "0.001": figure(0.02 + gap / 8)}
    others = dict.fromkeys(FIGURE_NAMES, figure(0.6))
    return {**others, "auc": figure(auc), "advantage": figure(2 * auc - 1), "tpr_at_fpr": rates}


def measure(page: Path, rounds: int) -> tuple[dict[str, list[float]], int, str]:
    """Seconds by what is waited for, one for each round; the points of the first figure; the browser's version."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("There is no program chromium: apt-get install chromium")
    found: dict[str, list[float]] = {name: [] for name in MEASURED}
    with sync_playwright() as playwright:
        for number in range(rounds + 1):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            opened = browser.new_page(viewport={"width": 1440, "height": 900})
            opened.add_init_script(WATCH)
            opened.goto(page.resolve().as_uri(), wait_until="commit")
            opened.wait_for_function("window.noted && noted.usable && noted.complete", timeout=120_000)
            num_points = opened.evaluate(
                "document.getElementById('gap-plot').data.reduce((sum, trace) => sum + trace.x.length, 0)"
            )
            seconds = {**opened.evaluate("noted"), "filtered": opened.evaluate(FILTER)}
            version = browser.version
            browser.close()
            if number:  # the first finds no file in the system's memory
                for name in MEASURED:
                    found[name].append(seconds[name])
    return found, num_points, version


def table(measured: dict[str, list[float]]) -> list[tuple[str, ...]]:
    return [
        (name, f"{statistics.median(each):.2f}", f"{min(each):.2f} to {max(each):.2f}")
        for name, each in measured.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
