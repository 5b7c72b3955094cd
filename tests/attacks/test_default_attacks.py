"""The default set of attacks: the same from Python and on the command line; with one shadow model it has no ratio."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from quick import QUICK_SHOKRI, quick_audit

import mia_lightning as mia
from mia_lightning.attacks.default import DEFAULT_ATTACKS
from mia_lightning.command.job import Job
from mia_lightning.command.mistakes import config_directory
from mia_lightning.datasets.population import Population

RATIO = DEFAULT_ATTACKS[-1]
QUICK_SET = (QUICK_SHOKRI, mia.Loss(), mia.Ratio(online=False))


def options(num_shadows: int, attacks: tuple[object, ...] = QUICK_SET) -> dict[str, object]:
    plan = {"membership": mia.Disjoint(train_size=10), "shadow": mia.Real(count=num_shadows)}
    return quick_audit(attacks=attacks, **plan)


def run_by(report: mia.AuditReport) -> list[str]:
    return [each.name for each in report.attacks]


def test_the_command_line_has_the_attacks_of_an_audit_in_python(blobs: Population) -> None:
    with initialize_config_dir(str(config_directory()), version_base=None):
        job = Job.of(compose("config"))
    of_python = mia.Audit(blobs, model=lambda: None).attacks
    assert [each.name for each in job.attacks] == [each.name for each in of_python]
    assert job.attacks[1:] == [*of_python[1:]]
    assert job.attacks[-1] == RATIO == mia.Ratio(online=False)


@pytest.mark.costly
@pytest.mark.parametrize("num_shadows", [1, 2])
def test_the_ratio_of_the_default_set_is_left_out_where_one_shadow_model_has_no_other(
    num_shadows: int, blobs: Population
) -> None:
    report = mia.audit(blobs, **options(num_shadows))
    said = [each for each in report.notes if "ratio_offline was not run" in each]
    assert (run_by(report), len(said)) == (
        (["shokri", "loss"], 1) if num_shadows == 1 else (["shokri", "loss", "ratio_offline"], 0)
    )
    assert all("`shadow.count`" in each for each in said)


@pytest.mark.parametrize(
    "chosen",
    [
        lambda: (RATIO,),
        lambda: (mia.Loss(), RATIO),
        lambda: (*QUICK_SET[:2], mia.Ratio(online=False, temperature=1.0)),
        lambda: (*QUICK_SET, mia.Gap()),
    ],
    ids=["alone", "of two", "with other settings", "of four"],
)
def test_a_ratio_that_somebody_has_chosen_is_refused_there(
    chosen: Callable[[], tuple[object, ...]], blobs: Population
) -> None:
    with pytest.raises(mia.InputError, match=r"attack=ratio_offline.*`shadow\.count`"):
        mia.audit(blobs, **options(1, chosen()))


def test_other_attacks_of_the_default_set_are_never_left_out(blobs: Population) -> None:
    audit = mia.Audit(blobs, **options(1))
    assert [audit.may_leave_out(each) for each in audit.attacks] == [False, False, True]
    assert not any(replace(audit, attacks=audit.attacks[1:]).may_leave_out(each) for each in audit.attacks)
    assert all(replace(audit, skip_inapplicable=True).may_leave_out(each) for each in audit.attacks)
