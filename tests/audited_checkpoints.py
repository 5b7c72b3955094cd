"""Audits of checkpoints, of a few records."""

from typing import Any

import numpy as np
import torch
from lightning_habits import Keeps, layers
from torch import nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population

MEMBERS = range(60)


def audit(population: Population, **options: Any) -> mia.AuditReport:
    return mia.audit(
        population,
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        trainer=mia.TrainerSettings(accelerator="cpu"),
        **{"membership": mia.Given(member_N=MEMBERS), "training": mia.Recipe(batch_size=20), **options},
    )


def check_scores(report: mia.AuditReport, module: nn.Module, population: Population) -> None:
    """The scores are the losses of the module's own outputs."""
    assert report.scores is not None
    with torch.no_grad():
        loss_N = nn.functional.cross_entropy(module.eval()(population.x_N), population.label_N, reduction="none")
    np.testing.assert_allclose(report.scores.score, -loss_N.numpy()[report.scores.record], atol=1e-5)


def keeps(optimizer: Any = torch.optim.SGD) -> Keeps:
    return Keeps(layers(5), optimizer)
