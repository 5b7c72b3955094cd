"""Logistic regression by SGD after quantile binning."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import KBinsDiscretizer

import mia_lightning.targets.services.amazon_ml as module
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.fitted import QuantileBins, QuantileLogistic
from mia_lightning.seeds import derive, generator
from mia_lightning.targets.services.amazon_ml import AmazonML
from mia_lightning.targets.services.in_process import InProcessService
from mia_lightning.targets.services.interface import ServiceJob
from mia_lightning.training.engine import Engine
from mia_lightning.training.step.batches import StackBatches
from mia_lightning.training.trainer import TrainerSettings


def service(**settings: object) -> InProcessService:
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", precision="64"))
    return AmazonML(**settings).connect(engine)  # type: ignore[arg-type]


def job(population: Population, k: int, size: int = 40) -> ServiceJob:
    index_n = torch.randperm(len(population), generator=generator(k, "job"))[:size]
    return ServiceJob(name=f"job {k}", x_N=population.x_N[index_n], label_N=population.label_N[index_n], num_classes=3)


@pytest.fixture
def binary(blobs: Population) -> Population:
    """The signs of the features of `blobs`, as uint8."""
    return Population(
        name="binary", x_N=(blobs.x_N > 0).to(torch.uint8), label_N=blobs.label_N, class_names=blobs.class_names
    )


@pytest.mark.parametrize("bins", [2, 3, 10])
def test_bins_are_those_of_scikit_learn(bins: int) -> None:
    x_N = torch.randn(97, 4, generator=generator(0, "train"))
    other_N = torch.randn(50, 4, generator=generator(1, "test")) * 2
    layer = QuantileBins(4, bins)
    layer.fit_to(x_N)
    reference = KBinsDiscretizer(bins, encode="onehot-dense", strategy="quantile", quantile_method="linear")
    reference.fit(x_N.double().numpy())
    for records in (x_N, other_N):
        expected = reference.transform(records.double().numpy())
        np.testing.assert_array_equal(layer(records).numpy(), expected)


def test_bins_with_ties_are_those_of_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mia_lightning.models.fitted._SORTED_NUMBERS", 100)  # two features at a time
    x_N = torch.randint(0, 6, (41, 5), generator=generator(0, "ties")).float()
    x_N[:, 3] = x_N[:, 3].clamp(max=1)  # binary
    x_N[:, 4] = 7.0  # constant
    layer = QuantileBins(5, 4)
    layer.fit_to(x_N)
    test_N = torch.arange(-1.0, 9.0)[:, None].expand(10, 5).clone()
    test_N[:, 3] = torch.arange(10) % 2
    expected = np.zeros((10, 5, 4))
    for f in range(5):
        edges = np.quantile(x_N[:, f].double().numpy(), [0.25, 0.5, 0.75])
        for n in range(10):
            value = float(test_N[n, f])
            if f == 3:
                expected[n, f, 1] = value
            else:
                expected[n, f, sum(value >= edge for edge in edges)] = 1
    np.testing.assert_array_equal(layer(test_N).view(10, 5, 4).numpy(), expected)


def test_bins_are_refused_where_there_is_only_one() -> None:
    with pytest.raises(InputError, match=r"`model.bins` is 1; it must be a whole number of at least 2"):
        QuantileBins(3, 1)


def test_every_model_has_the_edges_of_its_own_records(blobs: Population) -> None:
    jobs = [job(blobs, 0), job(blobs, 1)]
    together = service()
    together.train(jobs)
    networks = together._models["job 0"][0].stack.networks
    assert isinstance(networks, QuantileLogistic)
    assert isinstance(networks.bins, QuantileBins)
    edge_K = networks.bins.edge
    share = np.arange(1, module._BINS) / module._BINS
    for k, each in enumerate(jobs):
        expected = np.quantile(each.x_N.double().numpy(), share, axis=0).T
        np.testing.assert_allclose(edge_K[k].numpy(), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(edge_K[0], edge_K[1])


@pytest.mark.costly
@pytest.mark.parametrize("name", ["blobs", "binary"])
def test_a_job_alone_gives_the_model_of_the_job_in_a_batch(name: str, request: pytest.FixtureRequest) -> None:
    population = request.getfixturevalue(name)
    jobs = [job(population, k, size) for k, size in enumerate((40, 37, 25))]
    together = service()
    together.train(jobs)
    for each in reversed(jobs):
        alone = service()
        alone.train([each])
        found, expected = (s.predict(each.name, population.x_N) for s in (alone, together))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_jobs_of_binary_and_of_other_features_do_not_share_a_stack(blobs: Population, binary: Population) -> None:
    found = service()
    mixed = ServiceJob(name="mixed", x_N=binary.x_N.float(), label_N=binary.label_N, num_classes=3)
    found.train([job(blobs, 0), mixed])
    widths = {name: stack.stack.networks.logits.weight.shape[-1] for name, (stack, _) in found._models.items()}
    assert widths == {"job 0": 6 * module._BINS, "mixed": 6}


@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_training_is_a_slow_loop_of_gradient_steps(binary: Population, l2: float) -> None:
    """Plain numpy over the same batches: softmax regression, mean loss, coupled L2 penalty on all weights."""
    each, passes = job(binary, 4, size=33), 3
    found = service(passes=passes, l2=l2)
    found.train([each])
    seed = derive(0, "service", "amazon_ml")
    key = derive(seed, "service", derive(seed, each.name), "order")
    batches = StackBatches([torch.arange(33)], torch.tensor([key]), batches_per_epoch=-(-33 // module._BATCH_SIZE))
    x_N = np.c_[each.x_N.double().numpy(), np.ones(33)]
    target_NC = np.eye(3)[each.label_N.numpy()]
    weight = np.zeros((7, 3))
    for epoch in range(passes):
        batches.set_epoch(epoch)
        for index_KB, _ in batches:
            index = index_KB[0].numpy()
            score = np.exp(x_N[index] @ weight)
            error = score / score.sum(1, keepdims=True) - target_NC[index]
            weight -= module._LEARNING_RATE * (x_N[index].T @ error / len(index) + l2 * weight)
    score = np.exp(np.c_[binary.x_N.double().numpy(), np.ones(120)] @ weight)
    expected = score / score.sum(1, keepdims=True)
    np.testing.assert_allclose(found.predict(each.name, binary.x_N).numpy(), expected, rtol=1e-9)


@pytest.mark.slow
def test_many_passes_converge_to_the_solution_of_scikit_learn(
    binary: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch a pass, so that SGD is gradient descent; a strong penalty, so that it converges."""
    monkeypatch.setattr(module, "_BATCH_SIZE", 120)
    monkeypatch.setattr(module, "_LEARNING_RATE", 0.8)
    l2 = 0.05
    found = service(passes=400, l2=l2)
    found.train([ServiceJob(name="all", x_N=binary.x_N, label_N=binary.label_N, num_classes=3)])
    x_N = np.c_[binary.x_N.double().numpy(), np.ones(120)]  # the penalty includes the biases
    reference = LogisticRegression(C=1 / (l2 * 120), fit_intercept=False, tol=1e-10, max_iter=5000)
    expected = reference.fit(x_N, binary.label_N.numpy()).predict_proba(x_N)
    np.testing.assert_allclose(found.predict("all", binary.x_N).numpy(), expected, atol=1e-5)


@pytest.mark.slow
def test_more_passes_fit_the_training_records_better(blobs: Population) -> None:
    each = job(blobs, 0, size=60)
    accuracy = []
    for settings in ({}, {"passes": 100, "l2": 1e-4}):
        found = service(**settings)
        found.train([each])
        accuracy.append(float((found.predict(each.name, each.x_N).argmax(1) == each.label_N).float().mean()))
    assert accuracy[0] < accuracy[1]
