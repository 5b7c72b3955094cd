"""What is refused before anything is trained: attacks for which there are too few shadow models, and how many do."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from quick import quick_audit

import mia_lightning as mia
from mia_lightning.attacks.attack_p import AttackP
from mia_lightning.attacks.attack_r import AttackR
from mia_lightning.attacks.calibrated_loss import CalibratedLoss
from mia_lightning.attacks.interface import Attack, DoesNotApplyError, Evidence, FittedAttack, Needs
from mia_lightning.attacks.leave_one_out import score_each
from mia_lightning.attacks.lira import Lira
from mia_lightning.attacks.rmia import Rmia
from mia_lightning.datasets.population import Population
from mia_lightning.membership.bernoulli import Bernoulli
from mia_lightning.membership.given import Given
from mia_lightning.membership.plan import Plan
from mia_lightning.models.mlp import MLP
from mia_lightning.run.definition import Audit
from mia_lightning.run.filling import filled
from mia_lightning.run.scoring import evidence_of
from mia_lightning.seeds import generator
from mia_lightning.shadows.marginal import Marginal
from mia_lightning.targets.interface import Target
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals

ENGINE = Engine(seed=0)
MEMBER_N = torch.arange(120) % 2 == 0


def audit_of(data: Population, plan: Plan, attack: Attack, count: int, target: Target | None = None) -> Audit:
    return Audit(
        data=data,
        model=partial(MLP, hidden=[4]),
        membership=plan,
        shadow=mia.Real(count=count),
        attacks=[attack],
        **({} if target is None else {"target": target}),
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )


def refused(audit: Audit) -> str:
    with pytest.raises(DoesNotApplyError) as caught:
        mia.estimate(audit)
    return str(caught.value)


def works(audit: Audit) -> bool:
    """Whether the attack can be fitted to models that answer at random, and scores every target: the truth."""
    membership = filled(audit, audit.population)
    num_models = len(membership.block_K[membership.shadows])
    logits = torch.randn(num_models, 1, len(audit.population), 3, generator=generator(0, "answers"))
    signals = Signals(log_probability_KANC=logits.log_softmax(-1))
    evidence = evidence_of(membership, audit.population, signals)
    (attack,) = audit.attacks
    try:
        if membership.leaves_one_out:
            score_TN = score_each(attack, evidence, signals, ENGINE, folds=audit.attacked.folds).score_TN
        else:
            one = signals.select(torch.arange(num_models) < 1)
            score_TN = attack.fit(evidence, ENGINE).score(one, evidence.label_N)
    except DoesNotApplyError:
        return False
    return not bool((score_TN[:, evidence.target_scored_N] == -torch.inf).all())


ONLINE: list[Attack] = [Lira(), Rmia()]
OFFLINE: list[Attack] = [Lira(online=False), Rmia(online=False), AttackR(), CalibratedLoss()]
HALVES, QUARTERS = mia.Halves(), mia.Halves(train_size=27)
SAME = Given(member_N=MEMBER_N)
PLANS: list[tuple[str, Plan, Target | None, int]] = [
    ("halves", HALVES, None, 2),
    ("quarters", QUARTERS, None, 4),
    ("given", SAME, None, 2),
    ("halves, each a target", HALVES, LeaveOneOut(), 4),
    ("quarters, each a target", QUARTERS, LeaveOneOut(), 8),
    ("halves, two folds", HALVES, LeaveOneOut(folds=2), 4),
]


@pytest.mark.costly
@pytest.mark.parametrize("attack", [*ONLINE, *OFFLINE], ids=lambda attack: attack.name)
@pytest.mark.parametrize(("plan", "target", "width"), [case[1:] for case in PLANS], ids=[case[0] for case in PLANS])
def test_the_smallest_number_of_shadow_models_that_serves_is_named(
    attack: Attack, plan: Plan, target: Target | None, width: int, blobs: Population
) -> None:
    """It works, one block fewer does not, and what is refused is refused before anything is trained."""
    block = width if target is None else width // 2
    make = partial(audit_of, blobs, plan, attack, target=target)
    count = width
    while not works(make(count)):
        sentence = refused(make(count))
        named = re.search(r"raise `shadow\.count` to at least (\d+)\.$", sentence)
        assert named is not None, sentence
        assert f"attack={attack.name} " in sentence
        assert f"membership={plan.name}" in sentence
        assert works(make(int(named[1])))
        assert not works(make(int(named[1]) - block))
        count += block
    assert count > width  # one block was refused
    mia.estimate(make(count))


def test_coins_need_as_many_models_as_the_rarest_record(blobs: Population) -> None:
    """No number of pairs is enough for sure: the one that is named was tried."""
    make = partial(audit_of, blobs, Bernoulli(canaries=40), Lira())
    named = re.search(r"to at least (\d+)\.$", refused(make(3)))
    assert named is not None
    assert works(make(int(named[1])))
    assert not works(make(int(named[1]) - 1))


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("attack", ONLINE, ids=lambda attack: attack.name)
def test_a_plan_without_in_models_is_named_and_no_number(attack: Attack, count: int, blobs: Population) -> None:
    sentence = refused(audit_of(blobs, mia.Disjoint(train_size=20), attack, count))
    offline = attack.name.replace("online", "offline")
    assert sentence.endswith(f"use membership=halves, or attack={offline}, which needs none.")


def test_under_a_given_split_with_a_pool_the_same_records_are_proposed(blobs: Population, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("row,member\n" + "".join(f"{row},{row % 2}\n" for row in range(60)))
    sentence = refused(audit_of(blobs, Given(path=path, shadow_source="pool"), Lira(), 4))
    assert sentence.endswith("use membership.shadow_source=same, or attack=lira_offline, which needs none.")


def test_an_attack_that_does_not_compare_shadow_models_needs_no_more_than_it_says(blobs: Population) -> None:
    """One's own attack may take its threshold from elsewhere."""
    assert Needs(out_models=1).compares_shadows is False
    for attack in (*ONLINE, *OFFLINE):
        assert attack.needs.compares_shadows
    mia.estimate(audit_of(blobs, HALVES, OwnAttack(Needs(out_models=1)), 2))
    own = OwnAttack(Needs(in_models=3))
    assert refused(audit_of(blobs, HALVES, own, 2)).endswith("raise `shadow.count` to at least 6.")
    assert refused(audit_of(blobs, mia.Disjoint(train_size=20), own, 2)).endswith("use membership=halves.")


