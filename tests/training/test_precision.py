"""Lower precision in training changes no finding: figures stay within the intervals of those in float32."""

from functools import partial

import pytest
import torch

import mia_lightning as mia
from mia_lightning.datasets.digits import load_digits
from mia_lightning.models.mlp import MLP
from mia_lightning.reports.schema import AuditReport


def audit(precision: str) -> AuditReport:
    return mia.audit(
        load_digits(),
        model=partial(MLP, hidden=[64]),
        membership=mia.Disjoint(train_size=150),
        shadow=mia.Real(count=8),
        training=mia.Recipe(epochs=60, batch_size=50, optimizer=partial(torch.optim.Adam, lr=0.005)),
        trainer=mia.TrainerSettings(accelerator="cpu", precision=precision, progress_bar=False),
    )


@pytest.fixture(scope="module")
def full() -> AuditReport:
    return audit("32")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_figures_agree_with_those_in_full_precision(precision: str, full: AuditReport) -> None:
    lower = audit(precision)
    assert [each.name for each in lower.attacks] == ["shokri", "loss", "ratio_offline"]
    for of_full, of_lower in zip(full.attacks, lower.attacks, strict=True):
        for name in ("auc", "balanced_accuracy"):
            expected, found = (getattr(each.overall, name) for each in (of_full, of_lower))
            assert expected.low > 0.5  # or there would be nothing to agree on
            assert expected.low < found.value < expected.high
    accuracies = [each.target.test_accuracy for each in (full, lower)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.03)
