"""The weights of a trained network in a file, found in what training scripts save around them; no code of it is run."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mia_lightning.errors import InputError, first_line
from mia_lightning.store.documents import DamagedError
from mia_lightning.store.tensors import saved_tensors
from mia_lightning.targets.inert import is_inert, name_of
from mia_lightning.targets.storages import NotReadError
from mia_lightning.targets.torch_file import read_without_code

State = dict[str, Tensor]

_DEEPEST = 5  # of nested state dicts
_MOST_PREFIXES = 20  # that are tried in full
# Of the wrappers of torch.compile, FullyShardedDataParallel and Fabric: a plain network has no such part of a name.
_OF_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.")
_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged?)([._]|$)")  # weights that follow those that are trained
_BEFORE_AVERAGING = "current_model_state"  # of Lightning's WeightAveraging, whose state dict holds the averages


def content_of(path: Path) -> Any:
    """What a file holds: tensors and plain values, and `Inert` in the place of what needs code.

    Raises:
        InputError: it is not there, is damaged, or is one object that needs code.
    """
    if not path.is_file():
        raise InputError(
            f"`target.path` {path} is not a file or a folder; give the file of the trained model's weights, or "
            "the folder of the run that wrote it."
        )
    try:
        content = saved_tensors(path)[0] if path.suffix == ".safetensors" else read_without_code(path)
    except (NotReadError, DamagedError) as error:
        reason = f"it {error}" if isinstance(error, DamagedError) else str(error)
        raise InputError(_not_weights(path, reason)) from error
    if is_inert(content):
        raise InputError(_not_weights(path, f"it holds a {name_of(content)}, and to make one would run its code"))
    return content


def load_weights(network: nn.Module, path: Path, *, key: str = "", prefix: str = "") -> str:
    """Load the state dict of a file into a network of its architecture.

    Args:
        key: the place of the state dict in the file, by keys with dots between them; "" for the one that fits.
        prefix: with which the names of its tensors begin, unlike those of the network; "" for the one behind which
            all of them are found.

    Returns:
        A sentence on what was taken, where the file holds more; else "".

    Raises:
        InputError: the file cannot be read without running its code, or holds no state dict, or none or several that
            fit the network.
    """
    content = content_of(path)
    found = dict(_state_dicts(content, key=key))
    if not found:
        raise InputError(f"`target.path` {path} holds no state dict of plain tensors; save `model.state_dict()`.")
    if key and key not in found:
        raise InputError(f"`target.key` is {key!r}, but the state dicts of {path} are {_listed(found)}; choose one.")
    found = {place: state for place, state in found.items() if key in ("", place)}
    tried = {place: _readings(network, state, prefix) for place, state in found.items()}
    fitting = {place: fits for place, readings in tried.items() if (fits := [each for each in readings if each.fits])}
    if not fitting:
        place = max(tried, key=lambda place: tried[place][0].num_found)
        coded = _coded(content, tried[place][0].difference)
        raise InputError(_misfit(network, path, place, tried[place][0], prefix, coded))
    if len(fitting) > 1:
        raise InputError(
            f"`target.path` {path} has several state dicts that fit the model: {_listed(fitting)}; set `target.key` to "
            "one of them."
        )
    ((place, readings),) = fitting.items()
    reading, averages = _chosen(readings, path)
    beside = [name for name in reading.left if not any(name.startswith(each) for each in averages)]
    if not prefix and _size(found[place], beside) > _size(reading.state, reading.state):
        raise InputError(
            f"`target.path` {path} has what the model {type(network).__name__} needs behind `{reading.prefix}`, and "
            f"larger tensors beside it, such as `{beside[0]}`; set `model` to the whole architecture, or, if this part "
            f"is the target, target.prefix={reading.prefix}."
        )
    _load(network, reading.state)
    clauses = []
    if averages:
        clauses.append(
            f"those behind `{reading.prefix}` are taken, and not the averages behind {_listed(averages)}, which are "
            f"had by target.prefix={averages[0]}"
        )
    elif beside and not prefix:
        those = f"behind `{reading.prefix}` those of the model are found"
        clauses.append(f"{those}, and {len(beside)} others, such as `{beside[0]}`, are left out")
    if place == "state_dict" and _BEFORE_AVERAGING in content:
        clauses.append(
            f"they are averages over the training; those before averaging are had by target.key={_BEFORE_AVERAGING}"
        )
    return f"Of the weights in {path.name}: {'; '.join(clauses)}." if clauses else ""


def _size(state: State, names: Iterable[str]) -> int:
    return sum(state[name].numel() for name in names)


@dataclass(frozen=True)
class _Reading:
    """A state dict under names of the model.

    Attributes:
        state: by these names.
        prefix: that the names in the file begin with.
        left: names of tensors that do not begin so.
        difference: from the model, the first one; "" for none.
        num_found: how many of the model's names it has.
    """

    state: State
    prefix: str
    left: tuple[str, ...]
    difference: str
    num_found: int

    @property
    def fits(self) -> bool:
        return not self.difference


def _chosen(readings: list[_Reading], path: Path) -> tuple[_Reading, list[str]]:
    """The reading whose names are the model's own, or the only one; and the prefixes of averages beside it."""
    exact = [each for each in readings if not each.prefix]
    if exact or len(readings) == 1:
        return (exact or readings)[0], []
    averaged = [each.prefix for each in readings if _AVERAGED.search(each.prefix)]
    plain = [each for each in readings if each.prefix not in averaged]
    if len(plain) == 1:
        return plain[0], averaged
    raise InputError(
        f"`target.path` {path} has weights that fit the model behind several names: "
        f"{_listed(each.prefix for each in readings)}; set `target.prefix` to one of them."
    )


