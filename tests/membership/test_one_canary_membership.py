"""The plan `one_canary`: one record in or out of each target by a coin, all else the same for all."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_records import population_of

from mia_lightning.datasets.canaries import Canaries
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership import Disjoint, Membership, OneCanary, Wanted


def fill(
    plan: OneCanary, population: Population, *, targets: int = 6, shadows: int = 4, seed: int = 0, **asked: object
) -> Membership:
    return plan.fill(population, Wanted(num_targets=targets, num_shadows=shadows, seed=seed, **asked))


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(1, 5), st.integers(0, 3), st.booleans(), st.integers(0, 2**31))
def test_models_differ_in_the_canary_alone(
    data: st.DataObject, targets: int, pairs: int, wants_population: bool, seed: int
) -> None:
    num_records = data.draw(st.integers(10, 60))
    validation = data.draw(st.integers(0, 3))
    reserved = max(1, num_records // 10) if wants_population else 0
    size = data.draw(st.integers(1, num_records - 2 - validation - reserved))
    plan = fill(
        OneCanary(train_size=size, validation=validation),
        population_of(num_records),
        targets=targets,
        shadows=2 * pairs,
        seed=seed,
        reserve=wants_population,
    )
    assert plan.plan_name == "one_canary"
    assert plan.member_KN.shape == plan.scored_KN.shape == (targets + 2 * pairs, num_records)
    assert plan.num_targets == targets
    assert (len(plan.validation_N), len(plan.population_N)) == (validation, reserved)
    assert plan.known_N is not None
    assert int(plan.known_N.sum()) == size
    canary_N = plan.scored_KN[0]
    assert int(canary_N.sum()) == 1
    assert torch.equal(plan.scored_KN, canary_N.expand_as(plan.scored_KN))
    assert not bool((canary_N & plan.known_N).any())
    others_KN = plan.member_KN[:, ~canary_N]
    assert torch.equal(others_KN, plan.known_N[~canary_N].expand_as(others_KN))
    # Shadow models: complementary pairs, left out together.
    is_in_K = plan.member_KN[plan.shadows][:, canary_N].flatten()
    assert is_in_K.tolist() == [True, False] * pairs
    assert plan.block_K[targets:].tolist() == [targets + j for j in range(pairs) for _ in range(2)]
    assert plan.block_K[:targets].tolist() == list(range(targets))
    # Test accuracy is taken on records that a model never saw, of no other use.
    unseen_KN = plan.unseen_KN
    assert bool(unseen_KN.any(1).all())
    assert not bool((unseen_KN & plan.member_KN).any())
    assert not bool(unseen_KN[:, torch.cat([plan.validation_N, plan.population_N])].any())
    assert torch.equal(unseen_KN[:, canary_N], ~plan.member_KN[:, canary_N])
    assert int(unseen_KN[0, ~canary_N].sum()) == num_records - 1 - size - validation - reserved


def test_other_plans_measure_test_accuracy_on_their_nonmembers() -> None:
    plan = Disjoint(train_size=5).fill(population_of(40), Wanted(num_targets=1, num_shadows=2, seed=0))
    assert torch.equal(plan.unseen_KN, plan.nonmember_KN)


@pytest.mark.usefixtures("global_generators")
def test_the_coins_are_fair_and_independent_of_each_other_and_of_the_number_of_trials() -> None:
    population = population_of(12)
    coin_ST = torch.stack(
        [
            plan.member_KN[:, plan.scored_KN[0]].squeeze(1)
            for plan in (fill(OneCanary(train_size=5), population, targets=200, shadows=0, seed=s) for s in range(50))
        ]
    )
    for share in (coin_ST, coin_ST[:, 1:] == coin_ST[:, :-1], coin_ST[1:] == coin_ST[:-1]):
        assert abs(float(share.double().mean()) - 0.5) < 4 * 0.5 / share.numel() ** 0.5
    few = fill(OneCanary(train_size=5), population, targets=7, shadows=2, seed=3)
    torch.manual_seed(123)
    more = fill(OneCanary(train_size=5), population, targets=20, shadows=6, seed=3)
    assert torch.equal(few.member_KN[:7], more.member_KN[:7])
    assert torch.equal(few.member_KN[7:], more.member_KN[20:22])


def test_the_canary_is_drawn_or_named_or_the_record_of_the_group() -> None:
    population = population_of(30)
    drawn = {int(fill(OneCanary(train_size=5), population, seed=s).scored_KN[0].nonzero()) for s in range(40)}
    assert len(drawn) > 10
    assert bool(fill(OneCanary(train_size=5, record=7), population).scored_KN[:, 7].all())
    mislabelled = Canaries(count=1).apply(population, seed=0)
    assert mislabelled.group_N is not None
    place = int(mislabelled.group_N.nonzero())
    assert bool(fill(OneCanary(train_size=5), mislabelled).scored_KN[:, place].all())
    assert bool(fill(OneCanary(train_size=5, record=place), mislabelled).scored_KN[:, place].all())
    with pytest.raises(InputError, match=rf"`membership.record` is {place - 1}, but the record of the group 'canary'"):
        fill(OneCanary(train_size=5, record=place - 1), mislabelled)
    with pytest.raises(InputError, match=r"`canary.count` is 2, and under membership=one_canary there is one"):
        fill(OneCanary(train_size=5), Canaries(count=2).apply(population, seed=0))


@pytest.mark.parametrize("record", [30, 10**9])
def test_a_place_outside_the_data_is_refused(record: int) -> None:
    with pytest.raises(InputError, match=rf"`membership.record` is {record}; plain has the records 0 to 29"):
        fill(OneCanary(train_size=5, record=record), population_of(30))


@pytest.mark.parametrize(("size", "validation"), [(19, 0), (14, 5), (20, 0)])
def test_a_record_must_be_left_that_is_in_no_model(size: int, validation: int) -> None:
    with pytest.raises(InputError, match=rf"`dataset.train_size` is {size}, but of the 20 records of plain at most"):
        fill(OneCanary(train_size=size, validation=validation), population_of(20))


def test_half_of_the_records_are_in_every_model_unless_told_otherwise() -> None:
    plan = fill(OneCanary(), population_of(30))
    assert plan.known_N is not None
    assert int(plan.known_N.sum()) == 15


def test_what_the_plan_cannot_give_is_refused() -> None:
    with pytest.raises(InputError, match=r"`shadow.count` is 3, but membership=one_canary trains complementary pairs"):
        fill(OneCanary(train_size=5), population_of(20), shadows=3)
    with pytest.raises(InputError, match="under membership=one_canary"):
        fill(OneCanary(train_size=5), population_of(20), overlap=0.5)
    with pytest.raises(InputError, match=r"`dataset.train_size` is 0"):
        OneCanary(train_size=0)
