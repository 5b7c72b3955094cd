"""How networks are made for a stack: each with parts of its own, a LightningModule set up as at the start of a fit."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import isolated
from mia_lightning.training.own.lightning import base_of, has_own, take_out_reports
from mia_lightning.training.own.stand_in import StandInTrainer, attached
from mia_lightning.training.stack.architecture import bind_form, bind_shapes

Make = Callable[..., nn.Module]

_KEPT = "_mia_keeps_frozen"  # the attribute of such a network


@dataclass(frozen=True)
class Around:
    """A function that makes networks, whose signature and name are those of the one inside."""

    make: Make

    @property
    def __wrapped__(self) -> Make:
        return self.make

    @property
    def __name__(self) -> str:
        return getattr(self.make, "__name__", type(self.make).__name__)


@dataclass(frozen=True)
class WithParts(Around):
    """Networks of which parts, such as `net` in `LitNet(net=...)`, are made anew for each.

    Attributes:
        parts: what makes them, by the names of the arguments.
    """

    parts: Mapping[str, Callable[[], object]]

    @property
    def keywords(self) -> Mapping[str, object]:
        """What is set already, as of a `functools.partial`."""
        return self.parts

    def __call__(self, **settings: Any) -> nn.Module:
        return self.make(**{name: part() for name, part in self.parts.items()}, **settings)


class OwnParts(Around):
    """Networks of which each has a copy of the parts that `make` gives to all, initialised anew.

    What is frozen keeps its weights and buffers, as a pretrained backbone that training leaves alone.
    """

    def __call__(self, **settings: Any) -> nn.Module:
        network, other = self.make(**settings), self.make(**settings)
        others = {id(module) for module in other.modules()}
        shared = {id(module) for module in network.modules() if id(module) in others}
        again = copy.deepcopy(network)
        still = {p: p.detach().clone() for p in again.parameters() if not p.requires_grad}
        kept = _frozen_layers(network)
        pairs = list(zip(network.modules(), again.modules(), strict=True))
        for module, copied in reversed(pairs):  # a layer after those in it
            begin = _begins_anew(copied)
            if id(module) in shared and id(module) not in kept and begin is not None:
                begin()
        with torch.no_grad():
            for parameter, values in still.items():  # of layers that are frozen in part
                parameter.copy_(values)
        return again


class FrozenOwnParts(OwnParts):
    """Of which some are frozen, which is noted at each network.

    They began anew before, too: by a class of their own, models of the store that were made so are not taken for these.
    """

    def __call__(self, **settings: Any) -> nn.Module:
        network = super().__call__(**settings)
        vars(network)[_KEPT] = True
        return network


def keeps_frozen(network: nn.Module) -> bool:
    """Whether frozen parts of the network hold what somebody gave to all networks."""
    return any(_KEPT in vars(module) for module in network.modules())


@dataclass(frozen=True)
class SetUp(Around):
    """LightningModules after `setup` and `configure_model`, without what only reports.

    Attributes:
        max_epochs: that these methods find at the Trainer.
    """

    max_epochs: int

    def __call__(self, **settings: Any) -> nn.Module:
        network = self.make(**settings)
        module = next((each for each in network.modules() if base_of(each) is not None), None)
        if module is None:
            return network
        with attached(network, StandInTrainer(max_epochs=self.max_epochs)):
            for hook, arguments in (("setup", ("fit",)), ("configure_model", ())):
                if has_own(module, hook):
                    getattr(module, hook)(*arguments)
        take_out_reports(network)
        return network


def made_for_stacks(make: Make, population: Population, *, max_epochs: int) -> tuple[Make, str | None]:
    """`make`, or what makes its networks fit for a stack, with the same arguments; and a sentence if parts are shared.

    Raises:
        InputError: all networks share parts that cannot be initialised anew.
    """
    pair = _two(make, population)
    if pair is None:
        return make, None
    network, other = pair
    others = {id(module) for module in other.modules()}
    shared = [(path, module) for path, module in network.named_modules() if id(module) in others]
    shared = [(path, module) for path, module in shared if any(True for _ in module.parameters())]
    sentence = None
    if shared:
        _check_new_start(network, shared)
        sentence = _about_shared(shared)
        has_frozen = any(not p.requires_grad for _, module in shared for p in module.parameters())
        make = FrozenOwnParts(make) if has_frozen else OwnParts(make)
    is_lightning = any(base_of(module) is not None for module in network.modules())
    return (SetUp(make, max_epochs) if is_lightning else make), sentence


def _two(make: Make, population: Population) -> tuple[nn.Module, nn.Module] | None:
    """Two networks; None where none can be made, or both are one, which is refused where they are made for use."""
    for shape in (population.input_shape, population.image_shape):
        if shape is None:
            continue
        with isolated(0, "how it is made"):
            try:
                bound = bind_form(make, population)
                if shape != population.input_shape:
                    bound = bind_shapes(make, shape, population.num_classes)
                network, other = bound(), bound()
            except Exception:  # of the user's own code: it is raised again where the network is made for use
                continue
        return (network, other) if isinstance(network, nn.Module) and network is not other else None
    return None


def _about_shared(shared: list[tuple[str, nn.Module]]) -> str:
    """What is done with parts that all networks share, by their paths."""
    learns = [(path, module) for path, module in shared if any(p.requires_grad for p in module.parameters())]
    path, module = (learns or shared)[0]
    what = f"`model` gives the same {type(module).__name__}, as `{path}`, to every network: each gets a copy of its own"
    if not learns:
        return f"{what}, which is frozen and keeps its weights, as a public one."
    has_frozen = any(not p.requires_grad for _, module in shared for p in module.parameters())
    return (
        f"{what}, initialised anew by the `reset_parameters` of its layers"
        f"{', but for frozen ones, which keep their weights' if has_frozen else ''}; if it is to begin with weights "
        "that it has, such as pretrained ones, give a function or class that makes it with these each time."
    )


def _frozen_layers(network: nn.Module) -> set[int]:
    """The ids of layers that train nothing; one without parameters goes with the layer around it."""
    frozen: set[int] = set()
    learning: set[int] = set()

    def look(layer: nn.Module, is_frozen: bool) -> None:
        learns = [p.requires_grad for p in layer.parameters()]
        is_frozen = not any(learns) if learns else is_frozen
        (frozen if is_frozen else learning).add(id(layer))
        for inside in layer.children():
            look(inside, is_frozen)

    look(network, False)
    return frozen - learning


def _begins_anew(layer: nn.Module) -> Callable[[], object] | None:
    """What initialises the parameters of a layer; None where it has nothing for that."""
    return getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)


def _left_as_they_are(layer: nn.Module) -> list[str]:
    """The layer's own parameters to be trained that its initialisation does not set, as those that a subclass adds."""
    own = [name for name, p in layer.named_parameters(recurse=False) if p.requires_grad]
    if not own or _begins_anew(layer) is None:
        return own
    copied = copy.deepcopy(layer)
    begin = _begins_anew(copied)
    assert begin is not None
    try:
        with torch.no_grad(), isolated(0, "how it begins"):
            for name in own:
                copied.get_parameter(name).fill_(torch.nan)
            begin()
    except Exception:  # of a lazy layer, or the user's own code: it is raised again where the network is made for use
        return []
    return [name for name in own if bool(copied.get_parameter(name).isnan().any())]


def _check_new_start(network: nn.Module, shared: list[tuple[str, nn.Module]]) -> None:
    """Refuse shared parts with parameters to be trained that no layer initialises anew."""
    for path, module in shared:
        own = _left_as_they_are(module)
        if own:
            raise InputError(
                f"`model` gives the same {type(shared[0][1]).__name__}, as `{shared[0][0]}`, to every "
                f"{type(network).__name__}, and `{path}.{own[0]}` ({type(module).__name__}) is set by no "
                "reset_parameters, by which it would begin anew; give a class or function that makes a new one each "
                "time, as lambda: Model(net=Net())."
            )
