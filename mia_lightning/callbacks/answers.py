"""What a module answers for the records that a monitor looks at: in eval mode, and as if nobody had looked."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mia_lightning.attacks.statistics import correctness, log_confidence
from mia_lightning.callbacks.records import Records
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import isolated
from mia_lightning.targets.own_forward import in_eval_mode
from mia_lightning.training.signals import SMALLEST_PROBABILITY, Signals
from mia_lightning.training.stack.outputs import are_probabilities

Answer = Callable[[Any, Any], tuple[Tensor, Tensor]]
Form = Literal["logits", "probabilities"]

_LABELS = ("labels", "label", "targets", "target", "y")
_OUTPUTS = ("logits", "output", "outputs")
_MEND = "give `monitor.answer` a function of (module, batch) that returns (logits [B, C], labels [B])"


@dataclass(frozen=True, eq=False, kw_only=True)
class Answered:
    """What a module says about records, in their order, on the CPU.

    Attributes:
        score_N: float64; log p of the record's own class, at most 0: the score of the loss attack. NaN where the
            module gave no number.
        is_correct_N: bool.
        label_N: int64.
        form: what the module's outputs are taken for.
    """

    score_N: Tensor
    is_correct_N: Tensor
    label_N: Tensor
    form: Form


def module_answer(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """A batch as a LightningModule's steps take it: its outputs, `[B, C]` or one number a record, and the labels.

    The batch is (inputs, labels), or a mapping with the labels under `labels`, `label`, `targets`, `target` or `y`. The
    module is called with the inputs; one without a forward is asked by the submodule that holds all parameters, else by
    its `predict_step`. A tuple, a mapping with `logits`, and an object with `.logits` are opened.

    Raises:
        InputError: another form of batch or of answer.
    """
    if isinstance(batch, Mapping):
        named = [name for name in _LABELS if name in batch]
        if len(named) != 1:
            raise InputError(
                f"A batch is a mapping with {', '.join(map(str, batch))}, and the labels must be in one of "
                f"{', '.join(_LABELS)}; {_MEND}."
            )
        rest = {name: value for name, value in batch.items() if name != named[0]}
        label_B = batch[named[0]]
        asked = _asked(module)
        output = asked(**rest) if len(rest) > 1 else asked(next(iter(rest.values())))
    elif isinstance(batch, list | tuple) and len(batch) == 2:
        output, label_B = _asked(module)(batch[0]), batch[1]
    else:
        held = f"of {len(batch)} parts" if isinstance(batch, list | tuple) else "that is no pair"
        raise InputError(f"A batch is a {type(batch).__name__} {held}, and a monitor reads (inputs, labels); {_MEND}.")
    return _opened(output), label_B


def _asked(module: Any) -> Callable[..., Any]:
    """What is called with the inputs."""
    owner = next(each for each in type(module).__mro__ if "forward" in vars(each))
    if not owner.__module__.startswith(("torch.", "pytorch_lightning.", "lightning.")):
        return module  # type: ignore[no-any-return]
    whole = sum(p.numel() for p in module.parameters())
    for child in module.children():
        if sum(p.numel() for p in child.parameters()) == whole:
            return child  # type: ignore[no-any-return]
    return lambda inputs: module.predict_step(inputs, 0)


def _opened(output: Any) -> Any:
    """The tensor in what a module gives."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return next((output[name] for name in _OUTPUTS if name in output), output)
    if hasattr(output, "logits"):
        return output.logits
    return output[0] if isinstance(output, list | tuple) and output else output


def answers(
    trainer: Any, module: Any, records: Records, answer: Answer, *, places: range, seed: int
) -> tuple[Tensor, Tensor]:
    """Outputs `[n, C]` (`[n]` of one number a record) and labels of some batches, on the CPU.

    The module is in eval mode, without gradients, under the Trainer's precision, and the Trainer says that it
    validates, so that hooks which augment batches in training leave these alone. Afterwards every layer has its mode,
    and every global generator its state.

    Raises:
        InputError: the module fails on them, or gives other things than one row of numbers a record.
    """
    outputs, labels = [], []
    with isolated(seed, "monitor", "answers"), _as_in_validation(trainer, module):
        for place in places:
            batch = trainer.precision_plugin.convert_input(records.batch(place))
            batch = module._on_before_batch_transfer(batch)
            batch = trainer.strategy.batch_to_device(batch)
            try:
                output, label_B = answer(module, batch)
            except InputError:
                raise
            except Exception as error:  # the user's own code
                raise InputError(
                    f"The module {type(module).__name__} fails on a batch of {records.name} records in eval mode "
                    f"({first_line(error)}); {_MEND}."
                ) from error
            _check(output, label_B, module)
            output = output.detach().cpu()
            outputs.append(output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output)
            labels.append(_as_classes(torch.as_tensor(label_B).detach().cpu(), outputs[-1]))
    return torch.cat(outputs), torch.cat(labels)


