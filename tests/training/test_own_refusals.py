"""What of a LightningModule a stack cannot follow is refused in one sentence, before anything is trained."""

from collections import deque
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from own_refused import Net, refusal, with_method
from own_training import own_job, trained
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.training.own.making import OwnParts, made_for_stacks
from mia_lightning.training.own.taken import taken
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import Recipe


def test_methods_that_are_missing(blobs: Population) -> None:
    for missing in ("training_step", "configure_optimizers"):
        own = type("Own", (Net,), {missing: getattr(pl.LightningModule, missing)})
        assert missing in refusal(own, blobs)


class TwoLosses(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self(x).square().mean().backward()
        return F.cross_entropy(self(x), y)


def test_a_step_that_adds_to_its_gradients(blobs: Population) -> None:
    assert "gradients" in refusal(TwoLosses, blobs)


class OddBackward(torch.autograd.Function):
    """Right in a loop; its own rule for vmap forgets the gradient."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        return x.detach() + 0 * x, in_dims[0]


class Odd(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.other(OddBackward.apply(torch.tanh(self.layer(x))))


def test_gradients_that_vmap_gets_wrong_are_taken_in_a_loop(blobs: Population) -> None:
    refused = own_job(Odd, blobs).architecture.refusal
    assert refused is not None
    assert "gradients" in refused


def into_the_loss(self: Any, batch: Any, batch_idx: int) -> Any:
    x, y = batch
    return F.cross_entropy(self(x), y) + self.accuracy(self(x), y)


def ends_early(self: Any, batch: Any, batch_idx: int) -> int:
    return -1


class Counting(Net):
    """Its loss follows the losses that it saw before."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.seen.append(loss.detach())
        return loss * (1 + torch.stack(self.seen).sum())


class OwnGenerator(Net):
    def __init__(self) -> None:
        super().__init__()
        self.draws = torch.Generator().manual_seed(3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x + torch.randn(x.shape, generator=self.draws)), y)


@pytest.mark.parametrize("kind", [Counting, OwnGenerator])
def test_what_is_kept_from_step_to_step_outside_of_buffers(kind: type[nn.Module], blobs: Population) -> None:
    sentence = refusal(kind, blobs)
    assert "buffer" in sentence
    assert "seen" in sentence or kind is OwnGenerator


class Assigns(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.level = self.level * 0.9
        return super().training_step(batch, batch_idx)


class SomeLayers(Net):
    """Leaves a layer out at random, with an if."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(x))
        return self.other(self.spare(hidden) if not self.training or torch.rand(()) < 0.5 else hidden)


@pytest.mark.parametrize(
    ("methods", "parts"),
    [
        ({"training_step": lambda self, batch, batch_idx: None}, ["None", "loss"]),
        ({"training_step": lambda self, batch, batch_idx: {"logits": self(batch[0])}}, ["dict", "loss"]),
        ({"training_step": lambda self, batch, batch_idx: self(batch[0])}, ["[4, 3]"]),
        ({"training_step": lambda self, batch, batch_idx: self(batch[0]).mean().detach()}, ["gradient"]),
        (
            {"training_step": lambda self, batch, batch_idx: self(batch["image"]).mean()},
            ["records [4, 6]", "labels [4]", "as a stack gives it"],
        ),
        ({"training_step": lambda self, batch, batch_idx: self.trainer.nothing}, ["nothing"]),
        (
            {
                "training_step": lambda self, batch, batch_idx: (
                    self(batch[0]).mean() / self.trainer.datamodule.num_classes
                )
            },
            ["DataModule", "`num_classes`", "argument"],
        ),
        ({"training_step": lambda self, batch, batch_idx, optimizer_idx: None}, ["optimizer_idx"]),
        ({"training_step": into_the_loss, "accuracy": None}, ["torchmetrics"]),
        ({"on_train_batch_start": ends_early}, ["on_train_batch_start"]),
    ],
)
def test_steps_that_give_no_loss(methods: dict[str, Any], parts: list[str], blobs: Population) -> None:
    if "accuracy" in methods:
        methods["accuracy"] = property(lambda self: self.metric)

        def init(self: Any) -> None:
            Net.__init__(self)
            self.metric = MulticlassAccuracy(num_classes=3)

        methods["__init__"] = init
    sentence = refusal(type("Own", (Net,), methods), blobs)
    assert [part for part in parts if part not in sentence] == []


class InPlace(Net):
    """Changes what its gradient needs."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        hidden = torch.sigmoid(self.layer(x))
        loss = F.cross_entropy(self.other(hidden), y)
        hidden.mul_(2)
        return loss


def test_a_loss_without_a_way_back(blobs: Population) -> None:
    assert "inplace" in refusal(InPlace, blobs)


def test_buffers_that_are_assigned(blobs: Population) -> None:
    assert "`level`" in refusal(Assigns, blobs)


def stopping(self: Any, batch: Any, batch_idx: int) -> Any:
    self.trainer.should_stop = True
    return Net.training_step(self, batch, batch_idx)


def test_a_step_that_stops_the_trainer(blobs: Population) -> None:
    assert "should_stop" in refusal(with_method("training_step", stopping), blobs)


def test_layers_that_are_left_out_now_and_then(blobs: Population) -> None:
    with pytest.raises(InputError, match="spare"):
        trained(own_job(SomeLayers, blobs))


class LateDraws(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        if self.current_epoch == 2:
            x = x + torch.randn(x.shape[1]).numpy().mean()
        return F.cross_entropy(self(x), y)


@pytest.mark.usefixtures("global_generators")
def test_a_step_that_begins_to_draw_ends_in_a_sentence_and_runs_in_a_loop(blobs: Population) -> None:
    with pytest.raises(InputError) as refused:
        trained(own_job(LateDraws, blobs))
    for part in ("LateDraws", "epoch 2", "training.execution=loop"):
        assert part in str(refused.value)
    assert trained(own_job(LateDraws, blobs, execution="loop")).num_models == 3


def test_a_loader_that_drops_every_batch(blobs: Population) -> None:
    from dataclasses import replace

    population = replace(blobs, loading=Loading(batch_size=50, shuffle=True, drop_last=True))
    with pytest.raises(InputError, match="50 records"):
        own_job(Net, population).check()


def test_settings_that_change_the_loss(blobs: Population) -> None:
    sentence = refusal(Net, blobs, objective=lambda logits, label: logits.sum(-1))
    assert "training.objective" in sentence


class Shared(Net):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class OwnParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(3))


class Teacher(Net):
    """An average of its layer, which is frozen, and which each step moves."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.no_grad():
            self.teacher.weight.mul_(0.9).add_(self.layer.weight, alpha=0.1)
        return super().training_step(batch, batch_idx)


@pytest.mark.usefixtures("global_generators")  # of layers that are made
def test_a_frozen_part_that_the_step_changes_is_no_part_to_be_given_to_all(blobs: Population) -> None:
    assert "changes `teacher.weight`" in refusal_of(partial(Teacher, nn.Linear(6, 8)), blobs)
    how = taken(bind_records(lambda: Teacher(nn.Linear(6, 8)), blobs), blobs, Recipe(epochs=2), num_records=20)
    assert how.recipe.own is not None


def refusal_of(make: Any, population: Population) -> str:
    shared, _ = made_for_stacks(make, population, max_epochs=2)
    with pytest.raises(InputError) as refused:
        taken(bind_records(shared, population), population, Recipe(epochs=2), num_records=20)
    return str(refused.value)


class Adapted(nn.Linear):
    """A layer with parameters of its own, which the initialisation of its base does not know."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.lora = nn.Parameter(torch.ones(3, 6))


class AdaptedAnew(Adapted):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "lora"):
            nn.init.zeros_(self.lora)


