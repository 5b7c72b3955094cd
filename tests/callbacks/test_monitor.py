"""The monitor against our own attack, and against a training that nobody watches."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lit_project import Lit, loaders, made, records, trainer
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, Dataset

import mia_lightning as mia
from mia_lightning.metrics.intervals.areas import auc_interval
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.roc import roc


def watched(folder: Path, module: Any = None, *callbacks: Any, data: Any = None, **settings: Any) -> mia.LeakageMonitor:
    """A fit with a monitor."""
    monitor = mia.LeakageMonitor(**settings.pop("monitor", {}))
    train, held_out = data or loaders()
    trainer(folder, monitor, *callbacks, **settings).fit(made() if module is None else module, train, held_out)
    return monitor


def test_the_figures_are_those_of_the_attack_loss_on_the_same_records(tmp_path: Path) -> None:
    module, (train, held_out) = made(), loaders()
    monitor = watched(tmp_path, module, data=(train, held_out))
    x_N, label_N = (torch.cat(parts) for parts in zip(train.dataset.tensors, held_out.dataset.tensors, strict=True))
    is_member_N = torch.arange(len(label_N)) < len(train.dataset)
    population = mia.make_population(x_N.numpy(), label_N.numpy())
    report = mia.audit(
        population,
        target=module.net,
        membership=mia.Given(member_N=is_member_N),
        shadow=mia.Real(count=4),
        model=lambda: nn.Linear(8, 3),
        training=mia.Recipe(epochs=1),
        attacks=[mia.Loss()],
    )
    attack, look = report.attacks[0].overall, monitor.trace[-1]
    assert (look.auc, look.auc_low, look.auc_high) == (attack.auc.value, attack.auc.low, attack.auc.high)
    found = attack.tpr_at_fpr["0.01"]
    assert (look.tpr, look.tpr_low, look.tpr_high) == (found.value, found.low, found.high)
    assert look.gap == pytest.approx(report.target.generalization_gap, abs=1e-12)
    exposed = max(report.attacks[0].per_class, key=lambda group: group.auc_simultaneous.low)
    assert look.exposed_class == exposed.class_index
    assert (look.exposed_auc, look.exposed_low) == (exposed.auc_simultaneous.value, exposed.auc_simultaneous.low)


def test_the_figures_are_those_of_losses_taken_by_hand(tmp_path: Path) -> None:
    module, (train, held_out) = made(), loaders()
    monitor = watched(tmp_path, module, data=(train, held_out), monitor={"members": 120, "nonmembers": 110})
    module.eval()
    chosen_M = monitor.fitted.members.index_N
    others_M = monitor.fitted.nonmembers.index_N
    assert (len(chosen_M.unique()), len(others_M.unique())) == (120, 110)
    losses = []
    with torch.no_grad():
        for dataset, index_M in ((train.dataset, chosen_M), (held_out.dataset, others_M)):
            x_M, label_M = (column[index_M] for column in dataset.tensors)
            losses.append(nn.functional.cross_entropy(module(x_M).double(), label_M, reduction="none"))
    score_N, is_member_N = -torch.cat(losses).float().double(), torch.arange(230) < 120
    look = monitor.trace[-1]
    assert look.auc == pytest.approx(roc_auc_score(is_member_N, score_N), abs=1e-9)
    curve = roc(score_N, is_member_N)
    assert (look.auc_low, look.auc_high) == pytest.approx(auc_interval(curve)[:2], abs=1e-9)
    interval = Bootstrap(seed=0, attack="loss").tpr_at_fpr(curve, 0.01)
    assert (look.tpr_low, look.tpr_high) == pytest.approx(interval[:2], abs=1e-9)
    assert (look.num_members, look.num_nonmembers, look.epoch, look.step) == (120, 110, 2, 30)


class Modes(pl.Callback):
    """Freezes a layer's mode, and notes all modes when an epoch ends, after the monitor."""

    def __init__(self) -> None:
        self.seen: list[list[bool]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.net[2].eval()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append([layer.training for layer in pl_module.modules()])
        assert trainer.training


def test_training_goes_on_as_if_nobody_had_looked(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    states = []
    for monitors in ([], [mia.LeakageMonitor(), mia.LeakageMonitor(members=50, prefix="few")]):
        torch.set_rng_state(before)
        module, modes = made(), Modes()
        trainer(tmp_path, *monitors, modes).fit(module, *loaders())
        states.append((copy.deepcopy(module.state_dict()), torch.get_rng_state(), modes.seen))
    (alone, state, modes_alone), (seen, other, modes_seen) = states
    assert all(torch.equal(alone[name], seen[name]) for name in alone)
    assert torch.equal(state, other)
    assert modes_alone == modes_seen
    assert not modes_seen[0][4]
    assert sum(modes_seen[0]) == len(modes_seen[0]) - 1


class Draws(Dataset):
    """Records whose transform draws random numbers, to no effect."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Any:
        for draw in (torch.rand, np.random.rand, lambda _: random.random()):
            draw(1)
        return self.dataset[i]


def test_datasets_that_draw_random_numbers_draw_none_of_the_trainings(tmp_path: Path) -> None:
    states = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    trained = []
    for monitors in ([], [mia.LeakageMonitor()]):
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        module = made()
        data = [DataLoader(Draws(each.dataset), batch_size=20, shuffle=True) for each in loaders()]
        trainer(tmp_path, *monitors).fit(module, data[0], DataLoader(data[1].dataset, batch_size=20))
        trained.append((module.state_dict(), random.random(), float(np.random.rand())))
    assert all(torch.equal(value, trained[1][0][name]) for name, value in trained[0][0].items())
    assert trained[0][1:] == trained[1][1:]


@pytest.mark.costly
@pytest.mark.parametrize(
    "settings", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 4}, {"precision": "64-true"}]
)
def test_it_works_under(tmp_path: Path, settings: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    module = made()
    monitor = watched(tmp_path, module, **settings)
    torch.set_rng_state(before)
    alone = made()
    trainer(tmp_path, **settings).fit(alone, *loaders())
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in module.state_dict().items())
    assert len(monitor.trace) == 3
    train, held_out = loaders()
    module.eval()
    losses = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=settings.get("precision") == "bf16-mixed"):
        for dataset in (train.dataset, held_out.dataset):
            x_N, label_N = dataset.tensors
            output = torch.cat([module(x.to(module.dtype)) for x in x_N.split(20 if dataset is train.dataset else 50)])
            losses.append(nn.functional.cross_entropy(output.double(), label_N, reduction="none"))
    expected = roc_auc_score(torch.arange(350) < 200, -torch.cat(losses).float().double())
    assert monitor.trace[-1].auc == pytest.approx(expected, abs=1e-9)


class Sees(pl.Callback):
    """What Lightning's own callbacks see."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_the_metrics_are_logged_under_the_names_of_a_report(tmp_path: Path) -> None:
    sees, logger = Sees(), pl.loggers.CSVLogger(tmp_path)
    monitor = watched(tmp_path, None, sees, logger=logger)
    logged, look = sees.metrics[0], monitor.trace[-1]
    expected = look.metrics("leakage")
    assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert set(expected) >= {
        *(f"leakage/loss/{name}" for name in ("auc", "auc_low", "auc_high", "tpr_at_fpr_0.01")),
        *("leakage/gap", "leakage/most_exposed/class", "target/generalization_gap"),
    }
    rows = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    named = [row.split(",") for row in rows]
    place = named[0].index("leakage/loss/auc")
    values = [float(row[place]) for row in named[1:] if row[place]]
    assert values == pytest.approx([each.auc for each in monitor.trace], rel=1e-6)


def test_a_checkpoint_is_kept_by_what_is_logged(tmp_path: Path) -> None:
    kept = pl.callbacks.ModelCheckpoint(tmp_path, monitor="leakage/loss/auc", mode="min", filename="{epoch}")
    monitor = watched(tmp_path, None, kept, enable_checkpointing=True)
    least = min(monitor.trace, key=lambda look: look.auc)
    assert Path(kept.best_model_path).name == f"epoch={least.epoch}.ckpt"
    assert float(kept.best_model_score) == pytest.approx(least.auc)


def test_looks_come_after_every_so_many_epochs_and_after_the_last(tmp_path: Path) -> None:
    monitor = watched(tmp_path, max_epochs=5, monitor={"every_n_epochs": 2})
    assert [look.epoch for look in monitor.trace] == [1, 3, 4]
    assert len(monitor.trace) == monitor.planned_looks(5)
    assert mia.LeakageMonitor(every_n_epochs=2).planned_looks(-1) is None


def test_the_trace_is_a_table_with_a_row_for_each_look(tmp_path: Path) -> None:
    monitor = watched(tmp_path)
    assert len(monitor.trace) == 3
    table = monitor.trace.to_arrow()
    assert (table.num_rows, tuple(table.column_names)) == (3, monitor.trace.columns)
    assert table.to_pylist() == monitor.trace.rows()
    assert set(monitor.trace.columns) >= {"epoch", "gap", "auc", "auc_low", "auc_high", "tpr_at_fpr_0.01"}
    assert "epoch, gap" in repr(monitor.trace)
    assert [look.epoch for look in monitor.trace[1:]] == [1, 2]


def test_the_same_monitor_begins_anew_with_another_fit_and_goes_on_with_its_own(tmp_path: Path) -> None:
    monitor, module = mia.LeakageMonitor(), made()
    first = trainer(tmp_path, monitor)
    first.fit(module, *loaders())
    first.fit_loop.max_epochs = 5
    first.fit(module, *loaders())
    assert [look.epoch for look in monitor.trace] == [0, 1, 2, 3, 4]
    trainer(tmp_path, monitor, max_epochs=2).fit(made(), *loaders(train=180))
    assert [look.epoch for look in monitor.trace] == [0, 1]
    assert [look.num_members for look in monitor.trace] == [180, 180]


def test_what_a_fit_was_made_of_stays_on_the_monitor_and_is_not_copied_with_it(tmp_path: Path) -> None:
    monitor = watched(tmp_path, made(width=16))
    fitted = monitor.fitted
    assert (fitted.module_class, fitted.hparams["width"]) == (Lit, 16)
    assert fitted.trainer.current_epoch == 3
    assert len(fitted.train_dataloader.dataset) == 200
    other = copy.deepcopy(monitor)
    assert other.fitted is None
    assert len(other.trace) == 3


def test_trainer_validate_alone_looks_at_nothing(tmp_path: Path) -> None:
    monitor = mia.LeakageMonitor()
    trainer(tmp_path, monitor).validate(made(), loaders()[1], verbose=False)
    assert len(monitor.trace) == 0
    with pytest.raises(mia.InputError, match="no look"):
        monitor.plot()


def test_a_fast_run_and_a_sanity_check_are_survived(tmp_path: Path) -> None:
    assert len(watched(tmp_path, num_sanity_val_steps=2).trace) == 3
    limit, best = mia.LeakageLimit(auc=0.5), mia.BestWithin(auc=0.5)
    others = {"held_out_records": records(150, "others")}
    with pytest.warns(UserWarning, match="before the model has seen them"):
        monitor = watched(tmp_path, None, limit, best, fast_dev_run=True, enable_checkpointing=True, monitor=others)
    assert len(monitor.trace) == 1
    assert (limit.stopped_epoch, best.best_model_path) == (None, "")


def test_a_module_whose_numbers_are_not_finite_is_said_and_does_not_end_training(tmp_path: Path) -> None:
    class Overflows(Lit):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) * (torch.nan if self.current_epoch == 1 and not self.training else 1)

    module, limit = made(Overflows), mia.LeakageLimit(auc=0.9)
    with pytest.warns(UserWarning, match="After epoch 1 the leakage monitor has no figures"):
        monitor = watched(tmp_path, module, limit, enable_checkpointing=True)
    assert [look.auc is None for look in monitor.trace] == [False, True, False]
    assert "350 of 350" in monitor.trace[1].reason
    with pytest.raises(mia.InputError, match="at least 4"):
        monitor.screening()


def test_the_picture_shows_every_look(tmp_path: Path) -> None:
    monitor = watched(tmp_path)
    picture = monitor.plot(limit=0.6)
    picture.save(tmp_path / "leakage.png")
    assert (tmp_path / "leakage.png").read_bytes() == picture._repr_png_()
    assert picture.content.startswith(b"\x89PNG")


def test_the_screening_ranks_by_the_quartiles_of_the_losses(tmp_path: Path) -> None:
    module, data = made(), loaders()
    losses: list[torch.Tensor] = []

    class Losses(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            x_N, label_N = data[0].dataset.tensors
            pl_module.eval()
            with torch.no_grad():
                losses.append(nn.functional.cross_entropy(pl_module(x_N).double(), label_N, reduction="none"))
            pl_module.train()

    monitor = watched(tmp_path, module, Losses(), data=data, max_epochs=6, monitor={"members": "all"})
    found = monitor.screening()
    by_hand = torch.stack(losses).numpy()
    score_N = np.subtract(*np.percentile(by_hand, [75, 25], axis=0))
    assert found.num_looks == 6
    assert found.score_N.numpy() == pytest.approx(score_N[found.record_N], abs=1e-5)
    assert (found.score_N.diff() <= 0).all()
    assert found.final_loss_N.numpy() == pytest.approx(by_hand[-1][found.record_N], abs=1e-5)
    assert torch.equal(found.label_N, data[0].dataset.tensors[1][found.record_N])
    assert found.top(5).tolist() == found.record_N[:5].tolist()
    assert [row["record"] for row in found.rows(5)] == found.top(5).tolist()
    assert len(found) == len(found.rows()) == 200


def test_a_loader_that_is_not_shuffled_and_cut_short_gives_the_records_of_its_first_batches(tmp_path: Path) -> None:
    data = (DataLoader(records(200), batch_size=20), loaders()[1])
    monitor = watched(tmp_path, data=data, limit_train_batches=3)
    assert monitor.fitted.members.index_N.tolist() == list(range(60))


def test_records_that_memory_has_no_room_for_are_fetched_at_each_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.get_rng_state()
    kept = watched(tmp_path)
    monkeypatch.setattr("mia_lightning.callbacks.records.KEPT_BYTES", 3000)  # 20 records of 8 features take 800
    torch.set_rng_state(state)
    fetched = watched(tmp_path)
    assert len(fetched.fitted.members._kept) == 3
    assert len(kept.fitted.members._kept) == 10
    assert fetched.trace.rows() == kept.trace.rows()


def test_of_several_validation_loaders_the_first_is_looked_at(tmp_path: Path) -> None:
    class Two(Lit):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    second = DataLoader(records(60, "second"), batch_size=20)
    for held_out in ([loaders()[1], second], {"a": loaders()[1], "b": second}):
        monitor = watched(tmp_path, made(Two), data=(loaders()[0], held_out))
        assert monitor.trace[-1].num_nonmembers == 150
