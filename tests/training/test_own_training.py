"""Models that a LightningModule's own step trains in a stack are those that an ordinary Trainer makes of it alone."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from own_modules import LitClassifier, SimpleDenseNet, TemplateModule, TimmLike
from own_training import assert_solo, differs_from_start, own_job, trained
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.population import Population
from mia_lightning.training.own.taken import taken
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import EarlyStopping, Recipe

pytestmark = pytest.mark.usefixtures("global_generators")  # ordinary fits draw from them


class Net(pl.LightningModule):
    """What the modules below have in common."""

    def __init__(self, norm: bool = False, dropout: float = 0.0, lr: float = 0.02) -> None:
        super().__init__()
        self.lr = lr
        self.body = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Tanh(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Groups(Net):
    """No decay on biases, a small rate for the body."""

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [p for p in self.body.parameters() if p.ndim == 1], "lr": 1e-3, "weight_decay": 0.0},
            {"params": [p for p in self.body.parameters() if p.ndim > 1], "lr": 2e-3},
            {"params": self.head.parameters()},
        ]
        return [torch.optim.AdamW(groups, lr=self.lr, weight_decay=0.3)]


class CosineByStep(Net):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=int(steps))
        return [optimizer], [{"scheduler": schedule, "interval": "step", "frequency": 1}]


class EverySecondBatch(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
        return [optimizer], [{"scheduler": schedule, "interval": "step", "frequency": 2}]


class ByEpoch(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adagrad(self.parameters(), lr=self.lr, initial_accumulator_value=0.1)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)}


class OwnScheduleStep(Net):
    """A schedule that is told the epoch, as those of timm are."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        for group in scheduler.optimizer.param_groups:
            group["lr"] = self.lr / (2 + self.current_epoch)


class SmoothAndWeighted(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("class_weight", torch.tensor([1.0, 3.0, 0.5]))
        self.loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        focal = (self.class_weight[y] * F.cross_entropy(logits, y, reduction="none")).mean()
        return {"loss": self.loss(logits, y) + focal, "logits": logits}


class Metrics(Net):
    def __init__(self) -> None:
        super().__init__(norm=True)
        self.train_acc = MulticlassAccuracy(num_classes=3)
        self.metrics = nn.ModuleDict({"a": MulticlassAccuracy(num_classes=3)})

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        accuracy = self.train_acc(logits, y)
        self.metrics["a"].update(logits, y)
        self.log_dict({"loss": loss, "acc": accuracy, "twice": 2 * accuracy})
        self.log("a", self.metrics["a"])
        return loss


class Epochs(Net):
    """Its loss follows the epoch and a counter; the body is thawed after the first epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def on_train_epoch_start(self) -> None:
        for parameter in self.body.parameters():
            parameter.requires_grad = self.current_epoch > 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.seen += 1
        x, y = batch
        factor = 1 + self.current_epoch + 0.1 * self.global_step + 0.01 * self.seen + 0.001 * batch_idx
        return factor * F.cross_entropy(self(x), y) / self.trainer.max_epochs


class WarmsUp(nn.Module):
    """A layer that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        return x * min(1.0, self.seen / 12)


class CountsInside(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body.append(WarmsUp())


class Mixup(Net):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        x, y = batch
        share = np.random.beta(0.4, 0.4)
        order = torch.randperm(len(x))
        logits = self(share * x + (1 - share) * x[order])
        loss = share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[order])
        return loss * (1 + random.random())


class OnTheDevice(Net):
    """Moves its batches itself."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return tuple(each.to(device) for each in batch)


class Unused(Net):
    """Has a layer that no step uses, with decay, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.spare, self.frozen = nn.Linear(2, 2), nn.Linear(8, 8)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.frozen(self.body(x)))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, weight_decay=0.1)


class Remembers(nn.Module):
    """Keeps its latest outputs, and counts them, for people to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: Tensor | None = None
        self.every: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.latest = x
        self.every.append(x)
        return x


class Looks(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body.append(Remembers())


class Recomputes(Net):
    """Gradient checkpointing: backward runs layers again."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False))


