"""The stack under `pl.Trainer`: callbacks, checkpoints, loggers, precision; and what is refused by our name for it."""

from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping as EarlyStoppingOfLightning
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, StochasticWeightAveraging
from pytorch_lightning.loggers import CSVLogger
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.batches import StackBatches
from mia_lightning.training.step.module import StackModule
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trainer import TrainerSettings

MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}


def make_module(population: Population, **recipe: object) -> StackModule:
    make = bind_shapes(partial(MLP, hidden=[8], dropout=0.3), population.input_shape, population.num_classes)
    return StackModule(
        Stack.build(make, [0, 1, 2], seed=0, role="shadow"),
        population,
        StackBatches([torch.arange(k * 30, k * 30 + 30) for k in range(3)], torch.arange(3), batches_per_epoch=4),
        Recipe(**{"epochs": 6, "batch_size": 8, "optimizer": MOMENTUM, **recipe}),
        validation_N=torch.arange(90, 120),
        role="shadow",
    )


def trainer(tmp_path: Path, **options: object) -> pl.Trainer:
    return pl.Trainer(**{**QUIET, "default_root_dir": tmp_path, "logger": False, "max_epochs": 6, **options})


def state(module: StackModule) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.stack.state_dict().items()}


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
def test_a_checkpointed_run_resumes_bit_for_bit(blobs: Population, tmp_path: Path) -> None:
    recipe = {
        "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5),
        "early_stopping": EarlyStopping(patience=3),
    }
    whole = make_module(blobs, **recipe)
    trainer(tmp_path, enable_checkpointing=False).fit(whole)

    first = make_module(blobs, **recipe)
    saver = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(tmp_path, callbacks=[saver], max_epochs=3).fit(first)
    resumed = make_module(blobs, **recipe)
    trainer(tmp_path, enable_checkpointing=False).fit(resumed, ckpt_path=tmp_path / "epoch=2.ckpt")

    for name, tensor in state(whole).items():
        torch.testing.assert_close(state(resumed)[name], tensor, rtol=0, atol=0)
    torch.testing.assert_close(torch.stack(resumed.train_loss_EK), torch.stack(whole.train_loss_EK), equal_nan=True)
    assert torch.equal(resumed.progress["stopped_epoch_K"], whole.progress["stopped_epoch_K"])


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
def test_loggers_callbacks_and_step_counts_see_the_stack(blobs: Population, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="run")
    module = make_module(blobs, scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5))
    run = trainer(
        tmp_path, logger=logger, callbacks=[LearningRateMonitor()], log_every_n_steps=1, enable_checkpointing=False
    )
    run.fit(module)
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert "shadow/train_loss/median" in lines[0]
    assert "shadow/validation_loss/median" in lines[0]
    assert run.global_step == 24
    assert run.callback_metrics["shadow/train_loss/median"] == pytest.approx(float(module.train_loss_EK[-1].median()))
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(0.05 * 0.5**6)


def test_a_schedule_by_steps_advances_with_every_step(blobs: Population, tmp_path: Path) -> None:
    module = make_module(
        blobs, scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9), scheduler_interval="step"
    )
    trainer(tmp_path, enable_checkpointing=False).fit(module)
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(0.05 * 0.9**24)


