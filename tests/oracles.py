"""Membership inference solved exactly: closed forms, and simulators of the same cases.

Each simulator returns a `Simulation`, whose signals an attack can be run on as if models had been trained,
with the scores of the attack that the closed form is about. Draws are named (`seed`, case), so that a seed
fixes them. Scores: higher = more likely a member.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import atan, exp, pi, sqrt

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import expit, log_expit, log_ndtr
from scipy.stats import norm, rankdata
from torch import Tensor

from mia_lightning.seeds import generator

MU = (0.5, 2.0, 4.0)  # shifts of the Gaussian release, equally often
SPREAD = 2.0  # standard deviation of its record effects a_i


@dataclass(frozen=True, eq=False)
class Simulation:
    """K models that each saw some of N records.

    Attributes:
        log_probability_KNC: log probability of each class; for regression (C = 1) the log density.
        label_N: int64; the column of the true class.
        member_KN: bool; each row holds an exact half.
        score_KN: float64; what the named attack gives model k on record n.
    """

    log_probability_KNC: Tensor
    label_N: Tensor
    member_KN: Tensor
    score_KN: Tensor

    @property
    def true_log_probability_KN(self) -> Tensor:
        """Log probability (or density) of the true class."""
        index_KN1 = self.label_N.expand(len(self.member_KN), -1).unsqueeze(2)
        return self.log_probability_KNC.gather(2, index_KN1).squeeze(2)


# --- memberships and standard errors ---------------------------------------------------------------------


def balanced_halves(num_models: int, num_records: int, seed: int) -> Tensor:
    """`member_KN`: rows 2j and 2j + 1 are complementary random halves; `num_records` even."""
    random = generator(seed, "oracle", "member")
    rows = []
    for _ in range((num_models + 1) // 2):
        row_N = torch.zeros(num_records, dtype=torch.bool)
        row_N[torch.randperm(num_records, generator=random)[: num_records // 2]] = True
        rows += [row_N, ~row_N]
    return torch.stack(rows[:num_models])


def auc_standard_error(score_N: Tensor, is_member_N: Tensor) -> float:
    """Standard error of the AUC (DeLong, DeLong and Clarke-Pearson 1988), by placements from mid-ranks."""
    score, member = score_N.numpy(), is_member_N.numpy()
    inside, outside = score[member], score[~member]
    rank = rankdata(score)
    above = (rank[member] - rankdata(inside)) / len(outside)
    below = 1 - (rank[~member] - rankdata(outside)) / len(inside)
    return sqrt(np.var(above, ddof=1) / len(inside) + np.var(below, ddof=1) / len(outside))


def tpr_standard_error(tpr: Callable[[float], float], alpha: float, n1: int, n0: int) -> float:
    """Standard error of the TPR at FPR `alpha` where `tpr` is the true ROC: the members' and the threshold's."""
    slope = (tpr(1.01 * alpha) - tpr(0.99 * alpha)) / (0.02 * alpha)
    rate = tpr(alpha)
    return sqrt(rate * (1 - rate) / n1 + slope**2 * alpha * (1 - alpha) / n0)


# --- least squares on group means ------------------------------------------------------------------------


def auc_of_group_means(g: int) -> float:
    """AUC of the squared-loss attack: residual variances 1 − 1/g (member) and 1 + 1/g (non-member)."""
    return 2 / pi * atan(sqrt((g + 1) / (g - 1)))


def tpr_of_group_means(g: int, alpha: float) -> float:
    """TPR of the squared-loss attack at FPR `alpha`."""
    return float(2 * norm.cdf(sqrt((g + 1) / (g - 1)) * norm.ppf((1 + alpha) / 2)) - 1)


def simulate_group_means(g: int, num_groups: int, seed: int, *, num_models: int = 1) -> Simulation:
    """Least squares on group indicators: model k predicts the mean of the g records that it saw of a group.

    One record of each group is scored, N = `num_groups`, by minus its squared residual; it is among the g for
    the models that it is a member of, and the other records of the group are drawn anew for each model.
    """
    random = generator(seed, "oracle", "group means")
    member_KN = balanced_halves(num_models, num_groups, seed)
    beta_N = 3 * torch.randn(num_groups, generator=random, dtype=torch.float64)
    y_N = beta_N + torch.randn(num_groups, generator=random, dtype=torch.float64)
    seen_KNG = torch.randn(num_models, num_groups, g, generator=random, dtype=torch.float64)
    seen_KNG += beta_N.unsqueeze(1)
    seen_KNG[..., 0] = torch.where(member_KN, y_N, seen_KNG[..., 0])
    squared_residual_KN = (y_N - seen_KNG.mean(2)) ** 2
    log_density_KN = -squared_residual_KN / 2 - np.log(2 * pi) / 2
    label_N = torch.zeros(num_groups, dtype=torch.int64)
    return Simulation(log_density_KN.unsqueeze(2), label_N, member_KN, -squared_residual_KN)


# --- a memorising 1-nearest-neighbour classifier of random labels ----------------------------------------


def auc_of_memorising(num_classes: int) -> float:
    """AUC of the correctness attack, whose ROC is (0, 0), (1/C, 1), (1, 1)."""
    return 1 - 1 / (2 * num_classes)


def gap_of_memorising(num_classes: int) -> float:
    """Generalisation gap, which is also the advantage of the correctness attack."""
    return 1 - 1 / num_classes


def precision_of_memorising(num_classes: int, prior: float) -> float:
    """Precision of the correctness attack where `prior` is the share of members."""
    return prior / (prior + (1 - prior) / num_classes)


def auc_of_distance(duplicate_share: float) -> float:
    """AUC of minus the distance to the nearest member where a share of non-members duplicates members."""
    return 1 - duplicate_share / 2


def simulate_memorising(
    num_classes: int, num_records: int, seed: int, *, num_models: int = 1, duplicate_share: float = 0.0
) -> tuple[Simulation, Tensor]:
    """1-NN in the plane on uniform random labels; the scores are of the correctness attack (1 or 0).

    The model gives 0.9 to the label of the nearest member and shares the rest. `duplicate_share` of the
    non-members (exactly, rounded down) lie where a member lies; it asks for `num_models` = 1.

    Returns:
        the simulation, and minus the distance to the nearest member, `[K, N]`.
    """
    assert num_models == 1 or duplicate_share == 0.0
    random = generator(seed, "oracle", "memorising")
    member_KN = balanced_halves(num_models, num_records, seed)
    x_ND = torch.randn(num_records, 2, generator=random, dtype=torch.float64)
    label_N = torch.randint(num_classes, (num_records,), generator=random)
    inside_M, outside_M = member_KN[0].nonzero().squeeze(1), (~member_KN[0]).nonzero().squeeze(1)
    num_duplicates = int(duplicate_share * len(outside_M))
    x_ND[outside_M[:num_duplicates]] = x_ND[inside_M[:num_duplicates]]
    log_probability_KNC = torch.full((num_models, num_records, num_classes), 0.1 / (num_classes - 1)).log()
    distance_KN = torch.empty(num_models, num_records, dtype=torch.float64)
    for k, member_N in enumerate(member_KN):
        # Not by matrix products: the distance of a record to itself must be exactly 0.
        distance_NM = torch.cdist(x_ND, x_ND[member_N], compute_mode="donot_use_mm_for_euclid_dist")
        distance_KN[k], nearest_N = distance_NM.min(1)
        predicted_N = label_N[member_N][nearest_N]
        log_probability_KNC[k, torch.arange(num_records), predicted_N] = float(np.log(0.9))
    score_KN = (log_probability_KNC.argmax(2) == label_N).double()
    return Simulation(log_probability_KNC, label_N, member_KN, score_KN), -distance_KN


# --- Gaussian release ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GaussianRelease(Simulation):
    """S[k, i] = a_i + μ_i m[k, i] + N(0, 1) as the first of two logits [S, 0], all labels 0.

    The scaled logit of the true class is S exactly, and `score_KN` is S: one threshold on the raw signal.
    """

    effect_N: Tensor  # a_i
    shift_N: Tensor  # μ_i

    @property
    def optimal_score_KN(self) -> Tensor:
        """Log likelihood ratio of who knows a_i and μ_i: no attack does better."""
        return self.shift_N * (self.score_KN - self.effect_N) - self.shift_N**2 / 2

    @property
    def offline_score_KN(self) -> Tensor:
        """log P[Z ≤ S], Z ~ N(a_i, 1): offline LiRA in the limit of many shadow models."""
        return torch.from_numpy(log_ndtr((self.score_KN - self.effect_N).numpy()))


def simulate_gaussian_release(num_records: int, seed: int, *, num_models: int = 1) -> GaussianRelease:
    """The release for `num_models` models on the same records."""
    random = generator(seed, "oracle", "gaussian release")
    member_KN = balanced_halves(num_models, num_records, seed)
    effect_N = SPREAD * torch.randn(num_records, generator=random, dtype=torch.float64)
    shift_N = torch.tensor(MU, dtype=torch.float64).repeat(num_records // len(MU) + 1)[:num_records]
    noise_KN = torch.randn(num_models, num_records, generator=random, dtype=torch.float64)
    signal_KN = effect_N + shift_N * member_KN + noise_KN
    log_probability_KNC = torch.stack([signal_KN, torch.zeros_like(signal_KN)], dim=2).log_softmax(2)
    label_N = torch.zeros(num_records, dtype=torch.int64)
    return GaussianRelease(log_probability_KNC, label_N, member_KN, signal_KN, effect_N, shift_N)


def auc_of_raw_signal() -> float:
    """AUC of one threshold on the signal: mean Φ(μ_i / √10)."""
    return _mean(lambda mu: norm.cdf(mu / sqrt(2 * (SPREAD**2 + 1))))


def tpr_of_raw_signal(alpha: float) -> float:
    """TPR at FPR `alpha` of one threshold on the signal: mean Φ(Φ⁻¹(α) + μ_i / √5)."""
    return _mean(lambda mu: norm.cdf(norm.ppf(alpha) + mu / sqrt(SPREAD**2 + 1)))


def auc_of_gaussian_optimum() -> float:
    """AUC of the likelihood ratio: mean over i, j of Φ(√(μ_i² + μ_j²) / 2)."""
    return _mean(lambda mu: _mean(lambda other: norm.cdf(sqrt(mu**2 + other**2) / 2)))


def tpr_of_gaussian_optimum(alpha: float) -> float:
    """TPR at FPR `alpha` of the likelihood ratio λ: FPR = mean Φ(−λ/μ_i − μ_i/2), TPR with + μ_i/2."""
    level = brentq(lambda x: _mean(lambda mu: norm.cdf(-x / mu - mu / 2)) - alpha, -100, 100, xtol=1e-13)
    return _mean(lambda mu: norm.cdf(-level / mu + mu / 2))


def auc_of_offline_limit() -> float:
    """AUC of offline LiRA in the limit: mean Φ(μ_i / √2)."""
    return _mean(lambda mu: norm.cdf(mu / sqrt(2)))


def tpr_of_offline_limit(alpha: float) -> float:
    """TPR at FPR `alpha` of offline LiRA in the limit: mean Φ(Φ⁻¹(α) + μ_i)."""
    return _mean(lambda mu: norm.cdf(norm.ppf(alpha) + mu))


def _mean(value: Callable[[float], float]) -> float:
    return float(np.mean([value(mu) for mu in MU]))


# --- randomised response ---------------------------------------------------------------------------------


def accuracy_of_randomised_response(epsilon: float) -> float:
    """Share of right guesses about a bit released by ε-randomised response."""
    return exp(epsilon) / (1 + exp(epsilon))


def simulate_randomised_response(epsilon: float, num_bits: int, seed: int, *, num_runs: int) -> tuple[Tensor, Tensor]:
    """Fair bits and what ε-randomised response releases of them, bool `[num_runs, num_bits]` each."""
    random = generator(seed, "oracle", "randomised response")
    bit_RN = torch.rand(num_runs, num_bits, generator=random) < 0.5
    is_true_RN = torch.rand(num_runs, num_bits, generator=random, dtype=torch.float64) < (
        accuracy_of_randomised_response(epsilon)
    )
    return bit_RN, bit_RN == is_true_RN


def auc_of_relative_limit(a: float | None = None, *, temperature: float = 2.0, num_points: int = 200) -> float:
    """AUC of p(x given θ) / p(x) in the limit of many shadow models, by quadrature: what RMIA can reach.

    Its score never falls as this ratio rises; with finitely many z it ties where the ratio does not.

    Args:
        a: of the offline form of p(x); None for the online one.
        temperature: T; with two classes a softmax of log p / T is the logistic function of the logit / T.
        num_points: quantiles of a_i and of the noise, in the middles of equal shares.
    """
    quantile = norm.ppf((np.arange(num_points) + 0.5) / num_points)
    outside = SPREAD * quantile[:, None, None] + 0 * np.array(MU)[:, None] + quantile
    inside = outside + np.array(MU)[:, None]
    mean_in, mean_out = (expit(signal / temperature).mean(-1, keepdims=True) for signal in (inside, outside))
    marginal = (mean_in + mean_out) / 2 if a is None else ((1 + a) * mean_out + 1 - a) / 2
    ratio_in, ratio_out = ((log_expit(signal / temperature) - np.log(marginal)).ravel() for signal in (inside, outside))
    rank = rankdata(np.concatenate([ratio_in, ratio_out]))
    n = len(ratio_in)
    return float((rank[:n].sum() - n * (n + 1) / 2) / n**2)


# --- one step of the Gaussian mechanism ------------------------------------------------------------------


def delta_of_gaussian(epsilon: float, mu: float) -> float:
    """Least δ at ε of a release N(0, 1) without and N(μ, 1) with the record (Balle and Wang 2018, theorem 8)."""
    return float(norm.cdf(-epsilon / mu + mu / 2) - exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2))


def epsilon_of_gaussian(delta: float, mu: float) -> float:
    """Least ε at δ of the same: 4.377 at δ = 1e-5 and μ = 1, 1.993 at μ = ½."""
    return float(brentq(lambda epsilon: delta_of_gaussian(epsilon, mu) - delta, 0, 100, xtol=1e-12))


def simulate_gaussian_mechanism(mu: float, num_bits: int, seed: int, *, num_runs: int) -> tuple[Tensor, Tensor]:
    """Fair bits, and μ times each plus standard normal noise of its own: `[num_runs, num_bits]` each."""
    random = generator(seed, "oracle", "gaussian mechanism")
    bit_RN = torch.rand(num_runs, num_bits, generator=random) < 0.5
    return bit_RN, mu * bit_RN + torch.randn(num_runs, num_bits, generator=random, dtype=torch.float64)


# --- least squares with known noise, attacked by who fixes (x, y) ----------------------------------------


@dataclass(frozen=True, eq=False)
class GroupRegression:
    """Predictions of group means by least squares, of one record of each of N groups; σ is 1 and known.

    Attributes:
        prediction_KN: float64, mean of the g records that model k saw of the group.
        label_N: float64, y.
        noise_N: float64, ε = y − β, the same for all models.
        member_KN: bool; whether the record is among the g.
        leverage: h = 1 / g, of fits of equal size.
    """

    prediction_KN: Tensor
    label_N: Tensor
    noise_N: Tensor
    member_KN: Tensor
    leverage: float

    @property
    def residual_KN(self) -> Tensor:
        return self.label_N - self.prediction_KN

    @property
    def optimal_score_KN(self) -> Tensor:
        """Log likelihood ratio of who knows ε and h: no attack on these models does better."""
        return log_ratio_of_residual(self.residual_KN, self.noise_N, self.leverage)


def log_ratio_of_residual(residual: Tensor, noise: Tensor, h: float) -> Tensor:
    """log N(r; (1 − h) ε, h (1 − h)) − log N(r; ε, h), less a constant."""
    return (residual - noise).square() / (2 * h) - (residual - (1 - h) * noise).square() / (2 * h * (1 - h))


def simulate_group_regression(g: int, num_groups: int, seed: int, *, num_models: int = 1) -> GroupRegression:
    """As `simulate_group_means`: all records but the scored ones are drawn anew for each model."""
    random = generator(seed, "oracle", "group regression")
    member_KN = balanced_halves(num_models, num_groups, seed)
    beta_N = 3 * torch.randn(num_groups, generator=random, dtype=torch.float64)
    noise_N = torch.randn(num_groups, generator=random, dtype=torch.float64)
    others_KN = torch.randn(num_models, num_groups, generator=random, dtype=torch.float64)
    # The mean of g fresh records, and that of g - 1 of them beside the record itself.
    outside_KN = others_KN / sqrt(g)
    inside_KN = (noise_N + sqrt(g - 1) * others_KN) / g
    prediction_KN = beta_N + torch.where(member_KN, inside_KN, outside_KN)
    return GroupRegression(prediction_KN, beta_N + noise_N, noise_N, member_KN, 1 / g)


def simulate_residual_attack(
    g: int, num_groups: int, seed: int, *, per_side: int | None = None, online: bool = True
) -> tuple[Tensor, Tensor]:
    """Scores of LiRA on signed residuals, `[2, N]`: of members and of non-members of one group each.

    Written from the two laws of the residual alone, N((1 − h) ε, h (1 − h)) in and N(ε, h) out.

    Args:
        per_side: shadow models that trained on each record, and that did not, by whose mean and deviation (n − 1) the
            laws are known; None where they are known exactly.
        online: the likelihood ratio; else log P(|R| ≥ |r|) of the out-models.
    """
    random, h = np.random.default_rng([seed, g, num_groups]), 1 / g
    noise = random.standard_normal(num_groups)
    centre, deviation = np.stack([(1 - h) * noise, noise]), np.sqrt([h * (1 - h), h])[:, None]
    residual = centre + deviation * random.standard_normal((2, num_groups))
    if per_side is None:
        mean, std = centre, np.broadcast_to(deviation, centre.shape)
    else:
        seen = centre + deviation * random.standard_normal((per_side, 2, num_groups))
        mean, std = seen.mean(0), seen.std(0, ddof=1)
    if online:
        score = norm.logpdf(residual, mean[0], std[0]) - norm.logpdf(residual, mean[1], std[1])
    else:
        size = np.abs(residual)
        score = np.logaddexp(norm.logcdf(-size, mean[1], std[1]), norm.logsf(size, mean[1], std[1]))
    return torch.from_numpy(score[0]), torch.from_numpy(score[1])
