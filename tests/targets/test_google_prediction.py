"""The opaque service, and the in-process service that stands behind it."""

from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from quick import slow_but
from torch import Tensor

from mia_lightning.datasets.location import load_location
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.fitted import RangeScaledMLP, RangeScaling
from mia_lightning.seeds import generator
from mia_lightning.targets.services.google_prediction import GooglePrediction
from mia_lightning.targets.services.in_process import InProcessService
from mia_lightning.targets.services.interface import ServiceJob
from mia_lightning.training.engine import Engine
from mia_lightning.training.trainer import TrainerSettings

CPU = TrainerSettings(accelerator="cpu")


def service(seed: int = 0, precision: str = "64") -> InProcessService:
    return GooglePrediction().connect(Engine(seed=seed, settings=replace(CPU, precision=precision)))


def job(population: Population, k: int, size: int = 30) -> ServiceJob:
    index_n = torch.randperm(len(population), generator=generator(k, "job"))[:size]
    return ServiceJob(
        name=f"job {k}",
        x_N=population.x_N[index_n],
        label_N=population.label_N[index_n],
        num_classes=population.num_classes,
    )


def answers(of: InProcessService, jobs: list[ServiceJob], x_B: Tensor) -> list[Tensor]:
    return [of.predict(str(name), x_B) for name in of.train(jobs)]


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_but(["blobs"], ["pictures", "blobs"]))
def test_a_job_alone_gives_the_model_of_the_job_in_a_batch(name: str, request: pytest.FixtureRequest) -> None:
    population = request.getfixturevalue(name)
    jobs = [job(population, k, size) for k, size in enumerate((30, 27, 55))]
    together = answers(service(), jobs, population.x_N)
    for k in (2, 0, 1):
        (alone,) = answers(service(), [jobs[k]], population.x_N)
        torch.testing.assert_close(alone, together[k], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_jobs_of_different_forms_are_trained_in_one_call(
    blobs: Population, pictures: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(blobs, 0), job(pictures, 1), job(blobs, 2)]
    found = service()
    names = found.train(iter(jobs))
    assert names == ["job 0", "job 1", "job 2"]
    monkeypatch.setattr("mia_lightning.targets.services.in_process._RECORD_BYTES", 1)  # one job at a time
    single = service()
    assert single.train(iter(jobs)) == names
    for each, x_N in (("job 0", blobs.x_N), ("job 1", pictures.x_N), ("job 2", blobs.x_N)):
        torch.testing.assert_close(found.predict(each, x_N), single.predict(each, x_N), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_a_model_depends_on_the_seed_the_jobs_name_and_its_records(blobs: Population) -> None:
    base = job(blobs, 0)
    (first,) = answers(service(), [base], blobs.x_N)
    (again,) = answers(service(), [base], blobs.x_N)
    assert torch.equal(first, again)
    for other in (
        answers(service(seed=1), [base], blobs.x_N),
        answers(service(), [replace(base, name="other")], blobs.x_N),
        answers(service(), [replace(base, x_N=base.x_N[:-1], label_N=base.label_N[:-1])], blobs.x_N),
    ):
        assert not torch.allclose(first, other[0])


def test_a_batch_of_records_is_answered_as_each_alone(pictures: Population) -> None:
    found = service()
    (name,) = found.train([job(pictures, 0)])
    together = found.predict(str(name), pictures.x_N)
    assert together.shape == (60, 3)
    torch.testing.assert_close(together.sum(1), torch.ones(60, dtype=torch.float64))
    for n in range(60):
        torch.testing.assert_close(found.predict(str(name), pictures.x_N[n : n + 1])[0], together[n])


def test_what_the_endpoints_refuse(blobs: Population) -> None:
    found = service()
    found.train([job(blobs, 0)])
    with pytest.raises(InputError, match="has no model 'job 7'"):
        found.predict("job 7", blobs.x_N)
    with pytest.raises(InputError, match="has a model 'job 0' already"):
        found.train([job(blobs, 0)])
    with pytest.raises(InputError, match="has a model 'job 1' already"):
        found.train([job(blobs, 1), job(blobs, 1)])
    with pytest.raises(InputError, match="The job 'job 2' of the service google_prediction has no records"):
        found.train([job(blobs, 2, size=0)])


def test_a_job_whose_loss_is_not_finite_has_no_model(blobs: Population) -> None:
    # Ranges whose width overflows float32, so that the largest value is scaled to infinity / infinity.
    value_N = torch.where(torch.arange(30) == 0, 3e38, -3e38)
    huge = replace(job(blobs, 1), x_N=value_N[:, None].expand(30, 6).contiguous())
    found = service(precision="32")
    assert found.train([job(blobs, 0), huge]) == ["job 0", None]
    with pytest.raises(InputError, match="has no model 'job 1'"):
        found.predict("job 1", blobs.x_N)


class Spy(pl.Callback):
    """A callback of the run, which would see a trainer's networks and losses."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise AssertionError("the run's callback was called by the service")


def test_callbacks_and_losses_of_the_run_see_nothing_of_the_service(blobs: Population) -> None:
    engine = Engine(seed=0, settings=replace(CPU, callbacks=[Spy()]))
    GooglePrediction().connect(engine).train([job(blobs, 0)])
    assert engine.losses == {}
    assert engine.stages.remarks == []


def test_features_are_scaled_by_the_range_of_the_models_own_records() -> None:
    x_N = torch.tensor([[2.0, 0.0, 7.0], [6.0, 1.0, 7.0], [4.0, 0.0, 7.0]])
    layer = RangeScaling([3])
    layer.fit_to(x_N)
    torch.testing.assert_close(layer(x_N), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.5, 0.0, 0.0]]))
    torch.testing.assert_close(layer(torch.tensor([[8.0, 1.0, 9.0]])), torch.tensor([[1.5, 1.0, 2.0]]))


def test_two_models_of_a_stack_are_fitted_each_to_its_own_records(blobs: Population) -> None:
    found = service()
    jobs = [job(blobs, 0), job(blobs, 1)]
    found.train(jobs)
    stack = found._models["job 0"][0].stack
    assert isinstance(stack.networks, RangeScaledMLP)
    assert stack.num_models == 2
    for k, each in enumerate(jobs):
        torch.testing.assert_close(stack.networks.scaling.low[k].float(), each.x_N.amin(0))
        width = each.x_N.amax(0) - each.x_N.amin(0)
        torch.testing.assert_close(stack.networks.scaling.width[k].float(), width)


@pytest.mark.slow
def test_on_location_the_service_knows_its_training_records_by_heart(shared_data: Path) -> None:
    location = load_location(root=shared_data / "location")
    found = service(precision="32")
    order = torch.randperm(len(location), generator=generator(0, "split"))
    members, others = order[:1200], order[1200:2400]
    x_N, label_N = location.x_N, location.label_N
    found.train([ServiceJob(name="target", x_N=x_N[members], label_N=label_N[members], num_classes=30)])
    accuracy = [
        float((found.predict("target", x_N[i]).argmax(1) == label_N[i]).float().mean()) for i in (members, others)
    ]
    assert accuracy[0] > 0.99
    assert 0.5 < accuracy[1] < 0.75
