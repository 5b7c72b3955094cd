"""One number for each model and record, from the prediction vector and the true class.

All are float64 `[K, N]`, means over views where there are several, and computed a few models at a time: the result
does not depend on how many, and memory stays near that of the result. Vectors are taken as they were observed: where a
defence hides or rounds probabilities, they need not add up to 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mia_lightning.training.signals import Signals

Statistic = Callable[[Signals, Tensor], Tensor]

# Numbers of a prediction vector in float64 at once.
_SLICE_NUMBERS = 2**24


def log_confidence(signals: Signals, label_N: Tensor) -> Tensor:
    """log p of the true class: minus the cross-entropy loss, in nats, at most 0; larger for members."""
    return _each(signals, label_N, lambda log_NC, class_N1: log_NC.gather(-1, class_N1).squeeze(-1))


def confidence(signals: Signals, label_N: Tensor) -> Tensor:
    """p of the true class, in [0, 1]; larger for members."""
    return _each(signals, label_N, lambda log_NC, class_N1: log_NC.gather(-1, class_N1).squeeze(-1).exp())


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
    return _each(signals, label_N, lambda log_NC, _: -torch.xlogy(log_NC.exp(), log_NC.exp()).sum(-1))


def modified_entropy(signals: Signals, label_N: Tensor) -> Tensor:
    """−(1 − p_y) log p_y − Σ_{y′≠y} p_{y′} log(1 − p_{y′}), in nats, at least 0; smaller for members.

    Source: Song and Mittal, "Systematic evaluation of privacy risks of machine learning models" (2021).
    """
    return _each(signals, label_N, _modified_entropy)


def _is_correct(log_NC: Tensor, class_N1: Tensor) -> Tensor:
    log_true_N1 = log_NC.gather(-1, class_N1)
    comes_first_NC = torch.arange(log_NC.shape[-1], device=log_NC.device) < class_N1
    return ~((log_NC > log_true_N1) | ((log_NC == log_true_N1) & comes_first_NC)).any(-1)


def _logit(log_NC: Tensor, class_N1: Tensor) -> Tensor:
    others_NC = log_NC.scatter(-1, class_N1, -torch.inf)
    return log_NC.gather(-1, class_N1).squeeze(-1) - others_NC.logsumexp(-1)


def _modified_entropy(log_NC: Tensor, class_N1: Tensor) -> Tensor:
    log_rest_NC = _log_of_the_rest(log_NC)
    true_N = log_rest_NC.gather(-1, class_N1).exp() * log_NC.gather(-1, class_N1)
    others_NC = (log_NC.exp() * log_rest_NC).scatter(-1, class_N1, 0.0)
    return -true_N.squeeze(-1) - others_NC.sum(-1)


def _log_of_the_rest(log_NC: Tensor) -> Tensor:
    """log(1 − p) of each class, finite where p is 1 as far as its digits show.

    Two readings of 1 − p differ: the others' sum is exact where p is near 1, but leaves out what a defence hides. The
    larger is taken.
    """
    p_NC = log_NC.exp()
    largest_N1 = log_NC.argmax(-1, keepdim=True)
    # Without cancellation: what is subtracted from the total is not its largest part.
    log_others_NC = (p_NC.sum(-1, keepdim=True) - p_NC).log()
    beside_largest_N1 = log_NC.scatter(-1, largest_N1, -torch.inf).logsumexp(-1, keepdim=True)
    log_others_NC = log_others_NC.scatter(-1, largest_N1, beside_largest_N1)
    return torch.maximum(log_others_NC, (-torch.expm1(log_NC.clamp(max=0.0))).log())


def _each(signals: Signals, label_N: Tensor, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    log_probability_KANC = signals.log_probability_KANC
    _, A, N, C = log_probability_KANC.shape
    class_N1 = label_N.to(log_probability_KANC.device).view(N, 1)
    width = max(1, _SLICE_NUMBERS // (A * N * C))
    parts = [
        statistic(part_kANC.double(), class_N1.expand(*part_kANC.shape[:2], N, 1)).double().mean(1)
        for part_kANC in log_probability_KANC.split(width)
    ]
    return torch.cat(parts)
