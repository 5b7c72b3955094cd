"""Networks that give two classes one number a record: the logit of the second class, or its probability."""

import copy
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import generator, isolated
from mia_lightning.training.stack.stack import MakeNetwork

Answer = Literal["logit", "probability"]
_OTHER_WEIGHTS = (-1, 2, -2, 30, -30, 1000, -1000)
"""Factors of all weights at once: with one of them a logit leaves [0, 1], also in half precision and deep networks."""


class TwoColumns(nn.Module):
    """A network with one output as one with two: logits `[0, z]` of the logit z, `[1 - p, p]` of the probability p."""

    def __init__(self, network: nn.Module, answer: Answer) -> None:
        super().__init__()
        self.network, self.answer = network, answer

    def forward(self, x_B: Tensor) -> Tensor:
        return _columns(self.network(x_B), self.answer)


def bind_one_output(make_network: MakeNetwork, population: Population) -> MakeNetwork:
    """The networks with two columns, where they have one output and there are two classes; else as they are.

    Cross-entropy of the two columns is the binary cross-entropy of the logit.
    """
    if population.num_classes != 2:
        return make_network
    with isolated(0, "one output"):
        try:
            answer = answer_of(make_network().eval(), population)
        except Exception:  # what it says is raised again where the network is made for use
            return make_network
    return make_network if answer is None else partial(with_two_columns, make_network, answer)


def with_two_columns(make_network: MakeNetwork, answer: Answer) -> nn.Module:
    """A network whose class and weights keep their names, with two columns."""
    network = make_network()
    network.register_forward_hook(partial(_after, answer=answer))
    return network


def one_output(network: nn.Module) -> Answer | None:
    """What the one output is of which the two columns of a network are made; None where it gives them itself."""
    if isinstance(network, TwoColumns):
        return network.answer
    hooks = [hook for hook in network._forward_hooks.values() if isinstance(hook, partial) and hook.func is _after]
    return hooks[0].keywords["answer"] if hooks else None


@torch.no_grad()
def answer_of(network: nn.Module, population: Population) -> Answer | None:
    """What the one output of a network in eval mode is; None where it does not give one floating-point number a record.

    A logit can lie in [0, 1] by chance; a probability lies there with any weights. A copy of the network on the CPU is
    therefore run with other weights; a network that cannot be copied is judged by its own alone.
    """
    parameters = [p for p in network.parameters() if p.is_floating_point()]
    dtype, device = (parameters[0].dtype, parameters[0].device) if parameters else (torch.float32, torch.device("cpu"))
    index = torch.arange(min(64, len(population)), device=population.device)
    x_B = population.records(index, dtype).to(device)
    few = network(x_B[:3])
    if not isinstance(few, Tensor) or not few.is_floating_point():
        return None
    if few.shape not in {(len(x_B[:3]), 1), (len(x_B[:3]),)}:
        return None
    if not _can_be_probability(network(x_B)):
        return "logit"
    try:
        other = copy.deepcopy(network).cpu()
        weights = [(p, p.clone()) for p in other.parameters() if p.is_floating_point()]
        draws = generator(0, "other weights")
        for factor in (*_OTHER_WEIGHTS, 0):
            for p, weight in weights:  # drawn where they are multiplied by 0, since weights of 0 stay so
                p.copy_(factor * weight if factor else torch.randn(p.shape, generator=draws))
            if not _can_be_probability(other(x_B.cpu())):
                return "logit"
    except Exception:  # of a network that cannot be copied, or runs on its own device alone
        pass
    return "probability"


def _can_be_probability(output_B: Tensor) -> bool:
    """Whether all numbers are in [0, 1]; what overflowed says nothing."""
    output_B = output_B[output_B.isfinite()]
    return bool(((output_B >= 0) & (output_B <= 1)).all())


def _after(network: nn.Module, inputs: tuple[Tensor], output: Tensor, *, answer: Answer) -> Tensor:
    return _columns(output, answer)


def _columns(output: Tensor, answer: Answer) -> Tensor:
    one_B = output.reshape(-1)  # also of a batch of one that was squeezed
    return torch.stack([torch.zeros_like(one_B) if answer == "logit" else 1 - one_B, one_B], -1)
