"""Records on both sides of a boundary: counted, and the figures with and without them."""

import re
from dataclasses import replace

import torch
from quick import quick_audit
from sklearn.metrics import roc_auc_score

import mia_lightning as mia
from mia_lightning.datasets.population import Population


def test_figures_stand_with_and_without_duplicates(blobs: Population) -> None:
    twice = replace(blobs, x_N=blobs.x_N[torch.arange(120) // 2], label_N=blobs.label_N[torch.arange(120) // 2])
    report = mia.audit(twice, **quick_audit(membership=mia.Disjoint(train_size=30), shadow=mia.Real(count=2)))
    scores = report.scores
    assert scores is not None
    values = [tuple(row) for row in twice.x_N[torch.from_numpy(scores.record)].tolist()]
    sides: dict[tuple[float, ...], set[bool]] = {}
    for value, is_member in zip(values, scores.is_member.tolist(), strict=True):
        sides.setdefault(value, set()).add(is_member)
    clean = torch.tensor([len(sides[value]) == 1 for value in values]).numpy()
    count = sum(
        1 for value, is_member in zip(values, scores.is_member, strict=True) if is_member and len(sides[value]) == 2
    )
    assert 0 < count < 30
    assert report.membership.duplicates_across_boundary == count
    (warning,) = [each for each in report.warnings if "among the non-members" in each]
    assert warning.startswith(f"{count} of 30 members are also, value for value")
    without, with_ = map(float, re.search(r"AUC of loss (\S+) without them, (\S+) with", warning).groups())  # type: ignore[union-attr]
    assert abs(without - roc_auc_score(scores.is_member[clean], scores.score[clean])) < 6e-4
    assert abs(with_ - roc_auc_score(scores.is_member, scores.score)) < 6e-4


def test_where_every_record_has_a_twin_nothing_is_left(blobs: Population) -> None:
    same = replace(blobs, x_N=torch.zeros_like(blobs.x_N), label_N=torch.arange(120) % 3)
    report = mia.audit(same, **quick_audit(membership=mia.Disjoint(train_size=30), shadow=mia.Real(count=2)))
    assert any("nothing is left without them" in warning for warning in report.warnings)


def test_clean_records_are_not_warned_of(blobs: Population) -> None:
    report = mia.audit(blobs, **quick_audit(membership=mia.Disjoint(train_size=30), shadow=mia.Real(count=2)))
    assert report.membership.duplicates_across_boundary == 0
    assert not any("value for value" in warning for warning in report.warnings)