@contextmanager
def _as_in_validation(trainer: Any, module: Any) -> Iterator[None]:
    stage = trainer.state.stage
    devices = [module.device] if module.device.type == "cuda" else []
    with in_eval_mode(module), torch.no_grad(), torch.random.fork_rng(devices=devices):
        trainer.validating = True
        try:
            with trainer.precision_plugin.val_step_context():
                yield
        finally:
            trainer.state.stage = stage


def form_of(output: Tensor) -> Form:
    """What outputs are: probabilities where all rows are some, or all single numbers lie between 0 and 1; else logits.

    Log probabilities are logits, too: log softmax leaves them as they are.
    """
    if output.ndim == 2:
        return "probabilities" if are_probabilities(output) else "logits"
    return "probabilities" if bool(((output > 0) & (output < 1)).all()) else "logits"


def scored(output: Tensor, label_N: Tensor, form: Form) -> Answered:
    """The scores of the loss attack and of the gap attack, through the statistics of these attacks."""
    output = output.double()
    if output.ndim == 1 and form == "logits":
        output = torch.stack([torch.zeros_like(output), output], 1)
    elif output.ndim == 1:
        output = torch.stack([1 - output, output], 1)
    if form == "probabilities":
        output = output.clamp(min=SMALLEST_PROBABILITY).log()
    signals = Signals(log_probability_KANC=output.log_softmax(-1).float()[None, None])
    is_number_N = output.isfinite().all(1)
    return Answered(
        score_N=log_confidence(signals, label_N)[0].where(is_number_N, torch.nan),
        is_correct_N=correctness(signals, label_N)[0] > 0,
        label_N=label_N,
        form=form,
    )


def _check(output: Any, label_B: Any, module: Any) -> None:
    """Refuse what is no row of numbers, or one number, for each label."""
    name = type(module).__name__
    if not isinstance(output, Tensor) or not output.is_floating_point():
        found = f"{output.dtype}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InputError(f"The module {name} gives {found} for a batch, where logits are needed; {_MEND}.")
    if not isinstance(label_B, Tensor) or output.ndim not in (1, 2) or len(output) != len(label_B):
        labels = list(label_B.shape) if isinstance(label_B, Tensor) else f"a {type(label_B).__name__}"
        raise InputError(
            f"The module {name} gives {list(output.shape)} for labels of {labels}; a monitor needs logits [B, C] and "
            f"labels [B]; {_MEND}."
        )


def _as_classes(label_B: Tensor, output: Tensor) -> Tensor:
    """Labels as int64 `[B]`: whole numbers as they are, rows with a single 1 by its place.

    Raises:
        InputError: other numbers, as those of a regression or of several labels are, or classes without an output.
    """
    num_classes = output.shape[1] if output.ndim == 2 and output.shape[1] > 1 else 2
    if label_B.ndim == 2 and label_B.shape[1] == 1:
        label_B = label_B[:, 0]
    if label_B.ndim == 2:
        is_one_hot = bool(((label_B == 0) | (label_B == 1)).all() and (label_B.sum(1) == 1).all())
        if is_one_hot and label_B.shape[1] == num_classes:
            return label_B.argmax(1)
    elif label_B.ndim == 1:
        class_B = label_B.to(torch.int64)
        if bool((class_B == label_B).all() and (class_B >= 0).all() and (class_B < num_classes).all()):
            return class_B
    few = label_B.flatten()[:3].tolist()
    raise InputError(
        f"Labels of shape {list(label_B.shape)} begin with {few}, and a monitor needs one class from 0 to "
        f"{num_classes - 1} for each record (numbers to be predicted and several labels a record have no attack here); "
        f"{_MEND}."
    )
