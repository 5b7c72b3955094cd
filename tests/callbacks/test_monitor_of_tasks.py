"""The monitor where labels are numbers, or several a record, against scikit-learn and against our own attack."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lit_project import Lit, made, records, trainer
from lit_project import loaders as of_classes
from scipy.stats import norm
from sklearn.metrics import r2_score, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mia_lightning as mia
from mia_lightning.callbacks.answers import Reading
from mia_lightning.errors import InputError

N, M = 160, 120
TASKS = {"regression": 1, "regression of two": 2, "multilabel": 3}


def name_of(task: str) -> str:
    return task.split()[0]


class Other(Lit):
    """Predicts numbers, or the logit of each label."""

    def __init__(self, num_classes: int = 1, several: bool = False, shares: bool = False) -> None:
        super().__init__(num_classes=num_classes)
        self.several, self.shares = several, shares

    def forward(self, x: Tensor) -> Tensor:
        output = self.net(x)
        return output.sigmoid() if self.shares else output

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        output, label = self.net(batch[0]), batch[1].float().reshape(len(batch[1]), -1)
        if self.several:
            return nn.functional.binary_cross_entropy_with_logits(output, label)
        return nn.functional.mse_loss(output, label)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.02)


def sets(task: str) -> tuple[TensorDataset, TensorDataset]:
    draws = torch.Generator().manual_seed(0)
    width = TASKS[task]
    found = []
    for count in (N, M):
        x = torch.randn(count, 8, generator=draws)
        y = x[:, :width] + torch.randn(count, width, generator=draws)
        y = (y > 0).long() if task == "multilabel" else 3 + 2 * y
        found.append(TensorDataset(x, y[:, 0] if width == 1 else y))
    return found[0], found[1]


def loaders(task: str) -> tuple[DataLoader, DataLoader]:
    train, held_out = sets(task)
    return DataLoader(train, batch_size=20, shuffle=True), DataLoader(held_out, batch_size=50)


def watched(folder: Path, task: str, **settings: Any) -> tuple[mia.LeakageMonitor, Any]:
    module = made(Other, num_classes=TASKS[task], several=task == "multilabel", **settings.pop("module", {}))
    monitor = mia.LeakageMonitor(task=name_of(task), **settings)
    torch.manual_seed(0)
    trainer(folder, monitor, max_epochs=4).fit(module, *loaders(task))
    return monitor, module.eval()


@pytest.mark.costly
@pytest.mark.parametrize("task", TASKS)
def test_the_figures_are_those_taken_by_hand(tmp_path: Path, task: str) -> None:
    monitor, module = watched(tmp_path, task)
    look = monitor.trace[-1]
    given, said, score, part = [], [], [], []
    with torch.no_grad():
        for each in sets(task):
            given.append(each.tensors[1].reshape(len(each), -1).double())
            said.append(module(each.tensors[0]).double())
    if task == "multilabel":
        for truth, logits in zip(given, said, strict=True):
            score.append(-nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(1))
        utility = [roc_auc_score(truth, logits, average="macro") for truth, logits in zip(given, said, strict=True)]
        part = [torch.cat(given)[:, s] == 1 for s in range(3)]
    else:
        unit = (given[1] - said[1]).square().mean(0).sqrt()
        score = [
            torch.from_numpy(norm.logpdf(truth / unit, predicted / unit)).sum(1)
            for truth, predicted in zip(given, said, strict=True)
        ]
        utility = [r2_score(truth, predicted) for truth, predicted in zip(given, said, strict=True)]
    is_member_N = torch.arange(N + M) < N
    assert look.auc == pytest.approx(roc_auc_score(is_member_N, torch.cat(score)), abs=1e-3)
    assert (look.train_accuracy, look.test_accuracy) == pytest.approx(utility, abs=1e-4)
    assert look.gap == pytest.approx(utility[0] - utility[1], abs=1e-4)
    assert (look.gap_low, look.gap_high) == (None, None)
    assert look.exposed_class is not None
    assert 0 <= look.exposed_class < (3 if task == "multilabel" else 4)
    if part:
        own = part[look.exposed_class]
        assert look.exposed_auc == pytest.approx(roc_auc_score(is_member_N[own], torch.cat(score)[own]), abs=1e-3)
    torch.testing.assert_close(monitor._loss_LN[-1], -score[0].float(), rtol=1e-3, atol=1e-3)
    assert monitor.screening().label_N.shape == sets(task)[0].tensors[1].shape
    monitor.plot()


@pytest.mark.slow
def test_the_figures_are_those_of_the_attack_loss(tmp_path: Path) -> None:
    monitor, module = watched(tmp_path, "multilabel")
    (x, y), (x0, y0) = (each.tensors for each in sets("multilabel"))
    report = mia.audit(
        torch.cat([x, x0]),
        torch.cat([y, y0]),
        task="multilabel",
        target=module.net,
        membership=mia.Given(member_N=torch.arange(N + M) < N),
        shadow=mia.Real(count=2),
        model=lambda: nn.Linear(8, 3),
        training=mia.Recipe(epochs=1),
        attacks=[mia.Loss()],
    )
    attack, look = report.attacks[0].overall, monitor.trace[-1]
    assert (look.auc, look.auc_low, look.auc_high) == (attack.auc.value, attack.auc.low, attack.auc.high)
    assert (look.train_accuracy, look.test_accuracy) == (report.target.train_accuracy, report.target.test_accuracy)


@pytest.mark.slow
def test_the_full_audit_is_of_the_same_task(tmp_path: Path) -> None:
    monitor, _ = watched(tmp_path, "regression")
    report = monitor.audit(shadow=mia.Real(count=2), attacks=[mia.Loss()])
    assert report.task.utility == "R²"
    assert report.attacks[0].overall.auc.value == pytest.approx(monitor.trace[-1].auc, abs=0.01)


def test_shares_of_labels_are_taken_as_such(tmp_path: Path) -> None:
    plain, _ = watched(tmp_path, "multilabel")
    shares, _ = watched(tmp_path, "multilabel", module={"shares": True})
    assert (plain._reading.form, shares._reading.form) == ("logits", "probabilities")
    assert shares.trace[-1].auc == pytest.approx(plain.trace[-1].auc, abs=1e-3)


def test_an_answer_of_the_users_own(tmp_path: Path) -> None:
    plain, _ = watched(tmp_path, "regression")
    own, _ = watched(tmp_path, "regression", answer=lambda module, batch: (module(batch[0])[:, 0], batch[1]))
    assert own.trace[-1].auc == plain.trace[-1].auc


def test_two_classes_by_their_name(tmp_path: Path) -> None:
    monitor = mia.LeakageMonitor(task="binary")
    with pytest.raises(InputError, match=r"3 classes.*task=binary"):
        trainer(tmp_path, monitor).fit(made(), *of_classes())
    two = [DataLoader(records(100, name, num_classes=2), batch_size=20) for name in ("training", "held-out")]
    trainer(tmp_path, monitor).fit(made(num_classes=2), *two)
    assert monitor.trace[-1].auc is not None


def test_outputs_that_are_none_of_the_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\[20, 3\].*task=regression"):
        trainer(tmp_path, mia.LeakageMonitor(task="regression"), num_sanity_val_steps=0).fit(
            made(Other, num_classes=3), *loaders("regression")
        )
    with pytest.raises(InputError, match="task=multilabel takes 0 and 1"):
        trainer(tmp_path, mia.LeakageMonitor(task="multilabel")).fit(
            made(Other, num_classes=2), *loaders("regression of two")
        )
    with pytest.raises(InputError, match=r"monitor\.task"):
        trainer(tmp_path, mia.LeakageMonitor()).fit(made(Other, num_classes=1), *loaders("regression"))
    with pytest.raises(InputError, match=r"monitor\.task"):
        mia.LeakageMonitor(task="ranking")


def test_numbers_that_are_not_finite_are_said(tmp_path: Path) -> None:
    class Broken(Other):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) / 0

    monitor = mia.LeakageMonitor(task="regression")
    with pytest.warns(UserWarning, match="no finite numbers"):
        trainer(tmp_path, monitor, max_epochs=1).fit(made(Broken), *loaders("regression"))
    assert monitor.trace[-1].auc is None


def test_a_batch_of_nearly_equal_numbers_is_one_of_others() -> None:
    """All together they vary by far more than float32 rounds them."""
    label_B = torch.tensor([49_999.99, 50_000.0], dtype=torch.float64)
    label_BX = Reading(answer=lambda *_: (None, None), task=mia.Regression(), num_outputs=1).labels(label_B, label_B)
    torch.testing.assert_close(label_BX, label_B[:, None].float())
