"""Augmentation: images against torchvision or a loop, draws against their laws, the stack against a solo model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning.callbacks import ModelCheckpoint
from quick import slow_but
from rich.console import Console
from scipy import stats
from torch import Tensor, nn
from torchvision.transforms import functional as F  # noqa: N812
from training_jobs import job_of, train_with

from mia_lightning.command.experiment import depends_on
from mia_lightning.command.job import Job, instantiate
from mia_lightning.command.mistakes import config_directory
from mia_lightning.datasets.augmentation import Augmentation, Crop, Cutout, Flip, augmented
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.mixup import Mixup
from mia_lightning.errors import InputError
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import counter_hash, derive, generator, isolated
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.batches import StackBatches
from mia_lightning.training.step.module import StackModule
from mia_lightning.training.step.recipe import Chunk, Recipe, default_recipe
from mia_lightning.training.step.rules import Gradients, Step
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

K, B = 3, 7
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...] | None, tuple[int, int, int]]] = [
    ((2, 6, 7), None, (2, 6, 7)),
    ((6, 7), None, (1, 6, 7)),
    ((84,), (2, 6, 7), (2, 6, 7)),
    ((2, 2, 5, 6), None, (4, 5, 6)),
]
ALL = (Crop(padding=2), Flip(), Crop(padding=1, fill="reflect"), Cutout(size=3))


def draws() -> Tensor:
    return counter_hash(torch.arange(K)[:, None], torch.arange(B))


def records(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(K, B, *shape, generator=generator(0, "augmentation"), dtype=torch.float64)


def number(draw: Tensor, counter: int, count: int) -> int:
    """Uniform in [0, count), in whole numbers of Python."""
    return int(counter_hash(draw, counter)) % count


def changed_image(each: Augmentation, image: Tensor, draw: Tensor) -> Tensor:
    """One image `[channels, rows, columns]`, by torchvision, or by the authors' own code for cutout."""
    rows, columns = image.shape[-2:]
    if isinstance(each, Flip):
        return F.hflip(image) if int(counter_hash(draw, 0)) < 0 else image
    if isinstance(each, Crop):
        mode = "reflect" if each.fill == "reflect" else "constant"
        fill = 0.0 if isinstance(each.fill, str) else each.fill
        fills = [fill] * len(image) if isinstance(fill, float) else fill
        sides = [each.padding] * 4
        channels = [F.pad(one[None], sides, value, mode) for one, value in zip(image, fills, strict=True)]
        padded = torch.cat(channels)
        top, left = (number(draw, axis, 2 * each.padding + 1) for axis in range(2))
        return F.crop(padded, top, left, rows, columns)
    assert isinstance(each, Cutout)
    row, column = number(draw, 0, rows), number(draw, 1, columns)
    mask = np.ones((rows, columns))
    above = each.size // 2
    top, bottom = np.clip([row - above, row - above + each.size], 0, rows)
    left, right = np.clip([column - above, column - above + each.size], 0, columns)
    mask[top:bottom, left:right] = 0
    return image * torch.from_numpy(mask).to(image.dtype)


@pytest.mark.parametrize(("shape", "image_shape", "image"), SHAPES)
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Crop, {"padding": 1}),
        (Crop, {"padding": 4}),
        (Crop, {"padding": 4, "fill": "reflect"}),
        (Crop, {"padding": 2, "fill": -1.5}),
        (Flip, {}),
        (Cutout, {"size": 1}),
        (Cutout, {"size": 4}),
        (Cutout, {"size": 5}),
        (Cutout, {"size": 20}),
    ],
)
def test_every_image_is_what_a_loop_makes_of_it(
    kind: Any,
    settings: dict[str, Any],
    shape: tuple[int, ...],
    image_shape: tuple[int, ...] | None,
    image: tuple[int, int, int],
) -> None:
    each = kind(**settings, image_shape=image_shape)
    assert each.refusal(shape) is None
    x, draw_KB = records(shape), draws()
    before = x.clone()
    result = each.apply(x, draw_KB)
    assert result.shape == x.shape
    assert result.dtype == x.dtype
    for k in range(K):
        for b in range(B):
            expected = changed_image(each, x[k, b].reshape(image), draw_KB[k, b]).reshape(shape)
            torch.testing.assert_close(result[k, b], expected, rtol=0, atol=0)
    assert torch.equal(x, before)
    assert not torch.equal(result, x)