@pytest.mark.parametrize(("accumulate", "steps"), [(2, 2), (3, 2), (8, 1)])
def test_accumulated_batches_make_fewer_steps_of_averaged_gradients(
    blobs: Population, tmp_path: Path, accumulate: int, steps: int
) -> None:
    module = make_module(blobs, accumulate_batches=accumulate, epochs=1)
    run = trainer(tmp_path, enable_checkpointing=False, max_epochs=1)
    run.fit(module)
    assert run.global_step == steps

    expected = make_module(blobs)
    optimizer = MOMENTUM(expected.stack.parameters())
    expected.batches.set_epoch(0)
    expected.train()
    for i, (index_KB, _) in enumerate(expected.batches):
        logits = expected.stack(blobs.records(index_KB), step=i)
        loss = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), blobs.label_N[index_KB], reduction="none")
        group = min(accumulate, 4 - i // accumulate * accumulate)
        (loss.mean(1).sum() / group).backward()
        if (i + 1) % accumulate == 0 or i == 3:
            optimizer.step()
            optimizer.zero_grad()
    for name, tensor in state(expected).items():
        torch.testing.assert_close(state(module)[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gradient_clip_val": 1.0}, "training.gradient_clip_norm"),
        ({"accumulate_grad_batches": 2}, "training.accumulate_batches"),
        ({"precision": "16-true"}, "trainer.precision=bf16"),
        ({"strategy": "ddp_spawn", "devices": 2}, r"DDPStrategy.*trainer.devices, which trains each model on one"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # Lightning warns of half precision before we refuse it
def test_what_cannot_hold_for_a_stack_is_refused(
    blobs: Population, tmp_path: Path, options: dict[str, object], sentence: str
) -> None:
    from mia_lightning.training.trainer import check_trainer

    run = trainer(tmp_path, enable_checkpointing=False, **options)
    with pytest.raises(InputError, match=sentence):
        check_trainer(run)
    if "strategy" not in options:  # a spawned strategy would raise in another process
        with pytest.raises(InputError, match=sentence):
            run.fit(make_module(blobs))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precision": "16-mixed"}, "`trainer.precision` is '16-mixed'"),
        ({"devices": True}, "`trainer.devices` is True"),
        ({"devices": -1, "accelerator": "cpu"}, "`trainer.devices` is -1, all GPUs, .*accelerator=cpu"),
        ({"devices": 2, "options": {"logger": CSVLogger("logs")}}, "`trainer.options.logger` is a CSVLogger, to which"),
        ({"devices": 2, "callbacks": [ModelCheckpoint("here")]}, "holds a ModelCheckpoint with a `dirpath`"),
        ({"accelerator": "mps"}, "`trainer.accelerator` is mps"),
        ({"devices": [0, 0]}, r"`trainer.devices` is \[0, 0\]"),
        ({"options": {"gradient_clip_val": 1.0}}, "training.gradient_clip_norm"),
        ({"options": {"strategy": "ddp"}}, "trainer.devices, which trains each model on one"),
        ({"options": {"max_epochs": 3}}, "training.epochs"),
        ({"options": {"fast_dev_run": True}}, "training.epochs"),
        ({"options": {"limit_train_batches": 1}}, "dataset.train_size"),
        ({"options": {"check_val_every_n_epoch": 3}}, "training.early_stopping.patience"),
        (
            {"callbacks": [5]},
            r"`trainer.callbacks` is \[5\]; it must be a list of Lightning callbacks by their `_target_`",
        ),
        ({"options": {"accumulate_grad_batches": 3}}, "training.accumulate_batches"),
    ],
)
def test_settings_that_cannot_hold_for_a_stack_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TrainerSettings(**settings)


@pytest.mark.parametrize("callback", [EarlyStoppingOfLightning("x"), StochasticWeightAveraging(0.1)])
def test_callbacks_that_treat_the_stack_as_one_model_are_refused(callback: pl.Callback) -> None:
    with pytest.raises(InputError, match=r"does not hold for a stack.*training.early_stopping"):
        TrainerSettings(accelerator="cpu", callbacks=[callback]).make(epochs=1)


def test_what_lightning_refuses_when_training_starts_is_one_sentence(blobs: Population) -> None:
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", callbacks=[LearningRateMonitor()]))
    make = bind_shapes(partial(MLP, hidden=[4]), blobs.input_shape, 3)
    with pytest.raises(InputError, match="Trainer refuses to train"):
        train_with(
            engine, make, blobs, [torch.arange(9)], Recipe(epochs=1, batch_size=9, optimizer=MOMENTUM), role="shadow"
        )


def test_what_callbacks_and_loggers_write_by_themselves_goes_to_the_folder(blobs: Population, tmp_path: Path) -> None:
    settings = TrainerSettings(accelerator="cpu", callbacks=[ModelCheckpoint(filename="{epoch}")])
    engine = Engine(seed=0, settings=settings, folder=tmp_path)
    make = bind_shapes(partial(MLP, hidden=[4]), blobs.input_shape, 3)
    train_with(
        engine, make, blobs, [torch.arange(9)], Recipe(epochs=2, batch_size=9, optimizer=MOMENTUM), role="shadow"
    )
    assert [path.name for path in (tmp_path / "lightning" / "shadow").rglob("*.ckpt")] == ["epoch=1.ckpt"]


@pytest.mark.parametrize("settings", [{"accelerator": "abacus"}, {"options": {"no_such_option": 1}}])
def test_what_lightning_refuses_is_one_sentence(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"pytorch_lightning.Trainer refuses the `trainer` settings"):
        TrainerSettings(**settings).make(epochs=1)


def test_tf32_holds_for_the_training_and_no_longer() -> None:
    before = torch.get_float32_matmul_precision()
    with TrainerSettings(precision="tf32").matmul_precision():
        assert torch.get_float32_matmul_precision() == "high"
    with TrainerSettings(precision=32).matmul_precision():
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.costly
@pytest.mark.parametrize("precision", ["32", "tf32", "bf16", "64"])
def test_every_precision_trains(blobs: Population, precision: str) -> None:
    dtypes = set()

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
            dtypes.add(next(pl_module.parameters()).dtype)

    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", precision=precision, callbacks=[Watch()]))
    make = bind_shapes(partial(MLP, hidden=[16]), blobs.input_shape, 3)
    recipe = Recipe(epochs=30, batch_size=30, optimizer=partial(torch.optim.Adam, lr=0.02))
    trained = train_with(engine, make, blobs, [torch.arange(60)] * 2, recipe, role="shadow")
    assert dtypes == {torch.float64 if precision == "64" else torch.float32}
    assert float(trained.train_loss_EK[-1].max()) < 0.5 * float(trained.train_loss_EK[0].min())


def test_early_stopping_without_validation_records_is_refused(blobs: Population) -> None:
    recipe = Recipe(epochs=2, batch_size=8, optimizer=MOMENTUM, early_stopping=EarlyStopping())
    make = bind_shapes(partial(MLP, hidden=[4]), blobs.input_shape, 3)
    with pytest.raises(InputError, match=r"`training.early_stopping` is set for shadow.*membership.validation"):
        train_with(Engine(seed=0), make, blobs, [torch.arange(9)], recipe, role="shadow")


def test_batches_of_one_under_batch_norm_are_refused(pictures: Population) -> None:
    from mia_lightning.models.cnn import CNN

    recipe = Recipe(epochs=1, batch_size=1, optimizer=MOMENTUM)
    make = bind_shapes(partial(CNN, channels=[2], hidden=4, kernel_size=3, batch_norm=True), pictures.input_shape, 3)
    with pytest.raises(InputError, match="batches of one, over which the batch normalisation of CNN is undefined"):
        train_with(
            Engine(seed=0, settings=TrainerSettings(accelerator="cpu")),
            make,
            pictures,
            [torch.arange(5)],
            recipe,
            role="shadow",
        )


def test_callbacks_of_the_settings_are_fresh_for_every_stage(blobs: Population, tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", callbacks=[saver]))
    make = bind_shapes(partial(MLP, hidden=[4]), blobs.input_shape, 3)
    recipe = Recipe(epochs=2, batch_size=8, optimizer=MOMENTUM, chunk=1)
    train_with(engine, make, blobs, [torch.arange(9), torch.arange(9)], recipe, role="shadow")
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [
        "epoch=0-v1.ckpt",
        "epoch=0.ckpt",
        "epoch=1-v1.ckpt",
        "epoch=1.ckpt",
    ]
    assert saver.best_model_path == ""
