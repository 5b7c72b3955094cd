"""What the fixed first layer of a network gives for a record, computed once and not at every step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mia_lightning.datasets.form import one_tensor
from mia_lightning.datasets.population import Population
from mia_lightning.training.stack.stack import Stack

MOST_BYTES = 2**28  # of what is kept; the layer of larger ones is computed at every step


@runtime_checkable
class ComputesOnce(Protocol):
    """A network whose records first pass a layer that is the same in every model and at every step.

    Attributes:
        computed_once: the path of that layer. It has buffers and no parameters, draws nothing, makes one tensor of each
            record by itself, and nothing else of the network sees the records.
    """

    computed_once: str


class ComputedOnce:
    """The outputs of a stack's fixed first layer, each kept from the first step that sees its record.

    A record passes the layer alone, so that its output depends neither on batches nor on other models.

    Args:
        stack: whose layer is asked.
        path: of the layer.
        population: the records, each of one tensor.
    """

    def __init__(self, stack: Stack, path: str, population: Population) -> None:
        self._stack, self._path, self._population = stack, path, population
        self._is_known_N = torch.zeros(len(population), dtype=torch.bool)
        self._row_NF = torch.empty(0)
        self._shape: tuple[int, ...] = ()  # of the output for a record
        self._stride: tuple[int, ...] = ()

    @classmethod
    def of(cls, stack: Stack, population: Population) -> "ComputedOnce | None":
        """None where there is no such layer, or its outputs would take too much memory; on a GPU it takes no time."""
        is_one = population.form is None or population.form.is_one
        if stack.device.type != "cpu" or not is_one or not isinstance(stack.networks, ComputesOnce):
            return None
        path = stack.networks.computed_once
        is_alike = all(
            not isinstance(tensor_K, nn.Parameter) and torch.equal(tensor_K, tensor_K[:1].expand_as(tensor_K))
            for name, tensor_K in stack.state().items()
            if name.startswith(f"{path}.")
        )
        if not is_alike:
            return None
        once = cls(stack, path, population)
        return once if len(population) * once._computed(torch.tensor([0]))[0].nbytes <= MOST_BYTES else None

    def __call__(self, index_KB: Tensor) -> Tensor:
        """The outputs for the records at these places, `[K, B, *features]`."""
        index_M = index_KB.flatten()
        is_known_M = self._is_known_N[index_M]
        if not bool(is_known_M.all()):
            self._keep(index_M[~is_known_M].unique())
        row_MF = self._row_NF.index_select(0, index_M)
        K, B = index_KB.shape
        return row_MF.as_strided((K, B, *self._shape), (B * row_MF.shape[1], row_MF.shape[1], *self._stride))

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Within the context the layer gives what it is given: its outputs."""
        layer = self._stack.networks.get_submodule(self._path)
        layer.forward = _given
        try:
            yield
        finally:
            del layer.forward

    @torch.no_grad()
    def _computed(self, index_B: Tensor) -> list[Tensor]:
        """The output for each of these records, `[*features]`."""
        x_B = one_tensor(self._population.records(index_B, self._stack.dtype))
        with self._stack.as_one(self._stack.state_of(0), x_B.device) as network:
            layer = network.get_submodule(self._path)
            return [layer(x_1)[0] for x_1 in x_B.split(1)]

    def _keep(self, index_B: Tensor) -> None:
        """Keep the numbers in the order in which they lie in memory, after which convolutions choose their format."""
        outputs = self._computed(index_B)
        if not self._row_NF.numel():  # what no record needs of the memory is never touched, and takes none
            self._shape, self._stride = tuple(outputs[0].shape), outputs[0].stride()
            reach = 1 + sum((size - 1) * step for size, step in zip(self._shape, self._stride, strict=True))
            if reach != outputs[0].numel():  # it has gaps, or is repeated
                self._stride = outputs[0].contiguous().stride()
            self._row_NF = torch.empty(len(self._is_known_N), outputs[0].numel(), dtype=outputs[0].dtype)
        size = (len(outputs), *self._shape)
        row_BF = self._row_NF.new_empty(len(outputs), self._row_NF.shape[1])
        torch.stack(outputs, out=row_BF.as_strided(size, (row_BF.shape[1], *self._stride)))
        self._row_NF.index_copy_(0, index_B, row_BF)
        self._is_known_N[index_B] = True


def _given(x: Tensor) -> Tensor:
    return x
