"""Records with a form: networks are given tokens as int64 and named tensors by name, however they are trained."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from formed import CASES, LENGTH, Columns, Words, table_population, text_population, texts
from quick import quick_audit, slow_but
from torch import Tensor, nn
from training_jobs import job_of, train_with

import mia_lightning as mia
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.mixup import Mixup
from mia_lightning.errors import InputError
from mia_lightning.seeds import derive, generator, isolated
from mia_lightning.store.artefacts import Store
from mia_lightning.training.engine import Engine
from mia_lightning.training.kept import KeptModels
from mia_lightning.training.stack.architecture import inspect_architecture
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.batches import StackBatches
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

SIZES = (24, 31, 29, 24)  # rows are padded
ADAMW = partial(torch.optim.AdamW, lr=0.02)


def records_of(population: Population) -> list[Tensor]:
    order = [torch.randperm(len(population), generator=generator(k, "records")) for k in range(len(SIZES))]
    return [o[:size] for o, size in zip(order, SIZES, strict=True)]


def train(case: str, models: tuple[int, ...] = (0, 1, 2, 3), **changed: Any) -> TrainedStack:
    make_population_of, make = CASES[case]
    population = changed.pop("population", None) or make_population_of()
    every = records_of(population)
    recipe = Recipe(**{"epochs": 3, "batch_size": 8, "optimizer": ADAMW, **changed})
    return train_with(
        Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision="64")),
        bind_records(make, population),
        population,
        [every[k] for k in models],
        recipe,
        role="shadow",
        models=list(models),
        validation_N=torch.arange(100, 120) if recipe.early_stopping is not None else None,
    )


def assert_equal(one: TrainedStack, other: TrainedStack, tolerance: float = 1e-8) -> None:
    for name, tensor in one.stack.networks.state_dict().items():
        torch.testing.assert_close(
            other.stack.networks.state_dict()[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m
        )


@pytest.mark.costly
@pytest.mark.parametrize("case", CASES)
def test_chunks_and_loop_give_the_models_of_the_whole_stack(case: str) -> None:
    together = train(case, execution="stack")
    assert together.execution == "stack"
    for other in ({"chunk": 3}, {"execution": "loop"}):
        assert_equal(together, train(case, **other))


@pytest.mark.costly
@pytest.mark.parametrize("case", CASES)
def test_an_ordinary_training_loop_gives_the_same_network(case: str) -> None:
    """Without dropout, by torch.optim alone, on tensors that are made here."""
    make_population_of, make = CASES[case]
    population = make_population_of()
    recipe = Recipe(epochs=3, batch_size=8, optimizer=ADAMW)
    k = 2
    make_network = bind_records(_without_dropout if case == "tokens" else make, population)
    engine = Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision="64"))
    together = train_with(engine, make_network, population, records_of(population), recipe, role="shadow")
    with isolated(7, "shadow", k, "initialisation"):
        network = make_network().double()
    optimizer = ADAMW(network.parameters())
    batches = StackBatches(
        [records_of(population)[k]], torch.tensor([derive(7, "shadow", k, "order")]), batches_per_epoch=4
    )
    for epoch in range(3):
        batches.set_epoch(epoch)
        for index_KB, _ in batches:
            x = population.x_N[index_KB[0]]
            if case == "tokens":
                output = network(x)
            else:
                # Float32 numbers come first in a row, then the codes.
                numbers = x[:, :16].contiguous().view(torch.float32).double()
                output = network(numbers=numbers, codes=x[:, 16:19].long())
            optimizer.zero_grad()
            nn.functional.cross_entropy(output, population.label_N[index_KB[0]]).backward()
            optimizer.step()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(together.stack.networks.state_dict()[name][k], tensor, rtol=1e-8, atol=1e-8)


def _without_dropout(vocabulary_size: int, padding_id: int, num_classes: int) -> Words:
    network = Words(vocabulary_size, padding_id, num_classes)
    network.drop = nn.Dropout(0.0)
    return network


@pytest.mark.costly
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_a_model_trained_alone_is_the_model_of_the_stack(case: str, execution: str) -> None:
    together = train(case, execution=execution)
    alone = train(case, models=(3,), execution=execution)
    for name, tensor in alone.stack.networks.state_dict().items():
        torch.testing.assert_close(together.stack.networks.state_dict()[name][3], tensor[0], rtol=1e-8, atol=1e-8)


@pytest.mark.costly
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("changed", [{}, {"early_stopping": EarlyStopping(patience=1)}, {"execution": "loop"}])
def test_batches_gathered_from_the_host_are_those_of_the_device(case: str, changed: dict[str, Any]) -> None:
    population = CASES[case][0]()
    far = replace(population, device_bytes=population.x_N.nbytes - 1)
    resident, gathered = train(case, population=population, **changed), train(case, population=far, **changed)
    assert_equal(resident, gathered, 0.0)
    answers = [each.observe(population).log_probability_KANC for each in (resident, gathered)]
    assert torch.equal(*answers)


@pytest.mark.costly
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_single_records_are_those_of_the_loop(case: str) -> None:
    recipe = DPSGD(noise_multiplier=0.7, clip_norm=0.5).adapt(Recipe(epochs=2, batch_size=8, optimizer=ADAMW))
    population = CASES[case][0]()
    found = []
    for execution in ("stack", "loop"):
        engine = Engine(seed=7, settings=TrainerSettings(accelerator="cpu", precision="64"))
        own = replace(recipe, execution=execution)
        make = bind_records(CASES[case][1], population)
        found.append(train_with(engine, make, population, records_of(population)[:2], own, role="shadow"))
    assert_equal(*found)


@pytest.mark.costly
@pytest.mark.parametrize("case", CASES)
def test_a_stack_answers_as_its_models_do_alone(case: str) -> None:
    together, population = train(case), CASES[case][0]()
    log_KNC = together.observe(population).log_probability_KANC[:, 0]
    x = population.records(torch.arange(len(population)), torch.float64)
    for k in range(len(SIZES)):
        network = together.stack.model(k)
        output = network(x) if isinstance(x, Tensor) else network(**x)
        torch.testing.assert_close(log_KNC[k].double(), output.log_softmax(-1), rtol=1e-5, atol=1e-5)
    wanted_KN = torch.rand(len(SIZES), len(population), generator=generator(0, "wanted")) < 0.5
    some_KNC = together.observe(population, wanted=wanted_KN).log_probability_KANC[:, 0]
    torch.testing.assert_close(some_KNC[wanted_KN], log_KNC[wanted_KN], rtol=1e-5, atol=1e-6)


def test_padding_inside_a_record_changes_nothing() -> None:
    short, long = text_population(), text_population(length=LENGTH + 7)
    one, other = train("tokens", population=short), train("tokens", population=long)
    assert_equal(one, other, 1e-12)
    torch.testing.assert_close(
        one.observe(short).log_probability_KANC, other.observe(long).log_probability_KANC, rtol=1e-6, atol=1e-6
    )


class Masked(nn.Module):
    """As `Words`, but takes the mask that is derived from the padding."""

    def __init__(self, vocabulary_size: int, num_classes: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary_size, 6), nn.Linear(6, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        real = attention_mask.to(self.head.weight.dtype)[..., None]
        return self.head((self.embedding(input_ids) * real).sum(-2) / real.sum(-2).clamp(min=1))


def test_a_mask_is_derived_from_the_padding() -> None:
    ids = texts()
    kinds = {"input_ids": {"kind": "tokens", "padding": 0, "mask": "attention_mask"}}
    population = make_population({"input_ids": ids}, torch.arange(120) % 3, kinds=kinds)
    seen = population.records(torch.tensor([[3, 5]]))
    assert isinstance(seen, dict)
    assert torch.equal(seen["attention_mask"][0], (ids[[3, 5]] != 0).long())
    assert inspect_architecture(bind_records(Masked, population), population).refusal is None


def test_a_stopped_training_goes_on_where_it_was(tmp_path: Any) -> None:
    """Half of the models are in the store; the others join them as if all had trained together."""
    population = table_population()
    store = Store(dir=tmp_path)
    make, recipe = bind_records(Columns, population), Recipe(epochs=2, batch_size=8, optimizer=ADAMW, chunk=2)
    settings = TrainerSettings(accelerator="cpu", precision="64")
    records = records_of(population)

    def run(models: list[int], store: Store | None) -> tuple[TrainedStack, Engine]:
        engine = Engine(seed=7, settings=settings, store=store)
        chosen = [records[k] for k in models]
        job = job_of(engine, make, population, chosen, recipe, role="shadow", models=models, keep=store is not None)
        return engine.run(job), engine

    whole, _ = run([0, 1, 2, 3], None)
    run([0, 1], store)
    joined, engine = run([0, 1, 2, 3], store)
    assert (engine.reused["shadow"].found, engine.reused["shadow"].trained) == (2, 2)
    assert_equal(whole, joined)


def test_the_key_of_a_model_depends_on_what_the_form_says(tmp_path: Any) -> None:
    store, settings = Store(dir=tmp_path), TrainerSettings(accelerator="cpu")
    keys = set()
    ids, label = texts(), torch.arange(120) % 3
    for kinds in (
        {"kind": "tokens", "padding": 0, "sizes": (30,)},
        {"kind": "tokens", "padding": 1, "sizes": (30,)},
        {"kind": "tokens", "padding": 0, "sizes": (31,)},
        {"kind": "category", "sizes": (30,) * LENGTH},
    ):
        population = make_population(ids, label, kinds=kinds)
        make = partial(Words, 31, 0, 3)
        job = job_of(Engine(seed=0), make, population, [torch.arange(20)], Recipe(), role="shadow")
        keys |= set(KeptModels.of(store, job, settings).key_K)
    assert len(keys) == 4


@pytest.mark.usefixtures("global_generators")
def test_what_a_constructor_takes_of_the_form_is_filled_in() -> None:
    seen: dict[str, Any] = {}

    def make(
        vocabulary_size: Any = None,
        padding_id: Any = None,
        category_sizes: Any = None,
        num_numeric: Any = None,
        sample_rate: Any = None,
        input_shape: Any = None,
        form: Any = None,
    ) -> nn.Module:
        seen.update(locals())
        return nn.Linear(1, 1)

    population = table_population()
    bind_records(make, population)()
    assert (seen["num_numeric"], seen["category_sizes"], seen["input_shape"]) == (4, (5, 2, 7), (4,))
    assert seen["form"] is population.form
    bind_records(make, text_population())()
    assert (seen["vocabulary_size"], seen["padding_id"], seen["input_shape"]) == (30, 0, (LENGTH,))
    bind_records(partial(make, vocabulary_size=99), text_population())()
    assert seen["vocabulary_size"] == 99
    sound = make_population(
        torch.zeros(4, 8, dtype=torch.int16), [0, 1, 0, 1], kinds={"kind": "waveform", "sample_rate": 8000}
    )
    bind_records(make, sound)()
    assert (seen["sample_rate"], seen["input_shape"]) == (8000, (8,))
    two = make_population({"a": torch.zeros(4, 3), "b": torch.zeros(4, 2)}, [0, 1, 0, 1])
    bind_records(make, two)()
    assert seen["input_shape"] == {"a": (3,), "b": (2,)}


@pytest.mark.parametrize("case", CASES)
def test_what_averages_or_moves_records_is_refused_before_training(case: str) -> None:
    population, make = CASES[case][0](), CASES[case][1]
    for recipe, word in (
        (Mixup(alpha=0.5).adapt(Recipe()), "mixup"),
        (Recipe(augment=[mia.Flip()]), "training.augment"),
    ):
        with pytest.raises(InputError) as caught:
            job_of(Engine(seed=0), bind_records(make, population), population, [torch.arange(8)], recipe, role="target")
        assert word in str(caught.value)
        assert population.form is not None
        assert population.form.words in str(caught.value)


@pytest.mark.costly
@pytest.mark.parametrize("case", slow_but(["tokens"], CASES))
def test_an_audit_runs_end_to_end_and_the_report_says_the_form(case: str) -> None:
    population, make = CASES[case][0](), CASES[case][1]
    attacks = [mia.Shokri(), mia.Loss(), mia.Lira(online=False), mia.QuantileRegression(), mia.AttackR()]
    options = quick_audit(model=make, attacks=attacks, membership=mia.Halves(), shadow=mia.Real(count=6))
    report = mia.audit(population, **options)
    assert [each.name for each in report.attacks] == [each.name for each in attacks]
    assert report.dataset.form is not None
    kinds = ["tokens"] if case == "tokens" else ["numeric", "category"]
    assert [field.kind for field in report.dataset.form] == kinds


@pytest.mark.slow
@pytest.mark.devices
@pytest.mark.xdist_group("devices")
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(case: str) -> None:
    options = quick_audit(model=CASES[case][1], shadow=mia.Real(count=4), membership=mia.Halves())
    scores = []
    for devices in (1, 2):
        trainer = TrainerSettings(accelerator="cpu", devices=devices, precision="64")
        report = mia.audit(CASES[case][0](), **{**options, "trainer": trainer})
        assert report.scores is not None
        scores.append(torch.from_numpy(report.scores.score))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-6)