def test_a_border_of_one_colour_a_channel() -> None:
    each, x, draw_KB = Crop(padding=2, fill=[1.5, -0.25]), records((2, 6, 7)), draws()
    assert each.refusal((2, 6, 7)) is None
    result = each.apply(x, draw_KB)
    for k in range(K):
        for b in range(B):
            assert torch.equal(result[k, b], changed_image(each, x[k, b], draw_KB[k, b]))
    reason = each.refusal((3, 6, 7))
    assert reason is not None
    assert all(part in reason for part in ("`training.augment.Crop.fill`", "2 numbers", "3 channels"))


@pytest.mark.parametrize("each", ALL)
def test_a_batch_without_records_stays_one(each: Augmentation) -> None:
    assert each.apply(torch.zeros(3, 0, 2, 6, 6), torch.zeros(3, 0, dtype=torch.int64)).shape == (3, 0, 2, 6, 6)


def is_uniform(place_N: Tensor, count: int) -> bool:
    return bool(stats.chisquare(place_N.bincount(minlength=count).numpy()).pvalue > 1e-3)


def many(image: Tensor, each: Augmentation, *, over: str) -> Tensor:
    """20,000 copies `[N, rows, columns]` of one image, of as many records, models or steps."""
    N = 20_000 if over != "step" else 2_000
    key_K, index_N = torch.tensor([derive(0, "augmented")]), torch.zeros(1, 1, dtype=torch.int64)
    if over == "record":
        return augmented(image.expand(1, N, 1, -1, -1), [each], key_K=key_K, step=0, index_KB=torch.arange(N)[None])[
            0, :, 0
        ]
    if over == "model":
        x, key_K = image.expand(N, 1, 1, -1, -1), torch.tensor([derive(0, "augmented", k) for k in range(N)])
        return augmented(x, [each], key_K=key_K, step=0, index_KB=index_N.expand(N, 1))[:, 0, 0]
    x = image.expand(1, 1, 1, -1, -1)
    return torch.cat([augmented(x, [each], key_K=key_K, step=step, index_KB=index_N)[0, :, 0] for step in range(N)])


@pytest.mark.parametrize("over", ["record", "model", pytest.param("step", marks=pytest.mark.slow)])
def test_every_shift_flip_and_square_is_equally_likely(over: str) -> None:
    dot = torch.zeros(7, 7)
    dot[3, 3] = 1.0
    place_N = many(dot, Crop(padding=2), over=over).flatten(1).argmax(1)
    where_N = (place_N // 7 - 1) * 5 + place_N % 7 - 1
    assert is_uniform(where_N, 25)
    side = torch.tensor([[0.0, 1.0]])
    assert is_uniform(many(side, Flip(), over=over)[:, 0, 0].long(), 2)
    hole_N = (many(torch.ones(4, 5), Cutout(size=1), over=over) == 0).flatten(1)
    assert (hole_N.sum(1) == 1).all()
    assert is_uniform(hole_N.int().argmax(1), 20)


def test_the_draws_depend_on_key_step_record_and_place_among_the_augmentations_alone() -> None:
    x, key_K, index_KB = records((2, 6, 6)), torch.tensor([5, 6, 7]), torch.arange(K * B).view(K, B)
    whole = augmented(x, ALL, key_K=key_K, step=4, index_KB=index_KB)
    order = torch.tensor([3, 0, 6])
    part = augmented(x[1:2, order], ALL, key_K=key_K[1:2], step=4, index_KB=index_KB[1:2, order])
    assert torch.equal(part[0], whole[1, order])
    assert not torch.equal(augmented(x, ALL, key_K=key_K, step=5, index_KB=index_KB), whole)
    same = x[:1].expand(3, -1, -1, -1, -1), index_KB[:1].expand(3, -1)
    of_models = augmented(same[0], ALL, key_K=key_K, step=4, index_KB=same[1])
    assert not torch.equal(of_models[0], of_models[1])
    twice = augmented(x, [Flip(), Flip()], key_K=key_K, step=0, index_KB=index_KB)
    assert not torch.equal(twice, x)  # as it would be, were both drawn alike


NETWORKS = {
    "mlp": partial(MLP, hidden=[8], dropout=0.3),
    "cnn": partial(CNN, channels=[3], hidden=6, kernel_size=3, batch_norm=True),
}


def train(
    population: Population, network: str = "cnn", models: Sequence[int] = (0, 1, 2), **recipe: object
) -> TrainedStack:
    sizes = [25, 31, 29]  # ragged; all in four batches of at most 8
    every = [torch.randperm(50, generator=generator(k, "records"))[:size] for k, size in enumerate(sizes)]
    settings = {
        "epochs": 3,
        "batch_size": 8,
        "optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        "augment": ALL,
    }
    return train_with(
        Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision="64")),
        bind_shapes(NETWORKS[network], population.input_shape, population.num_classes),
        population,
        [every[k] for k in models],
        Recipe(**{**settings, **recipe}),
        role="shadow",
        models=models,
        validation_N=torch.arange(50, 60),
    )


