"""Train once, attack many: what is observed once serves any attack, output defence and source of shadow records."""

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

import mia_lightning as mia
from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.shokri import default_training
from mia_lightning.attacks.thresholds import Confidence
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.l2 import L2
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.temperature import Temperature
from mia_lightning.defenses.top_k import TopK
from mia_lightning.models.mlp import MLP
from mia_lightning.run.observation import Observation
from mia_lightning.shadows.marginal import Marginal
from mia_lightning.shadows.model_based import ModelBased
from mia_lightning.shadows.noisy import Noisy
from mia_lightning.targets.model_black_box import ModelBlackBox
from mia_lightning.training.engine import Engine
from mia_lightning.training.signals import Signals

RECIPE = mia.Recipe(epochs=8, batch_size=10, optimizer=partial(torch.optim.Adam, lr=0.02))
QUICK = {
    "model": partial(MLP, hidden=[8]),
    "membership": mia.Disjoint(train_size=20),
    "shadow": mia.Real(count=4),
    "training": replace(RECIPE, execution="stack", chunk=None),
    "trainer": mia.TrainerSettings(accelerator="cpu"),
}
CLIMB = ModelBased(count=4, records_per_class=8, k_max=4, k_min=1, conf_min=0.4, iter_max=100)


@dataclass(frozen=True, kw_only=True)
class Spy:
    """Keeps what it is shown, and scores by the loss."""

    seen: list[Evidence]
    scored: list[Signals]
    name: str = "spy"
    description: str = "keeps what it is shown"
    needs: Needs = field(default_factory=Needs)
    threshold: float = 0.0
    remarks: tuple[str, ...] = ()

    def fit(self, shadows: Evidence, engine: Engine) -> "Spy":
        self.seen.append(shadows)
        return self

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        self.scored.append(signals)
        return signals.log_probability_KANC[:, 0, :, 0].double()


def same(first: Tensor, second: Tensor) -> bool:
    """Equal log-probabilities, and the same records not asked about."""
    return torch.equal(first.nan_to_num(1.0), second.nan_to_num(1.0))


@pytest.fixture(scope="module")
def bits() -> Population:
    generator = torch.Generator().manual_seed(0)
    x_N = torch.randint(0, 2, (160, 12), generator=generator).to(torch.uint8)
    label_N = (x_N[:, :3].sum(1) >= 2).long() + (x_N[:, 3:6].sum(1) >= 2).long()
    return Population(name="bits", x_N=x_N, label_N=label_N, class_names=("a", "b", "c"))


@pytest.fixture(scope="module")
def observed(bits: Population) -> Observation:
    return mia.observe(bits, **QUICK)


def scores(report: mia.AuditReport) -> np.ndarray:
    assert report.scores is not None
    return report.scores.score


def test_observing_and_attacking_apart_is_the_audit(bits: Population) -> None:
    # On a busy machine two probes may choose two ways to train the networks, whose last bits differ.
    training = replace(default_training(), epochs=5, execution="stack", chunk=None)
    attacks = [mia.Shokri(training=training), mia.Loss()]
    whole = mia.audit(bits, **QUICK, attacks=attacks)
    # Asked about the same records: those that other attacks need beside them change last bits of the answers.
    apart = mia.attack(mia.observe(bits, **QUICK, attacks=attacks), attacks=attacks)
    assert np.array_equal(scores(whole), scores(apart))
    assert whole.warnings == apart.warnings
    assert whole.target == apart.target
    assert set(apart.run.seconds) == set(whole.run.seconds)
    assert apart.training_curves.keys() == whole.training_curves.keys()


