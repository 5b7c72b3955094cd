"""Networks that give two classes one number a record: the logit of the second class, or its probability."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import isolated
from mia_lightning.training.stack.stack import MakeNetwork

Answer = Literal["logit", "probability"]


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


@torch.no_grad()
def answer_of(network: nn.Module, population: Population) -> Answer | None:
    """What the one output of a network in eval mode is; None where it has not one output a record.

    It is a probability where it stays in [0, 1] on records that are far away, too.
    """
    parameter = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
    index = torch.arange(min(64, len(population)), device=population.device)
    x_B = population.records(index, parameter.dtype).to(parameter.device)
    outputs = [network(scale * x_B) for scale in (1, 1000, -1000)]
    if not all(isinstance(output, Tensor) and output.shape in {(len(x_B), 1), (len(x_B),)} for output in outputs):
        return None
    is_probability = all(bool(((output >= 0) & (output <= 1)).all()) for output in outputs)
    return "probability" if is_probability else "logit"


def _after(network: nn.Module, inputs: tuple[Tensor], output: Tensor, *, answer: Answer) -> Tensor:
    return _columns(output, answer)


def _columns(output: Tensor, answer: Answer) -> Tensor:
    one_B = output.reshape(-1)  # also of a batch of one that was squeezed
    return torch.stack([torch.zeros_like(one_B) if answer == "logit" else 1 - one_B, one_B], -1)
