"""The models of a job in the store, each under a hash of everything that it depends on, and of nothing else.

A model depends on its training records, labels and weights in row order, the normalisation, the architecture and its
arguments, the recipe, the precision, and the names of its seeds. It depends neither on the device, nor on how many
models train together or how, nor on the attack, the output defence or the target that it serves.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from mia_lightning.store.artefacts import Artefact, Store
from mia_lightning.store.documents import DamagedError, understood
from mia_lightning.store.housekeeping import Intent
from mia_lightning.store.identity import Identity, NoIdentityError, digest, digest_of_tensor, identity
from mia_lightning.store.tensors import tensors_of
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.kept_answers import InStore
from mia_lightning.training.kept_differences import differences
from mia_lightning.training.plan.execution import SWITCHES, ExecutionPlan, plan_from_json
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.stack.way import asked_by
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack
from mia_lightning.training.trainer import TrainerSettings

# Increased when a model of the same description comes out otherwise than before.
SCHEMA = 1
# Fields of a recipe that change no model, or follow from the task.
_HOW = ("execution", "chunk", "threads", "of_classes", *SWITCHES)
# Arguments of `pl.Trainer` that change no model.
_SHOWN = ("logger", "log_every_n_steps", "profiler", "default_root_dir", "enable_model_summary", "enable_checkpointing")
Tell = Callable[[str], object]
Weights = Mapping[str, Tensor]
"""Of one model: `state.<name>` of its parameters and buffers, its losses, the epochs at which it failed or stopped."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A chunk whose training begins.

    Attributes:
        places: of the models that train.
        found: the models of the chunk that the store holds; some may train once more, beside a damaged one.
        checkpoint: from which training goes on; None for the beginning.
        callbacks: for the Trainer, which write checkpoints.
        end: keeps the trained models, and removes the checkpoint.
    """

    places: list[int]
    found: Mapping[int, Weights]
    checkpoint: Path | None
    callbacks: Sequence[pl.Callback]
    end: Callable[[TrainedStack], object]


class Kept:
    """Where the models of a job are found and kept: here nowhere, as without a store; `KeptModels` has one.

    Attributes:
        keeps: whether anything is kept.
    """

    keeps: ClassVar[bool] = False

    def answers(self, tell: Tell) -> InStore | None:
        """Where the answers of the models are kept; None for nowhere."""
        return None

    def find(self, places: Sequence[int], tell: Tell) -> dict[int, Weights]:
        """Those of the models at these places of the job that are there."""
        return {}

    def num_found(self) -> int:
        """How many models of the job seem to be there."""
        return 0

    def alone(self, places: Sequence[int], waiting: Callable[[], object]) -> AbstractContextManager[None]:
        """Hold a lock, so that no other process trains these models; `waiting` is called once where one does."""
        return nullcontext()

    def begin(self, places: Sequence[int], execution: str, tell: Tell) -> Begun:
        """Begin to train the missing models of a chunk, or those that an earlier process began to train."""
        return Begun(places=list(places), found={}, checkpoint=None, callbacks=(), end=lambda trained: None)

    def find_plan(self, device: torch.device) -> ExecutionPlan | None:
        """The execution plan by which these models were trained so far."""
        return None

    def keep_plan(self, plan: ExecutionPlan, device: torch.device) -> None:
        """Keep the execution plan."""

    def nearest(self) -> str | None:
        """Which fields differ from the nearest models of this role; None where there are none, or nothing differs."""
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptModels(Kept):
    """The models of one job in a store.

    Attributes:
        store: where.
        common: what they have in common, by names that a person reads.
        own_K: what each model has of its own.
        sharing: what else their execution plan depends on.
        read_as: what their outputs are taken for: their answers depend on it, and the models where they stop early.
        threads: of torch on the CPU, outside of a training; on these, too.
        stack, key_K: hashes of what they have in common, and of each model.
    """

    store: Store
    common: Mapping[str, Identity]
    own_K: Sequence[Mapping[str, Identity]]
    sharing: Identity
    read_as: Identity = None
    threads: int = field(default_factory=torch.get_num_threads)

    stack: str = field(init=False)
    key_K: tuple[str, ...] = field(init=False)
    keeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "stack", digest(dict(self.common)))
        object.__setattr__(self, "key_K", tuple(digest([self.stack, dict(own)]) for own in self.own_K))

    @classmethod
    def of(cls, store: Store, job: TrainingJob, settings: TrainerSettings) -> "KeptModels":
        """The models of a job whose responses and buffers, if any, follow from records, labels and task.

        Raises:
            NoIdentityError: the architecture, the recipe or a callback cannot be told.
        """
        recipe, population = job.recipe, job.population
        common = {
            "schema": SCHEMA,
            "role": job.role,
            "seed": job.seed,
            "model": identity(_as_trained(job.make_network)),
            "training": _recipe(recipe),
            "trainer": {
                "precision": settings.precision.removesuffix("-true").removesuffix("-mixed"),
                "callbacks": identity(list(settings.callbacks)),
                "options": identity({n: v for n, v in (settings.options or {}).items() if n not in _SHOWN}),
            },
            "dataset": {
                "shape": [str(population.x_N.dtype), *population.x_N.shape[1:]],
                "classes": population.num_classes,
                "normalisation": identity([population.scale, population.mean, population.std]),
                **({} if population.form is None else {"form": population.form.described()}),
            },
        }
        read_as = [job.architecture.gives_probabilities, job.architecture.gives_log_probabilities]
        if not population.task.has_classes:
            common["task"] = identity(population.task)
        if recipe.early_stopping is not None:
            common["outputs"] = read_as
        digest_N = population.record_digests()
        label_N = population.label_N.cpu().numpy()
        weight_N = None if population.weight_N is None else population.weight_N.cpu().numpy()

        def of_records(records: Tensor) -> str:
            chosen = records.cpu().numpy()
            numbers = hashlib.blake2b(digest_N[chosen].data, digest_size=20)
            numbers.update(label_N[chosen].data)
            if weight_N is not None:
                numbers.update(weight_N[chosen].data)
            return numbers.hexdigest()

        if job.validation_N is not None:
            common["membership"] = {"validation": of_records(job.validation_N)}
        own_K = []
        for model, records in zip(job.models, job.records_K, strict=True):
            own: dict[str, Identity] = {"model": int(model), "records": of_records(records), "count": len(records)}
            if recipe.augment or recipe.gradient_rule is not None:  # their draws depend on the numbers of the records
                own["numbers"] = digest_of_tensor(records)
            own_K.append(own)
        sharing: list[Identity] = [recipe.execution, recipe.chunk, settings.num_devices]
        if recipe.threads != "auto":
            sharing.append(recipe.threads)
        sharing += [f"{name} {getattr(recipe, name)}" for name in SWITCHES if getattr(recipe, name) != "auto"]
        return cls(store=store, common=common, own_K=own_K, sharing=sharing, read_as=read_as)

    def answers(self, tell: Tell) -> InStore:
        return InStore(store=self.store, key_K=self.key_K, tell=tell, read_as=self.read_as)

    def place(self, k: int) -> str:
        """Where the store has the model at a place of the job."""
        return f"models/{self.stack}/{self.key_K[k]}"

    def find(self, places: Sequence[int], tell: Tell) -> dict[int, Weights]:
        found: dict[int, Weights] = {}
        for k in places:
            weights = self.store.read(self.place(k), partial(_weights, self.own_K[k]), tell=tell)
            if weights is not None:
                found[k] = weights
        return found

    def num_found(self) -> int:
        return sum(self.store.has(self.place(k)) for k in range(len(self.key_K)))

    def alone(self, places: Sequence[int], waiting: Callable[[], object]) -> AbstractContextManager[None]:
        return self.store.locked([self.key_K[k] for k in places], waiting=waiting)

    def begin(self, places: Sequence[int], execution: str, tell: Tell) -> Begun:
        """As `Kept.begin`.

        Which models train together is written first. A process that is killed while it keeps them trains all of them
        again together, since in a smaller stack the last bits of their numbers could differ; likewise where one of them
        was damaged.
        """
        found = self.find(places, tell)
        chunk = digest([self.stack, [self.key_K[k] for k in places], execution])
        intent, checkpoint = f"running/{chunk}", f"running/{chunk}-checkpoint"
        place_of = {self.key_K[k]: k for k in places}
        earlier = self.store.read(intent, _intent, tell=tell)
        begun = [place_of[key] for key in earlier.keys if key in place_of] if earlier is not None else []
        missing = [k for k in places if k not in found]
        damaged = [k for k in missing if self.store.was_damaged(self.place(k))]
        is_whole = set(missing) <= set(begun)  # else others are missing by now, too
        alone = list(places) if damaged or (begun and not is_whole) else missing
        if not missing or not is_whole:
            begun = []
        kept = self.store.get(checkpoint, tell=tell) if begun else None
        training = begun or (alone if missing else [])
        if training and not begun:
            self.store.forget(checkpoint)
            self.store.put(f"stacks/{self.stack}", self.common)
            own = Intent.of((self.key_K[k] for k in training), self.common["role"])
            self.store.put(intent, own.model_dump(mode="json"))
        intact = {k: weights for k, weights in found.items() if k in training} if damaged else {}

        def save(trainer: pl.Trainer) -> None:
            fields = {"role": self.common["role"], "epoch": trainer.current_epoch + 1}
            self.store.put(checkpoint, fields, trainer.save_checkpoint)

        def end(trained: TrainedStack) -> None:
            alike = bool(intact)
            for j, k in enumerate(training):
                weights = trained.weights(j)
                if k in intact:
                    alike = alike and _same(weights, intact[k])
                else:
                    self.store.put(self.place(k), self.own_K[k], partial(save_file, weights))
            verdicts = [self.store.is_as_before(self.place(k)) for k in damaged]
            if not all(alike if verdict is None else verdict for verdict in verdicts):
                tell(
                    f"{self.common['role']}: models that were damaged in the store were trained again, and may differ "
                    "from before in the last bits, and so may their scores."
                )
            self.store.forget(intent)
            self.store.forget(checkpoint)

        return Begun(
            places=training,
            found={k: weights for k, weights in found.items() if k not in training or k in intact},
            checkpoint=None if kept is None else kept.content,
            callbacks=[Checkpoints(save, self.store.checkpoint_minutes)],
            end=end,
        )

    def find_plan(self, device: torch.device) -> ExecutionPlan | None:
        return self.store.read(self._plan_place(device), _plan)

    def keep_plan(self, plan: ExecutionPlan, device: torch.device) -> None:
        self.store.put(self._plan_place(device), {"role": plan.role, "plan": asdict(plan)})

    def _plan_place(self, device: torch.device) -> str:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return f"plans/{digest([self.stack, self.key_K, self.sharing, name, self.threads])}"

    def nearest(self) -> str | None:
        if self.store.has(f"stacks/{self.stack}"):
            return None
        others = [other for place in self.store.places("stacks") if (other := self.store.fields(place)) is not None]
        alike = [other for other in others if other.get("role") == self.common["role"]]
        best = min((differences(other, self.common) for other in alike), key=len, default=[])
        if not best:
            return None
        more = " and more" if len(best) > 3 else ""
        return f"the most similar models in the store differ in {', '.join(best[:3])}{more}"


def kept_models(store: Store | None, job: TrainingJob, settings: TrainerSettings, remark: Tell) -> Kept:
    """Where the models of a job are found and kept; `remark` is given a sentence where nothing can be kept."""
    if store is None or not job.keep:
        return Kept()
    try:
        return KeptModels.of(store, job, settings)
    except NoIdentityError as error:
        remark(
            f"{job.role}: nothing is kept in the store, since it cannot be said what {error} in `model`, `training`, "
            "`defense` or `trainer` is."
        )
        return Kept()


class Checkpoints(pl.callbacks.Checkpoint):
    """Checkpoints a training stack at the end of an epoch, at most once in so many minutes.

    Args:
        save: is called with the Trainer.
        minutes: between two checkpoints; 0 for every epoch.
    """

    def __init__(self, save: Callable[[pl.Trainer], object], minutes: float) -> None:
        self._save, self._seconds = save, 60 * minutes

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if not is_last and time.monotonic() - self._last >= self._seconds:
            self._save(trainer)
            self._last = time.monotonic()


def _weights(own: Mapping[str, Identity], artefact: Artefact) -> Weights:
    if artefact.content is None or artefact.fields != json.loads(json.dumps(own)):
        raise DamagedError("is another model")
    return tensors_of(artefact.content)


def _same(first: Weights, second: Weights) -> bool:
    """Whether they are equal to the bit."""
    return first.keys() == second.keys() and all(
        digest_of_tensor(tensor) == digest_of_tensor(second[name]) for name, tensor in first.items()
    )


def _plan(artefact: Artefact) -> ExecutionPlan:
    return plan_from_json(artefact.fields.get("plan"))


def _intent(artefact: Artefact) -> Intent:
    return understood(artefact.fields, Intent)


def _as_trained(make_network: MakeNetwork) -> MakeNetwork:
    """The networks without what their user says of the outputs, which changes how they are read, not the weights."""
    if not isinstance(make_network, partial) or make_network.func is not asked_by:
        return make_network
    make, way = make_network.args
    way = replace(way, form="auto", section="model")
    return make if way.is_plain else partial(asked_by, make, way)


def _recipe(recipe: Recipe) -> dict[str, Identity]:
    names = [each.name for each in fields(recipe) if each.name not in _HOW]
    return {name: identity(getattr(recipe, name)) for name in names if name != "class_weights" or recipe.class_weights}
