"""Training within a limit of leakage: the best epoch below it, and the end of training above it."""

from math import pi
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from mia_lightning.callbacks.bases import Callback, Checkpoint, averaging
from mia_lightning.callbacks.kept_epoch import KeptEpoch
from mia_lightning.callbacks.look import Look
from mia_lightning.callbacks.monitor import monitor_of
from mia_lightning.errors import InputError
from mia_lightning.metrics.intervals.limits import auc_limits
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import PathLike, Text

_AUC = Annotated[float, Ge(0.5), Lt(1)]
_Alpha = Annotated[float, Gt(0), Lt(0.5)]


class BestWithin(Checkpoint):
    """Keep the epoch that is best by a metric of the user's, among those whose leakage is surely below a bound.

    An epoch qualifies if a LeakageMonitor has looked after it and the upper limit of the AUC's interval is at most
    `auc`; where the Trainer validates, it must have validated in that epoch. The least leakage alone would keep the
    first epochs, before anything is learnt. The best epoch is written to `best_model_path`, as ModelCheckpoint does,
    and its weights are in the module when the fit has ended. If no epoch qualifies, a warning says so, and the weights
    stay.

    Args:
        monitor: the name of a logged metric.
        mode: whether it is better where it is smaller or larger.
        auc: the bound.
        dirpath: the folder of the checkpoint; None for `checkpoints` in that of the Trainer's logger.
        restore: whether the module ends with the weights of the best epoch.
        prefix: of the LeakageMonitor.

    Attributes:
        best_model_path: the checkpoint; "" before an epoch has qualified.
        best_model_score: the metric of the best epoch; None before.
        best_epoch: counted from 0; -1 before.
    """

    @checked("best_within")
    def __init__(
        self,
        monitor: Text = "val_loss",
        mode: Literal["min", "max"] = "min",
        *,
        auc: _AUC,
        dirpath: PathLike | None = None,
        restore: bool = True,
        prefix: Text = "leakage",
    ) -> None:
        super().__init__()
        self.monitor, self.mode, self.auc, self.restore, self.prefix = monitor, mode, auc, restore, prefix
        self.best_model_score: float | None = None
        self._kept = KeptEpoch(name="best_within", folder=None if dirpath is None else str(dirpath))
        self._validated_epoch: int | None = None

    @property
    def best_model_path(self) -> str:
        return self._kept.path

    @property
    def best_epoch(self) -> int:
        return self._kept.epoch

    @property
    def put_back_epoch(self) -> int | None:
        """The epoch whose weights the module has; None where it has those of the last."""
        return self._kept.put_back_epoch

    @property
    def state_key(self) -> str:
        return self._generate_state_key(monitor=self.monitor, mode=self.mode, auc=self.auc, prefix=self.prefix)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        monitor_of(trainer, self.prefix, "BestWithin")
        _check_averaging(trainer, "BestWithin", "keep")
        if trainer.current_epoch == 0:
            self._kept, self.best_model_score = KeptEpoch(name=self._kept.name, folder=self._kept.folder), None
        self._validated_epoch = None

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._validated_epoch = int(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the epoch if it qualifies and none before it was better.

        Raises:
            InputError: nothing of the metric's name was logged.
        """
        look = monitor_of(trainer, self.prefix, "BestWithin").look_after(trainer, pl_module)
        has_validated = self._validated_epoch == trainer.current_epoch or trainer.val_dataloaders is None
        if look is None or not has_validated or trainer.fast_dev_run:
            return
        if self.monitor not in trainer.callback_metrics:
            raise InputError(
                f"`best_within.monitor` is {self.monitor!r}, and after epoch {trainer.current_epoch} there are "
                f"{', '.join(sorted(trainer.callback_metrics))}; give one of these, or log it."
            )
        value = float(trainer.callback_metrics[self.monitor])
        if is_within(look, self.auc) and self._is_better(value):
            self.best_model_score = value
            self._kept.keep(trainer, weights_only=False)

    def _is_better(self, value: float) -> bool:
        if value != value:
            return False
        if self.best_model_score is None:
            return True
        return value < self.best_model_score if self.mode == "min" else value > self.best_model_score

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.fast_dev_run:
            return
        if self.best_epoch < 0:
            rank_zero_warn(
                f"No epoch qualifies for BestWithin: after none was the upper limit of the AUC at most {self.auc:g}; "
                "the weights stay those of the last epoch."
            )
        elif self.restore and self._kept.put_back(trainer):
            rank_zero_info(
                f"BestWithin put back the weights of epoch {self.best_epoch}, with {self.monitor} "
                f"{self.best_model_score:g}."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self._kept.state(), "score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept.load(state_dict["kept"])
        self.best_model_score = state_dict["score"]


class LeakageLimit(Callback):
    """End training when the leakage passes a limit.

    `limit` ends it when the *upper* limit of the AUC's 95 % interval passes `auc`: from then on the leakage is no
    longer surely below. The weights of the last epoch that met the limit are put back.

    `proved` ends it when a *lower* limit passes `auc`: the leakage is above, and a training that stays below is stopped
    with a probability of at most `alpha`, however many looks there are and however they depend on each other. With L
    looks planned (`max_epochs` over the monitor's `every_n_epochs`) each has an error of α / L (Bonferroni); a training
    without an end spends 6 α / (π² t²) on look t, which adds up to α. The limit is that of
    `metrics.intervals.limits.auc_limits`, which is never too narrow. The weights stay as they are: `BestWithin` keeps
    an epoch below the limit.

    Args:
        auc: the limit.
        mode: `limit` or `proved`.
        alpha: of `proved`, the largest probability that a training is stopped whose AUC never passes.
        dirpath: the folder of the weights that `limit` puts back; None for `checkpoints` in that of the Trainer's
            logger.
        prefix: of the LeakageMonitor.

    Attributes:
        stopped_epoch: after which training ended, counted from 0; None where it did not.
        kept_epoch: the last epoch that met the limit; -1 for none.
    """

    @checked("leakage_limit")
    def __init__(
        self,
        auc: _AUC,
        mode: Literal["limit", "proved"] = "limit",
        alpha: _Alpha = 0.05,
        dirpath: PathLike | None = None,
        prefix: Text = "leakage",
    ) -> None:
        super().__init__()
        self.auc, self.mode, self.alpha, self.prefix = auc, mode, alpha, prefix
        self.stopped_epoch: int | None = None
        self._kept = KeptEpoch(name="within_limit", folder=None if dirpath is None else str(dirpath))
        self._looks, self._is_planned = 0, False
        self._planned: int | None = None

    @property
    def kept_epoch(self) -> int:
        return self._kept.epoch

    @property
    def put_back_epoch(self) -> int | None:
        """The epoch whose weights the module has; None where it has those of the last."""
        return self._kept.put_back_epoch

    @property
    def state_key(self) -> str:
        return self._generate_state_key(auc=self.auc, mode=self.mode, prefix=self.prefix)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        monitor_of(trainer, self.prefix, "LeakageLimit")
        _check_averaging(trainer, "LeakageLimit", "end with")
        self.stopped_epoch = None
        if trainer.current_epoch == 0:
            self._kept = KeptEpoch(name=self._kept.name, folder=self._kept.folder)
            self._looks, self._planned, self._is_planned = 0, None, False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Plan the looks, once: a fit that goes on keeps the plan of its beginning."""
        if not self._is_planned:
            monitor = monitor_of(trainer, self.prefix, "LeakageLimit")
            self._planned, self._is_planned = monitor.planned_looks(trainer.max_epochs), True

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        look = monitor_of(trainer, self.prefix, "LeakageLimit").look_after(trainer, pl_module)
        if look is None or look.auc is None or trainer.fast_dev_run:
            return
        self._looks += 1
        if self._passes(look):
            if self.stopped_epoch is None:
                self.stopped_epoch = look.epoch
            trainer.should_stop = True
        elif self.mode == "limit" and self.stopped_epoch is None:
            self._kept.keep(trainer, weights_only=True)

    def _passes(self, look: Look) -> bool:
        if self.mode == "limit":
            return not is_within(look, self.auc)
        if self._planned is not None and self._looks == self._planned + 1:
            rank_zero_warn(
                f"LeakageLimit planned {self._planned} looks, and its error is spent: it stops nothing any more; begin "
                "a training of more epochs anew, with max_epochs=-1 for one without an end."
            )
        return is_proved(look, self.auc, level(self.alpha, self._looks, self._planned))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        if self.stopped_epoch is None:
            return
        if self.mode == "proved":
            rank_zero_info(f"LeakageLimit: after epoch {self.stopped_epoch} the AUC is above {self.auc:g}.")
        elif self.kept_epoch < 0:
            rank_zero_warn(
                f"No epoch met LeakageLimit(auc={self.auc:g}): after none was the upper limit of the AUC at most that; "
                "the weights stay those of the last epoch."
            )
        elif self._kept.put_back(trainer):
            rank_zero_info(
                f"LeakageLimit ended training after epoch {self.stopped_epoch}, and put back the weights of epoch "
                f"{self.kept_epoch}, the last whose AUC is surely at most {self.auc:g}."
            )

    def state_dict(self) -> dict[str, Any]:
        """The looks that were taken and planned, and the epoch that is kept."""
        return {
            "looks": self._looks,
            "planned": self._planned,
            "is_planned": self._is_planned,
            "kept": self._kept.state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._looks, self._planned = state_dict["looks"], state_dict["planned"]
        self._is_planned = state_dict["is_planned"]
        self._kept.load(state_dict["kept"])


def _check_averaging(trainer: Any, owner: str, would: str) -> None:
    """Refuse callbacks that keep an average of weights: what is looked at is not what the module ends with.

    Raises:
        InputError: there is one, known by its name.
    """
    found = averaging(trainer)
    if found is not None:
        raise InputError(
            f"The Trainer has the callback {found}, which keeps an average of weights, while the leakage is measured "
            f"on those of each epoch, so that {owner} would {would} other weights than those it judges; leave one of "
            "the two out."
        )


def is_within(look: Look, auc: float) -> bool:
    """Whether the AUC is at most `auc` by the upper limit of its interval; False where there is none."""
    return look.auc_high is not None and look.auc_high <= auc


def is_proved(look: Look, auc: float, error: float) -> bool:
    """Whether the AUC is above `auc` by a lower limit that fails with a probability of at most `error`."""
    if look.auc is None or error <= 0:
        return False
    return auc_limits(look.auc, look.num_members, look.num_nonmembers, 1 - 2 * error)[0] > auc


def level(alpha: float, look: int, planned: int | None) -> float:
    """The error that look number `look`, from 1, may spend: α / planned, 0 beyond; 6 α / (π² look²) without a plan.

    >>> level(0.05, 3, 10), level(0.05, 11, 10), round(sum(level(0.05, t, None) for t in range(1, 10**5)), 4)
    (0.005, 0.0, 0.05)
    """
    if planned is None:
        return 6 * alpha / (pi * look) ** 2
    return alpha / planned if look <= planned else 0.0
