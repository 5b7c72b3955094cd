"""Quantile regression: networks against the densities they are to learn, and the attack against a slow reference."""

from dataclasses import replace
from functools import partial

import oracles
import pytest
import torch
from attack_toys import cpu_engine, in_order, make_evidence, memorising, reordered, scores_of
from scipy.stats import norm
from torch import Tensor

from mia_lightning.attacks.interface import DoesNotApplyError, Evidence, Needs
from mia_lightning.attacks.leave_one_out import score_each
from mia_lightning.attacks.quantile_regression import (
    FittedQuantileRegression,
    QuantileRegression,
    default_training,
    features,
    gaussian_loss,
    mean_and_deviation,
)
from mia_lightning.attacks.statistics import scaled_logit
from mia_lightning.datasets.augmentation import Flip
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.metrics.roc import auc
from mia_lightning.training.signals import Signals
from mia_lightning.training.step.recipe import EarlyStopping, Recipe

ADAM = partial(torch.optim.Adam, lr=0.01)
QUICK = Recipe(epochs=15, batch_size=40, optimizer=ADAM)


def attack(**settings: object) -> QuantileRegression:
    return QuantileRegression(**{"hidden": (8,), "training": QUICK, **settings})


def two_classes(signal_KN: Tensor) -> Signals:
    """Signals whose scaled logit for class 0 is this."""
    logits = torch.stack([signal_KN, torch.zeros_like(signal_KN)], dim=-1)
    return Signals(log_probability_KANC=logits.log_softmax(-1).float().unsqueeze(1))


def evidence_of(signals: Signals, member_KN: Tensor, x_N: Tensor, population_N: Tensor) -> Evidence:
    label_N = torch.zeros(len(x_N), dtype=torch.int64)
    return make_evidence(
        signals=signals,
        member_KN=member_KN,
        scored_KN=(~population_N).expand_as(member_KN),
        label_N=label_N,
        num_classes=2,
        population_N=population_N,
        population=Population(name="toy", x_N=x_N, label_N=label_N, class_names=("a", "b")),
    )


def test_the_loss_is_minus_the_normal_log_density() -> None:
    random = torch.Generator().manual_seed(0)
    output_KB2 = torch.randn(2, 5, 2, generator=random, dtype=torch.float64)
    response_KB = torch.randn(2, 5, generator=random, dtype=torch.float64)
    mean_KB, deviation_KB = mean_and_deviation(output_KB2)
    expected = -norm.logpdf(response_KB.numpy(), mean_KB.numpy(), deviation_KB.numpy()) + norm.logpdf(0.0)
    torch.testing.assert_close(gaussian_loss(output_KB2, response_KB), torch.from_numpy(expected))
    # Bounded on both sides, so that no response, however odd, makes the loss infinite.
    far = torch.tensor([[[0.0, 1e6], [0.0, -1e6]]])
    assert mean_and_deviation(far)[1].log().tolist() == [[pytest.approx(4.0), pytest.approx(-4.0)]]


@pytest.mark.usefixtures("global_generators")
def test_networks_see_normalised_records_and_their_class() -> None:
    population = Population(
        name="pictures",
        x_N=torch.randint(0, 256, (6, 2, 3), dtype=torch.uint8),
        label_N=torch.arange(6) % 3,
        class_names=("a", "b", "c"),
        scale=1 / 255,
        mean=torch.tensor(0.5),
        std=torch.tensor(0.25),
    )
    found = features(population, torch.tensor([4, 1]), torch.tensor([2, 0]))
    for row, (n, y) in enumerate([(4, 2), (1, 0)]):
        pixels = [(int(value) / 255 - 0.5) / 0.25 for value in population.x_N[n].flatten()]
        assert found[row].tolist() == pytest.approx(pixels + [float(c == y) for c in range(3)], abs=1e-6)


