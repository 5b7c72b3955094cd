"""A module's outputs: a monitor takes them as an audit does, or says in a sentence what would help."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from given_setup import given_setup
from lit_project import Lit, loaders, made, records, trainer
from refused_fits import plain, refused
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mia_lightning as mia
from mia_lightning.callbacks.look import look_at, of_classes
from mia_lightning.targets.existing import Existing


class Softmax(Lit):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(-1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.nll_loss(self(batch[0]).log(), batch[1])


class LogSoftmax(Softmax):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).log_softmax(-1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.nll_loss(self(batch[0]), batch[1])


class Tuple(Lit):
    def forward(self, x: Tensor) -> Any:
        return self.net(x), x

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0])[0], batch[1])

    validation_step = None


class Object(Tuple):
    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=self.net(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]).logits, batch[1])


class Named(Tuple):
    def forward(self, x: Tensor) -> Any:
        return {"features": x, "logits": self.net(x)}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0])["logits"], batch[1])


@pytest.mark.costly
@pytest.mark.parametrize("cls", [Softmax, LogSoftmax, Tuple, Object, Named])
def test_a_module_is_taken_for_what_it_gives(tmp_path: Path, cls: type[Lit]) -> None:
    """Log probabilities, whatever it gives of them."""
    cls = type(cls.__name__, (cls,), {"validation_step": lambda self, batch, batch_idx: None})
    monitor, module = mia.LeakageMonitor(), made(cls)
    trainer(tmp_path, monitor).fit(module, *loaders())
    module.eval()
    losses = []
    with torch.no_grad():
        for each in loaders():
            x_N, label_N = each.dataset.tensors
            losses.append(nn.functional.cross_entropy(module.net(x_N).double(), label_N, reduction="none"))
    is_member_N = torch.arange(350) < 200
    from sklearn.metrics import roc_auc_score

    assert monitor.trace[-1].auc == pytest.approx(roc_auc_score(is_member_N, -torch.cat(losses)), abs=2e-4)


class ByPredictStep(pl.LightningModule):
    """No forward, and two submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    @property
    def net(self) -> Any:
        return lambda x: self.head(self.body(x).relu())

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class BySubmodule(pl.LightningModule):
    """No forward, and all parameters in one submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


@pytest.mark.costly
@pytest.mark.parametrize("cls", [ByPredictStep, BySubmodule])
def test_a_module_without_a_forward(tmp_path: Path, cls: Any) -> None:
    monitor, module = mia.LeakageMonitor(held_out_records=records(150, "held-out")), made(cls)
    trainer(tmp_path, monitor).fit(module, loaders()[0])
    x_N, label_N = records(200).tensors
    with torch.no_grad():
        accuracy = (module.net(x_N).argmax(1) == label_N).double().mean()
    assert monitor.trace[-1].train_accuracy == pytest.approx(float(accuracy))


class OneOutput(Lit):
    """A binary classifier of one number, trained on float labels."""

    gives = staticmethod(plain)

    def __init__(self) -> None:
        super().__init__(num_classes=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.gives(self.net(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


class OneProbability(OneOutput):
    gives = staticmethod(torch.sigmoid)


@pytest.mark.costly
@pytest.mark.parametrize("cls", [OneOutput, OneProbability])
def test_one_number_a_record_is_that_of_the_second_class(tmp_path: Path, cls: type[Lit]) -> None:
    def binary(count: int, name: str) -> TensorDataset:
        x_N, label_N = records(count, name, num_classes=2).tensors
        return TensorDataset(x_N, label_N.float()[:, None])

    train, held_out = binary(200, "training"), binary(150, "held-out")
    monitor, module = mia.LeakageMonitor(), made(cls)
    trainer(tmp_path, monitor).fit(module, DataLoader(train, batch_size=20), DataLoader(held_out, batch_size=50))
    module.eval()
    right = [((module.net(x_N) > 0) == label_N).double().mean() for x_N, label_N in (train.tensors, held_out.tensors)]
    assert (monitor.trace[-1].train_accuracy, monitor.trace[-1].test_accuracy) == pytest.approx(
        tuple(map(float, right))
    )


class Autoencoder(Lit):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 8)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[0])


@pytest.mark.filterwarnings("ignore:.*EarlyStopping")
def test_outputs_that_may_be_the_records_again_are_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"Autoencoder gives \[20, 8\].*3 classes.*reconstructs.*monitor\.answer"):
        trainer(tmp_path, mia.LeakageMonitor(), max_epochs=1).fit(made(Autoencoder), *loaders())


class Later(Tuple):
    """Features come before the logits."""

    def forward(self, x: Tensor) -> Any:
        return self.net[:2](x), self.net(x), x.sum(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0])[1], batch[1])


class Scores(Tuple):
    """A name that an audit knows, and a dictionary in a dictionary."""

    def forward(self, x: Tensor) -> Any:
        return {"features": x, "heads": {"y_hat": self.net(x), "other": x}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0])["heads"]["y_hat"], batch[1])


class Certain(Tuple):
    """Log probabilities of 0 and of minus infinity."""

    def forward(self, x: Tensor) -> Any:
        return (300 * self.net(x)).softmax(-1).log()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


class Shares(Tuple):
    """A sigmoid for each class."""

    def forward(self, x: Tensor) -> Any:
        return self.net(x).sigmoid()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy(self(batch[0]), nn.functional.one_hot(batch[1], 3).float())


class Timid(Tuple):
    """Logits that lie between 0 and 1."""

    def forward(self, x: Tensor) -> Any:
        return 0.5 + 0.001 * self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.costly
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    ("cls", "by"),
    [(cls, "module") for cls in (Later, Scores, Certain, Shares, Timid, LogSoftmax)]
    + [(cls, "answer") for cls in (Certain, Shares, Timid, LogSoftmax)],
)
def test_a_look_reads_a_module_as_an_audit_does(tmp_path: Path, cls: type[Lit], by: str, precision: str) -> None:
    """Its losses are those of the same module as a target."""
    cls = type(cls.__name__, (cls,), {"validation_step": lambda self, batch, batch_idx: None})
    answer = (lambda module, batch: (module(batch[0]), batch[1])) if by == "answer" else None
    monitor, module = mia.LeakageMonitor(answer=answer), made(cls)
    trainer(tmp_path, monitor, precision=precision).fit(module, *loaders())
    x_N, label_N = (torch.cat(parts) for parts in zip(*(each.dataset.tensors for each in loaders()), strict=True))
    population = mia.make_population(x_N.numpy(), label_N.numpy())
    models = Existing(network=module.cpu()).obtain(given_setup(population))
    log_NC = models.observe(population).log_probability_KANC[0, 0]
    score_N = log_NC.gather(1, label_N[:, None])[:, 0]
    is_member_N = torch.arange(len(label_N)) < 200
    expected = look_at(of_classes(score_N.double(), log_NC.argmax(1) == label_N, label_N, is_member_N))
    own = models.architecture
    is_log = "log_probabilities" if own.gives_log_probabilities else "logits"
    assert monitor._reading.form == ("probabilities" if own.gives_probabilities else is_log)
    assert monitor.trace[-1].reason is None
    if precision == "32-true":  # in which the target answers
        assert monitor.trace[-1].auc == pytest.approx(expected.auc, abs=1e-3)
        assert monitor.trace[-1].train_accuracy == pytest.approx(expected.train_accuracy, abs=0.01)
        torch.testing.assert_close(monitor._loss_LN[-1], -score_N[:200], rtol=1e-4, atol=1e-3)


class Zero(OneOutput):
    """A logit that is 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_one_logit_that_lies_between_0_and_1_is_a_logit(tmp_path: Path, precision: str) -> None:
    x_N, label_N = records(200, "training", num_classes=2).tensors
    data = [DataLoader(TensorDataset(x_N + i, label_N.float()[:, None]), batch_size=20) for i in range(2)]
    monitor, module = mia.LeakageMonitor(), made(Zero)
    before = [p.clone() for p in module.parameters()]

    class Compares(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.is_equal = all(map(torch.equal, before, pl_module.parameters()))

    compares = Compares()
    trainer(tmp_path, monitor, compares, max_epochs=1, precision=precision).fit(module, *data)
    assert compares.is_equal
    assert monitor._reading.form == "logits"


def test_classes_without_a_record_have_outputs_all_the_same(tmp_path: Path) -> None:
    class Fourth(Later):
        def __init__(self) -> None:
            super().__init__(num_classes=4)

        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    assert "could be its logits" in refused(tmp_path, *loaders(), made(Fourth))

    class Narrow(Fourth):
        def forward(self, x: Tensor) -> Any:
            return x[:, :2], self.net(x)

    monitor, module = mia.LeakageMonitor(), made(Narrow)
    trainer(tmp_path, monitor).fit(module, *loaders())
    x_N, label_N = records(200).tensors
    accuracy = (module.eval()(x_N)[1].argmax(1) == label_N).double().mean()
    assert monitor.trace[-1].train_accuracy == pytest.approx(float(accuracy))