@pytest.mark.costly
@pytest.mark.parametrize(
    "defenses",
    [(TopK(k=1),), (LabelsOnly(),), (Rounding(digits=1),), (Temperature(temperature=5.0), Rounding(digits=2))],
)
def test_another_output_defence_trains_nothing_anew(
    bits: Population, observed: Observation, monkeypatch: pytest.MonkeyPatch, defenses: tuple[mia.Defense, ...]
) -> None:
    expected = mia.audit(bits, **QUICK, attacks=[mia.Loss()], defenses=defenses)
    monkeypatch.setattr(Engine, "run", lambda *_, **__: pytest.fail("something was trained"))
    report = mia.attack(observed, attacks=[mia.Loss()], defenses=defenses)
    assert np.array_equal(scores(report), scores(expected))
    assert report.defense == expected.defense
    assert report.defense is not None
    assert report.defense.names == tuple(each.name for each in defenses)


def test_shadow_models_are_seen_through_the_targets_channel_by_every_attacker(observed: Observation) -> None:
    for adaptive in (True, False):
        spy = Spy(seen=[], scored=[])
        mia.attack(observed, attacks=[spy], defenses=[Rounding(digits=1)], adaptive=adaptive)
        (shadows,), (target,) = spy.seen, spy.scored
        for signals in (shadows.signals, target):
            assert signals.channel == "rounded to 1 digit"
            log_probability = signals.log_probability_KANC
            tenths = log_probability[~log_probability.isnan()].exp().double() * 10
            is_tenth = (tenths - tenths.round()).abs() < 1e-5
            assert bool((is_tenth | (tenths < 0.51)).all())  # what is rounded to 0 stands at half a digit
    assert observed.target_signals.channel == "full"


def test_what_nobody_sees_of_the_answers_is_imitated_by_the_adaptive_attacker_alone(observed: Observation) -> None:
    spy = Spy(seen=[], scored=[])
    report = mia.attack(observed, attacks=[spy], defenses=[Temperature(temperature=5.0)])
    assert [(attack.name, attack.adaptive) for attack in report.attacks] == [("spy", True), ("spy-unaware", False)]
    aware, unaware = (evidence.signals.log_probability_KANC for evidence in spy.seen)
    assert same(unaware, observed.shadow_signals.log_probability_KANC)
    torch.testing.assert_close(aware, (unaware / 5).log_softmax(-1), equal_nan=True)
    for signals in spy.scored:
        torch.testing.assert_close(
            signals.log_probability_KANC,
            (observed.target_signals.log_probability_KANC / 5).log_softmax(-1),
            equal_nan=True,
        )
    other = mia.attack(observed, attacks=[spy], defenses=[Temperature(temperature=5.0)], adaptive=False)
    assert [(attack.name, attack.adaptive) for attack in other.attacks] == [("spy", False), ("spy-adaptive", True)]


def test_a_training_defence_is_on_the_target_and_where_the_attacker_adapts_on_the_shadow_models(
    bits: Population, observed: Observation
) -> None:
    adaptive = mia.observe(bits, **QUICK, defenses=[L2(strength=0.05)])
    unaware = mia.observe(bits, **QUICK, defenses=[L2(strength=0.05)], adaptive=False)
    target = adaptive.target_signals.log_probability_KANC
    assert same(target, unaware.target_signals.log_probability_KANC)
    assert not same(target, observed.target_signals.log_probability_KANC)
    plain = observed.shadow_signals.log_probability_KANC
    assert same(unaware.shadow_signals.log_probability_KANC, plain)
    assert not same(adaptive.shadow_signals.log_probability_KANC, plain)
    report = mia.attack(unaware, attacks=[mia.Loss()], defenses=[L2(strength=0.05)], adaptive=False)
    assert report.defense is not None
    assert not report.defense.adaptive
    assert not report.attacks[0].adaptive
    both = [L2(strength=0.05), Temperature(temperature=5.0)]
    for models, known in ((adaptive, "l2 both know,"), (unaware, "l2 both know nothing,")):
        alone, with_output = (
            mia.attack(models, attacks=[mia.Loss()], defenses=defenses, adaptive=models is adaptive)
            for defenses in (both[:1], both)
        )
        assert not any(known in warning for warning in alone.warnings)
        assert any(known in warning for warning in with_output.warnings)
    with pytest.raises(mia.InputError, match="another training"):
        mia.attack(observed, defenses=[L2(strength=0.05)])
    with pytest.raises(mia.InputError, match="another training"):
        mia.attack(adaptive, defenses=[L2(strength=0.05)], adaptive=False)


