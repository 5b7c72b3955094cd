"""One number for each model and record, from the prediction vector and the true class.

All are float64 `[K, N]`, means over views where there are several, and computed a few models at a time: the result
does not depend on how many, and memory stays near that of the result. Vectors are taken as they were observed: where a
defence hides or rounds probabilities, they need not add up to 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mia_lightning.training.signals import Signals

Statistic = Callable[[Signals, Tensor], Tensor]

# Numbers of prediction vectors in float64 at once: 16 MiB, which memory allocators hand out again and again.
_SLICE_NUMBERS = 2**21
# Less is missing from 1 by rounding alone.
_SMALLEST_HIDDEN = 1e-5


def log_confidence(signals: Signals, label_N: Tensor) -> Tensor:
    """log p of the true class: minus the cross-entropy loss, in nats, at most 0; larger for members."""
    return _each(signals, label_N, _of_the_true_class)


def tempered_log_confidence(signals: Signals, label_N: Tensor, *, temperature: float, soft_margin: float) -> Tensor:
    """log p of the true class by softmax(log p / `temperature`), less `soft_margin` from its own exponent; larger for
    members.

    So log [e^(u_y − m) / (e^(u_y − m) + Σ_{y′≠y} e^(u_y′))] with u = log p / T. What an answer lacks to a
    sum of 1, since it hides classes, counts as one further class.

    Source: the code published with Zarifzadeh, Liu and Shokri (2024).
    """

    def of_slice(log_NC: Tensor, class_N1: Tensor) -> Tensor:
        own_N = _of_the_true_class(log_NC, class_N1) / temperature - soft_margin
        others_N = (log_NC.double() / temperature).scatter(-1, class_N1, -torch.inf).logsumexp(-1)
        hidden_N = 1 - log_NC.exp().sum(-1)
        hidden_N = hidden_N.where(hidden_N > _SMALLEST_HIDDEN, 0.0).double()
        others_N = torch.logaddexp(others_N, hidden_N.log() / temperature)
        return logsigmoid(own_N - others_N).where(own_N > -torch.inf, -torch.inf)

    return _each(signals, label_N, of_slice)


def confidence(signals: Signals, label_N: Tensor) -> Tensor:
    """p of the true class, in [0, 1]; larger for members."""
    return _each(signals, label_N, lambda log_NC, class_N1: _of_the_true_class(log_NC, class_N1).exp())


def correctness(signals: Signals, label_N: Tensor) -> Tensor:
    """1 where the predicted class is the true one, else 0; larger for members.

    Of tied classes, such as those that a defence hides, the one of lowest index is predicted.
    """
    return _each(signals, label_N, _is_correct)


def scaled_logit(signals: Signals, label_N: Tensor) -> Tensor:
    """φ = log p_y − log Σ_{y′≠y} p_{y′} (Carlini et al. 2022, section V-A), in nats; larger for members.

    From log softmax it is z_y − logsumexp over y′ ≠ y of the logits z.
    """
    return _each(signals, label_N, _logit)


def entropy(signals: Signals, label_N: Tensor) -> Tensor:
    """−Σ p log p, in nats, in [0, log C] where p adds up to 1; smaller for members. The true class is not used."""
    return _each(signals, label_N, _entropy)


def modified_entropy(signals: Signals, label_N: Tensor) -> Tensor:
    """−(1 − p_y) log p_y − Σ_{y′≠y} p_{y′} log(1 − p_{y′}), in nats, at least 0; smaller for members.

    Source: Song and Mittal, "Systematic evaluation of privacy risks of machine learning models" (2021).
    """
    return _each(signals, label_N, _modified_entropy)


def _of_the_true_class(log_NC: Tensor, class_N1: Tensor) -> Tensor:
    return log_NC.gather(-1, class_N1).squeeze(-1).double()


def _is_correct(log_NC: Tensor, class_N1: Tensor) -> Tensor:
    log_true_N1 = log_NC.gather(-1, class_N1)
    comes_first_NC = torch.arange(log_NC.shape[-1], device=log_NC.device) < class_N1
    return ~((log_NC > log_true_N1) | ((log_NC == log_true_N1) & comes_first_NC)).any(-1)


def _logit(log_NC: Tensor, class_N1: Tensor) -> Tensor:
    others_NC = log_NC.double().scatter(-1, class_N1, -torch.inf)
    return _of_the_true_class(log_NC, class_N1) - others_NC.logsumexp(-1)


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
    log_probability_KANC = signals.log_probability_KANC
    _, A, N, C = log_probability_KANC.shape
    class_N1 = label_N.to(log_probability_KANC.device).view(N, 1)
    width = max(1, _SLICE_NUMBERS // (A * N * C))
    parts = [
        statistic(part_kANC, class_N1.expand(*part_kANC.shape[:2], N, 1)).double().mean(1)
        for part_kANC in log_probability_KANC.split(width)
    ]
    return torch.cat(parts)
