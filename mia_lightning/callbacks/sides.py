"""The two kinds of records of a fit, members and non-members, found in its loaders."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from mia_lightning.callbacks.fixed import both_fixed
from mia_lightning.callbacks.records import (
    RecordSample,
    deals_batches,
    draws_again,
    first_records,
    num_batches,
    records_of,
    records_of_loader,
    shared,
)
from mia_lightning.errors import InputError

_SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")
MOST_EQUAL = 0.01  # of the held-out records, that may equal training records unsaid


@dataclass(frozen=True, eq=False, kw_only=True)
class Sides:
    """What a monitor looks at.

    Attributes:
        members, nonmembers: fixed samples, equal on all processes.
        of_validation: whether the non-members are those of the validation loader.
    """

    members: RecordSample
    nonmembers: RecordSample
    of_validation: bool

    def joined(self, trainer: Any, records: RecordSample, own: Tensor | None, width: int) -> Tensor:
        """What all processes found for their shares of batches, in the order of the records: `[N, width]` float64.

        Args:
            own: of this process (`Reading.table`); None where it had no share.
        """
        if trainer.world_size == 1:
            assert own is not None, "the only process has all batches"
            return own
        size, world = records.batch_size, trainer.world_size
        most = -(-records.num_batches // world) * size
        padded = torch.zeros(most, width, dtype=torch.float64)
        if own is not None:
            padded[: len(own)] = own
        every = trainer.strategy.all_gather(padded.to(trainer.strategy.root_device)).cpu()
        parts: list[Tensor] = []
        for place in range(records.num_batches):
            start = place // world * size
            length = min(size, len(records) - place * size)
            parts.append(every[place % world, start : start + length])
        return torch.cat(parts)


def sides_of(settings: Any, trainer: Any) -> Sides:
    """The records that a monitor of these `settings` looks at in a fit.

    Raises:
        InputError: there are no training or no held-out records whose items can be fetched, they are the same, or the
            strategy spreads a model over devices.
    """
    strategy = type(trainer.strategy).__name__
    if strategy.startswith(_SHARDED):
        raise InputError(
            f"Trainer(strategy={strategy}) spreads a model over devices, and a monitor asks the whole model on each; "
            "use strategy=ddp, or leave the monitor out."
        )
    loader = trainer.train_dataloader
    held_out, of_validation = _held_out(settings, trainer)
    if settings.train_records is None:
        members = _seen(records_of_loader(loader, name="training", setting="monitor.train_records"), loader, trainer)
    else:
        members = records_of(settings.train_records, loader, name="training")
    both = shared(held_out, members)
    if both:
        raise InputError(
            f"{both} of the {len(held_out)} held-out records that the monitor would look at are training records, to "
            "which nothing can be compared; give `monitor.held_out_records` others, or trainer.fit another "
            "validation loader."
        )
    members, held_out = both_fixed(members, held_out, seed=settings.seed)
    sides = Sides(
        members=_sample(members, settings.members, settings.seed, "members"),
        nonmembers=_sample(held_out, settings.nonmembers, settings.seed, "nonmembers"),
        of_validation=of_validation,
    )
    _warn_of_equal_records(sides, trainer)
    return sides


def _warn_of_equal_records(sides: Sides, trainer: Any) -> None:
    """Say where many held-out records equal training records, whose losses are equal, too."""
    members, others = (
        records.digests(range(trainer.global_rank, records.num_batches, trainer.world_size))
        for records in (sides.members, sides.nonmembers)
    )
    known = set(members)
    equal = sum(digest in known for digest in others)
    if equal > MOST_EQUAL * len(others):
        rank_zero_warn(
            f"{equal} of {len(others)} held-out records that the leakage monitor looks at equal training records that "
            "it looks at: the leakage of what is trained on alone is understated."
        )


def _held_out(settings: Any, trainer: Any) -> tuple[RecordSample, bool]:
    """The records that the model is not trained on, and whether the validation loader gives them."""
    if settings.held_out_records is not None:
        return records_of(settings.held_out_records, trainer.train_dataloader, name="held-out"), False
    if trainer.val_dataloaders is None:  # not needed until a later epoch
        stage = trainer.state.stage
        trainer.validating = True
        try:
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
        finally:
            trainer.state.stage = stage
    loaders = trainer.val_dataloaders
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        loaders = loaders[0] if loaders else None
    if loaders is None:
        raise InputError(
            "The leakage monitor finds no held-out records (the Trainer has no validation loader, the module no "
            "validation_step, or limit_val_batches is 0); give trainer.fit a validation loader, or "
            "`monitor.held_out_records` a dataset of records that the model is not trained on."
        )
    return records_of_loader(loaders, name="held-out", setting="monitor.held_out_records"), True


def _seen(members: RecordSample, loader: Any, trainer: Any) -> RecordSample:
    """The records that the model trains on, where the Trainer takes a part of its batches alone."""
    each = min(trainer.num_training_batches, num_batches(loader))
    if trainer.max_steps > 0:
        each = min(each, trainer.max_steps * trainer.accumulate_grad_batches)
    batches = each * trainer.world_size
    is_all = each >= num_batches(loader) if deals_batches(loader) else batches * members.batch_size >= len(members)
    if is_all and not draws_again(loader):
        return members
    first, is_in_order = first_records(members, loader, batches)
    if not is_in_order and not _leaves_out_the_last_alone(loader, each):
        rank_zero_warn(
            f"The Trainer takes {batches} batches an epoch of {len(members)} training records, in an order of chance: "
            "the leakage monitor counts records as members before the model has seen them, and the leakage is "
            "understated; give `monitor.train_records` those that it trains on."
        )
    return first


def _leaves_out_the_last_alone(loader: Any, batches: float) -> bool:
    """Whether an epoch misses no more than the batch that is too small, another one each time."""
    return bool(loader.drop_last) and batches >= num_batches(loader) and not draws_again(loader)


def _sample(records: RecordSample, count: int | str, seed: int, name: str) -> RecordSample:
    """Refuse what is too little for an interval, and say where there are fewer records than asked for.

    Raises:
        InputError: fewer than two records.
    """
    if len(records) < 2:
        raise InputError(
            f"The {records.name} dataset has {len(records)} records to look at, and an interval takes two; give the "
            "monitor more."
        )
    if isinstance(count, str):
        return records
    if len(records) < count:
        rank_zero_info(
            f"`monitor.{name}` is {count}, and there are {len(records)} {records.name} records: the leakage monitor "
            "looks at all of them."
        )
    return records.sampled(count, seed)


def warn_of_choices(trainer: Any, logged: set[str]) -> None:
    """Say which choices the records that the monitor looks at make."""
    choosing = {
        type(each).__name__: each.monitor for each in trainer.callbacks if getattr(each, "monitor", None) in logged
    }
    for each in trainer.lr_scheduler_configs:
        if each.reduce_on_plateau and each.monitor in logged:
            choosing[type(each.scheduler).__name__] = each.monitor
    if choosing:
        named = ", ".join(f"{name} by {metric}" for name, metric in choosing.items())
        rank_zero_warn(
            f"The held-out records that the leakage monitor looks at also make choices ({named}), so that they "
            "resemble training records and the leakage is understated; give `monitor.held_out_records` others."
        )
