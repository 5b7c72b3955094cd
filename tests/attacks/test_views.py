"""Views against slow loops and their own laws; what is observed of them."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from scipy.ndimage import shift as scipy_shift
from scipy.stats import kstest
from torch import Tensor

from mia_lightning.attacks import views as views_module
from mia_lightning.attacks.statistics import correctness, scaled_logit
from mia_lightning.attacks.views import Flip, Noise, RecordForm, Shift, View, observe_views
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.top_k import TopK
from mia_lightning.errors import InputError
from mia_lightning.shadows import domain
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import Signals, ViewSignals

SHIFTS = [(0, 0), (1, 0), (-1, 0), (0, 2), (0, -1), (2, -3), (-5, 5)]


def apply(view: View, population: Population, *, seed: int = 0) -> Tensor:
    form, index_N = RecordForm.of(population), torch.arange(len(population))
    return view.apply(population.x_N, index_N, seed=seed, form=form)


@pytest.fixture
def table() -> Population:
    """300 records of floats: binary, a count from 0 to 9, constant, real, and a real one of large spread."""
    random = torch.Generator().manual_seed(0)
    columns = [
        torch.randint(0, 2, (300,), generator=random).float(),
        torch.randint(0, 10, (300,), generator=random).float(),
        torch.full((300,), 3.0),
        torch.randn(300, generator=random),
        50 * torch.randn(300, generator=random) + 1000,
    ]
    return Population(
        name="table", x_N=torch.stack(columns, dim=1), label_N=torch.arange(300) % 2, class_names=("a", "b")
    )


@pytest.mark.parametrize(("dx", "dy"), SHIFTS)
def test_shifting_equals_scipys_with_the_border_repeated(dx: int, dy: int, pictures: Population) -> None:
    found_N = apply(Shift(dx=dx, dy=dy), pictures)
    expected_N = scipy_shift(pictures.x_N.numpy(), (0, 0, dy, dx), order=0, mode="nearest")
    assert found_N.dtype == torch.uint8
    np.testing.assert_array_equal(found_N.numpy(), expected_N)


def test_flipping_mirrors_rows_and_flattened_images_are_images_too(pictures: Population) -> None:
    expected_N = pictures.x_N.numpy()[:, :, :, ::-1]
    np.testing.assert_array_equal(apply(Flip(), pictures).numpy(), expected_N)
    flat = replace(pictures, x_N=pictures.x_N.flatten(1), mean=None, std=None)
    np.testing.assert_array_equal(apply(Flip(image_shape=(2, 6, 6)), flat).numpy(), expected_N.reshape(60, -1))
    shifted = apply(Shift(dx=2, dy=-1, image_shape=(2, 6, 6)), flat)
    assert torch.equal(shifted, apply(Shift(dx=2, dy=-1), pictures).flatten(1))


@pytest.mark.parametrize("scale", [0.1, 0.3])
def test_noise_flips_moves_and_rounds(scale: float, table: Population) -> None:
    many = replace(table, x_N=table.x_N.repeat(40, 1), label_N=table.label_N.repeat(40))
    x_N, noisy_N = many.x_N, apply(Noise(scale=scale), many)
    assert noisy_N.dtype == x_N.dtype
    flipped_N = noisy_N[:, 0] != x_N[:, 0]
    assert set(noisy_N[:, 0].tolist()) == {0.0, 1.0}
    assert abs(float(flipped_N.double().mean()) - scale) < 4 * (scale * (1 - scale) / 12_000) ** 0.5
    assert set(noisy_N[:, 1].tolist()) == set(map(float, range(10)))
    assert torch.equal(noisy_N[:, 2], x_N[:, 2])
    for column in (3, 4):
        deviation = float(np.std(table.x_N[:, column].numpy().astype(np.float64)))
        moved = (noisy_N[:, column].double() - x_N[:, column].double()) / (scale * deviation)
        assert kstest(moved.numpy(), "norm").pvalue > 1e-3


def test_whole_numbers_are_rounded_and_kept_in_range_one_by_one(table: Population) -> None:
    """The count column moves by the rounded noise that a real column of its spread would have."""
    form = RecordForm.of(table)
    real = replace(form, domain=replace(form.domain, is_whole_F=torch.zeros(5, dtype=torch.bool)))
    index_N = torch.arange(300)
    noise = Noise(scale=0.5)
    moved = noise.apply(table.x_N, index_N, seed=0, form=real)[:, 1].tolist()
    found = noise.apply(table.x_N, index_N, seed=0, form=form)[:, 1].tolist()
    assert found == [min(9.0, max(0.0, float(round(value)))) for value in moved]
    assert any(value > 9 for value in moved)


def test_images_of_whole_numbers_stay_such(pictures: Population) -> None:
    found_N = apply(Noise(scale=1.0), pictures)
    assert found_N.dtype == torch.uint8
    assert bool((found_N >= pictures.x_N.amin(0)).all())
    assert bool((found_N <= pictures.x_N.amax(0)).all())
    assert float((found_N != pictures.x_N).double().mean()) > 0.9


def test_a_binary_feature_that_flips_with_probability_half_says_nothing_and_no_more_is_possible() -> None:
    table = Population(
        name="bits", x_N=torch.arange(4000)[:, None] % 2, label_N=torch.arange(4000) % 2, class_names=("a", "b")
    )
    for scale in (0.5, 3.0):
        flipped_N = apply(Noise(scale=scale), table) != table.x_N
        assert abs(float(flipped_N.double().mean()) - 0.5) < 4 * 0.5 / 4000**0.5


@pytest.mark.parametrize("view", [Shift(dx=1, dy=0), Flip(), Noise(scale=0.2)], ids=lambda view: view.name)
def test_a_view_is_a_function_of_the_record_and_its_number_alone(view: View, pictures: Population) -> None:
    form, index_N = RecordForm.of(pictures), torch.arange(60)
    together = view.apply(pictures.x_N, index_N, seed=0, form=form)
    order_N = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    assert torch.equal(view.apply(pictures.x_N[order_N], index_N[order_N], seed=0, form=form), together[order_N])
    alone = [view.apply(pictures.x_N[n : n + 1], index_N[n : n + 1], seed=0, form=form) for n in range(60)]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.usefixtures("global_generators")
def test_noise_differs_by_seed_draw_scale_record_and_feature() -> None:
    same = Population(name="same", x_N=torch.randn(2, 2), label_N=torch.arange(2), class_names=("a", "b"))
    form = replace(RecordForm.of(same), deviation_F=torch.ones(2, dtype=torch.float64))

    def noise(view: Noise, seed: int) -> Tensor:
        zeros = torch.zeros(2, 2, dtype=torch.float64)
        return view.apply(zeros, torch.arange(2), seed=seed, form=form) / view.scale

    drawn = [
        noise(Noise(scale=0.5), 0),
        noise(Noise(scale=0.5), 1),
        noise(Noise(scale=0.5, draw=1), 0),
        noise(Noise(scale=0.25), 0),
    ]
    assert torch.stack(drawn).unique().numel() == 16
    assert torch.equal(drawn[0], noise(Noise(scale=0.5), 0))


def test_the_form_of_records_is_that_of_numpy(table: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.std(table.x_N.numpy().astype(np.float64), axis=0)
    monkeypatch.setattr(domain, "_NUMBERS", 35)  # seven rows at a time
    form = RecordForm.of(table)
    np.testing.assert_allclose(form.deviation_F.numpy(), expected, rtol=1e-12)
    assert form.is_binary_F.tolist() == [True, False, False, False, False]
    assert form.shape == (5,)


@dataclass(eq=False)
class Recorder:
    """Two linear models, which remember what they were asked."""

    weight_KFC: Tensor
    asked: list[Tensor] = field(default_factory=list)

    def observe(self, population: Population, *, room: Room | None = None) -> Signals:
        assert population.member_N is None
        self.asked.append(population.x_N)
        x_NF = population.normalised(population.x_N).flatten(1)
        logits_KNC = torch.einsum("nf,kfc->knc", x_NF, self.weight_KFC)
        return Signals(log_probability_KANC=logits_KNC.log_softmax(-1).unsqueeze(1))


@pytest.mark.parametrize("outputs", [(), (TopK(k=1),)], ids=["open", "defended"])
def test_answers_are_reduced_view_by_view_behind_the_defences(
    outputs: tuple[TopK, ...], pictures: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Recorder(torch.randn(2, 72, 3, generator=torch.Generator().manual_seed(0)))
    views = (Shift(dx=1, dy=0), Flip(), Noise(scale=0.2, draw=1))
    monkeypatch.setattr(domain, "_NUMBERS", 7 * 72)  # seven records at a time
    found = observe_views(models, replace(pictures, member_N=torch.ones(60).bool()), views, 5, outputs)
    assert (found.names, found.queries) == (("shift_1_0", "flip", "noise_0.2_1"), 3)
    assert len(models.asked) == 3
    for a, view in enumerate(views):
        changed = apply(view, pictures, seed=5)
        assert torch.equal(models.asked[a], changed)
        answer = models.observe(replace(pictures, x_N=changed)).log_probability_KANC
        for defense in outputs:
            answer = defense.apply(answer)
        signals = Signals(log_probability_KANC=answer)
        assert torch.equal(found.scaled_logit_KAN[:, a], scaled_logit(signals, pictures.label_N).float())
        assert torch.equal(found.is_correct_KAN[:, a].double(), correctness(signals, pictures.label_N))
    assert found.scaled_logit_KAN.dtype == torch.float32
    assert found.is_correct_KAN.dtype == torch.bool


@pytest.mark.usefixtures("global_generators")
def test_equal_views_are_asked_about_once_and_a_form_may_be_given(pictures: Population) -> None:
    models = Recorder(torch.randn(1, 72, 3))
    form = replace(RecordForm.of(pictures), deviation_F=torch.zeros(72, dtype=torch.float64))
    found = observe_views(models, pictures, [Noise(scale=1), Flip(), Noise(scale=1.0)], 0, form=form)
    assert found.names == ("noise_1.0_0", "flip")
    assert torch.equal(models.asked[0], pictures.x_N)


@pytest.mark.usefixtures("global_generators")
def test_signals_select_models_in_their_views_too() -> None:
    views = ViewSignals(
        names=("a", "b"), scaled_logit_KAN=torch.randn(3, 2, 4), is_correct_KAN=torch.randn(3, 2, 4) > 0
    )
    kept_K = torch.tensor([True, False, True])
    signals = Signals(log_probability_KANC=torch.randn(3, 1, 4, 2), views=views).select(kept_K)
    assert signals.views is not None
    assert signals.views.names == ("a", "b")
    assert torch.equal(signals.views.scaled_logit_KAN, views.scaled_logit_KAN[[0, 2]])
    assert torch.equal(signals.views.is_correct_KAN, views.is_correct_KAN[[0, 2]])
    assert Signals(log_probability_KANC=torch.randn(3, 1, 4, 2)).select(kept_K).views is None


@dataclass(frozen=True)
class SecondFlip(Flip):
    """Another view under a name that is taken."""


@pytest.mark.usefixtures("global_generators")
def test_views_that_cannot_be_asked_about_are_refused(table: Population, pictures: Population) -> None:
    models = Recorder(torch.randn(1, 72, 3))
    for wrong in ((), (Flip(), SecondFlip())):
        with pytest.raises(InputError, match="give at least one, and each a name of its own"):
            observe_views(models, pictures, wrong, 0)
    for view in (Flip(), Shift(dx=1, dy=0)):
        with pytest.raises(InputError, match=r"the shape \(5,\), which is no image .* `image_shape`"):
            observe_views(models, table, [view], 0)
    assert not models.asked
    assert Noise(scale=0.1).refusal((5,)) is None


@pytest.mark.parametrize("image_shape", [(6,), (6, 7), (72,)])
def test_an_image_shape_that_does_not_fit_is_refused(image_shape: tuple[int, ...]) -> None:
    for view in (Flip(image_shape=image_shape), Shift(dx=1, dy=0, image_shape=image_shape)):
        assert f"`image_shape` is {list(image_shape)}" in str(view.refusal((72,)))
    assert Flip(image_shape=(2, 6, 6)).refusal((72,)) is None


def test_a_shift_beyond_the_image_is_refused() -> None:
    assert "6 x 4 cannot be shifted by 0 rows and -4 columns" in str(Shift(dx=-4, dy=0).refusal((3, 6, 4)))
    assert "by 6 rows" in str(Shift(dx=0, dy=6, image_shape=(6, 4)).refusal((24,)))
    assert Shift(dx=3, dy=-5).refusal((3, 6, 4)) is None


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan"), True, "much"])
def test_a_scale_that_is_no_amount_is_refused(scale: object) -> None:
    with pytest.raises(InputError, match=r"`scale` is .* above 0"):
        Noise(scale=scale)


def test_normal_numbers_are_finite_at_both_ends_of_the_hash() -> None:
    ends = torch.tensor([torch.iinfo(torch.int64).min, -1, 0, torch.iinfo(torch.int64).max])
    assert bool(views_module._standard_normal(ends).isfinite().all())
