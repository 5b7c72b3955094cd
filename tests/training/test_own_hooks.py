"""Hooks of a LightningModule: those that a stack cannot follow are refused, others are left out."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from own_refused import Net, refusal, with_method
from own_training import own_job, trained
from torch import Tensor, nn

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError


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


@pytest.mark.costly
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


class Copied(Net):
    """Answers by a copy of its network, which is equal to it until the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.best = deepcopy(self.layer)


def average(self: Any, *args: Any) -> None:
    with torch.no_grad():
        for own, other in zip(self.best.parameters(), self.layer.parameters(), strict=True):
            own.lerp_(other, 0.1)


def copy(self: Any, *args: Any) -> None:
    self.best.load_state_dict(self.layer.state_dict())


def limit(self: Any, *args: Any) -> None:
    self.best.weight.data.renorm_(2, 0, 3.0)


@pytest.mark.costly
@pytest.mark.parametrize("do", [average, copy, limit])
@pytest.mark.parametrize("hook", ["on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end", "on_train_end"])
def test_hooks_that_change_nothing_of_fresh_weights(do: Any, hook: str, blobs: Population) -> None:
    kind = type("Own", (Copied,), {hook: do})
    for each in (hook, "best.weight"):
        assert each in refusal(kind, blobs, epochs=3)


def test_copies_of_the_weights_at_the_start(blobs: Population) -> None:
    assert "best.weight" in refusal(type("Own", (Copied,), {"on_train_epoch_start": copy}), blobs, epochs=3)
    own_job(type("Own", (Copied,), {"on_fit_start": copy}), blobs, epochs=3).check()


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


@pytest.mark.costly
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
