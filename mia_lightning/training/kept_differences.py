"""In what two descriptions of models differ, in words: why models of the store could not be used."""

from collections.abc import Mapping, Sequence

from mia_lightning.store.identity import Identity

# Names in an identity that say how it is put together, not what it is.
_JOINTS = ("named", "state", "items", "call", "object")

# Parts of a name that are of our own wrappers around what a user gives.
_WRAPPERS = ("make", "func", "args", "keywords")


def differences(theirs: Mapping[str, Identity], mine: Mapping[str, Identity]) -> list[str]:
    """The fields in which they differ, with both values where these are short."""
    there, here = _flat(theirs), _flat(mine)
    names = [name for name in sorted(here | there) if here.get(name) != there.get(name)]
    return list(dict.fromkeys(_difference(name, there, here) for name in _merged(names)))


def _flat(value: Identity, name: str = "") -> dict[str, Identity]:
    """The leaves by dotted names, such as `training.optimizer.lr`."""
    if isinstance(value, Mapping) and set(value) == {"items"}:
        value = {str(key): each for key, each in value["items"]}
    if isinstance(value, Mapping):
        leaves: dict[str, Identity] = {}
        for key, each in value.items():
            leaves |= _flat(each, name if key in _JOINTS else f"{name}.{key}".lstrip("."))
        return leaves
    return {name: value}


def _merged(names: Sequence[str]) -> list[str]:
    """The names, but of what is of another class its own name alone."""
    wholes = {name.rpartition(".")[0] for name in names if name.rpartition(".")[2] in ("class", "bases")}
    found = {*names, *wholes}
    return sorted(name for name in found if not any(name.startswith(f"{whole}.") for whole in wholes))


def _difference(name: str, theirs: Mapping[str, Identity], mine: Mapping[str, Identity]) -> str:
    pair = [values.get(name) for values in (theirs, mine)]
    is_whole = name not in theirs and name not in mine
    name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    if not is_whole and all(not isinstance(each, list | Mapping) and len(str(each)) < 30 for each in pair):
        return f"{name} ({pair[0]}, here {pair[1]})"
    return name
