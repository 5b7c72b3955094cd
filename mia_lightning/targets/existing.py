"""A target that is trained already: a module in memory."""

import copy
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from mia_lightning.datasets.form import each_of, first_few, moved
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.wrapped import is_of, unwrapped
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import OutputForm, Share
from mia_lightning.targets.interface import Target
from mia_lightning.targets.own_forward import OwnForward, in_eval_mode
from mia_lightning.training.own.lightning import lightning_module
from mia_lightning.training.own.refusals import check_batches
from mia_lightning.training.setup import Setup
from mia_lightning.training.stack.architecture import (
    Architecture,
    few_records,
    inspect_architecture,
)
from mia_lightning.training.stack.checked_outputs import check_outputs
from mia_lightning.training.stack.layers import make_stackable
from mia_lightning.training.stack.outputs import some_records
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.stack.way import Asked, kept_way, way_of
from mia_lightning.training.trained import TrainedStack


@settings("target", eq=False)
class Existing(Target):
    """A trained `nn.Module`; it is copied, never changed.

    Attributes:
        output: what it gives; auto for what it is seen to give.
        expected_accuracy: on records that it was not trained on, as it was seen elsewhere; None for unknown.
    """

    network: nn.Module
    output: OutputForm = "auto"
    expected_accuracy: Share | None = None
    count: ClassVar[int] = 1
    is_trained_here: ClassVar[bool] = False
    takes_recipe: ClassVar[bool] = False

    def obtain(self, setup: Setup) -> TrainedStack:
        """The module as a stack of one, in its own floating-point type; one that no stack can hold is run as it is.

        What it gives is made outputs `[B, C]` (`training/stack/way.py`).

        Raises:
            InputError: it does not give `[B, C]` on the population's records in eval mode, or has weights that are not
                finite or not here.
        """
        trained = given_models(self.network, setup.population, setup.engine.device, self.output)
        own = trained.architecture
        if own.one_output is not None:
            setup.engine.stages.remark(
                f"The target gives one number a record: it is taken as the {own.one_output} of the second class, "
                f"{setup.population.class_names[1]}."
            )
        elif own.gives_probabilities:
            setup.engine.stages.remark(
                f"The target gives probabilities{f', by its last layer {own.last_layer}' if own.last_layer else ''}: "
                "they are taken as such, not as logits."
            )
        if own.gives:
            setup.engine.stages.remark(f"Of the target {own.name}: {'; '.join(own.gives)}.", kind="note")
        x_B = each_of(few_records(self.network, setup.population), partial(_moved, trained.stack))
        of_two, of_three = (trained.log_probability(first_few(x_B, size))[0, :2] for size in (2, 3))
        if not torch.allclose(of_two, of_three, atol=0.01):
            setup.engine.stages.remark(
                "The target answers a record otherwise in another batch, as networks do in train mode: its figures "
                "depend on how the records were divided, and low ones are no evidence.",
                kind="broken",
            )
        return trained


def given_models(
    network: nn.Module, population: Population, device: torch.device, output: OutputForm = "auto"
) -> TrainedStack:
    """A trained module, inside whatever wrappers, as a stack of one: on the device, or by its own forward where it is.

    Args:
        output: what it gives.

    Raises:
        InputError: as `Existing.obtain`.
    """
    network = unwrapped(network)
    name = type(network).__name__
    what = f"The module {name}"
    _check_here(network, what)
    module = lightning_module(network)
    if module is not None:
        check_batches(module, what, few_records(network, population))
    check_finite(network, what)
    trained = _trained_network(_asked(network, population, output), population, device, name)
    return replace(trained, architecture=replace(trained.architecture, name=name))


def _trained_network(network: nn.Module, population: Population, device: torch.device, name: str) -> TrainedStack:
    own = _by_own_forward(network, population, name)
    has_plain_weights = all(
        isinstance(value, Tensor) and not value.is_quantized for value in network.state_dict().values()
    )
    is_script = any(isinstance(layer, torch.jit.ScriptModule) for layer in network.modules())
    if is_script or not has_plain_weights:  # which cannot be swapped
        return own
    try:
        trained = as_stack(network, population, device)
        x_B = few_records(network, population)
        expected_BC = own.log_probability(moved(x_B, own.stack.device))[0].cpu()
        found_BC = trained.log_probability(moved(x_B, device))[0].cpu()
    except Exception:  # what a stack refuses or cannot copy
        return own
    return trained if torch.allclose(found_BC, expected_BC, rtol=0.01, atol=0.01) else own


