"""What an audit needs of an experiment logger, the logger that does nothing, and several loggers as one.

with logger.start(folder, config) as run:
    ...                  # train, attack
    run.finish(report)   # an error before this line closes the run as failed
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from mia_lightning.errors import InputError
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


class ClosesItself(ABC):
    """A run that is a context manager because it can be closed."""

    @abstractmethod
    def abort(self, exit_code: int = 1) -> None:
        """As `LoggedRun.abort`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class NoRun(ClosesItself):
    """A run of which nothing is kept."""

    location: str | None = None

    def finish(self, report: AuditReport) -> None:
        """Nothing."""

    def abort(self, exit_code: int = 1) -> None:
        """Nothing."""


@dataclass(frozen=True)
class NoLogger:
    """`logger=none`."""

    def start(self, folder: Path | None, config: Mapping[str, Any]) -> NoRun:
        """A run of which nothing is kept."""
        return NoRun()


@dataclass(frozen=True, kw_only=True)
class Loggers:
    """Several loggers as one.

    Args:
        loggers: by names of your own.

    Raises:
        InputError: there is none, or one of them is no logger.
    """

    loggers: Mapping[str, RunLogger]

    def __post_init__(self) -> None:
        given: object = self.loggers
        if not isinstance(given, Mapping) or not given:
            raise InputError(
                f"`logger.loggers` is {given!r}; give at least one logger by a name, such as {{wandb: WandbReport()}}."
            )
        for name, logger in given.items():
            if not hasattr(logger, "start"):
                raise InputError(
                    f"`logger.loggers.{name}` is a {type(logger).__name__}, which has no `start`; choose one of those "
                    "in conf/logger, or write one like them."
                )

    def start(self, folder: Path | None, config: Mapping[str, Any]) -> LoggedRun:
        """A run of each; where one cannot be opened, those before it are closed as failed.

        Raises:
            InputError: as the loggers do.
        """
        with ExitStack() as opened:
            runs = [opened.enter_context(logger.start(folder, config)) for logger in self.loggers.values()]
            opened.pop_all()
        return _Runs(runs)


class _Runs(ClosesItself):
    def __init__(self, runs: Sequence[LoggedRun]) -> None:
        self._runs = runs

    @property
    def location(self) -> str | None:
        places = [run.location for run in self._runs if run.location is not None]
        return ", ".join(places) if places else None

    def finish(self, report: AuditReport) -> None:
        for run in self._runs:
            run.finish(report)

    def abort(self, exit_code: int = 1) -> None:
        for run in self._runs:
            run.abort(exit_code)
