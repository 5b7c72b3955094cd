"""The command behind the pictures of a report and of a dashboard, in README and site."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from chromium import chromium
from dashboard_runs import many_reports, write_run
from PIL import Image
from real_reports import AUDITS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "screenshots.py"
PICTURES = ("report.png", "dashboard.png")
SHOWN_IN = {"report.png": "README.md", "dashboard.png": "docs/how-to/dashboard.md"}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("screenshots")


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_kept_small_and_shown(script: ModuleType, name: str) -> None:
    picture = SCRIPT.parents[1] / "docs" / name
    assert picture.stat().st_size <= script.MAX_BYTES[name]
    with Image.open(picture) as opened:
        assert opened.width == script.WIDTH
    page = SCRIPT.parents[1] / SHOWN_IN[name]
    links = [(page.parent / link).resolve() for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())]
    assert picture.resolve() in links


@pytest.mark.slow
def test_the_command_makes_them(tmp_path: Path) -> None:
    with chromium():
        pass  # skipped where there is no browser
    AUDITS["digits"](tmp_path / "run")
    for place, content in enumerate(many_reports(24)):
        write_run(tmp_path / "sweep" / f"{place}", content)
    given = ["--run", str(tmp_path / "run"), "--sweep", str(tmp_path / "sweep"), "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *given], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in PICTURES:
        assert f"{tmp_path / name}: " in done.stdout
        with Image.open(tmp_path / name) as opened:
            assert opened.width == 1200
            assert 600 < opened.height < 2400
            assert len(opened.convert("RGB").getcolors(1 << 20) or []) > 50  # something is drawn


def test_a_sweep_is_what_the_page_says(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(script, "_call", lambda folder, *command: called.append((folder, *command)))
    assert script.sweep(tmp_path) == tmp_path / "multirun"
    ((folder, program, *arguments),) = called
    assert (folder, program, arguments[0]) == (tmp_path, "mia-lightning", "--multirun")
    choices = [len(each.partition("=")[2].replace("[]", "none").split(",")) for each in script.SWEPT]
    assert choices == [3, 4, 2, 1]  # 24 runs
    written = " ".join(script.__doc__.replace("\\\n", "").split())
    assert all(setting in written for setting in script.SWEPT)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("report.png", "300,001 bytes, more than 300,000"), ("dashboard.png", "250,001 bytes, more than 250,000")],
)
def test_a_large_picture_is_refused(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    sentence: str,
) -> None:
    monkeypatch.setattr(script, "dashboard_of", lambda runs, work: work)
    monkeypatch.setattr(script, "top_of", lambda page, each: bytes(script.MAX_BYTES[each] + (each == name)))
    assert script.main(["--run", str(tmp_path), "--sweep", str(tmp_path), "--output", str(tmp_path)]) == 1
    assert not list(tmp_path.iterdir())
    assert sentence in capsys.readouterr().err
