"""The folder of each job of a sweep: a folder belongs to one configuration for good."""

import hashlib
import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from mia_lightning.sweep.runs import Outcome, digest_of

if TYPE_CHECKING:
    from omegaconf import DictConfig


def digest(config: "DictConfig") -> str:
    """The hash of a configuration without Hydra's own section; interpolations such as `${now:}` stay unresolved."""
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    for name in ("hydra", "output", "sweep"):  # how a result is printed, and what the sweeper is given of it
        content.pop(name, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def assign(jobs: Sequence[tuple[str, Path]], sweep: Path) -> list[Path]:
    """The folder of each job.

    A configuration that was begun before keeps its folder, whatever number it had then. Any other takes the folder that
    Hydra wants or, where that holds another run, the next free number. Jobs of one configuration share one folder.

    Args:
        jobs: the hash of each job's configuration, and the folder that Hydra would give it.
        sweep: the folder of the sweep.
    """
    known = {digest_of(each.parent): each.parent for each in sweep.glob("*/run.json")}
    known |= {digest_of(wanted): wanted for _, wanted in jobs if digest_of(wanted) is not None}
    taken = set(known.values())
    numbers = (sweep / str(number) for number in count(len(jobs)))
    folders = []
    for own, wanted in jobs:
        if own not in known:
            is_free = wanted not in taken and Outcome.of(wanted) is None
            known[own] = wanted if is_free else next(each for each in numbers if not each.exists())
            taken.add(known[own])
        folders.append(known[own])
    return folders
