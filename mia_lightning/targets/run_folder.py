"""Which checkpoint of a training run is its result: the best by the run's own monitor, or the only one, or the last."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.targets.weights_file import content_of

_DEEPEST = 5  # folders below that of a run
_MOST_FILES = 1000
_KINDS = ((".ckpt",), (".safetensors", ".pt", ".pth"))
_LISTED = 6


def chosen_file(path: Path) -> tuple[Path, str]:
    """The file itself, or the checkpoint of a run's folder, and why it was chosen, in a sentence.

    The folder may be that of the checkpoints, or one around it, as loggers make them: lightning_logs/version_0, an
    output folder of Hydra, a folder of wandb.

    Raises:
        InputError: the folder has no checkpoint, or several of which none is the result.
    """
    if not path.is_dir():
        return path, ""
    _check_whole(path)
    files = _files(path)
    folders = sorted({file.parent for file in files})
    if len(folders) > 1:
        raise InputError(
            f"`target.path` {path} has checkpoints of several runs: {_listed(folders, path)}; give the folder of one."
        )
    files = _without_copies(files)
    if len(files) == 1:
        return files[0], f"`target.path`: {files[0].relative_to(path)} is the only checkpoint in {path}."
    best = _best(files, path)
    if best is not None:
        return best
    last = [file for file in files if file.stem == "last"]
    if len(last) == 1:
        return last[
            0
        ], f"`target.path`: last.ckpt is taken of the {len(files)} checkpoints in {path}: none was monitored."
    raise InputError(
        f"`target.path` {path} has {len(files)} checkpoints, and none says which is the best: {_listed(files, path)}; "
        "give one of them."
    )


def _check_whole(folder: Path) -> None:
    """Refuse a checkpoint that is itself a folder: pieces of the weights, written by several processes."""
    if any(folder.glob("*.distcp")) or (folder / "zero_to_fp32.py").exists() or (folder / "latest").is_file():
        raise InputError(
            f"`target.path` {folder} is a checkpoint in pieces, as FSDP and DeepSpeed write it; make one file of it, "
            "such as by python -m pytorch_lightning.utilities.consolidate_checkpoint, and give that."
        )


def _files(folder: Path) -> list[Path]:
    """The checkpoints in a folder and below; where there are none, other weights."""
    every = list(_below(folder, _DEEPEST))
    for kinds in _KINDS:
        found = sorted(file for file in every if file.suffix in kinds)
        if found:
            return found
    raise InputError(
        f"`target.path` {folder} is a folder without a .ckpt, .safetensors, .pt or .pth file; give the weights of the "
        "trained model."
    )


def _below(folder: Path, depth: int) -> Iterator[Path]:
    for number, each in enumerate(sorted(folder.iterdir())):
        if number >= _MOST_FILES:
            raise InputError(f"`target.path` {folder} holds more than {_MOST_FILES} files; give the one that is meant.")
        if each.is_file():
            yield each
        elif each.suffix == ".ckpt":
            _check_whole(each)
        elif depth and each.is_dir() and not each.is_symlink() and not each.name.startswith("."):
            yield from _below(each, depth - 1)


def _without_copies(files: list[Path]) -> list[Path]:
    """One of each file; a last.ckpt may be a link to another."""
    real = {file.resolve() for file in files if not file.is_symlink()}
    return [file for file in files if not file.is_symlink() or file.resolve() not in real]


@dataclass(frozen=True)
class _Monitored:
    """What one ModelCheckpoint says: its monitor, the name of its best file, and that one's score."""

    monitor: str
    name: str
    score: float | None


def _best(files: list[Path], folder: Path) -> tuple[Path, str] | None:
    """The best file by the callbacks' own state in the newest one; None where nothing was monitored."""
    newest: dict[str, tuple[int, _Monitored]] = {}
    for file in files:
        content = content_of(file)
        step = content.get("global_step") if isinstance(content, Mapping) else None
        for key, each in _monitored(content):
            if key not in newest or newest[key][0] <= (step if type(step) is int else 0):
                newest[key] = (step if type(step) is int else 0, each)
    bests = {each.name: each for _, each in newest.values()}
    if not bests:
        return None
    if len(bests) > 1:
        which = ", ".join(f"{each.name} by {each.monitor}" for each in bests.values())
        raise InputError(f"`target.path` {folder} has several best checkpoints: {which}; give one of them.")
    ((name, best),) = bests.items()
    chosen = next((file for file in files if file.name == name), None)
    if chosen is None:
        raise InputError(
            f"`target.path` {folder} lacks its best checkpoint by {best.monitor}, {name}, and has "
            f"{_listed(files, folder)}; give one of them."
        )
    score = "" if best.score is None else f" = {best.score:.6g}"
    of_all = f"the best of {len(files)} checkpoints by {best.monitor}{score}"
    return chosen, f"`target.path`: {chosen.relative_to(folder)} is {of_all}."


def _monitored(content: Any) -> Iterator[tuple[str, _Monitored]]:
    callbacks = content.get("callbacks") if isinstance(content, Mapping) else None
    for key, state in callbacks.items() if isinstance(callbacks, Mapping) else ():
        if not isinstance(state, Mapping):
            continue
        monitor, best, score = (state.get(each) for each in ("monitor", "best_model_path", "best_model_score"))
        if isinstance(monitor, str) and isinstance(best, str) and best:
            yield str(key), _Monitored(monitor[:100], _name(best), _number(score))


def _number(value: object) -> float | None:
    is_one = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    return float(value) if is_one or isinstance(value, float | int) else None  # type: ignore[arg-type]  # a tensor


def _name(path: str) -> str:
    """The name of a file on whatever machine it was written."""
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name


def _listed(paths: list[Path], folder: Path) -> str:
    names = [str(each.relative_to(folder)) for each in paths[:_LISTED]]
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(names) + more
