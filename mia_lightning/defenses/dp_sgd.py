"""Differentially private training: Abadi et al., "Deep learning with differential privacy" (2016)."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from mia_lightning.datasets.form import each_of
from mia_lightning.defenses.accountant import Guarantee, delta_below, epsilon_of, noise_multiplier_for
from mia_lightning.defenses.poisson import PoissonSampler
from mia_lightning.defenses.private_gradients import PrivateGradients, trainable
from mia_lightning.errors import InputError, first_line
from mia_lightning.seeds import derive, generator
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast1, Between0And1, Positive
from mia_lightning.tasks import Task
from mia_lightning.training.stack.architecture import Architecture
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.recipe import Chunk, Objective, Recipe
from mia_lightning.training.step.rules import Step

_TRIED = 4  # records, whose losses together are compared with those of each alone
_CLASSES = 3  # of these, where the records are not known yet
_MIXES = (
    "`training.objective` lets the records of a batch reach each other, which does not go with defense=dp_sgd: it "
    "clips what each record contributes by itself; leave out defences such as mixup."
)


@settings("defense.dp_sgd")
class DPSGD:
    """Trains on Poisson batches, along clipped per-record gradients with Gaussian noise (`PrivateGradients`).

    A batch holds each record with probability q = B / n, where B is the recipe's `batch_size` (or 1 / its
    `batches_per_epoch`), and an epoch has ⌈n / B⌉ of them. n is taken as public.

    Attributes:
        clip_norm: C, the limit of the 2-norm of a record's gradient.
        noise_multiplier: σ; the noise on the sum of the gradients has standard deviation σ C.
        epsilon: instead of σ: the ε that the whole training may have, from which σ is found for each model.
        delta: of ε, in (0, 1); None for the largest power of ten below 1 / n.
        num_records: n, where it is fixed beforehand, as it must be where chance decides whether records are in; None
            for each model's own number of training records.
    """

    name: ClassVar[str] = "dp_sgd"

    clip_norm: Positive = 1.0
    noise_multiplier: Positive | None = 1.0
    epsilon: Positive | None = None
    delta: Between0And1 | None = None
    num_records: AtLeast1 | None = None

    def __post_init__(self) -> None:
        if (self.noise_multiplier is None) == (self.epsilon is None):
            raise InputError(
                f"`defense.dp_sgd.noise_multiplier` is {self.noise_multiplier} and `defense.dp_sgd.epsilon` is "
                f"{self.epsilon}; give exactly one of them, and null for the other."
            )

    def describe(self) -> str:
        level = f"epsilon {self.epsilon:.12g}" if self.epsilon else f"noise multiplier {self.noise_multiplier:.12g}"
        return f"DP-SGD with {level}, clipping norm {self.clip_norm:.12g}"

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with Poisson batches and private gradients.

        Raises:
            InputError: the recipe does what the accountant cannot follow: clips or accumulates by itself, stops
                early, or mixes records.
        """
        _check(recipe)
        if recipe.of_classes:  # at the truth of other tasks `for_models` looks, which has the records
            _check_objective(recipe, torch.arange(_TRIED) % _CLASSES, _CLASSES)
        return self._in_poisson_batches(recipe)

    def _in_poisson_batches(self, recipe: Recipe) -> Recipe:
        fixed = recipe
        if self.num_records is not None and recipe.batch_size is not None:
            steps = recipe.steps_per_epoch(self.num_records)
            fixed = replace(recipe, batch_size=None, batches_per_epoch=steps)
        sampler = PoissonSampler(batch_size=recipe.batch_size, num_records=self.num_records)
        return replace(fixed, sampler=sampler, gradient_rule=self)

    def guarantee(self, recipe: Recipe, num_records: int) -> Guarantee:
        """What holds for a model trained by `recipe` (adapted or not) on so many records.

        Raises:
            InputError: the recipe cannot be adapted, `epsilon` cannot be met, or Opacus is not installed.
        """
        if not isinstance(recipe.sampler, PoissonSampler):
            _check(recipe)
            recipe = self._in_poisson_batches(recipe)
        rate, steps, delta = self._schedule(recipe, num_records)
        noise = self._noise_multiplier(rate, steps, delta)
        epsilon = epsilon_of(noise_multiplier=noise, sample_rate=rate, steps=steps, delta=delta)
        return Guarantee(
            epsilon=epsilon,
            delta=delta,
            noise_multiplier=noise,
            sample_rate=rate,
            steps=steps,
            num_records=self.num_records or num_records,
        )

    def with_num_records(self, num_records: int) -> "DPSGD":
        """The same with `num_records` where n was not given."""
        return replace(self, num_records=self.num_records or num_records)

    def _schedule(self, recipe: Recipe, num_records: int) -> tuple[float, int, float]:
        """Sampling rate, number of steps and delta of a model trained by the adapted recipe on so many records."""
        assert isinstance(recipe.sampler, PoissonSampler)
        batches_per_epoch = recipe.steps_per_epoch(num_records)
        rate = recipe.sampler.rate(num_records, batches_per_epoch)
        delta = delta_below(self.num_records or num_records) if self.delta is None else self.delta
        return rate, recipe.epochs * batches_per_epoch, delta

    def _noise_multiplier(self, rate: float, steps: int, delta: float) -> float:
        if self.noise_multiplier is not None:
            return float(self.noise_multiplier)
        assert self.epsilon is not None
        return noise_multiplier_for(epsilon=self.epsilon, sample_rate=rate, steps=steps, delta=delta)

    def for_models(self, models: Chunk) -> PrivateGradients:
        """The private gradients of these models.

        Raises:
            InputError: records of a batch reach each other, the model or the task reads the training records
                beforehand, the model has no gradient of each record, or as for `adapt` and `guarantee`.
        """
        recipe = models.recipe
        task, label_N = models.population.task, models.population.label_N.cpu()
        _check(recipe)
        truth_B = task.compared(label_N[torch.arange(_TRIED) % len(label_N)])
        _check_objective(recipe, truth_B, models.population.num_classes)
        _check_task(task)
        _check_architecture(models.architecture)
        sampler = recipe.sampler
        if not isinstance(sampler, PoissonSampler):
            raise InputError(
                "defense=dp_sgd needs its own Poisson batches, but another defence has changed them; leave that out."
            )
        noise = {n: self._noise_multiplier(*self._schedule(recipe, n)) for n in set(models.num_records_K)}
        stack = Stack.build(models.make_network, [0], seed=0, role="inspection").cpu().train()
        gradients = PrivateGradients(
            objective=recipe.objective,
            clip_norm=self.clip_norm,
            noise_multiplier_K=torch.tensor([noise[n] for n in models.num_records_K], dtype=torch.float64),
            expected_size_K=torch.tensor(
                [sampler.expected_size(n, recipe.steps_per_epoch(n)) for n in models.num_records_K],
                dtype=torch.float64,
            ),
            noise_key_K={
                name: torch.tensor([derive(models.seed, models.role, k, "gradient noise", name) for k in models.models])
                for name in trainable(stack)
            },
        )
        _check_per_record(gradients, stack, models)
        return gradients


