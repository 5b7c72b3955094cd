"""The plans `disjoint` and `halves`: who trains on what, and what that gives away."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_records import population_of
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.membership import Disjoint, Given, Halves, Membership, Plan, Wanted
from mia_lightning.metrics.roc import auc


def fill(plan: Plan, num_records: int, *, targets: int = 1, shadows: int = 4, seed: int = 0) -> Membership:
    return plan.fill(population_of(num_records), Wanted(num_targets=targets, num_shadows=shadows, seed=seed))


def given_plan(num_records: int, **settings: object) -> Given:
    """Two thirds of the records are members: a base rate that is not one half."""
    return Given(member_N=torch.arange(num_records) % 3 > 0, **settings)


def records(mask_N: Tensor) -> set[int]:
    return {i for i, inside in enumerate(mask_N.tolist()) if inside}


def assert_sound(plan: Membership, num_records: int, targets: int, shadows: int, validation: int) -> None:
    """What every plan promises."""
    assert plan.member_KN.shape == plan.scored_KN.shape == (targets + shadows, num_records)
    assert plan.member_KN.dtype == plan.scored_KN.dtype == torch.bool
    assert plan.num_targets == targets
    assert plan.member_KN[plan.targets].shape[0] == targets
    assert plan.member_KN[plan.shadows].shape[0] == shadows
    reserved = set(plan.validation_N.tolist())
    assert len(plan.validation_N) == len(reserved) == validation
    assert reserved <= set(range(num_records))
    for member_N, scored_N, nonmember_N in zip(plan.member_KN, plan.scored_KN, plan.nonmember_KN, strict=True):
        assert records(member_N) <= records(scored_N)
        assert records(nonmember_N) == records(scored_N) - records(member_N)
        assert not records(scored_N) & reserved
        assert records(member_N)
        assert records(nonmember_N)
    for rows in (plan.targets, plan.shadows):
        listed = [set(index.tolist()) for index in plan.records_of(rows)]
        assert listed == [records(member_N) for member_N in plan.member_KN[rows]]


# --- disjoint --------------------------------------------------------------------------------------------


@st.composite
def disjoint_sizes(draw: st.DrawFn) -> tuple[int, int | None, int]:
    """Number of records, train_size and validation that the plan accepts."""
    num_records = draw(st.integers(4, 60))
    validation = draw(st.integers(0, num_records - 4))
    largest = (num_records - validation - 2) // 2
    return num_records, draw(st.none() | st.integers(1, largest)), validation


@settings(deadline=None, max_examples=150)
@given(disjoint_sizes(), st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**31))
def test_disjoint_groups_share_no_record_and_are_balanced(
    sizes: tuple[int, int | None, int], targets: int, shadows: int, seed: int
) -> None:
    num_records, train_size, validation = sizes
    plan = fill(
        Disjoint(train_size=train_size, validation=validation), num_records, targets=targets, shadows=shadows, seed=seed
    )
    assert_sound(plan, num_records, targets, shadows, validation)
    available = num_records - validation
    size = available // 4 if train_size is None else train_size
    pool_size = available - 2 * size
    assert plan.member_KN[plan.targets].sum(1).tolist() == [size] * targets
    assert plan.nonmember_KN[plan.targets].sum(1).tolist() == [size] * targets
    shadow_size = size if pool_size >= 2 * size else pool_size // 2
    assert plan.member_KN[plan.shadows].sum(1).tolist() == [shadow_size] * shadows
    assert plan.nonmember_KN[plan.shadows].sum(1).tolist() == [shadow_size] * shadows
    evidence_of_targets = {records(scored_N) == records(plan.scored_KN[0]) for scored_N in plan.scored_KN[plan.targets]}
    assert evidence_of_targets == {True}
    groups = [
        records(plan.member_KN[0]),
        records(plan.nonmember_KN[0]),
        records(plan.scored_KN[plan.shadows].any(0)),
        set(plan.validation_N.tolist()),
    ]
    assert all(not one & other for one, other in combinations(groups, 2))
    assert plan.block_K.unique().numel() == targets + shadows  # no model gives another away
    assert bool(plan.remarks) == (shadow_size < size)


def test_disjoint_has_the_sizes_of_the_location_experiment() -> None:
    plan = fill(Disjoint(train_size=1200), 5010, shadows=3)
    assert plan.member_KN.sum(1).tolist() == [1200] * 4
    assert plan.nonmember_KN.sum(1).tolist() == [1200] * 4
    assert plan.remarks == ()
    pool_N = ~plan.scored_KN[0]
    assert int(pool_N.sum()) == 2610
    assert not bool((plan.scored_KN[1:] & ~pool_N).any())


def test_disjoint_shadows_take_half_of_a_pool_that_is_too_small_and_say_so_once() -> None:
    plan = fill(Disjoint(train_size=150), 501, shadows=3)  # leaves 201 for the pool
    assert plan.member_KN.sum(1).tolist() == [150, 100, 100, 100]
    assert plan.nonmember_KN.sum(1).tolist() == [150, 100, 100, 100]
    (remark,) = plan.remarks
    assert "201 records" in remark
    assert "trains on 100" in remark
    suggested = int(remark.split("`dataset.train_size` to ")[1].split()[0])
    assert fill(Disjoint(train_size=suggested), 501).remarks == ()
    assert fill(Disjoint(train_size=suggested + 1), 501).remarks != ()


def test_disjoint_targets_draw_their_own_members_from_one_evidence() -> None:
    plan = fill(Disjoint(train_size=20), 100, targets=3)
    for one, other in combinations(plan.member_KN[:3], 2):
        assert not torch.equal(one, other)
    assert torch.equal(plan.scored_KN[0], plan.scored_KN[2])


@pytest.mark.parametrize(
    ("settings", "num_records", "words"),
    [
        ({"train_size": 10}, 20, ["`dataset.train_size` is 10", "the 20 records of plain", "at most 9"]),
        ({"train_size": 10, "validation": 5}, 24, ["`dataset.train_size` is 10", "of which 5", "at most 8"]),
        ({}, 3, ["3 of the 3 records of plain", "at least 4"]),
        ({"validation": 18}, 20, ["`membership.validation` is 18", "leaves 2 of the 20", "at least 4"]),
        ({"validation": 30}, 20, ["`membership.validation` is 30", "leaves 0 of the 20"]),
    ],
)
def test_disjoint_refuses_sizes_that_the_population_cannot_give(
    settings: dict[str, int], num_records: int, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        fill(Disjoint(**settings), num_records)
    for word in words:
        assert word in str(caught.value)


def test_the_largest_size_that_a_refusal_names_is_accepted() -> None:
    plan = fill(Disjoint(train_size=8, validation=5), 24)
    assert plan.member_KN.sum(1).tolist() == [8, 1, 1, 1, 1]


# --- halves ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(
    st.integers(2, 50).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 2))),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_halves_are_complementary_pairs(sizes: tuple[int, int], targets: int, num_pairs: int, seed: int) -> None:
    num_records, validation = sizes
    plan = fill(Halves(validation=validation), num_records, targets=targets, shadows=2 * num_pairs, seed=seed)
    assert_sound(plan, num_records, targets, 2 * num_pairs, validation)
    evidence_N = torch.ones(num_records, dtype=torch.bool)
    evidence_N[plan.validation_N] = False
    count = num_records - validation
    assert all(torch.equal(scored_N, evidence_N) for scored_N in plan.scored_KN)
    assert plan.member_KN[plan.targets].sum(1).tolist() == [count // 2] * targets
    shadow_KN = plan.member_KN[plan.shadows]
    assert torch.equal(shadow_KN[0::2], evidence_N & ~shadow_KN[1::2])
    assert shadow_KN[0::2].sum(1).tolist() == [count // 2] * num_pairs
    assert shadow_KN[1::2].sum(1).tolist() == [count - count // 2] * num_pairs
    # Every record is in exactly half of the shadows, and in none if it is reserved.
    assert torch.equal(shadow_KN.sum(0), evidence_N * num_pairs)
    block = plan.block_K.tolist()
    assert len(set(block[:targets])) == targets
    assert not set(block[:targets]) & set(block[targets:])
    assert [block.count(b) for b in block[targets:]] == [2] * (2 * num_pairs)
    assert block[targets::2] == block[targets + 1 :: 2]


@pytest.mark.parametrize("shadows", [1, 7])
def test_an_odd_number_of_shadows_has_no_pairs(shadows: int) -> None:
    with pytest.raises(InputError, match=rf"`shadow.count` is {shadows}, but membership=halves .* give an even number"):
        fill(Halves(), 20, shadows=shadows)
    with pytest.raises(InputError, match=rf"`shadow.count` is {shadows}, but membership=given .* give an even number"):
        fill(given_plan(20), 20, shadows=shadows)


@pytest.mark.parametrize(("validation", "left"), [(19, 1), (20, 0), (35, 0)])
def test_halves_refuse_too_many_validation_records(validation: int, left: int) -> None:
    with pytest.raises(InputError, match=rf"`membership.validation` is {validation}, which leaves {left} of the 20"):
        fill(Halves(validation=validation), 20)


# --- both, and `given`: what a plan may depend on --------------------------------------------------------

PLANS = [
    pytest.param(Disjoint(train_size=12, validation=4), id="disjoint"),
    pytest.param(Halves(validation=4), id="halves"),
    pytest.param(given_plan(60, validation=4), id="given"),
]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.usefixtures("global_generators")
def test_a_plan_is_a_function_of_its_seed(plan: Plan) -> None:
    first = fill(plan, 60, shadows=6, seed=3)
    torch.manual_seed(123)
    again, other = fill(plan, 60, shadows=6, seed=3), fill(plan, 60, shadows=6, seed=4)
    assert torch.equal(first.member_KN, again.member_KN)
    assert torch.equal(first.scored_KN, again.scored_KN)
    assert torch.equal(first.validation_N, again.validation_N)
    assert not torch.equal(first.validation_N, other.validation_N)
    for k in range(1, 7):
        assert not torch.equal(first.member_KN[k], other.member_KN[k])
    assert torch.equal(first.member_KN[0], other.member_KN[0]) == isinstance(plan, Given)


@pytest.mark.parametrize("plan", PLANS)
def test_more_shadows_or_targets_only_add_rows(plan: Plan) -> None:
    few = fill(plan, 60, targets=1, shadows=4)
    more_shadows, more_targets = fill(plan, 60, targets=1, shadows=10), fill(plan, 60, targets=3, shadows=4)
    for matrix in ("member_KN", "scored_KN"):
        assert torch.equal(getattr(more_shadows, matrix)[:5], getattr(few, matrix))
        assert torch.equal(getattr(more_targets, matrix)[3:], getattr(few, matrix)[1:])
        assert torch.equal(getattr(more_targets, matrix)[:1], getattr(few, matrix)[:1])
    assert torch.equal(few.validation_N, more_shadows.validation_N)
    assert torch.equal(few.validation_N, more_targets.validation_N)


@pytest.mark.parametrize("plan", PLANS)
def test_models_draw_apart_from_each_other(plan: Plan) -> None:
    """Two rows of equal records, or a target's complement among the shadows, would be one draw used twice."""
    filled = fill(plan, 60, targets=2 - isinstance(plan, Given), shadows=8)
    for (j, one), (k, other) in combinations(enumerate(filled.member_KN), 2):
        assert not torch.equal(one, other)
        if filled.block_K[j] != filled.block_K[k]:
            assert not torch.equal(one, filled.scored_KN[k] & ~other)


