"""Every model a target once: the plan, the folds, and that nothing of a target reaches what scores it."""

from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from quick import quick_audit
from torch import Tensor

import mia_lightning as mia
from mia_lightning.attacks.decisions import CLASS_THRESHOLDS, FIXED, LEARNT, NETWORKS, POPULATION
from mia_lightning.attacks.interface import Attack, Evidence, Needs
from mia_lightning.attacks.leave_one_out import fold_masks, score_each
from mia_lightning.datasets.population import Population
from mia_lightning.membership import Wanted
from mia_lightning.metrics.intervals.crossed import CROSSED
from mia_lightning.metrics.intervals.learnt_thresholds import JACKKNIFE
from mia_lightning.models.mlp import MLP
from mia_lightning.run.scoring import LEARNT_APART
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.targets.trained import Trained
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals


def plan_of(num_records: int, train_size: int | None, shadows: int, **settings: object) -> mia.Membership:
    population = Population(
        name="plain", x_N=torch.zeros(num_records, 1), label_N=torch.arange(num_records) % 2, class_names=("a", "b")
    )
    plan = mia.Halves(train_size=train_size, **settings)
    return plan.fill(population, Wanted(num_targets=0, num_shadows=shadows, seed=3)).each_a_target()


@pytest.mark.parametrize(("train_size", "width"), [(None, 2), (20, 3), (10, 6), (9, 7)])
def test_blocks_partition_the_records(train_size: int | None, width: int) -> None:
    plan = plan_of(61, train_size, 3 * width)
    assert plan.num_targets == len(plan.member_KN) == 3 * width
    assert plan.member_KN[plan.shadows].shape == plan.member_KN[plan.targets].shape == plan.member_KN.shape
    for block in plan.block_K.unique():
        rows = plan.member_KN[plan.block_K == block]
        assert len(rows) == width
        assert (rows.sum(0) == 1).all()
        sizes = rows.sum(1)
        assert int(sizes.max() - sizes.min()) <= 1
    assert plan.scored_KN.all()
    more = plan_of(61, train_size, 5 * width)
    assert torch.equal(more.member_KN[: 3 * width], plan.member_KN)  # a larger K only adds blocks


def test_the_population_is_nobodys_evidence() -> None:
    plan = plan_of(61, None, 4, population=7, validation=5)
    assert len(plan.population_N) == 7
    reserved = torch.cat([plan.population_N, plan.validation_N])
    assert len(reserved.unique()) == 12
    assert not plan.scored_KN[:, reserved].any()
    assert not plan.member_KN[:, reserved].any()


@pytest.mark.parametrize("plan", [mia.Disjoint(train_size=20), mia.Halves(), mia.Given(member_N=list(range(40)))])
def test_a_tenth_is_reserved_where_an_attack_wants_it(plan: mia.Plan, blobs: Population) -> None:
    without = plan.fill(blobs, Wanted(num_targets=1, num_shadows=4, seed=0))
    wanted = plan.fill(blobs, Wanted(num_targets=1, num_shadows=4, seed=0, reserve=True))
    assert len(without.population_N) == 0
    assert len(wanted.population_N) == (8 if isinstance(plan, mia.Given) else 12)  # of the non-members that are given
    set_ = replace(plan, population=9).fill(blobs, Wanted(num_targets=1, num_shadows=4, seed=0))
    assert len(set_.population_N) == 9
    none = replace(plan, population=0).fill(blobs, Wanted(num_targets=1, num_shadows=4, seed=0, reserve=True))
    assert len(none.population_N) == 0


