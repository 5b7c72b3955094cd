"""One number for each model and record, from its answer and its label.

All are float64 `[K, N]`, means over views where there are several, and computed a few models at a time: the result
does not depend on how many, and memory stays near that of the result. Vectors are taken as they were observed: where a
defence hides or rounds probabilities, they need not add up to 1.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mia_lightning.training.signals import Signals

Statistic = Callable[[Signals, Tensor], Tensor]

# Numbers of prediction vectors in float64 at once: 16 MiB, which memory allocators hand out again and again.
_SLICE_NUMBERS = 2**21


def log_confidence(signals: Signals, label_N: Tensor) -> Tensor:
    """log p of the true class, or of whatever the label is (`Task.log_density`): minus the loss, in nats; larger for
    members.
    """
    return _each(signals, label_N, signals.task.log_density)


def tempered_log_confidence(signals: Signals, label_N: Tensor, *, temperature: float, soft_margin: float) -> Tensor:
    """log p of the true class by softmax(log p / `temperature`), less `soft_margin` from its own exponent; larger for
    members. Of other tasks, `Task.log_likelihood`.
    """
    likelihood = partial(signals.task.log_likelihood, temperature=temperature, soft_margin=soft_margin)
    return _each(signals, label_N, likelihood)


def confidence(signals: Signals, label_N: Tensor) -> Tensor:
    """p of the true class, in [0, 1]; larger for members."""
    return _each(signals, label_N, lambda log_NC, class_N1: signals.task.log_density(log_NC, class_N1).exp())


def correctness(signals: Signals, label_N: Tensor) -> Tensor:
    """1 where the predicted class is the true one, else 0; of several labels the share that is predicted right; larger
    for members.

    Of tied classes, such as those that a defence hides, the one of lowest index is predicted.
    """
    return _each(signals, label_N, signals.task.right)


def all_right(signals: Signals, label_N: Tensor) -> Tensor:
    """1 where the predicted class, or each of several labels, is the true one, else 0; larger for members."""
    return _each(signals, label_N, lambda answer, label: signals.task.right(answer, label) == 1)


def scaled_logit(signals: Signals, label_N: Tensor) -> Tensor:
    """φ = log p_y − log Σ_{y′≠y} p_{y′} (Carlini et al. 2022, section V-A), in nats; larger for members.

    From log softmax it is z_y − logsumexp over y′ ≠ y of the logits z. Of other tasks, `Task.one_number`.
    """
    return _each(signals, label_N, signals.task.one_number)


def normal_statistics(signals: Signals, label_N: Tensor) -> Tensor:
    """What is nearly normal over models, `[K, S, N]`: the scaled logit, with S = 1, or `Task.normal`."""
    return _each(signals, label_N, signals.task.normal).movedim(-1, 1)


def entropy(signals: Signals, label_N: Tensor) -> Tensor:
    """−Σ p log p, in nats, in [0, log C] where p adds up to 1; smaller for members. The true class is not used."""
    return _each(signals, label_N, _entropy)


def modified_entropy(signals: Signals, label_N: Tensor) -> Tensor:
    """−(1 − p_y) log p_y − Σ_{y′≠y} p_{y′} log(1 − p_{y′}), in nats, at least 0; smaller for members.

    Source: Song and Mittal, "Systematic evaluation of privacy risks of machine learning models" (2021).
    """
    return _each(signals, label_N, _modified_entropy)


def _entropy(log_NC: Tensor, _: Tensor) -> Tensor:
    p_NC = log_NC.double().exp()
    return -torch.xlogy(p_NC, p_NC).sum(-1)


def _modified_entropy(log_NC: Tensor, class_N1: Tensor) -> Tensor:
    log_NC = log_NC.double()
    p_NC = log_NC.exp()
    largest_N1 = log_NC.argmax(-1, keepdim=True)
    # Two readings of 1 − p of the largest: the others' sum is exact where p is near 1, but leaves out what a defence
    # hides; the larger is taken. All others are at most a half, and lose no digits.
    others_N1 = p_NC.scatter(-1, largest_N1, 0.0).sum(-1, keepdim=True)
    rest_N1 = torch.maximum(others_N1, -torch.expm1(log_NC.gather(-1, largest_N1)))
    rest_N1 = rest_N1.clamp(min=torch.finfo(torch.float64).tiny)
    log_rest_NC = torch.log1p(-p_NC).scatter(-1, largest_N1, rest_N1.log())
    wrong_N = (p_NC * log_rest_NC).scatter(-1, class_N1, 0.0).sum(-1)
    right_N1 = log_rest_NC.gather(-1, class_N1).exp() * log_NC.gather(-1, class_N1)
    return -right_N1.squeeze(-1) - wrong_N


def _each(signals: Signals, label_N: Tensor, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean over views of a statistic of answers `[k, A, N, C]` and labels `[k, A, N, X]`, a few models at a time."""
    answer_KANC, unit_D = signals.log_probability_KANC, signals.unit_D
    _, A, N, C = answer_KANC.shape
    label_NX = label_N.to(answer_KANC.device).reshape(N, -1)
    label_NX = label_NX if unit_D is None else label_NX / unit_D
    width = max(1, _SLICE_NUMBERS // (A * N * C))
    parts = [
        statistic(part_kANC if unit_D is None else part_kANC / unit_D, label_NX.expand(*part_kANC.shape[:2], N, -1))
        .double()
        .mean(1)
        for part_kANC in answer_KANC.split(width)
    ]
    return torch.cat(parts)
