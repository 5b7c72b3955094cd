"""A trained network of a finished run, ready to answer."""

import re
import shlex
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mia_lightning.command.job import Job
from mia_lightning.datasets.form import Records, moved
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.interface import OutputDefense, apply_all, channel_of, defended_model, split_defenses
from mia_lightning.errors import InputError
from mia_lightning.reports.files import read_report
from mia_lightning.reports.names import MEMBERS
from mia_lightning.reports.schema import AuditReport, FieldSection
from mia_lightning.serve.records import check_answers
from mia_lightning.serve.shown import Answers, Shown
from mia_lightning.sweep.rows import read_yaml
from mia_lightning.targets.existing import given_models
from mia_lightning.targets.steady import steadily
from mia_lightning.training.own.making import made_for_stacks
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.trained import TrainedStack

# The settings of a run's command that an audit of its served model repeats.
_KEPT = re.compile(r"(dataset|task|model|training|trainer|shadow|seed|logger)(\.(?!train_size\b|shards?\b)[\w.]+)?=")


@dataclass(frozen=True, eq=False, kw_only=True)
class ServedModel:
    """One network behind its output defences; many threads may ask it.

    Attributes:
        name: under which it is served.
        trained: a stack of one.
        population: one record of the data set, for the form of records, their normalisation and the names of classes.
        defenses: in the order in which they are applied.
        shown: the form of answers.
    """

    name: str
    trained: TrainedStack
    population: Population
    defenses: tuple[OutputDefense, ...]
    shown: Shown
    # While a stack computes, it holds a model's parameters in place of its own.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, x_B: Tensor) -> Answers:
        """The answers for records `[B, *features]`, as they are before normalisation.

        The answer for a record does not depend on the other records. Probabilities are the float64 exponentials of
        float32 log probabilities, as `TrainedStack.observe` gives them.

        Raises:
            RefusedError: there is no answer for a record, since its values are too large.
        """
        stack = self.trained.stack
        with self._lock:
            log_BC = steadily(lambda x_B: self.trained.log_probability(self._seen(x_B, stack))[0], x_B)
            observed_BC = apply_all(self.defenses, log_BC)
        return Answers(
            probability_BC=check_answers(observed_BC.double().exp().cpu()),
            class_names=self.population.class_names,
            shown=self.shown,
        )

    def _seen(self, x_B: Tensor, stack: Stack) -> Records:
        return moved(self.population.normalised(x_B, stack.dtype), stack.device)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the protocols cannot send of the records of the run."""
        fields = () if self.population.form is None else self.population.form.fields
        gaps = ", ".join(field.named_words for field in fields if field.has_gaps)
        if not gaps:
            return ()
        return (
            f"warning: records of the run may lack numbers, in {gaps}, which the protocols cannot send; records "
            "without gaps are answered, and an audit needs data without them.",
        )

    def describe(self) -> str:
        """A few words for a person."""
        population = self.population
        form = f"{list(population.input_shape)} {str(population.x_N.dtype).removeprefix('torch.')}"
        form = form if population.form is None else population.form.words
        channel = channel_of(self.defenses)
        return (
            f"{self.name}, a {self.trained.architecture_name} on records of {form} in {population.num_classes} "
            f"classes, showing {self.shown.describe()}" + ("" if channel == "full" else f" behind {channel}")
        )


def served_model(
    folder: Path,
    *,
    role: str = "target",
    member: int | None = None,
    name: str | None = None,
    defenses: Sequence[OutputDefense] = (),
    answers: str = "probabilities",
    accelerator: str = "cpu",
    trust: bool = False,
) -> ServedModel:
    """The network of a run with `save_models=true`.

    Args:
        folder: of the run.
        role: `target` or `shadow`.
        member: which of several models, from 0; None for the only one.
        name: by default the role.
        trust: whether data set, architecture and training defences may be any that the run's configuration names, which
            are then called, as when it was run; otherwise they must be this package's own.

    Raises:
        InputError: it is no such run or has no such model, its data set cannot be loaded, or it names what is not this
            package's own.
    """
    report = read_report(folder)
    path = folder / f"{role}.safetensors"
    if report.structure is not None:
        raise InputError(
            f"{folder} is a run of an estimator, {report.target.architecture}, and what is served are networks with "
            "saved weights; attack the estimator itself by target=sklearn."
        )
    if not report.run.config:
        raise InputError(
            f"{folder} is a run from Python, whose report names neither model nor data set; run it by mia-lightning."
        )
    job = Job(report.run.config, trusted=trust)
    if not job.task.has_classes:
        raise InputError(
            f"{folder} is a run of task={job.task.name}, and what is served are the probabilities of classes; serve a "
            "run of task=classification, or attack the network itself by target=checkpoint."
        )
    if not path.is_file():
        raise InputError(f"{folder} has no {path.name}; run the audit again with save_models=true.")
    population = _population(job, report)
    k, stack = _chosen(path, role, member, job, population)
    device = torch.device("cuda" if accelerator == "gpu" else "cpu")
    return ServedModel(
        name=role if name is None else name,
        trained=given_models(stack.model(k), population, device),
        population=population,
        defenses=tuple(defenses),
        shown=Shown.of(answers, defenses, population.num_classes),
    )


def next_command(
    folder: Path, model: ServedModel, address: str, *, member: int | None, token_variable: str, trust: bool = False
) -> str:
    """The command of an audit of the served model, as far as the run gives it."""
    members = folder / MEMBERS
    place = str(members) if members.is_file() and member in (None, 0) else "ROWS.csv"
    words = ["mia-lightning", "target=open_inference", f"target.url={address}", f"target.model={model.name}"]
    words += [f"target.token_variable={token_variable}"] if token_variable else []
    return shlex.join([*words, "membership=given", f"membership.path={place}", *_typed(folder, trust)])


def _typed(folder: Path, trust: bool) -> list[str]:
    """The settings of data, model and training that were typed when the run was started.

    They are for a person to copy. Without trust those are left out that name what to call, that Hydra would fill in, or
    that a terminal would obey.
    """
    typed = read_yaml(folder / ".hydra" / "overrides.yaml")
    if not isinstance(typed, list):
        return ["dataset=...", "model=..."]
    kept = [each for each in typed if isinstance(each, str) and _KEPT.match(each.lstrip("+~"))]
    return [each for each in kept if trust or (each.isprintable() and "_target_" not in each and "${" not in each)]


def _population(job: Job, report: AuditReport) -> Population:
    """One record of the run's data set, which must still have the form that it had in the run."""
    whole = job.population()
    if whole.class_names != report.dataset.class_names or whole.input_shape != report.dataset.input_shape:
        raise InputError(
            f"The data set {whole.name} has {whole.num_classes} classes and records of {list(whole.input_shape)}, but "
            f"had {report.dataset.num_classes} and {list(report.dataset.input_shape)} in the run; put back the data "
            "that the run used."
        )
    form = None if whole.form is None else FieldSection.of_all(whole.form.fields)
    if form != report.dataset.form:
        raise InputError(
            f"The records of {whole.name} have another form than in the run (names, kinds, shapes or numbers of "
            "codes); put back the data that the run used."
        )
    one = whole.part(slice(0, 1))
    return replace(one, x_N=one.x_N.clone(), label_N=one.label_N.clone(), member_N=None, group_N=None, group_names=())


