"""Models in the store: a key changes with whatever changes a model, and with nothing else; stopped trainings go on."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from kept_models import RECIPE, Stopped, alike, engine_and_job, equal, key_of, records_of, same, stopped_after, stored
from kept_models import store as store
from torch import Tensor, nn

from mia_lightning.datasets.augmentation import Flip
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.mixup import Mixup
from mia_lightning.models.mlp import MLP
from mia_lightning.store.artefacts import Store
from mia_lightning.training.engine import Engine, Reuse
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.kept import Checkpoints, KeptModels
from mia_lightning.training.kept_answers import KeptAnswers
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trainer import TrainerSettings


def weights_of(engine: Engine, job: TrainingJob, k: int = 0) -> list[Tensor]:
    return [value.float() for name, value in engine.run(job).weights(k).items() if name.startswith("state.")]


def changed_record(population: Population, record: int) -> Population:
    x_N = population.x_N.clone()
    x_N[record] += 1.0
    return replace(population, x_N=x_N)


def changed_label(population: Population, record: int) -> Population:
    label_N = population.label_N.clone()
    label_N[record] = (label_N[record] + 1) % 3
    return replace(population, label_N=label_N)


OWN = int(records_of(range(1))[0][0])  # a record of model 0
OTHER = int(next(iter(set(range(120)) - set(records_of(range(1))[0].tolist()))))

MATTERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "role": {"role": "target"},
    "model": {"models": range(1, 3)},
    "order of the records": {"records_K": [records.flip(0) for records in records_of(range(2))]},
    "number of the records": {"records_K": records_of(range(2), 40)},
    "a record": {"population": lambda p: changed_record(p, OWN)},
    "a label": {"population": lambda p: changed_label(p, OWN)},
    "scale": {"population": lambda p: replace(p, scale=2.0)},
    "mean": {"population": lambda p: replace(p, mean=torch.ones(6))},
    "std": {"population": lambda p: replace(p, std=torch.full((6,), 2.0))},
    "width": {"make_network": partial(MLP, (6,), 3, hidden=[9], dropout=0.2)},
    "activation": {"make_network": partial(MLP, (6,), 3, hidden=[8], dropout=0.2, activation="relu")},
    "dropout": {"make_network": partial(MLP, (6,), 3, hidden=[8], dropout=0.3)},
    "epochs": {"recipe": replace(RECIPE, epochs=4)},
    "batch size": {"recipe": replace(RECIPE, batch_size=25)},
    "learning rate": {"recipe": replace(RECIPE, optimizer=partial(torch.optim.Adam, lr=0.02))},
    "optimizer": {"recipe": replace(RECIPE, optimizer=partial(torch.optim.SGD, lr=0.01))},
    "schedule": {"recipe": replace(RECIPE, scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1))},
    "clipping": {"recipe": replace(RECIPE, gradient_clip_norm=0.01)},
    "accumulation": {"recipe": replace(RECIPE, accumulate_batches=2)},
    "mixup": {"recipe": Mixup().adapt(RECIPE)},
    "privacy": {"recipe": DPSGD().adapt(RECIPE)},
    "stopping early": {
        "recipe": replace(RECIPE, early_stopping=EarlyStopping(patience=1, min_delta=10.0)),
        "validation_N": torch.arange(20),
    },
    "precision": {"settings": TrainerSettings(accelerator="cpu", precision="bf16")},
}
DEVICES = [pytest.mark.slow, pytest.mark.devices, pytest.mark.xdist_group("devices")]
DOES_NOT_MATTER: dict[str, dict[str, Any]] = {
    "a record of nobody": {"population": lambda p: changed_record(p, OTHER)},
    "a label of nobody": {"population": lambda p: changed_label(p, OTHER)},
    "more models": {"models": range(5), "records_K": records_of(range(5))},
    "alone": {"models": range(1), "records_K": records_of(range(1))},
    "looped": {"recipe": replace(RECIPE, execution="loop")},
    "one by one": {"recipe": replace(RECIPE, chunk=1)},
    "name and groups": {
        "population": lambda p: replace(p, name="other", group_N=p.label_N, group_names=("x", "y", "z"))
    },
    "names of classes": {"population": lambda p: replace(p, class_names=("x", "y", "z"))},
    "more devices": {"settings": TrainerSettings(accelerator="cpu", devices=2)},
}


class Linear(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(72, 3))


class Soft(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 3), nn.Softmax(-1))


class Convolutions(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def varied(population: Population, changes: dict[str, Any]) -> tuple[Engine, TrainingJob]:
    given = dict(changes)
    return engine_and_job(given.pop("population", lambda p: p)(population), **{"models": range(2), **given})


@pytest.mark.costly
@pytest.mark.parametrize("name", MATTERS)
def test_what_changes_the_weights_changes_the_key(name: str, blobs: Population, store: Store) -> None:
    plain, changed = engine_and_job(blobs), varied(blobs, MATTERS[name])
    assert not equal(weights_of(*plain), weights_of(*changed)) or name in ("activation", "stopping early")
    assert key_of(store, *plain) != key_of(store, *changed)


@pytest.mark.costly
@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=DEVICES) if each == "more devices" else each for each in DOES_NOT_MATTER],
)
def test_what_does_not_change_the_weights_does_not_change_the_key(name: str, blobs: Population, store: Store) -> None:
    plain, changed = engine_and_job(blobs), varied(blobs, DOES_NOT_MATTER[name])
    assert equal(weights_of(*plain), weights_of(*changed))
    assert key_of(store, *plain) == key_of(store, *changed)


def test_under_augmentation_the_numbers_of_the_records_matter(pictures: Population, store: Store) -> None:
    """Its draws go by them: the same records at other places of the population are changed otherwise."""
    order = torch.arange(60).roll(7)
    moved = replace(pictures, x_N=pictures.x_N[order], label_N=pictures.label_N[order])
    place = order.argsort()
    recipe = replace(RECIPE, augment=[Flip()])
    given = {"make_network": Linear, "models": range(1)}
    here = [torch.arange(30)]
    for augmented in (False, True):
        used = {**given, "recipe": recipe if augmented else RECIPE}
        plain = engine_and_job(pictures, records_K=here, **used)
        changed = engine_and_job(moved, records_K=[place[here[0]]], **used)
        assert (key_of(store, *plain) == key_of(store, *changed)) is not augmented
        assert equal(weights_of(*plain), weights_of(*changed)) is not augmented


def test_models_come_back_as_they_were_trained(blobs: Population, store: Store) -> None:
    _, without = stored(None, blobs, range(4))  # type: ignore[arg-type]
    engine, trained = stored(store, blobs, range(4))
    assert engine.reused == {"shadow": Reuse(found=0, trained=4)}
    again, found = stored(store, blobs, range(4))
    assert again.reused == {"shadow": Reuse(found=4, trained=0)}
    assert same(without, trained)
    assert same(trained, found)
    assert torch.equal(again.losses["shadow"][0], engine.losses["shadow"][0])
    assert torch.equal(found.failed_epoch_K, torch.full((4,), -1))
    assert torch.equal(found.observe(blobs).log_probability_KANC, trained.observe(blobs).log_probability_KANC)


def test_growing_from_four_to_eight_trains_four(blobs: Population, store: Store) -> None:
    _, four = stored(store, blobs, range(4))
    engine, eight = stored(store, blobs, range(8))
    assert engine.reused["shadow"] == Reuse(found=4, trained=4)
    for name, tensor in eight.stack.state().items():
        assert torch.equal(tensor[:4], four.stack.state()[name])
    _, anew = stored(None, blobs, range(8))  # type: ignore[arg-type]
    assert alike(eight, anew)


class Narrow(MLP):
    """Of another class."""


def test_what_differs_is_named_as_a_user_gives_it(blobs: Population, store: Store) -> None:
    stored(store, blobs, range(2))
    other = bind_records(partial(Narrow, hidden=[3]), blobs)
    engine, _ = stored(store, blobs, range(2), make_network=other)
    assert engine.reused["shadow"].reason == "the most similar models in the store differ in model"


def test_of_a_miss_it_is_said_what_differs(blobs: Population, store: Store) -> None:
    stored(store, blobs, range(2))
    engine, _ = stored(store, blobs, range(2), recipe=replace(RECIPE, epochs=4))
    assert (
        engine.reused["shadow"].reason == "the most similar models in the store differ in training.epochs (3, here 4)"
    )
    engine, _ = stored(store, blobs, range(2), recipe=replace(RECIPE, epochs=5), seed=3)
    assert engine.reused["shadow"].reason in {
        f"the most similar models in the store differ in seed (0, here 3), training.epochs ({kept}, here 5)"
        for kept in (3, 4)
    }
    engine, _ = stored(store, blobs, range(2), make_network=partial(MLP, (6,), 3, hidden=[9], dropout=0.2))
    assert engine.reused["shadow"].reason == "the most similar models in the store differ in model.hidden"
    engine, _ = stored(store, blobs, range(2), role="target")
    assert engine.reused["target"].reason is None  # nothing of that kind is there


def test_models_that_stopped_or_failed_come_back_as_such(blobs: Population, store: Store) -> None:
    stopping = replace(RECIPE, epochs=6, early_stopping=EarlyStopping(patience=1, min_delta=10.0))
    for recipe in (stopping, replace(RECIPE, optimizer=partial(torch.optim.SGD, lr=1e30))):
        given: dict[str, Any] = {"recipe": recipe, "validation_N": torch.arange(20) if recipe is stopping else None}
        _, trained = stored(store, blobs, range(3), **given)
        engine, found = stored(store, blobs, range(3), **given)
        assert engine.reused["shadow"] == Reuse(found=3, trained=0)
        assert torch.equal(found.stopped_epoch_K, trained.stopped_epoch_K)
        assert torch.equal(found.failed_epoch_K, trained.failed_epoch_K)
        assert (found.validation_loss_EK is None) is (recipe is not stopping)
        assert torch.equal(found.train_loss_EK.nan_to_num(7.0), trained.train_loss_EK.nan_to_num(7.0))


def test_a_looped_stack_of_convolutions_comes_back(pictures: Population, store: Store) -> None:
    given: dict[str, Any] = {"make_network": Convolutions, "recipe": replace(RECIPE, execution="loop")}
    records = {"records_K": [torch.arange(30), torch.arange(20, 50)]}
    engine, job = engine_and_job(pictures, range(2), **given, **records)
    engine = replace(engine, store=store)
    first, second = engine.run(job), engine.run(job)
    assert second.execution == "loop"
    assert torch.equal(first.observe(pictures).log_probability_KANC, second.observe(pictures).log_probability_KANC)


@pytest.mark.costly
@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize(
    "recipe", [RECIPE, Mixup().adapt(RECIPE), DPSGD().adapt(replace(RECIPE, accumulate_batches=1))]
)
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    epoch: int, recipe: Recipe, blobs: Population, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = replace(store, checkpoint_minutes=0)
    _, undisturbed = stored(None, blobs, range(3), recipe=recipe)  # type: ignore[arg-type]
    with stopped_after(epoch, monkeypatch):
        stored(store, blobs, range(3), recipe=recipe)
    epochs: list[int] = []
    monkeypatch.setattr(
        Checkpoints, "on_train_start", lambda self, trainer, module: epochs.append(trainer.current_epoch)
    )
    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", lambda self, trainer, module: None)
    engine, resumed = stored(store, blobs, range(3), recipe=recipe)
    assert epochs == [epoch]
    assert engine.reused["shadow"].trained == 3
    assert same(undisturbed, resumed)
    assert store.places("running") == []


def test_killed_while_it_keeps_models_it_trains_all_of_them_together_again(
    blobs: Population, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, the last two might come out with other last bits than beside the first two."""
    _, undisturbed = stored(None, blobs, range(4))  # type: ignore[arg-type]
    put = Store.put
    kept: list[str] = []

    def failing(self: Store, place: str, *given: Any) -> None:
        if place.startswith("models/"):
            if len(kept) == 2:
                raise Stopped
            kept.append(place)
        put(self, place, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put", failing)
        with pytest.raises(Stopped):
            stored(store, blobs, range(4))
    assert len(store.places("models")) == 2
    engine, resumed = stored(store, blobs, range(4))
    assert engine.reused["shadow"] == Reuse(found=0, trained=4)
    assert same(undisturbed, resumed)


def test_what_has_no_identity_is_not_kept_and_said(blobs: Population, store: Store, tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:

        class Writes(pl.Callback):
            def __init__(self) -> None:
                self.file = file

            def __deepcopy__(self, memo: object) -> "Writes":
                return self

        engine, _ = stored(store, blobs, range(2), settings=TrainerSettings(accelerator="cpu", callbacks=[Writes()]))
    (remark,) = engine.stages.remarks
    assert remark.startswith(
        "shadow: nothing is kept in the store, since it cannot be said what a _io.TextIOWrapper in"
    )
    assert store.places() == []
    assert engine.reused == {}


def test_only_models_that_are_to_be_kept_are(blobs: Population, store: Store) -> None:
    engine, _ = stored(store, blobs, range(2), keep=False)
    assert store.places() == []
    assert engine.reused == {}


@pytest.mark.slow
@pytest.mark.devices
@pytest.mark.xdist_group("devices")
def test_several_devices_share_the_store(blobs: Population, store: Store) -> None:
    two = TrainerSettings(accelerator="cpu", devices=2)
    _, four = stored(store, blobs, range(4))
    engine, six = stored(store, blobs, range(6), settings=two)
    assert engine.reused["shadow"] == Reuse(found=4, trained=2)
    engine, again = stored(store, blobs, range(6), settings=two)
    assert engine.reused["shadow"] == Reuse(found=6, trained=0)
    assert same(six, again)
    assert all(torch.equal(t[:4], four.stack.state()[name]) for name, t in six.stack.state().items())


def test_what_is_said_of_the_outputs_changes_the_answers_alone(blobs: Population, store: Store) -> None:
    def asked(form: str, make: Any, **changed: Any) -> tuple[str, str]:
        engine, job = engine_and_job(blobs, make_network=bind_records(make, blobs, form), **changed)
        kept = KeptModels.of(store, job, engine.settings)
        answers = KeptAnswers.of(kept.answers(print), blobs, torch.ones(2, len(blobs), dtype=torch.bool))
        return kept.place(0), answers.asked_K[0]

    mlp = partial(MLP, (6,), 3, hidden=[8])
    assert asked("logits", mlp) == asked("auto", mlp)
    (one, answer), (other, answered) = asked("logits", Soft), asked("probabilities", Soft)
    assert one == other
    assert answer != answered
    early = {"recipe": replace(RECIPE, early_stopping=EarlyStopping(patience=1)), "validation_N": torch.arange(20)}
    assert asked("logits", Soft, **early)[0] != asked("probabilities", Soft, **early)[0]


def test_models_that_are_chosen_keep_their_keys(blobs: Population, store: Store) -> None:
    _, trained = stored(store, blobs, range(4))
    assert trained.kept is not None
    keys = trained.kept.key_K
    chosen = trained.select(torch.tensor([True, False, True, True]))
    assert chosen.kept is not None
    assert chosen.kept.key_K == (keys[0], keys[2], keys[3])
