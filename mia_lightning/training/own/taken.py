"""How the models of a role are made and trained: by the recipe, or by their LightningModule's own code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import isolated
from mia_lightning.store.identity import NoIdentityError, identity
from mia_lightning.training.own.lightning import lightning_module
from mia_lightning.training.own.refusals import check_methods, warning_of
from mia_lightning.training.own.trial import try_step
from mia_lightning.training.stack.architecture import Architecture, inspect_architecture
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.step.own import OwnTraining
from mia_lightning.training.step.recipe import Recipe, default_recipe

_OF_STOPPING = (
    " Early stopping (`training.early_stopping`) goes by the cross-entropy of their outputs, not by their own step."
)
_OURS = ("optimizer", "scheduler", "scheduler_interval")
_OF_LOSS = ("class_weights", "objective", "batch_objective", "mix", "sampler", "gradient_rule")


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a role's models are, and how they are trained.

    Attributes:
        architecture: of what `make_network` makes.
        recipe: with the module's own training in it, where it has one.
        sentence: what was taken from where; None of a plain network.
        warning: which settings have no effect; None for none.
    """

    architecture: Architecture
    recipe: Recipe
    sentence: str | None = None
    warning: str | None = None


def own_name(make_network: MakeNetwork) -> str | None:
    """The class of the LightningModule that the networks are; None of plain networks, and of what cannot be made.

    Raises:
        InputError: it does not say how it is trained.
    """
    try:
        with isolated(0, "own training"):
            network = make_network()
    except Exception:  # of the user's own code: it is raised again where the network is made for use
        return None
    module = lightning_module(network) if isinstance(network, nn.Module) else None
    if module is None:
        return None
    check_methods(module)
    return type(module).__name__


def by_itself(recipe: Recipe, name: str, loading: Loading | None, place: str) -> Recipe:
    """The recipe with a module's own training in it, in batches as its loader deals them.

    Args:
        loading: of the data; None where these have no loader.
        place: of `model`, for sentences.

    Raises:
        InputError: the recipe changes the loss or the gradients.
    """
    usual = default_recipe()
    changed = [each for each in _OF_LOSS if getattr(recipe, each) is not getattr(usual, each)]
    if changed:
        raise InputError(
            f"`training.{changed[0]}` changes the loss or the gradients of a step, but `{place}` makes the "
            f"LightningModule {name}, which is trained by its own training_step; leave it out, or give the network "
            f"inside as `{place}`."
        )
    size: dict[str, Any] = {}
    if loading is not None:
        size = {"batch_size": loading.batch_size, "batches_per_epoch": None}
    elif recipe.batch_size is not None:
        loading = Loading(batch_size=recipe.batch_size, shuffle=True, drop_last=False)
    usual_of = {each: getattr(usual, each) for each in _OURS}
    return replace(recipe, **usual_of, **size, loading=loading, own=OwnTraining(name=name))


def taken(
    make_network: MakeNetwork,
    population: Population,
    recipe: Recipe,
    *,
    num_records: int,
    trainable: bool = True,
    place: str = "model",
    changed: Callable[[Recipe], Recipe] = lambda recipe: recipe,
) -> Taken:
    """How the networks are trained, tried where they train themselves.

    Args:
        num_records: on which a model trains.
        trainable: whether they are to be trained.
        place: of `model`, for sentences.
        changed: what defences make of the recipe.

    Raises:
        InputError: the networks cannot be trained, or not by this recipe.
    """
    name = own_name(make_network) if trainable else None
    if name is None:
        architecture = inspect_architecture(make_network, population, trainable=trainable)
        return Taken(architecture=architecture, recipe=changed(_of_task(recipe, population)))
    _check_labels(population, name, place)
    own = changed(by_itself(recipe, name, population.loading, place))
    architecture = inspect_architecture(make_network, population, trains_itself=True)
    tried = try_step(make_network, population, own, num_records)
    refusal = architecture.refusal or tried.refusal
    return Taken(
        architecture=replace(architecture, draws=tried.draws, refusal=refusal),
        recipe=own,
        sentence=_said(own, name, population, place, tried.left_out),
        warning=" ".join(
            each
            for each in (
                _without_effect(recipe, name, population, place),
                warning_of(tried.may_change, f"{name} has"),
                _unvalidated(tried.of_validation, name),
            )
            if each is not None
        )
        or None,
    )


def _check_labels(population: Population, name: str, place: str) -> None:
    """Refuse labels that the module's step would be given as other numbers than its own data has, and weights."""
    if population.weight_N is not None:
        raise InputError(
            f"The records of population {population.name!r} have weights, but `{place}` makes the LightningModule "
            f"{name}, whose own training_step makes the loss and is given none; leave them out, or give the "
            f"network inside as `{place}`."
        )
    if population.label_map is not None and not population.label_map.is_text:
        raise InputError(
            f"`{place}` makes the LightningModule {name}, whose training_step is given class numbers from 0 and may "
            f"read them otherwise than the labels of its data. {population.label_map.sentence} Let the data give class "
            "numbers from 0 as integers, and the step take these, or name the classes by class_names, from number 0."
        )


def _of_task(recipe: Recipe, population: Population) -> Recipe:
    """The recipe with the loss of the task, where nobody has chosen another, and with what a loss is given."""
    task = population.task
    is_usual = recipe.objective is default_recipe().objective
    objective = task.objective if task.objective is not None and is_usual else recipe.objective
    return replace(recipe, objective=objective, of_classes=task.has_classes)


def _said(recipe: Recipe, name: str, population: Population, place: str, left_out: tuple[str, ...]) -> str:
    loading = recipe.loading
    if loading is None or recipe.batch_size is None:
        batches = f"{recipe.batches_per_epoch} batches an epoch (`training.batches_per_epoch`)"
    else:
        source = "`training.batch_size`" if population.loading is None else "the training loader's"
        order = "shuffled" if loading.shuffle else "in order"
        last = ", without a smaller last one" if loading.drop_last else ""
        batches = f"batches of {loading.batch_size}, {order}{last} ({source})"
    return (
        f"`{place}` makes the LightningModule {name}: its models are trained by its own training_step and "
        f"configure_optimizers, for {recipe.epochs} epochs, in {batches}."
        + (f" Its own {', '.join(left_out)} {'take' if len(left_out) > 1 else 'takes'} no part." if left_out else "")
        + (_OF_STOPPING if recipe.early_stopping is not None else "")
    )


def _without_effect(recipe: Recipe, name: str, population: Population, place: str) -> str | None:
    usual = default_recipe()
    names = [each for each in _OURS if _differ(getattr(recipe, each), getattr(usual, each))]
    if population.loading is not None:
        if recipe.batches_per_epoch is not None:
            names.append("batches_per_epoch")
        elif recipe.batch_size not in (usual.batch_size, population.loading.batch_size):
            names.append("batch_size")
    if not names:
        return None
    listed = ", ".join(f"`training.{each}`" for each in names)
    return (
        f"{listed} {'has' if len(names) == 1 else 'have'} no effect, since `{place}` makes the LightningModule {name}, "
        "whose own configure_optimizers and loader say so."
    )


def _unvalidated(of_validation: Mapping[str, str], name: str) -> str | None:
    if not of_validation:
        return None
    listed = ", ".join(f"`{attribute}` in {method}" for attribute, method in of_validation.items())
    return (
        f"{name} sets {listed}, which its training reads, and models that are trained here are not validated: if it "
        "changes the training, these models are not the ones that your Trainer makes."
    )


def _differ(one: object, other: object) -> bool:
    try:
        return bool(identity(one) != identity(other))
    except NoIdentityError:
        return True