@pytest.mark.usefixtures("global_generators")
def test_a_training_defence_needs_a_target_that_is_trained_here(bits: Population) -> None:
    settings = {**QUICK, "membership": mia.Given(member_N=torch.arange(40)), "target": MLP((12,), 3, hidden=[8])}
    with pytest.raises(mia.InputError, match="defense=l2 changes how the target is trained"):
        mia.audit(bits, **settings, defenses=[L2()])


@pytest.mark.slow
@pytest.mark.parametrize("shadow", [Noisy(count=4, fraction=0.2), Marginal(count=4), CLIMB])
def test_synthetic_shadow_records_leave_the_target_as_it_is(
    bits: Population, observed: Observation, shadow: mia.Noisy | mia.Marginal | mia.ModelBased
) -> None:
    other = mia.observe(bits, **{**QUICK, "shadow": shadow})
    assert same(other.target_signals.log_probability_KANC, observed.target_signals.log_probability_KANC)
    assert torch.equal(other.membership.member_KN[0, :160], observed.membership.member_KN[0])
    assert other.synthesis is not None
    M = len(other.synthesis.x_M)
    assert other.shadow_signals.log_probability_KANC.shape == (4, 1, 160 + M, 3)
    assert torch.equal(other.population.x_N[160:], other.synthesis.x_M)
    attacks = [mia.Loss(), Confidence()]
    report = mia.attack(other, attacks=attacks)
    assert report.dataset == mia.attack(observed, attacks=attacks).dataset
    assert report.shadow.source == shadow.source
    assert report.shadow.synthesis is not None
    assert report.shadow.synthesis.num_records == M
    assert sum(row.num_records for row in report.shadow.synthesis.per_class) == M
    assert len(report.scores.record) == 2 * 40
    assert report.scores.record.max() < 160


def test_noisy_records_come_from_records_that_are_no_evidence_about_the_target(bits: Population) -> None:
    other = mia.observe(bits, **{**QUICK, "shadow": Noisy(count=2, fraction=0.0, label="own")})
    assert other.synthesis is not None
    outside_N = other.membership.columns(slice(0, 160)).outside_N
    assert int(outside_N.sum()) == 120
    known = set(map(tuple, bits.x_N[outside_N].tolist()))
    assert set(map(tuple, other.synthesis.x_M.tolist())) == known
    assert other.synthesis.num_queries == 0


@pytest.mark.slow
def test_the_answers_behind_an_output_defence_make_the_shadow_records(bits: Population) -> None:
    settings = {**QUICK, "shadow": CLIMB}
    plain = mia.observe(bits, **settings)
    defended = mia.observe(bits, **settings, defenses=[TopK(k=1)])
    assert defended.audit.output_defenses == (TopK(k=1),)
    assert any("made from the answers of the defended target" in remark for remark in defended.engine.stages.remarks)
    mia.attack(defended, defenses=[TopK(k=1)])
    with pytest.raises(mia.InputError, match="made from the target's answers"):
        mia.attack(plain, defenses=[TopK(k=1)])


def test_a_source_that_asks_one_target_refuses_several(bits: Population) -> None:
    with pytest.raises(mia.InputError, match=r"`target.count` is 2, but shadow=noisy"):
        mia.audit(bits, **{**QUICK, "shadow": Noisy(count=2), "target": mia.Trained(count=2)})


def test_a_plan_that_leaves_no_other_records_has_nothing_to_add_noise_to(bits: Population) -> None:
    with pytest.raises(mia.InputError, match="membership=halves leaves none of the 160"):
        mia.audit(bits, **{**QUICK, "shadow": Noisy(count=2), "membership": mia.Halves()})


