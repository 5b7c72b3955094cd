"""What a module answers for the records that a monitor looks at: in eval mode, and as if nobody had looked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from mia_lightning.attacks.statistics import correctness, log_confidence
from mia_lightning.callbacks.look import Look, look_at, of_classes, of_task, scores_of
from mia_lightning.callbacks.records import RecordSample
from mia_lightning.datasets.arrays import as_tensor
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import isolated
from mia_lightning.targets.own_forward import in_eval_mode
from mia_lightning.tasks import Classification, Task
from mia_lightning.tasks.interface import OutputForm
from mia_lightning.training.signals import Signals
from mia_lightning.training.stack.outputs import Answer as OneNumber
from mia_lightning.training.stack.outputs import are_shares, columns, form_of, stays_in_0_1
from mia_lightning.training.stack.way import Way, way_of

Answer = Callable[[Any, Any], tuple[Any, Any]]

_LABELS = ("labels", "label", "targets", "target", "y")
_MEND = "give `monitor.answer` a function of (module, batch) that returns (logits [B, C], labels [B])"
_COLUMNS = 3  # score, whether correct, label


def parts_of(batch: Any) -> tuple[Any, Any]:
    """The inputs and the labels of a batch as a LightningModule's steps take it.

    The batch is (inputs, labels), or a mapping with the labels under `labels`, `label`, `targets`, `target` or `y`; of
    a mapping with one other name, the inputs are what it names, else the mapping without the labels.

    Raises:
        InputError: another form of batch.
    """
    if isinstance(batch, Mapping):
        named = [name for name in _LABELS if name in batch]
        if len(named) != 1:
            raise InputError(
                f"A batch is a mapping with {', '.join(map(str, batch))}, and the labels must be in one of "
                f"{', '.join(_LABELS)}; {_MEND}."
            )
        rest = {name: value for name, value in batch.items() if name != named[0]}
        return rest if len(rest) > 1 else next(iter(rest.values()), rest), batch[named[0]]
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch[0], batch[1]
    held = f"of {len(batch)} parts" if isinstance(batch, list | tuple) else "that is no pair"
    raise InputError(f"A batch is a {type(batch).__name__} {held}, and a monitor reads (inputs, labels); {_MEND}.")


def module_answer(module: Any, batch: Any, way: Way) -> tuple[Any, Any]:
    """The outputs of a module for a batch, asked as an audit asks it, and the labels.

    Raises:
        InputError: as `parts_of`.
    """
    inputs, label_B = parts_of(batch)
    return way(module, inputs), label_B


@dataclass(frozen=True, eq=False, kw_only=True)
class Reading:
    """How a module is asked, and what its outputs stand for, found out once.

    Attributes:
        answer: gives outputs `[B, C]`, or one number a record, and labels.
        form: of the outputs.
        one: what one number a record is.
        found: what is unlike a plain forward with a tensor, in a clause; "" for nothing.
        task: what labels and outputs are.
        num_outputs: how many outputs, and as many labels or numbers, a record has; of classes not asked for.
    """

    answer: Answer
    form: OutputForm = "logits"
    one: OneNumber = "logit"
    found: str = ""
    task: Task = field(default_factory=Classification)
    num_outputs: int = 0

    @property
    def width(self) -> int:
        """How many columns `table` has."""
        return _COLUMNS if self.task.has_classes else 2 * self.num_outputs

    def labels(self, label_B: Tensor, output: Tensor) -> Tensor:
        """Labels as the task holds them, a row for each record or a class.

        Raises:
            InputError: they are none of the task.
        """
        if self.task.has_classes:
            return _as_classes(label_B, output)
        return _without_classes(label_B, self.task)

    def table(self, output: Tensor, label_N: Tensor) -> Tensor:
        """What is known of records, in their order, float64 `[N, width]` on the CPU.

        Of classes: log p of the record's own class, at most 0, the score of the loss attack; whether it is predicted;
        the class. A score is NaN where the module gave no number. Else the answers, and the labels.
        """
        if not self.task.has_classes:
            return torch.cat([self.task.answers(output, self.form).double(), label_N.double()], 1)
        score_N, is_correct_N = scored(output, label_N, self.form)
        return torch.stack([score_N, is_correct_N.double(), label_N.double()], 1)

    def look(self, of_members: Tensor, of_others: Tensor, *, epoch: int, step: int, seed: int) -> Look:
        """The figures of these tables."""
        table = torch.cat([of_members, of_others])
        is_member_N = torch.arange(len(table)) < len(of_members)
        if self.task.has_classes:
            score_N, is_correct_N, label_N = table.unbind(1)
            seen = of_classes(score_N, is_correct_N > 0, label_N.long(), is_member_N)
        else:
            answer_NC, label_NX = self._parts(table)
            seen = of_task(self.task, answer_NC, label_NX, is_member_N)
        return look_at(seen, epoch=epoch, step=step, seed=seed)

    def scores(self, of_members: Tensor, of_others: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of the members, and their labels."""
        M = len(of_members)
        if self.task.has_classes:
            return of_members[:, 0], of_members[:, -1].long()
        table = torch.cat([of_members, of_others])
        answer_NC, label_NX = self._parts(table)
        score_N = scores_of(self.task, answer_NC, label_NX, torch.arange(len(table)) < M)
        return score_N[:M], label_NX[:M].squeeze(1)

    def _parts(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """Answers and labels of a task without classes."""
        return table[:, : self.num_outputs].float(), table[:, self.num_outputs :].float()


def reading_of(
    trainer: Any, module: Any, sides: Sequence[RecordSample], answer: Answer | None, *, task: Task, seed: int
) -> Reading:
    """How a module is to be asked, by the rules of an audit, from the first batch of members.

    Args:
        sides: members and non-members, whose labels say how many classes there are.
        answer: a user's function that stands in for the module.
        task: what the labels are.

    Raises:
        InputError: the module fails, several outputs could be meant, or labels or outputs have another form.
    """
    with isolated(seed, "monitor", "answers"), _as_in_validation(trainer, module):
        batch, way = _prepared(trainer, module, sides[0].batch(0)), None
        if not task.has_classes:
            return _reading_without_classes(module, batch, answer, task, sides[0].name)
        if answer is None:
            inputs, _ = parts_of(batch)
            try:
                num_classes = _num_classes(trainer, module, sides)
                way = way_of(module, inputs, num_classes, wider=True)
            except InputError as error:
                raise InputError(f"{str(error).removesuffix('.')}; or {_MEND}.") from error
            answer = partial(module_answer, way=way)
        output, label_B = _answer(module, batch, answer, sides[0].name)
        if way is not None:
            _warn_of_reconstruction(module, inputs, output, num_classes)

        def numbers(module: Any, batch: Any) -> Tensor:
            return answer(module, batch)[0]  # type: ignore[no-any-return]

        if output.ndim == 1:
            one: OneNumber = "probability" if stays_in_0_1(module, batch, numbers) else "logit"
            return Reading(answer=answer, one=one, form="probabilities" if one == "probability" else "logits")
        is_shares = are_shares(module, batch, output, numbers)
        form = "probabilities" if is_shares else form_of(output)
        names = tuple(map(str, range(output.shape[1])))
        task.check(_as_classes(label_B.detach().cpu(), output), names, "monitor")
    return Reading(answer=answer, form=form, found="" if way is None else way.found)


def _reading_without_classes(module: Any, batch: Any, answer: Answer | None, task: Task, name: str) -> Reading:
    """As `reading_of`, where a record has numbers or several labels, and the module gives one output for each."""
    found = ""
    if answer is None:
        inputs, label_B = parts_of(batch)
        num_outputs = _without_classes(label_B, task).shape[1]
        try:
            way = way_of(module, inputs, num_outputs, task=task)
        except InputError as error:
            raise InputError(f"{str(error).removesuffix('.')}; or {_MEND}.") from error
        answer, found = partial(module_answer, way=way), way.found
    output, label_B = _answer(module, batch, answer, name)
    shape = _without_classes(label_B, task).shape
    if output.reshape(len(output), -1).shape != shape:
        raise InputError(
            f"The module {type(module).__name__} gives {list(output.shape)} for labels of {list(label_B.shape)}, and "
            f"under task={task.name} each label has an output of its own; {_MEND}."
        )

    def numbers(module: Any, batch: Any) -> Tensor:
        return answer(module, batch)[0]  # type: ignore[no-any-return]

    is_shares = task.can_be_right and are_shares(module, batch, output, numbers)
    form: OutputForm = "probabilities" if is_shares else "logits"
    return Reading(answer=answer, form=form, one="itself", found=found, task=task, num_outputs=shape[1])


def _warn_of_reconstruction(module: Any, inputs: Any, output: Tensor, num_classes: int) -> None:
    """Say where outputs have the records' own shape and are more than the classes, as an autoencoder's are."""
    shape = list(output.shape)
    if shape == list(getattr(inputs, "shape", [])) and len(shape) == 2 and shape[1] > num_classes:
        rank_zero_warn(
            f"The module {type(module).__name__} gives {shape} for records of the same shape, and labels show "
            f"{num_classes} classes. If it reconstructs its records, these are no logits, and the monitor's figures "
            f"mean nothing: {_MEND}."
        )


def _num_classes(trainer: Any, module: Any, sides: Sequence[RecordSample]) -> int:
    """How many classes the labels of the records show, of those that are kept in memory, on all processes."""
    most = 2
    for records in sides:
        for place in range(trainer.global_rank, records.num_batches, trainer.world_size):
            _, label_B = parts_of(_prepared(trainer, module, records.batch(place)))
            if isinstance(label_B, Tensor) and label_B.numel():
                is_wide = label_B.ndim == 2 and label_B.shape[1] > 1
                largest = int(label_B.double().nan_to_num(0.0, 0.0, 0.0).max())
                most = max(most, label_B.shape[1] if is_wide else largest + 1)
            if not records.is_kept(place):
                break
    if trainer.world_size > 1:
        every = trainer.strategy.all_gather(torch.tensor(most, device=trainer.strategy.root_device))
        most = int(every.max())
    return most


def answers(trainer: Any, module: Any, records: RecordSample, reading: Reading, *, places: range, seed: int) -> Tensor:
    """What a module says about the records of some batches (`Reading.table`).

    The module is in eval mode, without gradients, under the Trainer's precision, and the Trainer says that it
    validates, so that hooks which augment batches in training leave these alone. Afterwards every layer has its mode,
    and every global generator its state.

    Raises:
        InputError: the module fails on them, or gives other things than one row of numbers a record.
    """
    outputs, labels = [], []
    with isolated(seed, "monitor", "answers"), _as_in_validation(trainer, module):
        for place in places:
            batch = _prepared(trainer, module, records.batch(place))
            output, label_B = _answer(module, batch, reading.answer, records.name)
            output = output.detach().cpu()
            labels.append(reading.labels(label_B.detach().cpu(), output))
            outputs.append(columns(output.double(), reading.one) if output.ndim == 1 else output)
    return reading.table(torch.cat(outputs), torch.cat(labels))


def _prepared(trainer: Any, module: Any, batch: Any) -> Any:
    """A batch as the Trainer hands it to a step."""
    batch = trainer.precision_plugin.convert_input(batch)
    return trainer.strategy.batch_to_device(module._on_before_batch_transfer(batch))


def _answer(module: Any, batch: Any, answer: Answer, name: str) -> tuple[Tensor, Tensor]:
    """Outputs `[B, C]`, or `[B]` of one number a record, and labels.

    Raises:
        InputError: it fails, or gives other things than one row of numbers a record.
    """
    try:
        output, label_B = answer(module, batch)
    except InputError:
        raise
    except Exception as error:  # the user's own code
        raise InputError(
            f"The module {type(module).__name__} fails on a batch of {name} records in eval mode "
            f"({first_line(error)}); {_MEND}."
        ) from error
    _check(output, label_B, module)
    return output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output, label_B


@contextmanager
def _as_in_validation(trainer: Any, module: Any) -> Iterator[None]:
    stage = trainer.state.stage
    devices = [module.device] if module.device.type == "cuda" else []
    with in_eval_mode(module), torch.no_grad(), torch.random.fork_rng(devices=devices):
        trainer.validating = True
        try:
            with trainer.precision_plugin.val_step_context():
                yield
        finally:
            trainer.state.stage = stage


def scored(output: Tensor, label_N: Tensor, form: OutputForm) -> tuple[Tensor, Tensor]:
    """The scores of the loss attack, float64, and of the gap attack, bool, through the statistics of these attacks."""
    log_probability_NC = Classification().answers(output, form)
    signals = Signals(log_probability_KANC=log_probability_NC[None, None])
    is_number_N = log_probability_NC.isfinite().all(1)
    score_N = log_confidence(signals, label_N)[0].where(is_number_N, torch.nan)
    return score_N, correctness(signals, label_N)[0] > 0


def _check(output: Any, label_B: Any, module: Any) -> None:
    """Refuse what is no row of numbers, or one number, for each label."""
    name = type(module).__name__
    if not isinstance(output, Tensor) or not output.is_floating_point():
        found = f"{output.dtype}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InputError(f"The module {name} gives {found} for a batch, where logits are needed; {_MEND}.")
    if not isinstance(label_B, Tensor) or output.ndim not in (1, 2) or len(output) != len(label_B):
        labels = list(label_B.shape) if isinstance(label_B, Tensor) else f"a {type(label_B).__name__}"
        raise InputError(
            f"The module {name} gives {list(output.shape)} for labels of {labels}; a monitor needs logits [B, C] and "
            f"labels [B]; {_MEND}."
        )


def _without_classes(label_B: Any, task: Task) -> Tensor:
    """Labels `[B, X]`, a column for each label or number; how far those of one batch vary says nothing of all.

    Raises:
        InputError: they are none of the task.
    """
    assert task.reading is not None, "a task without classes reads its labels"
    what = "label of population 'monitor'"
    label_BX = task.reading.read(as_tensor(label_B, what), what)
    return label_BX.reshape(len(label_BX), -1).cpu()


def _as_classes(label_B: Tensor, output: Tensor) -> Tensor:
    """Labels as int64 `[B]`: whole numbers as they are, rows with a single 1 by its place.

    Raises:
        InputError: other numbers, as those of a regression or of several labels are, or classes without an output.
    """
    num_classes = output.shape[1] if output.ndim == 2 and output.shape[1] > 1 else 2
    if label_B.ndim == 2 and label_B.shape[1] == 1:
        label_B = label_B[:, 0]
    if label_B.ndim == 2:
        is_one_hot = bool(((label_B == 0) | (label_B == 1)).all() and (label_B.sum(1) == 1).all())
        if is_one_hot and label_B.shape[1] == num_classes:
            return label_B.argmax(1)
    elif label_B.ndim == 1:
        class_B = label_B.to(torch.int64)
        if bool((class_B == label_B).all() and (class_B >= 0).all() and (class_B < num_classes).all()):
            return class_B
    few = label_B.flatten()[:3].tolist()
    raise InputError(
        f"Labels of shape {list(label_B.shape)} begin with {few}, and a monitor needs one class from 0 to "
        f"{num_classes - 1} for each record; of numbers to be predicted, or several labels, set `monitor.task`, else "
        f"{_MEND}."
    )
