"""The guarantee of a target that was trained privately, beside what the attacks rule out."""

import io
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from quick import QUICK_SHOKRI, quick_audit
from rich.console import Console

import mia_lightning as mia
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.metrics.privacy_bounds import largest_certifiable_epsilon, multi_run_epsilon, one_run_epsilon
from mia_lightning.models.mlp import MLP
from mia_lightning.reports.console import render_summary
from mia_lightning.reports.plots import epsilon_plot
from mia_lightning.reports.privacy_section import EpsilonBound, PrivacySection, TrialBound, TrialsSection
from mia_lightning.reports.sentences import headline, meaning, privacy_sentences, verdict
from mia_lightning.seeds import generator
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob

pytest.importorskip("opacus")


def test_without_guarantee_and_canaries_there_is_no_section(blobs: Population) -> None:
    assert (
        mia.audit(blobs, **quick_audit(membership=mia.Disjoint(train_size=20), shadow=mia.Real(count=2))).privacy
        is None
    )


@pytest.mark.costly
@pytest.mark.parametrize("plan", [mia.Disjoint(train_size=20), mia.Halves(train_size=20)])
def test_a_guarantee_is_that_of_the_accountant_and_only_coins_bound_it_from_below(
    plan: mia.Plan, blobs: Population
) -> None:
    defense = mia.DPSGD(noise_multiplier=1.5)
    settings = quick_audit(membership=plan, shadow=mia.Real(count=6), defenses=[defense])
    report = mia.audit(blobs, **settings)
    expected = defense.guarantee(settings["training"], 20)  # type: ignore[arg-type]
    assert report.privacy is not None
    assert (report.privacy.epsilon, report.privacy.delta) == (expected.epsilon, expected.delta)
    assert report.privacy.lower == ()
    assert report.privacy.num_canaries is None
    assert "differentially private under adding or removing one record" in report.privacy.statement


@pytest.mark.costly
@pytest.mark.parametrize("defenses", [[], [mia.DPSGD(noise_multiplier=2.0)]])
def test_each_attack_rules_an_epsilon_out(blobs: Population, defenses: list[object]) -> None:
    settings = quick_audit(
        membership=mia.Bernoulli(canaries=40), shadow=mia.Real(count=4), attacks=[mia.Loss(), QUICK_SHOKRI]
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


@pytest.mark.slow
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


# --- many runs -------------------------------------------------------------------------------------------


def trials_audit(**options: object) -> dict[str, object]:
    settings = {
        "membership": mia.OneCanary(train_size=20, record=3),
        "target": mia.Trained(count=60),
        "shadow": mia.Real(count=20),
        **options,
    }
    return quick_audit(**settings)


def trials_of(report: mia.AuditReport) -> TrialsSection:
    assert report.privacy is not None
    assert report.privacy.trials is not None
    return report.privacy.trials


@pytest.mark.costly
@pytest.mark.parametrize("defenses", [[], [mia.DPSGD(noise_multiplier=2.0)]])
def test_each_attack_rules_an_epsilon_out_by_its_flags_over_trials(blobs: Population, defenses: list[object]) -> None:
    report = mia.audit(blobs, **trials_audit(attacks=[mia.Loss(), QUICK_SHOKRI], defenses=defenses))
    trials, privacy = trials_of(report), report.privacy
    assert privacy is not None
    assert (privacy.epsilon is None) == (not defenses)
    assert (privacy.num_canaries, privacy.lower) == (None, ())
    assert (trials.record, trials.class_name, trials.is_natural, trials.num_shadows) == (3, "a", True, 20)
    assert trials.num_in + trials.num_out == 60
    assert trials.largest_epsilon == pytest.approx(
        largest_certifiable_epsilon(trials.num_in, trials.num_out, delta=privacy.delta, confidence=0.975)
    )
    assert [bound.attack for bound in trials.lower] == ["loss", "shokri"]
    scores = report.scores
    assert scores is not None
    for bound in trials.lower:
        rows = scores.attack == bound.attack
        assert set(scores.record[rows]) == {3}
        assert sorted(scores.target[rows]) == list(range(60))
        flagged, is_in = scores.score[rows] >= bound.threshold, scores.is_member[rows]
        counts = int((flagged & is_in).sum()), int(is_in.sum()), int((flagged & ~is_in).sum()), int((~is_in).sum())
        assert counts == (bound.true_positives, trials.num_in, bound.false_positives, trials.num_out)
        low = multi_run_epsilon(*counts, delta=privacy.delta, confidence=0.975)
        assert bound.epsilon_low == pytest.approx(low)


def test_the_threshold_is_chosen_on_the_shadow_models_alone(blobs: Population) -> None:
    few, more = (
        trials_of(mia.audit(blobs, **trials_audit(target=mia.Trained(count=count)))).lower[0] for count in (60, 90)
    )
    other = trials_of(mia.audit(blobs, **trials_audit(shadow=mia.Real(count=40)))).lower[0]
    assert few.threshold == more.threshold != other.threshold


def test_figures_are_over_trials_and_accuracies_over_records_that_are_in_no_model(blobs: Population) -> None:
    report = mia.audit(blobs, **trials_audit())
    (attack,) = report.attacks
    trials, scores = trials_of(report), report.scores
    assert scores is not None
    assert (attack.num_targets, report.target.num_targets) == (1, 60)
    assert (attack.overall.num_members, attack.overall.num_nonmembers) == (trials.num_in, trials.num_out)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores.score[scores.is_member] for b in scores.score[~scores.is_member]]
    assert attack.overall.auc.value == pytest.approx(sum(pairs) / len(pairs))
    assert attack.overall.auc.low is not None
    assert attack.estimand == "other trainings on the same records, with the canary or without it"
    assert [group.num_members for group in attack.per_class] == [trials.num_in, 0, 0]
    assert 0 < report.target.test_accuracy < 1
    assert report.shadow.test_accuracy > 0


