"""The loss threshold against slow loops."""

import math

import pytest
import torch
from attack_toys import make_evidence
from sklearn.metrics import roc_auc_score

from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.operating_point import learnt_threshold
from mia_lightning.metrics.roc import auc
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals

K, N, C = 4, 60, 3


def signals_of(seed: int, *, models: int = K, views: int = 2, sharpness: torch.Tensor | None = None) -> Signals:
    logits = torch.randn(models, views, N, C, generator=torch.Generator().manual_seed(seed))
    if sharpness is not None:  # [models, N], added to the logit of the true class
        logits[..., torch.arange(N), label_N()] += sharpness[:, None]
    return Signals(log_probability_KANC=logits.log_softmax(-1))


def label_N() -> torch.Tensor:
    return torch.arange(N) % C


def evidence_of(signals: Signals, seed: int = 0) -> Evidence:
    random = torch.Generator().manual_seed(seed)
    scored_KN = torch.rand(K, N, generator=random) < 0.7
    return make_evidence(
        signals=signals,
        member_KN=scored_KN & (torch.rand(K, N, generator=random) < 0.5),
        scored_KN=scored_KN,
        label_N=label_N(),
        num_classes=C,
    )


def test_scores_and_threshold_equal_a_slow_loop() -> None:
    shadows, targets = evidence_of(signals_of(0)), signals_of(1, models=2)
    fitted = Loss().fit(shadows, Engine(seed=0))

    def minus_loss(signals: Signals, k: int, n: int) -> float:
        views = [float(signals.log_probability_KANC[k, a, n, n % C]) for a in range(2)]
        return sum(views) / len(views)

    score_TN = fitted.score(targets, label_N())
    assert score_TN.dtype == torch.float64
    assert score_TN.tolist() == [[minus_loss(targets, t, n) for n in range(N)] for t in range(2)]
    observed = [
        (minus_loss(shadows.signals, k, n), bool(shadows.member_KN[k, n]))
        for k in range(K)
        for n in range(N)
        if shadows.scored_KN[k, n]
    ]
    score, is_member = zip(*observed, strict=True)
    expected = learnt_threshold(torch.tensor(score, dtype=torch.float64), torch.tensor(is_member))
    assert fitted.threshold == pytest.approx(expected, abs=1e-9)
    assert fitted.remarks == ()


def test_views_are_averaged_in_float64() -> None:
    log_probability_KANC = torch.full((1, 3, 2, 2), math.log(0.5))
    log_probability_KANC[0, :, 0, 1] = torch.tensor([-1.0, -2.0, -6.0])
    fitted = Loss().fit(evidence_of(signals_of(0)), Engine(seed=0))
    score_TN = fitted.score(Signals(log_probability_KANC=log_probability_KANC), torch.tensor([1, 0]))
    assert score_TN.tolist() == [[-3.0, pytest.approx(math.log(0.5))]]


def test_a_memorising_model_is_caught_and_scores_point_towards_members() -> None:
    plain = evidence_of(signals_of(0))
    shadows = make_evidence(
        signals=signals_of(0, sharpness=4.0 * plain.member_KN),
        member_KN=plain.member_KN,
        scored_KN=plain.scored_KN,
        label_N=label_N(),
        num_classes=C,
    )
    is_member_N = torch.arange(N) % 2 == 0
    fitted = Loss().fit(shadows, Engine(seed=0))
    (score_N,) = fitted.score(signals_of(9, models=1, sharpness=4.0 * is_member_N[None]), label_N())
    assert auc(score_N, is_member_N) > 0.9
    assert roc_auc_score(is_member_N.numpy(), score_N.numpy()) > 0.9
    flagged_N = score_N >= fitted.threshold
    assert float(flagged_N[is_member_N].double().mean()) > 0.8
    assert float(flagged_N[~is_member_N].double().mean()) < 0.2


def test_the_threshold_is_learnt_on_shadow_models_alone() -> None:
    """Scoring a target, whatever it does, leaves the operating point where it was."""
    shadows = evidence_of(signals_of(0))
    fitted = Loss().fit(shadows, Engine(seed=0))
    before = fitted.threshold
    for seed in range(3):
        fitted.score(signals_of(seed, models=3, sharpness=torch.full((3, N), 50.0 * seed)), label_N())
        assert fitted.threshold == before
    assert Loss().fit(shadows, Engine(seed=99)).threshold == before


@pytest.mark.usefixtures("global_generators")
def test_records_that_are_not_evidence_change_nothing() -> None:
    shadows = evidence_of(signals_of(0))
    log_probability_KANC = shadows.signals.log_probability_KANC.clone()
    hidden_KAN = (~shadows.scored_KN)[:, None].expand(-1, 2, -1)
    log_probability_KANC[hidden_KAN] = torch.randn(int(hidden_KAN.sum()), C).mul(100).log_softmax(-1)
    other = make_evidence(
        signals=Signals(log_probability_KANC=log_probability_KANC),
        member_KN=shadows.member_KN,
        scored_KN=shadows.scored_KN,
        label_N=label_N(),
        num_classes=C,
    )
    assert Loss().fit(other, Engine(seed=0)).threshold == Loss().fit(shadows, Engine(seed=0)).threshold
    # The whole matrix would give another threshold: the test can tell.
    score_KN = log_probability_KANC.gather(-1, label_N().expand(K, 2, N)[..., None])[..., 0].double().mean(1)
    assert learnt_threshold(score_KN, shadows.member_KN) != Loss().fit(shadows, Engine(seed=0)).threshold


def test_the_order_of_records_does_not_matter() -> None:
    shadows, targets = evidence_of(signals_of(0)), signals_of(1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    shuffled = make_evidence(
        signals=Signals(log_probability_KANC=shadows.signals.log_probability_KANC[:, :, order]),
        member_KN=shadows.member_KN[:, order],
        scored_KN=shadows.scored_KN[:, order],
        label_N=label_N()[order],
        num_classes=C,
    )
    fitted, other = Loss().fit(shadows, Engine(seed=0)), Loss().fit(shuffled, Engine(seed=0))
    assert fitted.threshold == other.threshold
    score_TN = other.score(Signals(log_probability_KANC=targets.log_probability_KANC[:, :, order]), label_N()[order])
    assert torch.equal(score_TN, fitted.score(targets, label_N())[:, order])


def test_the_description_says_what_decides() -> None:
    assert "loss" in Loss().description
    assert "shadow" in Loss().description
    assert Loss().name == "loss"
