"""Named randomness against independent computations."""

import hashlib
import random
from collections.abc import Callable
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mia_lightning.seeds import counter_hash, derive, drawn_since, generator, isolated, states

WORD = 2**64


def splitmix64(state: int) -> int:
    """One output of splitmix64 (Steele, Lea and Flood 2014) in Python's unbounded integers."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def signed(value: int) -> int:
    return value - WORD if value >= WORD // 2 else value


def hash_slowly(key: int, *counters: int) -> int:
    value = splitmix64(key % WORD)
    for counter in counters:
        value = splitmix64(value ^ (counter % WORD))
    return signed(value)


INT64 = st.integers(-(2**63), 2**63 - 1)


def test_the_reference_is_splitmix64() -> None:
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # published test vectors
    assert splitmix64(1234567) == 6457827717110365317


@settings(deadline=None)
@given(INT64, st.lists(INT64, max_size=4))
def test_counter_hash_is_splitmix64_once_per_counter(key: int, counters: list[int]) -> None:
    expected = hash_slowly(key, *counters)
    assert counter_hash(torch.tensor(key), *counters).item() == expected
    assert counter_hash(torch.tensor(key), *map(torch.tensor, counters)).item() == expected


def test_counter_hash_broadcasts_element_by_element() -> None:
    key_K, place_M = torch.tensor([3, -7, 2**62]), torch.arange(5)
    hashed = counter_hash(key_K[:, None], 9, place_M)
    assert hashed.dtype == torch.int64
    assert hashed.tolist() == [[hash_slowly(key, 9, m) for m in range(5)] for key in key_K.tolist()]


def test_every_bit_of_the_counter_hash_is_a_fair_coin() -> None:
    value_N = counter_hash(torch.tensor(5), torch.arange(20_000)).numpy().view(np.uint64)
    share = [float(((value_N >> np.uint64(bit)) & np.uint64(1)).mean()) for bit in range(64)]
    assert max(abs(s - 0.5) for s in share) < 5 * 0.5 / 20_000**0.5
    assert len(np.unique(value_N)) == 20_000


def test_derive_is_the_hash_of_the_typed_names() -> None:
    text = "int:7\x1fstr:shadow\x1fint:3"
    expected = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") // 2
    assert derive(7, "shadow", 3) == expected
    # Pinned: a seed must mean the same draws in every version and on every machine.
    assert derive(0) == 3581690635855307741
    assert derive(0, "membership", "target", "pair", 0) == 3810990571704237944


@settings(deadline=None)
@given(st.lists(st.tuples(INT64, st.lists(st.integers(0, 9) | st.sampled_from("abc"), max_size=3)), max_size=8))
def test_names_that_differ_give_seeds_that_differ(names: list[tuple[int, list[int | str]]]) -> None:
    distinct = {(seed, tuple(parts)) for seed, parts in names}
    values = {derive(seed, *parts) for seed, parts in distinct}
    assert len(values) == len(distinct)
    assert all(0 <= value < 2**63 for value in values)


@pytest.mark.parametrize("other", [(0, "1"), (1, 1), (0, 1, 1), (0,), (0, 11), ("0", 1)])
def test_kinds_and_places_of_names_matter(other: tuple[object, ...]) -> None:
    assert derive(0, 1) != derive(*other)
    assert derive(0, "ab") != derive(0, "a", "b")


def test_generators_are_fresh_named_and_apart_from_the_global_one() -> None:
    before = torch.get_rng_state()
    first, again, other = (torch.rand(5, generator=generator(1, name)) for name in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert generator(1, "a").initial_seed() == derive(1, "a")
    assert torch.equal(torch.get_rng_state(), before)


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.random()), random.random()


@pytest.mark.usefixtures("global_generators")
def test_isolated_seeds_all_global_generators_and_restores_them() -> None:
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    undisturbed = [draw() for _ in range(2)]
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    around = [draw()]
    with isolated(0, "x"):
        first = draw()
    with isolated(0, "x"):
        again = draw()
    with isolated(0, "y"):
        other = draw()
    around.append(draw())
    assert around == undisturbed
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.usefixtures("global_generators")
def test_isolated_restores_after_an_error_too() -> None:
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()

    def fail() -> None:
        with isolated(0, "x"):
            draw()
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]


@pytest.mark.usefixtures("global_generators")
@pytest.mark.parametrize(
    ("whose", "drawing"),
    [("torch", lambda: torch.rand(())), ("numpy", np.random.random), ("Python", random.random), (None, lambda: None)],
)
def test_a_draw_from_a_global_generator_is_noticed(whose: str | None, drawing: Callable[[], object]) -> None:
    before = states()
    drawing()
    assert drawn_since(before) == whose


def test_isolated_contexts_nest() -> None:
    with isolated(0, "outer"):
        undisturbed = draw(), draw()
    with isolated(0, "outer"):
        first = draw()
        with isolated(0, "inner"):
            draw()
        assert (first, draw()) == undisturbed


@pytest.fixture(scope="session")
def drawn_for_a_session() -> tuple[float, float]:
    return float(torch.rand(())), float(np.random.random())


def test_what_a_fixture_of_the_session_draws_depends_on_no_other_test(drawn_for_a_session: tuple[float, float]) -> None:
    seed = crc32(b"tests/test_seeds.py::drawn_for_a_session")
    drawn = torch.rand((), generator=torch.Generator().manual_seed(seed)), np.random.RandomState(seed).random_sample()
    assert drawn_for_a_session == drawn
