"""The pages of docs/ can be followed word for word: their commands run, in order, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
COMMANDS = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINKS = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def test_there_are_pages_with_commands() -> None:
    assert len(PAGES) >= 6
    assert all(COMMANDS.search(page.read_text()) for page in PAGES)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in LINKS.findall(page.read_text()) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_names_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES if f"(docs/{page.name})" not in readme] == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_run_as_they_stand(page: Path, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HYDRA_", "MIA_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    script = "\n".join(COMMANDS.findall(page.read_text()))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**kept, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reports = list(tmp_path.glob("*/report.json")) + list(tmp_path.glob("*/*/report.json"))
    assert len(reports) >= len(re.findall(r"^mia-lightning ", script, re.MULTILINE))
