"""Names of an experiment's runs in wandb: each is named after its variant; all share a group and a tag."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

LONGEST_GROUP, LONGEST_TAG = 128, 64  # characters; wandb refuses longer ones, or drops all tags of a run


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The experiment that a run belongs to.

    Attributes:
        name: such as "shokri2017/location".
        variant: of the experiment's comparison; None where the experiment is a single audit.
    """

    name: str
    variant: str | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self | None:
        """The experiment that a configuration names in its section `experiment`; None where it names none."""
        section = config.get("experiment")
        if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
            return None
        variant = section.get("variant")
        return cls(name=section["name"], variant=None if variant is None else str(variant))

    def run_name(self, given: str | None) -> str | None:
        """The variant, after the name that was given to all runs, if there is one."""
        return given if self.variant is None else f"{given}: {self.variant}" if given else self.variant

    def group(self, folder: Path) -> str | None:
        """The experiment's name, and the name of the comparison's folder (by default its date and time)."""
        if self.variant is None:
            return None
        return "/".join((self.name, *folder.absolute().parent.parts[-2:]))[:LONGEST_GROUP]

    @property
    def tag(self) -> str:
        """Such as "experiment:defenses"."""
        return f"experiment:{self.name}"


def fitting(tags: Sequence[str]) -> list[str]:
    """The tags without repetitions and empty ones, cut to the length that wandb accepts."""
    return list(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags if tag))
