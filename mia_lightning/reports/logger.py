"""What an audit needs of an experiment logger, and the logger that does nothing.

with logger.start(folder, config) as run:
    ...                  # train, attack
    run.finish(report)   # an error before this line closes the run as failed
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from mia_lightning.reports.schema import AuditReport


class LoggedRun(Protocol):
    """One run of a logger; as a context manager it closes itself as failed unless it was finished."""

    @property
    def location(self) -> str | None:
        """Where to look: an address or a folder; None where nothing is logged."""

    def finish(self, report: AuditReport) -> None:
        """Log the whole report and close the run."""

    def abort(self, exit_code: int = 1) -> None:
        """Close the run as failed; without effect on a closed run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class RunLogger(Protocol):
    """What `conf/logger` instantiates."""

    def start(self, folder: Path | None, config: Mapping[str, Any]) -> LoggedRun:
        """Open a run that keeps its files in `folder` (None: where the process stands) and shows `config`.

        `config` is resolved: plain containers and values.
        """


class NoRun:
    """A run of which nothing is kept."""

    location: str | None = None

    def finish(self, report: AuditReport) -> None:
        """Nothing."""

    def abort(self, exit_code: int = 1) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing."""


@dataclass(frozen=True)
class NoLogger:
    """`logger=none`."""

    def start(self, folder: Path | None, config: Mapping[str, Any]) -> NoRun:
        """A run of which nothing is kept."""
        return NoRun()
