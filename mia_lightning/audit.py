"""The run, top to bottom: plan, target, shadow models, signals, attacks, report.

`audit`, `observe`, `estimate` and `train_shard` take an `Audit`, or the fields of one: `audit(x, label, model=Net)` is
`audit(Audit(x, label, model=Net))`.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, get_type_hints, overload

import torch
from rich.console import Console

from mia_lightning.attacks.interface import Attack
from mia_lightning.defenses.interface import Defense, check_task
from mia_lightning.errors import InputError, SettingError, nearest, usable_files
from mia_lightning.gate import Gate, judge
from mia_lightning.loggers.interface import LoggedRun, NoLogger, RunLogger
from mia_lightning.reports.assemble import assemble
from mia_lightning.reports.files import save_members, save_report
from mia_lightning.reports.schema import AuditReport, GateSection
from mia_lightning.run.about import About
from mia_lightning.run.completion import config_of
from mia_lightning.run.definition import Audit
from mia_lightning.run.estimate import estimate_of
from mia_lightning.run.observation import Observation, observe_models
from mia_lightning.run.preparation import engine_of
from mia_lightning.run.scoring import run_attacks
from mia_lightning.run.shards import train_shadow_shard
from mia_lightning.settings.checking import shown
from mia_lightning.store.run_folder import written_to_run
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.plan.memory import enough_memory
from mia_lightning.training.plan.threads import allowed_threads, using_threads

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class TakesAudit(Protocol[P, R_co]):
    """A function of an `Audit`, which may be given by its fields."""

    @overload
    def __call__(self, audit: Audit, /) -> R_co: ...

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def _by_fields(make: Callable[P, Audit]) -> Callable[[Callable[[Audit], R_co]], TakesAudit[P, R_co]]:
    """A function of an `Audit` as one that also takes what makes one."""

    def of(function: Callable[[Audit], R_co]) -> TakesAudit[P, R_co]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> R_co:
            is_one = len(args) == 1 and isinstance(args[0], Audit) and not kwargs
            with entered():
                return function(args[0] if is_one else make(*args, **kwargs))

        plain, signature = get_type_hints(make), inspect.signature(make)
        parameters = [each.replace(annotation=plain[name]) for name, each in signature.parameters.items()]
        result = inspect.signature(function).return_annotation
        call.__signature__ = signature.replace(parameters=parameters, return_annotation=result)  # type: ignore[attr-defined]
        return call

    return of


@contextmanager
def entered() -> Iterator[None]:
    """Within the context torch is as it begins, on the cores that there are; what the system refuses is a sentence."""
    with _as_torch_begins(), using_threads(allowed_threads()), enough_memory(), usable_files():
        yield


@contextmanager
def _as_torch_begins() -> Iterator[None]:
    """Within the context the modes of torch are its defaults, whatever the caller has set around the call: gradients,
    no autocast, tensors on the CPU."""
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        yield


@_by_fields(Audit)
def audit(audit: Audit) -> AuditReport:
    """Measure how much a model gives away about its training records.

    Args:
        audit: an `Audit`, or its fields.

    Returns:
        The report, with scores and training curves.

    Raises:
        InputError: data, settings or files that cannot be used; the sentence says which and what to do.

    Example:
        >>> import mia_lightning as mia
        >>> from sklearn.datasets import load_digits
        >>> from torch import nn
        >>> x, label = load_digits(return_X_y=True)
        >>> report = mia.audit(
        ...     x / 16,
        ...     label,
        ...     model=lambda: nn.Linear(64, 10),
        ...     membership=mia.Disjoint(train_size=50),
        ...     shadow=mia.Real(count=4),
        ...     attacks=[mia.Loss()],
        ... )
        >>> report.target.generalization_gap > 0
        True
        >>> auc = report.attacks[0].overall.auc
        >>> auc.low < auc.value < auc.high
        True
    """
    with _logged(audit) as log, Stages(audit.console) as stages:
        with closing(observe_models(engine_of(audit, stages), audit)) as observation:
            report = _attacked(observation)
        log.finish(report)
    return report


@_by_fields(Audit)
def observe(audit: Audit) -> Observation:
    """The expensive half of `audit`: train the models and ask them, once for any number of `attack` calls.

    Args:
        audit: an `Audit`, or its fields. Of `attacks` only the needs matter here, such as records reserved as
            population; of `defenses` only those that change training, and the others only where the shadow records
            are made from the target's answers.

    Raises:
        InputError: as `audit`.

    Example:
        >>> import mia_lightning as mia
        >>> from sklearn.datasets import load_digits
        >>> from torch import nn
        >>> x, label = load_digits(return_X_y=True)
        >>> observation = mia.observe(x / 16, label, model=lambda: nn.Linear(64, 10), shadow=mia.Real(count=4))
        >>> observation.shadow_signals.log_probability_KANC.shape  # 4 models, 1 view, all records, 10 classes
        torch.Size([4, 1, 1797, 10])
        >>> observation.close()
    """
    with Stages(audit.console) as stages:
        return observe_models(engine_of(audit, stages), audit)


class Cheap(TypedDict, total=False):
    """The fields of an `Audit` that can differ once its models are observed."""

    attacks: Sequence[Attack]
    defenses: Sequence[Defense]
    adaptive: bool
    skip_inapplicable: bool
    convergence: bool
    output: Path | str | None
    save_models: bool
    logger: RunLogger | None
    console: Console | None
    gate: Gate | None
    report: About
    config: Mapping[str, Any]


def attack(observation: Observation, **changes: Unpack[Cheap]) -> AuditReport:
    """The cheap half of `audit`: run attacks on what was observed, behind output defences; no model is trained anew.

    Args:
        changes: what is to be otherwise than in the observed `Audit`: attacks, output defences, adaptive,
            skip_inapplicable, convergence, output, save_models, gate, report, logger, console, config.

    Raises:
        InputError: as `audit`, for what only `observe` can change, and for defences that the observed models were not
            trained with.

    Example:
        >>> import mia_lightning as mia
        >>> from sklearn.datasets import load_digits
        >>> from torch import nn
        >>> x, label = load_digits(return_X_y=True)
        >>> observation = mia.observe(x / 16, label, model=lambda: nn.Linear(64, 10), shadow=mia.Real(count=4))
        >>> for k in (1, 3):  # nothing is trained
        ...     report = mia.attack(observation, attacks=[mia.Loss()], defenses=[mia.TopK(k=k)])
        ...     print(report.defense.description)
        top 1 class
        top 3 classes
    """
    if not isinstance(observation, Observation):
        raise InputError(f"`observation` is {shown(observation)}; give what mia_lightning.observe returns.")
    for name in changes:
        if name not in Cheap.__annotations__:
            known = list(Cheap.__annotations__)
            raise SettingError(
                "", name, f"is nothing that `attack` can change{nearest(name, known)}; that is {', '.join(known)}."
            )
    with entered():
        return attack_observed(observation, replace(observation.audit, **changes))


def attack_observed(observation: Observation, audit: Audit) -> AuditReport:
    """As `attack`, for an audit of the same models.

    Raises:
        InputError: as `attack`.
    """
    check_task(audit.defenses, observation.population.task)
    observed, earlier = observation.audit, observation.engine
    trainings = audit.training_defenses
    if trainings != observed.training_defenses or (trainings and audit.adaptive != observed.adaptive):
        raise InputError(
            "`defenses` asks for another training than that of the observed models; call mia_lightning.observe with "
            "the same `defenses` and `adaptive`."
        )
    if observation.synthesis is not None and audit.output_defenses != observed.output_defenses:
        raise InputError(
            f"The records of shadow={observed.shadow.source} were made from the target's answers, which `defenses` "
            "changes; call mia_lightning.observe with the same `defenses`."
        )
    with _logged(audit) as log, Stages(audit.console) as stages:
        for name in ("remarks", "broken", "notes"):
            getattr(stages, name).extend(getattr(earlier.stages, name))
        stages.seconds.update(earlier.stages.seconds)
        engine = replace(
            earlier,
            stages=stages,
            folder=audit.folder,
            losses=dict(earlier.losses),
            plans=earlier.plans.moved(audit.folder),
            reused=dict(earlier.reused),
        )
        report = _attacked(replace(observation, engine=engine).asked_for(audit))
        log.finish(report)
    return report


@_by_fields(Audit)
def estimate(audit: Audit) -> list[str]:
    """What an audit would take, a sentence for each stage that trains; nothing is trained.

    Each stage is measured by a few steps of throw-away networks, here and now.

    Args:
        audit: an `Audit`, or its fields.

    Raises:
        InputError: as `audit`, as far as this can be told before anything is trained.

    Example:
        >>> import mia_lightning as mia
        >>> from sklearn.datasets import load_digits
        >>> from torch import nn
        >>> x, label = load_digits(return_X_y=True)
        >>> sentences = mia.estimate(x / 16, label, model=lambda: nn.Linear(64, 10), attacks=[mia.Loss()])
        >>> [sentence.partition(" x ")[0] for sentence in sentences[:2]]  # then all answers, and all stages together
        ['1 target model', '64 shadow models']
    """
    return estimate_of(audit)


@_by_fields(Audit)
def train_shard(audit: Audit) -> str:
    """One of several jobs that train the shadow models of one audit: those of `shard`, into the store.

    The audit then finds them there. The targets are trained where they are not there, by whichever job comes first.

    Args:
        audit: an `Audit` with `shard` and `store`, or its fields.

    Returns:
        A sentence that says how many models it was.

    Raises:
        InputError: as `audit`; or the shadow models are not trained here.
    """
    return train_shadow_shard(audit)


def _attacked(observation: Observation) -> AuditReport:
    """The report on the attacks of the observation's audit, with its files."""
    audit = observation.audit
    target_signals, outcomes = run_attacks(observation)
    with observation.engine.stages.stage("report", 0):
        report = assemble(observation, target_signals=target_signals, outcomes=outcomes)
        if audit.gate is not None:
            report = report.model_copy(update={"gate": GateSection.of(judge(report, audit.gate))})
        if audit.folder is not None:
            with written_to_run():
                if audit.save_models:
                    observation.targets.save(audit.folder / "target.safetensors")
                    observation.shadows.save(audit.folder / "shadow.safetensors")
                    save_members(observation.membership.columns(observation.target_columns), audit.folder)
                save_report(report, audit.folder)
    return report


def _logged(audit: Audit) -> LoggedRun:
    logger: RunLogger = NoLogger() if audit.logger is None else audit.logger
    return logger.start(audit.folder, config_of(audit))
