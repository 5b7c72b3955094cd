"""A fit that is restarted from a checkpoint goes on with its trace, its looks and its limits."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lit_project import loaders, made, records, trainer

import mia_lightning as mia


def callbacks(folder: Path, mode: str = "limit") -> tuple[Any, ...]:
    return (
        mia.LeakageMonitor(members=100, held_out_records=records(150, "others")),
        mia.BestWithin(monitor="val_loss", mode="max", auc=0.999),
        mia.LeakageLimit(auc=0.999, mode=mode, alpha=1e-9),
        pl.callbacks.ModelCheckpoint(folder, save_last=True, save_top_k=-1),
    )


def fit(folder: Path, given: tuple[Any, ...], epochs: int, checkpoint: Path | None = None) -> Any:
    module = made(lr=0.03)
    fitted = trainer(folder, *given, max_epochs=epochs, enable_checkpointing=True)
    fitted.fit(module, *loaders(), ckpt_path=checkpoint, weights_only=None if checkpoint is None else False)
    return module


def test_everything_goes_on(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    whole = callbacks(tmp_path / "whole")
    fit(tmp_path / "whole", whole, 6)
    assert len(whole[0].trace) == 6

    torch.set_rng_state(state)
    first, second = callbacks(tmp_path), callbacks(tmp_path)
    fit(tmp_path / "first", first, 3)
    fit(tmp_path / "second", second, 6, Path(first[3].last_model_path))
    assert [look.epoch for look in second[0].trace] == list(range(6))
    assert second[0].trace[:3] == first[0].trace[:3] == whole[0].trace[:3]
    assert second[0].screening().num_looks == 6
    assert second[2]._looks == 6
    assert second[2].kept_epoch == 5
    assert second[1].best_model_score == max(first[1].best_model_score, second[1].best_model_score)


def test_a_plan_survives_as_it_was_made(tmp_path: Path) -> None:
    """Interrupted after two of six epochs: the checkpoint knows of six looks, and of two taken."""

    class Ends(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 2:
                raise RuntimeError("the power is gone")

    first, second = (callbacks(tmp_path, "proved") for _ in range(2))
    module = made(lr=0.03)
    with pytest.raises(RuntimeError, match="power"):
        trainer(tmp_path, *first, Ends(), max_epochs=6, enable_checkpointing=True).fit(module, *loaders())
    saved = first[3].last_model_path or first[3].best_model_path
    fit(tmp_path / "second", second, 6, Path(saved))
    assert (second[2]._planned, second[2]._looks) == (6, 6)
    assert [look.epoch for look in second[0].trace] == list(range(6))


def test_a_monitor_of_other_records_goes_on_and_screens_anew(tmp_path: Path) -> None:
    first = callbacks(tmp_path)
    fit(tmp_path, first, 2)
    second = (mia.LeakageMonitor(members=90, held_out_records=records(150, "others")), *callbacks(tmp_path)[1:])
    with pytest.warns(UserWarning, match="screening begins anew"):
        fit(tmp_path / "second", second, 6, Path(first[3].last_model_path))
    assert len(second[0].trace) == 6
    assert second[0].screening().num_looks == 4
    assert len(second[0].screening()) == 90


def test_the_state_of_a_checkpoint_is_plain(tmp_path: Path) -> None:
    """Numbers, texts and tensors alone, so that no code is needed to read it."""
    given = callbacks(tmp_path)
    fit(tmp_path, given, 2)
    states = {each.state_key: each.state_dict() for each in given[:3]}
    torch.save(states, tmp_path / "state.pt")
    read = torch.load(tmp_path / "state.pt", weights_only=True)
    assert {key.partition("{")[0] for key in read} == {"LeakageMonitor", "BestWithin", "LeakageLimit"}


def test_a_kept_epoch_whose_file_is_gone_is_said(tmp_path: Path) -> None:
    class Removes(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            Path(best.best_model_path).unlink()

    best = mia.BestWithin(auc=0.99)
    monitor = mia.LeakageMonitor(held_out_records=records(150, "others"))
    with pytest.warns(UserWarning, match="is gone"):
        trainer(tmp_path, monitor, best, Removes(), enable_checkpointing=True).fit(made(), *loaders())
