"""Operating points learnt on shadow models."""

import torch
from torch import Tensor


def balanced_accuracy_threshold(score_N: Tensor, is_member_N: Tensor) -> float:
    """The score t that maximises TPR - FPR of "flag where score >= t", hence balanced accuracy.

    Args:
        score_N: real; higher means more likely a member; tied scores are flagged together.
        is_member_N: bool, with members and non-members.

    Of several best thresholds the highest is taken; the thresholds are the scores themselves.
    """
    score_N, order = score_N.double().flatten().sort(descending=True, stable=True)
    is_member_N = is_member_N.flatten()[order]
    # (TPR - FPR) n1 n0 in whole numbers: rounded rates would break ties at random.
    gain_N = is_member_N.cumsum(0) * (~is_member_N).sum() - (~is_member_N).cumsum(0) * is_member_N.sum()
    last_of_tie_N = torch.cat([score_N[1:] != score_N[:-1], score_N.new_ones(1, dtype=torch.bool)])
    gain_N = gain_N.masked_fill(~last_of_tie_N, torch.iinfo(torch.int64).min)
    best = (gain_N == gain_N.max()).nonzero()[0, 0]  # argmax does not promise the first
    return float(score_N[best])