def private_training_refusal(recipe: Recipe, architecture: Architecture, task: Task) -> str | None:
    """Why models of a kind are not trained with DP-SGD: the sentence that refuses them; None where nothing is known."""
    try:
        _check(recipe)
        _check_task(task)
        _check_architecture(architecture)
    except InputError as error:
        return str(error)
    return None


def _check(recipe: Recipe) -> None:
    """Refuse what would be done to gradients, batches or models beside what the accountant knows of."""
    refused = {
        "gradient_clip_norm": (
            recipe.gradient_clip_norm is not None,
            "defense.dp_sgd.clip_norm limits the gradient of each record",
        ),
        "accumulate_batches": (recipe.accumulate_batches != 1, "raise training.batch_size for larger batches"),
        "early_stopping": (recipe.early_stopping is not None, "the choice of the epoch is not accounted for"),
    }
    for setting, (is_set, reason) in refused.items():
        if is_set:
            raise InputError(
                f"`training.{setting}` is {getattr(recipe, setting)!r}, which does not go with defense=dp_sgd: "
                f"{reason}; leave it at its default."
            )
    if recipe.mix is not None or recipe.batch_objective is not None:
        raise InputError(_MIXES)


def _check_objective(recipe: Recipe, truth_B: Tensor, num_outputs: int) -> None:
    """Refuse a loss of a record that depends on the others of its batch.

    Args:
        truth_B: what the objective compares outputs with, of `_TRIED` records.
    """
    logits_BC = torch.randn(_TRIED, num_outputs, generator=generator(0, "dp_sgd check"))
    together_B = recipe.objective(logits_BC[None], truth_B[None])[0]
    alone_B = torch.stack([recipe.objective(logits_BC[None, [b]], truth_B[None, [b]])[0, 0] for b in range(_TRIED)])
    if not torch.allclose(together_B, alone_B, rtol=1e-4, atol=1e-6):
        raise InputError(_MIXES)


