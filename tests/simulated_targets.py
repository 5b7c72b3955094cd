"""Targets that share records and shadow models, drawn anew with their whole population."""

import numpy as np


def leave_one_out_targets(
    num_models: int,
    num_records: int,
    training: float,
    random: np.random.Generator,
    *,
    leaks: bool = True,
    is_calibrated: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and memberships `[K, N]` of an attack in which every model is the target once.

    Signals are S[k, i] = a_i + c_k μ_i m[k, i] + N(0, 1), with a_i ~ N(0, 2²), μ_i in {0.5, 2, 4}, and log c_k normal
    with standard deviation `training`: trainings that leak more or less. Models come in complementary pairs. The score
    is the log likelihood ratio of two normal distributions whose means are learnt outside the target's pair.

    Args:
        num_models: even, at least 4.
        leaks: whether μ_i is anything but 0.
        is_calibrated: False gives the signal itself as the score, which ranks the same few records first for all.
    """
    pairs = num_models // 2
    first = np.zeros((pairs, num_records), bool)
    for half in first:
        half[random.permutation(num_records)[: num_records // 2]] = True
    member = np.stack([first, ~first], axis=1).reshape(num_models, num_records)
    effect = 2 * random.normal(size=num_records)
    shift = random.choice([0.5, 2.0, 4.0], num_records) * leaks
    strength = np.exp(training * random.normal(size=(num_models, 1)))
    signal = effect + strength * shift * member + random.normal(size=member.shape)
    if not is_calibrated:
        return signal, member
    means = []
    for kind in (member, ~member):
        inside = (signal * kind).reshape(pairs, 2, num_records).sum(1)  # one model of each pair
        means.append(np.repeat(inside.sum(0) - inside, 2, axis=0) / (pairs - 1))
    return (signal - means[1]) ** 2 / 2 - (signal - means[0]) ** 2 / 2, member
