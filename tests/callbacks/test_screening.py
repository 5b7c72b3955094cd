"""The screening by itself, and what a look says of simulated losses."""

import numpy as np
import pytest
import torch

from mia_lightning.callbacks.look import FEWEST_OF_A_CLASS, look_at, of_classes
from mia_lightning.callbacks.screening import lt_iqr, screening
from mia_lightning.errors import InputError
from mia_lightning.metrics.intervals.areas import auc_interval
from mia_lightning.metrics.intervals.rates import TAIL
from mia_lightning.metrics.roc import roc
from mia_lightning.seeds import generator


def test_a_record_that_is_learnt_late_stands_before_one_that_is_learnt_early_and_one_that_never_is() -> None:
    early = torch.tensor([0.5] + 9 * [0.0])
    late = torch.linspace(3.0, 0.0, 10)
    never = torch.full((10,), 3.0)
    found = screening(torch.stack([early, late, never], 1), torch.tensor([7, 8, 9]), torch.tensor([0, 1, 2]))
    assert found.record_N.tolist() == [8, 7, 9]
    assert found.rows(1) == [{"record": 8, "label": 1, "lt_iqr": pytest.approx(1.5), "final_loss": 0.0}]


def test_a_screening_is_shown_in_a_line() -> None:
    loss_LN = torch.rand(7, 50, generator=generator(0, "losses"))
    found = screening(loss_LN, torch.arange(50), torch.zeros(50, dtype=torch.int64))
    shown = repr(found)
    assert "50 records, 7 looks" in shown
    assert ", ".join(map(str, found.top(5).tolist())) + ", ..." in shown
    assert len(shown) < 120


def test_quartiles_are_those_of_numpy() -> None:
    loss_LN = torch.rand(7, 50, generator=generator(0, "losses"))
    expected = np.subtract(*np.percentile(loss_LN.double().numpy(), [75, 25], axis=0))
    assert lt_iqr(loss_LN).numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("looks", [0, 3])
def test_few_looks_are_refused(looks: int) -> None:
    with pytest.raises(InputError, match=f"has {looks} looks.*monitor.every_n_epochs"):
        screening(torch.zeros(looks, 5), torch.arange(5), torch.zeros(5, dtype=torch.int64))


def test_the_most_exposed_class_is_that_of_the_largest_lower_limit() -> None:
    draws = generator(0, "classes")
    label_N = torch.cat([torch.zeros(400), torch.ones(400), torch.full((12,), 2.0), torch.full((8,), 3.0)]).long()
    is_member_N = torch.arange(len(label_N)) % 2 == 0
    score_N = torch.randn(len(label_N), generator=draws) + is_member_N * (label_N == 1) * 0.8
    score_N = torch.where((label_N == 2) & is_member_N, score_N + 1.2, score_N)  # a larger AUC of few records
    score_N = torch.where((label_N == 3) & is_member_N, score_N + 50, score_N)  # with too few to be compared
    is_correct_N = torch.ones_like(is_member_N)
    found = look_at(of_classes(score_N, is_correct_N, label_N, is_member_N))
    lows, areas = [], []
    for label in range(3):
        curve = roc(score_N[label_N == label], is_member_N[label_N == label])
        lows.append(auc_interval(curve, tail=TAIL / 3).low)
        areas.append(curve.auc)
    assert int(np.argmax(areas)) == 2
    assert found.exposed_class == int(np.argmax(lows)) == 1
    assert (found.exposed_auc, found.exposed_low) == (areas[1], lows[1])
    few = label_N == 3
    assert int((few & is_member_N).sum()) < FEWEST_OF_A_CLASS
    of_few = look_at(of_classes(score_N[few], is_correct_N[few], label_N[few], is_member_N[few]))
    assert (of_few.exposed_class, of_few.exposed_auc) == (None, None)


def test_a_look_at_losses_that_are_not_numbers_has_a_reason_and_no_figures() -> None:
    score_N = torch.tensor([0.0, torch.nan, 0.0, 0.0])
    look = look_at(of_classes(score_N, score_N == 0, torch.zeros(4, dtype=torch.int64), torch.arange(4) < 2))
    assert look.metrics("leakage") == {}
    assert "1 of 4" in look.reason
