"""Variants made by hand: what a finding needs of an audit, and nothing else."""

from collections.abc import Callable

import numpy as np
import pytest
from made_reports import make_report as make_report
from made_reports import report as report

from mia_lightning.comparison.assemble import compare, skipped_variant
from mia_lightning.comparison.findings import Above, Rises
from mia_lightning.comparison.intervals import rates_to
from mia_lightning.comparison.schema import ComparisonReport, Estimate, Variant, VariantAttack

MakeVariant = Callable[..., Variant]


def estimate(value: float | None, reason: str | None = None) -> Estimate:
    return Estimate(value=value, low=None, high=None, reason=reason)


def build_variant(
    name: str, tpr: float = 0.9, fpr: float = 0.3, *, n: int = 1000, auc: float | None = 0.8, **settings: object
) -> Variant:
    rates = np.array([tpr]), np.array([fpr])
    values = {figure: float(rates_to(figure, *rates, n, n)[0]) for figure in ("accuracy", "recall")}
    flagged = tpr + fpr > 0
    precision = estimate(float(rates_to("precision", *rates, n, n)[0])) if flagged else estimate(None, "nobody flagged")
    attack = VariantAttack(
        name="shokri",
        label="shokri",
        adaptive=False,
        true_positives=tpr * n,
        false_positives=fpr * n,
        num_members=n,
        num_nonmembers=n,
        auc_logit_error=0.05,
        precision=precision,
        auc=estimate(auc),
        tpr_at_fpr={"0.01": 0.1, "0.001": None},
        per_class_precision=(0.7, None, 0.9),
        per_class_members=(10, 0, 30),
        **{figure: estimate(value) for figure, value in values.items()},
    )
    base: dict[str, object] = {
        "folder": name,
        "dataset": "made",
        "num_classes": 3,
        "num_members": n,
        "num_nonmembers": n,
        "architecture": "MLP",
        "shadow_source": "real",
        "num_shadows": 4,
        "train_accuracy": 1.0,
        "test_accuracy": 0.6,
        "generalization_gap": 0.4,
        "attacks": (attack,),
    }
    return Variant(name=name, **{**base, **settings})


@pytest.fixture(scope="session")
def make_variant() -> MakeVariant:
    return build_variant


@pytest.fixture(scope="session")  # frozen
def comparison() -> ComparisonReport:
    variants = [
        build_variant("10 records", 0.9, 0.3, x=10.0, generalization_gap=0.3),
        build_variant("<b>20 records</b>", 0.9, 0.6, x=20.0, defense="top 3 classes", test_accuracy=0.5),
        skipped_variant("30 records", "the data is not there", 30.0),
    ]
    return compare(
        variants,
        [Above(text="It is <i>above</i>.", value=0.5), Rises(text="It rises.")],
        title="A title & more",
        question="Why?",
        source="a paper, table 1",
        command="mia-lightning experiment=x",
        seconds=1.25,
    )
