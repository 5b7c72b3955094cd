"""A fit by `lightning.pytorch`, as a program: `python lightning_fit.py FOLDER`; prints which epochs were looked at."""

import sys

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import mia_lightning as mia

ADVICE = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}


class Lit(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(seed: int) -> DataLoader:
    draws = torch.Generator().manual_seed(seed)
    label_N = torch.arange(120) % 2
    return DataLoader(TensorDataset(torch.randn(120, 4, generator=draws), label_N), batch_size=20)


torch.manual_seed(8)  # the weights of the first of two epochs are the best
monitor, best, limit = mia.LeakageMonitor(), mia.BestWithin(auc=0.9), mia.LeakageLimit(auc=0.9)
trainer = pl.Trainer(
    default_root_dir=sys.argv[1], accelerator="cpu", max_epochs=2, callbacks=[limit, best, monitor], **ADVICE
)
trainer.fit(Lit(), loader(0), loader(1))
print([look.epoch for look in monitor.trace], best.best_epoch >= 0, limit.kept_epoch)
print(float(trainer.callback_metrics["leakage/loss/auc"]) == torch.tensor(monitor.trace[-1].auc).item())
report = monitor.audit(shadow=mia.Real(count=2), attacks=[mia.Loss()])
kept = monitor.trace[best.best_epoch]  # the epoch whose weights the fit ends with
print(
    report.membership.plan,
    report.shadow.architecture,
    abs(report.attacks[0].overall.auc.value - kept.auc) < 1e-4,
)
try:
    mia.audit(
        monitor.fitted.train_dataloader, model=Lit, trainer=pl.Trainer(max_epochs=1, max_time="00:00:01:00", **ADVICE)
    )
except mia.InputError as error:
    print(error)
