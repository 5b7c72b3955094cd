"""Any architecture: stacked where vmap takes it, stepped one by one where not, refused where neither is right."""

import re
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from training_jobs import train_with

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.terminal.progress import Stages
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import bind_shapes, inspect_architecture
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.LSTM(2, 5, batch_first=True)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.reader(x.view(len(x), 3, 2))[0][:, -1]))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(-x if x.sum() > 0 else x)


@pytest.mark.costly
@pytest.mark.parametrize(
    ("make", "module"), [(Recurrent, r"`reader` \(LSTM\)"), (Branching, r"`the model itself` \(Branching\)")]
)
def test_what_vmap_refuses_is_stepped_one_by_one_and_the_module_named(
    blobs: Population, make: type[nn.Module], module: str
) -> None:
    stages = Stages()
    settings = TrainerSettings(accelerator="cpu", precision="64")
    engine = Engine(seed=0, settings=settings, stages=stages)
    recipe = Recipe(epochs=3, batch_size=8, optimizer=partial(torch.optim.Adam, lr=0.01))
    records = [torch.arange(20), torch.arange(20, 40)]
    together = train_with(engine, make, blobs, records, recipe, role="shadow")
    assert together.execution == "loop"
    assert len(stages.remarks) == 1
    assert re.search(module, stages.remarks[0])
    for k in range(2):
        alone = train_with(engine, make, blobs, [records[k]], recipe, role="shadow", models=[k])
        for name, tensor in alone.stack.networks.state_dict().items():
            torch.testing.assert_close(together.stack.networks.state_dict()[name][k], tensor[0], rtol=1e-8, atol=1e-8)
    strict = Recipe(epochs=1, batch_size=8, optimizer=recipe.optimizer, execution="stack")
    with pytest.raises(InputError, match=rf"vmap cannot run {module}"):
        train_with(engine, make, blobs, records, strict, role="shadow")


class Wrong(nn.Module):
    """Gives whatever `make` makes of the records."""

    def __init__(self, make: object) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.make = make

    def forward(self, x: Tensor) -> object:
        return self.make(self.inner(x))


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.inner(x), 0.5, self.training)


