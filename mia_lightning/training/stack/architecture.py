"""Inspect an architecture once, on a few records, before anything expensive starts."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from mia_lightning.datasets.form import Records, each_of, first_few, moved
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.by_form import OF_NUMBERS, check_takes
from mia_lightning.models.wrapped import unwrapped
from mia_lightning.seeds import isolated
from mia_lightning.settings.free_nodes import about_call
from mia_lightning.settings.words import Words
from mia_lightning.tasks import Classification, Task
from mia_lightning.training.stack.checked_outputs import brief, check_outputs, path_of_failure
from mia_lightning.training.stack.layers import MaskedBatchNorm, make_stackable
from mia_lightning.training.stack.outputs import Answer
from mia_lightning.training.stack.stack import FitsToRecords, MakeNetwork, Stack, slots_of
from mia_lightning.training.stack.way import ask


def _untrained(value: object) -> object:
    if isinstance(value, nn.Module):
        raise ValueError("it is a network")
    return value


MakesNetwork = Annotated[
    Callable[..., nn.Module],
    BeforeValidator(_untrained),
    Words("the class or function that makes an untrained network (a trained one to be attacked goes to `target`)"),
]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the inspection of an architecture found.

    Attributes:
        name: of the network's class.
        num_parameters: of one network.
        has_batch_norm: whether it has batch normalisation, for which a batch of one record has no meaning.
        mixes_records: whether padding would influence real records, so that only batches without padding are possible.
        refusal: why `vmap` cannot run it (one sentence that names the module); None where it can.
        fits_to_records: whether it takes something from its training records before training (`FitsToRecords`).
        has_convolutions: whether it has a convolution, which several models at once do not make faster on a CPU.
        takes_channels_last: whether it has 2-d convolutions, and runs with their weights laid out channels last; with a
            `view` behind a convolution it does not.
        probabilities_in: the modes, `train` or `eval`, in which it gives probabilities in the place of logits.
        gives_log_probabilities: whether what it gives are their logarithms.
        last_layer: its path and class, for sentences; "" where the outputs are no layer's.
        draws: whether its own training step draws random numbers, for which each model has seeds of its own.
        one_output: what its one output is, of which two columns are made; None where there is one a class.
        task: what its outputs stand for.
        gives: what it gives, and how it is asked for it, where that is unlike a forward that gives logits; clauses.
    """

    name: str
    num_parameters: int
    has_batch_norm: bool
    mixes_records: bool
    refusal: str | None
    fits_to_records: bool = False
    has_convolutions: bool = False
    takes_channels_last: bool = False
    probabilities_in: tuple[str, ...] = ()
    gives_log_probabilities: bool = False
    last_layer: str = ""
    draws: bool = False
    one_output: Answer | None = None
    task: Task = field(default_factory=Classification)
    gives: tuple[str, ...] = ()

    @property
    def gives_probabilities(self) -> bool:
        """Whether what it gives in eval mode are probabilities."""
        return "eval" in self.probabilities_in


NO_ARCHITECTURE = Architecture(name="none", num_parameters=0, has_batch_norm=False, mixes_records=False, refusal=None)
"""Where no network is trained."""


def bound_by(make: Any) -> dict[str, Any]:
    """The arguments that are set already: by a `functools.partial`, or several, also inside of what wraps them."""
    return _inside(make)[1]


def _inside(make: Any) -> tuple[Any, dict[str, Any]]:
    """The class or function inside, and the arguments that are set already."""
    bound: dict[str, Any] = {}
    while isinstance(make, partial) or hasattr(make, "__wrapped__"):
        bound = {**getattr(make, "keywords", {}), **bound}
        make = make.func if isinstance(make, partial) else make.__wrapped__
    return make, bound