def weights(trained: TrainedStack) -> dict[str, Tensor]:
    return dict(trained.stack.networks.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("network", slow_but(["cnn"], NETWORKS))
def test_stack_loop_chunk_and_solo_agree(network: str, pictures: Population) -> None:
    together = train(pictures, network, execution="stack")
    assert together.execution == "stack"
    for other in ({"chunk": 1}, {"chunk": 2}, {"execution": "loop"}):
        torch.testing.assert_close(weights(train(pictures, network, **other)), weights(together), rtol=1e-8, atol=1e-8)
    for k in range(3):
        alone = train(pictures, network, models=[k])
        for name, tensor in weights(alone).items():
            torch.testing.assert_close(weights(together)[name][k], tensor[0], rtol=1e-8, atol=1e-8)
    plain = train(pictures, network, augment=[])
    assert not torch.allclose(plain.train_loss_EK, together.train_loss_EK, rtol=1e-3)


@pytest.mark.costly
@pytest.mark.parametrize("changes", [DPSGD(noise_multiplier=0.5), Mixup()], ids=["dp_sgd", "mixup"])
def test_under_defences_that_change_a_step_stack_loop_and_solo_agree(changes: Any, pictures: Population) -> None:
    plain = Recipe(epochs=2, batch_size=8, optimizer=partial(torch.optim.SGD, lr=0.1), augment=ALL)
    recipe = {name: getattr(changes.adapt(plain), name) for name in Recipe.__dataclass_fields__}
    together = train(pictures, "mlp", **recipe)
    torch.testing.assert_close(
        weights(train(pictures, "mlp", **{**recipe, "execution": "loop"})), weights(together), rtol=1e-8, atol=1e-8
    )
    alone = train(pictures, "mlp", models=[1], **recipe)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(together)[name][1], tensor[0], rtol=1e-8, atol=1e-8)
    unchanged = train(pictures, "mlp", **{**recipe, "augment": []})
    assert not torch.allclose(unchanged.train_loss_EK, together.train_loss_EK, rtol=1e-3)


