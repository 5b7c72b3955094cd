"""The two attacks that see labels alone, against slow loops over their views."""

import re
from dataclasses import replace

import pytest
import torch
from attack_toys import cpu_engine, in_order, memorising, reordered, scores_of
from torch import Tensor

from mia_lightning.attacks.interface import Attack, DoesNotApplyError, Evidence
from mia_lightning.attacks.label_only import AugmentationLabelOnly, BoundaryLabelOnly
from mia_lightning.attacks.operating_point import balanced_accuracy_threshold
from mia_lightning.attacks.views import Flip, Noise, Shift
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.errors import InputError
from mia_lightning.metrics.roc import auc
from mia_lightning.training.signals import Signals, ViewSignals

AUGMENTATION, BOUNDARY = AugmentationLabelOnly(), BoundaryLabelOnly(scales=(0.1, 0.2, 0.5), draws=2)
ATTACKS = {attack.name: attack for attack in (AUGMENTATION, BOUNDARY)}


def with_views(
    signals: Signals, label_N: Tensor, attack: Attack, seed: int, member_KN: Tensor | None = None
) -> Signals:
    """Answers for the attack's views, shuffled among others: members are right more often, as far as given."""
    random = torch.Generator().manual_seed(seed)
    K, N = len(signals.log_probability_KANC), len(label_N)
    names = ["another", *(view.name for view in attack.needs.views), "one more"]
    order = torch.randperm(len(names), generator=random).tolist()
    rate_KN = torch.full((K, N), 0.6) if member_KN is None else 0.2 + 0.75 * member_KN
    is_correct_KAN = torch.rand(K, len(names), N, generator=random) < rate_KN[:, None]
    return replace(
        signals,
        views=ViewSignals(
            names=tuple(names[a] for a in order),
            scaled_logit_KAN=torch.full((K, len(names), N), torch.nan),  # not to be looked at
            is_correct_KAN=is_correct_KAN,
        ),
    )


def seen(
    attack: Attack, *, records: int = 80, excess: float = 1.0, leak: bool = False
) -> tuple[Evidence, Signals, Tensor]:
    shadows, target, member_N = memorising(records=records, excess=excess)
    label_N = shadows.label_N
    signals = with_views(shadows.signals, label_N, attack, 1, shadows.member_KN if leak else None)
    return (
        replace(shadows, signals=signals),
        with_views(target, label_N, attack, 2, member_N[None] if leak else None),
        member_N,
    )


def is_correct(signals: Signals, view: str, k: int, n: int) -> bool:
    assert signals.views is not None
    return bool(signals.views.is_correct_KAN[k, signals.views.names.index(view), n])


def right_itself(signals: Signals, label_N: Tensor, k: int, n: int) -> bool:
    p = signals.log_probability_KANC[k, 0, n].tolist()
    return p.index(max(p)) == int(label_N[n])


def plain_augmentation(signals: Signals, label_N: Tensor, k: int, n: int) -> float:
    names = ["shift_-1_0", "shift_0_-1", "shift_0_1", "shift_1_0", "flip"]
    return (right_itself(signals, label_N, k, n) + sum(is_correct(signals, name, k, n) for name in names)) / 6


def plain_boundary(signals: Signals, label_N: Tensor, k: int, n: int) -> float:
    if not right_itself(signals, label_N, k, n):
        return -1.0
    distances = []
    for draw in range(2):
        distance = 0.0
        for scale in (0.1, 0.2, 0.5):
            if not is_correct(signals, f"noise_{scale}_{draw}", k, n):
                break
            distance = scale
        distances.append(distance)
    return sum(distances) / 2