class Nested(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(FunctionalDropout(), nn.Linear(3, 3))


def raise_type_error() -> nn.Module:
    raise TypeError("needs a width")


class SequenceFirst(nn.Module):
    """Dropout where the batch is the second axis: its draws would depend on the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.inner(x.view(len(x), 3, 2).transpose(0, 1))).sum(0))


def test_a_model_in_which_padding_reaches_real_records_trains_only_without_padding(blobs: Population) -> None:
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
    recipe = Recipe(epochs=1, batch_size=8, optimizer=partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(InputError, match="SequenceFirst lets the records of a batch influence each other"):
        train_with(engine, SequenceFirst, blobs, [torch.arange(17), torch.arange(23)], recipe, role="shadow")
    assert train_with(engine, SequenceFirst, blobs, [torch.arange(16)] * 2, recipe, role="shadow").execution == "stack"


class Rebinding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.register_buffer("level", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.level = 0.9 * self.level + 0.1 * x.mean().detach()
        return self.inner(x) - self.level


class OwnStep(nn.Module):
    """A buffer that happens to be called `step`, and a dropout layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("step", torch.tensor(7.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.drop(self.inner(x))) * self.step


def test_a_buffer_called_step_stays_the_models_own(blobs: Population) -> None:
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu"))
    recipe = Recipe(epochs=1, batch_size=8, optimizer=partial(torch.optim.SGD, lr=0.1))
    stack = train_with(engine, OwnStep, blobs, [torch.arange(16)] * 2, recipe, role="shadow").stack
    x_B = blobs.x_N[:5]
    with torch.no_grad():
        torch.testing.assert_close(stack(x_B, shared=True)[1], stack.model(1).inner(x_B) * 7)
        kept = stack.train()(torch.ones(2, 4000, 6), step=3) != 0
    assert 0.2 < float(kept.float().mean()) < 0.3  # two independent coins, not one twice


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (Rebinding, "assigns its buffer `level` anew in forward"),
        (partial(Wrong, lambda z: z[:, :2]), r"gives \[2, 2\] for records of shape \(2, 6\).*here \[2, 3\]"),
        (partial(Wrong, lambda z: z[0]), r"gives \[3\]"),
        (partial(Wrong, lambda z: (z, z)), "gives tuple"),
        (partial(nn.Linear, 7, 3), r"fails on a batch of records of shape \(2, 6\), in its module `the model itself`"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(5, 3)), "in its module `1`"),
        (FunctionalDropout, "draws random numbers in its module `the model itself`"),
        (Nested, "draws random numbers in its module `0`"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "has lazy layers"),
        (lambda: nn.Flatten(), "has no trainable parameters"),
        (lambda: 3, "`model` made a int, not a torch.nn.Module"),
        (raise_type_error, "`model` is raise_type_error, which fails: needs a width"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_unfit_architectures_are_refused(blobs: Population, make: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        inspect_architecture(make, blobs)


def test_inspection_counts_parameters_and_sees_batch_norm(pictures: Population) -> None:
    make = bind_shapes(partial(CNN, channels=[4], hidden=8, kernel_size=3, batch_norm=True), (2, 6, 6), 3)
    found = inspect_architecture(make, pictures)
    assert found.num_parameters == (2 * 9 * 4 + 4) + 8 + (4 * 9 * 8 + 8) + (8 * 3 + 3)
    assert found.has_batch_norm
    assert found.refusal is None
    assert found.name == "CNN"


def test_inspection_leaves_the_global_generator_alone(blobs: Population) -> None:
    before = torch.get_rng_state()
    inspect_architecture(partial(MLP, (6,), 3, dropout=0.5), blobs)
    assert torch.equal(before, torch.get_rng_state())


def test_shapes_are_passed_to_those_who_take_them() -> None:
    def takes_both(input_shape: tuple[int, ...], num_classes: int) -> tuple[object, ...]:
        return input_shape, num_classes

    def takes_one(num_classes: int) -> int:
        return num_classes

    assert bind_shapes(takes_both, (2, 3), 4)() == ((2, 3), 4)
    assert bind_shapes(takes_one, (2, 3), 4)() == 4
    assert bind_shapes(lambda: 5, (2, 3), 4)() == 5
    assert bind_shapes(lambda **named: named, (2, 3), 4)() == {"input_shape": (2, 3), "num_classes": 4}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (partial(MLP, (6,), 3, hidden=[0]), "`model.hidden`"),
        (partial(MLP, (6,), 3, activation="sine"), "`model.activation` is 'sine'"),
        (partial(MLP, (6,), 3, dropout=1.0), "`model.dropout` is 1.0"),
        (partial(CNN, (6,), 3), r"model=cnn needs images.*shape \(6,\)"),
        (partial(CNN, (1, 3, 8), 3), "both sides at least 4"),
        (partial(CNN, (1, 8, 8), 3, kernel_size=4), "`model.kernel_size` is 4"),
    ],
)
def test_models_refuse_what_they_cannot_be(make: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make()


@pytest.mark.usefixtures("global_generators")
def test_the_cnn_gives_logits_for_odd_sizes() -> None:
    assert CNN((3, 13, 9), 5)(torch.zeros(2, 3, 13, 9)).shape == (2, 5)


@pytest.mark.usefixtures("global_generators")
def test_models_of_torchvision_are_given_their_number_of_classes() -> None:
    """They take anything by name and pass it on: `num_classes` they know, `input_shape` they do not."""
    from torchvision.models import resnet18, squeezenet1_1

    for make in (resnet18, squeezenet1_1):
        network = bind_shapes(make, (3, 32, 32), 7)().eval()
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.usefixtures("global_generators")
def test_a_function_that_takes_anything_is_given_both_names_and_its_own_failure_is_told(blobs: Population) -> None:
    def anything(**settings: object) -> nn.Module:
        return MLP(settings["input_shape"], settings["num_classes"])  # type: ignore[arg-type]

    assert bind_shapes(anything, (6,), 3)()(torch.zeros(2, 6)).shape == (2, 3)

    def broken(**settings: object) -> nn.Module:
        raise TypeError("no such thing")

    def deaf(**settings: object) -> nn.Module:
        if settings:
            raise TypeError(f"deaf got an unexpected keyword argument {next(iter(settings))!r}")
        return MLP((6,), 3)

    assert bind_shapes(deaf, (6,), 3)()(torch.zeros(2, 6)).shape == (2, 3)
    with pytest.raises(InputError, match="`model` is broken, which fails: no such thing"):
        inspect_architecture(bind_shapes(broken, (6,), 3), blobs)


class WrittenIn(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(2, 3)


class Labels(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(1, keepdim=True).expand(-1, 3)


def test_a_batch_size_that_is_written_in_and_labels_instead_of_logits_are_refused(blobs: Population) -> None:
    with pytest.raises(InputError, match=r"The model WrittenIn fails on a batch of records of shape \(3, 6\)"):
        inspect_architecture(partial(WrittenIn, 6, 3), blobs)
    with pytest.raises(InputError, match="The model Labels gives numbers of type int64"):
        inspect_architecture(partial(Labels, 6, 3), blobs)
