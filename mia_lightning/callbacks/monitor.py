"""Leakage while training: a Lightning callback that attacks the model after an epoch, without shadow models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from mia_lightning.audit import audit
from mia_lightning.callbacks.answers import Answer, Reading, answers, reading_of
from mia_lightning.callbacks.bases import Callback, averaging
from mia_lightning.callbacks.look import Look
from mia_lightning.callbacks.picture import Picture, leakage_picture
from mia_lightning.callbacks.records import RecordSample
from mia_lightning.callbacks.screening import Screening, screening
from mia_lightning.callbacks.sides import Sides, sides_of, warn_of_choices
from mia_lightning.callbacks.trace import Trace
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.reports.schema import AuditReport
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, AtLeast2, Has, Text
from mia_lightning.settings.words import Words
from mia_lightning.tasks import NamedTask, Task, as_task

_Dataset = Annotated[
    Any,
    Has("__getitem__", "__len__", words=Words("a dataset, with `__len__` and `__getitem__`", "datasets")),
]
_Count = AtLeast2 | Literal["all"]
_WATCHED = "leakage_monitor"  # by which other callbacks find a monitor


@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted:
    """What a fit was made of, from which an audit can train shadow models of the same kind.

    Attributes:
        trainer: that fitted.
        module_class, hparams: of the LightningModule; hparams as `save_hyperparameters` kept them, {} otherwise.
        datamodule: None where loaders were given.
        train_dataloader, val_dataloaders: as the Trainer holds them.
        members, nonmembers: that were looked at.
    """

    trainer: Any
    module_class: type
    hparams: Mapping[str, Any]
    datamodule: Any
    train_dataloader: Any
    val_dataloaders: Any
    members: RecordSample
    nonmembers: RecordSample

    def data(self, train_records: Any, held_out_records: Any, task: Task | None = None) -> Any:
        """The DataModule, or the sets of the loaders; datasets that a monitor was given take their places.

        Args:
            task: what the labels of the sets are; None for classes.
        """
        if train_records is None and held_out_records is None and self.datamodule is not None:
            return self.datamodule
        return Population.of(
            self.train_dataloader if train_records is None else train_records,
            nonmembers=self.val_dataloaders if held_out_records is None else held_out_records,
            task=task,
        )


class LeakageMonitor(Callback):
    """After an epoch, attack the model by its losses on training and held-out records, and log what that finds.

    No shadow model is needed. The monitor looks at a fixed random sample of both kinds, in eval mode, without gradients
    and without augmentation; training goes on as if nobody had looked. It logs `leakage/loss/auc` with its 95 %
    interval (`_low`, `_high`), `leakage/loss/tpr_at_fpr_0.01`, `leakage/gap`, `leakage/most_exposed/class` (by the
    lower limit of its AUC, for all classes at once), and `target/generalization_gap`. These are those of the attack
    `loss`, the weakest of all that there are: attacks with shadow models find more.

    Records of the validation loader that also choose epochs, rates or the end of training look more like training
    records than others do, which understates the leakage; a warning says so, and `held_out_records` mends it.

    Args:
        members: training records that are looked at; all of them for "all".
        nonmembers: held-out records that are looked at; all of them for "all".
        every_n_epochs: look after every so many epochs, and after the last.
        train_records: a dataset of training records, without augmentation; by default that of the training loader,
            through the transform of the held-out dataset where that is another one.
        held_out_records: a dataset of records that the model is not trained on; by default that of the (first)
            validation loader.
        answer: a function of (module, batch) that gives logits `[B, C]`, or probabilities, and labels `[B]`; by default
            the batch is (inputs, labels), and the module is asked for the inputs as in an audit. Under another `task`
            it gives an output for each label or number, and these.
        seed: of the samples.
        prefix: with which the names of the metrics begin; two monitors of one Trainer need two.
        task: what a label is, as of an audit: `multilabel`, `regression`, an object; None for classes. Utility then
            stands where accuracy does, without limits, and labels or ranges of the value where classes do.

    Attributes:
        trace: a table with a row for each look.
        fitted: what the fit was made of, once it has begun; None before.

    A Trainer with `strategy="ddp_spawn"`, `"ddp_fork"` or `"ddp_notebook"` trains in other processes, where the trace
    stays; what is logged comes through.
    """

    @checked("monitor")
    def __init__(
        self,
        members: _Count = 2000,
        nonmembers: _Count = 2000,
        every_n_epochs: AtLeast1 = 1,
        train_records: _Dataset | None = None,
        held_out_records: _Dataset | None = None,
        answer: Callable[..., Any] | None = None,
        seed: AtLeast0 = 0,
        prefix: Text = "leakage",
        task: NamedTask = None,
    ) -> None:
        super().__init__()
        self.members, self.nonmembers = members, nonmembers
        self.every_n_epochs, self.seed, self.prefix = every_n_epochs, seed, prefix
        self.train_records, self.held_out_records = train_records, held_out_records
        self.answer: Answer | None = answer
        self.task = task
        self.trace = Trace()
        self.fitted: Fitted | None = None
        self._sides: Sides | None = None
        self._loss_LN: list[Tensor] = []
        self._record_N, self._label_N = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        self._looked_after: int | None = None
        self._reading: Reading | None = None
        self._before_validation: set[str] = set()
        self._knows_choices = False
        setattr(self, _WATCHED, True)

    @property
    def state_key(self) -> str:
        return self._generate_state_key(prefix=self.prefix)

    def planned_looks(self, max_epochs: int | None) -> int | None:
        """How many looks a fit of so many epochs takes; None where it has no end."""
        return None if max_epochs is None or max_epochs < 0 else -(-max_epochs // self.every_n_epochs)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        self._looked_after, self._sides, self._knows_choices = None, None, False
        self.trace = self.trace.until(trainer.current_epoch)  # empty but where one Trainer fits on
        self._loss_LN = self._loss_LN[: sum(look.auc is not None for look in self.trace)]
        if not len(self.trace):
            self._record_N = torch.empty(0, dtype=torch.int64)
        if getattr(getattr(trainer.strategy, "launcher", None), "_start_method", None) is not None:
            rank_zero_warn(
                "The Trainer's strategy trains in other processes, where the monitor's trace stays; use strategy=ddp."
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Choose the records, and try both kinds once, before anything is trained.

        Raises:
            InputError: there are no such records, the module does not answer for them, or another monitor has the
                prefix.
        """
        if sum(each.prefix == self.prefix for each in _monitors(trainer)) > 1:
            raise InputError(
                f"Two LeakageMonitors of the Trainer have the prefix {self.prefix!r}, so that their metrics would have "
                "the same names; set `prefix` of one to another, such as LeakageMonitor(prefix='leakage_2')."
            )
        average = averaging(trainer)
        if average is not None:
            rank_zero_warn(
                f"The Trainer has the callback {average}, which keeps an average of weights: the leakage monitor looks "
                "at the weights of each epoch, and says nothing of that average; audit the model that you keep."
            )
        sides = sides_of(self, trainer)
        self._sides = sides
        self.fitted = Fitted(
            trainer=trainer,
            module_class=type(pl_module),
            hparams=dict(pl_module.hparams),
            datamodule=trainer.datamodule,
            train_dataloader=trainer.train_dataloader,
            val_dataloaders=trainer.val_dataloaders,
            members=sides.members,
            nonmembers=sides.nonmembers,
        )
        if len(self._record_N) and not torch.equal(self._record_N, sides.members.index_N):
            self._loss_LN = []
            rank_zero_warn(
                "The monitor that the checkpoint holds looked at other training records: the trace goes on, the "
                "screening begins anew."
            )
        self._record_N = sides.members.index_N
        both = (sides.members, sides.nonmembers)
        self._reading = reading_of(trainer, pl_module, both, self.answer, task=as_task(self.task), seed=self.seed)
        for records in both:
            answers(trainer, pl_module, records, self._reading, places=range(1), seed=self.seed)
        if self._reading.found:
            rank_zero_info(f"Of the module, for the leakage monitor: {self._reading.found}.")
        if self._reading.form == "probabilities":
            rank_zero_info("The module gives probabilities: the leakage monitor takes them as such, not as logits.")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._before_validation = set(trainer.callback_metrics)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or self._sides is None or not self._sides.of_validation or self._knows_choices:
            return
        self._knows_choices = True
        warn_of_choices(trainer, set(trainer.callback_metrics) - self._before_validation)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.look_after(trainer, pl_module)

    def look_after(self, trainer: Any, pl_module: Any) -> Look | None:
        """The look after the current epoch, taken and logged now if it was not; None where none is due."""
        epoch = int(trainer.current_epoch)
        if self._looked_after != epoch:
            self._looked_after = epoch
            if not self._is_due(epoch, trainer):
                return None
            self._look(trainer, pl_module)
        return self.trace[-1] if len(self.trace) and self.trace[-1].epoch == epoch else None

    def _is_due(self, epoch: int, trainer: Any) -> bool:
        return (epoch + 1) % self.every_n_epochs == 0 or epoch + 1 == trainer.max_epochs

    def _look(self, trainer: Any, pl_module: Any) -> None:
        assert self._sides is not None, "records are chosen when training starts"
        assert self._reading is not None, "it is found out when training starts"
        tables = self._answered(trainer, pl_module, self._sides, self._reading)
        look = self._reading.look(*tables, epoch=trainer.current_epoch, step=trainer.global_step, seed=self.seed)
        self.trace.append(look)
        if look.reason is not None:
            rank_zero_warn(f"After epoch {look.epoch} the leakage monitor has no figures: {look.reason}.")
        else:
            score_N, self._label_N = self._reading.scores(*tables)
            self._loss_LN.append(-score_N.float())  # which it was computed in
        for name, value in look.metrics(self.prefix).items():
            pl_module.log(name, value, batch_size=1, sync_dist=trainer.world_size > 1)  # equal on all processes

    def _answered(self, trainer: Any, pl_module: Any, sides: Sides, reading: Reading) -> tuple[Tensor, Tensor]:
        """What the module answers for both kinds, on every process, of which each asks about its share of batches."""
        found: list[Tensor | None] = []
        for records in (sides.members, sides.nonmembers):
            places = range(trainer.global_rank, records.num_batches, trainer.world_size)
            found.append(
                answers(trainer, pl_module, records, reading, places=places, seed=self.seed) if places else None
            )
        first, second = (
            sides.joined(trainer, records, each, reading.width)
            for records, each in zip((sides.members, sides.nonmembers), found, strict=True)
        )
        return first, second

    def screening(self) -> Screening:
        """The training records that were looked at, the most exposed first (LT-IQR of their losses).

        Raises:
            InputError: fewer than four looks.
        """
        loss_LN = torch.stack(self._loss_LN) if self._loss_LN else torch.empty(0, len(self._record_N))
        return screening(loss_LN, self._record_N, self._label_N)

    def plot(self, limit: float | None = None) -> Picture:
        """Leakage against overfitting over the epochs, as a picture that a notebook shows and `save` writes.

        Args:
            limit: an AUC that is drawn as a line.

        Raises:
            InputError: no look has figures.
        """
        return leakage_picture(self.trace, limit, as_task(self.task).utility)

    def audit(self, **fields: Any) -> AuditReport:
        """The full audit of what was fitted: shadow models of the same module, data and settings, and their attacks.

        Args:
            fields: of an `Audit`, such as `shadow=mia.Real(count=64)`; they go before those of the fit. The members are
                the records of the training set, not the sample that the monitor looks at.

        Returns:
            The report.

        Raises:
            InputError: nothing was fitted, or as `mia_lightning.audit`.
        """
        if self.fitted is None:
            raise InputError("The monitor has seen no fit that could be audited; call trainer.fit with it first.")
        if self.task is not None:
            fields.setdefault("task", self.task)
        if "data" not in fields and "datamodule" not in fields:
            fields["data"] = self.fitted.data(self.train_records, self.held_out_records, fields.get("task"))
        return audit(trainer=self.fitted.trainer, **fields)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the state among those of callbacks.

        It is no `state_dict`, since a Trainer refuses two callbacks that have one under the same key before they could
        say what to change.
        """
        checkpoint["callbacks"][self.state_key] = self.state()

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["callbacks"].get(self.state_key)
        if state is not None:
            self.load_state(state)

    def state(self) -> dict[str, Any]:
        """The trace and the losses behind the screening."""
        loss_LN = torch.stack(self._loss_LN) if self._loss_LN else torch.empty(0, 0)
        return {
            "trace": self.trace.state(),
            "loss_LN": loss_LN,
            "record_N": self._record_N,
            "label_N": self._label_N,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """As `state` gave it."""
        self.trace = Trace.of_state(state["trace"])
        self._loss_LN = list(state["loss_LN"])
        self._record_N, self._label_N = state["record_N"], state["label_N"]

    def __getstate__(self) -> dict[str, Any]:
        """Copies hold neither a Trainer nor records."""
        return vars(self) | {"fitted": None, "_sides": None}


def _monitors(trainer: Any) -> list[Any]:
    return [each for each in trainer.callbacks if getattr(each, _WATCHED, False)]


def monitor_of(trainer: Any, prefix: str, owner: str) -> LeakageMonitor:
    """The monitor of a Trainer whose metrics begin with `prefix`.

    Args:
        owner: the callback that needs it.

    Raises:
        InputError: there is none.
    """
    monitors = _monitors(trainer)
    for each in monitors:
        if each.prefix == prefix:
            return each  # type: ignore[no-any-return]
    there = ", ".join(repr(each.prefix) for each in monitors) or "none"
    raise InputError(
        f"{owner} needs a LeakageMonitor with the prefix {prefix!r} among the Trainer's callbacks, which hold {there}; "
        f"add LeakageMonitor(), or set the `prefix` of {owner}."
    )
