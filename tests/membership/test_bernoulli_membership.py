"""The plan `bernoulli`: canaries in or out by independent fair coins, all other records always in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_records import population_of

from mia_lightning.errors import InputError
from mia_lightning.membership import Membership, Wanted
from mia_lightning.membership.bernoulli import Bernoulli


def fill(
    plan: Bernoulli, num_records: int, *, targets: int = 1, shadows: int = 4, seed: int = 0, **asked: object
) -> Membership:
    return plan.fill(population_of(num_records), Wanted(num_targets=targets, num_shadows=shadows, seed=seed, **asked))


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(1, 3), st.integers(0, 5), st.integers(0, 2**31))
def test_only_canaries_are_scored_and_all_others_are_always_in(
    data: st.DataObject, targets: int, shadows: int, seed: int
) -> None:
    num_records = data.draw(st.integers(2, 60))
    canaries = data.draw(st.integers(1, num_records - 1))
    validation = data.draw(st.integers(0, num_records - canaries - 1))
    plan = fill(
        Bernoulli(canaries=canaries, validation=validation), num_records, targets=targets, shadows=shadows, seed=seed
    )
    assert plan.plan_name == "bernoulli"
    assert plan.num_targets == targets
    assert plan.member_KN.shape == plan.scored_KN.shape == (targets + shadows, num_records)
    canary_N = plan.scored_KN[0]
    assert int(canary_N.sum()) == canaries
    assert torch.equal(plan.scored_KN, canary_N.expand_as(plan.scored_KN))
    reserved_N = torch.zeros(num_records, dtype=torch.bool).index_fill(0, plan.validation_N, True)
    assert int(reserved_N.sum()) == validation
    assert not bool((reserved_N & canary_N).any())
    assert not bool(plan.member_KN[:, reserved_N].any())
    others_N = ~canary_N & ~reserved_N
    assert int(others_N.sum()) > 0
    assert bool(plan.member_KN[:, others_N].all())
    assert plan.known_N is not None
    assert torch.equal(plan.known_N, others_N)
    assert not bool(plan.outside_N.any())
    assert torch.equal(plan.nonmember_KN, canary_N & ~plan.member_KN)
    assert plan.block_K.unique().numel() == targets + shadows


def test_the_coins_are_fair_and_independent() -> None:
    """40,000 coins, their pairs in one row, in one column and next to the target's: within 4 standard errors of ½."""
    plan = fill(Bernoulli(canaries=200), 300, targets=1, shadows=199, seed=3)
    coin_KN = plan.member_KN[:, plan.scored_KN[0]]
    assert coin_KN.shape == (200, 200)
    for share, count in (
        (coin_KN, 40_000),
        (coin_KN[:, 1:] == coin_KN[:, :-1], 39_800),
        (coin_KN[1:] == coin_KN[:-1], 39_800),
        (coin_KN[1:] == coin_KN[0], 39_800),
    ):
        assert abs(float(share.double().mean()) - 0.5) < 4 * 0.5 / count**0.5
    # Sizes are binomial, not fixed: a chi-square over 200 rows, within the 99.8 % of its law.
    chi_square = float(((coin_KN.sum(1) - 100.0) ** 2 / 50).sum())
    assert 141 < chi_square < 269


def test_every_record_may_be_a_canary() -> None:
    chosen_SN = torch.stack([fill(Bernoulli(canaries=10), 40, seed=seed).scored_KN[0] for seed in range(400)])
    assert float((chosen_SN.double().mean(0) - 0.25).abs().max()) < 5 * (0.25 * 0.75 / 400) ** 0.5


@pytest.mark.usefixtures("global_generators")
def test_it_is_a_function_of_its_seed_and_more_models_only_add_rows() -> None:
    plan = Bernoulli(canaries=20, validation=4)
    few = fill(plan, 60, targets=1, shadows=3, seed=3)
    torch.manual_seed(123)
    more = fill(plan, 60, targets=2, shadows=8, seed=3)
    assert torch.equal(more.member_KN[0], few.member_KN[0])
    assert torch.equal(more.member_KN[2:5], few.member_KN[1:])
    assert torch.equal(more.validation_N, few.validation_N)
    assert torch.equal(more.scored_KN[0], few.scored_KN[0])
    other = fill(plan, 60, targets=1, shadows=3, seed=4)
    assert not torch.equal(other.scored_KN[0], few.scored_KN[0])


@pytest.mark.parametrize(("canaries", "validation"), [(20, 0), (15, 5), (25, 0)])
def test_some_record_must_be_always_in(canaries: int, validation: int) -> None:
    with pytest.raises(InputError, match=rf"`membership.canaries` is {canaries} .* none of the 20 records of plain"):
        fill(Bernoulli(canaries=canaries, validation=validation), 20)


def test_what_the_plan_cannot_give_is_refused() -> None:
    with pytest.raises(InputError, match=r"`membership.validation` is -1"):
        Bernoulli(validation=-1)
    with pytest.raises(InputError, match="under membership=bernoulli"):
        fill(Bernoulli(canaries=5), 20, overlap=0.5)


def test_all_but_the_canaries_are_in_every_model_whatever_an_attack_wants() -> None:
    plan = fill(Bernoulli(canaries=5), 20, reserve=True)
    assert len(plan.population_N) == 0
    assert int(plan.member_KN.all(0).sum()) >= 15
