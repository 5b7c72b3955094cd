"""Algorithm 1 of Shokri et al. (2017), thousands of chains at once, against one chain at a time in plain Python."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import counter_hash, derive
from mia_lightning.shadows.domain import Domain
from mia_lightning.shadows.interface import Synthesis
from mia_lightning.shadows.model_based import ModelBased


class LinearBox:
    """A softmax of whole-numbered weights: the same answer, to the bit, in every batch."""

    num_classes = 3

    def __init__(self, num_features: int, *, never: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight_FC = torch.randint(-2, 3, (num_features, 3), generator=generator).double()
        self.never = never
        self.num_queries = 0

    def predict(self, x_B: Tensor) -> Tensor:
        self.num_queries += len(x_B)
        logits_BC = x_B.flatten(1).double() @ self.weight_FC / 4
        if self.never is not None:
            logits_BC[:, self.never] = -100
        return logits_BC.softmax(1).float()


def form(low: list[float], high: list[float], dtype: torch.dtype = torch.uint8) -> Population:
    x_N = torch.tensor([low, high]).to(dtype)
    return Population(name="form", x_N=x_N, label_N=torch.tensor([0, 1]), class_names=("a", "b", "c"))


BITS = form([0] * 20, [1] * 20)
SETTINGS = ModelBased(records_per_class=12, k_max=8, k_min=2, conf_min=0.8, rej_max=3, iter_max=20, rounds=1)


def one_chain(
    settings: ModelBased, domain: Domain, box: LinearBox, key: int, wanted: int
) -> tuple[list[int] | None, int]:
    """Algorithm 1, line by line, with the draws of the chain of this key."""

    def draw(*counters: int) -> int:
        return int(counter_hash(torch.tensor(key), *counters))

    def value(iteration: int, feature: int) -> int:
        low, high = int(domain.low_F[feature]), int(domain.high_F[feature])
        return low + (draw(iteration, -1, feature) & (2**63 - 1)) % (high - low + 1)

    F = domain.num_features
    x = [value(0, f) for f in range(F)]
    accepted, best, rejected, k = list(x), 0.0, 0, min(settings.k_max, F)
    for iteration in range(settings.iter_max):
        answer = box.predict(torch.tensor([x]))[0].double().tolist()
        if answer[wanted] >= best:
            if answer[wanted] > settings.conf_min and answer.index(max(answer)) == wanted:
                uniform = ((draw(iteration, -2) >> 11) & (2**53 - 1)) / 2**53
                if uniform < answer[wanted]:
                    return x, iteration + 1
            accepted, best, rejected = list(x), answer[wanted], 0
        else:
            rejected += 1
            if rejected > settings.rej_max:
                k, rejected = max(min(settings.k_min, F), math.ceil(k / 2)), 0
        x = list(accepted)
        chosen: list[int] = []
        for i, last in enumerate(range(F - k, F)):
            drawn = (draw(iteration + 1, i) & (2**63 - 1)) % (last + 1)
            chosen.append(last if drawn in chosen else drawn)
        assert len(set(chosen)) == k
        for f in chosen:
            x[f] = value(iteration + 1, f)
    return None, settings.iter_max


NUMBERS = form([0] * 15 + [-3] * 5, [1] * 15 + [4] * 5, torch.int16)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("known", "settings"),
    [
        (BITS, SETTINGS),
        (NUMBERS, SETTINGS),
        pytest.param(
            NUMBERS, replace(SETTINGS, k_max=128, k_min=3), marks=pytest.mark.slow
        ),  # more than the 20 features
        pytest.param(BITS, replace(SETTINGS, k_max=40, k_min=30, rej_max=0), marks=pytest.mark.slow),
        (BITS, replace(SETTINGS, k_max=7, k_min=1, rej_max=0)),  # 7, 4, 2, 1
        (BITS, replace(SETTINGS, conf_min=0.01, iter_max=3)),  # the wanted class is often not the predicted one
    ],
)
def test_chains_in_a_batch_are_the_chains_of_the_algorithm(known: Population, settings: ModelBased) -> None:
    synthesis = settings.synthesise(known, LinearBox(20), seed=5)
    box, expected, queries_C = LinearBox(20), [], [0, 0, 0]
    base = torch.tensor(derive(5, "shadow", "model_based"))
    for c in range(3):
        for j in range(12):
            x, queries = one_chain(settings, Domain.of(known), box, int(counter_hash(base, c, j)), c)
            queries_C[c] += queries
            if x is not None and (x, c) not in expected:
                expected.append((x, c))
    assert synthesis.query_C.tolist() == queries_C
    assert synthesis.num_queries == sum(queries_C) == box.num_queries
    assert list(zip(synthesis.x_M.tolist(), synthesis.label_M.tolist(), strict=True)) == expected
    assert 3 < len(expected) < 36  # some chains of the example end with nothing


@pytest.mark.costly
@pytest.mark.parametrize("batch", [1, 7])
def test_the_width_of_the_batch_changes_nothing(batch: int) -> None:
    boxes = LinearBox(20), LinearBox(20)
    one = SETTINGS.synthesise(BITS, boxes[0], seed=5)
    other = replace(SETTINGS, batch=batch).synthesise(BITS, boxes[1], seed=5)
    assert torch.equal(one.x_M, other.x_M)
    assert torch.equal(one.label_M, other.label_M)
    assert torch.equal(one.query_C, other.query_C)
    assert boxes[0].num_queries == boxes[1].num_queries == one.num_queries


def test_every_record_is_classified_as_its_class_with_more_than_the_least_confidence() -> None:
    synthesis = replace(SETTINGS, records_per_class=100, iter_max=300, conf_min=0.6).synthesise(
        BITS, LinearBox(20), seed=1
    )
    answer_MC = LinearBox(20).predict(synthesis.x_M)
    assert torch.equal(answer_MC.argmax(1), synthesis.label_M)
    assert bool((answer_MC.gather(1, synthesis.label_M[:, None]) > 0.6).all())
    assert synthesis.x_M.dtype == torch.uint8
    assert set(synthesis.x_M.unique().tolist()) <= {0, 1}
    assert synthesis.yield_C.tolist() == torch.bincount(synthesis.label_M, minlength=3).tolist()
    assert len(synthesis.x_M.unique(dim=0)) == len(synthesis.x_M)


def test_records_are_emitted_with_the_probability_of_their_confidence() -> None:
    """With one feature, k = 1 and two values a chain is short enough to be counted: its first query decides."""

    class Steady(LinearBox):
        def predict(self, x_B: Tensor) -> Tensor:
            self.num_queries += len(x_B)
            return torch.tensor([0.7, 0.2, 0.1]).expand(len(x_B), 3)

    wide = form([0], [30000], torch.int16)
    settings = ModelBased(records_per_class=4000, k_max=1, k_min=1, conf_min=0.5, iter_max=1, rounds=1)
    synthesis = settings.synthesise(wide, Steady(1), seed=0)
    share = (int(synthesis.yield_C[0]) + 4000 * 4000 / 2 / 30001 * 0.49) / 4000  # but for the duplicates expected
    assert abs(share - 0.7) < 4 * math.sqrt(0.21 / 4000) + 0.005
    assert synthesis.query_C.tolist() == [4000, 4000, 4000]
    assert synthesis.yield_C.tolist()[1:] == [0, 0]


def test_images_keep_their_shape_and_floats_their_range() -> None:
    x_N = torch.tensor([-1.5, 2.5]).view(2, 1, 1, 1).expand(2, 1, 4, 5).clone()
    known = Population(name="f", x_N=x_N, label_N=torch.tensor([0, 1]), class_names=("a", "b", "c"))
    synthesis = replace(SETTINGS, conf_min=0.4).synthesise(known, LinearBox(20), seed=2)
    assert synthesis.x_M.shape[1:] == (1, 4, 5)
    assert float(synthesis.x_M.min()) >= -1.5
    assert float(synthesis.x_M.max()) <= 2.5
    assert len(synthesis.x_M.unique()) > 20


def test_whole_numbers_in_a_table_of_floats_stay_whole() -> None:
    """A table has one type for all columns; what is binary or a count in it is so in the records found, too."""
    x_N = torch.tensor([[0.0, 18, 0.5, 3, 1e30], [1, 21, -0.25, 3, -1e30], [1, 19, 0, 3, 0]])
    known = Population(name="t", x_N=x_N, label_N=torch.tensor([0, 1, 2]), class_names=("a", "b", "c"))

    class Flat(LinearBox):
        def predict(self, x_B: Tensor) -> Tensor:
            self.num_queries += len(x_B)
            return torch.tensor([0.6, 0.2, 0.2]).expand(len(x_B), 3)

    synthesis = replace(SETTINGS, records_per_class=500, conf_min=0.5).synthesise(known, Flat(5), seed=1)
    x_M = synthesis.x_M
    assert x_M.dtype == torch.float32
    assert [sorted(x_M[:, f].unique().tolist()) for f in (0, 1, 3)] == [[0, 1], [18, 19, 20, 21], [3]]
    assert len(x_M[:, 2].unique()) == len(x_M[:, 4].unique()) == len(x_M) == int(synthesis.yield_C[0])
    for f, low, high in ((2, -0.25, 0.5), (4, -1e30, 1e30)):
        assert kstest(x_M[:, f].double().numpy(), "uniform", (low, high - low)).pvalue > 5e-4
    assert abs(float(x_M[:, 0].mean()) - 0.5) < 3.5 * 0.5 / math.sqrt(len(x_M))


def sentences(synthesis: Synthesis) -> str:
    return " ".join(synthesis.remarks)


def test_a_class_that_cannot_be_synthesised_is_named() -> None:
    synthesis = SETTINGS.synthesise(BITS, LinearBox(20, never=2), seed=5)
    assert int(synthesis.yield_C[2]) == 0
    assert int(synthesis.query_C[2]) == 12 * 20
    assert "no record could be synthesised of the classes c." in sentences(synthesis)
    assert f"{len(synthesis.x_M)} of 36 wanted records were found in {synthesis.num_queries} queries" in sentences(
        synthesis
    )


def test_later_rounds_start_as_many_chains_as_are_missing() -> None:
    first = SETTINGS.synthesise(BITS, LinearBox(20, never=2), seed=5)
    assert "fewer than 12 records were found of the classes" in sentences(first)
    more = replace(SETTINGS, rounds=3).synthesise(BITS, LinearBox(20, never=2), seed=5)
    assert int(more.query_C[2]) == 3 * 12 * 20
    assert bool((more.yield_C >= first.yield_C).all())
    assert int(more.yield_C.max()) <= 12
    assert set(map(tuple, first.x_M.tolist())) <= set(map(tuple, more.x_M.tolist()))


def test_nothing_for_any_class_stops_with_what_was_tried() -> None:
    settings = replace(SETTINGS, conf_min=0.9999)
    with pytest.raises(InputError, match=r"no record of any class in 36 chains and 720 queries .*conf_min 0.9999"):
        settings.synthesise(BITS, LinearBox(20), seed=5)


def test_another_seed_finds_other_records() -> None:
    one, other = (SETTINGS.synthesise(BITS, LinearBox(20), seed=seed) for seed in (1, 2))
    assert one.x_M.tolist() != other.x_M.tolist()


def test_duplicates_are_left_out_and_counted() -> None:
    synthesis = replace(SETTINGS, records_per_class=40, conf_min=0.1, k_max=3).synthesise(
        form([0] * 3, [1] * 3), LinearBox(3), seed=1
    )
    assert len(synthesis.x_M) <= 8
    assert "were exact duplicates of others" in sentences(synthesis)


def test_a_least_k_above_the_largest_is_refused() -> None:
    with pytest.raises(InputError, match=r"`shadow.k_min` is 9, more than `shadow.k_max` 8"):
        ModelBased(k_min=9, k_max=8)
