"""The pages of README and site: their links, and their code, which a reader may type in order in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import klettres

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted(path for path in (ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


def fences(page: Path) -> list[tuple[str, str]]:
    """What stands behind the three marks, and the text between them."""
    return _FENCE.findall(page.read_text())


def code_of(page: Path) -> list[tuple[str, str]]:
    """The blocks that are run, with their language."""
    return [(head, code) for head, code in fences(page) if head in ("bash", "python")]


def links_of(page: Path) -> list[str]:
    """Links to files, without their anchors."""
    return [link for link in _LINK.findall(page.read_text()) if not re.match(r"https?:|mailto:", link)]


def starts_another(page: Path) -> bool:
    """Whether another page begins with the same code, so that whoever follows that one has followed this one."""
    own = code_of(page)
    return any(own == theirs[: len(own)] for each in PAGES if len(theirs := code_of(each)) > len(own))


def split_by_data(page: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The blocks that are run, and those of them that name recordings which are not on this machine."""
    blocks = code_of(page)
    absent = [each for each in blocks if klettres.FOLDER in each[1] and not Path(klettres.FOLDER).is_dir()]
    return [each for each in blocks if each not in absent], absent


def followed(blocks: list[tuple[str, str]], folder: Path, commands: Path) -> "subprocess.CompletedProcess[str]":
    """What comes of the code of a page, typed in order in that folder: shell by shell, Python in one process.

    Args:
        blocks: of the page, with their language.
        commands: the folder of `forks.py`.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HYDRA_", "MIA_"))}
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), kept["PATH"]])
    return subprocess.run(
        [commands / "follow"],
        input=json.dumps(blocks),
        cwd=folder,
        env={**kept, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