@pytest.mark.costly
@pytest.mark.parametrize("plan", [Disjoint(train_size=10), Halves()])
def test_membership_does_not_depend_on_the_order_of_the_records(plan: Plan) -> None:
    """Over 400 seeds every record is a member of the target, and of a shadow, as often as any other."""
    member_SKN = torch.stack([fill(plan, 40, shadows=2, seed=seed).member_KN for seed in range(400)])
    share_N = member_SKN.double().mean(0)
    expected = 0.5 if isinstance(plan, Halves) else 0.25
    assert float((share_N - expected).abs().max()) < 5 * (expected * (1 - expected) / 400) ** 0.5


# --- what the shadows' memberships give away -------------------------------------------------------------


@pytest.mark.parametrize("shadows", [4, 8, 16])
@pytest.mark.parametrize("plan", PLANS)
def test_counting_in_shadows_says_nothing_about_a_target(plan: Plan, shadows: int) -> None:
    filled = fill(plan, 60, targets=1 if isinstance(plan, Given) else 3, shadows=shadows)
    member_KN, scored_KN = filled.member_KN[filled.shadows], filled.scored_KN[filled.shadows]
    num_in_N, num_out_N = member_KN.sum(0), (scored_KN & ~member_KN).sum(0)
    for t in range(filled.num_targets):
        scored_N = filled.scored_KN[t]
        for score_N in (-num_in_N, num_in_N, num_in_N - num_out_N):
            observed = score_N[scored_N].double(), filled.member_KN[t][scored_N]
            assert auc(*observed) == 0.5
            assert roc_auc_score(observed[1].numpy(), observed[0].numpy()) == 0.5


