"""A section `dataset` that makes somebody's own DataModule or torch Dataset: which of its settings are ours."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mia_lightning.errors import InputError
from mia_lightning.settings.checking import shown

if TYPE_CHECKING:
    from mia_lightning.datasets.population import Population


def population_of(node: Mapping[str, Any], make: Callable[[Any, str], Any], *, trusted: bool) -> "Population":
    """What the node makes, as a population.

    Args:
        node: of the configuration, without `train_size`.
        make: makes what a node names, at a place in the configuration, or refuses it.
        trusted: whether the module of what the node names may be imported before.

    Raises:
        InputError: it makes neither a population nor what can be read as one.
    """
    from mia_lightning.datasets.own.reading import read_own
    from mia_lightning.datasets.population import Population
    from mia_lightning.seeds import isolated

    ours = [name for name in inspect.signature(read_own).parameters if name != "data"]
    is_taken_out = (trusted and is_somebodys(node.get("_target_"))) or all(name in node for name in ours)
    settings = {name: node[name] for name in ours if is_taken_out and name in node}
    with isolated(0, "dataset"):  # what draws from the global generators draws alike in every process
        loaded = make({name: value for name, value in node.items() if name not in settings}, "dataset")
        return loaded if isinstance(loaded, Population) else _read(loaded, settings, make, is_taken_out)


def _read(loaded: Any, settings: dict[str, Any], make: Callable[[Any, str], Any], is_taken_out: bool) -> "Population":
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
    return Population.of(loaded, **settings)


def is_somebodys(target: object) -> bool:
    """Whether a `_target_` names a DataModule or torch Dataset, whose arguments are its own."""
    from mia_lightning.datasets.own.reading import is_own

    return is_own(_located(target))


def _located(target: object) -> Any:
    """What a `_target_` names; None where it cannot be found, which `instantiate` explains."""
    from hydra._internal.utils import _locate  # `hydra.utils.get_object` also logs what it cannot find

    try:
        return _locate(target) if isinstance(target, str) else None
    except Exception:  # of anybody's module
        return None