def bind_shapes(
    make: Callable[..., nn.Module],
    input_shape: tuple[int, ...] | dict[str, tuple[int, ...]],
    num_classes: int,
    others: Mapping[str, object] | None = None,
) -> MakeNetwork:
    """`make` with `input_shape` and `num_classes` filled in, as far as it takes parameters of these names, still open.

    `num_outputs` is another name of `num_classes`, which fits labels and numbers, too. `others`, which the form of
    records says (`Form.parameters`), are filled in where it names them.

    A function that takes any name (`**kwargs`) is called to find out: with both, then with `num_classes` alone, which
    the models of torchvision need, then with neither.
    """
    try:
        takes = inspect.signature(make).parameters
    except (TypeError, ValueError):  # a builtin without a signature takes nothing by name
        return make
    offered: dict[str, object] = {"input_shape": input_shape, "num_classes": num_classes}
    if "num_outputs" in takes:
        offered["num_outputs"] = num_classes
    bound = bound_by(make)
    offered = {name: value for name, value in offered.items() if name not in bound}
    told = {name: value for name, value in (others or {}).items() if name in takes and name not in bound}
    make = partial(make, **told) if told else make
    named = {name: value for name, value in offered.items() if name in takes}
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values()):
        return partial(make, **named)
    without_shape = {name: value for name, value in offered.items() if name != "input_shape"}
    for filled in (offered, {**without_shape, **named}, named):
        try:
            with isolated(0, "which names it takes"):
                make(**filled)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                break
        except Exception:  # of the user's own code: it is raised again where the network is made for use
            break
        else:
            return partial(make, **filled)
    return partial(make, **named)


def bind_form(make: Callable[..., nn.Module], population: Population) -> MakeNetwork:
    """`bind_shapes` for the records of a population: their shape or, of records with a form, what the form says.

    Raises:
        InputError: it is an architecture of this package that takes other records.
    """
    made, told = _inside(make)
    check_takes(make, made, told, population)
    form = population.form
    if form is None:
        of_numbers = dict(zip(OF_NUMBERS, (math.prod(population.input_shape), ()), strict=True))
        return bind_shapes(make, population.input_shape, population.num_classes, of_numbers)
    return bind_shapes(make, form.seen_shape, population.num_classes, form.parameters())


def inspect_architecture(
    make_network: MakeNetwork, population: Population, *, trainable: bool = True, trains_itself: bool = False
) -> Architecture:
    """Run one network on a few records, alone and under `vmap`.

    Args:
        trainable: whether it is to be trained; an existing target need only give logits in eval mode.
        trains_itself: whether it is trained by a step of its own, of which its answers in train mode are no part.

    Raises:
        InputError: it is no `nn.Module` or a wrapped one, fails on the records, does not give `[B, C]` in both modes,
            has lazy or no parameters, computes with tensors that a stack cannot hold, assigns buffers anew, or draws
            random numbers that a stack cannot key by model.
    """
    with isolated(0, "inspection"):
        network = _made(make_network)
        name = type(network).__name__
        if any(isinstance(p, UninitializedParameter) for p in network.parameters()):
            raise InputError(f"The model {name} has lazy layers; give their input sizes, so that it can be stacked.")
        parameters = [p for p in network.parameters() if p.requires_grad or not trainable]
        if not parameters:
            raise InputError(f"The model {name} has no trainable parameters; there is nothing to train.")
        if trainable:
            _check_weights(network, name)
            _check_new(make_network, network)
            _check_memory(network, name)
        x_B = moved(few_records(network, population), "cpu")
        stackable = make_stackable(network.cpu(), 0, "inspection")
        by_forward = trainable and not trains_itself
        found = check_outputs(stackable, x_B, population, name=name, trainable=by_forward)
        if by_forward:
            _check_training(stackable, first_few(x_B, 2), name)
        _check_state(make_network, x_B, name)
        x_B = first_few(x_B, 2)
        return Architecture(
            name=name,
            num_parameters=sum(p.numel() for p in parameters),
            has_batch_norm=any(isinstance(layer, MaskedBatchNorm) for layer in stackable.modules()),
            has_convolutions=any(isinstance(layer, _ConvNd) for layer in stackable.modules()),
            mixes_records=by_forward and _mixes_records(make_network, x_B),
            refusal=_vmap_refusal(make_network, x_B, by_forward),
            fits_to_records=isinstance(network, FitsToRecords),
            takes_channels_last=_takes_channels_last(make_network, x_B, trainable),
            probabilities_in=found.probabilities_in,
            gives_log_probabilities=found.gives_log_probabilities,
            last_layer=found.last_layer,
            one_output=found.one_output,
            task=population.task,
            gives=found.gives,
        )


