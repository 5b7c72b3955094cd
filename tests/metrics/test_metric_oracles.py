"""The figures against closed forms, within four Monte-Carlo standard errors at fixed seeds."""

import oracles
import pytest
import torch

from mia_lightning.metrics.leakage import attack_figures
from mia_lightning.metrics.roc import auc, tpr_at_fpr
from mia_lightning.metrics.target_accuracy import accuracy_by_membership

N = 40_000


def assert_meets(score_N, is_member_N, *, area, tpr, alphas=(0.01, 0.001)):
    """AUC and TPR at each FPR lie within four standard errors of `area` and `tpr(alpha)`."""
    error = oracles.auc_standard_error(score_N, is_member_N)
    assert abs(auc(score_N, is_member_N) - area) < 4 * error
    n1 = int(is_member_N.sum())
    for alpha in alphas:
        error = oracles.tpr_standard_error(tpr, alpha, n1, len(score_N) - n1)
        assert abs(tpr_at_fpr(score_N, is_member_N, max_fpr=alpha).tpr - tpr(alpha)) < 4 * error


def test_closed_forms_have_their_published_values():
    assert oracles.auc_of_group_means(2) == pytest.approx(2 / 3, abs=1e-15)
    assert oracles.tpr_of_group_means(2, 0.01) == pytest.approx(0.01732, abs=5e-6)
    assert oracles.auc_of_gaussian_optimum() == pytest.approx(0.9095, abs=5e-5)
    assert oracles.tpr_of_gaussian_optimum(0.01) == pytest.approx(0.480, abs=5e-4)
    assert oracles.tpr_of_gaussian_optimum(0.001) == pytest.approx(0.339, abs=5e-4)
    assert oracles.auc_of_offline_limit() == pytest.approx(0.852, abs=5e-4)
    assert oracles.tpr_of_offline_limit(0.01) == pytest.approx(0.453, abs=5e-4)
    assert oracles.tpr_of_offline_limit(0.001) == pytest.approx(0.320, abs=5e-4)
    assert oracles.auc_of_raw_signal() == pytest.approx(0.732, abs=5e-4)


@pytest.mark.costly
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("g", [2, 3, 10])
def test_least_squares_on_group_means(g, seed):
    simulation = oracles.simulate_group_means(g, N, seed)
    score_N, is_member_N = simulation.score_KN[0], simulation.member_KN[0]

    def tpr(alpha):
        return oracles.tpr_of_group_means(g, alpha)

    assert_meets(score_N, is_member_N, area=oracles.auc_of_group_means(g), tpr=tpr)
    # Any threshold on the loss ranks the records alike.
    assert auc(simulation.true_log_probability_KN[0], is_member_N) == auc(score_N, is_member_N)


@pytest.mark.costly
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_classes", [2, 10])
def test_memorising_nearest_neighbour(num_classes, seed):
    simulation, _ = oracles.simulate_memorising(num_classes, 4000, seed)
    score_N, is_member_N = simulation.score_KN[0], simulation.member_KN[0]
    figures = attack_figures(score_N, score_N > 0.5, is_member_N, max_fprs=(0.01, 0.04))
    false_rate = 1 / num_classes
    error = (false_rate * (1 - false_rate) / 2000) ** 0.5
    assert abs(figures.auc.value - oracles.auc_of_memorising(num_classes)) < 4 * error / 2
    assert figures.recall.value == 1.0
    assert [figure.value for figure in figures.tpr_at_fpr.values()] == [0.0, 0.0]
    expected = oracles.precision_of_memorising(num_classes, prior=0.5)
    assert abs(figures.precision.value - expected) < 4 * error  # |d precision / d FPR| = precision² < 1
    target = accuracy_by_membership(
        simulation.log_probability_KNC[0], simulation.label_N, is_member_N, ~is_member_N, num_classes
    )
    assert target.train_accuracy == 1.0
    assert abs(target.generalization_gap - oracles.gap_of_memorising(num_classes)) < 4 * error
    # The advantage of the correctness attack is the gap, record for record.
    advantage = figures.recall.value - float(score_N[~is_member_N].mean())
    assert advantage == pytest.approx(target.generalization_gap, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_distance_to_the_nearest_member_with_duplicates(share):
    simulation, score_KN = oracles.simulate_memorising(3, 2000, 0, duplicate_share=share)
    score_N, is_member_N = score_KN[0], simulation.member_KN[0]
    assert auc(score_N, is_member_N) == pytest.approx(oracles.auc_of_distance(share), abs=1e-12)
    below = tpr_at_fpr(score_N, is_member_N, max_fpr=max(share - 0.001, 0.0)).tpr
    assert below == (0.0 if share else 1.0)
    assert tpr_at_fpr(score_N, is_member_N, max_fpr=share).tpr == 1.0


@pytest.mark.costly
@pytest.mark.parametrize("seed", range(3))
def test_gaussian_release(seed):
    release = oracles.simulate_gaussian_release(N, seed)
    is_member_N = release.member_KN[0]
    cases = [
        (release.score_KN, oracles.auc_of_raw_signal(), oracles.tpr_of_raw_signal),
        (release.offline_score_KN, oracles.auc_of_offline_limit(), oracles.tpr_of_offline_limit),
        (release.optimal_score_KN, oracles.auc_of_gaussian_optimum(), oracles.tpr_of_gaussian_optimum),
    ]
    for score_KN, area, tpr in cases:
        assert_meets(score_KN[0], is_member_N, area=area, tpr=tpr)


def test_two_class_logits_give_the_signal_as_scaled_logit():
    release = oracles.simulate_gaussian_release(300, 0, num_models=4)
    log_probability_KNC = release.log_probability_KNC
    scaled_logit_KN = log_probability_KNC[..., 0] - log_probability_KNC[..., 1]
    torch.testing.assert_close(scaled_logit_KN, release.score_KN)
    assert torch.equal(release.true_log_probability_KN, log_probability_KNC[..., 0])


def test_simulated_models_share_records_and_split_them_in_complementary_halves():
    for simulation in (
        oracles.simulate_group_means(3, 200, 1, num_models=4),
        oracles.simulate_memorising(5, 200, 1, num_models=4)[0],
        oracles.simulate_gaussian_release(200, 1, num_models=4),
    ):
        assert simulation.log_probability_KNC.shape[:2] == simulation.score_KN.shape == (4, 200)
        assert simulation.member_KN.sum(1).tolist() == [100] * 4
        assert torch.equal(simulation.member_KN[0::2], ~simulation.member_KN[1::2])
