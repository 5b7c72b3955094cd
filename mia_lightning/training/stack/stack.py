"""K networks of one architecture as one set of tensors: the first of the project's three ideas."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import stack_module_state, vmap

from mia_lightning.datasets.form import Records, first_of
from mia_lightning.errors import InputError
from mia_lightning.seeds import isolated
from mia_lightning.store.documents import DamagedError
from mia_lightning.store.tensors import save_tensors, saved_tensors
from mia_lightning.training.stack.dense import DenseLayers
from mia_lightning.training.stack.layers import CounterDropout, MaskedBatchNorm, make_stackable
from mia_lightning.training.stack.way import MakeNetwork as MakeNetwork
from mia_lightning.training.stack.way import ask, kept_way

Slot = tuple[dict[str, Any], str]
"""A registry of a layer, of its parameters or of its buffers, and the name there."""


@runtime_checkable
class FitsToRecords(Protocol):
    """A network that takes something from its training records, such as the scale of its inputs."""

    def fit_to(self, x_N: Any) -> None:
        """Called once, before training, with the network's training records `[N, *features]`, numbers in float32.

        They are one tensor or, where the network takes named tensors, a dict of them.
        """
        ...


class Stack(nn.Module):
    """Networks of one architecture whose parameters and buffers carry a leading model axis K.

    `networks` has the module tree of a single network, so its `state_dict` has the names of a single network,
    each tensor of shape `[K, ...]`.

    Args:
        networks: K networks of equal architecture, made stackable by `make_stackable`; the first is taken over.
        make_network: builds an ordinary network of this architecture.
    """

    def __init__(self, networks: Sequence[nn.Module], make_network: MakeNetwork) -> None:
        super().__init__()
        self.make_network = make_network
        parameters, buffers = stack_module_state(list(networks))
        self.networks = networks[0]
        self._dropouts = [layer for layer in self.networks.modules() if isinstance(layer, CounterDropout)]
        self._supplied_by_call = [
            (f"{path}.{name}" if path else name, name)
            for path, layer in self.networks.named_modules()
            for kind, name in ((CounterDropout, "step"), (MaskedBatchNorm, "is_real"))
            if isinstance(layer, kind)
        ]
        self._slots = slots_of(self.networks)
        self._names = [name for name, _ in self.networks.named_parameters()]
        way = kept_way(self.networks)
        self._dense = DenseLayers.of(self.networks) if way is None or way.is_a_call else None
        self._is_channels_last = False
        self._assign({**parameters, **buffers})

    @classmethod
    def build(
        cls,
        make_network: MakeNetwork,
        models: Sequence[int],
        *,
        seed: int,
        role: str,
        training_records: Callable[[int], Records] | None = None,
    ) -> "Stack":
        """Freshly initialised networks; the weights of model k depend on (`seed`, `role`, k) and nothing else.

        Args:
            training_records: the records of the network at a place of `models`, for networks with a method `fit_to`.

        Raises:
            InputError: the networks are not of one class.
        """
        networks = []
        for place, k in enumerate(models):
            with isolated(seed, role, k, "initialisation"):
                network = make_stackable(make_network(), seed, role, k)
            if training_records is not None and isinstance(network, FitsToRecords):
                network.fit_to(training_records(place))
            networks.append(network)
            if not isinstance(network, type(networks[0])):
                raise InputError(
                    f"`model` makes networks of the class {type(network).__name__}, which is defined anew for each; "
                    "define it once, outside the function that makes a network."
                )
        return cls(networks, make_network)

    @property
    def num_models(self) -> int:
        return next(iter(self.networks.parameters())).shape[0]

    @property
    def device(self) -> torch.device:
        return next(iter(self.networks.parameters())).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters; float32 where they are whole numbers."""
        return next((p.dtype for p in self.networks.parameters() if p.is_floating_point()), torch.float32)

    def forward(
        self, x: Records, *, step: int | Tensor = 0, is_real_KB: Tensor | None = None, shared: bool = False
    ) -> Tensor:
        """Logits `[K, B, C]` of all models: by `vmap`, or of a plain multilayer perceptron layer by layer.

        Args:
            x: `[K, B, *features]`, a batch for each model; with `shared`, `[B, *features]`, the same for all. Named
                tensors are keyword arguments.
            step: number of the optimiser step, which the draws of dropout depend on.
            is_real_KB: bool; False marks padding, which enters no statistic of a batch. None: no padding.
        """
        if self._dense is not None and not shared and isinstance(x, Tensor) and self._dense.take(x):
            return self._dense(x)
        axes = (0, None if shared else 0, None if is_real_KB is None else 0)

        def one(state: dict[str, Tensor], x_B: Records, is_real_B: Tensor | None) -> Tensor:
            return self.call_one(state, x_B, step=step, is_real_B=is_real_B)

        logits_KBC: Tensor = vmap(one, in_dims=axes, randomness="error")(self.state(), x, is_real_KB)
        return logits_KBC

    def call_one(
        self, state: Mapping[str, Tensor], x_B: Records, *, step: int | Tensor = 0, is_real_B: Tensor | None = None
    ) -> Tensor:
        """Logits `[B, C]` of the architecture with the parameters and buffers in `state`, of one model.

        Args:
            step: what the draws of dropout depend on beside their keys; an int64 scalar under `vmap` over records.
            is_real_B: bool; as for `forward`.
        """
        with self.as_one(state, first_of(x_B).device, step=step, is_real_B=is_real_B):
            logits_BC: Tensor = ask(self.networks, x_B)
        return logits_BC

    @contextmanager
    def as_one(
        self,
        state: Mapping[str, Tensor],
        device: torch.device,
        *,
        step: int | Tensor = 0,
        is_real_B: Tensor | None = None,
    ) -> Iterator[nn.Module]:
        """Within the context, `networks` is the network of one model, with the parameters and buffers in `state`."""
        context: dict[str, Tensor] = {}
        if self._supplied_by_call:
            if not isinstance(step, Tensor):  # a copy from the host would wait for the device
                step = torch.full((), step, dtype=torch.int64, device=device)
            given = {"step": step}
            given["is_real"] = torch.empty(0, dtype=torch.bool, device=device) if is_real_B is None else is_real_B
            context = {path: given[name] for path, name in self._supplied_by_call}
        for dropout in self._dropouts:
            vars(dropout)["calls"] = 0  # a module takes long to set an attribute
        with self.holding({**state, **context}):
            yield self.networks

    @contextmanager
    def holding(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the context, the networks hold these tensors in the place of their own.

        `torch.func.functional_call` would do the same, but goes by the paths of layers: a slot of a layer under two
        paths is swapped twice, and given back once.
        """
        swapped = [(slot, tensor) for name, tensor in state.items() for slot in self._slots[name]]
        own = [registry[name] for (registry, name), _ in swapped]
        try:
            for (registry, name), tensor in swapped:
                registry[name] = tensor
            yield
        finally:
            for ((registry, name), _), tensor in zip(swapped, own, strict=True):
                registry[name] = tensor

    def _apply(self, *args: Any, **kwargs: Any) -> "Stack":
        """Move or convert all tensors; a buffer that several layers share stays one."""
        super()._apply(*args, **kwargs)
        for (first, own), *others in self._slots.values():
            for registry, name in others:
                registry[name] = first[own]
        return self

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers of all models by name, `[K, ...]`, tied ones once."""
        supplied = {path for path, _ in self._supplied_by_call}
        return {path: registry[name] for path, ((registry, name), *_) in self._slots.items() if path not in supplied}

    def trainable(self) -> dict[str, Tensor]:
        """The parameters of all models that are trained, by name, `[K, ...]`."""
        slots = ((name, self._slots[name][0]) for name in self._names)
        parameters = ((name, registry[own]) for name, (registry, own) in slots)
        return {name: parameter for name, parameter in parameters if parameter.requires_grad}

    def state_of(self, k: int) -> dict[str, Tensor]:
        """Parameters and buffers of model k, as views into the stack."""
        return {name: tensor[k] for name, tensor in self.state().items()}

    def states(self) -> Iterator[dict[str, Tensor]]:
        """Parameters and buffers of each model in turn, as detached views into the stack."""
        state = self.state()
        for of_model in zip(*(tensor.detach().unbind() for tensor in state.values()), strict=True):
            yield dict(zip(state, of_model, strict=True))

    def use_channels_last(self) -> None:
        """Lay out the weights of 2-d convolutions channels last in each model, which then computes in this format.

        This is done in place and changes no result. An optimiser that already has a state must be adapted
        (`mia_lightning.training.step.optimizers.match_layout`).
        """
        self._is_channels_last = True
        for layer in self.networks.modules():
            weight = layer._parameters.get("weight") if isinstance(layer, nn.Conv2d) else None
            if weight is not None:
                weight.data = weight.data.movedim(2, -1).contiguous().movedim(-1, 2)  # [K, out, in, height, width]
                if layer.in_channels == 1 and _channel_last not in layer._forward_pre_hooks.values():
                    layer.register_forward_pre_hook(_channel_last)

    def model(self, k: int) -> nn.Module:
        """Model k as an ordinary network of the architecture, in eval mode, sharing nothing with the stack."""
        with isolated(0, "initialisation that is overwritten"):
            network = self.make_network().to(self.device, self.dtype)
        network.load_state_dict({name: t[k].detach().clone() for name, t in self.networks.state_dict().items()})
        return network.eval()

    def save(self, path: Path) -> None:
        """Write parameters and persistent buffers as safetensors, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        save_tensors({name: t.contiguous() for name, t in self._persistent().items()}, path)

    @classmethod
    def load(cls, path: Path, make_network: MakeNetwork) -> "Stack":
        """Read a file that `save` wrote.

        Raises:
            InputError: the file is missing or damaged, or holds another architecture.
        """
        try:
            tensors, has_checksum = saved_tensors(path)
        except DamagedError as damage:
            raise InputError(f"The stack {path} {damage}; give a file made by Stack.save.") from damage
        with isolated(0, "initialisation that is overwritten"):
            stack = cls([make_stackable(make_network(), 0, "loaded")], make_network)
        expected = {name: (t.shape[1:], t.is_floating_point()) for name, t in stack._persistent().items()}
        found = {name: (t.shape[1:], t.is_floating_point()) for name, t in tensors.items()}
        if expected != found:
            odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            raise InputError(
                f"The stack {path} holds another architecture: it differs at `{odd[0]}` "
                f"({len(odd)} tensors in all); build it with the model it was trained with."
            )
        if not has_checksum:
            raise InputError(f"The stack {path} has no checksum; give a file made by Stack.save.")
        num_models = len(next(iter(tensors.values())))
        keys = {name: buffer.expand(num_models, *buffer.shape[1:]) for name, buffer in stack._own_buffers().items()}
        stack._assign({**keys, **tensors})
        return stack

    @classmethod
    def concatenate(cls, stacks: Sequence["Stack"], order: Tensor) -> "Stack":
        """One stack of the models of all, taken in `order` (int64); the first stack is taken over."""
        states = [stack.state() for stack in stacks]
        order = order.to(stacks[0].device)
        # One tensor after the other: all of them joined and not yet in order would be a third copy in memory.
        joined = {name: torch.cat([state[name].detach() for state in states])[order] for name in states[0]}
        stacks[0]._assign(joined)
        return stacks[0]

    def _own_buffers(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state().items() if not isinstance(tensor, nn.Parameter)}

    def _persistent(self) -> dict[str, Tensor]:
        kept = self.networks.state_dict().keys()
        return {name: tensor.detach() for name, tensor in self.state().items() if name in kept}  # tied ones once

    def _assign(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the parameters and buffers of these names, tied ones included, by `tensors`."""
        for path, slots in self._slots.items():
            if path not in tensors:
                continue
            old = slots[0][0][slots[0][1]]
            is_parameter = isinstance(old, nn.Parameter)
            new = nn.Parameter(tensors[path].detach(), old.requires_grad) if is_parameter else tensors[path]
            for registry, name in slots:
                registry[name] = new
        if self._is_channels_last:
            self.use_channels_last()


def _channel_last(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Images of one channel as a view whose strides say that the channel comes last: of size one, it does not matter
    where, and a convolution would take them, and so give all that follows, for channels first."""
    x, *others = inputs
    return (x.squeeze(-3).unsqueeze(-1).movedim(-1, -3), *others)


def slots_of(network: nn.Module) -> dict[str, list[Slot]]:
    """Where each parameter and buffer stands, by its first name: in one slot, or in several if it is tied.

    A layer under several names has its slots once.
    """
    slots: dict[int, list[Slot]] = {}
    for layer in network.modules():
        for registry in (layer._parameters, layer._buffers):
            for name, tensor in registry.items():
                if tensor is not None:
                    slots.setdefault(id(tensor), []).append((registry, name))
    named = [*network.named_parameters(), *network.named_buffers()]
    return {path: slots.pop(id(tensor)) for path, tensor in named if id(tensor) in slots}
