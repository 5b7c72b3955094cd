"""The command behind the README's picture of a report."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from chromium import chromium
from PIL import Image
from real_reports import AUDITS

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "screenshots.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("screenshots")


def test_the_picture_is_kept_and_small(script: ModuleType) -> None:
    picture = SCRIPT.parents[1] / "docs" / "report.png"
    assert picture.stat().st_size <= script.MAX_BYTES
    with Image.open(picture) as opened:
        assert opened.width == script.WIDTH


@pytest.mark.slow
def test_the_command_makes_it(tmp_path: Path) -> None:
    with chromium():
        pass  # skipped where there is no browser
    AUDITS["digits"](tmp_path / "run")
    picture = tmp_path / "top.png"
    command = [sys.executable, str(SCRIPT), "--folder", str(tmp_path / "run"), "--output", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{picture}: " in done.stdout
    with Image.open(picture) as opened:
        assert opened.width == 1200
        assert 600 < opened.height < 2400
        assert len(opened.convert("RGB").getcolors(1 << 20) or []) > 50  # something is drawn


def test_a_large_picture_is_refused(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "top_of", lambda page: bytes(script.MAX_BYTES + 1))
    assert script.main(["--folder", str(tmp_path), "--output", str(tmp_path / "top.png")]) == 1
    assert not (tmp_path / "top.png").exists()
    assert "300,001 bytes, more than 300,000" in capsys.readouterr().err
