"""Sums, ranks and medians over the other models, against loops over models and records."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from shadow_cases import ENGINE, evidence, name_of, pairs, two_classes
from torch import Tensor

from mia_lightning.attacks import references
from mia_lightning.attacks.bavaria import Bavaria
from mia_lightning.attacks.calibrated_loss import CalibratedLoss
from mia_lightning.attacks.interface import Attack, DoesNotApplyError, FittedReference, Needs
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.ordered import Ordered
from mia_lightning.attacks.references import Moments, Others, check_references, finite, left_out_threshold
from mia_lightning.seeds import generator
from mia_lightning.tasks import Regression
from mia_lightning.training.signals import Signals

BLOCKS = torch.tensor([7, 3, 3, 5, 9, 9, 5, 9])


def case(seed: int, num_records: int = 20) -> tuple[Tensor, Tensor]:
    random = generator(seed, "values")
    value_KN = torch.randn(8, num_records, generator=random, dtype=torch.float64)
    return (2 * value_KN).round() / 2, torch.rand(8, num_records, generator=random) < 0.5  # with ties


def served(row: int | None) -> list[int]:
    return [k for k in range(8) if row is None or BLOCKS[k] != BLOCKS[row]]


def others_of(rows: list[int] | None) -> Others:
    shadows = evidence(two_classes(torch.zeros(8, 1)), torch.zeros(8, 1, dtype=torch.bool), block_K=BLOCKS)
    return Others.of(shadows, None if rows is None else torch.tensor(rows))


@pytest.mark.parametrize("rows", [None, [0, 1, 2, 3, 4, 5, 6, 7], [4], [6, 0]])
def test_moments_equal_loops_over_the_models_that_are_left(rows: list[int] | None) -> None:
    value_KN, side_KN = case(0)
    moments = Moments.of(value_KN, side_KN, others_of(rows))
    for t, row in enumerate([None] if rows is None else rows):
        for n in range(20):
            left = [float(value_KN[k, n]) for k in served(row) if side_KN[k, n]]
            assert moments.count[t, n] == len(left)
            if left:
                assert float(moments.mean[t, n]) == pytest.approx(statistics.fmean(left), abs=1e-12)
                squared = sum((value - statistics.fmean(left)) ** 2 for value in left)
                assert float(moments.deviation[t, n]) == pytest.approx(squared, abs=1e-12)
    assert not bool(moments.mean.isnan().any())


def test_moments_keep_axes_between_models_and_records() -> None:
    (first_KN, side_KN), (second_KN, _) = case(0), case(1)
    others = others_of([3, 7])
    together = Moments.of(torch.stack([first_KN, second_KN], dim=1), side_KN.unsqueeze(1), others)
    for a, value_KN in enumerate((first_KN, second_KN)):
        torch.testing.assert_close(together.mean[:, a], Moments.of(value_KN, side_KN, others).mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [None, [0, 1, 2, 3, 4, 5, 6, 7], [5, 1]])
def test_medians_and_places_equal_loops_over_the_models_that_are_left(rows: list[int] | None) -> None:
    value_KN, side_KN = case(2, num_records=60)
    ordered = Ordered.of(value_KN, side_KN, others_of(rows))
    targets = [None] if rows is None else rows
    value_TN = case(3, num_records=60)[0][: len(targets)] if rows is None else value_KN[rows]
    median_TN, place_TN = ordered.median(), ordered.place_of(value_TN)
    empty = 0
    for t, row in enumerate(targets):
        for n in range(60):
            left = [float(value_KN[k, n]) for k in served(row) if side_KN[k, n]]
            assert ordered.left_NT[n, t] == len(left)
            if not left:
                empty += 1
                assert median_TN[t, n] == place_TN[t, n] == 0.0
                continue
            assert float(median_TN[t, n]) == statistics.median(left)
            value = float(value_TN[t, n])
            falling = sorted(-other for other in left)  # np.interp takes the last of equal ones
            place = len(left) - 1 - np.interp(-value, falling, range(len(left)))
            assert float(place_TN[t, n]) == pytest.approx(place, abs=1e-12)
    assert rows is None or empty > 0
    part = ordered.columns(slice(5, 9))
    assert torch.equal(part.median(), median_TN[:, 5:9])
    assert torch.equal(part.place_of(value_TN[:, 5:9]), place_TN[:, 5:9])


def test_nothing_is_subtracted_so_that_a_large_block_leaves_no_rounding_behind() -> None:
    """One model gives a record probability 1, all others 1e-30: what is left of the sum is of their size."""
    p_K = torch.full((8, 1), 1e-30, dtype=torch.float64)
    p_K[3] = 1.0
    (rest,) = others_of([3]).sum(p_K).flatten().tolist()
    assert rest == pytest.approx(6e-30, rel=1e-12, abs=0)
    assert float(p_K.sum() - p_K[3] - p_K[6]) != pytest.approx(6e-30, rel=0.5, abs=0)


@pytest.mark.parametrize("attack", [CalibratedLoss(), Lira(), Lira(online=False), Lira(variance="record"),
                                    Lira(variance="fixed", published=True), Bavaria()], ids=name_of)  # fmt: skip
def test_a_model_that_went_astray_leaves_nothing_behind_where_its_block_is_left_out(attack: Attack) -> None:
    """One of eight models predicts numbers that are 1e12 times as large; its mate is compared with the other six."""
    random = generator(0, "astray")
    member_KN = pairs(8, 24, 0)
    label_N = torch.randn(24, generator=random)
    answer_KN = label_N + (1 - 0.5 * member_KN.float()) * torch.randn(8, 24, generator=random)
    answer_KN[0] *= 1e12
    shadows = evidence(
        Signals(log_probability_KANC=answer_KN[:, None, :, None], task=Regression()), member_KN, label_N=label_N
    )
    fitted = attack.fit(shadows, ENGINE)
    assert isinstance(fitted, FittedReference)
    alone = attack.fit(shadows.select(shadows.block_K != 0), ENGINE)
    own = shadows.signals.select(torch.arange(8) == 1)
    torch.testing.assert_close(
        fitted.score_left_out(shadows, torch.tensor([1])), alone.score(own, label_N), rtol=1e-6, atol=1e-6
    )


def test_slices_cover_all_records_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_SLICE_NUMBERS", 30)
    covered = [n for columns in references.record_slices(8, 20) for n in range(20)[columns]]
    assert covered == list(range(20))
    assert next(references.record_slices(8, 20)) == slice(0, 3)
    assert list(references.record_slices(100, 2)) == [slice(0, 1), slice(1, 2)]


def test_infinite_values_become_the_ends_of_float32() -> None:
    value = finite(torch.tensor([-torch.inf, 0.0, torch.inf], dtype=torch.float64))
    assert value.isfinite().all()
    assert value[0] < value[1] == 0.0 < value[2]


def test_records_without_the_models_that_an_attack_needs_are_counted_and_the_mend_is_named() -> None:
    member_KN = pairs(4, 10, 0)
    shadows = evidence(two_classes(torch.zeros(4, 10)), member_KN, plan_name="given")
    check_references(shadows, Needs(out_models=2, in_models=2), "some")
    with pytest.raises(DoesNotApplyError, match=r"at least 3 shadow models that did not train on it.* 10 of the 10 .*"):
        check_references(shadows, Needs(out_models=3), "some")
    with pytest.raises(
        DoesNotApplyError, match=r"attack=some .*membership=given.* 4 shadow models; raise `shadow.count`"
    ):
        check_references(shadows, Needs(out_models=3), "some")
    with pytest.raises(DoesNotApplyError, match=r"that trained on it.* raise `shadow.count`\.$"):
        check_references(shadows, Needs(in_models=3), "some", offline="other")
    for plan, mend in (("disjoint", "membership=halves"), ("given", "membership.shadow_source=same")):
        without = replace(shadows, member_KN=torch.zeros_like(member_KN), plan_name=plan)
        with pytest.raises(DoesNotApplyError, match=rf"that trained on it.* use {mend}, or attack=other"):
            check_references(without, Needs(in_models=3), "some", offline="other")
    shadows.target_scored_N[2:] = False
    with pytest.raises(DoesNotApplyError, match="2 of the 2 records"):
        check_references(shadows, Needs(out_models=3), "some")
    with pytest.raises(DoesNotApplyError, match=r"`membership.population`"):
        check_references(shadows, Needs(population=True), "some")


def test_the_threshold_leaves_out_what_was_not_scored_or_has_nothing_to_compare_with() -> None:
    shadows = evidence(two_classes(torch.zeros(2, 4)), torch.tensor([[True, True, False, False]] * 2))
    score_KN = torch.tensor([[3.0, 9.0, 1.0, 2.0], [-torch.inf] * 4], dtype=torch.float64)
    shadows.scored_KN[0, 1] = False
    assert left_out_threshold(score_KN, shadows, "some") == 3.0
    score_KN[0, 0] = -torch.inf  # the last member
    with pytest.raises(DoesNotApplyError, match=r"attack=some .*too few are left .*raise `shadow.count`"):
        left_out_threshold(score_KN, shadows, "some")
    with pytest.raises(DoesNotApplyError, match="too few are left"):
        left_out_threshold(torch.full((2, 4), -torch.inf), shadows, "some")