@pytest.mark.parametrize(("attack", "plain"), [(AUGMENTATION, plain_augmentation), (BOUNDARY, plain_boundary)])
def test_scores_and_threshold_equal_a_slow_loop(attack: Attack, plain: object) -> None:
    shadows, target, _ = seen(attack)
    score_N, _ = scores_of(attack, shadows, target)
    assert score_N.tolist() == pytest.approx([plain(target, shadows.label_N, 0, n) for n in range(80)], abs=1e-12)
    assert score_N.unique().numel() > 3
    score_KN = torch.tensor([[plain(shadows.signals, shadows.label_N, k, n) for n in range(80)] for k in range(4)])
    expected = balanced_accuracy_threshold(score_KN[shadows.scored_KN], shadows.member_KN[shadows.scored_KN])
    assert attack.fit(shadows, cpu_engine()).threshold == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_model_that_is_robust_on_its_members_is_caught(attack: Attack) -> None:
    shadows, target, member_N = seen(attack, records=900, excess=12.0, leak=True)
    score_N, flagged_N = scores_of(attack, shadows, target)
    scored_N = ~shadows.population_N
    assert auc(score_N[scored_N], member_N[scored_N]) > 0.9
    assert float(flagged_N[member_N].double().mean()) > 0.8
    assert float(flagged_N[scored_N & ~member_N].double().mean()) < 0.2


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_nothing_but_labels_is_looked_at(attack: Attack) -> None:
    shadows, target, _ = seen(attack)
    score_N, flagged_N = scores_of(attack, shadows, target)

    def labels(signals: Signals) -> Signals:
        return replace(signals, log_probability_KANC=LabelsOnly().apply(signals.log_probability_KANC))

    hidden = replace(shadows, signals=labels(shadows.signals))
    other_N, other_flagged_N = scores_of(attack, hidden, labels(target))
    assert torch.equal(other_N, score_N)
    assert torch.equal(other_flagged_N, flagged_N)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_order_of_records_and_of_views_does_not_matter(attack: Attack) -> None:
    shadows, target, _ = seen(attack)
    score_N, _ = scores_of(attack, shadows, target)
    order_N = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    other_N, _ = scores_of(attack, reordered(shadows, order_N), in_order(target, order_N))
    assert torch.equal(other_N, score_N[order_N])
    views = target.views
    assert views is not None
    turned = replace(views, names=views.names[::-1], is_correct_KAN=views.is_correct_KAN.flip(1))
    assert torch.equal(scores_of(attack, shadows, replace(target, views=turned))[0], score_N)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_views_that_were_not_asked_about_are_named(attack: Attack) -> None:
    shadows, target, _ = seen(attack)
    first = attack.needs.views[0].name
    fitted = attack.fit(shadows, cpu_engine())
    with pytest.raises(DoesNotApplyError, match=f"attack={attack.name} needs answers for the view {first}"):
        fitted.score(replace(target, views=None), shadows.label_N)
    assert target.views is not None
    renamed = replace(target.views, names=tuple(name.replace(first, "else") for name in target.views.names))
    with pytest.raises(DoesNotApplyError, match=first):
        fitted.score(replace(target, views=renamed), shadows.label_N)
    with pytest.raises(DoesNotApplyError, match=first):
        attack.fit(replace(shadows, signals=replace(shadows.signals, views=None)), cpu_engine())


@pytest.mark.parametrize("distance", [0, 1, 2, 3])
def test_the_views_of_augmentation_are_the_shifts_of_one_distance(distance: int) -> None:
    attack = AugmentationLabelOnly(shift=distance)
    steps = [(view.dx, view.dy) for view in attack.views if isinstance(view, Shift)]
    grid = range(-distance, distance + 1)
    assert sorted(steps) == sorted((x, y) for x in grid for y in grid if abs(x) + abs(y) == distance and distance)
    assert attack.views[-1] == Flip()
    assert attack.needs.views == attack.views
    assert attack.needs.queries == 4 * distance + 2
    assert str(attack.needs.queries) in attack.description
    assert Flip() not in AugmentationLabelOnly(shift=1, flip=False).views


def test_the_image_shape_reaches_every_view() -> None:
    views = AugmentationLabelOnly(image_shape=[8, 8]).views
    assert all(view.refusal((64,)) is None for view in views)
    assert all(view.refusal((64,)) is not None for view in AugmentationLabelOnly().views)


def test_the_views_of_the_boundary_are_draws_of_noise() -> None:
    assert BOUNDARY.views == tuple(Noise(scale=scale, draw=draw) for scale in (0.1, 0.2, 0.5) for draw in (0, 1))
    assert BOUNDARY.needs.queries == 7
    assert "7 queries" in BOUNDARY.description


def test_augmentation_without_views_is_refused() -> None:
    with pytest.raises(InputError, match=r"`attack\.mine\.shift` is 0 and `attack\.mine\.flip` false.*set one of them"):
        AugmentationLabelOnly(name="mine", shift=0, flip=False)


@pytest.mark.parametrize(
    ("scales", "sentence"),
    [([], "a list of numbers above 0"), ([0.0, 1.0], "above 0"), ([0.2, 0.1], "each"), ([0.1, 0.2, 0.2], "each")],
)
def test_scales_that_are_no_increasing_amounts_are_refused(scales: list[float], sentence: str) -> None:
    with pytest.raises(InputError, match=rf"`attack\.mine\.scales` is {re.escape(str(scales))}.*{sentence}"):
        BoundaryLabelOnly(name="mine", scales=scales)