def test_models_with_the_canary_take_as_many_steps_as_those_without(
    blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a batch size of 20, 21 records would be two batches, and a model with the canary would be moved twice."""
    steps: dict[str, set[int]] = {}
    run = Engine.run

    def spied(self: Engine, job: TrainingJob) -> Any:
        steps[job.role] = {job.recipe.steps_per_epoch(len(records)) for records in job.records_K}
        return run(self, job)

    monkeypatch.setattr(Engine, "run", spied)
    mia.audit(blobs, **trials_audit())
    assert steps == {"target": {1}, "shadow": {1}}


@pytest.fixture
def corners() -> Population:
    """60 records of 3 classes far apart, where a wrong label is known by heart or not at all."""
    label_N = torch.arange(60) % 3
    x_N = 4 * torch.eye(3)[label_N] + torch.randn(60, 3, generator=generator(0, "corners"))
    return Population(name="corners", x_N=x_N, label_N=label_N, class_names=("a", "b", "c"))


@pytest.mark.slow
def test_networks_that_know_a_mislabelled_canary_by_heart_show_most_of_what_the_trials_can(corners: Population) -> None:
    settings = trials_audit(
        membership=mia.OneCanary(train_size=20),
        canaries=mia.Canaries(count=1),
        target=mia.Trained(count=100),
        training=mia.Recipe(epochs=80, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.05)),
        model=partial(MLP, hidden=[50]),
    )
    report = mia.audit(corners, **settings)
    trials = trials_of(report)
    assert not trials.is_natural
    assert trials.lower[0].epsilon_low > 0.6 * trials.largest_epsilon > 1.5
    assert headline(report).startswith("Membership of one record leaks: AUC\u00a0")
    assert "scores a model trained with the canary above one trained without it in" in verdict(report)[0]
    assert meaning(report)[:3] == privacy_sentences(report.privacy)  # type: ignore[arg-type]


@pytest.mark.slow
def test_page_console_and_file_show_both_bounds_of_trials(blobs: Population, tmp_path: object) -> None:
    report = mia.audit(blobs, **trials_audit(defenses=[mia.DPSGD(noise_multiplier=2.0)]), output=tmp_path)
    trials, privacy = trials_of(report), report.privacy
    assert privacy is not None
    page = (tmp_path / "report.html").read_text()  # type: ignore[operator]
    console = Console(width=80, file=io.StringIO(), no_color=True)
    console.print(render_summary(report))
    printed = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    (bound,) = trials.lower
    assert bound.epsilon_low == 0.0
    for text in (
        f"{trials.num_in} with one more record (a natural one: number 3, class a) and {trials.num_out} without it",
        f"loss flags {bound.true_positives} of the {trials.num_in} models trained with it and "
        f"{bound.false_positives} of the {trials.num_out} trained without it",
        f"no epsilon above 0 is shown, and at most {privacy.epsilon:.3f} is guaranteed",
        f"can show an epsilon of at most {trials.largest_epsilon:.3f}",
    ):
        assert text in page
        assert text in printed
    assert 'id="epsilon"' in page
    assert "one record, added or removed" in page
    assert mia.read_report(tmp_path).privacy == privacy  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [None, 8.0])
def test_upper_and_lower_bound_are_drawn_together(epsilon: float | None) -> None:
    bound = TrialBound(attack="loss", epsilon_low=1.25, threshold=0.0, true_positives=9, false_positives=1)
    trials = TrialsSection(
        record=0,
        class_name="a",
        is_natural=True,
        num_in=10,
        num_out=10,
        num_shadows=4,
        largest_epsilon=4.5,
        lower=(bound,),
    )
    plot = epsilon_plot(PrivacySection(epsilon=epsilon, delta=1e-3, statement="", trials=trials))
    assert (plot["data"][0]["x"], plot["data"][0]["y"]) == (["loss"], [1.25])
    lines = [(line["y0"], line["y1"], line["line"]["dash"]) for line in plot["layout"]["shapes"]]
    guaranteed = [] if epsilon is None else [(8.0, 8.0, "dash")]
    assert lines == [*guaranteed, (4.5, 4.5, "dot")]


def test_of_several_attacks_the_one_that_shows_most_is_told() -> None:
    bounds = [
        EpsilonBound(attack=name, epsilon_low=low, num_guesses=50, num_correct=1)
        for name, low in (("loss", 0.0), ("lira", 0.5), ("gap", 0.2))
    ]
    section = PrivacySection(epsilon=None, delta=1e-3, statement="", num_canaries=100, lower=tuple(bounds))
    assert [sentence.split()[0] for sentence in privacy_sentences(section)] == ["lira"]
    none = section.model_copy(update={"lower": tuple(bounds[:1])})
    assert "canaries correctly: no epsilon above 0 is shown (" in privacy_sentences(none)[0]
    assert privacy_sentences(section.model_copy(update={"lower": ()})) == []


def test_a_guarantee_that_the_trials_refute_is_said_to_be_refuted() -> None:
    bound = EpsilonBound(attack="loss", epsilon_low=2.0, num_guesses=50, num_correct=48)
    for epsilon, ending in (
        (1.5, ": epsilon is above 2.000, which refutes the guarantee of 1.500 (95% confidence, delta 0.001)."),
        (2.5, ": epsilon is above 2.000, and at most 2.500 is guaranteed (95% confidence, delta 0.001)."),
        (None, ": epsilon is above 2.000 (95% confidence, delta 0.001)."),
    ):
        privacy = PrivacySection(epsilon=epsilon, delta=1e-3, statement="", num_canaries=100, lower=(bound,))
        (sentence,) = privacy_sentences(privacy)
        assert sentence.startswith("loss guesses 48 of 50 canaries correctly")
        assert sentence.endswith(ending)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": mia.Trained(count=4)}, r"`target.count` is 4, of which .* target.count=\d+ is enough"),
        ({"target": mia.LeaveOneOut()}, "membership=one_canary gives .* use membership=halves"),
        ({"shadow": mia.Noisy(count=4)}, "shadow=noisy makes records, and under membership=one_canary"),
        ({"shadow": mia.Real(count=3)}, r"`shadow.count` is 3, but membership=one_canary trains complementary pairs"),
    ],
)
def test_what_makes_no_trials_is_refused_before_anything_is_trained(
    options: dict[str, object], sentence: str, blobs: Population
) -> None:
    with pytest.raises(InputError, match=sentence):
        mia.audit(blobs, **trials_audit(**options))


def test_no_trial_may_be_left_out(corners: Population) -> None:
    """The canary drives every model that it is in to infinity."""
    x_N = corners.x_N.clone()
    x_N[0] = 1e30
    settings = trials_audit(
        membership=mia.OneCanary(train_size=20, record=0),
        training=mia.Recipe(epochs=4, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.1)),
        model=partial(torch.nn.Linear, 3, 3),
    )
    with pytest.raises(InputError, match=r"outputs of \d+ of 60 targets were not finite, .* no trial may be left out"):
        mia.audit(replace(corners, x_N=x_N), **settings)


def test_convergence_is_not_measured_on_trials(blobs: Population) -> None:
    report = mia.audit(blobs, **trials_audit(), convergence=True)
    assert report.attacks[0].convergence is None
    assert any("Whether more shadow models would help was not measured" in each for each in report.warnings)
