"""`members.csv`, which a run with `save_models=true` leaves for a second audit of its target."""

from pathlib import Path

import pytest
import torch
from quick import quick_audit

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.membership import Plan, Wanted

SHADOW = mia.Real(count=4)


@pytest.mark.costly
@pytest.mark.parametrize(
    "plan",
    [
        mia.Disjoint(train_size=20, validation=8, population=10),
        mia.Halves(),
        mia.Given(member_N=list(range(0, 90, 2))),
    ],
    ids=["disjoint", "halves", "given"],
)
def test_a_second_audit_finds_the_same_members_and_non_members(blobs: Population, plan: Plan, tmp_path: Path) -> None:
    mia.audit(blobs, membership=plan, shadow=SHADOW, output=tmp_path, save_models=True, **quick_audit())
    first = plan.fill(blobs, Wanted(num_targets=1, num_shadows=4, seed=0))
    given = mia.Given(path=tmp_path / "members.csv")
    again = given.fill(blobs, Wanted(num_targets=1, num_shadows=4, seed=0))
    assert torch.equal(again.member_KN[0], first.member_KN[0])
    assert torch.equal(again.nonmember_KN[0], first.nonmember_KN[0])


def test_synthetic_records_are_no_rows(blobs: Population, tmp_path: Path) -> None:
    options = quick_audit(shadow=mia.Marginal(count=4, records=60))
    mia.audit(blobs, membership=mia.Disjoint(train_size=20), output=tmp_path, save_models=True, **options)
    rows = [line.split(",") for line in (tmp_path / "members.csv").read_text().splitlines()]
    assert rows[0] == ["row", "member"]
    assert len(rows) == 41
    assert all(int(row) < len(blobs) for row, _ in rows[1:])
    assert sum(int(member) for _, member in rows[1:]) == 20


def test_several_targets_have_no_common_members(blobs: Population, tmp_path: Path) -> None:
    (tmp_path / "members.csv").write_text("of an earlier run")
    options = quick_audit(shadow=SHADOW, target=mia.Trained(count=2))
    mia.audit(blobs, membership=mia.Disjoint(train_size=20), output=tmp_path, save_models=True, **options)
    assert (tmp_path / "target.safetensors").is_file()
    assert not (tmp_path / "members.csv").exists()


def test_models_that_are_not_saved_leave_no_members(blobs: Population, tmp_path: Path) -> None:
    mia.audit(blobs, membership=mia.Disjoint(train_size=20), shadow=SHADOW, output=tmp_path, **quick_audit())
    assert not (tmp_path / "members.csv").exists()
