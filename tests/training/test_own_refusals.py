"""What of a LightningModule a stack cannot follow is refused in one sentence, before anything is trained."""

from collections import deque
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from own_training import own_job, trained
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from mia_lightning.callbacks.monitor import LeakageMonitor
from mia_lightning.datasets.loading import Loading
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.training.given_trainer import settings_of
from mia_lightning.training.own.taken import taken
from mia_lightning.training.stack.binding import bind_records
from mia_lightning.training.step.recipe import Recipe


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.tanh(self.layer(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def refusal(kind: type[nn.Module], population: Population, **recipe: Any) -> str:
    """The sentence with which a module is refused before training."""
    with pytest.raises(InputError) as refused:
        own_job(kind, population, **recipe).check()
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert kind.__name__ in sentence
    return sentence


def with_method(name: str, function: Any) -> type[nn.Module]:
    return type("Own", (Net,), {name: function})


def test_methods_that_are_missing(blobs: Population) -> None:
    for missing in ("training_step", "configure_optimizers"):
        own = type("Own", (Net,), {missing: getattr(pl.LightningModule, missing)})
        assert missing in refusal(own, blobs)


@pytest.mark.parametrize("method", ["backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping"])
def test_methods_that_take_over_the_step(method: str, blobs: Population) -> None:
    assert method in refusal(with_method(method, lambda self, *args, **named: None), blobs)


def scaled(self: nn.Module, batch: Any, *args: Any) -> Any:
    return [2 * batch[0], batch[1]]


@pytest.mark.parametrize("method", ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"])
def test_hooks_that_change_batches(method: str, blobs: Population) -> None:
    sentence = refusal(with_method(method, scaled), blobs)
    assert method in sentence
    assert "forward" in sentence


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer.weight.register_hook(torch.zeros_like)


class HookedAfter(Net):
    def on_train_start(self) -> None:
        self.layer.weight.register_post_accumulate_grad_hook(double)


class HookedOptimizer(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        optimizer.register_step_post_hook(lambda *args: self.layer.weight.data.clamp_(-1, 1))
        return optimizer


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (Hooked, ["`layer.weight`", "register_hook"]),
        (HookedAfter, ["`layer.weight`", "register_post_accumulate_grad_hook"]),
        (HookedOptimizer, ["SGD", "register_step_post_hook"]),
    ],
)
def test_hooks_of_parameters_and_of_the_optimiser(kind: type[nn.Module], parts: list[str], blobs: Population) -> None:
    sentence = refusal(kind, blobs)
    assert [part for part in parts if part not in sentence] == []


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


def double(self: nn.Module, *args: Any) -> None:
    for p in self.parameters():
        if p.grad is not None:
            p.grad.mul_(2)


def clip(self: nn.Module, *args: Any) -> None:
    torch.nn.utils.clip_grad_norm_(self.parameters(), 1e4)


def mend_nan(self: nn.Module, *args: Any) -> None:
    for p in self.parameters():
        if p.grad is not None:
            p.grad.nan_to_num_()


@pytest.mark.parametrize("method", ["on_after_backward", "on_before_optimizer_step", "on_before_zero_grad"])
@pytest.mark.parametrize("function", [double, clip, mend_nan])
def test_hooks_that_change_gradients(method: str, function: Any, blobs: Population) -> None:
    sentence = refusal(with_method(method, function), blobs)
    assert method in sentence
    assert "gradient" in sentence


def test_hooks_that_look_at_gradients_are_left_out(blobs: Population) -> None:
    def look(self: Any, optimizer: Any) -> None:
        self.log("norm", torch.stack([p.grad.norm() for p in self.parameters()]).sum())

    own_job(with_method("on_before_optimizer_step", look), blobs).check()


@pytest.mark.parametrize("method", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
def test_hooks_at_the_start_that_change_weights_or_draw(method: str, blobs: Population) -> None:
    def change(self: Any) -> None:
        nn.init.ones_(self.layer.weight)

    def draw(self: Any) -> None:
        torch.rand(1)

    assert "layer.weight" in refusal(with_method(method, change), blobs)
    assert "random" in refusal(with_method(method, draw), blobs)


@pytest.mark.parametrize("method", ["on_train_batch_end", "on_train_epoch_end", "on_train_end"])
def test_hooks_at_the_end_that_change_weights_or_rates(method: str, blobs: Population) -> None:
    def change(self: Any, *args: Any) -> None:
        with torch.no_grad():
            self.other.bias.mul_(0.5)
            self.other.bias.add_(1.0)

    def slow(self: Any, *args: Any) -> None:
        self.optimizers().param_groups[0]["lr"] *= 0.5

    def fail(self: Any, *args: Any) -> None:
        raise RuntimeError("of the user")

    for function, part in ((change, "other.bias"), (slow, "optimiser"), (fail, "of the user")):
        sentence = refusal(with_method(method, function), blobs)
        assert part in sentence
        assert method in sentence


def only(epoch: int, do: Any, batch: int | None = None) -> Any:
    """A hook that does this in one epoch, and at one batch of it."""

    def hook(self: Any, *args: Any) -> None:
        if self.current_epoch == epoch and (batch is None or args[-1] == batch):
            do(self, *args)

    return hook


def reset(self: Any, *args: Any) -> None:
    self.other.reset_parameters()


def set_to_0(self: Any, *args: Any) -> None:
    self.other.weight.data.zero_()


@pytest.mark.parametrize("do", [reset, set_to_0, lambda self: torch.rand(1)])
def test_hooks_that_begin_to_act_in_a_later_epoch(do: Any, blobs: Population) -> None:
    assert "epoch 5" in refusal(with_method("on_train_epoch_start", only(5, do)), blobs, epochs=9)
    own_job(with_method("on_train_epoch_start", only(9, do)), blobs, epochs=9).check()


def test_hooks_that_act_on_gradients_in_an_epoch_between(blobs: Population) -> None:
    own = with_method("on_before_optimizer_step", only(4, double))
    assert "gradient" in refusal(own, blobs, epochs=9)


@pytest.mark.parametrize(("epoch", "batch"), [(8, None), (0, 1), (4, 2)])
def test_hooks_at_the_end_that_begin_to_act_later(epoch: int, batch: int | None, blobs: Population) -> None:
    own = with_method("on_train_batch_end", only(epoch, set_to_0, batch))
    assert "other.weight" in refusal(own, blobs, epochs=9)


class Gathers(Net):
    """Empties what it gathered at the end of each epoch, which must be more in later ones."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("loss", torch.stack(self.losses).mean())
        assert len(self.losses) > self.current_epoch
        self.losses.clear()


def test_hooks_that_report_of_later_epochs_are_left_out(blobs: Population) -> None:
    own_job(Gathers, blobs, epochs=9).check()


@pytest.mark.usefixtures("global_generators")
@pytest.mark.parametrize(("do", "part"), [(set_to_0, "changes"), (lambda self: torch.rand(1), "random")])
def test_a_hook_that_waits_for_the_training_itself_ends_in_a_sentence(do: Any, part: str, blobs: Population) -> None:
    def when_stacked(self: Any) -> None:
        if self.layer.weight.dim() == 3 and self.current_epoch == 1:
            do(self)

    with pytest.raises(InputError) as refused:
        trained(own_job(with_method("on_train_epoch_start", when_stacked), blobs))
    for each in ("on_train_epoch_start", "epoch 1", part):
        assert each in str(refused.value)


class Averaged(Net):
    """Keeps an average of its weights, as in an EMA."""

    def __init__(self) -> None:
        super().__init__()
        self.average = nn.Linear(6, 8).requires_grad_(False)

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for own, other in zip(self.average.parameters(), self.layer.parameters(), strict=True):
                own.lerp_(other, 0.01)


def test_an_average_of_the_weights(blobs: Population) -> None:
    assert "average" in refusal(Averaged, blobs)


@pytest.mark.parametrize(
    "callback", [pl.callbacks.StochasticWeightAveraging(0.1), pl.callbacks.GradientAccumulationScheduler({0: 2})]
)
def test_callbacks_that_change_weights_or_steps(callback: pl.Callback, blobs: Population) -> None:
    own = with_method("configure_callbacks", lambda self: [callback])
    assert type(callback).__name__ in refusal(own, blobs)


def test_callbacks_that_cannot_be_made(blobs: Population) -> None:
    assert "missing" in refusal(with_method("configure_callbacks", lambda self: self.missing), blobs)


def test_callbacks_that_watch_are_no_matter_and_others_are_said(blobs: Population) -> None:
    for callback, is_said in ((pl.callbacks.ModelSummary(), False), (pl.callbacks.EarlyStopping("loss"), True)):
        own = with_method("configure_callbacks", lambda self, callback=callback: callback)
        sentence = taken(bind_records(own, blobs), blobs, Recipe(epochs=2, batch_size=8), num_records=20).sentence
        assert sentence is not None
        assert (type(callback).__name__ in sentence) is is_said


class ByHand(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def test_optimisation_by_hand(blobs: Population) -> None:
    assert "automatic_optimization" in refusal(ByHand, blobs)


def plateau(self: nn.Module) -> Any:
    optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
    return {
        "optimizer": optimizer,
        "lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
        "monitor": "val_loss",
    }


class NotElementwise(torch.optim.SGD):
    """Scales each gradient to a norm of 1, over the whole tensor."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(p.grad.norm() + 1e-12)
        return super().step(closure)


def stranger(self: nn.Module) -> Any:
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


def short(self: Any) -> Any:
    optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=5)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class NoSchedule:
    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None: ...


def odd_schedule(self: nn.Module) -> Any:
    optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
    return [optimizer], [NoSchedule(optimizer)]


@pytest.mark.parametrize(
    ("configure", "parts"),
    [
        (lambda self: [torch.optim.SGD(self.layer.parameters()), torch.optim.SGD(self.other.parameters())], ["2"]),
        (lambda self: None, ["configure_optimizers"]),
        (lambda self: "sgd", ["configure_optimizers"]),
        (lambda self: self.missing, ["missing"]),
        (lambda self: torch.optim.LBFGS(self.parameters()), ["LBFGS", "closure"]),
        (lambda self: NotElementwise(self.parameters(), lr=0.1), ["NotElementwise", "element"]),
        (plateau, ["ReduceLROnPlateau"]),
        (stranger, ["parameters"]),
        (short, ["step 6", "epochs"]),
        (odd_schedule, ["NoSchedule", "lr_scheduler_step"]),
    ],
)
def test_optimisers_and_schedules(configure: Any, parts: list[str], blobs: Population) -> None:
    sentence = refusal(with_method("configure_optimizers", configure), blobs)
    assert [part for part in parts if part not in sentence] == []


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


def test_a_shared_part_that_cannot_begin_anew(blobs: Population) -> None:
    with pytest.raises(InputError) as refused:
        own_job(partial(Shared, net=OwnParameter()), blobs)
    for part in ("OwnParameter", "net.gamma", "reset_parameters"):
        assert part in str(refused.value)


class Anneal:
    """An object of the user's own, with a state."""

    def __init__(self) -> None:
        self.tau = 1.0


def temperature(module: Any) -> float:
    return float(module.warmth)


class Keeps(Net):
    """Its step reads what its hooks may change."""

    def __init__(self) -> None:
        super().__init__()
        self.tau, self.warmth, self.anneal, self.weights = 1.0, 1.0, Anneal(), {"tau": 1.0}
        self.dropout, self.inner = nn.Dropout(0.1), OwnScale()
        self.outputs: list[float] = []
        self.last, self.seen, self.calls = 0.0, 0, 1
        self.late = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.outputs.append(0.0)
        scale = self.tau * temperature(self) * self.anneal.tau * self.weights["tau"] * self.inner.scale
        if self.current_epoch > 100 and self.late:
            return super().training_step(batch, batch_idx) * 2
        return super().training_step(batch, batch_idx) * scale * (self.calls + self.seen)


class OwnScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0


def assign(path: str, value: Any) -> Any:
    """A function that sets what stands at this path from the module."""
    *parents, name = path.split(".")

    def do(self: Any, *args: Any) -> None:
        for parent in parents:
            self = getattr(self, parent)
        setattr(self, name, value)

    return do


def set_item(self: Any, *args: Any) -> None:
    self.weights["tau"] = 0.5


def thaw(self: Any, *args: Any) -> None:
    self.layer.requires_grad_(False)


def slower(self: Any, *args: Any) -> None:
    self.optimizers().param_groups[0]["lr"] *= 0.1


@pytest.mark.parametrize(
    ("do", "part"),
    [
        (assign("tau", 0.5), "`tau`"),
        (assign("warmth", 0.5), "`warmth`"),
        (assign("late", True), "`late`"),
        (assign("anneal.tau", 0.5), "`anneal`"),
        (assign("calls", 2), "`calls`"),
        (assign("inner.scale", 0.5), "`inner.scale`"),
        (assign("dropout.p", 0.5), "`dropout.p`"),
        (set_item, "`weights`"),
        (lambda self, *args: self.layer.eval() and None, "`layer.training`"),
        (thaw, "requires_grad of `layer.weight`"),
        (slower, "optimiser's settings"),
        (assign("trainer.should_stop", True), "should_stop"),
    ],
)
@pytest.mark.parametrize("epoch", [0, 4, 8])
@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_batch_end", "on_after_backward"])
def test_hooks_that_change_what_training_reads(do: Any, part: str, epoch: int, hook: str, blobs: Population) -> None:
    own = type("Own", (Keeps,), {hook: only(epoch, do)})
    sentence = refusal(own, blobs, epochs=9)
    assert part in sentence
    assert hook in sentence


def test_hooks_that_keep_what_is_reported_are_left_out(blobs: Population) -> None:
    def keep(self: Any, outputs: Any, *args: Any) -> None:
        self.last = outputs["loss"].item()

    def begin_anew(self: Any) -> None:
        self.outputs = [] if self.current_epoch % 2 else self.outputs[:0]

    own = type("Own", (Keeps,), {"on_train_batch_end": keep, "on_train_epoch_end": begin_anew})
    own_job(own, blobs, epochs=9).check()


class Milestones(Keeps):
    def __init__(self) -> None:
        super().__init__()
        self.at = [131]

    def on_train_epoch_end(self) -> None:
        if self.current_epoch in self.at:
            self.tau = 0.1


class StepNamed(Keeps):
    def on_train_batch_end(self, *args: Any) -> None:
        if self.global_step == 403:
            self.tau = 0.1


class EpochNamed(Keeps):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 151:
            self.other.reset_parameters()


@pytest.mark.parametrize("kind", [Milestones, StepNamed, EpochNamed])
def test_hooks_are_tried_where_their_code_or_attributes_say(kind: type[nn.Module], blobs: Population) -> None:
    assert ("`tau`" in refusal(kind, blobs, epochs=300)) or kind is EpochNamed


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


class RateByLoss(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.optimizers().param_groups[0]["lr"] = 0.1 * float(loss.detach())
        return loss


class RateOfTensors(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.optimizers().param_groups[0]["lr"] = 0.1 * loss.detach()
        return loss


@pytest.mark.parametrize("kind", [RateByLoss, RateOfTensors])
def test_learning_rates_of_each_model(kind: type[nn.Module], blobs: Population) -> None:
    assert "learning rates" in refusal(kind, blobs)


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


class SetsRates(pl.Callback):
    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        trainer.optimizers[0].param_groups[0]["lr"] *= 0.9


class StopsAndSets(pl.callbacks.EarlyStopping):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.tau = 0.5


@pytest.mark.parametrize(
    ("callback", "hook"),
    [
        (SetsRates(), "on_train_batch_start"),
        (StopsAndSets("loss"), "on_train_epoch_end"),
        (pl.callbacks.LambdaCallback(on_train_epoch_start=print), "on_train_epoch_start"),
        (pl.callbacks.LearningRateMonitor(), None),
        (pl.callbacks.EarlyStopping("loss"), None),
        (pl.callbacks.ModelCheckpoint(), None),
        (LeakageMonitor(), None),
    ],
)
def test_callbacks_that_may_change_the_training_are_warned_of(
    callback: pl.Callback, hook: str | None, blobs: Population
) -> None:
    own = with_method("configure_callbacks", lambda self: callback)
    how = taken(bind_records(own, blobs), blobs, Recipe(epochs=2, batch_size=8), num_records=20)
    settings = settings_of(pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, callbacks=[callback]))
    assert settings.fit is not None
    for warning in (how.warning, settings.fit.warning):
        assert (warning is None) is (hook is None)
        assert warning is None or (type(callback).__name__ in warning and str(hook) in warning)


def test_hooks_around_backward_that_stand_on_the_callback_itself_are_refused(blobs: Population) -> None:
    callback = pl.callbacks.LambdaCallback(on_before_optimizer_step=print)
    sentence = refusal(with_method("configure_callbacks", lambda self: callback), blobs)
    with pytest.raises(InputError) as refused:
        settings_of(pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, callbacks=[callback]))
    for each in (sentence, str(refused.value)):
        assert "LambdaCallback" in each
        assert "on_before_optimizer_step" in each
