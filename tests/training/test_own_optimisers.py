"""Optimisers and schedules of a LightningModule that a stack cannot follow are refused."""

from typing import Any

import pytest
import torch
from own_refused import Net, refusal, with_method
from torch import nn

from mia_lightning.datasets.population import Population


class ByHand(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def test_optimisation_by_hand(blobs: Population) -> None:
    assert "automatic_optimization" in refusal(ByHand, blobs)


def plateau(self: nn.Module) -> Any:
    optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
    return {
        "optimizer": optimizer,
        "lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
        "monitor": "val_loss",
    }


class NotElementwise(torch.optim.SGD):
    """Scales each gradient to a norm of 1, over the whole tensor."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(p.grad.norm() + 1e-12)
        return super().step(closure)


def stranger(self: nn.Module) -> Any:
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


def short(self: Any) -> Any:
    optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=5)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class NoSchedule:
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


def odd_schedule(self: nn.Module) -> Any:
    optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
    return [optimizer], [NoSchedule(optimizer)]


@pytest.mark.parametrize(
    ("configure", "parts"),
    [
        (lambda self: [torch.optim.SGD(self.layer.parameters()), torch.optim.SGD(self.other.parameters())], ["2"]),
        (lambda self: None, ["configure_optimizers"]),
        (lambda self: "sgd", ["configure_optimizers"]),
        (lambda self: self.missing, ["missing"]),
        (lambda self: torch.optim.LBFGS(self.parameters()), ["LBFGS", "closure"]),
        (lambda self: NotElementwise(self.parameters(), lr=0.1), ["NotElementwise", "element"]),
        (plateau, ["ReduceLROnPlateau"]),
        (stranger, ["parameters"]),
        (short, ["step 6", "epochs"]),
        (odd_schedule, ["NoSchedule", "lr_scheduler_step"]),
    ],
)
def test_optimisers_and_schedules(configure: Any, parts: list[str], blobs: Population) -> None:
    sentence = refusal(with_method("configure_optimizers", configure), blobs)
    assert [part for part in parts if part not in sentence] == []


class RateByLoss(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.optimizers().param_groups[0]["lr"] = 0.1 * float(loss.detach())
        return loss


class RateOfTensors(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.optimizers().param_groups[0]["lr"] = 0.1 * loss.detach()
        return loss


@pytest.mark.parametrize("kind", [RateByLoss, RateOfTensors])
def test_learning_rates_of_each_model(kind: type[nn.Module], blobs: Population) -> None:
    assert "learning rates" in refusal(kind, blobs)
