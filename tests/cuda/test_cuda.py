"""What only a GPU can show; `pytest -m cuda` runs these on one in a minute and a half.

With MIA_CUDA_TESTS_ON_CPU=1 they run on the CPU, to test themselves.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_models import stopped_after
from shadow_cases import AT_DEFAULTS, ENGINE, name_of, random_case
from torch import Tensor, nn
from training_jobs import job_of

import mia_lightning as mia
from mia_lightning.attacks.attack_p import AttackP
from mia_lightning.attacks.gap import Gap
from mia_lightning.attacks.interface import Attack
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.thresholds import ClassEntropy, ModifiedEntropy
from mia_lightning.datasets.augmentation import Crop, Flip
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.mixup import Mixup
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.models.resnet import ResNet18
from mia_lightning.models.vit import VisionTransformer
from mia_lightning.models.wide_resnet import WideResNet
from mia_lightning.seeds import generator
from mia_lightning.store.artefacts import Store
from mia_lightning.training.engine import Engine, Reuse
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.plan.planner import Planner
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step import compiled
from mia_lightning.training.step.recipe import Recipe, cross_entropy
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

ON_CPU = os.environ.get("MIA_CUDA_TESTS_ON_CPU") == "1"
DEVICE = torch.device("cpu" if ON_CPU else "cuda:0")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not ON_CPU and not torch.cuda.is_available(), reason="no CUDA device"),
]

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
RECIPE = Recipe(epochs=2, batches_per_epoch=3, optimizer=SGD, threads=1)
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": partial(MLP, hidden=[16]),
    "dropout": partial(MLP, hidden=[16], dropout=0.3),
    "cnn": partial(CNN, channels=[4, 4], hidden=8, kernel_size=3, batch_norm=True),
    "resnet18": partial(ResNet18, width=4),
    "wide_resnet": partial(WideResNet, depth=10, widen=1, dropout=0.1),
    "vit": partial(VisionTransformer, patch_size=4, width=8, depth=1, heads=2, dropout=0.1),
}
# Eighteen layers, normalised over few numbers, multiply what rounding has changed: one step is enough for them.
ONE_STEP = replace(RECIPE, epochs=1, batches_per_epoch=1)
# Of weights that are at most about 1, after so many steps: the order of sums, and the rounding of products.
TOLERANCE = {"64": 1e-8, "32": 5e-4, "tf32": 1e-2, "bf16": 5e-2}


@pytest.fixture
def images() -> Population:
    """60 images [3, 8, 8] in 3 classes."""
    numbers = generator(0, "images")
    x_N = torch.randint(0, 256, (60, 3, 8, 8), generator=numbers, dtype=torch.uint8)
    channels = torch.full((3, 1, 1), 0.5)
    names = ("a", "b", "c")
    return Population(
        name="images",
        x_N=x_N,
        label_N=torch.arange(60) % 3,
        class_names=names,
        scale=1 / 255,
        mean=channels,
        std=channels,
    )


def engine_on(accelerator: str = "cpu" if ON_CPU else "gpu", precision: str = "32", **others: Any) -> Engine:
    settings = TrainerSettings(accelerator=accelerator, devices=1, precision=precision, progress_bar=False)
    return Engine(seed=0, settings=settings, **others)


def job_for(engine: Engine, make: Callable[..., nn.Module], population: Population, recipe: Recipe) -> TrainingJob:
    """Three models with different numbers of records."""
    network = bind_shapes(make, population.input_shape, population.num_classes)
    records_K = [torch.arange(k, 31 + 5 * k) for k in range(3)]
    return job_of(engine, network, population, records_K, recipe, role="shadow", keep=True)


def close(first: TrainedStack, second: TrainedStack, tolerance: float) -> None:
    for name, tensor in first.stack.state_dict().items():
        other = second.stack.state_dict()[name]
        torch.testing.assert_close(tensor.cpu().double(), other.cpu().double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_of_a_stack_or_a_loop_is_the_one_that_is_trained_alone(
    name: str, precision: str, images: Population
) -> None:
    engine = engine_on(precision=precision)
    recipe = ONE_STEP if name == "resnet18" else RECIPE
    stack, loop = (job_for(engine, NETWORKS[name], images, replace(recipe, execution=e)) for e in ("stack", "loop"))
    together = engine.run(stack)
    assert together.stack.device == DEVICE
    alone = [engine.run(loop.part([k])) for k in range(3)]
    close(together, TrainedStack.joined(alone, torch.arange(3)), TOLERANCE[precision])


@pytest.mark.parametrize("precision", ["32", "tf32", "bf16"])
@pytest.mark.parametrize("execution", ["stack", "loop"])
@pytest.mark.parametrize("name", NETWORKS)
def test_steps_that_are_recorded_are_the_steps(name: str, execution: str, precision: str, images: Population) -> None:
    """Of several shapes, at rates that change with each, and beyond the warm-up of every shape."""
    recipe = replace(
        RECIPE,
        epochs=1 if name == "resnet18" else 6,
        batches_per_epoch=6 if name == "resnet18" else 3,
        execution=execution,
        augment=[Flip()],
        scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9),
        scheduler_interval="step",
    )
    if name == "resnet18":  # rounding grows fast in it: rates at which it hardly moves
        recipe = replace(recipe, optimizer=partial(torch.optim.SGD, lr=1e-4))
    trained = []
    for cuda_graphs in (False, True):
        engine = engine_on(precision=precision)
        trained.append(engine.run(job_for(engine, NETWORKS[name], images, replace(recipe, cuda_graphs=cuda_graphs))))
        (plan,) = engine.plans
        assert plan.cuda_graphs is (cuda_graphs and not ON_CPU), plan.reason
    close(*trained, TOLERANCE[precision])


@pytest.mark.skipif(ON_CPU, reason="a graph of the host is none")
def test_what_cannot_be_recorded_is_taken_as_it_is_and_said(images: Population) -> None:
    recipe = replace(RECIPE, epochs=6, execution="stack", objective=reads_back)
    engine = engine_on()
    trained = engine.run(job_for(engine, NETWORKS["mlp"], images, replace(recipe, cuda_graphs=True)))
    plain = engine.run(job_for(engine, NETWORKS["mlp"], images, replace(recipe, cuda_graphs=False)))
    close(plain, trained, TOLERANCE["32"])
    assert not any(plan.cuda_graphs for plan in engine.plans)
    assert any("without CUDA graphs" in plan.reason for plan in engine.plans)


def reads_back(logits_KBC: Tensor, label_KB: Tensor) -> Tensor:
    """Cross-entropy that waits for the device."""
    loss_KB = cross_entropy(logits_KBC, label_KB)
    return loss_KB * (1.0 if float(loss_KB.detach().sum()) >= 0 else 0.0)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_models_in_several_streams_are_the_models(cuda_graphs: bool, images: Population) -> None:
    recipe = replace(RECIPE, epochs=6, execution="loop", cuda_graphs=cuda_graphs)
    trained = []
    for streams in (False, True):
        engine = engine_on()
        trained.append(engine.run(job_for(engine, NETWORKS["cnn"], images, replace(recipe, streams=streams))))
        (plan,) = engine.plans
        assert plan.streams is (streams and not ON_CPU)
    close(*trained, TOLERANCE["32"])


@pytest.mark.parametrize(("precision", "cuda_graphs"), [("32", False), ("tf32", True), ("bf16", True)])
def test_loops_are_the_same_models_channels_last(precision: str, cuda_graphs: bool, images: Population) -> None:
    recipe = replace(RECIPE, epochs=6, execution="loop", cuda_graphs=cuda_graphs)
    trained = []
    for channels_last in (False, True):
        engine = engine_on(precision=precision)
        job = job_for(engine, NETWORKS["cnn"], images, replace(recipe, channels_last=channels_last))
        trained.append(engine.run(job))
        (plan,) = engine.plans
        assert plan.channels_last is channels_last
        weights = [weight for weight in trained[-1].stack.parameters() if weight.dim() == 5]
        are_so = {one.is_contiguous(memory_format=torch.channels_last) for weight in weights for one in weight}
        assert are_so == {channels_last}
    close(*trained, TOLERANCE[precision])


@pytest.mark.skipif(ON_CPU, reason="there is nothing to choose on the host")
def test_a_probe_measures_both_layouts_of_convolutions(images: Population) -> None:
    engine = engine_on(planner=Planner(always=True, short=0.0, share=100.0))
    recipe = replace(RECIPE, epochs=40, execution="loop", chunk=None, compile=False)
    engine.run(job_for(engine, NETWORKS["cnn"], images, recipe))
    (plan,) = engine.plans
    assert {row.channels_last for row in plan.measured} == {False, True}
    assert plan.channels_last is plan.measured[0].channels_last


@pytest.mark.skipif(ON_CPU, reason="there is nothing to choose on the host")
def test_a_probe_measures_both_ways(images: Population) -> None:
    engine = engine_on(planner=Planner(always=True, short=0.0, share=100.0))
    recipe = replace(RECIPE, epochs=40, execution="stack", chunk=None)
    engine.run(job_for(engine, NETWORKS["mlp"], images, recipe))
    (plan,) = engine.plans
    assert {row.cuda_graphs for row in plan.measured} == {False, True}
    assert plan.cuda_graphs is plan.measured[0].cuda_graphs


@pytest.mark.parametrize(
    ("name", "execution", "precision", "cuda_graphs"),
    [
        ("mlp", "stack", "32", False),
        ("dropout", "stack", "bf16", True),
        ("cnn", "loop", "tf32", True),
    ],
)
def test_steps_that_are_compiled_are_the_steps(
    name: str,
    execution: str,
    precision: str,
    cuda_graphs: bool,
    images: Population,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond the warm-up of recorded ones."""
    if ON_CPU:  # which may have no C++ compiler
        import torch._dynamo

        monkeypatch.setattr(compiled, "BACKEND", torch._dynamo.lookup_backend("aot_eager"))
    recipe = replace(RECIPE, epochs=6, batches_per_epoch=1, execution=execution)  # one form to compile
    switched_on = replace(recipe, compile=True, cuda_graphs=cuda_graphs)
    trained = []
    for each in (replace(recipe, compile=False, cuda_graphs=False), switched_on):
        engine = engine_on(precision=precision)
        trained.append(engine.run(job_for(engine, NETWORKS[name], images, each)))
    (plan,) = engine.plans
    assert plan.compile, plan.reason
    assert plan.cuda_graphs is (cuda_graphs and not ON_CPU)
    close(*trained, TOLERANCE[precision])