@pytest.mark.parametrize("shadows", [4, 8, 16])
def test_a_complement_among_the_shadows_would_give_the_target_away(shadows: int) -> None:
    """The counter-example: rows of a balanced design, of which one is the target and all others are shadows."""
    design_KN = fill(Halves(), 61, shadows=shadows).member_KN[1:]
    target_N, others_KN = design_KN[0], design_KN[1:]
    assert roc_auc_score(target_N.numpy(), -others_KN.sum(0).numpy()) == 1.0
    # Left out together with its complement, the same target is safe.
    assert roc_auc_score(target_N.numpy(), -others_KN[1:].sum(0).numpy()) == 0.5


@settings(deadline=None, max_examples=50)
@given(disjoint_sizes(), st.integers(0, 2**31))
def test_no_scored_record_is_in_a_disjoint_shadow(sizes: tuple[int, int | None, int], seed: int) -> None:
    num_records, train_size, validation = sizes
    plan = fill(Disjoint(train_size=train_size, validation=validation), num_records, targets=2, shadows=5, seed=seed)
    scored_N = plan.scored_KN[plan.targets].any(0)
    assert not bool(plan.member_KN[plan.shadows][:, scored_N].any())


# --- the matrices guard themselves -----------------------------------------------------------------------


def test_impossible_matrices_are_refused() -> None:
    some = torch.tensor([[True, False]])
    settings = {"plan_name": "own", "num_targets": 1, "block_K": torch.zeros(1, dtype=torch.int64)}
    none = torch.zeros(0, dtype=torch.int64)
    Membership(member_KN=some, scored_KN=some, validation_N=none, **settings)
    with pytest.raises(AssertionError, match="a member that is not scored"):
        Membership(member_KN=some, scored_KN=~some, validation_N=none, **settings)
    with pytest.raises(AssertionError, match="a validation record is evidence"):
        Membership(member_KN=some, scored_KN=some, validation_N=torch.tensor([0]), **settings)
