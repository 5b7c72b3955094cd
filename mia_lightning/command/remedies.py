"""`experiment=remedies`: what would help, from any configuration of an audit."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mia_lightning.command.job import Job
from mia_lightning.errors import InputError
from mia_lightning.terminal.results import nothing_on_stdout
from mia_lightning.terminal.tables import printer

_OUTPUTS = ("text", "json")


def check(job: Job, *, in_sweep: bool) -> None:
    """Refuse what does not go with remedies.

    Raises:
        InputError: a sweep, a document that speaks of one model, or a gate.
    """
    settings = job.configuration
    if in_sweep:
        raise InputError(
            "experiment=remedies compares ways of training, and the table of a sweep holds the figures of one model in "
            "each run; leave --multirun out."
        )
    if settings.output not in _OUTPUTS:
        raise InputError(
            f"`output` is {settings.output!r}, a document about one model, and experiment=remedies compares ways of "
            f"training; set it to {' or '.join(_OUTPUTS)}."
        )
    if settings.judge is not None:
        raise InputError(
            "`gate.metric` is set, and experiment=remedies holds no figure against a limit; leave the gate out."
        )
    if settings.comparison is not None or settings.experiments is not None:
        raise InputError("`remedies` and `comparison` are both set; an experiment has one of them.")


def run_remedies(job: Job, overrides: Sequence[str], folder: Path) -> None:
    """Try the remedies, and print what each does.

    Raises:
        InputError: as `mia_lightning.try_remedies`.
    """
    console, progress = printer(stderr=job.configuration.output != "text"), Console(stderr=True)
    with nothing_on_stdout():
        from mia_lightning.remedies.trying import try_remedies
        from mia_lightning.remedies.words import render_remedies

        chosen = job.configuration.remedies
        assert chosen is not None
        job.keep(folder)
        report = try_remedies(
            job.audit(folder=folder, console=progress),
            remedies=chosen,
            command=" ".join(["mia-lightning", *overrides]),
        )
    console.print(render_remedies(report), crop=False)
    console.print(f"\nResults: {folder / 'remedies.html'}", highlight=False, soft_wrap=True)


def estimated(job: Job) -> list[str]:
    """What it would take."""
    from mia_lightning.remedies.estimating import estimate_remedies

    chosen = job.configuration.remedies
    assert chosen is not None
    return estimate_remedies(job.audit(), remedies=chosen)
