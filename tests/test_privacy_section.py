"""The guarantee of a target that was trained privately, beside what the attacks rule out."""

from functools import partial

import pytest
import torch
from quick import quick_audit

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.metrics.privacy_bounds import one_run_epsilon

pytest.importorskip("opacus")


def test_without_guarantee_and_canaries_there_is_no_section(blobs: Population) -> None:
    assert (
        mia.audit(blobs, **quick_audit(membership=mia.Disjoint(train_size=20), shadow=mia.Real(count=2))).privacy
        is None
    )


def test_a_guarantee_is_that_of_the_accountant(blobs: Population) -> None:
    defense = mia.DPSGD(noise_multiplier=1.5)
    settings = quick_audit(membership=mia.Disjoint(train_size=20), shadow=mia.Real(count=2), defenses=[defense])
    report = mia.audit(blobs, **settings)
    expected = defense.guarantee(settings["training"], 20)  # type: ignore[arg-type]
    assert report.privacy is not None
    assert (report.privacy.epsilon, report.privacy.delta) == (expected.epsilon, expected.delta)
    assert report.privacy.lower == ()
    assert report.privacy.num_canaries is None
    assert "differentially private under adding or removing one record" in report.privacy.statement


@pytest.mark.parametrize("defenses", [[], [mia.DPSGD(noise_multiplier=2.0)]])
def test_each_attack_rules_an_epsilon_out(blobs: Population, defenses: list[object]) -> None:
    settings = quick_audit(
        membership=mia.Bernoulli(canaries=40), shadow=mia.Real(count=4), attacks=[mia.Loss(), mia.Shokri()]
    )
    report = mia.audit(blobs, **settings, defenses=defenses)
    privacy = report.privacy
    assert privacy is not None
    assert (privacy.epsilon is None) == (not defenses)
    assert privacy.num_canaries == 40
    assert [bound.attack for bound in privacy.lower] == ["loss", "shokri"]
    scores = report.scores
    for bound in privacy.lower:
        rows = scores.attack == bound.attack
        order = sorted(zip(-scores.score[rows], range(40), scores.is_member[rows], strict=True))
        right = sum(member for *_, member in order[:10]) + sum(not member for *_, member in order[30:])
        assert (bound.num_guesses, bound.num_correct) == (20, right)
        low = one_run_epsilon(40, 20, int(right), delta=privacy.delta, confidence=0.975)
        assert bound.epsilon_low == pytest.approx(low)


def test_a_target_that_memorises_its_canaries_is_caught(blobs: Population) -> None:
    """No guarantee, and networks that know their records by heart: an epsilon of 0 is ruled out."""
    settings = quick_audit(
        membership=mia.Bernoulli(canaries=100),
        shadow=mia.Real(count=8),
        training=mia.Recipe(epochs=60, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.03)),
        model=lambda: torch.nn.Sequential(torch.nn.Linear(6, 200), torch.nn.ReLU(), torch.nn.Linear(200, 3)),
    )
    noisy = Population(
        name="noisy",
        x_N=blobs.x_N,
        label_N=torch.randint(3, (120,), generator=torch.Generator().manual_seed(0)),
        class_names=blobs.class_names,
    )
    privacy = mia.audit(noisy, **settings).privacy
    assert privacy is not None
    assert privacy.lower[0].epsilon_low > 0.2


def test_the_page_shows_both_bounds(blobs: Population, tmp_path: object) -> None:
    settings = quick_audit(membership=mia.Bernoulli(canaries=40), shadow=mia.Real(count=4))
    report = mia.audit(blobs, **settings, defenses=[mia.DPSGD(noise_multiplier=2.0)], output=tmp_path)
    page = (tmp_path / "report.html").read_text()  # type: ignore[operator]
    assert report.privacy is not None
    assert "Differential privacy" in page
    assert f"{report.privacy.lower[0].epsilon_low:.3f}" in page
    assert 'id="epsilon"' in page
    assert mia.read_report(tmp_path).privacy == report.privacy  # type: ignore[arg-type]