def test_an_ordinary_training_loop_with_torchvision_gives_the_same_network(pictures: Population) -> None:
    k, numbers, stream = 2, 29, derive(0, "augmentation")
    trained = train(pictures, "cnn")
    own = torch.randperm(50, generator=generator(k, "records"))[:numbers]
    with isolated(7, "shadow", k, "initialisation"):
        network = bind_shapes(NETWORKS["cnn"], pictures.input_shape, 3)().double()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    key = derive(7, "shadow", k, "order")
    batches = StackBatches([own], torch.tensor([key]), batches_per_epoch=4)
    step = 0
    for epoch in range(3):
        batches.set_epoch(epoch)
        for index_KB, _ in batches:
            x_B = pictures.records(index_KB[0], torch.float64)
            for place, each in enumerate(ALL):
                hashed = [counter_hash(torch.tensor(key), stream, place, step, int(n)) for n in index_KB[0]]
                x_B = torch.stack([changed_image(each, x, draw) for x, draw in zip(x_B, hashed, strict=True)])
            loss = nn.functional.cross_entropy(network(x_B), pictures.label_N[index_KB[0]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(trained.stack.model(k).state_dict()[name], tensor, rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
def test_a_resumed_run_sees_the_images_of_one_that_was_not_stopped(pictures: Population, tmp_path: Path) -> None:
    def fit(epochs: int, resume: Path | None = None) -> StackModule:
        make = bind_shapes(NETWORKS["mlp"], pictures.input_shape, 3)
        module = StackModule(
            Stack.build(make, [0, 1], seed=0, role="shadow"),
            pictures,
            StackBatches([torch.arange(25), torch.arange(25, 50)], torch.arange(2), batches_per_epoch=3),
            Recipe(epochs=4, batch_size=9, optimizer=partial(torch.optim.SGD, lr=0.05), augment=ALL),
        )
        saver = ModelCheckpoint(dirpath=tmp_path / str(epochs), filename="{epoch}", save_top_k=-1)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        pl.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[saver], **quiet).fit(module, ckpt_path=resume)
        return module

    whole = fit(4)
    fit(2)
    resumed = fit(4, tmp_path / "2" / "epoch=1.ckpt")
    torch.testing.assert_close(resumed.stack.state_dict(), whole.stack.state_dict(), rtol=0, atol=0)


@dataclass(frozen=True, kw_only=True)
class Blank:
    """Nothing is left of any record."""

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        return None

    def apply(self, x: Tensor, draw_KB: Tensor) -> Tensor:
        return torch.zeros_like(x)


def test_validation_and_answers_are_those_for_unchanged_records(pictures: Population) -> None:
    trained = train(pictures, augment=[Blank()])
    assert trained.validation_loss_EK is not None
    everything = torch.arange(60)
    for k in range(3):
        network = trained.stack.model(k).eval()
        with torch.no_grad():
            logits = network(pictures.records(everything, torch.float64))
        loss = nn.functional.cross_entropy(logits[50:], pictures.label_N[50:])
        torch.testing.assert_close(trained.validation_loss_EK[-1, k].double(), loss, rtol=1e-6, atol=1e-6)
        answers = trained.observe(pictures).log_probability_KANC[k, 0]
        torch.testing.assert_close(answers.double(), logits.log_softmax(1), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(answers[0], answers[1])  # as those of blank records would be


@dataclass(frozen=True, kw_only=True)
class Watch:
    """A rule of gradients that keeps what it is given."""

    seen: list[Step] = field(default_factory=list)

    def for_models(self, models: Chunk) -> Gradients:
        return self._keep

    def _keep(self, stack: Stack, step: Step) -> Tensor:
        self.seen.append(step)
        for parameter in stack.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return torch.zeros(stack.num_models)


def test_a_rule_of_gradients_is_given_the_changed_records(pictures: Population) -> None:
    watch = Watch()
    train(pictures, "mlp", augment=ALL, gradient_rule=watch, execution="stack", chunk=None)
    key_K = torch.tensor([derive(7, "shadow", k, "order") for k in range(3)])
    training = watch.seen[-12:]  # the first ones are of a probe
    assert [step.number for step in training] == list(range(12))
    for step in training:
        plain = pictures.records(step.index_KB, torch.float64)
        expected = augmented(plain, ALL, key_K=key_K, step=step.number, index_KB=step.index_KB)
        torch.testing.assert_close(step.x, expected, rtol=0, atol=0)
        assert not torch.equal(step.x, plain)


@pytest.mark.parametrize("value", [5, None, "Flip", Flip, Flip(), [Flip], [Flip(), "Crop"]])
def test_what_is_no_list_of_augmentations_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"`training.augment` is .*; it must be a list of augmentations"):
        Recipe(epochs=1, batch_size=1, optimizer=torch.optim.Adam, augment=value)


@pytest.mark.parametrize("image_shape", [5, [8], "88", [-8, -8]])
@pytest.mark.parametrize("kind", [Crop, Flip, Cutout])
def test_what_is_no_shape_of_an_image_is_refused(kind: Any, image_shape: object) -> None:
    with pytest.raises(InputError, match=rf"`training.augment.{kind.__name__}.image_shape` is .*such as \[1,28,28\]"):
        kind(image_shape=image_shape)


@pytest.mark.parametrize(
    ("each", "shape", "sentence"),
    [
        (Flip(), (6,), r"has a Flip, but a record has the shape \(6,\), which is no image"),
        (Crop(padding=1), (6,), "has a Crop, but"),
        (Cutout(), (6,), "has a Cutout, but"),
        (Flip(image_shape=(3, 3)), (6,), r"`training.augment.Flip.image_shape` is \[3, 3\], but"),
        (Crop(padding=6), (1, 9, 6), "`training.augment.Crop.padding` is 6, which may leave nothing .* 9 x 6"),
        (Crop(padding=3, image_shape=(3, 8)), (24,), "is 3, which may leave nothing of an image of 3 x 8"),
    ],
)
def test_records_that_cannot_be_changed_so_are_refused(
    each: Augmentation, shape: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        Recipe(epochs=1, batch_size=1, optimizer=torch.optim.Adam, augment=[each]).check_records(shape)


def test_the_engine_refuses_before_anything_is_trained(blobs: Population) -> None:
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
    recipe = Recipe(epochs=1, batch_size=10, optimizer=torch.optim.Adam, augment=[Flip()])
    make = bind_shapes(partial(MLP, hidden=[4]), blobs.input_shape, 3)
    with pytest.raises(InputError, match="no image"):
        job_of(engine, make, blobs, [torch.arange(20)], recipe, role="target")


def test_a_list_from_a_configuration_is_kept_as_a_tuple() -> None:
    recipe = Recipe(epochs=1, batch_size=1, optimizer=torch.optim.Adam, augment=[Crop(image_shape=[1, 8, 8])])
    assert recipe.augment == (Crop(padding=4, image_shape=(1, 8, 8)),)
    assert default_recipe().augment == ()


def resolved(*overrides: str) -> Job:
    quick = ["logger=none", "attack=loss", "shadow.count=2", "training.epochs=2", "dataset.train_size=40"]
    still = ["trainer.accelerator=cpu", "trainer.progress_bar=false"]
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return Job.of(compose("config", overrides=[*quick, *still, *overrides]))


PLACE = "mia_lightning.datasets.augmentation"
TYPED = (
    f"training.augment=[{{_target_: {PLACE}.Crop, padding: 1, image_shape: [8, 8]}},"
    f"{{_target_: {PLACE}.Flip, image_shape: [1, 8, 8]}}, {{_target_: {PLACE}.Cutout, size: 2, image_shape: [8, 8]}}]"
)


@pytest.mark.slow
def test_a_whole_run_from_the_command_line(tmp_path: Path) -> None:
    plain, changed = resolved(), resolved(TYPED)
    assert depends_on(plain) != depends_on(changed)
    losses = []
    for name, settings in (("plain", plain), ("changed", changed)):
        report = settings.run(tmp_path / name, Console(quiet=True))
        assert (tmp_path / name / "report.json").is_file()
        losses.append(report.training_curves["target"].train_loss_EK)
    assert not np.array_equal(*losses)
    kept = instantiate(changed.content["training"], "training").augment
    assert kept == (
        Crop(padding=1, image_shape=(8, 8)),
        Flip(image_shape=(1, 8, 8)),
        Cutout(size=2, image_shape=(8, 8)),
    )


def test_mistakes_on_the_command_line_are_one_sentence(tmp_path: Path) -> None:
    for typed, sentence in (
        (f"training.augment=[{{_target_: {PLACE}.Flip}}]", "no image"),  # the digits are flattened
        (f"training.augment=[{{_target_: {PLACE}.Crop, padding: 0}}]", "is 0; it must be a whole number"),
        ("training.augment=[flip]", "must be a list of augmentations by their `_target_`"),
    ):
        with pytest.raises(InputError, match=sentence) as refused:
            resolved(typed).run(tmp_path, Console(quiet=True))
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "report.json").exists()
