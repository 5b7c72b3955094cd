"""An audit of what a Trainer has fitted: its module, its data, and shadow models of the same kind."""

from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import mia_lightning as mia
from mia_lightning.errors import InputError
from mia_lightning.training.trainer import quiet_lightning

pytestmark = pytest.mark.usefixtures("global_generators")  # of modules that are made and fitted
KIND: dict[str, Any] = {"shadow": mia.Real(count=2), "attacks": [mia.Loss()]}


def digits() -> TensorDataset:
    x, label = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(label))


def sets() -> tuple[Dataset[Any], Dataset[Any]]:
    return Subset(digits(), range(100)), Subset(digits(), range(100, 260))


class Data(pl.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.train, self.val = sets()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, 25, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, 50)


class Net(pl.LightningModule):
    def __init__(self, width: int, keeps: bool = True) -> None:
        super().__init__()
        if keeps:
            self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fitted(module: pl.LightningModule, *args: Any, callbacks: Any = (), **kwargs: Any) -> pl.Trainer:
    with quiet_lightning():
        trainer = pl.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=any(isinstance(each, pl.callbacks.Checkpoint) for each in callbacks),
            enable_model_summary=False,
            callbacks=list(callbacks),
        )
        trainer.fit(module, *args, **kwargs)
    return trainer


def validated() -> pl.Trainer:
    with quiet_lightning():
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        trainer.validate(Net(12), Data(), verbose=False)
    return trainer


class Around(Net):
    """A network that is given, and kept among the hyper-parameters."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(12, keeps=False)
        with quiet_lightning():
            self.save_hyperparameters()
        self.net = net


def frozen() -> pl.Trainer:
    trainer = fitted(Around(nn.Linear(64, 10)), Data())
    trainer.lightning_module.freeze()
    return trainer


def figures(report: mia.AuditReport) -> Any:
    return [attack.overall for attack in report.attacks], report.target


@pytest.mark.slow
def test_what_a_trainer_has_fitted_is_audited_as_if_it_were_spelled_out() -> None:
    monitor = mia.LeakageMonitor(members=50, nonmembers=50)
    module, data = Net(width=12), Data()
    trainer = fitted(module, data, callbacks=[monitor])
    spelled = mia.audit(Data(), model=partial(Net, width=12), target=module, trainer=trainer, **KIND)
    assert spelled.shadow.architecture == "Net"
    for report in (
        mia.audit(trainer=trainer, datamodule=data, **KIND),
        mia.audit(data, trainer=trainer, **KIND),
        mia.audit(trainer=trainer, **KIND),
        monitor.audit(**KIND),
    ):
        assert figures(report) == figures(spelled)


def test_loaders_of_the_fit_are_its_data() -> None:
    train, held_out = sets()
    trainer = fitted(Net(width=12), DataLoader(train, 25, shuffle=True), DataLoader(held_out, 50))
    report = mia.audit(trainer=trainer, **KIND)
    overall = report.attacks[0].overall
    assert (overall.num_members, overall.num_nonmembers) == (100, 160)


def test_records_that_a_monitor_was_given_are_those_of_its_audit() -> None:
    train, held_out = sets()
    monitor = mia.LeakageMonitor(members=50, nonmembers=50, train_records=train, held_out_records=held_out)
    fitted(Net(width=12), DataLoader(train, 25, shuffle=True), callbacks=[monitor])
    overall = monitor.audit(**KIND).attacks[0].overall
    assert (overall.num_members, overall.num_nonmembers) == (100, 160)


def test_fields_that_are_given_go_before_those_of_the_fit() -> None:
    trainer = fitted(Net(width=12), Data())
    audit = mia.Audit(trainer=trainer, target=Net(width=12), membership=mia.Given(member_N=range(40)))
    assert audit.membership == mia.Given(member_N=range(40))
    of_another_width = mia.Audit(Data(), model=partial(Net, width=5), trainer=trainer)
    assert not of_another_width.attacked.is_trained_here
    trained_here = mia.Audit(Data(), model=partial(Net, width=5), target=mia.Trained(), trainer=trainer)
    assert trained_here.attacked.is_trained_here


def test_hyper_parameters_in_one_argument_make_the_shadow_models() -> None:
    class Whole(Net):
        def __init__(self, conf: Any) -> None:
            super().__init__(conf["width"], keeps=False)
            self.save_hyperparameters(conf)

    audit = mia.Audit(trainer=fitted(Whole({"width": 9}), Data()))
    assert audit.model().net[0].out_features == 9


def test_shadow_models_train_as_long_as_the_weights_that_the_module_has() -> None:
    held_out = Subset(digits(), range(300, 500))
    monitor = mia.LeakageMonitor(members=50, nonmembers=50, held_out_records=held_out)
    with TemporaryDirectory() as folder:
        best = mia.BestWithin(auc=0.99, monitor="val_loss", mode="max", dirpath=folder)  # the first epoch
        trainer = fitted(Net(width=12), Data(), callbacks=[monitor, best])
    assert best.put_back_epoch == best.best_epoch == 0
    report = mia.audit(trainer=trainer, **KIND)
    assert any("1 epochs, since BestWithin put back the weights of epoch 0" in note for note in report.notes)


def test_settings_that_the_trainer_overrules_are_named() -> None:
    trainer = fitted(Net(width=12), Data())
    recipe = mia.Recipe(epochs=7, gradient_clip_norm=0.5)
    report = mia.audit(trainer=trainer, training=recipe, **KIND)
    (warning,) = [each for each in report.warnings if "Trainer" in each]
    assert "`training.epochs` (7), `training.gradient_clip_norm` (0.5)" in warning
    assert not any("Trainer" in each for each in mia.audit(trainer=trainer, **KIND).warnings)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: mia.audit(Data(), trainer=pl.Trainer(accelerator="cpu", logger=False)), "fitted nothing"),
        (lambda: mia.audit(trainer=fitted(Net(12, keeps=False), Data())), "`width`, `keeps`"),
        (lambda: mia.audit(trainer=fitted(Net(12), DataLoader(sets()[0], 25))), "no training and held-out records"),
        (lambda: mia.audit(trainer=validated()), "fitted nothing"),
        (lambda: mia.audit(Data(), datamodule=Data(), model=Net), "`datamodule` and `data`"),
        (lambda: mia.LeakageMonitor().audit(), "has seen no fit"),
        (lambda: mia.Audit(trainer=frozen()), "Around is frozen.*`net`.*unfreeze"),
    ],
)
def test_what_cannot_be_filled_in_is_named(make: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        make()
