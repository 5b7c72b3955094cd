"""Label smoothing, early stopping and dropout: what each makes of a recipe and of a model, and what it refuses."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from training_jobs import train_with

from mia_lightning.attacks.loss import Loss
from mia_lightning.datasets.augmentation import Crop, Flip
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.dp_sgd import DPSGD
from mia_lightning.defenses.dropout import Dropout
from mia_lightning.defenses.early_stopping import StopEarly
from mia_lightning.defenses.fewer_epochs import FewerEpochs
from mia_lightning.defenses.group_norm import GroupNorm
from mia_lightning.defenses.interface import ArchitectureDefense, OutputDefense, TrainingDefense, defended_model
from mia_lightning.defenses.l2 import L2
from mia_lightning.defenses.label_smoothing import LabelSmoothing
from mia_lightning.defenses.random_crop import RandomCrop
from mia_lightning.errors import InputError
from mia_lightning.membership import Disjoint
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.models.vit import VisionTransformer
from mia_lightning.models.wide_resnet import WideResNet
from mia_lightning.run.definition import Audit
from mia_lightning.run.preparation import prepare
from mia_lightning.seeds import generator
from mia_lightning.shadows.real import Real
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step import recipe as recipes
from mia_lightning.training.step.recipe import Recipe, default_recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings


@pytest.mark.parametrize("smoothing", [0, 0.1, 0.6])
def test_the_smoothed_loss_is_the_cross_entropy_from_smoothed_labels(smoothing: float) -> None:
    numbers = generator(0, "smoothing")
    logits_KBC = torch.randn(2, 5, 4, generator=numbers, dtype=torch.float64)
    label_KB = torch.randint(0, 4, (2, 5), generator=numbers)
    loss_KB = LabelSmoothing(smoothing=smoothing).adapt(default_recipe()).objective(logits_KBC, label_KB)
    for k in range(2):
        for b in range(5):
            log_p = logits_KBC[k, b] - logits_KBC[k, b].exp().sum().log()
            soft = [smoothing / 4 + (1 - smoothing) * (c == label_KB[k, b]) for c in range(4)]
            torch.testing.assert_close(loss_KB[k, b], -sum(t * log_p[c] for c, t in enumerate(soft)))


def test_the_smoothed_loss_is_least_at_the_smoothed_label() -> None:
    loss = LabelSmoothing(smoothing=0.2).adapt(default_recipe()).objective
    logits = torch.zeros(1, 1, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(logits, torch.tensor([[1]])).sum()
        value.backward()
        return value.detach()

    optimizer.step(closure)
    torch.testing.assert_close(
        logits.detach().softmax(-1)[0, 0], torch.tensor([0.05, 0.85, 0.05, 0.05]).double(), atol=1e-4, rtol=0
    )


def test_smoothing_a_loss_of_ones_own_is_refused() -> None:
    recipe = replace(default_recipe(), objective=lambda logits_KBC, label_KB: logits_KBC.sum(-1))
    with pytest.raises(InputError, match=r"defense=label_smoothing smooths the cross-entropy"):
        LabelSmoothing().adapt(recipe)


def test_early_stopping_is_that_of_the_recipe() -> None:
    adapted = StopEarly(patience=7, min_delta=0.25).adapt(default_recipe())
    assert adapted.early_stopping == recipes.EarlyStopping(patience=7, min_delta=0.25)
    with pytest.raises(InputError, match=r"defense=early_stopping is set beside `training\.early_stopping`"):
        StopEarly().adapt(adapted)


def test_early_stopping_without_held_out_records_is_refused(blobs: Population) -> None:
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
    make = bind_shapes(partial(MLP, hidden=[4]), (6,), 3)
    recipe = StopEarly().adapt(default_recipe())
    with pytest.raises(InputError, match=r"defense=early_stopping.*membership\.validation"):
        train_with(engine, make, blobs, [torch.arange(20)], recipe, role="target")


def rates(network: nn.Module) -> set[float]:
    return {layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)}


@pytest.mark.parametrize(
    "model",
    [
        partial(MLP, hidden=[4, 4]),
        partial(partial(MLP, hidden=[4]), dropout=0.0),
        partial(MLP, hidden=[4], dropout=0.3),
    ],
)
@pytest.mark.usefixtures("global_generators")
def test_dropout_is_set_where_the_model_has_a_place_for_it(model: partial[nn.Module]) -> None:
    adapted = defended_model([L2(), Dropout(rate=0.3)], model)
    assert rates(bind_shapes(adapted, (6,), 3)()) == {0.3}


@pytest.mark.usefixtures("global_generators")
def test_dropout_reaches_the_architectures_that_take_it() -> None:
    vit = partial(VisionTransformer, patch_size=4, width=8, depth=1, heads=2, dropout=0.0)
    wide = partial(WideResNet, depth=10, widen=1, dropout=0.0)
    for model in (vit, wide):
        assert 0.3 in rates(bind_shapes(defended_model([Dropout(rate=0.3)], model), (1, 8, 8), 3)())
    plain = partial(MLP, hidden=[4])
    assert defended_model([L2(), LabelSmoothing()], plain) is plain


def without_any(input_shape: tuple[int, ...], num_classes: int, **settings: object) -> nn.Module:
    return nn.Linear(input_shape[0], num_classes)


@pytest.mark.parametrize(("model", "name"), [(partial(CNN, channels=[2]), "CNN"), (without_any, "without_any")])
def test_models_without_a_place_for_dropout_are_refused(model: object, name: str) -> None:
    with pytest.raises(InputError, match=rf"parameter `dropout` of the model, but {name} takes none"):
        Dropout().adapt_model(model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"takes none"):
        Dropout().adapt_model(range)  # type: ignore[arg-type]  # no signature


def test_another_rate_in_the_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"`model\.dropout` is 0\.2 and `defense\.dropout\.rate` is 0\.5"):
        Dropout().adapt_model(partial(MLP, dropout=0.2))


def test_they_say_what_they_are() -> None:
    assert (Dropout().name, Dropout(rate=0.25).describe()) == ("dropout", "dropout 0.25")
    assert (LabelSmoothing().name, LabelSmoothing().describe()) == ("label_smoothing", "label smoothing 0.1")
    assert (StopEarly().name, StopEarly().describe()) == ("early_stopping", "early stopping 5")
    for defense in (Dropout(), LabelSmoothing(), StopEarly()):
        assert isinstance(defense, TrainingDefense)
        assert not isinstance(defense, OutputDefense)
        assert isinstance(defense, ArchitectureDefense) == isinstance(defense, Dropout)
    recipe = default_recipe()
    assert Dropout().adapt(recipe) is recipe


@pytest.mark.parametrize(("share", "epochs"), [(0.5, 50), (0.2, 20), (0.004, 1)])
def test_a_share_of_the_epochs_is_trained(share: float, epochs: int) -> None:
    recipe = FewerEpochs(share=share).adapt(default_recipe())
    assert recipe.epochs == epochs
    assert replace(recipe, epochs=100).batch_size == default_recipe().batch_size


def test_a_share_of_so_few_epochs_that_all_are_left_is_refused() -> None:
    with pytest.raises(InputError, match=r"fewer_epochs\.share.*0\.9.*training\.epochs"):
        FewerEpochs(share=0.9).adapt(replace(default_recipe(), epochs=2))


def test_models_of_fewer_epochs_are_those_of_a_recipe_with_so_many(blobs: Population) -> None:
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
    make = bind_shapes(partial(MLP, hidden=[4]), (6,), 3)
    recipes = (
        replace(default_recipe(), epochs=2),
        FewerEpochs(share=0.5).adapt(replace(default_recipe(), epochs=4)),
    )
    first, second = (
        train_with(engine, make, blobs, [torch.arange(20)], each, role="target").stack.state() for each in recipes
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0)


def test_a_random_crop_comes_behind_the_recipes_own_augmentations() -> None:
    recipe = RandomCrop(padding=3).adapt(replace(default_recipe(), augment=[Flip()]))
    assert tuple(recipe.augment) == (Flip(), Crop(padding=3))
    assert RandomCrop().adapt(default_recipe()).check_records((1, 8, 8)) is None
    with pytest.raises(InputError, match="Crop"):
        RandomCrop().adapt(default_recipe()).check_records((64,))


@pytest.mark.slow
def test_a_model_stops_at_the_chosen_gap_as_if_it_had_been_trained_for_so_many_epochs(blobs: Population) -> None:
    make = bind_shapes(partial(MLP, hidden=[16]), (6,), 3)
    records_K, held_out_N = [torch.arange(k * 10, k * 10 + 10) for k in range(3)], torch.arange(60, 90)

    def trained(defense: StopEarly, epochs: int) -> TrainedStack:
        engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
        recipe = defense.adapt(Recipe(epochs=epochs, batch_size=5, optimizer=partial(torch.optim.Adam, lr=0.02)))
        return train_with(engine, make, blobs, records_K, recipe, role="target", validation_N=held_out_N)

    free = trained(StopEarly(patience=1000), 30)
    gap_EK = free.validation_loss_EK - free.train_loss_EK
    limit = float(gap_EK.max(0).values.min()) / 2
    stopped = trained(StopEarly(patience=1000, max_gap=limit), 30)
    assert len(stopped.stopped_epoch_K.unique()) > 1
    for k, last in enumerate(stopped.stopped_epoch_K.tolist()):
        assert last == int((gap_EK[:, k] > limit).nonzero()[0])
        short = trained(StopEarly(patience=1000), last + 1)
        for name, value in short.stack.state_dict().items():
            torch.testing.assert_close(stopped.stack.state_dict()[name][k], value[k], rtol=0, atol=0)


@pytest.mark.usefixtures("global_generators")
def test_group_normalisation_takes_the_place_of_batch_normalisation() -> None:
    model = defended_model([GroupNorm(groups=8)], partial(CNN, batch_norm=True, channels=[6, 8]))
    network = bind_shapes(model, (1, 12, 12), 3)()
    assert [layer.num_groups for layer in network.modules() if isinstance(layer, nn.GroupNorm)] == [2, 8]
    assert not [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    x = torch.randn(4, 1, 12, 12, generator=generator(0, "images"))
    alone = torch.cat([network(each[None]) for each in x])
    torch.testing.assert_close(network(x), alone, rtol=1e-5, atol=1e-5)


def test_a_normalisation_that_stands_at_two_places_does_so_afterwards() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.BatchNorm1d(6)
            self.second = self.first

    network = defended_model([GroupNorm(groups=2)], Twice)()
    assert isinstance(network.second, nn.GroupNorm)
    assert network.first is network.second


@pytest.mark.usefixtures("global_generators")
def test_a_network_without_batch_normalisation_stays_as_it_is() -> None:
    plain = partial(MLP, hidden=[4])
    defended = defended_model([GroupNorm()], plain)
    assert str(bind_shapes(plain, (6,), 3)()) == str(bind_shapes(defended, (6,), 3)())


def test_private_training_takes_a_network_with_group_normalisation(pictures: Population) -> None:
    settings = {
        "model": partial(CNN, batch_norm=True, channels=[4], hidden=4, kernel_size=3),
        "membership": Disjoint(train_size=10),
        "shadow": Real(count=2),
        "attacks": [Loss()],
        "training": Recipe(epochs=1),
    }
    with pytest.raises(InputError, match=r"batch normalisation.*defense=group_norm"):
        prepare(Engine(seed=0), Audit(pictures, defenses=[DPSGD()], **settings))
    prepare(Engine(seed=0), Audit(pictures, defenses=[GroupNorm(), DPSGD()], **settings))
