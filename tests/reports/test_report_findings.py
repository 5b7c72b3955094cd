"""What the findings say of several targets."""

import pytest

from mia_lightning.reports import findings


@pytest.mark.parametrize("num_targets", [1, 4])
def test_chance_is_judged_by_the_records_of_one_target(make_report, num_targets: int) -> None:
    report = make_report(shift=0.0)
    counted = report.attacks[0].overall
    one = 0.29 * (1 / counted.num_members + 1 / counted.num_nonmembers) ** 0.5  # the null standard error, nearly
    figures = counted.model_copy(
        update={
            "num_members": num_targets * counted.num_members,
            "num_nonmembers": num_targets * counted.num_nonmembers,
            "auc": counted.auc.model_copy(update={"value": 0.5 + 3 * one}),
        }
    )
    report = report.model_copy(
        update={
            "attacks": (report.attacks[0].model_copy(update={"overall": figures, "num_targets": num_targets}),),
            "target": report.target.model_copy(update={"num_targets": num_targets}),
        }
    )

    assert findings.is_at_chance(figures, num_targets)
    assert num_targets == 1 or not findings.is_at_chance(figures)
    assert findings.headline(report) == "No leakage found by these attacks"
    assert f"With {counted.num_members:,} members" in findings.verdict(report)[-1]
