"""`mia-lightning`: Hydra composes, `audit` runs, every mistake is one sentence.

Nothing heavy is imported here: Hydra is imported inside `main`, where Ctrl-C is caught already, and torch and its
friends when a job starts, so that `--help` and a mistyped override answer at once.
"""

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mia_lightning.atomic import write_whole
from mia_lightning.errors import InputError
from mia_lightning.mistakes import (
    about_folder,
    about_node,
    check_flags,
    config_directory,
    is_bad_input,
    nearest,
    translate,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mia_lightning.reports.schema import AuditReport

SECTIONS = (
    "seed",
    "save_models",
    "dataset",
    "membership",
    "model",
    "target",
    "shadow",
    "attack",
    "training",
    "trainer",
    "logger",
)
NODES = tuple(name for name in SECTIONS if name not in ("seed", "save_models", "attack"))
BAD_INPUT = 2
BUG = 1
INTERRUPTED = 130
TERMINATED = 143


def main() -> None:
    """Entry point of the command `mia-lightning`; ends the process with 0, 1 (a bug), 2 (bad input), 130 or 143."""
    if sys.argv[1:] == ["--version"]:
        from mia_lightning import __version__

        print(f"mia-lightning {__version__}")
        return
    sys.path.insert(0, os.getcwd())  # for model._target_=my_package.Net; a console script leaves it out
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing several lines
    codes: list[int] = []

    def job(config: "DictConfig") -> None:
        codes.append(run_job(config))

    try:
        import hydra

        check_flags(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")(job)()
    except KeyboardInterrupt:
        print("mia-lightning: interrupted; no report was written for this run.", file=sys.stderr)
        codes.append(INTERRUPTED)
    except SystemExit as error:
        if not _is_termination(error):
            raise
        print("mia-lightning: terminated; no report was written for this run.", file=sys.stderr)
        codes.append(TERMINATED)
    except Exception as error:
        # What goes wrong in a job ends in `run_job`: a ValueError or OSError is Hydra's, about the command line.
        if not (is_bad_input(error) or isinstance(error, ValueError | OSError)):
            raise
        codes.append(_complain(translate(error)))
    sys.exit(max(codes, default=0))


def run_job(config: "DictConfig") -> int:
    """Run one audit and print its summary.

    Returns:
        The exit code: 0, or 2 for bad input. `outcome.json` in the job's folder says the same, with the reason.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode is RunMode.MULTIRUN:
        print(f"\nJob {hydra_config.job.num}: {' '.join(hydra_config.overrides.task)}")
    try:
        _forget_earlier_run(folder)
        resolved = resolve(config)
        run(resolved, folder)
        # After the run: what ends a run is one sentence, and a setting without effect does not end it.
        sizes = any(override.lstrip("+").startswith("dataset.train_size=") for override in hydra_config.overrides.task)
        plan = hydra_config.runtime.choices.get("membership")
        if sizes and plan in ("halves", "given"):
            print(f"mia-lightning: dataset.train_size has no effect under membership={plan}", file=sys.stderr)
    except KeyboardInterrupt:
        _record(folder, INTERRUPTED, "interrupted")
        raise
    except (Exception, SystemExit) as error:
        if _is_termination(error):
            _record(folder, TERMINATED, "terminated")
            raise
        if isinstance(error, Exception) and is_bad_input(error):
            sentence = translate(error)
            _record(folder, BAD_INPUT, sentence)
            return _complain(sentence)
        # A bug (SystemExit: of the user's code): it keeps its traceback, and the other jobs of a sweep still run.
        _record(folder, BUG, f"{type(error).__name__}: {error}")
        traceback.print_exc()
        return BUG
    _record(folder, 0, None)
    return 0


def resolve(config: "DictConfig") -> dict[str, Any]:
    """The configuration as plain values, before anything heavy is imported.

    Raises:
        InputError: a value that must be given is missing, a section is unknown or absent, or a switch is no bool.
    """
    from omegaconf import OmegaConf

    for name in NODES:  # before interpolations into them fail
        if config.get(name) is None:
            _check_node(None, name)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise InputError(f"`{missing[0]}` is not set, and has no default; add {missing[0]}=... to the command.")
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    unknown = sorted(str(name) for name in resolved if name not in SECTIONS)
    if unknown:
        raise InputError(
            f"there is no section `{unknown[0]}`{nearest(unknown[0], SECTIONS)}; the sections are "
            f"{', '.join(SECTIONS)}."
        )
    for name in ("seed", "save_models"):
        if name not in resolved:
            raise InputError(f"`{name}` was deleted, and the run needs it; leave ~{name} out.")
    for name in NODES:
        _check_node(resolved.get(name), name)
    attacks = resolved.get("attack")
    if attacks is not None and not isinstance(attacks, dict):
        raise InputError(f"`attack` is {attacks!r}; choose attacks by their names, such as attack=[shokri,loss].")
    for name, node in (attacks or {}).items():
        _check_node(node, f"attack.{name}")
    resolved["trainer"].setdefault("progress_bar", True)
    for place, value in (
        ("save_models", resolved["save_models"]),
        ("trainer.progress_bar", resolved["trainer"]["progress_bar"]),
    ):
        if not isinstance(value, bool):
            raise InputError(f"`{place}` is {value!r}; it must be true or false.")
    return {str(name): value for name, value in resolved.items()}


def _check_node(node: Any, place: str) -> None:
    """A section must say what it makes."""
    group = place.split(".")[0]
    choices = sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
    mend = f"choose one of {', '.join(choices)} by {group}=..."
    if not isinstance(node, dict):
        raise InputError(f"`{place}` is {'empty' if node is None else repr(node)}; {mend}.")
    if not isinstance(node.get("_target_"), str):
        raise InputError(f"`{place}` has no `_target_`, the name of what it makes; {mend}.")


def run(resolved: dict[str, Any], folder: Path) -> "AuditReport":
    """Instantiate what the resolved configuration names, audit, and print the summary."""
    from omegaconf import OmegaConf
    from rich.console import Console

    from mia_lightning.audit import audit
    from mia_lightning.reports.console import render_summary

    console = Console()
    try:
        write_whole(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved)).encode())
    except OSError as error:
        raise InputError(about_folder(error)) from error
    dataset = {key: value for key, value in resolved["dataset"].items() if key != "train_size"}
    make = _instantiate
    report = audit(
        make(dataset, "dataset"),
        model=make(resolved["model"], "model", partial=True),
        membership=make(resolved["membership"], "membership"),
        target=make(resolved["target"], "target"),
        shadow=make(resolved["shadow"], "shadow"),
        attacks=[make(node, f"attack.{name}") for name, node in (resolved.get("attack") or {}).items()],
        training=make(resolved["training"], "training"),
        trainer=make(resolved["trainer"], "trainer"),
        logger=make(resolved["logger"], "logger"),
        seed=resolved["seed"],
        save_models=resolved["save_models"],
        output=folder,
        console=console if resolved["trainer"]["progress_bar"] else None,
        config=resolved,
    )
    console.print(render_summary(report))
    console.print(f"\nResults: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    return report


def _instantiate(node: Any, place: str, *, partial: bool = False) -> Any:
    """`hydra.utils.instantiate`, with what is wrong with the node as an `InputError`."""
    from hydra.errors import HydraException, InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(node, _convert_="all", **({"_partial_": True} if partial else {}))
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, InputError):
            raise cause from error
        if cause is None or isinstance(cause, TypeError | ValueError | ImportError | AttributeError | HydraException):
            raise InputError(about_node(error, place)) from error
        raise  # a bug of what was called


def _forget_earlier_run(folder: Path) -> None:
    """A run in the folder of an earlier one must not leave that one's result beside its own failure."""
    try:
        for name in ("report.json", "report.html", "outcome.json"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(about_folder(error)) from error


def _is_termination(error: BaseException) -> bool:
    """Whether it is Lightning's answer to SIGTERM while it trains: a SystemExit whose code would be 0."""
    lightning = sys.modules.get("pytorch_lightning.utilities.exceptions")
    return lightning is not None and isinstance(error, lightning.SIGTERMException)


def _record(folder: Path, code: int, reason: str | None) -> None:
    if folder.is_dir():
        # A folder that cannot be written is complained about already.
        with contextlib.suppress(OSError):
            write_whole(folder / "outcome.json", json.dumps({"exit_code": code, "reason": reason}, indent=2).encode())


def _complain(sentence: str) -> int:
    print(f"mia-lightning: {sentence}", file=sys.stderr)
    return BAD_INPUT