def _misfit(network: nn.Module, path: Path, place: str, best: _Reading, prefix: str, coded: str) -> str:
    where = f" in its state dict `{place}`" if place else ""
    behind = f" behind `{best.prefix}`" if best.prefix else ""
    found = f"{best.num_found} of the model's {len(_wanted(network))} names are found{behind}{coded}"
    mend = ", or `target.prefix` to what its names begin with" if prefix else ""
    return (
        f"`target.path` {path} does not fit the model {type(network).__name__}{where}: {best.difference} ({found}); "
        f"set `model` to the architecture that it was trained with{mend}."
    )


def _coded(content: Any, difference: str, depth: int = 0) -> str:
    """What stands in the file under a name that is missed, where it is no plain tensor."""
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(name, str) and is_inert(value) and any(f"`{each[1:]}`" in difference for each in _endings(name)):
            return f", and `{name}` is a {name_of(value)}, which is not read"
        inside = _coded(value, difference, depth + 1) if depth < _DEEPEST else ""
        if inside:
            return inside
    return ""


def _endings(name: str) -> Iterator[str]:
    """The name behind each of its dots, and as it is, each with a dot before it."""
    whole = f".{name}"
    return (whole[place:] for place, character in enumerate(whole) if character == ".")


def _not_weights(path: Path, reason: str) -> str:
    return f"`target.path` {path} cannot be read as weights alone ({reason}); save the state dict, best as safetensors."


def _state_dicts(
    value: Any, place: str = "", depth: int = 0, *, key: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, State]]:
    """The state dicts in what a file holds, by their places; those of optimisers are not looked at."""
    seen = set() if seen is None else seen
    if id(value) in seen:  # a file can hold one list in many places
        return
    if isinstance(value, Mapping):
        seen.add(id(value))
        beside = [each for each in value.values() if not isinstance(each, Tensor)]
        tensors = {name: each for name, each in value.items() if isinstance(each, Tensor)}
        if tensors and all(isinstance(name, str) for name in tensors) and not any(map(_holds, beside)):
            yield place, tensors
            return
        inner = [] if "param_groups" in value else [(str(name), each) for name, each in value.items()]
        if "pytorch-lightning_version" in value and not key:  # beside the weights, callbacks may keep others
            inner = [(name, each) for name, each in inner if name == "state_dict"]
    elif isinstance(value, list | tuple):
        seen.add(id(value))
        inner = [(str(number), each) for number, each in enumerate(value)]
    else:
        return
    if depth < _DEEPEST:
        for name, each in inner:
            inside = f"{place}.{name}" if place else name
            yield from _state_dicts(each, inside, depth + 1, key=key, seen=seen)


