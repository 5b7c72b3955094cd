"""Weights of records and of classes in the loss that models are trained with."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_modules import LitClassifier
from quick import quick_audit
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from training_jobs import job_of, train_with

import mia_lightning as mia
from mia_lightning.datasets.csv import load_csv
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.mixup import Mixup
from mia_lightning.defenses.relaxloss import RelaxLoss
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator
from mia_lightning.store.artefacts import Store
from mia_lightning.training.engine import Engine
from mia_lightning.training.kept import KeptModels
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.losses import mean_over_real
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.step.weights import weights_of
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

SIZES = [24, 31, 29]  # of models; ragged


@pytest.fixture
def weighted(blobs: Population) -> Population:
    weight_N = torch.rand(len(blobs), generator=generator(0, "weights"))
    weight_N[::7] = 0
    return replace(blobs, weight_N=weight_N)


def records(population: Population) -> list[Tensor]:
    return [torch.randperm(len(population), generator=generator(k, "records"))[:size] for k, size in enumerate(SIZES)]


def train(population: Population, models: list[int], **recipe: Any) -> TrainedStack:
    size = {} if "batches_per_epoch" in recipe else {"batch_size": 8}
    settings = {"epochs": 3, **size, "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9), **recipe}
    return train_with(
        Engine(seed=3, settings=TrainerSettings(accelerator="cpu", precision="64")),
        bind_shapes(partial(MLP, hidden=[5]), population.input_shape, population.num_classes),
        population,
        [records(population)[k] for k in models],
        Recipe(**settings),
        role="shadow",
        models=models,
    )


def assert_same(one: TrainedStack, other: TrainedStack, place: int) -> None:
    for name, tensor in one.stack.networks.state_dict().items():
        torch.testing.assert_close(tensor[place], other.stack.networks.state_dict()[name][0], rtol=1e-8, atol=1e-8)


WAYS: dict[str, dict[str, Any]] = {
    "records": {},
    "balanced": {"class_weights": "balanced"},
    "classes": {"class_weights": [0.5, 2.0, 1.0]},
    "accumulated": {"accumulate_batches": 2},
}


@pytest.mark.costly
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_a_model_in_a_stack_is_the_model_alone(way: str, execution: str, weighted: Population) -> None:
    together = train(weighted, [0, 1, 2], execution=execution, **WAYS[way])
    for k in range(3):
        assert_same(together, train(weighted, [k], execution="stack", **WAYS[way]), k)


@pytest.mark.usefixtures("global_generators")
@pytest.mark.parametrize("class_weights", [None, "balanced", [0.25, 3.0, 1.0]], ids=str)
def test_a_model_is_that_of_a_plain_loop_with_torchs_own_weighted_loss(
    class_weights: Any, weighted: Population
) -> None:
    """One batch an epoch, so that the order of records does not matter."""
    trained = train(weighted, [1], batches_per_epoch=1, class_weights=class_weights)
    start = train(weighted, [1], batches_per_epoch=1, epochs=1, optimizer=partial(torch.optim.SGD, lr=1e-300))
    network = MLP(weighted.input_shape, weighted.num_classes, hidden=[5]).double()
    network.load_state_dict({name: value[0] for name, value in start.stack.networks.state_dict().items()})
    own = records(weighted)[1]
    x, label, weight = weighted.records(own, torch.float64), weighted.label_N[own], weighted.weight_N[own].double()
    if class_weights == "balanced":
        of_class = compute_class_weight("balanced", classes=np.arange(3), y=label.numpy())
    else:
        of_class = np.ones(3) if class_weights is None else np.array(class_weights)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss_B = nn.functional.cross_entropy(network(x), label, reduction="none")
        each = weight * torch.tensor(of_class)[label]
        loss = (each * loss_B).sum() / each.sum()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(trained.stack.networks.state_dict()[name][0], tensor, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(trained.train_loss_EK[:, 0], losses, rtol=1e-8)


def test_the_loss_of_a_batch_is_that_of_torch() -> None:
    rng = generator(0, "loss")
    logits, label = torch.randn(2, 6, 3, generator=rng), torch.randint(3, (2, 6), generator=rng)
    of_class = torch.tensor([0.2, 1.0, 5.0])
    loss_KB = nn.functional.cross_entropy(logits.movedim(-1, 1), label, reduction="none")
    expected = [nn.functional.cross_entropy(logits[k], label[k], weight=of_class) for k in range(2)]
    torch.testing.assert_close(mean_over_real(loss_KB, None, of_class[label]), torch.stack(expected))
    is_real_KB = torch.tensor([[True] * 4 + [False] * 2, [False] * 6])
    short = nn.functional.cross_entropy(logits[0, :4], label[0, :4], weight=of_class)
    assert mean_over_real(loss_KB, is_real_KB, of_class[label]).tolist() == pytest.approx([short.item(), 0.0])
    infinite_KB = loss_KB.where(label != 0, torch.inf)
    assert mean_over_real(infinite_KB, None, (label != 0).float()).isfinite().all()


def test_weights_of_1_change_nothing_and_their_scale_neither(blobs: Population) -> None:
    plain = train(blobs, [0, 1])
    for scale in (1.0, 40.0):
        same = train(replace(blobs, weight_N=torch.full((len(blobs),), scale)), [0, 1])
        for k in range(2):
            for name, tensor in plain.stack.networks.state_dict().items():
                torch.testing.assert_close(same.stack.networks.state_dict()[name][k], tensor[k], rtol=1e-6, atol=1e-8)


def test_balanced_weights_are_those_of_scikit_learn_for_each_models_own_records(blobs: Population) -> None:
    own_K = records(blobs)
    weights = weights_of(blobs, "balanced", own_K)
    assert weights is not None
    assert weights.class_KC is not None
    for k, own in enumerate(own_K):
        expected = compute_class_weight("balanced", classes=np.arange(3), y=blobs.label_N[own].numpy())
        np.testing.assert_allclose(weights.class_KC[k], expected)


def test_weights_are_part_of_the_fingerprint_and_of_the_key_in_the_store(blobs: Population, tmp_path: Path) -> None:
    def keys(population: Population, **recipe: Any) -> tuple[str, ...]:
        job = job_of(
            Engine(seed=3, settings=TrainerSettings(accelerator="cpu")),
            bind_shapes(partial(MLP, hidden=[5]), population.input_shape, population.num_classes),
            population,
            [torch.arange(10), torch.arange(10, 20)],
            Recipe(**recipe),
            role="shadow",
            keep=True,
        )
        return KeptModels.of(Store(dir=tmp_path), job, TrainerSettings(accelerator="cpu")).key_K

    weight_N = torch.ones(len(blobs))
    ones = replace(blobs, weight_N=weight_N)
    other = replace(blobs, weight_N=weight_N.index_fill(0, torch.tensor([3]), 2.0))
    found = [keys(blobs), keys(ones), keys(other), keys(blobs, class_weights="balanced")]
    found.append(keys(blobs, class_weights=[1, 1, 2]))
    assert len({each[0] for each in found}) == 5
    assert keys(ones)[1] == keys(other)[1]  # the second model trains on none of the records that differ
    assert len({each.fingerprint() for each in (blobs, ones, other)}) == 3


def test_weights_go_with_their_records(weighted: Population) -> None:
    part = weighted.part(slice(3, 9))
    assert torch.equal(part.weight_N, weighted.weight_N[3:9])
    longer = part.followed_by(weighted.x_N[:2], weighted.label_N[:2])
    assert longer.weight_N.tolist() == [*part.weight_N.tolist(), 1.0, 1.0]


X, LABEL = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32), np.arange(60) % 3
REFUSED: dict[str, tuple[Any, str]] = {
    "negative": ([1.0] * 59 + [-1.0], "weight -1 of record 59 of population 'data'"),
    "NaN": ([1.0, np.nan] * 30, "weight nan of record 1"),
    "infinite": ([np.inf] * 60, "weight inf of record 0"),
    "all zero": (np.zeros(60), "is 0 for all records"),
    "short": (np.ones(59), r"shape \(59,\)"),
    "text": (["a"] * 60, "dtype <U1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_weight_is_refused(case: str) -> None:
    weight, part = REFUSED[case]
    with pytest.raises(InputError, match=f"weight.*{part}" if not part.startswith("weight") else part):
        mia.Audit(X, LABEL, weight=weight, **quick_audit())


TRAININGS: dict[str, tuple[dict[str, Any], str]] = {
    "dp_sgd": ({"defenses": [DPSGD()]}, "weight of population 'data'.*clips"),
    "mixup": ({"defenses": [Mixup()]}, "weight of population 'data'.*mixes"),
    "relaxloss": ({"defenses": [RelaxLoss()]}, "weight of population 'data'.*whole batches"),
    "own step": ({"model": LitClassifier}, "weights.*LitClassifier.*training_step"),
}


@pytest.mark.parametrize("case", TRAININGS)
def test_trainings_in_which_weights_have_no_meaning_are_refused(case: str) -> None:
    changes, parts = TRAININGS[case]
    options = {**quick_audit(shadow=mia.Real(count=2)), **changes}
    with pytest.raises(InputError, match=parts):
        mia.audit(X, LABEL, weight=np.ones(60), **options)


def test_class_weights_are_refused_where_they_fit_no_class_or_no_loss() -> None:
    def audited(weights: Any, **options: Any) -> None:
        training = mia.Recipe(epochs=2, class_weights=weights)
        mia.audit(X, LABEL, **{**quick_audit(shadow=mia.Real(count=2), training=training), **options})

    for weights, part in (([1, 2], "2 numbers for 3 classes"), ([0, 0, 0], "0 for all classes")):
        with pytest.raises(InputError, match=f"`training.class_weights` .*{part}"):
            audited(weights)
    with pytest.raises(InputError, match=r"`training\.class_weights`.*LitClassifier"):
        audited("balanced", model=LitClassifier)
    for wrong in ("equal", [-1, 1, 1], 5):
        with pytest.raises(InputError, match=r"`training\.class_weights"):
            mia.Recipe(class_weights=wrong)


def test_weight_beside_a_population_is_refused() -> None:
    with pytest.raises(InputError, match="`weight` is given beside a Population"):
        mia.Audit(make_population(X, LABEL), weight=np.ones(60), **quick_audit())


def test_weights_reach_target_and_shadow_models_and_the_report_says_so() -> None:
    """A class whose records have the weight 0 is never learnt."""
    training = mia.Recipe(epochs=30, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.05))
    shared = quick_audit(shadow=mia.Real(count=2), training=training)
    observation = mia.observe(X, LABEL, weight=(LABEL != 2).astype(float), **shared)
    answered_KN = observation.shadow_signals.log_probability_KANC[:, 0].argmax(-1)
    assert not (answered_KN == 2).any()
    report = mia.attack(observation)
    assert any("weighted" in each and "without its weight" in each for each in report.notes)
    assert report.target.train_accuracy <= 0.75
    assert mia.audit(X, LABEL, **shared).target.train_accuracy > 0.9
    observation.close()


def test_a_column_of_weights(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,w,y\n1.5,2,p\n2.5,0.5,q\n")
    made = load_csv(path=str(tmp_path / "a.csv"), label_column="y", weight_column="w")
    assert made.weight_N.tolist() == [2.0, 0.5]
    assert made.x_N.tolist() == [[1.5], [2.5]]
    with pytest.raises(InputError, match=r"no column 'v'.*dataset\.weight_column"):
        load_csv(path=str(tmp_path / "a.csv"), label_column="y", weight_column="v")
