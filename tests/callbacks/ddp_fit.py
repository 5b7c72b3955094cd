"""A fit on two processes with gloo, as a program of its own: `python ddp_fit.py FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from lit_project import loaders, made, trainer

import mia_lightning as mia


def main(folder: Path) -> None:
    torch.manual_seed(0)
    monitor = mia.LeakageMonitor(members=130, nonmembers=110)
    best, limit = mia.BestWithin(monitor="val_loss", mode="max", auc=0.999), mia.LeakageLimit(auc=0.999)
    fitted = trainer(
        folder, monitor, best, limit, devices=2, strategy="ddp", enable_checkpointing=True, use_distributed_sampler=True
    )
    module = made()
    fitted.fit(module, *loaders())
    if fitted.is_global_zero:
        torch.save(module.state_dict(), folder / "best.pt")
        torch.save(torch.load(limit._kept.path, weights_only=False)["state_dict"], folder / "last.pt")
        logged = {name: float(value) for name, value in fitted.callback_metrics.items()}
        told = {"trace": monitor.trace.rows(), "logged": logged, "best": best.best_epoch, "kept": limit.kept_epoch}
        (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