@pytest.mark.usefixtures("global_generators")  # of layers that are made
def test_a_parameter_that_the_initialisation_leaves_as_it_is(blobs: Population) -> None:
    with pytest.raises(InputError, match=r"`net.lora` \(Adapted\) is set by no reset_parameters"):
        own_job(partial(Shared, net=Adapted()), blobs)
    with pytest.raises(InputError, match="lazy layers"):
        own_job(partial(Shared, net=nn.LazyLinear(3)), blobs)
    for net in (AdaptedAnew(), nn.Sequential(nn.Embedding(3, 4, padding_idx=0), nn.BatchNorm1d(4), nn.LSTM(4, 2))):
        made, _ = made_for_stacks(partial(Shared, net=net), blobs, max_epochs=1)
        assert isinstance(made.make, OwnParts)


def test_a_shared_part_that_cannot_begin_anew(blobs: Population) -> None:
    with pytest.raises(InputError) as refused:
        own_job(partial(Shared, net=OwnParameter()), blobs)
    for part in ("OwnParameter", "net.gamma", "reset_parameters"):
        assert part in str(refused.value)


class LateList(Net):
    """Uses the losses that it keeps once there are some."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: Any = []
        self.least = 4

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(float(loss.detach()))
        return loss / (sum(self.losses) / len(self.losses)) if len(self.losses) >= self.least else loss


class LateDeque(LateList):
    def __init__(self) -> None:
        super().__init__()
        self.losses = deque(maxlen=5)
        self.least = 5


class LateObject(LateList):
    def __init__(self) -> None:
        super().__init__()
        self.losses = KeepsThem()


class KeepsThem(list[float]):
    """Of the user's own."""


class LateClass(Net):
    count = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        LateClass.count += 1
        return super().training_step(batch, batch_idx) * (1 + LateClass.count // 5)


@pytest.mark.parametrize("kind", [LateList, LateDeque, LateObject, LateClass])
def test_what_is_kept_and_used_only_after_some_steps(kind: type[nn.Module], blobs: Population) -> None:
    LateClass.count = 0
    sentence = refusal(kind, blobs)
    assert "buffer" in sentence
    assert "`losses`" in sentence or kind is LateClass


class SkipsNamed(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if self.global_step == 7 else super().training_step(batch, batch_idx)


class EndsEarly(Net):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch == self.trainer.max_epochs - 1 else None


@pytest.mark.parametrize("kind", [SkipsNamed, EndsEarly])
def test_batches_that_are_skipped_later(kind: type[nn.Module], blobs: Population) -> None:
    sentence = refusal(kind, blobs, epochs=9)
    assert ("None" if kind is SkipsNamed else "on_train_batch_start") in sentence
    assert "execution" not in sentence


class SkipsLate(Net):
    """Skips a batch once its weights have moved, as they do not before training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.zeros(6, 8).T.contiguous())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 0:
            self.first.copy_(self.layer.weight.detach())
        moved = float((self.layer.weight.detach() - self.first).abs().max())
        return None if self.current_epoch == 2 and moved > 0 else super().training_step(batch, batch_idx)


def test_a_batch_that_is_skipped_in_the_middle_of_training_ends_in_a_sentence(blobs: Population) -> None:
    with pytest.raises(InputError) as refused:
        trained(own_job(SkipsLate, blobs))
    for part in ("None", "epoch 2", "SkipsLate"):
        assert part in str(refused.value)
    assert "training.execution" not in str(refused.value)
