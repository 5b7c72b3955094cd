"""Tensors in files (safetensors) with a checksum of what they hold."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mia_lightning.store.atomic import as_os_error, usual_mode, whole
from mia_lightning.store.documents import DamagedError
from mia_lightning.store.identity import digest, digest_of_tensor

_CHECK = "mia_lightning"  # the key of the checksum among the metadata of a file


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, on the CPU and contiguous, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with whole(path) as partial, as_os_error(path.parent):
        save_file(dict(tensors), partial, metadata={_CHECK: _checksum(tensors)})
        partial.chmod(usual_mode(partial))  # safetensors makes files that their owner alone may read


def saved_tensors(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The tensors in a file, and whether it has their checksum, as `save_tensors` writes it and others do not.

    Raises:
        DamagedError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            check = (file.metadata() or {}).get(_CHECK)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"cannot be read as safetensors ({error})") from error
    if check is not None and check != _checksum(tensors):
        raise DamagedError("does not match its checksum")
    return tensors, check is not None


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors in a content file of the store, which has been compared with its checksum.

    Raises:
        DamagedError: it holds no tensors.
        FileNotFoundError: somebody has removed it meanwhile.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DamagedError(f"cannot be read as safetensors ({error})") from error


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return digest({name: digest_of_tensor(tensor) for name, tensor in tensors.items()})
