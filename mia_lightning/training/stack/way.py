"""What a network gives, made the outputs `[B, C]` that everything else reads.

A user's module may give a tensor, or a tuple, a dict or an object that holds one; logits, probabilities or log
probabilities; for two classes one number a record. A LightningModule may answer by its `predict_step` alone. How a
network is asked is found out once (`way_of`), kept at the network as its `Way`, and followed by `ask`, under `vmap`
too. The network's own `forward` stays what it is, since its own training step calls it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from mia_lightning.datasets.form import Records, called
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, SettingError
from mia_lightning.seeds import isolated
from mia_lightning.settings.kinds import OutputForm
from mia_lightning.training.stack.outputs import (
    Answer,
    Choice,
    chosen,
    columns,
    described,
    reading,
    rows_of,
    some_records,
    stays_in_0_1,
)

MakeNetwork = Callable[[], nn.Module]

_WAY = "_mia_way"  # the attribute of a network that holds its way


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a network is asked for its outputs `[B, C]`.

    Attributes:
        num_classes: C.
        method: `forward`, `predict_step`, or the path of the submodule whose forward is asked.
        of_pairs: whether the method is given (records, labels), as a step is; the labels are 0.
        one: what its one number a record is, of which two columns are made; None where it gives one a class.
        form: of its outputs, if its user says so; else `auto`.
        section: where its user says so, `model` or `target`.
        found: what is unlike a plain forward with a tensor, in a clause; "" for nothing.
    """

    num_classes: int
    method: str = "forward"
    of_pairs: bool = False
    one: Answer | None = None
    form: OutputForm = "auto"
    section: str = "model"
    found: str = ""

    def __call__(self, network: nn.Module, x_B: Any) -> Any:
        """Outputs `[B, C]`; what holds none is given as it is."""
        output = _called(network, x_B, self.method, self.of_pairs)
        choice = chosen(output, rows_of(x_B)[0], self.num_classes, one=self.one is not None)
        if choice is None:
            return output
        return choice.tensor if self.one is None else columns(choice.tensor, self.one)

    @property
    def is_a_call(self) -> bool:
        """Whether a network that gives a tensor would give the same if it were called."""
        return (self.method, self.of_pairs, self.one) == ("forward", False, None)

    @property
    def is_plain(self) -> bool:
        """Whether to call the network would do the same."""
        return self == Way(num_classes=self.num_classes, section=self.section)


class Asked(nn.Module):
    """A network that is not to be changed, with the way in which it is asked."""

    def __init__(self, network: nn.Module, way: Way) -> None:
        super().__init__()
        self.network, self.way = network, way

    def forward(self, *records: Tensor, **named: Tensor) -> Any:
        return self.way(self.network, records[0] if records else named)


def ask(network: nn.Module, x_B: Records) -> Any:
    """The outputs `[B, C]` of a network for records `[B, *features]`, in the way that is kept at it."""
    way = vars(network).get(_WAY)
    return called(network, x_B) if way is None else way(network, x_B)


def kept_way(network: nn.Module) -> Way | None:
    """The way that is kept at a network; None where it is called as it is."""
    way: Way | None = network.way if isinstance(network, Asked) else vars(network).get(_WAY)
    return way


def bind_outputs(make_network: MakeNetwork, population: Population, form: OutputForm = "auto") -> MakeNetwork:
    """The networks, each with the way in which it is asked, where that is not to call it.

    Of two columns that are made of one output, cross-entropy is the binary cross-entropy of the logit.

    Raises:
        InputError: `form` says what cannot be, or several outputs could be meant.
    """
    with isolated(0, "outputs"):
        try:
            network = make_network()
            x_B = some_records(network, population)
            way = way_of(network, x_B, population.num_classes, form, also_train=True)
        except InputError:
            raise
        except Exception:  # what it says is raised again where the network is made for use
            return make_network
    return make_network if way.is_plain else partial(asked_by, make_network, way)


def asked_by(make_network: MakeNetwork, way: Way) -> nn.Module:
    """A network whose class, weights and forward are its own, with the way in which it is asked."""
    network = make_network()
    setattr(network, _WAY, way)
    return network


@torch.no_grad()
def way_of(
    network: nn.Module,
    x_B: Any,
    num_classes: int,
    form: OutputForm = "auto",
    *,
    section: str = "model",
    also_train: bool = False,
    wider: bool = False,
) -> Way:
    """How a network is to be asked, found out with a few records; the plain way where nothing better is found.

    `forward` comes first, since it is what training steps call; then `predict_step` of a LightningModule, with records
    alone and with (records, labels); then a submodule that holds all parameters, where there is no forward.

    Args:
        x_B: records, as the network takes them: a tensor, or what holds some; a mapping is spread over its arguments.
        num_classes: C.
        also_train: whether it is asked in train mode, too, where it may give something else.
        wider: whether C may be larger, as far as records show; `num_classes` of the way is then what is found.

    Raises:
        InputError: several outputs could be meant, or `form` says what cannot be.
    """
    plain = Way(num_classes=num_classes, form=form, section=section)
    x_N, x_B = x_B, x_B[:3] if isinstance(x_B, Tensor) else x_B
    found, other = None, ""
    with _in_mode(network, training=False):
        tried = list(_tries(network))
        for is_wider, (method, of_pairs) in product((False, True) if wider else (False,), tried):
            way = replace(plain, method=method, of_pairs=of_pairs)
            choice = _tried(network, x_B, way, wider=is_wider)
            if choice is not None:
                way = way if choice.is_one else replace(way, num_classes=choice.tensor.shape[1])
                found = _found(network, way, choice)
                other = _unlike(network, x_B, found)
                found = replace(found, one=_one(network, x_N, found)) if choice.is_one else found
                break
    if found is None:  # what is asked for says then what is wrong
        return replace(plain, method=tried[0][0], of_pairs=tried[0][1]) if tried else plain
    if also_train and not found.found:  # such as auxiliary outputs
        with _in_mode(network, training=True):
            choice = _tried(network, x_B, found)
        found = found if choice is None else _found(network, found, choice, mode=" in train mode")
    return replace(found, found=", and ".join(each for each in (found.found, other) if each))


