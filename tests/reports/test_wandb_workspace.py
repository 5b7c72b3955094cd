"""The workspace of wandb: its specification, made without a network."""

import builtins
from collections.abc import Iterator
from typing import Any

import pytest

from mia_lightning.dashboard import workspace
from mia_lightning.dashboard.command import main
from mia_lightning.errors import InputError
from mia_lightning.reports.rows import headline_scalars
from mia_lightning.reports.schema import AuditReport

try:
    workspace._packages()
except InputError:
    pytest.skip("needs wandb-workspaces", allow_module_level=True)


def axes(place: str = "team/project", attacks: tuple[str, ...] = ("shokri", "loss")) -> list[tuple[str, str]]:
    """x and y of every scatter plot of the specification."""
    spec = workspace.workspace(place, attacks)._to_model().model_dump()
    assert (spec["entity"], spec["project"]) == ("team", "project")

    def plots(node: Any) -> Iterator[tuple[str, str]]:
        if isinstance(node, dict):
            if node.get("view_type") == "Scatter Plot":
                yield node["config"]["x_axis"], node["config"]["y_axis"]
            for value in node.values():
                yield from plots(value)
        elif isinstance(node, list):
            for value in node:
                yield from plots(value)

    return list(plots(spec))


def test_leakage_is_plotted_against_the_gap_and_the_accuracy() -> None:
    found = axes()
    assert len(found) == len(set(found)) == 2 * len(workspace.FIGURES) * 2
    for attack in ("shokri", "loss"):
        for figure in workspace.FIGURES:
            for x in ("target/generalization_gap", "target/test_accuracy"):
                assert (f"summary:{x}", f"summary:leakage/{attack}/{figure}") in found


def test_the_plots_read_what_runs_log(report: AuditReport) -> None:
    logged = headline_scalars(report)
    names = {name.removeprefix("summary:") for pair in axes() for name in pair}
    assert names - set(logged) <= {f"leakage/{a}/tpr_at_fpr_0.001" for a in ("shokri", "loss")}  # of too few records


@pytest.mark.parametrize("place", ["project", "/project", "team/", "team/project/more", ""])
def test_a_place_that_is_none(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="is no project of wandb"):
        workspace.workspace(place, ["loss"])


def test_the_command_says_where_it_is_or_why_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspaces, _ = workspace._packages()
    monkeypatch.setattr(workspaces.Workspace, "save", lambda self: self)
    monkeypatch.setattr(workspaces.Workspace, "url", property(lambda self: f"at {self.entity}/{self.project}"))
    with pytest.raises(SystemExit) as ended:
        main(["wandb", "team/project", "--attack", "loss"])
    assert (ended.value.code, capsys.readouterr().out) == (0, "at team/project\n")

    def refuse(self: object) -> None:
        raise RuntimeError("no API key.")

    monkeypatch.setattr(workspaces.Workspace, "save", refuse)
    with pytest.raises(SystemExit) as ended:
        main(["wandb", "team/project"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == "mia-dashboard: wandb did not take the workspace for team/project (no API key); run `wandb login`.\n"


def test_without_the_package_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("wandb_workspaces"):
            raise ImportError("No module named 'wandb_workspaces'")
        return found(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"needs wandb-workspaces.*pip install 'mia-lightning\[workspaces\]'"):
        workspace.workspace("team/project", ["loss"])


def test_a_folder_called_wandb_is_a_folder() -> None:
    assert not workspace.is_meant(["wandb"])
    assert not workspace.is_meant(["wandb", "outputs/"])
    assert workspace.is_meant(["wandb", "team/project"])