def test_given_takes_records_of_no_other_use_first(blobs: Population, tmp_path: object) -> None:
    path = tmp_path / "rows.csv"  # type: ignore[operator]
    path.write_text("row,member\n" + "".join(f"{i},{int(i < 40)}\n" for i in range(90)))
    plan = mia.Given(path=path, population=20).fill(blobs, Wanted(num_targets=1, num_shadows=2, seed=0))
    assert (plan.population_N >= 90).all()
    assert int(plan.scored_KN[0].sum()) == 90
    many = mia.Given(path=path, population=40).fill(blobs, Wanted(num_targets=1, num_shadows=2, seed=0))
    assert ((many.population_N >= 40) & (many.population_N < 90)).all()
    with pytest.raises(mia.InputError, match=r"`membership\.validation` is 0 and `membership\.population` 50, but"):
        mia.Given(path=path, population=50).fill(blobs, Wanted(num_targets=1, num_shadows=2, seed=0))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: plan_of(61, 40, 4), r"`membership\.train_size` is 40, but the 61 records of plain .* at most 30"),
        (lambda: plan_of(61, 0, 4), r"`membership\.train_size` is 0"),
        (lambda: plan_of(61, None, 4, population=-1), r"`membership\.population` is -1"),
        (lambda: plan_of(61, None, 4, population=60), r"`membership\.population` 60, which leaves 1 of the 61"),
        (lambda: LeaveOneOut(folds=1), r"`target\.folds` is 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make: object, sentence: str) -> None:
    with pytest.raises(mia.InputError, match=sentence):
        make()  # type: ignore[operator]


def test_a_number_of_shadow_models_that_makes_no_whole_blocks_is_refused() -> None:
    with pytest.raises(mia.InputError, match=r"`shadow.count` is 8, but membership=halves trains blocks of 3"):
        plan_of(61, 20, 8)
    with pytest.raises(mia.InputError, match="2 models in one block, which leaves no shadow model"):
        plan_of(61, None, 2)


@pytest.mark.parametrize("folds", [2, 3, 8, 50])
def test_folds_divide_whole_blocks_evenly(folds: int) -> None:
    block_K = torch.arange(24) // 2 * 10
    masks = fold_masks(block_K, folds)
    assert (masks.sum(0) == 1).all()
    assert len(masks) == min(folds, 12)
    sizes = masks.sum(1)
    assert int(sizes.max() - sizes.min()) <= 2
    for mask in masks:
        assert not set(block_K[mask].tolist()) & set(block_K[~mask].tolist())


@dataclass(frozen=True)
class Spy:
    """Keeps which models each fit saw, and scores a model by its own number."""

    seen: list[set[int]]
    scored: list[set[int]]
    name: str = "spy"
    description: str = "."
    needs: Needs = field(default_factory=Needs)
    threshold: float = 3.0
    remarks: tuple[str, ...] = ("once",)

    def fit(self, shadows: Evidence, engine: Engine) -> "Spy":
        self.seen.append(set(shadows.signals.log_probability_KANC[:, 0, 0, 0].tolist()))
        return self

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        numbers_K = signals.log_probability_KANC[:, 0, 0, 0]
        self.scored.append(set(numbers_K.tolist()))
        return numbers_K.double()[:, None].expand(-1, len(label_N))


def evidence_of(plan: mia.Membership, signals: Signals, population: Population) -> Evidence:
    return Evidence(
        signals=signals,
        member_KN=plan.member_KN,
        scored_KN=plan.scored_KN,
        block_K=plan.block_K,
        label_N=population.label_N,
        num_classes=population.num_classes,
        target_scored_N=plan.scored_KN.any(0),
        population_N=torch.zeros(len(population), dtype=torch.bool),
        population=population,
        plan_name="halves",
    )


def test_no_target_is_scored_by_what_has_seen_it_or_its_complement(blobs: Population) -> None:
    plan = mia.Halves().fill(blobs, Wanted(num_targets=0, num_shadows=12, seed=0)).each_a_target()
    signals = Signals(log_probability_KANC=torch.arange(12.0)[:, None, None, None].expand(12, 1, 120, 3))
    evidence = evidence_of(plan, signals, blobs)
    spy = Spy([], [])
    scored = score_each(spy, evidence, signals, Engine(seed=0), folds=3)
    assert scored.score_TN[:, 0].tolist() == list(range(12))
    assert torch.equal(scored.is_flagged_TN[:, 5], torch.arange(12) >= 3)
    assert scored.remarks == ("once",)
    assert len(spy.seen) == 3
    for seen, targets in zip(spy.seen, spy.scored, strict=True):
        assert not seen & targets
        assert not seen & {k + 1 if k % 2 == 0 else k - 1 for k in targets}


def test_an_attack_that_needs_no_shadow_models_is_given_none_and_scores_all_targets_at_once(blobs: Population) -> None:
    plan = mia.Halves().fill(blobs, Wanted(num_targets=0, num_shadows=12, seed=0)).each_a_target()
    signals = Signals(log_probability_KANC=torch.arange(12.0)[:, None, None, None].expand(12, 1, 120, 3))
    spy = Spy([], [], needs=Needs(shadows=False))
    scored = score_each(spy, evidence_of(plan, signals, blobs), signals, Engine(seed=0), folds=3)
    assert spy.seen == [set()]
    assert spy.scored == [set(range(12))]
    assert scored.score_TN[:, 0].tolist() == list(range(12))
    assert torch.equal(scored.is_flagged_TN[:, 5], torch.arange(12) >= 3)
    assert scored.remarks == ("once",)


def test_what_only_some_folds_remark_is_counted(blobs: Population) -> None:
    class Changing(Spy):
        def fit(self, shadows: Evidence, engine: Engine) -> "Spy":
            return replace(
                self, remarks=("always", "first" if len(super().fit(shadows, engine).seen) == 1 else "later")
            )

    plan = mia.Halves().fill(blobs, Wanted(num_targets=0, num_shadows=12, seed=0)).each_a_target()
    signals = Signals(log_probability_KANC=torch.zeros(12, 1, 120, 3))
    evidence = evidence_of(plan, signals, blobs)
    scored = score_each(Changing([], []), evidence, signals, Engine(seed=0), folds=3)
    assert scored.remarks == ("always", "first (1 of 3 folds)", "later (2 of 3 folds)")


@pytest.mark.slow
def test_every_model_is_a_target_of_a_whole_run(blobs: Population) -> None:
    settings = quick_audit(membership=mia.Halves(), target=LeaveOneOut(folds=2), shadow=mia.Real(count=6))
    observation = mia.observe(blobs, **{k: v for k, v in settings.items() if k != "attacks"})
    report = mia.attack(observation, attacks=[mia.Loss(), mia.Shokri()])
    assert report.target.num_targets == 6
    assert set(report.scores.target.tolist()) == set(range(6))
    rows = (report.scores.attack == "loss") & (report.scores.target == 4)
    member_N = torch.from_numpy(report.scores.is_member[rows])
    assert torch.equal(member_N, observation.membership.member_KN[4])
    expected_N = observation.target_signals.log_probability_KANC[4, 0].gather(1, blobs.label_N[:, None])[:, 0]
    torch.testing.assert_close(torch.from_numpy(report.scores.score[rows]), expected_N.double())
    assert observation.shadows is observation.targets


def test_models_that_fail_are_left_out_as_targets_too() -> None:
    plan = plan_of(61, 20, 9)
    kept = plan.keep_shadows(torch.arange(9) >= 3)
    assert kept.num_targets == 6
    assert torch.equal(kept.member_KN, plan.member_KN[3:])
    assert torch.equal(kept.member_KN[kept.targets], kept.member_KN[kept.shadows])


def test_a_model_whose_loss_is_not_finite_is_no_target_and_its_complement_neither(blobs: Population) -> None:
    poisoned = replace(blobs, x_N=blobs.x_N.clone().index_fill(0, torch.tensor([7]), 3e38))
    settings = quick_audit(membership=mia.Halves(), target=LeaveOneOut(folds=2), shadow=mia.Real(count=6))
    report = mia.audit(poisoned, **{**settings, "model": partial(MLP, hidden=[8], activation="relu")})
    assert report.target.num_targets == report.shadow.count == 4
    assert set(report.scores.target.tolist()) == set(range(4))
    assert any("2 of 6 models are left out (a model's complement goes with it)" in w for w in report.warnings)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"membership": mia.Disjoint(train_size=20)}, "membership=disjoint gives the target records of its own"),
        ({"membership": mia.Given(member_N=list(range(40)))}, "membership=given gives the target records"),
        ({"shadow": mia.Noisy(count=4)}, "target=leave_one_out attacks the shadow models themselves, but shadow=noisy"),
    ],
)
def test_plans_without_common_evidence_are_refused(
    blobs: Population, options: dict[str, object], sentence: str
) -> None:
    settings = {**quick_audit(membership=mia.Halves(), target=LeaveOneOut(), shadow=mia.Real(count=4)), **options}
    with pytest.raises(mia.InputError, match=sentence):
        mia.audit(blobs, **settings)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (mia.Gap(), FIXED),
        (mia.Loss(), LEARNT),
        (mia.Lira(), LEARNT),
        (mia.Shokri(), NETWORKS),
        (mia.AttackP(), POPULATION),
        (mia.ClassConfidence(), CLASS_THRESHOLDS),
    ],
)
def test_what_is_known_of_decisions_reaches_the_figures(attack: Attack, expected: str, blobs: Population) -> None:
    """Whether the threshold can be learnt again is an interval, or the reason why there is none."""
    settings = quick_audit(membership=mia.Halves(), target=LeaveOneOut(folds=4), shadow=mia.Real(count=16))
    report = mia.audit(blobs, **{**settings, "attacks": [attack]})
    figures = report.attacks[0].overall
    expected = {FIXED: CROSSED, LEARNT: JACKKNIFE}.get(expected, expected)
    assert {figures.recall.interval, figures.accuracy.interval, figures.advantage.interval} == {expected}
    assert (figures.recall.low is None) == expected.startswith("none")
    assert figures.auc.low is not None


def test_targets_apart_from_the_shadow_models_do_not_tell_how_a_threshold_varies(blobs: Population) -> None:
    settings = quick_audit(target=Trained(count=16), shadow=mia.Real(count=4))
    report = mia.audit(blobs, **{**settings, "attacks": [mia.Loss(), mia.Gap()]})
    loss, gap = (section.overall for section in report.attacks)
    assert loss.recall.interval == LEARNT_APART
    assert "target=leave_one_out" in LEARNT_APART
    assert gap.recall.interval == CROSSED