def few_records(network: nn.Module, population: Population) -> Records:
    """Three records `[3, *features]` of the population, in the floating-point type of the network's parameters."""
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    return population.records(torch.arange(3, device=population.device) % len(population), dtype)


def _made(make_network: MakeNetwork) -> nn.Module:
    try:
        network = make_network()
    except InputError:
        raise
    except Exception as error:  # the user's own code
        raise about_call(error, make_network, "model", filled=("input_shape", "num_classes")) from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"`model` made a {type(network).__name__}, not a torch.nn.Module; give a class or function that does"
            + (", and an estimator by `target`." if hasattr(network, "fit") else ".")
        )
    if isinstance(network, torch.jit.ScriptModule) or unwrapped(network) is not network:
        raise InputError(
            f"`model` made a {type(network).__name__}, which a stack cannot train; make the plain network inside."
        )
    return network


def _check_weights(network: nn.Module, name: str) -> None:
    """Refuse parameters and buffers without values, or without a place in memory for each of their numbers."""
    for path, ((registry, key), *_) in slots_of(network).items():
        tensor: Tensor = registry[key]
        if tensor.is_meta:
            raise InputError(f"The model {name} has `{path}` on the meta device, without values; make it on the CPU.")
        if tensor.layout is not torch.strided:
            raise InputError(
                f"The model {name} has `{path}` as a sparse tensor, which a stack cannot hold; make it a dense one."
            )


def _check_new(make_network: MakeNetwork, network: nn.Module) -> None:
    """Refuse a function that gives the same network each time: all models of a stack would begin as one."""
    if make_network() is network:
        raise InputError(
            f"`model` gives the same {type(network).__name__} each time; give the class or a function that makes a new "
            "one (a trained network to be attacked goes to `target`)."
        )


def _check_memory(network: nn.Module, name: str) -> None:
    """Refuse parameters and buffers that share memory without being one, which steps of training would change twice."""
    extents = []
    for path, ((registry, key), *_) in slots_of(network).items():
        tensor: Tensor = registry[key]
        if tensor.layout is torch.strided and tensor.numel() and not tensor.is_meta:
            reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
            extents.append((tensor.data_ptr(), tensor.data_ptr() + reach * tensor.element_size(), path))
    extents.sort()
    for (_, end, path), (start, _, other) in pairwise(extents):
        if start < end:
            raise InputError(
                f"The model {name} has `{path}` and `{other}` in the same memory, though they are two tensors, and a "
                "stack would part them; make them one, as in self.b.weight = self.a.weight, or give each its own."
            )


def _check_state(make_network: MakeNetwork, x_B: Records, name: str) -> None:
    """Refuse a network that computes with other tensors than its parameters and buffers, which alone a stack holds."""
    stack = Stack.build(make_network, [0], seed=0, role="inspection").cpu().eval()
    with isolated(1, "inspection"):  # of another initialisation
        alone = make_network().cpu().eval()
    own = {path: registry[key] for path, ((registry, key), *_) in slots_of(alone).items()}
    state = stack.state_of(0)
    with torch.no_grad():
        for path in state.keys() & own.keys():
            if state[path].is_floating_point():
                state[path] = state[path] * 1.05 + 0.01
            own[path].copy_(state[path])
        try:
            expected_BC, found_BC = ask(alone, x_B).double(), stack.call_one(state, x_B).double()
        except Exception:  # of the user's own code, for which the other values are none, such as indices
            return
    scale = float(expected_BC.abs().nan_to_num(0.0, 0.0, 0.0).max())
    epsilon = 1e3 * torch.finfo(stack.dtype).eps
    if not torch.allclose(found_BC, expected_BC, rtol=epsilon, atol=epsilon * scale, equal_nan=True):
        raise InputError(
            f"The model {name} computes with tensors that are none of its parameters and buffers, such as those of "
            "layers in a plain list, and a stack would mix up its networks; register them (torch.nn.ModuleList, "
            "register_buffer)."
        )