class Averages(Net):
    """An average of weights, kept by the step itself."""

    def __init__(self) -> None:
        super().__init__()
        self.average = torch.optim.swa_utils.AveragedModel(self.head)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        self.average.update_parameters(self.head)
        return super().training_step(batch, batch_idx)


class Decays(Net):
    """Changes its learning rate relatively, batch by batch, in the step and in the hook before it."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.optimizers().param_groups[0]["lr"] *= 0.9

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.95
        return super().training_step(batch, batch_idx)


class InPlace(Net):
    """Changes its batch in place."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        x, label = batch
        x -= 0.1
        label.add_(1).remainder_(3)
        return super().training_step(batch, batch_idx)


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "groups": (Groups, {}),
    "cosine-by-step": (CosineByStep, {}),
    "every-second-batch": (EverySecondBatch, {}),
    "by-epoch": (ByEpoch, {}),
    "own-schedule-step": (OwnScheduleStep, {}),
    "smooth-and-weighted": (SmoothAndWeighted, {}),
    "batch-norm": (partial(Net, norm=True), {}),
    "dropout": (partial(Net, dropout=0.4), {}),
    "metrics": (Metrics, {}),
    "clipped": (Net, {"gradient_clip_norm": 0.05}),
    "accumulated": (CosineByStep, {"accumulate_batches": 2}),
    "epochs": (Epochs, {}),
    "counts-inside": (CountsInside, {}),
    "mixup": (Mixup, {}),
    "on-the-device": (OnTheDevice, {}),
    "unused": (Unused, {}),
    "looks": (Looks, {}),
    "recomputes": (Recomputes, {}),
    "averages": (Averages, {}),
    "decays": (Decays, {}),
    "in-place": (InPlace, {}),
}
LOOPED = ("mixup", "recomputes", "averages")


@pytest.mark.costly
@pytest.mark.parametrize("case", CASES)
def test_each_model_is_the_one_that_a_trainer_makes_alone(case: str, blobs: Population) -> None:
    make, recipe = CASES[case]
    execution = "auto" if case in LOOPED else "stack"  # the faster one is another on a busy machine
    job = own_job(make, blobs, **{"execution": execution, **recipe})
    found = trained(job)
    assert found.execution == ("loop" if case in LOOPED else "stack")
    assert_solo(found, job, make)
    if case == "looks":
        assert found.stack.networks.body[-1].every == []


def test_records_that_a_step_changes_in_place_are_those_of_the_asker(blobs: Population) -> None:
    job = own_job(InPlace, blobs)
    x, label = blobs.x_N[None, :8].clone(), blobs.label_N[None, :8].clone()
    with job.first_of(job.stack(range(1)))() as loss_of:
        assert loss_of(x, label) == loss_of(x, label)
    torch.testing.assert_close(x[0], blobs.x_N[:8])


