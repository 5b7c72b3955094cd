"""The outputs of a network for a few records, checked, and what they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mia_lightning.datasets.form import Records, called, first_few, first_of, shape_of
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, SettingError, first_line
from mia_lightning.tasks import Task
from mia_lightning.tasks.interface import OutputForm
from mia_lightning.training.stack.outputs import (
    Answer,
    are_probabilities,
    are_shares,
    described,
    form_of,
    some_records,
)
from mia_lightning.training.stack.way import ask, kept_way


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a network gives: the fields of `Architecture` of the same names."""

    probabilities_in: tuple[str, ...]
    gives_log_probabilities: bool
    last_layer: str
    one_output: Answer | None
    gives: tuple[str, ...]


def check_outputs(network: nn.Module, x_B: Records, population: Population, *, name: str, trainable: bool) -> Outputs:
    """What a network gives for three records, in eval mode and, if it is to be trained, in train mode.

    Args:
        x_B: the records.

    Raises:
        InputError: it fails, does not give floating-point numbers `[B, C]`, or not what its user says that it gives.
    """
    way, num_classes = kept_way(network), population.num_classes
    form = "auto" if way is None else way.form
    if way is not None and population.task.outputs == "numbers" and form not in ("auto", "logits"):
        rest = f"is {form!r}, and under task={population.task.name} a model gives numbers; set it to auto."
        raise SettingError(way.section, "output", rest)
    found: dict[str, str] = {}  # the last layer, by the mode in which it gives probabilities
    is_log = False
    clauses = [way.found] if way is not None and way.found else []
    for mode in ("train", "eval") if trainable else ("eval",):
        network.train(mode == "train")
        outputs = []
        for size in (2, 3):  # a batch size that is written into the network fails for one of them
            output_BC, layer = _checked_output(network, first_few(x_B, size), population, name, mode)
            outputs.append(output_BC)
        numbers_BC = torch.cat(outputs).detach()
        if form != "auto" and way is not None:
            _check_form(numbers_BC, form, way.section, name)
        taken = _form_of(population.task, numbers_BC) if form == "auto" else form
        if taken == "probabilities":
            found[mode] = layer
        is_log = taken == "log_probabilities"
    if trainable and way is not None and (way.method, way.of_pairs) == ("forward", False):
        _check_modes(network, first_few(x_B, 2), num_classes, name)
    shares_can_be = population.task.outputs != "numbers"
    if (
        shares_can_be
        and form == "auto"
        and not found
        and are_shares(network, some_records(network, population), numbers_BC, ask)
    ):
        found = dict.fromkeys(("train", "eval") if trainable else ("eval",), layer)
        divided = ", divided by their sum" if population.task.has_classes else ""
        clauses.append(f"numbers between 0 and 1 that do not sum to 1 are taken as probabilities{divided}")
    if form == "logits" and are_probabilities(numbers_BC):
        clauses.append("they are taken as logits, as `output` says, though they lie in [0, 1] and sum to 1")
    if is_log and not found:
        clauses.append("log probabilities are taken as such")
    return Outputs(
        probabilities_in=tuple(found),
        gives_log_probabilities=is_log and not found,
        last_layer=next(reversed(found.values()), ""),
        one_output=None if way is None or not population.task.has_classes else way.one,
        gives=tuple(clauses),
    )


def _form_of(task: Task, numbers_BC: Tensor) -> OutputForm:
    """What outputs are, by their own numbers; whether a row sums to 1 says something of classes alone."""
    return form_of(numbers_BC) if task.has_classes else "logits"


def _check_modes(network: nn.Module, x_B: Records, num_classes: int, name: str) -> None:
    """Refuse a network that is trained on a tensor, and asked for another form of output afterwards."""
    given = {}
    for mode in ("train", "eval"):
        network.train(mode == "train")
        given[mode] = called(network, x_B)
    if isinstance(given["train"], Tensor) and not isinstance(given["eval"], Tensor):
        raise InputError(
            f"The model {name} gives {described(given['eval'])} for records of shape {shape_of(x_B)} in eval mode, "
            "and a tensor in train mode; it must give logits of shape [B, C] in both, here "
            f"[{len(first_of(x_B))}, {num_classes}]."
        )


def _check_form(numbers_BC: Tensor, form: str, section: str, name: str) -> None:
    """Refuse outputs that are not what the user says that they are."""
    low, high = float(numbers_BC.min()), float(numbers_BC.max())
    if form == "probabilities" and (low < 0 or high > 1 + 1e-3):
        odd = low if low < 0 else high
        raise SettingError(
            section, "output", f"is 'probabilities', but the model {name} gives {odd:.4g}; set it to auto."
        )
    if form == "log_probabilities" and high > 1e-3:
        rest = f"is 'log_probabilities', but the model {name} gives {high:.4g}, above 0; set it to auto."
        raise SettingError(section, "output", rest)


def _checked_output(
    network: nn.Module, x_B: Records, population: Population, name: str, mode: str
) -> tuple[Tensor, str]:
    """The output, and the layer that it is of."""
    shape, count, num_classes = shape_of(x_B), len(first_of(x_B)), population.num_classes
    with path_of_failure(network) as path, _last_layer(network) as last:
        try:
            logits = ask(network, x_B)
        except Exception as error:  # the user's own code may raise anything
            raise InputError(
                f"The model {name} fails on a batch of records of shape {shape}, in its module `{path[-1]}` in {mode} "
                f"mode: {brief(error)}."
            ) from error
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (count, num_classes):
        raise InputError(
            f"The model {name} gives {described(logits)} for records of shape {shape} in {mode} mode; it must "
            f"give logits of shape [B, C], here [{count}, {num_classes}].{_of_labels(population)}"
        )
    if not logits.is_floating_point():
        raise InputError(
            f"The model {name} gives numbers of type {str(logits.dtype).removeprefix('torch.')} in {mode} mode; it "
            "must give logits, which are floating-point numbers."
        )
    return logits, next((layer for layer, output in last if output is logits), "")


def _of_labels(population: Population) -> str:
    """What the labels were taken for, where the model may have been made for others."""
    if population.label_map is None:
        return ""
    return (
        f" {population.label_map.sentence} If the model has an output for other numbers, too, name all of its classes "
        "in class_names, from number 0."
    )


@contextmanager
def _last_layer(network: nn.Module) -> Iterator[list[tuple[str, object]]]:
    """Within the context, the latest output of each layer, with the layer's path and class, innermost layers first."""
    outputs: list[tuple[str, object]] = []
    handles = []
    for path, layer in _hookable(network):
        words = f"`{path}` ({type(layer).__name__})" if path else f"the model itself ({type(layer).__name__})"

        def leave(_: nn.Module, __: object, output: object, words: str = words) -> None:
            outputs.append((words, output))

        handles.append(layer.register_forward_hook(leave))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def path_of_failure(network: nn.Module) -> Iterator[list[str]]:
    """Within the context, the last entry of the list is the path of the innermost module that is running."""
    running = ["the model itself"]
    handles = []
    for path, layer in _hookable(network):
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


def _hookable(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers and their paths, without those of TorchScript, which take no hooks."""
    return [each for each in network.named_modules() if not isinstance(each[1], torch.jit.ScriptModule)]


def brief(error: Exception) -> str:
    sentence = first_line(error).split(". ")[0]
    return sentence if len(sentence) <= 160 else sentence[:157] + "..."