def _chosen(path: Path, role: str, member: int | None, job: Job, population: Population) -> tuple[int, Stack]:
    epochs = job.content["training"].get("epochs")
    make, _ = made_for_stacks(_model(job, role), population, max_epochs=epochs if type(epochs) is int else 1)
    stack = Stack.load(path, bind_records(make, population, _output(job, role)))
    if member is None and stack.num_models > 1:
        raise InputError(f"{path} holds {stack.num_models} models; choose one by --member, from 0.")
    k = member or 0
    if not 0 <= k < stack.num_models:
        raise InputError(
            f"`--member` is {k}, but {path} holds {stack.num_models} "
            f"{'model' if stack.num_models == 1 else 'models'}, numbered from 0; give a smaller number."
        )
    return k, stack


def _model(job: Job, role: str) -> "Callable[..., torch.nn.Module]":
    """Makes the network that was trained: the configured one or the attacker's guess, with its training defences."""
    is_guess = role == "shadow"
    trainings = () if is_guess and not job.configuration.defense["adaptive"] else split_defenses(job.defenses)[1]
    return defended_model(trainings, (job.guessed_model if is_guess else None) or job.model)


def _output(job: Job, role: str) -> Any:
    """What that network gives."""
    is_guess = role == "shadow" and job.guessed_model is not None
    return job.guessed_output if is_guess else job.configuration.model_output
