"""The best epoch within a bound, and the end of training above a limit."""

from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lit_project import Lit, loaders, made, records, trainer

import mia_lightning as mia
from mia_lightning.callbacks.limits import is_proved, is_within, level
from mia_lightning.callbacks.look import Look
from mia_lightning.metrics.intervals.areas import auc_interval
from mia_lightning.metrics.roc import roc


def watched(folder: Path, *callbacks: Any, module: Any = None, **settings: Any) -> tuple[mia.LeakageMonitor, Any]:
    monitor = mia.LeakageMonitor(held_out_records=records(400, "others"))
    module = made(lr=0.03) if module is None else module
    train, held_out = loaders()
    settings = {"max_epochs": 8, "enable_checkpointing": True, "logger": False} | settings
    trainer(folder, *callbacks, monitor, **settings).fit(module, train, held_out)
    return monitor, module


class States(pl.Callback):
    """The weights and the validation loss after each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.losses: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})
        self.losses.append(float(trainer.callback_metrics.get("val_loss", torch.nan)))


def equal(module: Any, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def bound(monitor: mia.LeakageMonitor) -> float:
    """A bound that some epochs meet and others do not."""
    highs = sorted(look.auc_high for look in monitor.trace)
    return (highs[3] + highs[4]) / 2


def test_the_best_epoch_is_kept_among_those_below_the_bound(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    monitor, _ = watched(tmp_path)
    torch.set_rng_state(state)
    best, states = mia.BestWithin(monitor="val_loss", mode="max", auc=bound(monitor)), States()
    again, module = watched(tmp_path, best, states)
    assert [look.auc for look in again.trace] == [look.auc for look in monitor.trace]
    within = [look.epoch for look in again.trace if look.auc_high <= best.auc]
    assert 0 < len(within) < 8
    expected = max(within, key=lambda epoch: states.losses[epoch])
    assert best.best_epoch == expected
    assert best.best_model_score == pytest.approx(states.losses[expected])
    assert equal(module, states.states[expected])
    loaded = Lit.load_from_checkpoint(best.best_model_path, weights_only=False)
    assert equal(loaded, states.states[expected])


def test_weights_stay_where_they_are_not_to_be_put_back(tmp_path: Path) -> None:
    best, states = mia.BestWithin(auc=0.99, restore=False, dirpath=tmp_path / "here"), States()
    _, module = watched(tmp_path, best, states)
    assert Path(best.best_model_path) == tmp_path / "here" / "best_within.ckpt"
    assert equal(module, states.states[-1])
    assert best.best_epoch == int(np.argmin(states.losses))


def test_that_no_epoch_qualifies_is_said(tmp_path: Path) -> None:
    best, states = mia.BestWithin(auc=0.5), States()
    with pytest.warns(UserWarning, match="No epoch qualifies for BestWithin"):
        _, module = watched(tmp_path, best, states)
    assert (best.best_model_path, best.best_epoch, best.best_model_score) == ("", -1, None)
    assert equal(module, states.states[-1])


def test_a_metric_that_nobody_logs(tmp_path: Path) -> None:
    with pytest.raises(mia.InputError, match=r"`best_within\.monitor` is 'val_acc'.*val_loss"):
        watched(tmp_path, mia.BestWithin(monitor="val_acc", auc=0.9))


def test_epochs_without_a_look_or_a_validation_do_not_qualify(tmp_path: Path) -> None:
    monitor = mia.LeakageMonitor(held_out_records=records(400, "others"), every_n_epochs=2)
    best, states = mia.BestWithin(auc=0.99, mode="max"), States()
    settings = {"max_epochs": 8, "enable_checkpointing": True, "check_val_every_n_epoch": 4}
    trainer(tmp_path, best, states, monitor, num_sanity_val_steps=1, **settings).fit(made(), *loaders())
    assert best.best_epoch in (3, 7)


@pytest.mark.parametrize("needs", [mia.BestWithin(auc=0.6), mia.LeakageLimit(auc=0.6)])
def test_there_must_be_a_monitor(tmp_path: Path, needs: Any) -> None:
    name = type(needs).__name__
    with pytest.raises(mia.InputError, match=f"{name} needs a LeakageMonitor"):
        trainer(tmp_path, needs, enable_checkpointing=True).fit(made(), *loaders())
    with pytest.raises(mia.InputError, match="'other'"):
        trainer(tmp_path, needs, mia.LeakageMonitor(prefix="other"), enable_checkpointing=True).fit(made(), *loaders())


def test_training_ends_when_the_upper_limit_passes_and_the_last_epoch_that_met_it_is_put_back(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    monitor, _ = watched(tmp_path)
    torch.set_rng_state(state)
    limit, states = mia.LeakageLimit(auc=bound(monitor)), States()
    again, module = watched(tmp_path, limit, states)
    first = next(look.epoch for look in monitor.trace if look.auc_high > limit.auc)
    assert 0 < first < 7
    assert (limit.stopped_epoch, limit.kept_epoch) == (first, first - 1)
    assert len(again.trace) == first + 1
    assert equal(module, states.states[first - 1])


def test_that_no_epoch_met_the_limit_is_said(tmp_path: Path) -> None:
    limit, states = mia.LeakageLimit(auc=0.5), States()
    with pytest.warns(UserWarning, match="No epoch met LeakageLimit"):
        monitor, module = watched(tmp_path, limit, states)
    assert len(monitor.trace) == 1
    assert equal(module, states.states[0])


def test_a_training_that_stays_below_keeps_its_last_epoch(tmp_path: Path) -> None:
    limit, states = mia.LeakageLimit(auc=0.99), States()
    monitor, module = watched(tmp_path, limit, states)
    assert (len(monitor.trace), limit.stopped_epoch, limit.kept_epoch) == (8, None, 7)
    assert equal(module, states.states[-1])


@pytest.mark.costly
@pytest.mark.parametrize("max_epochs", [8, -1])
def test_training_ends_when_leakage_is_proved(tmp_path: Path, max_epochs: int) -> None:
    limit = mia.LeakageLimit(auc=0.55, mode="proved")
    monitor, _ = watched(tmp_path, limit, max_epochs=max_epochs, max_steps=400)
    plan = None if max_epochs < 0 else max_epochs
    proved = [
        is_proved(look, 0.55, 0.05 / plan if plan else 6 * 0.05 / (pi * (place + 1)) ** 2)
        for place, look in enumerate(monitor.trace)
    ]
    assert proved[-1]
    assert not any(proved[:-1])
    assert len(proved) > 1
    assert limit.stopped_epoch == len(proved) - 1
    assert limit.kept_epoch == -1


def test_looks_beyond_the_plan_stop_nothing(tmp_path: Path) -> None:
    limit, monitor = mia.LeakageLimit(auc=0.5, mode="proved", alpha=1e-30), mia.LeakageMonitor()
    first = trainer(tmp_path, limit, monitor, max_epochs=2)
    module = made()
    first.fit(module, *loaders())
    first.fit_loop.max_epochs = 4
    with pytest.warns(UserWarning, match="planned 2 looks"):
        first.fit(module, *loaders())
    assert limit.stopped_epoch is None


def test_the_errors_of_all_looks_add_up_to_alpha() -> None:
    assert sum(level(0.05, look, 40) for look in range(1, 200)) == pytest.approx(0.05)
    endless = sum(level(0.05, look, None) for look in range(1, 10**5))
    assert 0.0499 < endless < 0.05


def test_what_is_undefined_is_neither_within_nor_proved() -> None:
    nothing = Look(epoch=0, step=0, num_members=10, num_nonmembers=10, reason="nan")
    assert not is_within(nothing, 0.9)
    assert not is_proved(nothing, 0.5, 0.05)


def test_a_look_that_is_far_above_is_proved_and_one_at_the_limit_is_not() -> None:
    look = {"epoch": 0, "step": 0, "num_members": 2000, "num_nonmembers": 2000}
    assert is_proved(Look(**look, auc=0.7), 0.6, 0.05 / 1000)
    assert not is_proved(Look(**look, auc=0.605), 0.6, 0.05)
    assert not is_proved(Look(**look, auc=1.0), 0.6, 0.0)


@pytest.mark.slow
@pytest.mark.statistics
def test_the_pointwise_rule_stops_falsely_far_more_often_than_alpha_and_the_proved_one_does_not() -> None:
    """100 looks at the same records, whose scores drift as an AR(1) process of 0.9; the AUC is at the limit."""
    random = np.random.default_rng(0)
    runs, looks, n, limit = 400, 100, 300, 0.6
    shift = 2**0.5 * 0.25334710313579972  # Φ(shift / √2) = 0.6
    is_member_N = torch.arange(2 * n) < n
    stopped = dict.fromkeys(("pointwise", "planned", "endless"), 0)
    for _ in range(runs):
        noise_N = random.standard_normal(2 * n)
        first: dict[str, bool] = dict.fromkeys(stopped, False)
        for t in range(1, looks + 1):
            score_N = torch.from_numpy(noise_N + shift * is_member_N.numpy())
            look = _auc_alone(score_N, is_member_N)
            first["pointwise"] |= look.auc_low > limit
            first["planned"] |= is_proved(look, limit, level(0.05, t, looks))
            first["endless"] |= is_proved(look, limit, level(0.05, t, None))
            noise_N = 0.9 * noise_N + (1 - 0.81) ** 0.5 * random.standard_normal(2 * n)
        for name, value in first.items():
            stopped[name] += value
    share = {name: count / runs for name, count in stopped.items()}
    assert share["pointwise"] > 0.35  # 2.5 % at each look; about a half was measured
    assert share["planned"] < 0.05
    assert share["endless"] < 0.05


def _auc_alone(score_N: torch.Tensor, is_member_N: torch.Tensor) -> Look:
    curve = roc(score_N, is_member_N)
    low, high, _ = auc_interval(curve)
    counts = {"num_members": curve.num_members, "num_nonmembers": curve.num_nonmembers}
    return Look(epoch=0, step=0, **counts, auc=curve.auc, auc_low=low, auc_high=high)
