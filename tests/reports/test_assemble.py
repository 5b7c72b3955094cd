"""From scores to the report: figures with their intervals, of one target and of several."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.metrics.figures import NEW_TRAININGS, THESE_MODELS
from mia_lightning.metrics.intervals.areas import auc_interval
from mia_lightning.metrics.intervals.bootstrap import Bootstrap
from mia_lightning.metrics.intervals.crossed import CROSSED
from mia_lightning.metrics.leakage import attack_figures
from mia_lightning.metrics.roc import roc
from mia_lightning.reports.assemble import AttackOutcome, assemble
from mia_lightning.reports.console import render_summary
from mia_lightning.reports.curves import attack_curves
from mia_lightning.reports.page.html import html_page
from mia_lightning.reports.rows import RunRow
from mia_lightning.reports.schema import AuditReport
from mia_lightning.reports.sentences import verdict
from mia_lightning.run.observation import Observation
from mia_lightning.seeds import generator


def observed(blobs: Population, num_targets: int) -> Observation:
    return mia.observe(
        blobs,
        model=lambda: nn.Linear(6, 3),
        membership=mia.Disjoint(train_size=20),
        target=mia.Trained(count=num_targets),
        shadow=mia.Real(count=2),
        training=mia.Recipe(epochs=1, batch_size=10, optimizer=mia.default_recipe().optimizer),
        trainer=mia.TrainerSettings(accelerator="cpu"),
        seed=3,
    )


def reported(observation: Observation) -> tuple[AuditReport, AttackOutcome]:
    member_TN = observation.membership.member_KN[observation.membership.targets]
    score_TN = torch.randn(member_TN.shape, generator=generator(0, "scores"), dtype=torch.float64) + member_TN
    outcome = AttackOutcome(name="made", description="Made up.", score_TN=score_TN, is_flagged_TN=score_TN > 0.5)
    report = assemble(observation, target_signals=observation.target_signals, outcomes=[outcome])
    return report, outcome


def test_figures_of_one_target(blobs: Population) -> None:
    observation = observed(blobs, 1)
    report, outcome = reported(observation)
    (section,) = report.attacks
    scored_N = observation.membership.scored_KN[0]
    member_N, label_N = observation.membership.member_KN[0][scored_N], observation.population.label_N[scored_N]
    score_N, is_flagged_N = outcome.score_TN[0][scored_N], outcome.is_flagged_TN[0][scored_N]
    assert section.estimand == THESE_MODELS
    assert section.overall == attack_figures(
        score_N, is_flagged_N, member_N, bootstrap=Bootstrap(seed=3, attack="made")
    )
    for group in section.per_class:
        of_class_N = label_N == group.class_index
        expected = attack_figures(score_N[of_class_N], is_flagged_N[of_class_N], member_N[of_class_N])
        assert group.auc == expected.auc
        assert group.average_precision == expected.average_precision
        low, high, _ = auc_interval(roc(score_N[of_class_N], member_N[of_class_N]), tail=0.025 / 3)
        assert (group.auc_simultaneous.low, group.auc_simultaneous.high) == (low, high)
        assert group.auc_simultaneous.value == group.auc.value


@pytest.fixture
def of_several(blobs: Population) -> AuditReport:
    return reported(observed(blobs, 16))[0]


def test_figures_of_several_targets(of_several: AuditReport) -> None:
    (section,) = of_several.attacks
    scores = of_several.scores
    assert section.estimand == NEW_TRAININGS
    areas = [
        roc(torch.from_numpy(scores.score[rows]), torch.from_numpy(scores.is_member[rows])).auc
        for rows in (scores.target == t for t in range(16))
    ]
    assert section.overall.auc.value == pytest.approx(np.mean(areas))
    assert section.overall.auc.spread == pytest.approx(np.std(areas, ddof=1))
    assert section.overall.auc.interval == CROSSED
    pooled = roc(torch.from_numpy(scores.score), torch.from_numpy(scores.is_member))
    assert section.overall.tpr_at_fpr_pooled["0.01"].value == pooled.tpr_at_fpr(0.01).tpr
    assert sum(group.num_members for group in section.per_class) == section.overall.num_members == 320
    for group in section.per_class:
        if group.auc.low is not None:
            assert group.auc_simultaneous.low < group.auc.low


def test_several_targets_are_said_where_figures_are_shown(of_several: AuditReport) -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(render_summary(of_several))
    text = console.export_text().replace("\u00a0", " ")
    spread = of_several.attacks[0].overall.auc.spread
    assert f"Brackets: 95 % intervals for {NEW_TRAININGS}." in text
    assert f"means over 16 targets; SD of the AUC over targets: made {spread:.3f}" in text
    assert any(NEW_TRAININGS in sentence for sentence in verdict(of_several))
    page = html_page(of_several, {"made": attack_curves(of_several.scores, "made")})
    assert f"<small>SD {spread:.3f}</small>" in page
    assert "TPR at 1\u00a0% FPR, one threshold for all targets" in page


@pytest.mark.costly
@pytest.mark.parametrize(("lr", "epochs", "is_idle"), [(1e-12, 1, True), (0.3, 20, False)])
def test_a_target_that_has_learnt_nothing_is_called_broken(
    blobs: Population, lr: float, epochs: int, is_idle: bool
) -> None:
    recipe = mia.Recipe(epochs=epochs, batch_size=10, optimizer=partial(torch.optim.SGD, lr=lr))
    report = mia.audit(
        blobs,
        model=idle_network,
        membership=mia.Disjoint(train_size=30),
        shadow=mia.Real(count=2),
        attacks=[mia.Loss()],
        training=recipe,
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )
    counts = [each.num_members for each in report.target.per_class]
    assert (report.target.train_accuracy <= max(counts) / sum(counts)) == is_idle
    assert [each for each in report.warnings if "learnt nothing" in each] == list(report.broken)
    assert bool(report.broken) == is_idle
    assert (RunRow.of(report).doubt is not None) == is_idle
    assert ("understated" in report.headline) == is_idle


def idle_network() -> nn.Module:
    """Answers the first class until it is trained."""
    network = nn.Linear(6, 3)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    return network
