"""The files by which a project is built, cited and looked after say what is so."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import mia_lightning

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
KNOWN = {"ARG", "FROM", "RUN", "ENV", "COPY", "WORKDIR", "USER", "ENTRYPOINT"}


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order: each instruction and what follows it."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def copied() -> list[tuple[str, str]]:
    """What the Dockerfile copies, and where to."""
    pairs = []
    for word, rest in instructions():
        if word == "COPY":
            *sources, place = shlex.split(rest)
            pairs += [(source, place + source if place.endswith("/") else place) for source in sources]
    return pairs


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert mia_lightning.__version__ == citation["version"] == version
    assert re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[:2] == [
        "Unreleased",
        version,
    ]
    assert [author["name"] for author in citation["authors"]] == [
        each["name"] for each in PROJECT["project"]["authors"]
    ]
    assert citation["license"] == PROJECT["project"]["license"]


def test_the_source_distribution_has_what_it_names() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [name for name in included if not (ROOT / name).exists()] == []
    kept = {path.name for path in ROOT.glob("*.md")} - {"README.md"}  # which the build adds by itself
    assert kept <= set(included)


def test_the_dockerfile_is_made_of_what_is_there() -> None:
    words = [word for word, _ in instructions()]
    assert set(words) <= KNOWN
    assert words[:2] == ["ARG", "FROM"]
    assert "nvidia/cuda:" in dict(instructions())["ARG"]
    assert [source for source, _ in copied() if not (ROOT / source).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == {source for source, _ in copied()}


def test_the_image_installs_extras_that_exist() -> None:
    (install,) = (rest for word, rest in instructions() if word == "RUN" and "pip install" in rest)
    extras = re.search(r"/src\[(.*?)\]", install)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_the_image_runs_a_command_of_the_package_and_not_as_root() -> None:
    assert dict(instructions())["ENTRYPOINT"] == '["mia-lightning"]'
    assert "mia-lightning" in PROJECT["project"]["scripts"]
    words = [word for word, _ in instructions()]
    user = dict(instructions())["USER"]
    assert "RUN" not in words[words.index("USER") :]
    assert user not in ("root", "0")
    assert any(rest.startswith("useradd ") and f" {user} " in rest for word, rest in instructions() if word == "RUN")


@pytest.mark.slow
def test_a_wheel_is_built_of_what_the_image_copies(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for name, place in copied():
        there = tmp_path / place.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, there)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("mia_lightning-*.whl"))) == 1


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.stem)
def test_github_reads_a_mapping(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_workflows_run_parts_of_ci_that_exist() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    named = set(re.findall(r"\.ci/run (\w+)", text)) | set(re.findall(r"\{part: (\w+)", text))
    for listed in re.findall(r"part: \[(.*?)\]", text):
        named |= set(listed.split(", "))
    assert named == {"style", "docs", "wheel", "bounds", "tests", "slow"}
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
