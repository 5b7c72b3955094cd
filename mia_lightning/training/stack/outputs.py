"""What a network gives: the tensor that is meant among others, and whether its numbers are logits or probabilities."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mia_lightning.datasets.form import Records, moved
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import generator
from mia_lightning.tasks.interface import OutputForm

Answer = Literal["logit", "probability", "itself"]

_OTHER_WEIGHTS = (-1, 2, -2, 30, -30, 1000, -1000)
"""Factors of all weights at once: with one of them a logit leaves [0, 1], also in half precision and deep networks."""
_MOST_RECORDS = 64  # that are asked to tell logits from probabilities
_DEEPEST = 3  # of tuples, dicts and objects in each other
# Names of the outputs among others, the best first: what is nearest to logits loses least.
_NAMES = (
    *("logits", "logit", "y_logits", "output", "outputs", "out", "y_hat", "pred", "preds", "prediction", "predictions"),
    *("scores", "log_probabilities", "log_probs", "logprobs", "log_prob", "probabilities", "probs", "prob", "y_pred"),
)


@dataclass(frozen=True, eq=False)
class Choice:
    """A tensor among those that a network gives."""

    tensor: Tensor
    path: str  # "" where the output is the tensor
    output: object
    is_one: bool = False


def chosen(output: object, num_rows: int, num_classes: int, *, one: bool = False, wider: bool = False) -> Choice | None:
    """The tensor `[B, C]` of floating-point numbers in what a network gives; with `one`, `[B, 1]` or `[B]`.

    Args:
        wider: take more than C columns, as of classes without a record.

    Raises:
        InputError: there are several with names of which none is known; with `wider`, several without names as well.
    """
    shapes: list[tuple[int, ...]] = [(num_rows, 1), (num_rows,)] if one else [(num_rows, num_classes)]
    if one and num_rows == 1:
        shapes.append(())  # a batch of one that was squeezed

    def fits(tensor: Tensor) -> bool:
        if wider and tensor.ndim == 2:
            return tensor.is_floating_point() and len(tensor) == num_rows and tensor.shape[1] > num_classes
        return tensor.is_floating_point() and tuple(tensor.shape) in shapes

    if isinstance(output, Tensor):
        return Choice(output, "", output, one) if fits(output) else None
    fitting = [(path, each) for path, each in _leaves(output) if fits(each)]
    if not fitting:
        return None
    named = [(_NAMES.index(name), path, each) for path, each in fitting if (name := _last(path)) in _NAMES]
    if named:
        _, path, tensor = min(named, key=lambda each: (each[0], each[1].count(".")))
        return Choice(tensor, path, output, one)
    if len(fitting) > 1 and (wider or not _last(fitting[0][0]).isdigit()):
        paths = ", ".join(f"`{path}`" for path, _ in fitting)
        raise InputError(
            f"The model gives a {type(output).__name__} with several tensors that could be its logits: {paths}; call "
            "the one that is meant `logits`, or return it alone."
        )
    return Choice(fitting[0][1], fitting[0][0], output, one)


def _leaves(output: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The tensors in tuples, lists, dicts and objects, with their paths: keys, places and attributes."""
    if isinstance(output, Tensor):
        yield path, output
        return
    if isinstance(output, Mapping):
        inner = [(str(name), each) for name, each in output.items()]
    elif hasattr(output, "_asdict"):
        inner = list(output._asdict().items())
    elif isinstance(output, list | tuple):
        inner = [(str(place), each) for place, each in enumerate(output)]
    elif hasattr(output, "__dict__") and not isinstance(output, type | nn.Module):
        inner = list(vars(output).items())
    else:
        return
    if depth < _DEEPEST:
        for name, each in inner:
            yield from _leaves(each, f"{path}.{name}" if path else name, depth + 1)


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def described(output: object) -> str:
    """What a network gives, for a sentence: shapes of tensors, names and shapes of what holds several."""
    if isinstance(output, Tensor):
        return str(list(output.shape))
    inner = list(_leaves(output))[:6]
    name = type(output).__name__
    return f"{name} ({', '.join(f'`{path}` {list(each.shape)}' for path, each in inner)})" if inner else name


def are_probabilities(output_BC: Tensor) -> bool:
    """Whether all rows are in [0, 1] and sum to 1, as far as their type can tell."""
    tolerance = max(1e-4, 4 * torch.finfo(output_BC.dtype).eps)
    output_BC = output_BC.detach().double()
    is_between = bool(((output_BC >= 0) & (output_BC <= 1 + tolerance)).all())
    return is_between and bool(((output_BC.sum(1) - 1).abs() <= tolerance).all())


