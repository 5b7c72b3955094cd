"""TensorBoard: `logger=tensorboard`.

Each run writes one event file, in the folder `tensorboard` of its own folder: `tensorboard --logdir outputs` shows all
runs below `outputs`. The file is written when the audit ends, and names neither the machine nor the user;
`tensorboard_content.py` lists its content.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mia_lightning.errors import InputError
from mia_lightning.loggers.interface import ClosesItself
from mia_lightning.reports.schema import AuditReport
from mia_lightning.settings import settings
from mia_lightning.store.atomic import write_whole
from mia_lightning.store.run_folder import written_to_run

FOLDER = "tensorboard"
EVENTS = "events.out.tfevents.mia_lightning"  # TensorBoard takes any file with "tfevents" in its name


@settings("logger")
class TensorBoardReport:
    """Logs an audit to TensorBoard."""

    def start(self, folder: Path | None, config: Mapping[str, Any]) -> "_TensorBoardRun":
        """A run whose file will lie in `folder`/tensorboard; None is the current folder.

        The file of an earlier run is removed.

        Raises:
            InputError: TensorBoard is not installed.
        """
        if find_spec("tensorboard") is None:
            raise InputError(
                "logger=tensorboard needs the package `tensorboard`, which is not installed; "
                "pip install 'mia-lightning[tensorboard]'."
            )
        place = (folder or Path.cwd()) / FOLDER
        with written_to_run():
            (place / EVENTS).unlink(missing_ok=True)
        return _TensorBoardRun(place, config)


class _TensorBoardRun(ClosesItself):
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder, self._config = folder, config
        self.location: str | None = str(folder)

    def _log(self, report: AuditReport) -> None:
        from mia_lightning.loggers.tensorboard_content import events_of

        write_whole(self._folder / EVENTS, events_of(report, self._config))
