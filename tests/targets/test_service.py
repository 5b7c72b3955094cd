"""The attacker's side of a prediction service: two endpoints, and nothing behind them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.membership import Disjoint, Wanted
from mia_lightning.models.mlp import MLP
from mia_lightning.targets.services.amazon_ml import AmazonML
from mia_lightning.targets.services.google_prediction import GooglePrediction
from mia_lightning.targets.services.interface import Service, ServiceJob
from mia_lightning.targets.services.service import ServiceModels, ServiceTarget
from mia_lightning.training.engine import Engine
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import SMALLEST_PROBABILITY
from mia_lightning.training.stack.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


class Scripted:
    """A service that notes what it is sent, and answers with what `answer` makes of the records."""

    name = "scripted"

    def __init__(self, answer: object = None, fails: tuple[str, ...] = ()) -> None:
        self.answer, self.fails = answer, fails
        self.jobs: list[ServiceJob] = []
        self.asked: list[tuple[str, Tensor]] = []

    def train(self, jobs: Iterable[ServiceJob]) -> list[str | None]:
        new = list(jobs)
        self.jobs += new
        return [None if job.name in self.fails else f"model of {job.name}" for job in new]

    def predict(self, model: str, x_B: Tensor) -> Tensor:
        self.asked.append((model, x_B))
        if callable(self.answer):
            return self.answer(x_B)
        return x_B.double()[:, :3].softmax(1)


@dataclass(frozen=True, kw_only=True)
class ScriptedTarget(ServiceTarget):
    service: Scripted

    def connect(self, engine: Engine) -> Service:
        return self.service


def setup_of(population: Population, *, num_targets: int = 1, num_shadows: int = 2) -> Setup:
    make_network = bind_shapes(partial(MLP, hidden=[5]), population.input_shape, population.num_classes)
    return Setup(
        engine=Engine(seed=3, settings=TrainerSettings(accelerator="cpu")),
        make_network=make_network,
        architecture=inspect_architecture(make_network, population),
        recipe=Recipe(epochs=2, batch_size=10, optimizer=partial(torch.optim.SGD, lr=0.1)),
        population=population,
        membership=Disjoint(train_size=20).fill(
            population, Wanted(num_targets=num_targets, num_shadows=num_shadows, seed=3)
        ),
    )


def test_both_endpoints_are_sent_the_records_in_the_populations_own_form(pictures: Population) -> None:
    small = replace(pictures, x_N=pictures.x_N.repeat(2, 1, 1, 1), label_N=pictures.label_N.repeat(2))
    service = Scripted(answer=lambda x_B: torch.full((len(x_B), 3), 1 / 3))
    target, setup = ScriptedTarget(service=service, count=2), setup_of(small, num_targets=2)
    models = target.obtain(setup)
    target.train_shadows(setup)
    models.observe(small)
    assert [job.name for job in service.jobs] == ["target 0", "target 1", "shadow 0", "shadow 1"]
    for job, members_N in zip(service.jobs, setup.membership.member_KN, strict=True):
        assert torch.equal(job.x_N, small.x_N[members_N])
        assert torch.equal(job.label_N, small.label_N[members_N])
        assert job.num_classes == 3
    assert [model for model, _ in service.asked] == ["model of target 0", "model of target 1"]
    assert all(torch.equal(x_B, small.x_N) for _, x_B in service.asked)


def test_what_is_observed_is_the_logarithm_of_each_answer(blobs: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mia_lightning.targets.services.service._REQUEST_NUMBERS", 7 * 128)
    service = Scripted()
    models = ServiceModels(service, ["a", "b"])
    found = models.observe(blobs).log_probability_KANC
    assert found.shape == (2, 1, 120, 3)
    assert found.dtype == torch.float32
    for n in range(120):
        expected = service.predict("a", blobs.x_N[n : n + 1]).log()[0].float()
        torch.testing.assert_close(found[:, 0, n], expected.expand(2, 3))
    assert [len(x_B) for model, x_B in service.asked if model == "b"] == [7] * 17 + [1]


def test_every_record_asked_of_every_model_is_a_query(blobs: Population) -> None:
    models = ServiceModels(Scripted(), ["a", None, "c"])
    assert models.num_queries == 0
    models.observe(blobs)
    assert models.num_queries == 2 * 120
    kept = models.select(torch.tensor([False, True, True]))
    kept.observe(blobs.part(slice(0, 7)))
    assert kept.num_queries == 2 * 120 + 7


def test_a_probability_of_zero_becomes_the_floor(blobs: Population) -> None:
    def certain(x_B: Tensor) -> Tensor:
        return torch.tensor([1.0005, 0.0, 1e-45]).expand(len(x_B), 3)

    found = ServiceModels(Scripted(certain), ["a"]).observe(blobs).log_probability_KANC[0, 0, 0]
    floor = torch.tensor(SMALLEST_PROBABILITY, dtype=torch.float64).log().float()
    assert found.tolist() == [0.0, float(floor), float(floor)]
    assert -87.4 < float(floor) < -87.3


def test_what_is_known_of_models_behind_a_service(blobs: Population, tmp_path: Path) -> None:
    models = ServiceModels(Scripted(), ["a", None, "c"])
    assert (models.num_models, models.num_parameters) == (3, None)
    assert models.architecture_name == "unknown (scripted)"
    assert models.failed_epoch_K.tolist() == [-1, 0, -1]
    finite_K = models.observe(blobs).log_probability_KANC.isfinite().flatten(1).all(1)
    assert finite_K.tolist() == [True, False, True]
    kept = models.select(torch.tensor([True, False, True]))
    assert kept.failed_epoch_K.tolist() == [-1, -1]
    with pytest.raises(InputError, match=r"target=scripted cannot be saved to target\.safetensors"):
        models.save(tmp_path / "target.safetensors")
    assert not list(tmp_path.iterdir())


def broken_at(row: int, values: list[float]) -> object:
    def answer(x_B: Tensor) -> Tensor:
        probability_BC = torch.full((len(x_B), 3), 1 / 3)
        if row < len(x_B):
            probability_BC[row] = torch.tensor(values)
        return probability_BC

    return answer


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (broken_at(17, [-0.5, 1.0, 0.5]), r"answered -0\.5 for class 0 for record 17, .* over 3 classes"),
        (broken_at(17, [0.5, torch.nan, 0.5]), r"answered nan for class 1 for record 17"),
        (broken_at(17, [0.5, 0.5, torch.inf]), r"answered inf for class 2 for record 17"),
        (broken_at(17, [0.5, 0.4, 0.0]), r"answered probabilities that add up to 0\.9 for record 17"),
        (lambda x_B: x_B[:, :2].softmax(1), r"float32 of shape \[120, 2\] instead of .* \[120, 3\] for record 0"),
        (lambda x_B: torch.ones(len(x_B), 3, dtype=torch.int64), r"answered int64 of shape \[120, 3\]"),
        (lambda x_B: [[1.0, 0.0, 0.0]] * len(x_B), "answered a list instead of a tensor for record 0"),
    ],
)
def test_an_answer_that_is_no_distribution_is_refused(blobs: Population, answer: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ServiceModels(Scripted(answer), ["a"]).observe(blobs)


def test_the_record_of_a_bad_answer_is_counted_over_all_requests(
    blobs: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mia_lightning.targets.services.service._REQUEST_NUMBERS", 100 * 128)
    answer = broken_at(30, [1.0, 1.0, 1.0])
    late = Scripted(lambda x_B: answer(x_B) if len(x_B) < 25 else x_B[:, :3].softmax(1))  # type: ignore[operator]
    ServiceModels(late, ["a"]).observe(blobs)
    answer = broken_at(5, [1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="for record 105, "):
        ServiceModels(late, ["a"]).observe(blobs)


def test_a_tolerable_rounding_of_the_sum_is_accepted(blobs: Population) -> None:
    ServiceModels(Scripted(lambda x_B: torch.tensor([0.3335, 0.333, 0.333]).expand(len(x_B), 3)), ["a"]).observe(blobs)


def test_a_target_that_the_service_cannot_train_is_refused(blobs: Population) -> None:
    target = ScriptedTarget(service=Scripted(fails=("target 1",)), count=2)
    with pytest.raises(InputError, match="service scripted could not train target 1"):
        target.obtain(setup_of(blobs, num_targets=2))


def test_a_shadow_model_that_the_service_cannot_train_is_a_failed_model(blobs: Population) -> None:
    target = ScriptedTarget(service=Scripted(fails=("shadow 0",)))
    assert target.train_shadows(setup_of(blobs)).failed_epoch_K.tolist() == [0, -1]


def test_guessed_shadow_models_are_the_configured_networks_and_the_run_says_so(blobs: Population) -> None:
    service = Scripted()
    target, setup = ScriptedTarget(service=service, shadows="guessed"), setup_of(blobs)
    target.obtain(setup)
    found = target.train_shadows(setup)
    assert isinstance(found, TrainedStack)
    assert [job.name for job in service.jobs] == ["target 0"]
    expected = setup.train(setup.membership.shadows, "shadow").observe(blobs)
    assert torch.equal(found.observe(blobs).log_probability_KANC, expected.log_probability_KANC)
    assert len(setup.engine.stages.remarks) == 1
    assert "goes beyond the experiments of Shokri et al. (2017)" in setup.engine.stages.remarks[0]


def test_a_run_says_that_model_and_training_have_no_effect(blobs: Population) -> None:
    target, setup = ScriptedTarget(service=Scripted()), setup_of(blobs)
    target.obtain(setup)
    target.train_shadows(setup)
    (remark,) = setup.engine.stages.remarks
    assert remark.startswith("target=scripted: ")
    assert remark.endswith("so `model` and `training` have no effect.")


def reachable(thing: object, seen: set[int]) -> Iterator[object]:
    """All that public attributes, and items of containers, lead to."""
    if id(thing) in seen or isinstance(thing, type | str | int | float | torch.dtype | torch.device):
        return
    seen.add(id(thing))
    yield thing
    if isinstance(thing, dict):
        inside = [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set):
        inside = list(thing)
    elif isinstance(thing, Tensor) or callable(thing):
        inside = []
    else:
        inside = [getattr(thing, name, None) for name in dir(thing) if not name.startswith("_")]
    for each in inside:
        yield from reachable(each, seen)


@pytest.mark.costly
@pytest.mark.parametrize("target", [GooglePrediction(), AmazonML(passes=2)], ids=["google", "amazon"])
def test_no_public_attribute_leads_to_a_network_a_recipe_or_a_loss(blobs: Population, target: ServiceTarget) -> None:
    setup = setup_of(blobs)
    objects = [target, target.connect(setup.engine), target.obtain(setup), target.train_shadows(setup)]
    found = [each for thing in objects for each in reachable(thing, set())]
    assert not [each for each in found if isinstance(each, nn.Module | TrainedStack | Recipe | Engine)]
    assert setup.engine.losses == {}
    assert not any(word in " ".join(setup.engine.stages.remarks) for word in ("epochs", "hidden", "Adam"))


@pytest.mark.costly
@pytest.mark.parametrize("target", [GooglePrediction(), AmazonML(passes=3)], ids=["google", "amazon"])
def test_shadow_models_come_from_the_endpoint_of_the_targets(blobs: Population, target: ServiceTarget) -> None:
    """The shadow models' jobs, given to the target's own service by hand, make the same models."""
    setup = setup_of(blobs)
    shadows = target.train_shadows(setup)
    assert isinstance(shadows, ServiceModels)
    service, plan = target.connect(setup.engine), setup.membership
    jobs = [
        ServiceJob(name=f"shadow {k}", x_N=blobs.x_N[row], label_N=blobs.label_N[row], num_classes=3)
        for k, row in enumerate(plan.member_KN[plan.shadows])
    ]
    names = service.train(jobs)
    found = shadows.observe(blobs).log_probability_KANC[:, 0].exp()
    expected = torch.stack([service.predict(str(name), blobs.x_N) for name in names]).float()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_probability_of_two_classes_is_that_of_the_second(blobs: Population, shape: tuple[int, ...]) -> None:
    of_two = replace(blobs, label_N=blobs.label_N % 2, class_names=("no", "yes"))
    service = Scripted(answer=lambda x_B: x_B.double()[:, 0].sigmoid().reshape(-1, *shape))
    setup = setup_of(of_two)
    models = ScriptedTarget(service=service).obtain(setup)
    for _ in range(2):
        found = models.observe(of_two).log_probability_KANC[0, 0].exp()
        assert torch.allclose(found[:, 1], of_two.x_N[:, 0].sigmoid(), atol=1e-5)
        assert torch.allclose(found.sum(1), torch.ones(120))
    (remark,) = [each for each in setup.engine.stages.remarks if "one number" in each]
    assert "probability of 'yes', the second of two classes" in remark
    with pytest.raises(InputError, match="instead of floating-point numbers of shape"):
        ScriptedTarget(service=service).obtain(setup_of(blobs)).observe(blobs)