@pytest.mark.parametrize("attack", [Rmia(), Rmia(online=False), AttackP()], ids=lambda attack: attack.name)
def test_a_plan_that_cannot_reserve_a_population_is_not_asked_to(attack: Attack, blobs: Population) -> None:
    sentence = refused(audit_of(blobs, Bernoulli(canaries=40), attack, 20))
    assert f"attack={attack.name} " in sentence
    assert sentence.endswith("membership=bernoulli has none, so use membership=halves.")
    none = refused(audit_of(blobs, mia.Halves(population=0), attack, 20))
    assert "set `membership.population`" in none


def test_an_attack_that_is_left_out_is_left_out_with_the_number(blobs: Population) -> None:
    """One fewer is what is set; with as many as are named, nothing is left out."""
    for count, names in ((2, ["loss"]), (6, ["loss", "lira_online"])):
        report = mia.audit(
            blobs,
            **quick_audit(
                membership=mia.Halves(),
                shadow=mia.Real(count=count),
                attacks=[mia.Loss(), Lira()],
                skip_inapplicable=True,
            ),
        )
        assert [attack.name for attack in report.attacks] == names
        left_out = [note for note in report.notes if "lira_online was not run" in note]
        assert len(left_out) == 2 - len(names)
        assert all("raise `shadow.count` to at least 6." in note for note in left_out)


def test_shadow_models_of_made_records_are_counted_too(blobs: Population) -> None:
    with pytest.raises(DoesNotApplyError, match=r"attack=calibrated_loss .* raise `shadow\.count` to at least 2\.$"):
        mia.audit(blobs, **quick_audit(shadow=Marginal(count=1), attacks=[CalibratedLoss()]))


@dataclass(frozen=True)
class OwnAttack:
    needs: Needs
    name: str = "own"
    description: str = "."

    def fit(self, shadows: Evidence, engine: Engine) -> FittedAttack:
        raise AssertionError("nothing is fitted")
