"""Inspect an architecture once, on a few records, before anything expensive starts."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import isolated
from mia_lightning.settings.free_nodes import about_call
from mia_lightning.settings.words import Words
from mia_lightning.training.stack.layers import MaskedBatchNorm, make_stackable
from mia_lightning.training.stack.stack import FitsToRecords, MakeNetwork, Stack


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
        takes_channels_last: whether it runs with the weights of its convolutions laid out channels last; with a `view`
            behind a convolution it does not.
    """

    name: str
    num_parameters: int
    has_batch_norm: bool
    mixes_records: bool
    refusal: str | None
    fits_to_records: bool = False
    takes_channels_last: bool = True


def bind_shapes(make: Callable[..., nn.Module], input_shape: tuple[int, ...], num_classes: int) -> MakeNetwork:
    """`make` with `input_shape` and `num_classes` filled in, as far as it takes parameters of these names.

    A function that takes any name (`**kwargs`) is called to find out: with both, then with `num_classes` alone, which
    the models of torchvision need, then with neither.
    """
    try:
        takes = inspect.signature(make).parameters
    except (TypeError, ValueError):  # a builtin without a signature takes nothing by name
        return make
    offered: dict[str, object] = {"input_shape": input_shape, "num_classes": num_classes}
    named = {name: value for name, value in offered.items() if name in takes}
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values()):
        return partial(make, **named)
    for filled in (offered, {"num_classes": num_classes, **named}, named):
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


def inspect_architecture(make_network: MakeNetwork, population: Population, *, trainable: bool = True) -> Architecture:
    """Run one network on two records, alone and under `vmap`.

    Args:
        trainable: whether it is to be trained; an existing target need only give logits in eval mode.

    Raises:
        InputError: it is no `nn.Module`, fails on the records, does not give `[B, C]`, has lazy or no parameters,
            assigns buffers anew, or draws random numbers that a stack cannot key by model.
    """
    with isolated(0, "inspection"):
        network = _made(make_network)
        name = type(network).__name__
        if any(isinstance(p, UninitializedParameter) for p in network.parameters()):
            raise InputError(f"The model {name} has lazy layers; give their input sizes, so that it can be stacked.")
        parameters = [p for p in network.parameters() if p.requires_grad or not trainable]
        if not parameters:
            raise InputError(f"The model {name} has no trainable parameters; there is nothing to train.")
        dtype = next(p.dtype for p in network.parameters() if p.is_floating_point())
        x_B = population.records(torch.arange(3, device=population.device) % len(population), dtype).cpu()
        stackable = make_stackable(network.cpu(), 0, "inspection")
        for size in (2, 3):  # a batch size that is written into the network fails for one of them
            _check_output(stackable, x_B[:size], population.num_classes, name)
        x_B = x_B[:2]
        if trainable:
            _check_training(stackable, x_B, name)
        return Architecture(
            name=name,
            num_parameters=sum(p.numel() for p in parameters),
            has_batch_norm=any(isinstance(layer, MaskedBatchNorm) for layer in stackable.modules()),
            mixes_records=trainable and _mixes_records(make_network, x_B),
            refusal=_vmap_refusal(make_network, x_B, trainable),
            fits_to_records=isinstance(network, FitsToRecords),
            takes_channels_last=_takes_channels_last(make_network, x_B),
        )


def _made(make_network: MakeNetwork) -> nn.Module:
    try:
        network = make_network()
    except InputError:
        raise
    except Exception as error:  # the user's own code
        raise about_call(error, make_network, "model", filled=("input_shape", "num_classes")) from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"`model` made a {type(network).__name__}, not a torch.nn.Module; give a class or function that does."
        )
    return network


def _check_output(network: nn.Module, x_B: Tensor, num_classes: int, name: str) -> None:
    shape = tuple(x_B.shape)
    with _path_of_failure(network) as path:
        try:
            logits = network(x_B)
        except Exception as error:  # the user's own code may raise anything
            raise InputError(
                f"The model {name} fails on a batch of records of shape {shape}, in its module `{path[-1]}`: "
                f"{_brief(error)}."
            ) from error
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (len(x_B), num_classes):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"The model {name} gives {found} for records of shape {shape}; it must give logits of shape "
            f"[B, C], here [{len(x_B)}, {num_classes}]."
        )
    if not logits.is_floating_point():
        raise InputError(
            f"The model {name} gives numbers of type {str(logits.dtype).removeprefix('torch.')}; it must give logits, "
            "which are floating-point numbers."
        )


def _check_training(network: nn.Module, x_B: Tensor, name: str) -> None:
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
    network(x_B)
    for handle in handles:
        handle.remove()
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


def _mixes_records(make_network: MakeNetwork, x_B: Tensor) -> bool:
    """Whether a padded record, though masked out, changes the logits of the others."""
    stack = Stack.build(make_network, [0], seed=0, role="inspection").cpu().train()
    plain_BC = stack.call_one(stack.state_of(0), x_B)
    stack = Stack.build(make_network, [0], seed=0, role="inspection").cpu().train()
    padded = torch.cat([x_B, x_B[:1]])
    is_real_B = torch.tensor([True, True, False])
    padded_BC = stack.call_one(stack.state_of(0), padded, is_real_B=is_real_B)[:2]
    return not torch.allclose(plain_BC, padded_BC, rtol=1e-3, atol=1e-4, equal_nan=True)


def _takes_channels_last(make_network: MakeNetwork, x_B: Tensor) -> bool:
    stack = Stack.build(make_network, [0], seed=0, role="inspection").cpu().train()
    stack.use_channels_last()
    try:
        stack.call_one(stack.state_of(0), x_B).sum().backward()
    except RuntimeError:  # of a view that the layout does not allow
        return False
    return True


def _vmap_refusal(make_network: MakeNetwork, x_B: Tensor, trainable: bool) -> str | None:
    stack = Stack.build(make_network, [0, 1], seed=0, role="inspection").cpu().train(trainable)
    x_KB = torch.stack([x_B, x_B])
    is_real_KB = torch.ones(2, 2, dtype=torch.bool)
    with _path_of_failure(stack.networks) as path:
        try:
            logits_KBC = stack(x_KB, is_real_KB=is_real_KB)
            if trainable:
                logits_KBC.sum().backward()
            return None
        except Exception as error:  # vmap raises errors of many types; the loop runs the architecture in any case
            layer = stack.networks.get_submodule(path[-1]) if path[-1] != "the model itself" else stack.networks
            return f"vmap cannot run `{path[-1]}` ({type(layer).__name__}): {_brief(error)}"


@contextmanager
def _path_of_failure(network: nn.Module) -> Iterator[list[str]]:
    """Within the context, the last entry of the list is the path of the innermost module that is running."""
    running = ["the model itself"]
    handles = []
    for path, layer in network.named_modules():
        if path:
            handles += [
                layer.register_forward_pre_hook(lambda *_, path=path: running.append(path)),
                layer.register_forward_hook(lambda *_: (running.pop(), None)[1]),
            ]
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def _brief(error: Exception) -> str:
    sentence = first_line(error).split(". ")[0]
    return sentence if len(sentence) <= 160 else sentence[:157] + "..."