def _check_task(task: Task) -> None:
    if task.public_settings:
        listed = " and ".join(f"`task.{each}`" for each in task.public_settings)
        raise InputError(
            f"Under task={task.name} each model takes {listed} from its own training records, which defense=dp_sgd "
            "does not account for; set them to public constants."
        )


def _check_architecture(architecture: Architecture) -> None:
    faults = {
        "has batch normalisation, through which the records of a batch reach each other; use GroupNorm "
        "(defense=group_norm) or none": architecture.has_batch_norm,
        "lets the records of a batch reach each other": architecture.mixes_records,
        "takes something of its training records before training, which the accountant does not see; give a network "
        "over scales that are public": architecture.fits_to_records,
        f"has no gradients of single records under vmap ({architecture.refusal})": architecture.refusal is not None,
    }
    for fault, is_there in faults.items():
        if is_there:
            raise InputError(f"The model {architecture.name} does not go with defense=dp_sgd: it {fault}.")


def _check_per_record(gradients: PrivateGradients, stack: Stack, models: Chunk) -> None:
    """Refuse, on two records, a model or a loss of which there is no gradient of each; the sentence says why not."""
    population = models.population
    index_B = torch.arange(2) % len(population)
    records = population.records(index_B.to(population.device), stack.dtype)
    step = Step(
        number=0,
        x=each_of(records, lambda x: x[None].cpu()),
        label_KB=population.task.compared(population.label_N.cpu()[index_B])[None],
        index_KB=index_B[None],
        is_real_KB=None,
        execution="stack",
    )

    def with_loss(objective: Objective) -> object:
        return replace(gradients, objective=objective).clipped_sums(stack, step)

    fault = _failure(with_loss, gradients.objective)
    if fault is None:
        return
    model = f"The model {models.architecture.name}"
    alone = _failure(lambda: stack.call_one(stack.state_of(0), each_of(step.x, lambda x: x[0, :1])).sum().backward())
    if alone is not None:
        raise _refusal(model, "it fails on a record by itself", alone)
    of_sum = _failure(with_loss, lambda logits_KBC, _: logits_KBC.sum(-1))
    culprit, fault = ("`training.objective`", fault) if of_sum is None else (model, of_sum)
    raise _refusal(culprit, "vmap cannot take the gradient of each record by itself", fault)


def _failure(call: Callable[..., object], *inputs: object) -> Exception | None:
    """What a call raises; an error for the user is passed on."""
    try:
        call(*inputs)
    except InputError:
        raise
    except Exception as error:  # what vmap refuses, and what a model raises, has no common type
        return error
    return None


def _refusal(what: str, fault: str, error: Exception) -> InputError:
    refusal = InputError(f"{what} does not go with defense=dp_sgd: {fault} ({first_line(error)}).")
    refusal.__cause__ = error
    return refusal
