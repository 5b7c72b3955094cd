"""What an experiment logger must do for an audit, the logger that does nothing, and several loggers as one.

with logger.start(folder, config) as run:
    ...                  # train, attack
    run.finish(report)   # an error before this line closes the run as failed
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Protocol, Self

from annotated_types import MinLen

from mia_lightning.reports.schema import AuditReport
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Has
from mia_lightning.settings.words import Such, Words
from mia_lightning.store.run_folder import written_to_run


class LoggedRun(Protocol):
    """One run of a logger. Used as a context manager, it closes itself as failed unless it was finished."""

    @property
    def location(self) -> str | None:
        """Where to look: an address or a folder; None where nothing is logged."""

    def finish(self, report: AuditReport) -> None:
        """Log the whole report and close the run."""

    def abort(self, exit_code: int = 1) -> None:
        """Close the run as failed; does nothing where the run is closed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class RunLogger(Protocol):
    """A logger of `conf/logger`."""

    def start(self, folder: Path | None, config: Mapping[str, Any]) -> LoggedRun:
        """Open a run.

        Args:
            folder: for its files; None for the current folder.
            config: shown by the run; plain containers and values.
        """


class ClosesItself:
    """A run that is finished or aborted once; leaving its context unfinished aborts it. By default it logs nothing."""

    _is_closed = False

    def _log(self, report: AuditReport) -> None:
        """Log the report and close the run."""

    def _close_as_failed(self, exit_code: int) -> None:
        """Close the run without a report."""

    def finish(self, report: AuditReport) -> None:
        if self._is_closed:
            raise RuntimeError("This run is closed.")
        with written_to_run():
            self._log(report)
        self._is_closed = True

    def abort(self, exit_code: int = 1) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._close_as_failed(exit_code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class NoRun(ClosesItself):
    """A run that logs nothing."""

    location: str | None = None


@settings("logger")
class NoLogger:
    """`logger=none`."""

    def start(self, folder: Path | None, config: Mapping[str, Any]) -> NoRun:
        """A run that logs nothing."""
        return NoRun()


_LOGGER = Has("start", words=Words("one of those in conf/logger, or a logger like them"))


@settings("logger")
class Loggers:
    """Several loggers as one.

    Attributes:
        loggers: by names of your own.
    """

    loggers: Annotated[
        Mapping[str, Annotated[RunLogger, _LOGGER]],
        MinLen(1),
        Words("at least one logger, by a name"),
        Such("{wandb: WandbReport()}"),
    ]

    def start(self, folder: Path | None, config: Mapping[str, Any]) -> LoggedRun:
        """A run of each logger; where one cannot be opened, those before it are closed as failed.

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
