"""The noise on answers: its algebra on any answers, its agreement with itself, and what it saves."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mia_lightning.defenses.interface import OutputDefense, TrainingDefense, apply_all
from mia_lightning.defenses.label_keeping_noise import LabelKeepingNoise
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.top_k import TopK
from mia_lightning.seeds import generator


def answers(N: int = 400, C: int = 6, scale: float = 4.0) -> Tensor:
    logits = torch.randn(N, C, generator=generator(0, "memguard", C), dtype=torch.float64) * scale
    return logits.log_softmax(-1).float()


logits = st.lists(st.floats(-200, 200, width=32), min_size=2, max_size=7)


@given(
    logits=logits,
    confidence=st.floats(0.01, 0.99),
    distortion=st.one_of(st.just(0.0), st.floats(1e-6, 2.0)),
)
@settings(max_examples=300, deadline=None)
def test_label_budget_and_simplex_hold_for_any_answer(
    logits: list[float], confidence: float, distortion: float
) -> None:
    before = torch.tensor(logits, dtype=torch.float64).log_softmax(-1).float()
    after = LabelKeepingNoise(confidence=confidence, distortion=distortion).apply(before)
    assert after.shape == before.shape
    assert after.dtype is torch.float32
    assert bool(after.isfinite().all())
    assert int(after.argmax()) == int(before.argmax())
    p, q = before.double().exp(), after.double().exp()
    assert float((q - p).abs().sum()) <= distortion + 1e-5
    assert math.isclose(float(q.sum()), 1.0, abs_tol=1e-5)
    assert float(q.max()) <= float(p.max()) + 1e-6


def test_the_answer_moves_in_a_straight_line_as_far_as_the_budget_lets_it() -> None:
    before = answers()
    p = before.double().exp()
    far, near = (LabelKeepingNoise(distortion=d).apply(before).double().exp() for d in (2.0, 0.1))
    whole = (far - p).abs().sum(-1)
    moved = (near - p).abs().sum(-1)
    torch.testing.assert_close(moved, whole.clamp(max=0.1), atol=1e-5, rtol=0)
    torch.testing.assert_close(near, p + (0.1 / whole).clamp(max=1)[:, None] * (far - p), atol=1e-5, rtol=0)


def test_without_a_budget_nothing_changes() -> None:
    before = answers()
    assert torch.equal(LabelKeepingNoise(distortion=0).apply(before), before)
    even = torch.full((2, 4), 0.25).log()
    assert torch.equal(LabelKeepingNoise().apply(even), even)  # no label could be told from it


def test_tied_largest_probabilities_leave_the_label_of_the_lowest_index() -> None:
    tied = torch.tensor([[0.1, 0.45, 0.45], [0.4, 0.4, 0.2]]).log()
    for distortion in (1e-9, 0.1, 2.0):
        assert LabelKeepingNoise(distortion=distortion).apply(tied).argmax(-1).tolist() == [1, 0]


def test_confidences_of_certain_answers_are_spread_evenly_about_the_given_one() -> None:
    """Of answers that differ in more than a hundredth of a nat; Kolmogorov-Smirnov at a level of 1e-4."""
    before = answers(4000, C=10, scale=1.0)
    before[:, 0] = 12.0
    before = before.log_softmax(-1)
    confidence = LabelKeepingNoise(confidence=0.7, distortion=2.0).apply(before).double().exp()[:, 0]
    assert stats.kstest(confidence.numpy(), stats.uniform(0.4, 0.6).cdf).pvalue > 1e-4
    assert float(confidence.min()) >= 0.4 - 1e-6
    assert abs(np.corrcoef(confidence.numpy(), before[:, 1].numpy())[0, 1]) < 4 / math.sqrt(4000)


def test_asked_again_a_record_gets_the_same_noise_whatever_else_is_asked() -> None:
    before = answers()
    at_once = LabelKeepingNoise().apply(before)
    assert torch.equal(LabelKeepingNoise().apply(before.view(4, 5, 20, 6)).view(400, 6), at_once)
    assert torch.equal(torch.stack([LabelKeepingNoise().apply(row) for row in before]), at_once)
    # Rounding errors of another batch: the noise is another only where they cross a hundredth of a nat.
    shaken = before * (1 + 1e-6 * torch.randn(before.shape, generator=generator(1, "shaken")))
    same = (LabelKeepingNoise().apply(shaken) - at_once).abs().amax(-1) < 1e-3
    assert float(same.double().mean()) > 0.95


def test_answers_that_differ_get_noise_of_their_own() -> None:
    certain = torch.tensor([[0.99, 0.006, 0.004], [0.99, 0.005, 0.005]]).log()
    one, other = LabelKeepingNoise().apply(certain)
    assert float((one - other).abs().max()) > 0.02


def test_members_are_harder_to_tell_where_they_were_more_certain() -> None:
    """Members of confidence about 0.99, non-members of about 0.6, in ten classes."""
    numbers = generator(3, "memguard direction")
    N = 1000
    height = torch.cat([7.0 + torch.randn(N, generator=numbers), 2.5 + 2 * torch.randn(N, generator=numbers)])
    logits = torch.randn(2 * N, 10, generator=numbers)
    logits[:, 0] += height
    before = logits.log_softmax(-1)
    is_member = [1] * N + [0] * N
    plain = roc_auc_score(is_member, before.max(-1).values)
    half, full = (
        roc_auc_score(is_member, LabelKeepingNoise(distortion=d).apply(before).max(-1).values) for d in (0.5, 2.0)
    )
    assert plain > 0.93
    assert half < plain - 0.05
    assert full < half - 0.05


@pytest.mark.parametrize("other", [TopK(k=2), LabelsOnly(), Rounding(digits=1)])
def test_it_can_follow_and_be_followed_by_other_output_defences(other: OutputDefense) -> None:
    before = answers()
    for order in ((other, LabelKeepingNoise()), (LabelKeepingNoise(), other)):
        after = apply_all(order, before)
        label = order[0].apply(before).argmax(-1)
        assert bool(after.isfinite().all())
        top = after.gather(-1, label[:, None])
        assert bool((top >= after.amax(-1, keepdim=True)).all())


def test_answers_that_are_not_numbers_stay_so() -> None:
    broken = answers(3)
    broken[1] = torch.nan
    after = LabelKeepingNoise().apply(broken)
    assert after.isfinite().all(-1).tolist() == [True, False, True]


def test_it_says_what_it_is() -> None:
    assert LabelKeepingNoise().name == "label_keeping_noise"
    assert LabelKeepingNoise(distortion=0.5).describe() == "noise 0.5 towards 0.6"
    assert isinstance(LabelKeepingNoise(), OutputDefense)
    assert not isinstance(LabelKeepingNoise(), TrainingDefense)
    assert not LabelKeepingNoise().is_visible