class Probabilities(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(-1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        x, y = batch
        return F.nll_loss(self(x).log(), y)


def test_early_stopping_takes_probabilities_as_such(blobs: Population) -> None:
    validation_N = torch.arange(90, 120)
    job = own_job(Probabilities, blobs)
    recipe = replace(job.recipe, early_stopping=EarlyStopping(patience=3))
    found = trained(replace(job, recipe=recipe, validation_N=validation_N))
    log_KBC = found.observe(blobs).log_probability_KANC[:, 0, validation_N].double()
    expected_K = -log_KBC.gather(-1, blobs.label_N[validation_N].expand(3, -1)[..., None]).mean((1, 2))
    assert found.validation_loss_EK is not None
    torch.testing.assert_close(found.validation_loss_EK[-1], expected_K, rtol=1e-5, atol=1e-5)


def test_early_stopping_of_modules_that_train_themselves_is_said(blobs: Population) -> None:
    settings = Recipe(epochs=3, batch_size=8, early_stopping=EarlyStopping())
    for recipe, is_said in ((settings, True), (replace(settings, early_stopping=None), False)):
        sentence = taken(bind_records(Net, blobs), blobs, recipe, num_records=20).sentence
        assert sentence is not None
        assert ("training.early_stopping" in sentence) is is_said


class OneOutput(Net):
    """The logit of the second of two classes, trained with binary cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        x, y = batch
        return F.binary_cross_entropy_with_logits(self(x), y.float().unsqueeze(1).to(x.dtype))


def test_one_output_reaches_the_step_as_it_is(blobs: Population) -> None:
    two = replace(blobs, label_N=(blobs.label_N > 0).long(), class_names=("a", "b"))
    job = own_job(OneOutput, two)
    found = trained(job)
    assert_solo(found, job, OneOutput)
    assert found.observe(two).log_probability_KANC.shape[-1] == 2


@pytest.mark.costly
@pytest.mark.parametrize(
    "case", ["groups", "metrics", "dropout", "accumulated", "mixup", "epochs", "decays", "in-place"]
)
@pytest.mark.parametrize("how", [{"chunk": 1}, {"chunk": 2}, {"execution": "loop"}])
def test_chunks_and_loop_give_the_same_models(case: str, how: dict[str, Any], blobs: Population) -> None:
    make, recipe = CASES[case]
    job = own_job(make, blobs, **recipe, **how)
    assert_solo(trained(job), job, make)


def images(name: str) -> tuple[Callable[[], nn.Module], Any]:
    optimizer = partial(torch.optim.AdamW, lr=0.01)
    scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    made: dict[str, Callable[[], nn.Module]] = {
        "documentation": LitClassifier,
        "template": lambda: TemplateModule(SimpleDenseNet(), optimizer, scheduler),
        "timm": TimmLike,
        "timm-without-drop-path": partial(TimmLike, drop_path=0.0),
    }
    return made[name], "pictures" if name.startswith("timm") else "blobs"


@pytest.mark.costly
@pytest.mark.parametrize("habit", ["documentation", "template", "timm", "timm-without-drop-path"])
def test_modules_of_other_habits_are_what_a_trainer_makes_of_them(habit: str, request: pytest.FixtureRequest) -> None:
    make, population = images(habit)
    job = own_job(make, request.getfixturevalue(population))
    found = trained(job)
    assert differs_from_start(found, job)
    assert_solo(found, job, make)
    assert job.architecture.draws is (habit == "timm")


@pytest.mark.costly
@pytest.mark.parametrize(
    ("loading", "sizes"),
    [
        (Loading(batch_size=6, shuffle=False, drop_last=True), [9, 3, 3]),
        (Loading(batch_size=6, shuffle=True, drop_last=False), [6, 6, 2]),
    ],
)
def test_batches_are_those_of_the_loader(loading: Loading, sizes: list[int], blobs: Population) -> None:
    population = replace(blobs, loading=loading)
    job = own_job(Net, population, sizes=[14, 14, 14] if not loading.drop_last else [21, 21, 21])
    batches = list(job.recipe.batches(job.records_K, torch.arange(3), torch.device("cpu")))
    widths = [index_KB.shape[1] for index_KB, _ in batches]
    assert widths == ([6, 6, 6] if loading.drop_last else sizes)
    assert all(is_real_KB is None for _, is_real_KB in batches)
    if not loading.shuffle:
        assert torch.equal(torch.cat([index_KB[0] for index_KB, _ in batches]), job.records_K[0][:18])
    assert_solo(trained(job), job, Net)


def test_models_of_other_numbers_of_records_are_not_padded(blobs: Population) -> None:
    make = partial(Net, norm=True)
    job = own_job(make, blobs, sizes=[20, 21, 20, 23, 21])
    assert sorted(map(sorted, job.groups())) == [[0, 2], [1, 4], [3]]
    assert_solo(trained(job), job, make)
