"""What wandb calls the runs of an experiment: each by its variant, all of them one group, with a tag of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

LONGEST_GROUP, LONGEST_TAG = 128, 64  # characters; wandb refuses longer ones, or drops all tags of a run


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The experiment that a run is a part of.

    Attributes:
        name: such as "shokri2017/location".
        variant: of its comparison; None where the experiment is a single audit.
    """

    name: str
    variant: str | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self | None:
        """That of the section `experiment` of a resolved configuration; None where there is none."""
        section = config.get("experiment")
        if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
            return None
        variant = section.get("variant")
        return cls(name=section["name"], variant=None if variant is None else str(variant))

    def run_name(self, given: str | None) -> str | None:
        """The variant, behind a name that was given to all runs."""
        return given if self.variant is None else f"{given}: {self.variant}" if given else self.variant

    def group(self, folder: Path) -> str | None:
        """Its name and the folder of the comparison (by default its date and time), in which `folder` lies."""
        if self.variant is None:
            return None
        return "/".join((self.name, *folder.absolute().parent.parts[-2:]))[:LONGEST_GROUP]

    @property
    def tag(self) -> str:
        """Such as "experiment:defenses"."""
        return f"experiment:{self.name}"


def fitting(tags: Sequence[str]) -> list[str]:
    """Tags, each once, cut to the length that wandb takes; empty ones are left out."""
    return list(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags if tag))