def test_scores_equal_a_slow_reference_over_single_networks() -> None:
    """Each target's network as an ordinary module, one record at a time."""
    shadows, _, _ = memorising(records=120, excess=1.0)
    targets = shadows.signals.select(torch.tensor([True, False, True, False]))
    fitted = attack().fit(shadows, cpu_engine())
    assert isinstance(fitted, FittedQuantileRegression)
    score_TN = fitted.score(targets, shadows.label_N)
    logit_TN = scaled_logit(targets, shadows.label_N)
    index_P = shadows.population_N.nonzero().squeeze(1)
    mean_T = [logit_TN[t, index_P].mean() for t in range(2)]
    std_T = [logit_TN[t, index_P].std(correction=0) for t in range(2)]
    response_TP = torch.stack([(logit_TN[t, index_P] - mean_T[t]) / std_T[t] for t in range(2)])
    networks = fitted._train(fitted._records(), response_TP)
    known = torch.stack([raw_record(shadows, int(n)) for n in index_P])
    for t in range(2):
        network = networks.stack.model(t)
        for n in range(0, 120, 7):
            x = (raw_record(shadows, n) - known.mean(0)) / known.std(0, correction=0)
            mean, raw = network(x[None])[0].double().tolist()
            deviation = float(torch.exp(4 * torch.tanh(torch.tensor(raw) / 4)))
            expected = (float((logit_TN[t, n] - mean_T[t]) / std_T[t]) - mean) / deviation
            assert float(score_TN[t, n]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def raw_record(shadows: Evidence, n: int) -> Tensor:
    is_class_C = torch.nn.functional.one_hot(shadows.label_N[n], shadows.num_classes)
    return torch.cat([shadows.population.x_N[n], is_class_C.float()])


@pytest.mark.slow
def test_it_learns_the_density_of_nonmembers_and_reaches_the_limit_of_offline_lira() -> None:
    """The record says its own effect a, so that μ(x) = a, σ = 1 is what the network must find (Gaussian release)."""
    N = 9000
    release = oracles.simulate_gaussian_release(N, 0)
    population_N = torch.arange(N) % 3 == 0
    population_N &= torch.rand(N, generator=torch.Generator().manual_seed(0)) < 0.9
    member_N = release.member_KN[0] & ~population_N
    signal_N = release.score_KN[0] - release.shift_N * (release.member_KN[0] & population_N)  # of nobody's members
    noise_NF = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
    x_N = torch.cat([10 * release.effect_N[:, None].float() + 3, noise_NF], dim=1)
    shadows = evidence_of(two_classes(signal_N[None]), member_N[None], x_N, population_N)
    training = Recipe(epochs=30, batch_size=200, optimizer=ADAM, early_stopping=EarlyStopping(patience=4))
    score_N, flagged_N = scores_of(attack(hidden=(16,), alpha=0.05, training=training), shadows, shadows.signals)
    # Of records that are nobody's, the score is standard normal: the residual of the release itself.
    outside_N = ~member_N & ~population_N
    residual_N = signal_N - release.effect_N
    assert float((score_N - residual_N)[outside_N].square().mean()) < 0.05
    rate = float(flagged_N[outside_N].double().mean())
    assert abs(rate - 0.05) < 4 * (0.05 * 0.95 / int(outside_N.sum())) ** 0.5 + 0.01
    # Shifts of 0.5, 2 and 4 come equally often, and every third record is kept: weigh them as they are.
    shift_M = release.shift_N[member_N]
    limit = float(torch.tensor([norm.cdf(float(mu) / 2**0.5) for mu in shift_M]).mean())
    found = auc(score_N[~population_N], member_N[~population_N])
    error = oracles.auc_standard_error(score_N[~population_N], member_N[~population_N])
    assert limit - 4 * error - 0.01 < found < limit + 4 * error
    assert found > auc(signal_N[~population_N], member_N[~population_N]) + 0.05


def test_a_memorising_model_is_caught() -> None:
    shadows, target, member_N = memorising(records=600, excess=12.0)
    score_N, flagged_N = scores_of(QuantileRegression(), shadows, target)
    scored_N = ~shadows.population_N
    assert auc(score_N[scored_N], member_N[scored_N]) > 0.9
    assert float(flagged_N[member_N].double().mean()) > 0.8


@pytest.mark.slow
def test_a_target_is_scored_alike_alone_and_among_others_whatever_the_shadow_models() -> None:
    shadows, _, _ = memorising(records=100, excess=1.0)
    settings = {
        "stack": attack(),
        "chunk": attack(training=replace(QUICK, chunk=1)),
        "loop": attack(training=replace(QUICK, execution="loop")),
    }
    together = attack().fit(shadows, cpu_engine()).score(shadows.signals, shadows.label_N)
    for each in settings.values():
        for t in range(2):
            alone = shadows.signals.select(torch.arange(4) == t)
            nothing = shadows.select(torch.zeros(4, dtype=torch.bool))
            score_TN = each.fit(nothing, cpu_engine()).score(alone, shadows.label_N)
            torch.testing.assert_close(score_TN[0], together[t], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_networks_of_all_models_as_targets_are_one_stack() -> None:
    shadows, _, _ = memorising(records=100, excess=1.0)
    engine = cpu_engine()
    scored = score_each(attack(), shadows, shadows.signals, engine, folds=2)
    train_loss_EK, _ = engine.losses["attack/quantile_regression"]
    assert train_loss_EK.shape == (QUICK.epochs, 4)
    for t in range(4):
        is_t_K = torch.arange(4) == t
        alone = attack().fit(shadows.select(~is_t_K), cpu_engine())
        score_TN = alone.score(shadows.signals.select(is_t_K), shadows.label_N)
        torch.testing.assert_close(score_TN[0], scored.score_TN[t], rtol=1e-3, atol=1e-3)
    assert torch.equal(scored.is_flagged_TN, scored.score_TN >= norm.ppf(0.9))


def test_scores_of_other_records_depend_neither_on_their_order_nor_on_each_other() -> None:
    shadows, target, _ = memorising(records=100, excess=1.0)
    score_N, _ = scores_of(attack(), shadows, target)
    # The population keeps its order: it is that of the batches.
    rest = (~shadows.population_N).nonzero().squeeze(1)
    order_N = torch.cat([shadows.population_N.nonzero().squeeze(1), rest.flip(0)])
    other_N, _ = scores_of(attack(), reordered(shadows, order_N), in_order(target, order_N))
    torch.testing.assert_close(other_N, score_N[order_N], rtol=1e-5, atol=1e-5)
    changed = target.log_probability_KANC.clone()
    changed[:, :, rest[0]] = torch.tensor([-50.0, -50.0, 0.0])
    other_N, _ = scores_of(attack(), shadows, Signals(log_probability_KANC=changed))
    kept_N = torch.arange(100) != rest[0]
    assert torch.equal(other_N[kept_N], score_N[kept_N])


def test_the_seed_of_the_run_decides() -> None:
    shadows, target, _ = memorising(records=100, excess=1.0)
    first, again, other = (attack().fit(shadows, cpu_engine(seed)).score(target, shadows.label_N) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, rtol=1e-3, atol=1e-3)


def test_members_are_never_trained_on() -> None:
    """Scoring every record but the population's by other signals leaves the networks as they were."""
    shadows, target, _ = memorising(records=100, excess=1.0)
    trained_on = []

    class Recording(FittedQuantileRegression):
        def _train(self, records: Population, response_TP: Tensor) -> object:
            trained_on.append((records.x_N, response_TP))
            return super()._train(records, response_TP)

    fitted = attack().fit(shadows, cpu_engine())
    recording = Recording(**{name: getattr(fitted, name) for name in fitted.__dataclass_fields__})
    recording.score(target, shadows.label_N)
    ((x_PF, response_TP),) = trained_on
    assert torch.equal(x_PF[:, :6], shadows.population.x_N[shadows.population_N])
    logit_N = scaled_logit(target, shadows.label_N)[0, shadows.population_N]
    torch.testing.assert_close(response_TP[0], (logit_N - logit_N.mean()) / logit_N.std(correction=0))


def test_a_network_that_failed_compares_with_the_population_as_a_whole() -> None:
    shadows, target, _ = memorising(records=100, excess=1.0)
    engine = cpu_engine()
    broken = Recipe(epochs=2, batch_size=5, optimizer=partial(torch.optim.SGD, lr=1e30))
    score_TN = attack(training=broken).fit(shadows, engine).score(target, shadows.label_N)
    logit_N = scaled_logit(target, shadows.label_N)[0]
    known_P = logit_N[shadows.population_N]
    torch.testing.assert_close(score_TN[0], (logit_N - known_P.mean()) / known_P.std(correction=0))
    assert any("networks of the targets [0] was not finite" in remark for remark in engine.stages.remarks)


def test_answers_that_are_all_equal_are_no_division_by_zero() -> None:
    signal_KN = torch.ones(1, 40)
    population_N = torch.arange(40) < 20
    x_N = torch.cat([torch.ones(40, 1), torch.arange(40.0)[:, None]], dim=1)  # a constant feature, too
    shadows = evidence_of(two_classes(signal_KN), torch.zeros(1, 40, dtype=torch.bool), x_N, population_N)
    assert bool(scores_of(attack(), shadows, shadows.signals)[0].isfinite().all())


def test_too_small_a_population_does_not_apply() -> None:
    shadows, _, _ = memorising(records=45)  # of which 9 are the population
    assert attack().needs == Needs(shadows=False, population=True)
    with pytest.raises(DoesNotApplyError, match=r"at least 10, and there are 9; set `membership\.population`"):
        attack().fit(shadows, cpu_engine())


@pytest.mark.costly
@pytest.mark.parametrize("size", [50, 51])
def test_the_smallest_population_will_do(size: int) -> None:
    shadows, target, _ = memorising(records=size)
    training = replace(QUICK, early_stopping=EarlyStopping(patience=1))
    for held_out in (0.01, 0.2, 0.99):
        score_N, _ = scores_of(attack(training=training, held_out=held_out), shadows, target)
        assert bool(score_N.isfinite().all())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"training": replace(QUICK, augment=(Flip(),))}, "augment` is set, but attack networks see no images"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        attack(**settings)


def test_the_threshold_is_the_normal_quantile_and_the_description_says_so() -> None:
    shadows, _, _ = memorising(records=100)
    for alpha in (0.01, 0.1):
        fitted = attack(alpha=alpha).fit(shadows, cpu_engine())
        assert fitted.threshold == pytest.approx(norm.ppf(1 - alpha), abs=1e-12)
    assert "quantile of 0.9" in attack().description
    assert default_training().early_stopping is not None