def _tries(network: nn.Module) -> Iterator[tuple[str, bool]]:
    """Methods by which a network may answer, and whether they are given pairs; without those that are missing."""
    base = next((each for each in type(network).__mro__ if each.__name__ == "LightningModule"), None)
    if base is None:
        yield "forward", False
        return
    has_forward = _has_own(network, base, "forward")
    if has_forward:
        yield "forward", False
    if _has_own(network, base, "predict_step"):
        yield "predict_step", False
        yield "predict_step", True
    if has_forward:
        yield "forward", True
        return
    whole = sum(p.numel() for p in network.parameters())
    for path, child in network.named_children():
        if whole and sum(p.numel() for p in child.parameters()) == whole:
            yield path, False


def _has_own(network: nn.Module, base: type, name: str) -> bool:
    return getattr(type(network), name, None) is not getattr(base, name, None)


def _called(network: nn.Module, x_B: Any, method: str, of_pairs: bool) -> Any:
    given: Any = x_B
    if of_pairs:
        count, device = rows_of(x_B)
        given = (x_B, torch.zeros(count, dtype=torch.int64, device=device))
    if method == "predict_step":
        step: Any = network.predict_step
        return step(given, 0)
    return called(network if method == "forward" else network.get_submodule(method), given)


def _tried(network: nn.Module, x_B: Any, way: Way, *, wider: bool = False) -> Choice | None:
    """What a way gives; None where it fails, or gives nothing that could be outputs."""
    try:
        output = _called(network, x_B, way.method, way.of_pairs)
    except Exception:  # the user's own code; it is called again, and its error said, where nothing else does
        return None
    count, _ = rows_of(x_B)
    choice = chosen(output, count, way.num_classes, wider=wider)
    if choice is None and way.num_classes == 2:
        choice = chosen(output, count, 2, one=True)
    return choice


def _found(network: nn.Module, way: Way, choice: Choice, *, mode: str = "") -> Way:
    """The way, with a clause on what is unlike a plain forward."""
    clauses = []
    if way.method == "predict_step":
        is_first = not _has_own(network, _base_of(network), "forward")
        batch = "(records, labels)" if way.of_pairs else "records"
        why = "since it has no forward" if is_first else "since its forward gives none on records alone"
        clauses.append(f"its `predict_step` is asked for {batch}, {why}")
    elif way.method != "forward":
        clauses.append(f"its `{way.method}` is asked, which holds all of its parameters, since it has no forward")
    elif way.of_pairs:
        clauses.append("its forward is given (records, labels)")
    if choice.path:
        where = f"place {choice.path}" if choice.path.isdigit() else f"`{choice.path}`"
        clauses.append(f"{where} of the {type(choice.output).__name__} that it gives{mode} is taken")
    return replace(way, found=", and ".join(clauses))


def _base_of(network: nn.Module) -> type:
    return next(each for each in type(network).__mro__ if each.__name__ == "LightningModule")


def _unlike(network: nn.Module, x_B: Any, way: Way) -> str:
    """A clause on a `predict_step` that is not asked and gives something else; "" for none."""
    if way.method == "predict_step" or ("predict_step", False) not in _tries(network):
        return ""
    asked = reading(_tried(network, x_B, way))
    for of_pairs in (False, True):
        try:
            output = _called(network, x_B, "predict_step", of_pairs)
        except Exception:  # of another form of batch
            continue
        predicted = reading(_tried(network, x_B, replace(way, method="predict_step", of_pairs=of_pairs)))
        if asked is not None and predicted is not None and asked.shape == predicted.shape:
            if torch.allclose(asked, predicted, rtol=1e-2, atol=1e-2):
                return ""
            return "its `predict_step`, which is not asked, gives other probabilities"
        return f"its `predict_step`, which is not asked, gives {described(output)}"
    return ""


def _one(network: nn.Module, x_B: Any, way: Way) -> Answer:
    """What the one number of a record is."""
    if way.form == "log_probabilities":
        raise SettingError(
            way.section,
            "output",
            "is 'log_probabilities', and the model gives one number a record; set it to auto, to logits for the logit "
            "of the second class, or to probabilities.",
        )
    if way.form != "auto":
        return "logit" if way.form == "logits" else "probability"

    def numbers(network: nn.Module, x_B: Any) -> Tensor:
        choice = chosen(_called(network, x_B, way.method, way.of_pairs), rows_of(x_B)[0], 2, one=True)
        assert choice is not None
        return choice.tensor

    return "probability" if stays_in_0_1(network, x_B, numbers) else "logit"


@contextmanager
def _in_mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Within the context the network is in this mode; then every layer is in its own mode again."""
    modes = [(layer, layer.training) for layer in network.modules() if hasattr(layer, "training")]  # none if frozen
    try:
        if any(is_training is not training for _, is_training in modes):
            network.train(training)
        yield
    finally:
        for layer, is_training in modes:
            layer.training = is_training