@pytest.mark.skipif(ON_CPU, reason="the host packs nothing")
def test_packed_records_train_the_same_models(images: Population) -> None:
    bits = replace(images, x_N=images.x_N // 128, scale=1.0, mean=None, std=None)
    trained = []
    for packed_bits in (False, True):
        engine = engine_on()
        recipe = replace(RECIPE, execution="stack", packed_bits=packed_bits)
        trained.append(engine.run(job_for(engine, NETWORKS["cnn"], bits, recipe)))
        (plan,) = engine.plans
        assert plan.packed_bits is packed_bits
    close(*trained, TOLERANCE["32"])


WAYS = {
    "augmented": replace(RECIPE, augment=[Crop(padding=2), Flip()]),
    "mixed": Mixup(alpha=0.5).adapt(RECIPE),
    "private": DPSGD(noise_multiplier=0.5, clip_norm=1.0).adapt(replace(RECIPE, batches_per_epoch=3)),
    "clipped": replace(RECIPE, gradient_clip_norm=0.1, accumulate_batches=2),
    "adam": replace(RECIPE, optimizer=partial(torch.optim.Adam, lr=0.001)),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_gpu_trains_what_the_host_does(name: str, images: Population) -> None:
    """In float64: every draw is the same on both."""
    trained = []
    for accelerator in ("cpu", "cpu" if ON_CPU else "gpu"):
        engine = engine_on(accelerator, "64")
        trained.append(engine.run(job_for(engine, NETWORKS["mlp"], images, WAYS[name])))
    close(*trained, 1e-6)
    here, there = (each.observe(images).log_probability_KANC.cpu() for each in trained)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_records_that_stay_on_the_host_change_nothing(name: str, images: Population) -> None:
    engine = engine_on()
    near = engine.run(job_for(engine, NETWORKS[name], images, RECIPE))
    far_images = replace(images, device_bytes=0)
    far = engine.run(job_for(engine, NETWORKS[name], far_images, RECIPE))
    close(near, far, 1e-5)
    answers = [each.observe(far_images, wanted=torch.arange(60) > 5).log_probability_KANC.cpu() for each in (near, far)]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_signals_are_those_of_the_host(execution: str, images: Population) -> None:
    engine = engine_on()
    trained = engine.run(job_for(engine, NETWORKS["cnn"], images, replace(RECIPE, execution=execution)))
    wanted_KN = torch.arange(60) % 7 > torch.arange(3)[:, None]
    for wanted in (None, wanted_KN):
        there = trained.observe(images, wanted=wanted).log_probability_KANC
        assert there.device == DEVICE
        on_host = replace(trained, stack=trained.stack.to("cpu"))
        here = on_host.observe(images, wanted=wanted).log_probability_KANC
        torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3, equal_nan=True)
        trained.stack.to(DEVICE)


@pytest.mark.skipif(ON_CPU, reason="the memory of the host is not limited")
def test_memory_that_runs_out_halves_the_chunk(images: Population) -> None:
    """A model takes 62 MiB while it trains, and 16 are begun at once with 750 MiB."""
    engine = engine_on()
    recipe = replace(RECIPE, epochs=1, chunk=None, execution="stack")
    network = bind_shapes(partial(MLP, hidden=[2048, 2048]), images.input_shape, 3)
    job = job_of(engine, network, images, [torch.arange(k, 30 + k) for k in range(16)], recipe, role="shadow")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    limit = torch.cuda.memory_reserved() + 750 * 2**20
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        trained = engine.run(job)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    (plan,) = engine.plans
    assert plan.chunk < 16
    assert trained.num_models == 16
    assert bool((trained.failed_epoch_K < 0).all())
    assert torch.cuda.max_memory_reserved() <= limit


def test_a_training_that_was_stopped_goes_on_to_the_same_bits_and_the_host_reads_it(
    images: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, epochs=3, optimizer=partial(torch.optim.Adam, lr=0.01), execution="stack")

    def trained(store: Store | None, accelerator: str = "cpu" if ON_CPU else "gpu") -> tuple[Engine, TrainedStack]:
        engine = engine_on(accelerator, store=store)
        return engine, engine.run(job_for(engine, NETWORKS["dropout"], images, recipe))

    _, undisturbed = trained(None)
    store = Store(dir=tmp_path / "store", checkpoint_minutes=0)
    with stopped_after(1, monkeypatch):
        trained(store)
    engine, resumed = trained(store)
    assert engine.reused["shadow"].trained == 3
    close(undisturbed, resumed, 1e-6)
    on_host, found = trained(store, "cpu")
    assert on_host.reused["shadow"] == Reuse(found=3, trained=0)
    assert found.stack.device == torch.device("cpu")
    close(found, resumed, 0.0)


ATTACKS: list[Attack] = [*AT_DEFAULTS, Gap(), Loss(), AttackP(), ModifiedEntropy(), ClassEntropy()]


@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_scores_are_those_of_the_host(attack: Attack) -> None:
    shadows, target = random_case(16, 200)
    names = ("member_KN", "scored_KN", "block_K", "label_N", "target_scored_N", "population_N")
    moved: dict[str, Tensor] = {name: getattr(shadows, name).to(DEVICE) for name in names}
    there = replace(shadows, signals=shadows.signals.to(DEVICE), **moved)
    scores = []
    for evidence, signals in ((shadows, target), (there, target.to(DEVICE))):
        fitted = attack.fit(evidence, ENGINE)
        scores.append(fitted.score(signals, evidence.label_N))
    assert scores[1].device == DEVICE
    torch.testing.assert_close(scores[1].cpu(), scores[0], rtol=1e-9, atol=1e-9)


def test_a_whole_audit_finds_what_it_does_on_the_host(blobs: Population) -> None:
    found = []
    for accelerator in ("cpu", "cpu" if ON_CPU else "gpu"):
        report = mia.audit(
            blobs,
            model=partial(MLP, hidden=[16]),
            attacks=[mia.Loss(), mia.Lira(), mia.Rmia()],
            membership=mia.Halves(),
            shadow=mia.Real(count=8),
            training=mia.Recipe(epochs=20, batch_size=20, optimizer=partial(torch.optim.Adam, lr=0.02)),
            trainer=mia.TrainerSettings(accelerator=accelerator, precision="64", progress_bar=False),
        )
        assert report.scores is not None
        found.append(torch.as_tensor(report.scores.score))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-3)