def _check_training(network: nn.Module, x_B: Records, name: str) -> None:
    """Refuse, on one batch in train mode, a network that would depend on its neighbours or lose buffers in a stack."""
    buffers = dict(network.named_buffers())
    drawing: list[str] = []
    handles = []
    for path, layer in network.named_modules():
        before: list[Tensor] = []

        def enter(*_: object, before: list[Tensor] = before) -> None:
            before.append(torch.get_rng_state())

        def leave(*_: object, before: list[Tensor] = before, path: str = path) -> None:
            if not torch.equal(before.pop(), torch.get_rng_state()):
                drawing.append(path or "the model itself")

        handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    network.train()
    output = ask(network, x_B)
    for handle in handles:
        handle.remove()
    if not output.requires_grad:
        raise InputError(
            f"The model {name} gives logits that have no gradient, as under torch.no_grad or after detach, so that "
            "nothing can be trained; let its forward compute them from its parameters."
        )
    if drawing:  # the innermost module leaves first
        raise InputError(
            f"The model {name} draws random numbers in its module `{drawing[0]}` that cannot be keyed by model, so a "
            "network would depend on its neighbours in the stack; use torch.nn.Dropout modules, or set that "
            "module's dropout to 0."
        )
    lost = [path for path, buffer in network.named_buffers() if buffer is not buffers.get(path)]
    if lost:
        raise InputError(
            f"The model {name} assigns its buffer `{lost[0]}` anew in forward, which a stack cannot keep; update it in "
            "place, as in self.buffer.copy_(value)."
        )


def _mixes_records(make_network: MakeNetwork, x_B: Records) -> bool:
    """Whether a padded record, though masked out, changes the logits of the others."""
    stack = Stack.build(make_network, [0], seed=0, role="inspection").cpu().train()
    plain_BC = stack.call_one(stack.state_of(0), x_B)
    stack = Stack.build(make_network, [0], seed=0, role="inspection").cpu().train()
    padded = each_of(x_B, lambda x: torch.cat([x, x[:1]]))
    is_real_B = torch.tensor([True, True, False])
    padded_BC = stack.call_one(stack.state_of(0), padded, is_real_B=is_real_B)[:2]
    return not torch.allclose(plain_BC, padded_BC, rtol=1e-3, atol=1e-4, equal_nan=True)


def _takes_channels_last(make_network: MakeNetwork, x_B: Records, trainable: bool) -> bool:
    stack = Stack.build(make_network, [0], seed=0, role="inspection").cpu().train(trainable)
    if not any(isinstance(layer, nn.Conv2d) for layer in stack.networks.modules()):
        return False
    stack.use_channels_last()
    try:
        output = stack.call_one(stack.state_of(0), x_B).sum()
        if trainable:
            output.backward()
    except Exception:  # of a view that the layout does not allow, or of the user's own code
        return False
    return True


def _vmap_refusal(make_network: MakeNetwork, x_B: Records, trainable: bool) -> str | None:
    stack = Stack.build(make_network, [0, 1], seed=0, role="inspection").cpu().train(trainable)
    x_KB = each_of(x_B, lambda x: torch.stack([x, x]))
    is_real_KB = torch.ones(2, 2, dtype=torch.bool)
    with path_of_failure(stack.networks) as path:
        try:
            logits_KBC = stack(x_KB, is_real_KB=is_real_KB)
            if trainable:
                logits_KBC.sum().backward()
            return None
        except Exception as error:  # vmap raises errors of many types; the loop runs the architecture in any case
            layer = stack.networks.get_submodule(path[-1]) if path[-1] != "the model itself" else stack.networks
            return f"vmap cannot run `{path[-1]}` ({type(layer).__name__}): {brief(error)}"