def are_log_probabilities(output_BC: Tensor) -> bool:
    """Whether all rows are logarithms of numbers that sum to 1, as far as their type can tell."""
    tolerance = max(1e-4, 8 * torch.finfo(output_BC.dtype).eps)
    output_BC = output_BC.detach().double()
    return bool((output_BC <= tolerance).all()) and bool((output_BC.logsumexp(1).abs() <= tolerance).all())


def form_of(output_BC: Tensor) -> OutputForm:
    """What outputs are, by their own numbers."""
    if are_probabilities(output_BC):
        return "probabilities"
    return "log_probabilities" if are_log_probabilities(output_BC) else "logits"


@torch.no_grad()
def stays_in_0_1(network: nn.Module, x_B: Any, output: Callable[[nn.Module, Any], Any]) -> bool:
    """Whether all outputs of a network in eval mode are in [0, 1], with any weights.

    A logit can lie there by chance; a probability lies there with any weights. The network is therefore run with other
    weights, too; afterwards it holds its own again. Weights with which it fails say nothing; False where all fail.

    Args:
        x_B: records, as the network takes them.
        output: the numbers of the network for them.
    """
    if not lies_in_0_1(output(network, x_B)):
        return False
    weights = [(p, p.data) for p in network.parameters() if p.is_floating_point()]
    draws, is_told = generator(0, "other weights"), False
    try:
        for factor in (*_OTHER_WEIGHTS, 0):
            try:
                for p, weight in weights:  # drawn where they are multiplied by 0, since weights of 0 stay so
                    p.data = factor * weight if factor else torch.randn(p.shape, generator=draws).to(weight)
                torch.clear_autocast_cache()  # which holds the weights of before
                numbers = output(network, x_B)
            except Exception:  # the user's own code
                continue
            if not lies_in_0_1(numbers):
                return False
            is_told = True
    finally:
        for p, weight in weights:
            p.data = weight
        torch.clear_autocast_cache()
    return is_told


def are_shares(network: nn.Module, x_B: Any, output_BC: Tensor, output: Callable[[nn.Module, Any], Any]) -> bool:
    """Whether each class has a number between 0 and 1 of its own, as sigmoids give.

    Args:
        output_BC, output: what the network gives, and for `x_B`.
    """
    is_between = bool(((output_BC >= 0) & (output_BC <= 1)).all())
    return is_between and stays_in_0_1(network, x_B, output)


def some_records(network: nn.Module, population: Population) -> Records:
    """A few records `[B, *features]` of the population, at least three, as the network takes them."""
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    dtype, device = (torch.float32, torch.device("cpu")) if parameter is None else (parameter.dtype, parameter.device)
    count = max(3, min(_MOST_RECORDS, len(population)))
    index = torch.arange(count, device=population.device) % len(population)
    return moved(population.records(index, dtype), device)


def rows_of(x_B: Any) -> tuple[int, torch.device]:
    """How many records inputs hold, tensors or what holds some, and where they lie."""
    first = next((each for _, each in _leaves(x_B)), None)
    return (len(x_B), torch.device("cpu")) if first is None else (len(first), first.device)


def lies_in_0_1(output_B: Tensor) -> bool:
    """Whether all numbers are in [0, 1]; what overflowed says nothing."""
    output_B = output_B[output_B.isfinite()]
    return bool(((output_B >= 0) & (output_B <= 1)).all())


def reading(choice: Choice | None) -> Tensor | None:
    """Log probabilities of outputs, as far as they can be read without more records."""
    if choice is None:
        return None
    numbers = choice.tensor.double()
    if choice.is_one or numbers.dim() != 2:
        one_B = numbers.reshape(-1)
        return torch.stack([1 - one_B, one_B], -1) if lies_in_0_1(one_B) else one_B[:, None].sigmoid()
    if are_probabilities(choice.tensor):
        return numbers.clamp(min=1e-30).log()
    return numbers.log_softmax(-1)


def columns(output: Tensor, answer: Answer) -> Tensor:
    one_B = output.reshape(-1)  # also of a batch of one that was squeezed
    if answer == "itself":
        return one_B[:, None]
    return torch.stack([torch.zeros_like(one_B) if answer == "logit" else 1 - one_B, one_B], -1)
