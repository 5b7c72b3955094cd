"""One number for each model and record, from the prediction vector and the true class.

All are float64 `[K, N]`, means over views where there are several, and computed a few models at a time: the result
does not depend on how many, and memory stays near that of the result.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mia_lightning.training.signals import Signals

# Numbers of a prediction vector in float64 at once.
_SLICE_NUMBERS = 2**24


def log_confidence(signals: Signals, label_N: Tensor) -> Tensor:
    """log p of the true class: minus the cross-entropy loss, in nats, at most 0; larger for members."""
    return _each(signals, label_N, lambda log_NC, class_N1: log_NC.gather(-1, class_N1).squeeze(-1))


def scaled_logit(signals: Signals, label_N: Tensor) -> Tensor:
    """φ = log p_y − log Σ_{y′≠y} p_{y′} (Carlini et al. 2022, section V-A), in nats; larger for members.

    From log softmax it is z_y − logsumexp over y′ ≠ y of the logits z.
    """
    return _each(signals, label_N, lambda log_NC, class_N1: _logit(log_NC, class_N1))


def entropy(signals: Signals, label_N: Tensor) -> Tensor:
    """−Σ p log p, in nats, in [0, log C]; smaller for members. The true class is not used."""
    return _each(signals, label_N, lambda log_NC, _: -torch.xlogy(log_NC.exp(), log_NC.exp()).sum(-1))


def modified_entropy(signals: Signals, label_N: Tensor) -> Tensor:
    """−(1 − p_y) log p_y − Σ_{y′≠y} p_{y′} log(1 − p_{y′}), in nats, at least 0; smaller for members.

    Source: Song and Mittal, "Systematic evaluation of privacy risks of machine learning models" (2021), section 4.1.
    """
    return _each(signals, label_N, _modified_entropy)


def _logit(log_NC: Tensor, class_N1: Tensor) -> Tensor:
    others_NC = log_NC.scatter(-1, class_N1, -torch.inf)
    return log_NC.gather(-1, class_N1).squeeze(-1) - others_NC.logsumexp(-1)


def _modified_entropy(log_NC: Tensor, class_N1: Tensor) -> Tensor:
    p_NC = log_NC.exp()
    total_N = p_NC.sum(-1, keepdim=True)
    # 1 - p as the sum of the others: exact where p is near 1.
    rest_N = p_NC.scatter(-1, class_N1, 0.0).sum(-1)
    log_rest_NC = torch.log(((total_N - p_NC) / total_N).clamp(min=torch.finfo(torch.float64).tiny))
    others_NC = (p_NC * log_rest_NC).scatter(-1, class_N1, 0.0)
    return -(rest_N * log_NC.gather(-1, class_N1).squeeze(-1)) - others_NC.sum(-1)


def _each(signals: Signals, label_N: Tensor, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    log_probability_KANC = signals.log_probability_KANC
    K, A, N, C = log_probability_KANC.shape
    class_N1 = label_N.to(log_probability_KANC.device).view(N, 1)
    width = max(1, _SLICE_NUMBERS // (A * N * C))
    parts = [
        statistic(part_kANC.double(), class_N1.expand(*part_kANC.shape[:2], N, 1)).mean(1)
        for part_kANC in log_probability_KANC.split(width)
    ]
    return torch.cat(parts)