@pytest.mark.usefixtures("global_generators")
@pytest.mark.slow
def test_a_trained_module_can_be_attacked_without_any_other_records(bits: Population) -> None:
    settings = {**QUICK, "membership": mia.Given(member_N=torch.arange(80)), "shadow": CLIMB}
    torch.manual_seed(0)
    module = MLP((12,), 3, hidden=[8])
    report = mia.audit(bits, **settings, target=module)
    assert any("the form of a record was read off the target's own records" in warning for warning in report.warnings)
    assert report.membership.num_members == 80


@pytest.mark.slow
def test_known_records_are_left_out_of_the_evidence(bits: Population) -> None:
    report = mia.audit(bits, **{**QUICK, "shadow": mia.Real(count=4, overlap=0.25)})
    assert report.membership.num_members == report.membership.num_nonmembers == 15
    assert len(report.scores.record) == 3 * 30


def test_a_black_box_answers_as_the_model_and_counts(bits: Population, observed: Observation) -> None:
    box = ModelBlackBox(observed.targets, bits)
    expected_NC = observed.target_signals.log_probability_KANC[0, 0].exp()
    asked_N = observed.membership.asked_N
    torch.testing.assert_close(box.predict(bits.x_N)[asked_N], expected_NC[asked_N])
    assert (box.num_queries, box.num_classes) == (160, 3)
    flat = ModelBlackBox(observed.targets, bits, channel=LabelsOnly().apply).predict(bits.x_N)
    assert torch.equal(flat.argmax(1)[asked_N], expected_NC.argmax(1)[asked_N])
    assert bool((flat.amax(1) == 1).all())


def test_an_answer_does_not_depend_to_the_bit_on_what_is_asked_beside_it(
    bits: Population, observed: Observation
) -> None:
    box = ModelBlackBox(observed.targets, bits)
    many = box.predict(bits.x_N.repeat(7, 1))  # 1,120: more than two blocks
    alone = torch.cat([box.predict(x[None]) for x in bits.x_N])
    assert torch.equal(many, alone.repeat(7, 1))


@pytest.mark.slow
def test_a_chain_against_a_network_is_the_same_alone_and_in_a_batch(bits: Population, observed: Observation) -> None:
    syntheses = [
        replace(CLIMB, records_per_class=2, batch=batch).synthesise(bits, ModelBlackBox(observed.targets, bits), seed=0)
        for batch in (1, 4096)
    ]
    assert len(syntheses[0].x_M) > 3
    assert torch.equal(syntheses[0].x_M, syntheses[1].x_M)
    assert torch.equal(syntheses[0].query_C, syntheses[1].query_C)


def test_shadow_models_of_an_attacker_without_records_do_not_stop_early_on_real_ones(bits: Population) -> None:
    settings = {**QUICK, "shadow": CLIMB, "membership": mia.Disjoint(train_size=20, validation=10)}
    with pytest.raises(mia.InputError, match=r"`membership\.validation` is 10, but shadow=model_based"):
        mia.audit(bits, **settings)


def test_a_query_of_a_service_is_one_query_there(bits: Population) -> None:
    observed = mia.observe(bits, **{**QUICK, "target": mia.GooglePrediction(), "shadow": Noisy(count=2)})
    before = observed.targets.num_queries
    box = ModelBlackBox(observed.targets, bits)
    one, many = box.predict(bits.x_N[:1]), box.predict(bits.x_N)
    assert (box.num_queries, observed.targets.num_queries - before) == (161, 161)
    assert torch.equal(one[0], many[0])


@pytest.mark.slow
def test_shadow_records_that_equal_records_of_the_target_are_told(bits: Population) -> None:
    twice = replace(bits, x_N=bits.x_N[torch.arange(160) // 2])
    report = mia.audit(twice, **QUICK)
    plan = mia.observe(twice, **QUICK).membership
    target_N, shadow_N = plan.scored_KN[plan.targets].any(0), plan.scored_KN[plan.shadows].any(0)
    equal_NN = (twice.x_N[:, None] == twice.x_N).all(-1)
    twins = int((equal_NN[shadow_N][:, target_N]).any(1).sum())
    assert twins > 0
    assert any(f"{twins} of the {int(shadow_N.sum())} records of the shadow models" in w for w in report.warnings)
