"""Weights & Biases: `logger=wandb`, offline by default.

Nothing prompts the user, nothing about the machine is recorded, and the process's environment is left as it was. A run
is opened when the audit begins, so that an audit that was killed still shows; its content is logged when the audit ends
(`wandb_content.py`).
"""

import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from mia_lightning.errors import InputError
from mia_lightning.loggers.interface import ClosesItself, LoggedRun, NoRun
from mia_lightning.loggers.wandb_experiment import Experiment, fitting
from mia_lightning.reports.schema import AuditReport
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AnyText, FromList, Name
from mia_lightning.settings.words import Such, Words
from mia_lightning.store.run_folder import written_to_run

if TYPE_CHECKING:
    import wandb

_MODELS = ("target.safetensors", "shadow.safetensors")


@settings("logger")
class WandbReport:
    """Logs an audit to Weights & Biases.

    Attributes:
        mode: "offline" (files only, for `wandb sync`), "online" (needs an API key) or "disabled".
        project: of wandb.
        entity: user or team; None for the account's own.
        name: of the run; None lets wandb choose. A run of an experiment adds the name of its variant.
        group: runs to be shown together; None for the experiment or sweep that the run is part of.
        tags: of the run, beside the data set, the architecture and the experiment.
        notes: of the run.
        models: whether the stacks that `save_models` wrote are logged as an artefact.
    """

    mode: Annotated[
        Literal["offline", "online", "disabled"],
        Words("one of offline, online, disabled (its default is the environment variable WANDB_MODE)"),
    ] = "offline"
    project: Annotated[Name, Words("the name of a wandb project")] = "mia_lightning"
    entity: AnyText | None = None
    name: AnyText | None = None
    group: AnyText | None = None
    tags: Annotated[Sequence[Name], FromList, Such("[nightly]")] = ()
    notes: AnyText | None = None
    models: bool = False

    def start(self, folder: Path | None, config: Mapping[str, Any]) -> LoggedRun:
        """Open a run whose files lie in `folder`/wandb; None is the current folder, as for wandb itself.

        Raises:
            InputError: `mode` is online and there is no API key, wandb refuses the run, or no models are saved to log.
        """
        if self.models and config and not config.get("save_models"):
            raise InputError("`logger.models` is true, and no models are saved; add save_models=true.")
        if self.mode == "disabled":
            return NoRun()
        folder = folder or Path.cwd()
        with written_to_run():
            folder.mkdir(parents=True, exist_ok=True)
        experiment = Experiment.of(config)
        with _environment(folder):
            import wandb

            if self.mode == "online" and not _has_key(wandb.setup().settings):
                raise InputError(
                    "`logger.mode` is online and no wandb API key was found; run `wandb login`, set "
                    "WANDB_API_KEY, or keep logger.mode=offline."
                )
            try:
                with written_to_run():
                    run = wandb.init(
                        mode="offline" if self.mode == "offline" else "online",
                        dir=str(folder),
                        project=self.project,
                        entity=self.entity,
                        name=experiment.run_name(self.name) if experiment else self.name,
                        group=self.group or (experiment and experiment.group(folder)) or _sweep_of(folder),
                        tags=[*self.tags, *fitting([experiment.tag] if experiment else [])] or None,
                        notes=self.notes,
                        config=dict(config),
                        reinit="create_new",  # never a run that somebody else has open in this process
                        settings=_settings(),
                    )
            except InputError:
                raise
            except (wandb.Error, ValueError, RuntimeError, OSError) as error:
                sentence = " ".join(str(error).split())
                raise InputError(
                    f"wandb refused the run with the settings of `logger` ({sentence}); "
                    "correct them, or use logger.mode=offline or logger=none."
                ) from None
        return _WandbRun(run, folder, _MODELS if self.models else ())


class _WandbRun(ClosesItself):
    def __init__(self, run: "wandb.Run", folder: Path, models: Sequence[str]) -> None:
        self._run, self._folder, self._models = run, folder, models
        self.location: str | None = run.url or str(Path(run.dir).parent)

    def _log(self, report: AuditReport) -> None:
        from mia_lightning.loggers.wandb_content import log_report

        with _environment(self._folder):
            log_report(self._run, report)
            self._log_models()
            self._run.finish()

    def _log_models(self) -> None:
        import wandb

        saved = [path for name in self._models if (path := self._folder / name).is_file()]
        if saved:
            artifact = wandb.Artifact(f"models-{self._run.id}", type="model")
            for path in saved:
                artifact.add_file(str(path))
            self._run.log_artifact(artifact)

    def _close_as_failed(self, exit_code: int) -> None:
        # The user must see the error that ended the audit, not another one of wandb.
        with suppress(Exception), _environment(self._folder):
            self._run.finish(exit_code=exit_code)


def _sweep_of(folder: Path) -> str | None:
    """The name of the sweep in whose folder a run lies (its date and time, by default); None for a single run."""
    folder = folder.absolute()
    if not (folder / "run.json").is_file():
        return None
    return "/".join(folder.parent.parts[-2:])


def _settings() -> "wandb.Settings":
    """Settings that record the run alone: no machine, script, packages, console output or messages."""
    import wandb

    settings: dict[str, Any] = {
        "console": "off",
        "disable_code": True,
        "disable_git": True,
        "host": "",
        "silent": True,
        "x_disable_machine_info": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
        # A killed run loses at most what was logged in its last second.
        "x_transaction_log_flush_interval": 1,
    }
    return wandb.Settings(**{name: value for name, value in settings.items() if name in _known_settings()})


def _known_settings() -> set[str]:
    import wandb

    return set(wandb.Settings.model_fields)


def _has_key(settings: "wandb.Settings") -> bool:
    """Whether wandb finds an account without a prompt: in the environment, its settings or a netrc file."""
    import wandb

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or settings.api_key:
        return True
    hosts = {urlsplit(settings.base_url).netloc}
    if settings.base_url == wandb.Settings().base_url:
        hosts.add("api.wandb.ai")
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            known = netrc.netrc(os.path.expanduser(path)).hosts if path else {}
            if any(known[host][2] for host in hosts if host in known):
                return True
    return False


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Environment variables for wandb, within the context: settings that it reads from nowhere else.

    Without them wandb sends error reports even from an offline run, and stages tables in the user's home.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_DATA_DIR", str(folder.absolute() / "wandb" / "data"))
    os.environ["WANDB_SILENT"] = "true"
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(before)
