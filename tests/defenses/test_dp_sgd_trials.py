"""The multi-run bound as a whole audit: DP-SGD stays below what it claims, and broken DP-SGD is caught."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from clipped_gradients import linear

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.private_gradients import PrivateGradients
from mia_lightning.metrics.privacy_bounds import largest_certifiable_epsilon, multi_run_epsilon
from mia_lightning.reports.sentences import privacy_sentences

pytest.importorskip("opacus")
CONFIDENCE = 1 - 1e-6
OTHERS, TRIALS = 30, 2000
DEFENSE = mia.DPSGD(noise_multiplier=2.8, delta=1e-5)
RECIPE = mia.Recipe(epochs=4, batch_size=OTHERS, optimizer=partial(torch.optim.SGD, lr=0.01))


@pytest.fixture
def population(blobs: Population) -> Population:
    """Records with nothing in their last feature, and the first, a mislabelled one, with a large number there."""
    x_N = torch.cat([blobs.x_N[: OTHERS + 20], torch.zeros(OTHERS + 20, 1)], dim=1)
    x_N[0, -1] = 30.0
    label_N = blobs.label_N[: OTHERS + 20].clone()
    label_N[0] = (label_N[0] + 1) % 3
    return Population(name="canary", x_N=x_N, label_N=label_N, class_names=blobs.class_names)


def audited(population: Population, *, seed: int = 0) -> mia.AuditReport:
    return mia.audit(
        population,
        model=linear,
        membership=mia.OneCanary(train_size=OTHERS, record=0),
        target=mia.Trained(count=TRIALS),
        shadow=mia.Real(count=400),
        attacks=[mia.Loss()],
        defenses=[DEFENSE],
        training=RECIPE,
        trainer=mia.TrainerSettings(accelerator="cpu"),
        seed=seed,
    )


def shown_and_claimed(report: mia.AuditReport) -> tuple[float, float]:
    """The bound at a confidence that a test can rest on, from the counts of the report; and the guarantee."""
    privacy = report.privacy
    assert privacy is not None
    assert privacy.epsilon is not None
    trials = privacy.trials
    assert trials is not None
    (bound,) = trials.lower
    counts = (bound.true_positives, trials.num_in, bound.false_positives, trials.num_out)
    assert largest_certifiable_epsilon(trials.num_in, trials.num_out, delta=1e-5, confidence=CONFIDENCE) > (
        privacy.epsilon + 0.5
    )
    assert bound.epsilon_low == pytest.approx(multi_run_epsilon(*counts, delta=privacy.delta))
    return multi_run_epsilon(*counts, delta=privacy.delta, confidence=CONFIDENCE), privacy.epsilon


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_private_training_shows_something_and_no_more_than_it_claims(population: Population, seed: int) -> None:
    report = audited(population, seed=seed)
    shown, claimed = shown_and_claimed(report)
    assert shown <= claimed
    # That it shows anything is said of the confidence for which the threshold was learnt: where this lies far out, few
    # trials are beyond it, and at the confidence above they may show nothing.
    assert report.privacy is not None
    assert report.privacy.trials is not None
    assert report.privacy.trials.lower[0].epsilon_low > 0.0


def without_noise(gradients: PrivateGradients) -> PrivateGradients:
    return replace(gradients, noise_multiplier_K=0 * gradients.noise_multiplier_K)


def without_clipping(gradients: PrivateGradients) -> PrivateGradients:
    """The same noise on sums that nothing limits."""
    scale = 1e6 / gradients.clip_norm
    return replace(gradients, clip_norm=1e6, noise_multiplier_K=gradients.noise_multiplier_K / scale)


@pytest.mark.slow
@pytest.mark.parametrize("change", [without_noise, without_clipping])
def test_a_broken_mechanism_shows_more_than_it_claims(
    change: Callable[[PrivateGradients], PrivateGradients], population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = mia.DPSGD.for_models
    monkeypatch.setattr(mia.DPSGD, "for_models", lambda self, models: change(original(self, models)))
    report = audited(population)
    shown, claimed = shown_and_claimed(report)
    assert shown > claimed
    assert report.privacy is not None
    assert any("refutes the guarantee" in sentence for sentence in privacy_sentences(report.privacy))
