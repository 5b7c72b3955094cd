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


def heterogeneous_signals(
    num_models: int, num_records: int, leak: float, random: np.random.Generator, *, num_classes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled logits and memberships `[K, N]` of models in complementary pairs, whose records leak very differently.

    `leak` times 0.1, 1 or 3 (for 60, 30 and 10 % of the records) is added where the model trained on the record, times
    1 + 0.3 z of the model. Records differ in their mean and noise, models by a shift of all records and of each class.
    """
    centre, noise = random.normal(0, 2, num_records), random.choice([0.7, 1.0, 1.6], num_records)
    effect = leak * random.choice([0.1, 1.0, 3.0], num_records, p=[0.6, 0.3, 0.1])
    first = np.zeros((num_models // 2, num_records), bool)
    for half in first:
        half[random.permutation(num_records)[: num_records // 2]] = True
    member = np.stack([first, ~first], axis=1).reshape(num_models, num_records)
    strength, shift = 1 + 0.3 * random.normal(size=(num_models, 1)), 0.5 * random.normal(size=(num_models, 1))
    of_class = 0.7 * random.normal(size=(num_models, num_classes))
    signal = centre + effect * member * strength + shift + noise * random.normal(size=member.shape)
    return signal + of_class[:, random.integers(0, num_classes, num_records)], member