def _asked(network: nn.Module, population: Population, output: OutputForm) -> nn.Module:
    """The network with the way in which it is asked, if it is not made here with one, and that is not to call it."""
    if kept_way(network) is not None:
        return network
    try:
        x_B = some_records(network, population)
        way = way_of(network, x_B, population.num_classes, output, task=population.task, section="target")
    except InputError:
        raise
    except Exception:  # what it says is raised again where it is run
        return network
    return network if way.is_plain else Asked(network, way)


def as_stack(network: nn.Module, population: Population, device: torch.device) -> TrainedStack:
    """A trained module, which is copied, as a stack of one on the device.

    Args:
        population: for whose records it gives logits `[B, C]`.

    Raises:
        InputError: it does not give logits of this shape, or cannot be held by a stack.
    """
    network = copied(network).cpu()
    own = inspect_architecture(lambda: copy.deepcopy(network), population, trainable=False)
    stack = Stack([make_stackable(copy.deepcopy(network), 0, "existing")], lambda: copy.deepcopy(network))
    return _trained(stack.to(device).eval(), own, "stack" if own.refusal is None else "loop")


def copied(network: nn.Module) -> nn.Module:
    """A deep copy, also of a network that holds results of earlier computations, with compiled layers as they were."""
    held = [value for layer in network.modules() for value in vars(layer).values() if isinstance(value, Tensor)]
    memo: dict[int, object] = {id(value): value.detach().clone() for value in held if not value.is_leaf}
    copy_ = copy.deepcopy(network, memo)
    for layer in list(copy_.modules()):
        for name, child in list(layer.named_children()):
            setattr(layer, name, unwrapped(child) if hasattr(child, "_orig_mod") else child)
    return copy_


def _by_own_forward(network: nn.Module, population: Population, name: str) -> TrainedStack:
    stack = OwnForward(network)
    x_B = moved(few_records(network, population), stack.device)
    with in_eval_mode(network), torch.no_grad():
        found = check_outputs(network, x_B, population, name=name, trainable=False)
    own = Architecture(
        name=name,
        num_parameters=sum(p.numel() for p in network.parameters()),
        has_batch_norm=False,
        mixes_records=False,
        refusal=None,
        probabilities_in=found.probabilities_in,
        gives_log_probabilities=found.gives_log_probabilities,
        last_layer=found.last_layer,
        one_output=found.one_output,
        task=population.task,
        gives=found.gives,
    )
    return _trained(stack, own, "loop")


def _trained(stack: Stack, architecture: Architecture, execution: str) -> TrainedStack:
    none = torch.full((1,), -1)
    return TrainedStack(
        stack=stack,
        architecture=architecture,
        execution=execution,
        failed_epoch_K=none,
        stopped_epoch_K=none,
        train_loss_EK=torch.empty(0, 1, dtype=torch.float64),
        validation_loss_EK=None,
    )


def _moved(stack: Stack, x: Tensor) -> Tensor:
    return x.to(stack.device, stack.dtype if x.is_floating_point() else x.dtype)


def _check_here(network: nn.Module, what: str) -> None:
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if isinstance(value, UninitializedBuffer | UninitializedParameter):
            raise InputError(f"{what} has lazy layers that have seen no records, such as that of `{name}`; train it.")
        if value.is_meta:
            raise InputError(f"{what} has `{name}` on the meta device, without values; load its weights first.")
        if hasattr(value, "full_tensor") or is_of(network, "torch.distributed.fsdp", "FullyShardedDataParallel"):
            raise InputError(
                f"{what} has only a shard of `{name}`; gather the weights, and load them into the plain network."
            )


def check_finite(network: nn.Module, what: str) -> None:
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor) or value.is_quantized:
            continue
        if not bool((value if value.layout is torch.strided else value.to_dense()).isfinite().all()):
            raise InputError(
                f"{what} has NaN or infinite values in `{name}`; give the weights of a training that did not diverge."
            )
