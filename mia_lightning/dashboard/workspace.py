"""`mia-dashboard wandb entity/project`: a workspace of wandb that plots leakage against overfitting over runs.

The panels read the summary scalars that every logged run has (`loggers/wandb_content.py`). Saving needs an account; it
is done by the official package wandb-workspaces.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from mia_lightning.errors import InputError
from mia_lightning.terminal.parser import Parser

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

GAP = "target/generalization_gap"
ACCURACY = "target/test_accuracy"
FIGURES = ("auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001", "advantage")
NAME = "Leakage against overfitting"


def is_meant(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for a workspace, and not for runs in a folder called wandb."""
    return len(arguments) > 1 and arguments[0] == "wandb" and not arguments[1].endswith("/")


def create(arguments: Sequence[str]) -> str:
    """Make and save the workspace; returns where it is.

    Raises:
        InputError: the package is not installed, the place is none, or wandb refuses it.
    """
    parser = Parser(prog="mia-dashboard wandb", description="Saves a workspace that plots leakage against overfitting.")
    parser.add_argument("place", metavar="ENTITY/PROJECT", help="of wandb; saving needs `wandb login`")
    parser.add_argument("--attack", nargs="+", default=["shokri", "loss"], metavar="NAME", help="default: shokri loss")
    options = parser.parse_args(arguments)
    made = workspace(options.place, options.attack)
    try:
        made.save()
    except Exception as error:  # whatever wandb raises: no key, no such entity, no network
        sentence = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(
            f"wandb did not take the workspace for {options.place} ({sentence}); run `wandb login`."
        ) from error
    return str(made.url)


def workspace(place: str, attacks: Sequence[str]) -> "Workspace":
    """The workspace: for each attack a section, leakage against the gap and against accuracy, by architecture.

    Args:
        place: `entity/project`.

    Raises:
        InputError: it is no such place, or the package wandb-workspaces is not installed.
    """
    entity, slash, project = place.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise InputError(
            f"{place!r} is no project of wandb; give its entity and its name, such as my-team/mia_lightning."
        )
    workspaces, panels = _packages()
    sections = [
        workspaces.Section(
            name=f"leakage by {attack}",
            is_open=attack == attacks[0],
            panels=[
                panels.ScatterPlot(title=f"{figure} against {_short(x)}", x=x, y=f"leakage/{attack}/{figure}")
                for figure in FIGURES
                for x in (GAP, ACCURACY)
            ],
        )
        for attack in attacks
    ]
    over_time = panels.BarPlot(title="AUC of each run", metrics=[f"leakage/{attack}/auc" for attack in attacks])
    compared = workspaces.Section(name="runs", panels=[over_time, panels.RunComparer()])
    return workspaces.Workspace(entity=entity, project=project, name=NAME, sections=[*sections, compared])


def _short(name: str) -> str:
    return name.rpartition("/")[2].replace("_", " ")


def _packages() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pydantic, of which they use an old form
            import wandb_workspaces.reports.v2 as panels
            import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        _refuse(error)
    return workspaces, panels


def _refuse(error: ImportError) -> NoReturn:
    raise InputError(
        f"mia-dashboard wandb needs wandb-workspaces, which cannot be imported ({error}); install it with "
        "pip install 'mia-lightning[workspaces]'."
    ) from error
