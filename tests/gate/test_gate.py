"""The gate: verdicts on made-up scores, stated error rates, what it refuses, and the exit codes of the command."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gated import Numbers, counted, report_of
from scipy.stats import binom, norm

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.gate import Gate, gate_from, judge
from mia_lightning.gate.figures import _reachable_advantage
from mia_lightning.metrics.intervals import limits
from mia_lightning.metrics.intervals.limits import advantage_limits, auc_limits
from mia_lightning.reports.schema import GateSection, TrustSection

ADVANTAGE = Gate(metric="advantage", limit=0.1)


@pytest.mark.parametrize(
    ("tpr", "fpr", "status", "exit_code"),
    [(0.5, 0.5, "below", 0), (0.9, 0.5, "above", 3), (0.58, 0.5, "undetermined", 4)],
)
def test_the_whole_interval_decides(tpr: float, fpr: float, status: str, exit_code: int) -> None:
    verdict = judge(report_of({"loss": counted(tpr, fpr, 1000)}, 1000), ADVANTAGE)
    assert (verdict.status, verdict.exit_code) == (status, exit_code)
    (attack,) = verdict.attacks
    assert attack.value == pytest.approx(tpr - fpr)
    assert (attack.low, attack.high) == advantage_limits(tpr - fpr, 1000, 1000, 0.95)
    assert (attack.records_to_settle is None) == (status != "undetermined")


def test_the_sentences_say_what_was_found_and_never_that_a_model_is_private() -> None:
    n = 1000
    scores = {"loss": counted(0.5, 0.5, n), "shokri": counted(0.5, 0.48, n)}
    passed = judge(report_of(scores, n), ADVANTAGE).sentence
    assert "a limit of 0.1 on the advantage is not exceeded by these attacks with these shadows" in passed
    assert "loss at most 0.05" in passed
    assert "95 % confidence over all of them" in passed
    failed = judge(report_of({"loss": counted(0.9, 0.5, n)}, n), ADVANTAGE).sentence
    assert "the limit of 0.1 on the advantage is exceeded (loss 0.4 [0.35" in failed
    assert "over all" not in failed
    open_one = judge(report_of({"loss": counted(0.58, 0.5, n)}, n), ADVANTAGE)
    assert f"about {open_one.records_to_settle:,} members and as many non-members would settle it" in open_one.sentence
    for sentence in (passed, failed, open_one.sentence):
        assert "privat" not in sentence
        assert "safe" not in sentence
        assert "\n" not in sentence


def test_several_attacks_share_the_error_rate_and_one_alone_does_not() -> None:
    scores = {f"attack_{i}": counted(0.6, 0.5, 500) for i in range(5)}
    worst = judge(report_of(scores, 500), ADVANTAGE)
    assert all((each.low, each.high) == advantage_limits(0.1, 500, 500, 0.99) for each in worst.attacks)
    alone = judge(report_of(scores, 500), Gate(metric="advantage", limit=0.1, attack="attack_3"))
    assert [each.attack for each in alone.attacks] == ["attack_3"]
    assert (alone.attacks[0].low, alone.attacks[0].high) == advantage_limits(0.1, 500, 500, 0.95)


def test_one_attack_above_fails_the_gate_and_one_undetermined_keeps_it_from_passing() -> None:
    below, unclear, above = counted(0.5, 0.5, 1000), counted(0.58, 0.5, 1000), counted(0.9, 0.5, 1000)
    assert judge(report_of({"a": below, "b": above, "c": unclear}, 1000), ADVANTAGE).status == "above"
    assert judge(report_of({"a": below, "c": unclear}, 1000), ADVANTAGE).status == "undetermined"
    assert judge(report_of({"a": below}, 1000), ADVANTAGE).status == "below"


def test_limits_below_zero_have_the_minus_of_the_report() -> None:
    verdict = judge(report_of({"a": counted(0.5, 0.5, 50)}, 50), Gate(metric="advantage", limit=0.1))
    (found,) = verdict.attacks
    assert verdict.status == "undetermined"
    assert found.low < 0 < found.high
    assert f"a 0 [−{-found.low:.3g}, {found.high:.3g}]" in verdict.sentence


def test_the_auc_and_the_tpr_are_gated_likewise() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    scores = np.concatenate([rng.normal(1, 1, n), rng.normal(0, 1, n)])
    (of_auc,) = judge(report_of({"loss": scores}, n), Gate(metric="auc", limit=0.6)).attacks
    assert of_auc.value == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.03)
    assert (of_auc.low, of_auc.high) == auc_limits(of_auc.value, n, n, 0.95)
    for limit, status in ((0.01, "above"), (0.2, "below"), (0.09, "undetermined")):
        verdict = judge(report_of({"loss": scores}, n), Gate(metric="tpr_at_fpr", fpr=0.01, limit=limit))
        assert verdict.status == status
        assert verdict.figure == "TPR at 0.01 FPR"
    members, others = scores[:n], np.sort(scores[n:])[::-1]
    assert verdict.attacks[0].value == np.mean(members > others[20])  # 20 false positives of 2000


@pytest.mark.parametrize(
    "gate",
    [
        Gate(metric="advantage", limit=0.2),
        Gate(metric="auc", limit=0.62),
        Gate(metric="tpr_at_fpr", fpr=0.05, limit=0.18),
        Gate(metric="advantage", limit=0.1),
    ],
)
def test_with_the_records_that_it_asks_for_it_is_settled(gate: Gate) -> None:
    """The same distribution at that size: settled; at half of it: not."""

    def at(n: int) -> Numbers:
        place = (np.arange(n) + 0.5) / n
        return np.concatenate([norm.ppf(place) + 0.4, norm.ppf(place)])

    verdict = judge(report_of({"loss": at(150)}, 150, threshold=0.2), gate)
    assert verdict.status == "undetermined"
    n = verdict.records_to_settle
    assert n is not None
    assert n > 150
    assert (
        judge(report_of({"loss": at(round(n * 1.15))}, round(n * 1.15), threshold=0.2), gate).status != "undetermined"
    )
    assert judge(report_of({"loss": at(n // 2)}, n // 2, threshold=0.2), gate).status == "undetermined"


def test_a_rate_at_the_limit_is_settled_by_no_number_of_records() -> None:
    verdict = judge(report_of({"loss": counted(0.6, 0.5, 1000)}, 1000), ADVANTAGE)
    assert verdict.status == "undetermined"
    assert verdict.records_to_settle is None
    assert "no number of records within reason would settle it" in verdict.sentence


def test_the_worst_is_settled_by_one_attack_above_or_else_by_all_below() -> None:
    def needed(*advantages: float) -> int | None:
        scores = {f"a{i}": counted(0.5 + a, 0.5, 1000) for i, a in enumerate(advantages)}
        return judge(report_of(scores, 1000), ADVANTAGE).records_to_settle

    def alone(advantage: float) -> int | None:
        """Beside an attack that is settled, so that the correction is the same."""
        return needed(advantage, -0.4)

    assert needed(0.06, 0.07) == alone(0.07)
    assert needed(0.07, 0.13) == alone(0.13)


def test_targets_are_averaged() -> None:
    n = 400
    scores = np.concatenate([counted(0.7, 0.5, n), counted(0.5, 0.5, n)])
    (attack,) = judge(report_of({"loss": scores}, n, targets=2), ADVANTAGE).attacks
    assert attack.value == pytest.approx(0.1)
    one, other = (advantage_limits(a, n, n, 0.95) for a in (0.2, 0.0))
    assert attack.low == pytest.approx((one[0] + other[0]) / 2)
    assert attack.high == pytest.approx((one[1] + other[1]) / 2)


def test_what_cannot_be_judged_does_not_pass() -> None:
    n = 500
    missing = judge(report_of({"loss": counted(0.5, 0.5, n)}, n), Gate(metric="auc", limit=0.9, attack="lira"))
    assert (missing.status, missing.exit_code) == ("undetermined", 4)
    assert "lira: it was not run" in missing.sentence
    broken = counted(0.5, 0.5, n)
    broken[3] = np.nan
    verdict = judge(report_of({"loss": broken, "gap": counted(0.5, 0.5, n)}, n), Gate(metric="auc", limit=0.9))
    assert verdict.status == "undetermined"
    assert "loss: some of its scores are not numbers" in verdict.sentence
    assert verdict.records_to_settle is None
    report = report_of({"loss": counted(0.5, 0.5, n)}, n)
    report.scores.is_member[:] = True
    assert "no members or no non-members" in judge(report, ADVANTAGE).sentence
    json.loads(GateSection.of(verdict).model_dump_json())


def simulated(gate: Gate, *, runs: int, n: int, attacks: int, targets: int, shift: float) -> tuple[int, int]:
    """How often the gate says below, and above: correlated attacks, targets that share records, all at `shift`."""
    rng = np.random.default_rng([runs, n, attacks, targets])
    statuses = []
    for _ in range(runs):
        record = rng.normal(size=2 * n)
        scores = {}
        for i in range(attacks):
            noise = np.sqrt(0.5) * rng.normal(size=(targets, 2 * n)) + np.sqrt(0.5) * record
            noise[:, :n] += shift
            scores[f"attack_{i}"] = noise.flatten()
        statuses.append(judge(report_of(scores, n, threshold=shift / 2, targets=targets), gate).status)
    return statuses.count("below"), statuses.count("above")


SHIFT = 0.5
TRUE = {
    "advantage": 2 * norm.cdf(SHIFT / 2) - 1,
    "auc": norm.cdf(SHIFT / np.sqrt(2)),
    0.01: norm.sf(norm.isf(0.01) - SHIFT),
    0.1: norm.sf(norm.isf(0.1) - SHIFT),
}
CASES = [
    (Gate(metric="advantage", limit=float(TRUE["advantage"])), 60, 1, 1),
    (Gate(metric="advantage", limit=float(TRUE["advantage"])), 60, 4, 1),
    (Gate(metric="advantage", limit=float(TRUE["advantage"])), 60, 1, 4),
    (Gate(metric="auc", limit=float(TRUE["auc"])), 60, 3, 2),
    (Gate(metric="tpr_at_fpr", fpr=0.01, limit=float(TRUE[0.01])), 100, 3, 1),
    (Gate(metric="tpr_at_fpr", fpr=0.1, limit=float(TRUE[0.1])), 200, 3, 2),
]


def at_most_one_in_twenty(gate: Gate, n: int, attacks: int, targets: int, runs: int) -> None:
    """The truth lies on the limit, where both verdicts are wrong; the bound is the 99.99 % binomial limit of 5 %."""
    below, above = simulated(gate, runs=runs, n=n, attacks=attacks, targets=targets, shift=SHIFT)
    most = int(binom.isf(1e-4, runs, 0.05))
    assert below <= most
    assert above <= most


@pytest.mark.parametrize(("gate", "n", "attacks", "targets"), [CASES[0], CASES[3], CASES[4]])
@pytest.mark.slow
def test_false_passes_and_false_alarms_are_rare(gate: Gate, n: int, attacks: int, targets: int) -> None:
    at_most_one_in_twenty(gate, n, attacks, targets, 60)


@pytest.mark.slow
@pytest.mark.statistics
@pytest.mark.parametrize(("gate", "n", "attacks", "targets"), CASES)
def test_false_passes_and_false_alarms_are_rare_in_many_runs(gate: Gate, n: int, attacks: int, targets: int) -> None:
    at_most_one_in_twenty(gate, n, attacks, targets, 1000)


def test_a_leak_well_above_or_below_the_limit_is_found() -> None:
    """Power: at 500 records an advantage of 0.38 against limits of 0.2 and 0.55, in each of 20 runs."""
    for limit, status in ((0.2, 1), (0.55, 0)):
        gate = Gate(metric="advantage", limit=limit)
        assert simulated(gate, runs=20, n=500, attacks=3, targets=1, shift=1.0)[status] == 20


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"metric": "auc"}, "`gate.limit` is not set"),
        ({"metric": "auc", "limit": 0.6, "fpr": 0.1}, "`gate.fpr` is 0.1, but gate.metric=auc has none"),
        ({"metric": "tpr_at_fpr", "limit": 0.1}, "`gate.fpr` is null; gate.metric=tpr_at_fpr needs"),
        ({"metric": "auc", "limit": 0.6, "confidence": None}, "`gate.confidence` is None"),
        ({"metric": None, "limit": 0.6}, "`gate.metric` is None; it must be one of advantage"),
        ({"fpr": 0.6}, "`gate.metric` is not set; give one of advantage"),
        ({"metrics": "auc"}, "`gate.metrics` is no setting (did you mean `metric`?)"),
    ],
)
def test_settings_that_are_no_gate_are_refused(settings: Any, part: str) -> None:
    with pytest.raises(InputError, match=re.escape(part)):
        gate_from(settings)


def test_without_a_metric_there_is_no_gate() -> None:
    assert gate_from(None) is None
    assert gate_from({"metric": None, "limit": None, "fpr": None, "attack": "worst", "confidence": 0.95}) is None
    assert gate_from({"metric": "auc", "limit": 0.6}) == Gate(metric="auc", limit=0.6)


def test_a_gate_on_an_attack_that_is_not_run_is_refused() -> None:
    gate = Gate(metric="auc", limit=0.6, attack="lira")
    with pytest.raises(InputError, match=r"`gate.attack` is 'lira'.*worst, shokri, loss"):
        gate.check_attack(["shokri", "loss"])
    gate.check_attack(["lira"])
    Gate(metric="auc", limit=0.6, attack="loss-unaware").check_attack(["loss"])
    Gate(metric="auc", limit=0.6).check_attack([])


@pytest.mark.parametrize("verdict", ["void", "unconfirmed"])
@pytest.mark.parametrize("tpr", [0.5, 0.9])
def test_a_target_that_is_not_what_it_seems_settles_no_gate(verdict: Any, tpr: float) -> None:
    report = report_of({"loss": counted(tpr, 0.5, 2000)}, 2000)
    report.trust = TrustSection(verdict=verdict, reasons=("It is odd.",), cause="rows shifted", mend="move them")
    found = judge(report, ADVANTAGE)
    assert (found.status, found.exit_code) == ("undetermined", 4)
    assert "rows shifted" in found.sentence
    assert "move them" in found.sentence
    assert found.records_to_settle is None  # more records would not help


@pytest.mark.parametrize(
    ("fpr", "plan", "count", "status"),
    [
        (0.005, "given", 1, "undetermined"),
        (0.005, "given", 0, "below"),
        (0.005, "halves", 1, "below"),
        (0.05, "given", 1, "below"),
    ],
)
def test_a_few_equal_records_are_many_at_a_low_fpr(fpr: float, plan: str, count: int, status: str) -> None:
    n = 2000
    gate = Gate(metric="tpr_at_fpr", fpr=fpr, limit=0.5)
    report = report_of({"loss": np.random.default_rng(0).normal(size=2 * n)}, n)
    report.membership.plan, report.membership.duplicates_across_boundary = plan, count
    verdict = judge(report, gate)
    assert verdict.status == status
    assert ("1 members also stand" in verdict.sentence) == (status == "undetermined")
    report = report_of({"loss": np.repeat([1.0, 0.0], n)}, n)
    report.membership.plan, report.membership.duplicates_across_boundary = plan, count
    assert judge(report, gate).status == "above"


def test_figures_that_may_be_understated_fail_a_gate_but_never_pass_it() -> None:
    for tpr, code in ((0.5, 4), (0.9, 3)):
        report = report_of({"loss": counted(tpr, 0.5, 2000)}, 2000)
        assert judge(report, ADVANTAGE).exit_code == (0 if code == 4 else 3)
        report.understated = "Leakage may be understated: trees."
        verdict = judge(report, ADVANTAGE)
        assert verdict.exit_code == code
        assert (report.understated in verdict.sentence) == (code == 4)


def test_a_sentence_names_the_three_attacks_of_the_largest_limits_and_counts_the_others() -> None:
    rates = {f"attack_{i}": counted(0.5 + i / 100, 0.5, 2000) for i in range(6)}
    passed = judge(report_of(rates, 2000), Gate(metric="advantage", limit=0.2))
    assert [name for name in rates if name in passed.sentence] == ["attack_3", "attack_4", "attack_5"]
    assert "and 3 more" in passed.sentence
    assert len(passed.attacks) == 6
    failed = judge(report_of({**rates, "best": counted(0.9, 0.5, 2000)}, 2000), Gate(metric="advantage", limit=0.2))
    assert "best 0.4 [" in failed.sentence
    assert "attack" not in failed.sentence
    assert "more" not in failed.sentence


def test_an_audit_from_python_is_held_against_its_gate(tmp_path: Path, blobs: Population) -> None:
    import mia_lightning as mia

    observed = mia.observe(
        blobs, model=lambda: torch.nn.Linear(6, 3), membership=mia.Disjoint(train_size=20), shadow=mia.Real(count=2),
        attacks=[mia.Loss()], training=mia.Recipe(epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1), batch_size=20),
    )  # fmt: skip
    gate = Gate(metric="auc", limit=0.99)
    report = mia.attack(observed, gate=gate, output=tmp_path)
    assert report.gate == GateSection.of(judge(report, gate))
    written = json.loads((tmp_path / "gate.json").read_text())
    assert written == {"schema": "mia_lightning.gate/1", **json.loads(report.gate.model_dump_json())}
    assert mia.read_report(str(tmp_path)).gate == report.gate
    assert mia.attack(observed, output=tmp_path).gate is None
    assert not (tmp_path / "gate.json").exists()
    with pytest.raises(InputError, match=r"gate\.attack"):
        mia.attack(observed, gate=Gate(metric="auc", limit=0.6, attack="shokri"))
    observed.close()


@pytest.mark.parametrize("threshold", [-100.0, 100.0])
def test_a_threshold_that_does_not_suit_the_target_passes_no_advantage(threshold: float) -> None:
    """Scores that tell members, of which the attack flags all or none."""
    n, gate = 500, Gate(metric="advantage", limit=0.2)
    members = np.random.default_rng(0).normal(size=2 * n) + np.repeat([1.5, 0.0], n)
    verdict = judge(report_of({"loss": members}, n, threshold=threshold), gate)
    assert (verdict.status, verdict.exit_code) == ("undetermined", 4)
    assert "its own threshold" in verdict.sentence
    assert judge(report_of({"loss": members}, n, threshold=0.75), gate).status == "above"
    chance = np.random.default_rng(1).normal(size=2 * n)
    assert judge(report_of({"loss": chance}, n, threshold=threshold), gate).status == "below"


def test_the_reachable_advantage_is_never_more_than_that_of_the_best_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all thresholds; the limit of the AUC taken for the AUC itself, of any scores, with ties."""
    monkeypatch.setattr(limits, "auc_limits", lambda area, *_: (area, area))
    rng = np.random.default_rng(2)
    for _ in range(200):
        is_member = rng.random(40) < rng.uniform(0.2, 0.8)
        if is_member.all() or not is_member.any():
            continue
        score = np.round(
            rng.normal(size=40) * rng.choice([1, 3]) + is_member * rng.uniform(-1, 3), int(rng.integers(3))
        )
        best = max(np.mean(score[is_member] >= t) - np.mean(score[~is_member] >= t) for t in [*score, np.inf])
        assert _reachable_advantage(score, is_member, 0.95) <= best + 1e-12
    apart = np.repeat([1.0, 0.0], 20)
    assert _reachable_advantage(apart, apart > 0, 0.95) == 1.0
