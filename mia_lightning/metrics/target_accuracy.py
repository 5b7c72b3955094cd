"""How well a model does on its members and on its non-members: its overfitting."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.tasks import Task


@dataclass(frozen=True, eq=False)
class TargetAccuracy:
    """Accuracies in [0, 1], or the utility of another task; NaN where there is no record to take them from.

    Attributes:
        train_accuracy, test_accuracy: share of the members, and of the non-members, classified correctly.
        train_accuracy_C, test_accuracy_C: the same among the records of each true class, float64.
        num_members_C, num_nonmembers_C: records of each true class, int64.
    """

    train_accuracy: float
    test_accuracy: float
    train_accuracy_C: Tensor
    test_accuracy_C: Tensor
    num_members_C: Tensor
    num_nonmembers_C: Tensor

    @property
    def generalization_gap(self) -> float:
        """Train accuracy − test accuracy, in [-1, 1]."""
        return self.train_accuracy - self.test_accuracy


def accuracy_by_membership(
    log_probability_NC: Tensor, label_N: Tensor, member_N: Tensor, nonmember_N: Tensor, num_classes: int
) -> TargetAccuracy:
    """Accuracy of one model on its members and on its non-members, overall and for each true class.

    Args:
        log_probability_NC: the model's outputs (any increasing function of its probabilities will do); the
            prediction is the class of the largest.
        label_N: int64 true classes in [0, num_classes).
        member_N, nonmember_N: bool; records in neither are left out.
        num_classes: C.

    Raises:
        InputError: shapes that differ, masks that are not bool or that overlap, labels out of range, or a NaN
            output on a member or non-member.

    >>> accuracy = accuracy_by_membership(
    ...     torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]).log(), torch.tensor([0, 1, 1]),
    ...     torch.tensor([True, True, False]), torch.tensor([False, False, True]), 2)
    >>> accuracy.train_accuracy, accuracy.test_accuracy, accuracy.test_accuracy_C.tolist()
    (1.0, 0.0, [nan, 0.0])
    """
    _check(log_probability_NC, label_N, member_N, nonmember_N, num_classes)
    is_correct_N = log_probability_NC.argmax(1) == label_N

    def of(group_N: Tensor) -> tuple[float, Tensor, Tensor]:
        count_C = torch.bincount(label_N[group_N], minlength=num_classes)
        correct_C = torch.bincount(label_N[group_N & is_correct_N], minlength=num_classes)
        count = int(count_C.sum())
        accuracy = int(correct_C.sum()) / count if count else float("nan")
        return accuracy, correct_C.double() / count_C, count_C  # 0 / 0 is the NaN of an empty class

    train_accuracy, train_accuracy_C, num_members_C = of(member_N)
    test_accuracy, test_accuracy_C, num_nonmembers_C = of(nonmember_N)
    return TargetAccuracy(
        train_accuracy, test_accuracy, train_accuracy_C, test_accuracy_C, num_members_C, num_nonmembers_C
    )


def utility_by_membership(
    task: Task, answer_NC: Tensor, label_N: Tensor, of_SN: Tensor, member_N: Tensor, nonmember_N: Tensor
) -> TargetAccuracy:
    """The utility of one model on its members and on its non-members, overall and for each part of the records.

    Args:
        answer_NC, label_N: of the task.
        of_SN: bool, the parts (`Strata`).
        member_N, nonmember_N: bool; records in neither are left out.
    """
    if task.has_classes:
        return accuracy_by_membership(answer_NC, label_N, member_N, nonmember_N, len(of_SN))

    def of(group_N: Tensor) -> tuple[float, Tensor, Tensor]:
        part = answer_NC[group_N], label_N[group_N]
        whole = task.utility_of(*part) if bool(group_N.any()) else float("nan")
        return whole, task.utility_of_strata(*part, of_SN[:, group_N]), of_SN[:, group_N].sum(1)

    train, train_S, num_members_S = of(member_N)
    test, test_S, num_nonmembers_S = of(nonmember_N)
    return TargetAccuracy(train, test, train_S, test_S, num_members_S, num_nonmembers_S)


def _check(
    log_probability_NC: Tensor, label_N: Tensor, member_N: Tensor, nonmember_N: Tensor, num_classes: int
) -> None:
    if log_probability_NC.ndim != 2 or log_probability_NC.shape[1] != num_classes:
        raise InputError(
            f"`log_probability_NC` has shape {tuple(log_probability_NC.shape)}; "
            f"it must be [N, {num_classes}], one column for each class."
        )
    check_labels(label_N, len(log_probability_NC), num_classes)
    for name, mask_N in (("member_N", member_N), ("nonmember_N", nonmember_N)):
        if mask_N.shape != label_N.shape or mask_N.dtype != torch.bool:
            raise InputError(
                f"`{name}` has shape {tuple(mask_N.shape)} and dtype {mask_N.dtype}; "
                f"it must be torch.bool of shape {tuple(label_N.shape)}."
            )
    num_both = int((member_N & nonmember_N).sum())
    if num_both:
        raise InputError(f"{num_both} records are in both `member_N` and `nonmember_N`; none may be.")
    num_nan = int((log_probability_NC.isnan().any(1) & (member_N | nonmember_N)).sum())
    if num_nan:
        raise InputError(f"`log_probability_NC` is NaN on {num_nan} records; they have no predicted class.")


def check_labels(label_N: Tensor, num_records: int, num_classes: int) -> None:
    """Refuse labels that are not int64 `[num_records]` in [0, num_classes).

    Raises:
        InputError: any of these.
    """
    if label_N.shape != (num_records,) or label_N.dtype != torch.int64:
        raise InputError(
            f"`label_N` has shape {tuple(label_N.shape)} and dtype {label_N.dtype}; "
            f"it must be torch.int64 of shape ({num_records},)."
        )
    if num_records and (int(label_N.min()) < 0 or int(label_N.max()) >= num_classes):
        raise InputError(
            f"`label_N` runs from {int(label_N.min())} to {int(label_N.max())}; "
            f"with {num_classes} classes it must lie in [0, {num_classes - 1}]."
        )
