"""A section `dataset` that makes somebody's own DataModule or torch Dataset: which of its settings are ours."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from mia_lightning.errors import InputError
from mia_lightning.settings.checking import shown

if TYPE_CHECKING:
    from mia_lightning.datasets.population import Population
    from mia_lightning.tasks import Task


def population_of(
    node: Mapping[str, Any], make: Callable[..., Any], *, trusted: bool, task: "Task | None" = None
) -> "Population":
    """What the node makes, as a population.

    Args:
        node: of the configuration, without `train_size`.
        make: makes what a node names, at a place in the configuration, or refuses it.
        trusted: whether the module of what the node names may be imported before.
        task: what the labels of a DataModule or Dataset are; None for classes.

    Raises:
        InputError: it makes neither a population nor what can be read as one.
    """
    from mia_lightning.datasets.own.reading import read_own
    from mia_lightning.datasets.population import Population
    from mia_lightning.seeds import isolated
    from mia_lightning.tasks import Task as AnyTask

    ours = [name for name in inspect.signature(read_own).parameters if name not in ("data", "task")]
    is_taken_out = (trusted and is_somebodys(node.get("_target_"))) or all(name in node for name in ours)
    settings = {name: node[name] for name in ours if is_taken_out and name in node}
    chosen = [name for name, value in settings.items() if value not in (None, "own")]
    if trusted:
        _check_names(_located(node.get("_target_")), ours, chosen)
    with isolated(0, "dataset"):  # what draws from the global generators draws alike in every process
        rest = {name: value for name, value in node.items() if name not in settings}
        if isinstance(rest.get("task"), AnyTask):  # made already: Hydra would take it for settings
            of_loader = rest.pop("task")
            loaded = make(rest, "dataset", partial=True)(task=of_loader)
        else:
            loaded = make(rest, "dataset")
        if not isinstance(loaded, Population):
            return _read(loaded, settings, make, is_taken_out, task)
    if chosen:
        raise InputError(
            f"`dataset.{chosen[0]}` is {shown(settings[chosen[0]])}, but `dataset` makes a Population, which is taken "
            "as it is; leave it out, or set it where the Population is made."
        )
    return loaded


def _check_names(made: Any, ours: Collection[str], chosen: Collection[str]) -> None:
    """Refuse a class of somebody's whose argument has the name of a setting of ours, where it is needed or given.

    Raises:
        InputError: the sentence names it.
    """
    try:
        arguments = inspect.signature(made).parameters if is_own_class(made) else {}
    except (TypeError, ValueError):  # without a signature
        return
    for name, each in arguments.items():
        if name in ours and (name in chosen or each.default is each.empty):
            raise InputError(
                f"`dataset.{name}` is a setting of mia_lightning, and {made.__name__} has an argument of this name, "
                f"which it cannot be given so; name a function that makes {made.__name__} in `dataset._target_`."
            )


def _read(
    loaded: Any, settings: dict[str, Any], make: Callable[..., Any], is_taken_out: bool, task: "Task | None"
) -> "Population":
    from mia_lightning.datasets.own.reading import is_own
    from mia_lightning.datasets.population import Population

    if not (is_own(loaded) or (is_taken_out and hasattr(loaded, "__getitem__") and hasattr(loaded, "__len__"))):
        raise InputError(
            f"`dataset` makes {shown(loaded)}, which is no Population; set its `_target_` to what makes one, see "
            "conf/dataset, or to a LightningDataModule or torch Dataset."
        )
    for name in ("nonmembers", "eval_dataset"):
        if isinstance(settings.get(name), Mapping):
            settings[name] = make(settings[name], f"dataset.{name}")
    return Population.of(loaded, **settings, task=task)


def is_somebodys(target: object) -> bool:
    """Whether a `_target_` names a DataModule or torch Dataset, whose arguments are its own."""
    return is_own_class(_located(target))


def is_own_class(made: object) -> bool:
    """Whether it is the class of a DataModule, a DataLoader or a torch Dataset."""
    from mia_lightning.datasets.own.reading import is_own

    return isinstance(made, type) and is_own(made)


def _located(target: object) -> Any:
    """What a `_target_` names; None where it cannot be found, which `instantiate` explains."""
    from hydra._internal.utils import _locate  # `hydra.utils.get_object` also logs what it cannot find

    try:
        return _locate(target) if isinstance(target, str) else None
    except Exception:  # of anybody's module
        return None
