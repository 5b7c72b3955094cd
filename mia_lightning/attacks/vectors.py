"""The prediction vectors on which attack networks are trained: which of them, and their scale."""

import math

import torch
from torch import Tensor

from mia_lightning.seeds import generator
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import Signals

# Numbers of vectors in float64 at once: 16 MiB, which memory allocators hand out again and again.
_SUMMED_NUMBERS = 2**21


def vectors_of(signals: Signals, kind: str, label_N: Tensor) -> Tensor:
    """What attack networks are given of each model and record, `[K, N, V]` float32.

    Of classes these are the prediction vectors, in nats, sharing memory with one view; of other tasks `Task.vectors`.
    Of several views, the mean: of log probabilities, or the logarithm of that of `probabilities`.
    """
    label_NX = label_N.to(signals.log_probability_KANC.device).reshape(len(label_N), -1)
    answer_KNC = _one_view(signals, kind)
    return signals.task.vectors(answer_KNC, label_NX.expand(len(answer_KNC), *label_NX.shape))


def _one_view(signals: Signals, kind: str) -> Tensor:
    value_KANC = signals.log_probability_KANC
    K, A, N, C = value_KANC.shape
    if A == 1:
        return value_KANC[:, 0]
    mean_KNC = signals.room.empty((K, N, C), device=value_KANC.device)
    for mean_NC, value_ANC in zip(mean_KNC, value_KANC, strict=True):
        is_log = kind == "probabilities"
        mean_NC.copy_(value_ANC.logsumexp(0) - math.log(A) if is_log else value_ANC.mean(0))
    return mean_KNC


def without_unscored(x_KNC: Tensor, scored_KN: Tensor, room: Room) -> Tensor:
    """The vectors themselves if all are finite; else a copy with zeros for records that are no evidence."""
    if all(bool(torch.stack(x_NC.aminmax()).isfinite().all()) for x_NC in x_KNC):
        return x_KNC
    kept_KNC = room.empty(x_KNC.shape, device=x_KNC.device)
    for kept_NC, x_NC, scored_N in zip(kept_KNC, x_KNC, scored_KN, strict=True):
        kept_NC.copy_(x_NC.where(scored_N[:, None], 0.0))
    return kept_KNC


def scales(x_KNC: Tensor, scored_KN: Tensor, kept_FK: Tensor, *, is_log: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the scored vectors of the models that each fold keeps, `[F, C]` float32.

    From those of each model, in float64, so that no two models' vectors need be held together.
    """
    K, _, C = x_KNC.shape
    mean_KC, squares_KC = torch.zeros(2, K, C, dtype=torch.float64, device=x_KNC.device)
    count_K = scored_KN.double().sum(1)
    for k in range(K):
        mean_KC[k] = _total(x_KNC[k], scored_KN[k], is_log=is_log) / count_K[k].clamp(min=1)
        squares_KC[k] = _total(x_KNC[k], scored_KN[k], is_log=is_log, centre_C=mean_KC[k])
    weight_FK = kept_FK * count_K
    total_F1 = weight_FK.sum(1, keepdim=True).clamp(min=1)
    mean_FC = weight_FK @ mean_KC / total_F1
    between_FC = torch.stack(
        [
            (weight_K[:, None] * (mean_KC - mean_C).square()).sum(0)
            for weight_K, mean_C in zip(weight_FK, mean_FC, strict=True)
        ]
    )
    std_FC = ((kept_FK.double() @ squares_KC + between_FC) / total_F1).sqrt()
    return mean_FC.float(), std_FC.float().clamp(min=1e-6)


def _total(x_NC: Tensor, scored_N: Tensor, *, is_log: bool, centre_C: Tensor | None = None) -> Tensor:
    """Sum over the scored vectors, float64 `[C]`: of their values, or of squared differences from a centre."""
    total_C = torch.zeros(x_NC.shape[1], dtype=torch.float64, device=x_NC.device)
    width = max(1, _SUMMED_NUMBERS // x_NC.shape[1])
    for x_MC, scored_M in zip(x_NC.split(width), scored_N.split(width), strict=True):
        value_MC = x_MC.to(torch.float64, copy=True)
        value_MC = value_MC.exp_() if is_log else value_MC
        if centre_C is not None:
            value_MC = value_MC.sub_(centre_C).square_()
        total_C += scored_M.double() @ value_MC
    return total_C


def balanced(
    member_KN: Tensor, usable_KN: Tensor, of_class_N: Tensor, most: int | None, seed: int, *name: str | int
) -> tuple[Tensor, int]:
    """Numbers k N + n of equally many in- and out-observations of a class, and of how many they are.

    The surplus of one side is left out at random, and of both sides what is more than `most` together.
    """
    column_n = of_class_N.nonzero().squeeze(1)
    member_Kn, usable_Kn = member_KN[:, column_n], usable_KN[:, column_n]
    sides = [(usable_Kn & is_side_Kn).nonzero(as_tuple=True) for is_side_Kn in (member_Kn, ~member_Kn)]
    available = min(len(model_M) for model_M, _ in sides)
    size = available if most is None else min(available, most // 2)
    drawn = []
    for j, (model_M, place_M) in enumerate(sides):
        order_M = torch.randperm(len(model_M), generator=generator(seed, "attack", *name, "balance", j))
        chosen_m = order_M[:size].to(model_M.device)
        drawn.append(model_M[chosen_m] * member_KN.shape[1] + column_n[place_M[chosen_m]])
    return torch.cat(drawn).sort().values, 2 * available
