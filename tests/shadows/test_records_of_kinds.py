"""Made shadow records of tokens, categories and numbers with gaps: each kind by its own rule."""

from collections.abc import Callable

import pytest
import torch
from formed import VOCABULARY, Columns, Words, table_population, text_population
from quick import quick_audit
from torch import Tensor
from training_jobs import train_with

import mia_lightning as mia
from mia_lightning.attacks.views import Noise, RecordForm, Shift, observe_views, view_refusal
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.shadows.interface import Source
from mia_lightning.shadows.marginal import Marginal
from mia_lightning.shadows.model_based import ModelBased
from mia_lightning.shadows.noisy import Noisy
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import Recipe


class Nobody:
    """A target that is not asked."""

    num_queries, num_classes = 0, 3

    def predict(self, x_B: Tensor) -> Tensor:
        raise AssertionError


class First(Nobody):
    """Is always sure of the first class."""

    def predict(self, x_B: Tensor) -> Tensor:
        self.num_queries += len(x_B)
        return torch.tensor([0.8, 0.1, 0.1]).expand(len(x_B), 3)


def made(source: Source, population: Population) -> Population:
    found = source.synthesise(population, Nobody(), seed=0)
    return make_population(found.x_M, found.label_M, form=population.form, class_names=["0", "1", "2"])


def test_noise_redraws_tokens_by_their_frequency_and_keeps_padding() -> None:
    known = text_population(3000)
    known = known.chosen((known.entries_NF != 0).sum(1) > 5)  # of which no two become equal
    share = 3 / 9
    noisy = made(Noisy(fraction=share, label="own"), known)
    before, after = known.entries_NF, noisy.entries_NF
    assert len(after) == len(before)
    assert torch.equal(before == 0, after == 0)
    changed = (before != after) & (before != 0)
    # A third of the places are drawn anew; one of 29 tokens is likely to come back.
    real = before != 0
    rate = float(changed.sum() / real.sum())
    assert rate == pytest.approx(share * (1 - 1 / (VOCABULARY - 1)), abs=0.02)
    drawn = torch.bincount(after[changed], minlength=VOCABULARY).double() / changed.sum()
    marginal = torch.bincount(before[real], minlength=VOCABULARY).double() / real.sum()
    assert float((drawn - marginal).abs().max()) < 0.015


def test_noise_takes_categories_from_other_records_even_of_two_codes() -> None:
    known = table_population(3000, gaps=False)
    noisy = made(Noisy(fraction=2 / 7, label="own"), known)
    before, after = known.entries_NF, noisy.entries_NF
    binary = 5  # the second category has two codes: a flip would change it whenever it is chosen
    rate = float((before[:, binary] != after[:, binary]).double().mean())
    assert rate == pytest.approx(2 / 7 / 2, abs=0.025)
    for i in range(4):  # numbers come from other records
        assert torch.isin(after[:, i], before[:, i]).all()


def test_a_drawn_text_has_a_real_length_and_tokens_by_their_frequency() -> None:
    known = text_population(1500)
    drawn = made(Marginal(records=4000, label="own"), known)
    before, after = known.entries_NF, drawn.entries_NF
    real = after != 0
    assert not (real[:, 1:] & ~real[:, :-1]).any()  # padding stands behind
    for lengths in ((before != 0).sum(1), real.sum(1)):
        assert set(lengths.unique().tolist()) == set(range(3, 10))
    one, other = (torch.bincount(x[x != 0], minlength=VOCABULARY).double() for x in (before, after))
    assert float((one / one.sum() - other / other.sum()).abs().max()) < 0.01


def test_a_drawn_row_of_a_table_has_values_of_its_columns() -> None:
    known = table_population(500)
    drawn = made(Marginal(records=700, label="own"), known)
    before, after = known.entries_NF, drawn.entries_NF
    for i in range(7):
        own = before[:, i]
        assert torch.isin(after[:, i], own).logical_or(after[:, i].isnan()).all()
    share = float(after[:, :4].isnan().double().mean())
    assert share == pytest.approx(float(before[:, :4].isnan().double().mean()), abs=0.03)


def test_chains_climb_over_categories_and_numbers() -> None:
    known = table_population(300)
    target = First()
    source = ModelBased(records_per_class=20, k_max=4, k_min=1, iter_max=5, rounds=1)
    found = source.synthesise(known, target, seed=0)
    rows = make_population(found.x_M, found.label_M, form=known.form, class_names=["0", "1", "2"]).entries_NF
    assert len(rows) == 20
    before = known.entries_NF
    for i, size in enumerate((5, 2, 7)):
        assert set(rows[:, 4 + i].unique().tolist()) <= set(range(size))
    assert (rows[:, :4] >= before[:, :4].nan_to_num(9.0).amin(0)).all()
    assert not rows.isnan().any()


@pytest.mark.parametrize(
    ("population", "words"),
    [
        (text_population, "tokens [9]"),
        (
            lambda: make_population(
                torch.zeros(8, 40, dtype=torch.int16), torch.arange(8) % 2, kinds={"kind": "waveform"}
            ),
            "waveform [40]",
        ),
    ],
)
def test_chains_over_texts_and_sounds_are_refused_before_training(
    population: Callable[[], Population], words: str
) -> None:
    with pytest.raises(InputError, match="shadow=model_based") as caught:
        mia.audit(population(), **quick_audit(model=Words, shadow=mia.ModelBased(count=2)))
    assert words in str(caught.value)


@pytest.mark.costly
@pytest.mark.parametrize("source", [mia.Noisy(count=4), mia.Marginal(count=4)])
@pytest.mark.parametrize(("population", "model"), [(text_population, Words), (table_population, Columns)])
def test_an_audit_with_made_records_runs(
    source: Source, population: Callable[[], Population], model: type[torch.nn.Module]
) -> None:
    options = quick_audit(model=model, shadow=source, membership=mia.Disjoint(train_size=25))
    report = mia.audit(population(), **options)
    assert report.shadow.synthesis is not None
    assert 0 <= report.attacks[0].overall.auc.value <= 1


def test_noisy_views_move_numbers_and_leave_codes_and_gaps() -> None:
    known = table_population()
    form = RecordForm.of(known)
    before = known.entries_NF
    after = Noise(scale=0.5).apply(before, torch.arange(120), seed=0, form=form)
    assert torch.equal(before[:, 4:], after[:, 4:])
    assert torch.equal(before.isnan(), after.isnan())
    moved = (after - before)[:, :4]
    expected = 0.5 * torch.tensor([float(before[:, i][~before[:, i].isnan()].std(correction=0)) for i in range(4)])
    found = torch.tensor([float(moved[:, i][~moved[:, i].isnan()].std(correction=0)) for i in range(4)])
    torch.testing.assert_close(found, expected, rtol=0.25, atol=0.0)
    population, recipe = known, Recipe(epochs=1, batch_size=20)
    make = bind_records(Columns, population)
    models = train_with(Engine(seed=0), make, population, [torch.arange(40)], recipe, role="shadow")
    assert observe_views(models, population, [Noise(scale=0.1)], 0).is_correct_KAN.shape == (1, 1, 120)


def test_views_of_what_has_no_numbers_are_refused_before_training() -> None:
    population = text_population()
    with pytest.raises(InputError, match="boundary_label_only") as caught:
        mia.audit(population, **quick_audit(model=Words, attacks=[mia.BoundaryLabelOnly()]))
    assert "tokens [9]" in str(caught.value)
    table = table_population()
    reason = view_refusal(Shift(dx=1, dy=0), table.input_shape, table.form)
    assert reason is not None
    assert "(7,)" in reason
