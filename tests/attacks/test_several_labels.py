"""The attacks that ask whether answers are right, of several labels: against slow loops."""

from dataclasses import replace

import pytest
import torch
from attack_toys import cpu_engine, make_evidence
from torch import Tensor

from mia_lightning.attacks.gap import Gap
from mia_lightning.attacks.interface import Evidence
from mia_lightning.attacks.label_only import BoundaryLabelOnly
from mia_lightning.attacks.statistics import all_right, correctness
from mia_lightning.attacks.views import Noise, observe_views
from mia_lightning.datasets.population import Population
from mia_lightning.tasks import Multilabel, Regression
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import Signals

K, N, L = 3, 60, 4


def toy(seed: int = 0) -> tuple[Evidence, Signals]:
    """Shadow models, and a target, whose logits are nearer to the labels of records that they trained on."""
    random = torch.Generator().manual_seed(seed)
    label_NL = torch.randint(0, 2, (N, L), generator=random, dtype=torch.uint8)
    member_KN = torch.rand(K + 1, N, generator=random) < 0.5
    turned_KNL = (2.0 * label_NL - 1) * (torch.randn(K + 1, N, L, generator=random) + 2 * member_KN[..., None])
    answer = Multilabel().answers(turned_KNL, "logits")[:, None]
    evidence = make_evidence(
        signals=Signals(log_probability_KANC=answer[1:], task=Multilabel()),
        member_KN=member_KN[1:],
        scored_KN=torch.ones(K, N, dtype=torch.bool),
        label_N=label_NL,
        num_classes=L,
        population=Population(
            name="toy",
            x_N=torch.randn(N, 3, generator=random),
            label_N=label_NL,
            class_names=tuple("abcd"),
            task=Multilabel(),
        ),
    )
    return evidence, Signals(log_probability_KANC=answer[:1], task=Multilabel())


def right_labels(signals: Signals, label_NL: Tensor, k: int, n: int) -> int:
    """How many labels of a record are predicted right."""
    on = signals.log_probability_KANC[k, 0, n].double().exp().tolist()
    return sum((p > 0.5) == bool(own) for p, own in zip(on, label_NL[n].tolist(), strict=True))


def test_gap_is_the_share_of_right_labels_and_flags_where_all_are() -> None:
    shadows, target = toy()
    fitted = Gap().fit(shadows, cpu_engine())
    score_N = fitted.score(target, shadows.label_N)[0]
    expected = [right_labels(target, shadows.label_N, 0, n) for n in range(N)]
    assert score_N.tolist() == [each / L for each in expected]
    assert (score_N >= fitted.threshold).tolist() == [each == L for each in expected]
    assert 0 < sum(each == L for each in expected) < N
    assert all_right(target, shadows.label_N)[0].tolist() == [float(each == L) for each in expected]


def test_gap_of_one_class_is_what_it_was() -> None:
    label_N = torch.tensor([0, 1, 1])
    answer = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]).log()[None, None]
    evidence = make_evidence(
        signals=Signals(log_probability_KANC=answer),
        member_KN=torch.tensor([[True, False, True]]),
        scored_KN=torch.ones(1, 3, dtype=torch.bool),
        label_N=label_N,
        num_classes=2,
    )
    fitted = Gap().fit(evidence, cpu_engine())
    assert fitted.threshold == 0.5
    assert fitted.score(evidence.signals, label_N)[0].tolist() == [1.0, 0.0, 1.0]
    assert torch.equal(correctness(evidence.signals, label_N), all_right(evidence.signals, label_N))


def test_a_label_at_even_odds_is_predicted_off() -> None:
    answer = Multilabel().answers(torch.zeros(1, 1, 1, 2), "logits")
    signals = Signals(log_probability_KANC=answer, task=Multilabel())
    assert correctness(signals, torch.tensor([[0, 1]], dtype=torch.uint8)).tolist() == [[0.5]]


def test_a_number_is_right_where_it_is_exact() -> None:
    signals = Signals(log_probability_KANC=torch.tensor([[[[1.0, 2.0], [1.0, 3.0]]]]), task=Regression())
    assert correctness(signals, torch.tensor([[1.0, 2.0], [1.0, 2.0]])).tolist() == [[1.0, 0.5]]
    assert not Regression.can_be_right


class Linear:
    """Models with a weight for each feature and label."""

    def __init__(self, weight_KFL: Tensor) -> None:
        self.weight_KFL = weight_KFL

    def observe(self, population: Population, *, room: Room | None = None) -> Signals:
        logits = torch.einsum("nf,kfl->knl", population.x_N, self.weight_KFL)
        return Signals(log_probability_KANC=Multilabel().answers(logits, "logits")[:, None], task=Multilabel())


def test_boundary_asks_until_a_label_turns() -> None:
    attack = BoundaryLabelOnly(scales=(0.2, 0.5, 1.0), draws=2)
    shadows, _ = toy()
    models = Linear(torch.randn(K, 3, L, generator=torch.Generator().manual_seed(3)))
    population = replace(
        shadows.population, label_N=(population_logits(models, shadows.population) > 0).to(torch.uint8)
    )
    views = observe_views(models, population, attack.views, seed=5)
    signals = replace(models.observe(population), views=views)
    score_KN = attack.statistic(signals, population.label_N)

    def all_labels(view: Noise | None, k: int, n: int) -> bool:
        changed = population
        if view is not None:
            from mia_lightning.attacks.views import RecordForm

            form = RecordForm.of(population)
            changed = replace(population, x_N=view.apply(population.x_N, torch.arange(N), seed=5, form=form))
        logits = (changed.x_N[n][:, None] * models.weight_KFL[k]).sum(0)
        return bool(((logits > 0) == population.label_N[n].bool()).all())

    for k in range(K):
        for n in range(0, N, 7):
            if not all_labels(None, k, n):
                assert score_KN[k, n] == -1
                continue
            distances = []
            for draw in range(2):
                kept = 0.0
                for scale in attack.scales:
                    if not all_labels(Noise(scale=scale, draw=draw), k, n):
                        break
                    kept = scale
                distances.append(kept)
            assert score_KN[k, n].item() == pytest.approx(sum(distances) / 2)
    assert len(score_KN.unique()) > 3


def population_logits(models: Linear, population: Population) -> Tensor:
    """Of the first model, whose labels are all right so."""
    return population.x_N @ models.weight_KFL[0]
