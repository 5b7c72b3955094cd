"""Whether more shadow models would help: fits on the first blocks, the bootstrap, and the verdict."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_toys import cpu_engine, make_evidence
from quick import quick_audit
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from torch import Tensor

import mia_lightning as mia
from mia_lightning.attacks.attack_p import AttackP
from mia_lightning.attacks.attack_r import AttackR
from mia_lightning.attacks.interface import Attack, Evidence
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.shokri import default_training
from mia_lightning.datasets.population import Population
from mia_lightning.reports.schema import AuditReport
from mia_lightning.run.convergence import Convergence, Outcome, block_counts, converge, gain_draws, weighted_auc
from mia_lightning.run.scoring import run_attacks
from mia_lightning.seeds import generator
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.training.signals import Signals


@dataclass(frozen=True, kw_only=True)
class Case:
    """Shadow models in pairs, and a target on the same records."""

    shadows: Evidence
    signals: Signals
    member_TN: Tensor

    def whole(self, attack: Attack) -> Outcome:
        return outcome_of(attack, self.shadows, self.signals, self.member_TN)

    def converge(self, attack: Attack) -> Convergence:
        return converge(attack, attack.name, self.shadows, self.signals, self.whole(attack), cpu_engine())


def outcome_of(attack: Attack, shadows: Evidence, signals: Signals, member_TN: Tensor) -> Outcome:
    fitted = attack.fit(shadows, cpu_engine())
    score_TN = fitted.score(signals, shadows.label_N)
    return Outcome(
        score_TN=score_TN,
        is_flagged_TN=score_TN >= fitted.threshold,
        member_TN=member_TN,
        scored_TN=torch.ones_like(member_TN),
    )


def hard_and_easy(pairs: int, records: int, *, targets: int = 1, effect: float = 1.5, seed: int = 0) -> Case:
    """Logits whose mean differs from record to record far more than by membership, so that references are needed.

    The pairs have numbers that are not in order: 10 for the first, 9 for the second and so on down.
    """
    random = generator(seed, "hard and easy")
    half_BN = torch.rand(pairs, records, generator=random) < 0.5
    member_KN = torch.stack([half_BN, ~half_BN], dim=1).flatten(0, 1)
    member_TN = torch.rand(targets, records, generator=random) < 0.5
    all_KN = torch.cat([member_TN, member_KN])
    logit_KN = 4 * torch.randn(records, generator=random) + torch.randn(all_KN.shape, generator=random)
    logit_KN += effect * all_KN
    log_probability_KANC = torch.stack([logit_KN, torch.zeros_like(logit_KN)], dim=-1).log_softmax(-1).unsqueeze(1)
    shadows = make_evidence(
        signals=Signals(log_probability_KANC=log_probability_KANC[targets:]),
        member_KN=member_KN,
        scored_KN=torch.ones_like(member_KN),
        label_N=torch.zeros(records, dtype=torch.int64),
        num_classes=2,
    )
    shadows = replace(shadows, block_K=pairs - torch.arange(2 * pairs) // 2)
    return Case(
        shadows=shadows, signals=Signals(log_probability_KANC=log_probability_KANC[:targets]), member_TN=member_TN
    )


def sklearn_auc(score: Tensor, member: Tensor) -> float:
    return float(roc_auc_score(member.numpy(), score.numpy()))


@pytest.mark.parametrize(
    ("blocks", "counts"), [(1, [1]), (2, [2]), (3, [3]), (4, [2, 4]), (7, [3, 7]), (8, [2, 4, 8]), (9, [2, 4, 9])]
)
def test_a_quarter_half_and_all_of_the_blocks_but_never_a_single_one(blocks: int, counts: list[int]) -> None:
    assert block_counts(blocks) == counts


def test_a_weighted_area_is_that_of_repeated_records() -> None:
    random = generator(0, "repeated")
    score_M = torch.randint(8, (40,), generator=random).double()
    score_M[:2] = torch.tensor([-torch.inf, torch.inf])
    member_M = torch.rand(40, generator=random) < 0.4
    weight_BM = torch.randint(4, (6, 40), generator=random)
    auc_B = weighted_auc(score_M, weight_BM * member_M, weight_BM * ~member_M)
    for auc, weight_M in zip(auc_B.tolist(), weight_BM, strict=True):
        repeated_M = score_M.clamp(-1, 100).repeat_interleave(weight_M)
        assert auc == pytest.approx(sklearn_auc(repeated_M, member_M.repeat_interleave(weight_M)), abs=1e-12)
    none_BM = torch.zeros(1, 40)
    assert weighted_auc(score_M, none_BM, none_BM + 1).tolist() == [0.0]


def test_a_replicate_is_the_mean_gain_of_the_targets_on_one_draw_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mia_lightning.run.convergence._SLICE_NUMBERS", 150)  # slices of 3 replicates of 50 records
    random = generator(0, "replicates")
    member_TN = torch.rand(2, 60, generator=random) < 0.5
    scored_TN = torch.rand(2, 60, generator=random) < 0.9
    scored_TN[:, 50:] = False
    whole, half = (
        Outcome(
            score_TN=torch.randint(20, (2, 60), generator=random).double(),
            is_flagged_TN=member_TN,
            member_TN=member_TN,
            scored_TN=scored_TN,
        )
        for _ in range(2)
    )
    columns = scored_TN.any(0).nonzero().squeeze(1)
    gain_B = gain_draws(whole, half, 7, generator(3, "draws"))
    again = generator(3, "draws")
    size = 150 // len(columns)
    drawn = [torch.randint(len(columns), (min(size, 7 - b), len(columns)), generator=again) for b in range(0, 7, size)]
    assert len(gain_B) == 7
    for gain, drawn_M in zip(gain_B.tolist(), torch.cat(drawn), strict=True):
        record_M = columns[drawn_M]
        gains = []
        for t in range(2):
            kept_M = record_M[scored_TN[t, record_M]]
            high, low = (sklearn_auc(each.score_TN[t, kept_M], member_TN[t, kept_M]) for each in (whole, half))
            gains.append(high - low)
        assert gain == pytest.approx(np.mean(gains), abs=1e-12)


@pytest.mark.slow
def test_a_gain_by_chance_alone_is_called_one_in_one_of_forty_cases() -> None:
    rising = 0
    for seed in range(400):
        random = generator(seed, "chance")
        member_TN = torch.arange(120)[None] % 2 == 0
        whole, half = (
            Outcome(
                score_TN=torch.randn(1, 120, generator=random).double() + member_TN,
                is_flagged_TN=member_TN,
                member_TN=member_TN,
                scored_TN=torch.ones_like(member_TN),
            )
            for _ in range(2)
        )
        rising += int(gain_draws(whole, half, 400, random).quantile(0.025) > 0)
    low, high = binom.ppf([0.001, 0.999], 400, 0.025)
    assert low <= rising <= high


@pytest.mark.parametrize("attack", [AttackR(), Lira(online=False), mia.Loss()], ids=lambda attack: attack.name)
def test_what_a_subset_achieves_is_what_a_fit_on_the_first_blocks_does(attack: Attack) -> None:
    case = hard_and_easy(8, 300)
    found = case.converge(attack)
    blocks = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8])
    expected = {}
    for count in (2, 4, 8):
        kept_K = (case.shadows.block_K[:, None] == blocks[:count]).any(1)
        if count > 2 or attack.name != "lira_offline":  # which needs two out-models of each record in any left-out pair
            outcome = outcome_of(attack, case.shadows.select(kept_K), case.signals, case.member_TN)
            expected[2 * count] = outcome.score_TN[0]
    assert [point.num_shadows for point in found.points] == list(expected)
    for point, score_N in zip(found.points, expected.values(), strict=True):
        assert point.auc.value == pytest.approx(sklearn_auc(score_N, case.member_TN[0]), abs=1e-12)
        nonmember_score_N = score_N[~case.member_TN[0]].sort(descending=True).values
        allowed = int(0.01 * len(nonmember_score_N))
        above = score_N[case.member_TN[0]] > nonmember_score_N[allowed]
        assert point.tpr.value == pytest.approx(above.double().mean().item(), abs=1e-12)
    assert found.gain == pytest.approx(found.points[-1].auc.value - found.points[-2].auc.value)


@pytest.mark.slow
def test_more_references_of_hard_records_help_and_enough_of_them_are_enough() -> None:
    few = hard_and_easy(4, 2000)
    rising = few.converge(AttackR())
    aucs = [point.auc.value for point in rising.points]
    # With R out-models that are N(0, 1) as the target is, and it shifted by δ on members, the share above it orders as
    # well as (for ever more references) the target's own deviation: Φ(δ / √2).
    assert aucs == sorted(aucs)
    assert aucs[-1] < torch.special.ndtr(torch.tensor(1.5 / 2**0.5)) - 0.01
    assert (rising.verdict, rising.reason) == ("still rising", None)
    assert 0 < rising.gain_low < rising.gain
    many = hard_and_easy(128, 400)
    settled = many.converge(AttackR())
    assert settled.points[-1].auc.value == pytest.approx(
        float(torch.special.ndtr(torch.tensor(1.5 / 2**0.5))), abs=0.05
    )
    assert (settled.verdict, settled.reason) == ("settled", None)
    assert settled.gain_low <= 0
    loss = few.converge(mia.Loss())
    assert (loss.gain, loss.gain_low, loss.verdict) == (0.0, 0.0, "settled")


def test_the_mean_over_targets_is_shown_and_judged() -> None:
    case = hard_and_easy(4, 600, targets=3)
    found = case.converge(AttackR())
    score_TN = case.whole(AttackR()).score_TN
    aucs = [sklearn_auc(score_TN[t], case.member_TN[t]) for t in range(3)]
    assert found.points[-1].auc.value == pytest.approx(np.mean(aucs), abs=1e-12)
    assert found.verdict == "still rising"


def test_there_is_no_verdict_where_half_of_the_models_serve_no_attack() -> None:
    for pairs, attack in ((3, AttackR()), (4, Lira(online=False, variance="record"))):
        case = hard_and_easy(pairs, 200)
        found = case.converge(attack)
        assert [point.num_shadows for point in found.points] == [2 * pairs]
        assert (found.verdict, found.gain, found.gain_low) == (None, None, None)
        assert "half of the shadow models are too few" in (found.reason or "")


def test_there_is_no_verdict_without_an_area() -> None:
    case = hard_and_easy(4, 50)
    whole = replace(case.whole(AttackR()), member_TN=torch.ones(1, 50, dtype=torch.bool))
    found = converge(AttackR(), "attack_r", case.shadows, case.signals, whole, cpu_engine())
    assert len(found.points) == 2
    assert found.verdict is None
    assert found.reason == found.points[-1].auc.reason
    assert found.reason is not None


@pytest.fixture(scope="module")
def settings() -> dict[str, object]:
    shokri = mia.Shokri(training=replace(default_training(), epochs=5))
    attacks = [shokri, AttackR(), AttackP()]
    return quick_audit(membership=mia.Disjoint(train_size=20), shadow=mia.Real(count=8), attacks=attacks, seed=2)


@pytest.mark.slow
def test_a_run_reports_it_and_is_otherwise_the_same(
    blobs: Population, settings: dict[str, object], tmp_path: Path
) -> None:
    plain = mia.audit(blobs, **settings)
    told = mia.audit(blobs, **settings, convergence=True, output=tmp_path)
    assert all(attack.convergence is None for attack in plain.attacks)
    assert np.array_equal(plain.scores.score, told.scores.score)
    assert plain.warnings == told.warnings
    assert list(plain.training_curves) == list(told.training_curves)
    for name, curves in plain.training_curves.items():
        assert np.array_equal(curves.train_loss_EK, told.training_curves[name].train_loss_EK, equal_nan=True)
    assert set(told.run.seconds) - set(plain.run.seconds) == {"convergence/shokri", "convergence/attack_r"}
    shokri, attack_r, attack_p = told.attacks
    assert attack_p.convergence is None  # it uses no shadow models
    for attack in (shokri, attack_r):
        assert [point.num_shadows for point in attack.convergence.points] == [2, 4, 8]
        assert attack.convergence.points[-1].auc.value == attack.overall.auc.value
        assert attack.convergence.points[-1].tpr.value == attack.overall.tpr_at_fpr["0.01"].value
    text = (tmp_path / "report.html").read_text()
    assert "Would more shadow models help?" in text
    assert f"{attack_r.convergence.points[0].auc.value:.3f}" in text
    assert attack_r.convergence.verdict in text
    read = AuditReport.model_validate_json((tmp_path / "report.json").read_text())
    assert [attack.convergence for attack in read.attacks] == [attack.convergence for attack in told.attacks]


def test_it_is_not_measured_where_every_model_is_a_target(blobs: Population) -> None:
    settings = quick_audit(membership=mia.Halves(), target=LeaveOneOut(folds=2), shadow=mia.Real(count=8))
    observation = mia.observe(blobs, **settings, convergence=True)
    _, (outcome,) = run_attacks(observation)
    assert outcome.convergence is None
    assert any("target=leave_one_out every model is a target" in each for each in observation.engine.stages.remarks)
