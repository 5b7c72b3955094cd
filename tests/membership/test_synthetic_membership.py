"""Plans whose shadow records are made after the target is trained, and attackers who know some records beforehand."""

import pytest
import torch

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership import Disjoint, Given, Halves, Membership, Plan, Wanted


def population_of(num_records: int) -> Population:
    return Population(
        name="plain",
        x_N=torch.arange(float(num_records))[:, None],
        label_N=torch.arange(num_records) % 2,
        class_names=("a", "b"),
    )


def target_rows(plan: Plan, num_records: int = 60) -> Membership:
    return plan.fill(population_of(num_records), Wanted(num_targets=1, num_shadows=0, seed=3))


@pytest.mark.parametrize(
    "plan", [Disjoint(train_size=10, validation=5), Given(member_N=torch.arange(20), validation=5)]
)
def test_the_rows_of_the_target_are_the_same_in_one_call_and_in_two(plan: Plan) -> None:
    at_once = plan.fill(population_of(60), Wanted(num_targets=1, num_shadows=4, seed=3))
    first = target_rows(plan)
    assert torch.equal(first.member_KN, at_once.member_KN[:1])
    assert torch.equal(first.scored_KN, at_once.scored_KN[:1])
    whole = first.with_synthetic(50, num_shadows=4, seed=3)
    assert whole.member_KN.shape == (5, 110)
    assert torch.equal(whole.member_KN[:1, :60], first.member_KN)
    assert torch.equal(whole.scored_KN[:1, :60], first.scored_KN)
    assert not bool(whole.scored_KN[0, 60:].any())


def test_synthetic_shadow_models_share_no_record_with_the_target_and_are_balanced() -> None:
    whole = target_rows(Disjoint(train_size=10)).with_synthetic(50, num_shadows=6, seed=3)
    assert not bool(whole.scored_KN[1:, :60].any())
    assert whole.member_KN[1:].sum(1).tolist() == [10] * 6
    assert whole.nonmember_KN[1:].sum(1).tolist() == [10] * 6
    assert len({tuple(row.tolist()) for row in whole.member_KN[1:]}) == 6
    assert whole.block_K.tolist() == list(range(7))
    assert whole.remarks == ()
    fewer = target_rows(Disjoint(train_size=10)).with_synthetic(50, num_shadows=2, seed=3)
    assert torch.equal(fewer.member_KN, whole.member_KN[:3])


def test_too_few_synthetic_records_make_smaller_shadow_models_and_it_is_said() -> None:
    whole = target_rows(Disjoint(train_size=10)).with_synthetic(15, num_shadows=2, seed=3)
    assert whole.member_KN[1:].sum(1).tolist() == [7, 7]
    (remark,) = whole.remarks
    assert "15 records" in remark
    assert "trains on 7" in remark
    with pytest.raises(InputError, match="made 1 record"):
        target_rows(Disjoint(train_size=10)).with_synthetic(1, num_shadows=2, seed=3)


def test_outside_records_are_neither_evidence_nor_for_validation() -> None:
    plan = target_rows(Disjoint(train_size=10, validation=5))
    outside = set(plan.outside_N.nonzero().flatten().tolist())
    evidence = set(plan.scored_KN[0].nonzero().flatten().tolist())
    assert outside | evidence | set(plan.validation_N.tolist()) == set(range(60))
    assert len(outside) + len(evidence) + 5 == 60
    assert not bool(target_rows(Halves()).outside_N.any())


def test_columns_are_the_same_plan_over_fewer_records() -> None:
    whole = target_rows(Disjoint(train_size=10, validation=5)).with_synthetic(50, num_shadows=2, seed=3)
    real, synthetic = whole.columns(slice(0, 60)), whole.columns(slice(60, 110))
    assert torch.equal(torch.cat([real.member_KN, synthetic.member_KN], 1), whole.member_KN)
    assert torch.equal(torch.cat([real.scored_KN, synthetic.scored_KN], 1), whole.scored_KN)
    assert torch.equal(real.validation_N, whole.validation_N)
    assert len(synthetic.validation_N) == 0


def test_what_the_attacker_knows_serves_the_shadow_models_and_is_no_evidence() -> None:
    population = population_of(100)
    apart = Disjoint(train_size=20).fill(population, Wanted(num_targets=1, num_shadows=8, seed=3))
    plan = Disjoint(train_size=20).fill(population, Wanted(num_targets=1, num_shadows=8, seed=3, overlap=0.25))
    assert plan.known_N is not None
    assert torch.equal(plan.member_KN[0], apart.member_KN[0])
    assert int((plan.known_N & apart.member_KN[0]).sum()) == 5
    assert int((plan.known_N & apart.nonmember_KN[0]).sum()) == 5
    assert torch.equal(plan.scored_KN[0], apart.scored_KN[0] & ~plan.known_N)
    used = plan.scored_KN[1:].any(0)
    assert not bool((used & plan.scored_KN[0]).any())
    assert bool((used & plan.known_N).any())
    assert plan.member_KN[1:].sum(1).tolist() == [20] * 8
    again = Disjoint(train_size=20).fill(population, Wanted(num_targets=1, num_shadows=8, seed=3, overlap=0.0))
    assert torch.equal(again.member_KN, apart.member_KN)
    assert again.known_N is None


def test_an_overlap_that_leaves_nothing_to_infer_or_has_no_meaning_is_refused() -> None:
    with pytest.raises(InputError, match=r"`shadow.overlap` is 0.99, which leaves none"):
        Disjoint(train_size=5).fill(population_of(60), Wanted(num_targets=1, num_shadows=2, seed=0, overlap=0.99))
    for plan in (Halves(), Given(member_N=torch.arange(20))):
        with pytest.raises(InputError, match=r"`shadow.overlap` is 0.5, but under membership="):
            plan.fill(population_of(60), Wanted(num_targets=1, num_shadows=2, seed=0, overlap=0.5))