def _holds(value: object) -> bool:
    return isinstance(value, Mapping | list | tuple) and len(value) > 0


def _readings(network: nn.Module, state: State, prefix: str) -> list[_Reading]:
    """The state dict as it can be meant, with the same tensors once: first what fits, then what has the most names."""
    wanted = _wanted(network)
    state = {name: value for name, value in state.items() if _last(name) != "n_averaged" or name in wanted}
    behind = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    outside = [name for name in state if not name.startswith(prefix)]
    readings: list[_Reading] = []
    met: set[frozenset[int]] = set()
    for names in _variants(behind):
        votes = Counter(begin for name in names for begin in _begins(name) if name.removeprefix(begin) in wanted)
        begins = [begin for begin, _ in votes.most_common(_MOST_PREFIXES)] or [""]
        for begin in begins if not prefix else [""]:
            named = {name.removeprefix(begin): behind[own] for name, own in names.items() if name.startswith(begin)}
            left = (own for name, own in names.items() if not name.startswith(begin))
            reading = _reading(network, wanted, named, begin or prefix, (*outside, *left))
            tensors = frozenset(map(id, named.values()))
            if not reading.fits or tensors not in met:
                readings.append(reading)
                met |= {tensors} if reading.fits else set()
    return sorted(readings, key=lambda each: (not each.fits, -each.num_found))


def _reading(network: nn.Module, wanted: State, named: State, prefix: str, left: tuple[str, ...]) -> _Reading:
    state = _without_model_axis(named, wanted)
    return _Reading(state, prefix, left, _load(network, state), len(state.keys() & wanted.keys()))


def _begins(name: str) -> Iterator[str]:
    """Nothing, and all parts of a name that end with a dot."""
    yield ""
    for place, character in enumerate(name):
        if character == ".":
            yield name[: place + 1]


def _variants(state: State) -> list[dict[str, str]]:
    """The names of a state dict, by what they are: as they stand, and without what wrappers put into them."""
    variants: list[dict[str, str]] = []
    for parts in ((), _OF_WRAPPERS, (*_OF_WRAPPERS, "module.")):
        names = {_without(name, parts): name for name in state}
        if len(names) == len(state) and names not in variants:
            variants.append(names)
    return variants


def _without(name: str, parts: tuple[str, ...]) -> str:
    whole = f".{name}"
    for part in parts:
        whole = whole.replace(f".{part}", ".")
    return whole[1:]


def _wanted(network: nn.Module) -> State:
    return {name: each for name, each in network.state_dict(keep_vars=True).items() if isinstance(each, Tensor)}


def _load(network: nn.Module, state: State) -> str:
    """Load what fits; the first difference, or "" where the whole network is loaded and nothing is left over.

    As for torch, counters of normalisation layers may be missing. Of a tied weight one name is enough, since many
    writers leave out the others.
    """
    wanted = _wanted(network)
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
        beside = [each for each in state if each.endswith(lost)] or unknown[:1]
        return f"it has no `{lost}`" + (f" (it has `{beside[0]}`)" if beside else "")
    return f"the model has no `{unknown[0]}`" if unknown else ""


def _without_model_axis(state: State, wanted: State) -> State:
    """The state of a network, also where the file holds a stack of one, whose tensors have a leading axis of 1."""
    is_stack = bool(state) and all(
        name in wanted and tuple(value.shape) == (1, *wanted[name].shape) for name, value in state.items()
    )
    return {name: value[0] for name, value in state.items()} if is_stack else state


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" if name else "that of the whole file" for name in names)
