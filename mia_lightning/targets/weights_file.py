"""The weights of a trained network in a file, found in what training scripts save around them; no code of it is run."""

import argparse
import pathlib
import types
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mia_lightning.errors import InputError, first_line
from mia_lightning.store.tensors import saved_tensors

State = dict[str, Tensor]

_DEEPEST = 5  # of nested state dicts
# Of the wrappers of torch.compile, FullyShardedDataParallel and Fabric: a plain network has no such part of a name.
_OF_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.")
# Plain values that scripts keep beside the weights. To make them runs no code but that of numpy and Python.
_PLAIN: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    *(defaultdict, dict, list, int, float, set),
    *(pathlib.PosixPath, pathlib.PurePosixPath),
    *(np.ndarray, np.dtype),
    *(type(np.dtype(kind)) for kind in (np.bool_, np.int32, np.int64, np.uint8, np.float16, np.float32, np.float64)),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((np.zeros(1).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def load_weights(network: nn.Module, path: Path, *, key: str = "", prefix: str = "") -> None:
    """Load the state dict of a file into a network of its architecture.

    Args:
        key: the place of the state dict in the file, by keys with dots between them; "" for the one that fits.
        prefix: with which the names of its tensors begin, unlike those of the network; "" for what all names have in
            common.

    Raises:
        InputError: the file cannot be read without running its code, or holds no state dict, or none or several that
            fit the network.
    """
    found = dict(_state_dicts(_read(path)))
    if not found:
        raise InputError(f"`target.path` {path} holds no state dict; save `model.state_dict()`.")
    if key and key not in found:
        raise InputError(f"`target.key` is {key!r}, but the state dicts of {path} are {_listed(found)}; choose one.")
    found = {place: state for place, state in found.items() if key in ("", place)}
    tried = {place: _load_best(network, state, prefix) for place, state in found.items()}
    fitting = [place for place, difference in tried.items() if not difference]
    if not fitting:
        wanted = network.state_dict().keys()
        place = max(found, key=lambda place: sum(_last(name) in map(_last, wanted) for name in found[place]))
        where = f" in its state dict `{place}`" if place else ""
        raise InputError(
            f"`target.path` {path} does not fit the model {type(network).__name__}{where}: {tried[place]}; set `model` "
            f"to the architecture that it was trained with{_about_prefix(found[place], wanted)}."
        )
    if len(fitting) > 1:
        raise InputError(
            f"`target.path` {path} has several state dicts that fit the model: {_listed(fitting)}; set `target.key` to "
            "one of them."
        )
    _load_best(network, found[fitting[0]], prefix)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"`target.path` {path} is not a file; give the weights of the trained model.")
    try:
        if path.suffix == ".safetensors":
            return saved_tensors(path)[0]
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    # torch.load has no error of its own: for a damaged file it raises struct.error, IndexError, KeyError and others.
    except Exception as error:
        reason = f"it {first_line(error)}" if path.suffix == ".safetensors" else _why_not(path)
        raise InputError(
            f"`target.path` {path} cannot be read as weights alone ({reason}); save the state dict, best as "
            "safetensors."
        ) from error


def _why_not(path: Path) -> str:
    """Why torch.load refuses a file, in words that do not advise to run it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                return "it is a TorchScript program"
    try:
        with torch.serialization.safe_globals(_PLAIN):
            named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        needed = sorted(named, key=lambda name: (name.startswith("torch."), name))  # the user's own first
    except Exception:  # as torch.load
        needed = []
    if needed:
        return f"it holds {_listed(needed[:3])}, and to make objects of these would run their code"
    return "it is damaged, or torch.save has not written it"


def _state_dicts(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """The state dicts in what a file holds, by their places; those of optimisers are not looked at."""
    if isinstance(value, Mapping):
        beside = [each for each in value.values() if not isinstance(each, Tensor)]
        tensors = {name: each for name, each in value.items() if isinstance(each, Tensor)}
        if tensors and all(isinstance(name, str) for name in tensors) and not any(map(_holds, beside)):
            yield place, tensors
            return
        inner = [] if "param_groups" in value else [(str(name), each) for name, each in value.items()]
        if "pytorch-lightning_version" in value:  # beside the weights, callbacks may keep others
            inner = [(name, each) for name, each in inner if name == "state_dict"]
    elif isinstance(value, list | tuple):
        inner = [(str(number), each) for number, each in enumerate(value)]
    else:
        return
    if depth < _DEEPEST:
        for name, each in inner:
            yield from _state_dicts(each, f"{place}.{name}" if place else name, depth + 1)


def _holds(value: object) -> bool:
    return isinstance(value, Mapping | list | tuple) and len(value) > 0


def _load_best(network: nn.Module, state: State, prefix: str) -> str:
    """Load the state under the first of its readings that fits; else how the first one differs."""
    differences = []
    for reading in _readings(state, prefix):
        difference = _load(network, _without_model_axis(reading, network))
        if not difference:
            return ""
        differences.append(difference)
    return differences[0]


def _readings(state: State, prefix: str) -> Iterator[State]:
    """The state as it is; without what wrappers put into its names, and without what all names begin with."""
    if prefix:
        yield {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        return
    yield state
    plain = {_without(name, _OF_WRAPPERS): value for name, value in state.items() if name != "n_averaged"}
    yield plain
    yield {_without(name, ("module.",)): value for name, value in plain.items()}
    while plain and all("." in name for name in plain) and len({name.split(".")[0] for name in plain}) == 1:
        plain = {name.partition(".")[2]: value for name, value in plain.items()}
        yield plain


def _without(name: str, parts: tuple[str, ...]) -> str:
    whole = f".{name}"
    for part in parts:
        whole = whole.replace(f".{part}", ".")
    return whole[1:]


def _load(network: nn.Module, state: State) -> str:
    """Load what fits; the first difference, or "" where the whole network is loaded and nothing is left over.

    As for torch, counters of normalisation layers may be missing. Of a tied weight one name is enough, since many
    writers leave out the others.
    """
    wanted = {name: each for name, each in network.state_dict(keep_vars=True).items() if isinstance(each, Tensor)}
    tied: dict[tuple[object, ...], list[str]] = {}
    for name, each in wanted.items():
        own = (each.data_ptr(), each.shape, each.stride()) if each.numel() else (name,)
        tied.setdefault(own, []).append(name)
    for names in tied.values():
        first, *others = [name for name in names if name in state] or [""]
        for other in others:
            if not torch.equal(state[first], state[other]):
                return f"`{first}` and `{other}` are one tensor in the model, and differ in the file"
    for name, each in wanted.items():
        is_number = each.dim() == 0 and name in state and state[name].shape == (1,)  # of old versions of torch
        if name in state and state[name].shape != each.shape and not is_number:
            return f"`{name}` is {list(state[name].shape)} in the file and {list(each.shape)} in the model"
        if name in state and each.is_floating_point() and not state[name].is_floating_point():
            kind = str(state[name].dtype).removeprefix("torch.")
            return f"`{name}` is {kind} in the file, as where weights are quantised, and a real number in the model"
    try:
        missing, unknown = network.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        return first_line(error)
    loaded = {name for names in tied.values() if any(each not in missing for each in names) for name in names}
    lost = next((name for name in missing if name not in loaded), None)
    if lost is not None:
        beside = [each for each in state if each.endswith(lost)] or list(state)[:1]
        return f"it has no `{lost}`" + (f" (it has `{beside[0]}`)" if beside else "")
    return f"the model has no `{unknown[0]}`" if unknown else ""


def _without_model_axis(state: State, network: nn.Module) -> State:
    """The state of a network, also where the file holds a stack of one, whose tensors have a leading axis of 1."""
    shapes = {name: tuple(each.shape) for name, each in network.state_dict().items() if isinstance(each, Tensor)}
    is_stack = bool(state) and all(tuple(value.shape) == (1, *shapes.get(name, ())) for name, value in state.items())
    return {name: value[0] for name, value in state.items()} if is_stack else state


def _about_prefix(state: State, wanted: Any) -> str:
    first = next(iter(wanted), "")
    begins = [name.removesuffix(first) for name in state if name.endswith(f".{first}")]
    fitting = next((begin for begin in begins if all(begin + name in state for name in wanted)), None)
    return "" if fitting is None else f", or target.prefix={fitting}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" if name else "that of the whole file" for name in names)
