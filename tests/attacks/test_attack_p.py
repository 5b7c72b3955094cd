"""Attack-P against a slow loop, and its operating point, which is known in advance."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from attack_toys import cpu_engine, in_order, make_evidence, memorising, reordered, scores_of
from torch import Tensor

from mia_lightning.attacks.attack_p import AttackP
from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, Needs
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.metrics.roc import auc
from mia_lightning.training.signals import Signals


def rounded(signals: Signals) -> Signals:
    """With many ties, within the population and with it."""
    return Signals(log_probability_KANC=(2 * signals.log_probability_KANC).round() / 2)


def losses(signals: Signals, label_N: Tensor, t: int) -> list[float]:
    return [-float(signals.log_probability_KANC[t, 0, n, int(label_N[n])]) for n in range(len(label_N))]


@pytest.mark.costly
@pytest.mark.parametrize("alpha", [0.1, 0.29, 0.5])
@pytest.mark.parametrize("ties", [False, True])
def test_scores_and_flags_equal_a_slow_loop(ties: bool, alpha: float) -> None:
    shadows, _, _ = memorising(records=495, excess=1.0)  # a population of 99, with the ends 100 intervals
    targets = rounded(shadows.signals) if ties else shadows.signals
    fitted = AttackP(alpha=alpha).fit(shadows, cpu_engine())
    score_TN = fitted.score(targets, shadows.label_N)
    assert score_TN.shape == (4, 495)
    for t in range(4):
        loss = losses(targets, shadows.label_N, t)
        known = [loss[n] for n in range(495) if shadows.population_N[n]]
        assert len(known) == 99
        ordered = sorted([0.0, *known, 1000.0])
        quantile = np.interp(loss, ordered, np.linspace(0, 1, 101))
        assert score_TN[t].tolist() == pytest.approx(-quantile, abs=1e-12)
        # Flagged: no more of the population's losses are as small than the rate says.
        at_most = [sum(each <= loss[n] for each in known) for n in range(495)]
        flagged = (score_TN[t] >= fitted.threshold).tolist()
        assert not any(
            is_flagged and count > round(alpha * 100) for is_flagged, count in zip(flagged, at_most, strict=True)
        )
        assert all(
            is_flagged for is_flagged, count in zip(flagged, at_most, strict=True) if count < round(alpha * 100) - 1
        )
        # The published code flags losses below the quantile; at the quantile itself this one does, too.
        threshold = np.quantile([*known, 0.0, 1000.0], alpha, method="linear")
        if not ties:
            assert flagged == [each <= threshold + 1e-12 for each in loss]


def test_records_are_ranked_as_by_their_loss() -> None:
    shadows, target, _ = memorising(records=500, excess=1.0)
    (score_N,) = AttackP().fit(shadows, cpu_engine()).score(target, shadows.label_N)
    expected = -torch.tensor(losses(target, shadows.label_N, 0))
    assert torch.equal(score_N.unique(return_inverse=True)[1], expected.unique(return_inverse=True)[1])


def test_nonmembers_are_flagged_at_the_stated_rate() -> None:
    """Over fresh populations the mean rate is alpha where it is a whole number of P + 1, whatever the distribution."""
    rates = []
    for seed in range(40):
        shadows, target, member_N = memorising(records=1495, seed=seed, excess=3.0)
        _, flagged_N = scores_of(AttackP(alpha=0.05), shadows, target)
        outside_N = ~member_N & ~shadows.population_N
        rates.append(float(flagged_N[outside_N].double().mean()))
    rate, error = torch.tensor(rates).mean(), torch.tensor(rates).std() / 40**0.5
    assert abs(float(rate) - 0.05) < 4 * float(error)


def test_ties_never_flag_more_than_the_stated_share_of_the_population() -> None:
    """Where only labels are shown, all correct records tie: flagging them would flag nearly everything."""
    shadows, target, _ = memorising(records=500, excess=3.0)
    labels = Signals(log_probability_KANC=LabelsOnly().apply(target.log_probability_KANC))
    score_N, flagged_N = scores_of(AttackP(alpha=0.4), shadows, labels)
    assert score_N.unique().numel() == 2
    # About a third of the population is correct: mid-ranks of a sixth would pass a rate of 0.2 unnoticed.
    assert bool(flagged_N.any())
    _, flagged_N = scores_of(AttackP(alpha=0.2), shadows, labels)
    assert not bool(flagged_N.any())


def test_a_memorising_model_is_caught() -> None:
    shadows, target, member_N = memorising(records=600, excess=12.0)
    score_N, flagged_N = scores_of(AttackP(), shadows, target)
    scored_N = ~shadows.population_N
    assert auc(score_N[scored_N], member_N[scored_N]) > 0.9
    assert float(flagged_N[member_N].double().mean()) > 0.8


def test_one_target_is_ranked_as_by_its_loss() -> None:
    release = oracles.simulate_gaussian_release(40_000, 0)
    population_N = torch.arange(40_000) % 2 == 0
    member_N = release.member_KN[0] & ~population_N
    signal_N = release.score_KN[0] - release.shift_N * (release.member_KN[0] & population_N)  # of nobody's members
    log_probability_NC = torch.stack([signal_N, torch.zeros_like(signal_N)], dim=1).log_softmax(1).float()
    shadows = make_evidence(
        signals=Signals(log_probability_KANC=log_probability_NC[None, None]),
        member_KN=member_N[None],
        scored_KN=~population_N[None],
        label_N=release.label_N,
        num_classes=2,
        population_N=population_N,
    )
    score_N, _ = scores_of(AttackP(), shadows, shadows.signals)
    scored_N = ~population_N
    error = oracles.auc_standard_error(score_N[scored_N], member_N[scored_N])
    assert abs(auc(score_N[scored_N], member_N[scored_N]) - oracles.auc_of_raw_signal()) < 4 * error


def test_the_order_of_records_does_not_matter_and_shadow_models_are_not_looked_at() -> None:
    shadows, target, _ = memorising(records=80, excess=1.0)
    score_N, _ = scores_of(AttackP(), shadows, target)
    order_N = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        scores_of(AttackP(), reordered(shadows, order_N), in_order(target, order_N))[0], score_N[order_N]
    )
    nothing = shadows.select(torch.zeros(4, dtype=torch.bool))
    assert torch.equal(scores_of(AttackP(), nothing, target)[0], score_N)


def test_synthetic_records_behind_the_targets_are_no_population() -> None:
    shadows, target, _ = memorising(records=80, excess=1.0)
    score_N, _ = scores_of(AttackP(), shadows, target)
    longer = replace(shadows, population_N=torch.cat([shadows.population_N, torch.zeros(9, dtype=torch.bool)]))
    assert torch.equal(AttackP().fit(longer, cpu_engine()).score(target, shadows.label_N)[0], score_N)


def without_population(shadows: Evidence) -> Evidence:
    return replace(shadows, population_N=torch.zeros_like(shadows.population_N))


def test_without_a_population_it_does_not_apply() -> None:
    shadows, _, _ = memorising(records=30)
    assert AttackP().needs == Needs(shadows=False, population=True)
    with pytest.raises(DoesNotApplyError, match=r"attack=attack_p .* `membership\.population`"):
        AttackP().fit(without_population(shadows), cpu_engine())


def test_a_population_too_small_for_alpha_is_said() -> None:
    shadows, target, _ = memorising(records=80, excess=1.0)
    fitted = AttackP(alpha=0.01).fit(shadows, cpu_engine())
    assert "16 population records are too few" in fitted.remarks[0]
    assert fitted.threshold == -0.01
    loss = losses(target, shadows.label_N, 0)
    lowest = min(loss[n] for n in range(80) if shadows.population_N[n])
    flagged_N = fitted.score(target, shadows.label_N)[0] >= fitted.threshold
    assert flagged_N.tolist() == [each <= 0.17 * lowest for each in loss]
    assert AttackP().fit(shadows, cpu_engine()).remarks == ()


def test_the_description_says_the_rate() -> None:
    assert "0.05" in AttackP(alpha=0.05).description
