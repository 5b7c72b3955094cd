"""The members of the highest scores, where one target confirms nobody: which, with what, and when none are named."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mia_lightning.reports.curves import attack_curves
from mia_lightning.reports.page.html import html_page
from mia_lightning.reports.privacy_section import PrivacySection
from mia_lightning.reports.schema import AuditReport, VulnerabilitySection
from mia_lightning.reports.sections.records import HighestScores, highest_scores

ReportMaker = Callable[..., AuditReport]


def found_in(report: AuditReport) -> HighestScores:
    found = highest_scores(report)
    assert found is not None
    return found


def test_the_flagged_members_of_highest_score_under_the_strongest_attack(report: AuditReport) -> None:
    found, scores = found_in(report), report.scores
    assert found.attack is max(report.attacks, key=lambda attack: attack.overall.auc.value)
    own = [i for i in range(len(scores.score)) if scores.attack[i] == found.attack.name]
    flagged = sorted((i for i in own if scores.is_member[i] and scores.is_flagged[i]), key=lambda i: -scores.score[i])
    assert [each.record for each in found.members] == [scores.record[i] for i in flagged[:10]]
    assert found.num_flagged == len(flagged)
    assert found.num_equal == sum(scores.score[i] == scores.score[flagged[9]] for i in flagged[10:])
    assert found.pictures == {}
    assert not found.is_chance


def test_equals_of_the_last_are_counted(report: AuditReport) -> None:
    scores = report.scores
    rounded = replace(scores, score=np.round(scores.score))
    found = found_in(report.model_copy(update={"scores": rounded}))
    is_own = (rounded.attack == found.attack.name) & rounded.is_member & rounded.is_flagged
    highest = np.sort(rounded.score[is_own])[::-1]
    assert found.num_equal == (highest[10:] == highest[9]).sum() > 0
    assert f"({found.num_equal} more score exactly as the last of them)" in page_of(
        report.model_copy(update={"scores": rounded})
    )


def test_an_attack_at_chance_says_so(make_report: ReportMaker) -> None:
    report = make_report(shift=0.0)
    assert found_in(report).is_chance
    assert "this attack is no better than chance" in page_of(report)
    assert "this attack is no better than chance" not in page_of(make_report())


def test_pictures_are_whole_and_small(report: AuditReport) -> None:
    draw = np.random.default_rng(0)
    first, second, *_ = (each.record for each in found_in(report).members)
    pictures = {
        first: draw.integers(0, 256, (8, 6, 3), dtype=np.uint8),
        second: draw.integers(0, 256, (300, 150), dtype=np.uint8),
        987654: draw.integers(0, 256, (4, 4), dtype=np.uint8),
    }
    found = found_in(report.model_copy(update={"pictures": pictures}))
    assert set(found.pictures) == {first, second}
    opened = {record: decoded(address) for record, address in found.pictures.items()}
    assert np.array_equal(np.asarray(opened[first]), pictures[first])
    assert opened[second].size == (48, 96)


def decoded(address: str) -> Image.Image:
    head, _, content = address.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def without_scores(report: AuditReport) -> AuditReport:
    return report.model_copy(update={"scores": None})


def without_flags(report: AuditReport) -> AuditReport:
    scores = replace(report.scores, is_flagged=np.zeros_like(report.scores.is_flagged))
    return report.model_copy(update={"scores": scores})


def with_confirmation(report: AuditReport) -> AuditReport:
    section = VulnerabilitySection.model_construct(most_exposed=())
    attack = report.attacks[1].model_copy(update={"vulnerability": section})
    return report.model_copy(update={"attacks": (report.attacks[0], attack)})


def of_trials(report: AuditReport) -> AuditReport:
    return report.model_copy(update={"privacy": PrivacySection.model_construct(trials=object())})


@pytest.mark.parametrize("change", [without_scores, without_flags, with_confirmation, of_trials])
def test_no_section_where_nobody_can_be_named_or_somebody_confirmed(change: Any, report: AuditReport) -> None:
    assert highest_scores(report) is not None
    assert highest_scores(change(report)) is None


def page_of(report: AuditReport) -> str:
    return html_page(report, {each.name: attack_curves(report.scores, each.name) for each in report.attacks})


def test_the_page_says_what_it_does_not_mean(report: AuditReport, make_report: ReportMaker) -> None:
    one, several = page_of(report), page_of(make_report(num_targets=3))
    for page in (one, several):
        assert "This does not confirm that they are exposed." in page
        assert "membership=halves target=leave_one_out" in page
    assert "One target was attacked, and these records were in it" in one
    assert "No record was in one target and out of another" in several
    assert one.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 0
