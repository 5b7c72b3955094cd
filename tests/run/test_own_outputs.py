"""LightningModules that give something else than logits, trained by their own step: signals are their own outputs."""

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population

pytestmark = pytest.mark.usefixtures("global_generators")  # of networks that the tests make


class Base(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)

    def expected(self, x: Tensor) -> Tensor:
        return self.net(x).log_softmax(-1)


class Probabilities(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(-1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.nll_loss(self(batch[0]).log(), batch[1])


class LogProbabilities(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).log_softmax(-1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.nll_loss(self(batch[0]), batch[1])


class InADict(Base):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(x), "features": x}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self(batch[0])["logits"], batch[1])}


class ByPredictStep(Base):
    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        return {"preds": self.net(x), "targets": y}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


class WithoutForward(Base):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


class LossAndLogits(Base):
    def forward(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        logits = self.net(batch[0])
        return nn.functional.cross_entropy(logits, batch[1]), logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self(batch)[0]


class Sigmoids(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).sigmoid()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy(self(batch[0]), nn.functional.one_hot(batch[1], 3).float())

    def expected(self, x: Tensor) -> Tensor:
        share = self(x)
        return (share / share.sum(-1, keepdim=True)).log()


SAID = {
    Probabilities: "gives probabilities",
    LogProbabilities: "log probabilities are taken as such",
    InADict: "`logits` of the dict",
    ByPredictStep: "its `predict_step` is asked",
    WithoutForward: "its `net` is asked",
    LossAndLogits: "its forward is given (records, labels)",
    Sigmoids: "do not sum to 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("kind", SAID)
def test_signals_are_the_modules_own_outputs(blobs: Population, kind: type[Base], execution: str) -> None:
    observation = mia.observe(
        blobs,
        model=kind,
        membership=mia.Disjoint(train_size=30),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        training=mia.Recipe(epochs=4, batch_size=10, execution=execution),
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )
    assert observation.shadows.execution == execution
    assert any(SAID[kind] in note for note in observation.engine.stages.notes)
    for models, signals in (
        (observation.targets, observation.target_signals),
        (observation.shadows, observation.shadow_signals),
    ):
        found_NC = signals.log_probability_KANC[0, 0]
        is_asked_N = ~found_NC.isnan().any(-1)
        with torch.no_grad():
            expected_NC = models.stack.model(0).expected(blobs.x_N)
        torch.testing.assert_close(found_NC[is_asked_N], expected_NC[is_asked_N], rtol=1e-3, atol=1e-4)
    observation.close()
