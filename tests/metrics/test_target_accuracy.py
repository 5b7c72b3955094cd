"""Accuracy on members and non-members against scikit-learn and a loop over classes."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score

from mia_lightning.errors import InputError
from mia_lightning.metrics.target_accuracy import accuracy_by_membership
from mia_lightning.seeds import generator


def classified(num_records=300, num_classes=6, seed=0):
    """Outputs, labels (class 0 only among members, the last class nowhere) and the two masks."""
    random = generator(seed, "accuracy")
    label_N = torch.randint(num_classes - 1, (num_records,), generator=random)
    log_probability_NC = torch.randn(num_records, num_classes, generator=random)
    log_probability_NC[torch.arange(num_records), label_N] += 1
    draw_N = torch.rand(num_records, generator=random)
    nonmember_N = (draw_N < 0.4) & (label_N != 0)
    return log_probability_NC.log_softmax(1), label_N, draw_N > 0.5, nonmember_N, num_classes


@pytest.mark.parametrize("seed", range(5))
def test_equals_sklearn_and_a_loop(seed):
    log_probability_NC, label_N, member_N, nonmember_N, num_classes = arguments = classified(seed=seed)
    accuracy = accuracy_by_membership(*arguments)
    predicted_N = log_probability_NC.argmax(1)
    sides = [
        (member_N, accuracy.train_accuracy, accuracy.train_accuracy_C, accuracy.num_members_C),
        (nonmember_N, accuracy.test_accuracy, accuracy.test_accuracy_C, accuracy.num_nonmembers_C),
    ]
    for mask_N, overall, by_class_C, count_C in sides:
        assert overall == pytest.approx(accuracy_score(label_N[mask_N], predicted_N[mask_N]))
        for c in range(num_classes):
            rows_N = mask_N & (label_N == c)
            assert count_C[c] == rows_N.sum()
            if rows_N.any():
                assert by_class_C[c] == pytest.approx(accuracy_score(label_N[rows_N], predicted_N[rows_N]))
            else:
                assert by_class_C[c].isnan()
    assert by_class_C.dtype == torch.float64
    assert accuracy.test_accuracy_C[0].isnan()
    assert accuracy.generalization_gap == accuracy.train_accuracy - accuracy.test_accuracy


def test_no_member_at_all_is_nan():
    log_probability_NC, label_N, member_N, nonmember_N, num_classes = classified()
    accuracy = accuracy_by_membership(log_probability_NC, label_N, torch.zeros_like(member_N), nonmember_N, num_classes)
    assert math.isnan(accuracy.train_accuracy)
    assert math.isnan(accuracy.generalization_gap)
    assert accuracy.train_accuracy_C.isnan().all()
    assert 0 < accuracy.test_accuracy < 1


def test_a_class_of_probability_zero_is_no_obstacle():
    log_probability_NC = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
    accuracy = accuracy_by_membership(
        log_probability_NC, torch.tensor([0, 0]), torch.tensor([True, False]), torch.tensor([False, True]), 2
    )
    assert (accuracy.train_accuracy, accuracy.test_accuracy) == (1.0, 0.0)


def test_nan_outputs_matter_only_on_records_that_count():
    log_probability_NC, label_N, member_N, nonmember_N, num_classes = classified()
    unused_N = ~(member_N | nonmember_N)
    log_probability_NC[unused_N] = math.nan
    accuracy_by_membership(log_probability_NC, label_N, member_N, nonmember_N, num_classes)
    log_probability_NC[nonmember_N.nonzero()[0]] = math.nan
    with pytest.raises(InputError, match="NaN on 1 records"):
        accuracy_by_membership(log_probability_NC, label_N, member_N, nonmember_N, num_classes)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(300), r"must be \[N, 6\]"),
        (0, torch.zeros(300, 5), r"must be \[N, 6\]"),
        (1, torch.zeros(299, dtype=torch.int64), "`label_N` has shape"),
        (1, torch.full((300,), 6), r"must lie in \[0, 5\]"),
        (1, torch.full((300,), -1), "`label_N` runs from -1 to -1"),
        (1, torch.zeros(300), "`label_N` has .* torch.float32"),
        (2, torch.zeros(300), "`member_N` has shape .* torch.float32"),
        (3, torch.zeros(2, dtype=torch.bool), "`nonmember_N` has shape"),
        (3, torch.ones(300, dtype=torch.bool), "in both"),
    ],
)
def test_refusals_of_accuracy(position, value, message):
    arguments = list(classified())
    arguments[position] = value
    with pytest.raises(InputError, match=message):
        accuracy_by_membership(*arguments)
