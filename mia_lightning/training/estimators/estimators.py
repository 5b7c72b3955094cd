"""K estimators of one kind: the third form of a stack, a pool of fits over the rows of the membership."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.seeds import derive
from mia_lightning.store.identity import Identity
from mia_lightning.training.engine import Engine
from mia_lightning.training.estimators.fitting import Answered, Fit, FitKind, fit_and_answer
from mia_lightning.training.estimators.frames import RecordFiles
from mia_lightning.training.estimators.kept import KeptFits, kept_fits
from mia_lightning.training.estimators.kind import kind_of_estimator
from mia_lightning.training.estimators.leaves import Structure
from mia_lightning.training.estimators.making import Making, new_estimator, takes_table
from mia_lightning.training.estimators.pool import in_pool
from mia_lightning.training.estimators.table import records_of
from mia_lightning.training.estimators.under_way import Fitting, answers_path
from mia_lightning.training.kept_answers import KeptAnswers
from mia_lightning.training.models import ModelKind, Models
from mia_lightning.training.plan.room import Room
from mia_lightning.training.signals import AnswerForm, Signals


class EstimatorModels(Models):
    """K fitted estimators.

    Their answers for the records that they were asked about when they were fitted lie in files of the run. About others
    they are asked again, and fitted again where they were found in the store, which keeps answers alone.

    Args:
        making: how they were made.
        fits: of each.
        population: that they were fitted on.
        folder: with the files of the run.
        answered: what came of each fit.
        asked: of each, the records that it was asked about.
        kept: where they are in a store.
        processes: how many work at the same time.
    """

    is_local: ClassVar[bool] = True

    def __init__(
        self,
        making: Making,
        kind: FitKind,
        fits: Sequence[Fit],
        population: Population,
        folder: Path,
        answered: Sequence[Answered],
        asked: Sequence[Tensor],
        *,
        kept: KeptFits | None,
        processes: int,
    ) -> None:
        self._making, self._kind_of_fits, self._fits, self._population = making, kind, tuple(fits), population
        self._folder, self._answered, self._asked = folder, tuple(answered), tuple(asked)
        self._kept, self._processes = kept, processes
        self.failed_epoch_K = torch.tensor([-1 if each.failure is None else 0 for each in answered])

    @property
    def num_models(self) -> int:
        return len(self._fits)

    @property
    def architecture_name(self) -> str:
        return self._making.name

    @property
    def num_parameters(self) -> int | None:
        """The nodes of the trees of the first model; None where it has none, or they are not known."""
        structure = self.structures[0]
        return None if structure is None else structure.num_nodes

    @property
    def size_unit(self) -> str:
        return "nodes" if self.num_parameters is not None else "parameters"

    @property
    def kind(self) -> ModelKind:
        return kind_of_estimator(new_estimator(self._making.make, None))

    @property
    def trained_by(self) -> Literal["run"]:
        return "run"

    @property
    def structures(self) -> tuple[Structure | None, ...]:
        """The leaves of each model; None where they are not known, or were not asked for."""
        return tuple(each.structure for each in self._answered)

    @property
    def failure(self) -> str | None:
        """Why the first model of those that could not be fitted was not, a clause; None where all were."""
        return next((each.failure for each in self._answered if each.failure is not None), None)

    @property
    def atoms(self) -> int | None:
        """Into how many steps votes divide a probability; None where they are no votes, or models differ."""
        atoms = {each.atoms for each in self._answered if each.failure is None}
        return atoms.pop() if len(atoms) == 1 else None

    @property
    def method(self) -> str:
        """By which they answer."""
        return next((each.method for each in self._answered if each.failure is None), "predict_proba")

    def _observed(
        self, population: Population, wanted_KN: Tensor, room: Room, answered: Callable[[int], object]
    ) -> Signals:
        """The logarithms of the answers, or numbers (`answers.Way`); NaN for a model that could not be fitted.

        Raises:
            InputError: an estimator does not take the records, or the answers fit neither memory nor disk.
        """
        shape = (self.num_models, 1, len(population), population.num_classes)
        log_KANC = room.empty(shape, device=population.device).fill_(torch.nan)
        left: list[int] = []
        for k, each in enumerate(self._answered):
            index = wanted_KN[k].nonzero().squeeze(1)
            if each.failure is None and not self._fill(log_KANC[k], k, population, index):
                left.append(k)
            else:
                answered(len(index))
        if left:
            self._ask(log_KANC, left, population, wanted_KN, answered)
        form = AnswerForm(kind="labels") if self.shows_labels_alone and population.task.has_classes else AnswerForm()
        return Signals(log_probability_KANC=log_KANC, form=form, room=room, atoms=self.atoms, task=population.task)

    @property
    def shows_labels_alone(self) -> bool:
        """Whether they answer with a class or with labels, and no probability of them."""
        return self._kind_of_fits.outputs != "numbers" and self.method == "predict"

    def _fill(self, log_ANC: Tensor, k: int, population: Population, index: Tensor) -> bool:
        """Whether the model was asked about these records when it was fitted."""
        same = population.x_N is self._population.x_N
        if not same or not bool(torch.isin(index, self._asked[k]).all()):
            return False
        log_nC = np.load(answers_path(self._folder, self._fits[k].number), mmap_mode="r")
        place = torch.searchsorted(self._asked[k], index)
        log_ANC[0, index.to(log_ANC.device)] = torch.from_numpy(log_nC[place.numpy()]).to(log_ANC)
        return True

    def _ask(
        self,
        log_KANC: Tensor,
        left: Sequence[int],
        population: Population,
        wanted_KN: Tensor,
        answered: Callable[[int], object],
    ) -> None:
        """Ask the models `left` about other records than when they were fitted."""
        chosen = torch.zeros(self.num_models, dtype=torch.bool)
        chosen[[*left]] = True
        models = None if self._kept is None else self._kept.models.select(chosen)
        kept = KeptAnswers.of(models, population, wanted_KN[chosen])
        missing = []
        for place, k in enumerate(left):
            found = None if kept is None else kept.read_one(place, 1, log_KANC.shape[-1])
            if found is None:
                missing.append((place, k))
            else:
                log_KANC[k][:, wanted_KN[k].nonzero().squeeze(1).to(log_KANC.device)] = found.to(log_KANC)
        if not missing:
            return
        with tempfile.TemporaryDirectory(prefix="mia-records-") as folder:
            records = records_of(population, Path(folder) / "records", normalised=self._making.normalised)
            calls = []
            for _, k in missing:
                if self._kept is not None:
                    self._kept.fetch(k, self._fits[k].path)
                calls.append((self._fits[k], records, wanted_KN[k].nonzero().squeeze(1).numpy()))
            place_of = {self._fits[k].number: (place, k) for place, k in missing}
            for each in in_pool(fit_and_answer, (self._kind_of_fits,), calls, processes=self._processes):
                place, k = place_of[each.number]
                if each.log_nC is None:
                    raise InputError(f"The estimator {self._making.name} does not answer ({each.failure}); change it.")
                log_nC = torch.from_numpy(each.log_nC)
                log_KANC[k, 0, wanted_KN[k].nonzero().squeeze(1).to(log_KANC.device)] = log_nC.to(log_KANC)
                if kept is not None and not kept.models.store.is_read_only:
                    kept.keep_one(place, log_nC[None])
                answered(len(log_nC))

    def select(self, kept_K: Tensor) -> "EstimatorModels":
        """The models where the bool mask is True."""
        kept = self._kept
        if kept is not None:
            kept = replace(kept, key_K=tuple(compress(kept.key_K, kept_K.tolist())))
        return EstimatorModels(
            self._making,
            self._kind_of_fits,
            [*compress(self._fits, kept_K.tolist())],
            self._population,
            self._folder,
            [*compress(self._answered, kept_K.tolist())],
            [*compress(self._asked, kept_K.tolist())],
            kept=kept,
            processes=self._processes,
        )

    def save(self, path: Path) -> None:
        """Refuses: an estimator is kept as a pickle alone."""
        raise InputError(
            f"`save_models` is true, but estimators cannot be written to {path.name}; set it to false, and "
            "store.estimators=true to keep them as pickles in the store."
        )

    def identity(self) -> Identity:
        """The key of the first model in the store; None without one."""
        return None if self._kept is None else self._kept.key_K[0]


def fit_estimators(
    making: Making,
    engine: Engine,
    population: Population,
    records_K: Sequence[Tensor],
    asked_KN: Tensor,
    *,
    role: str,
    looks_at_leaves: bool = True,
) -> EstimatorModels:
    """Fit an estimator on the records of each model, in a pool of processes, and ask it about records.

    Model k is a function of its records, of what is made and of (seed, role, k): not of the number of processes.
    What the store holds is not fitted.

    Args:
        records_K: int64, the training records of each.
        asked_KN: bool, the records that each is asked about.
        role: of the models, such as "shadow".
        looks_at_leaves: whether `structures` are asked for, as they are of targets.

    Raises:
        InputError: what is made does not answer as the task asks, does not take the records, or a process ended.
    """
    making.check(population.task.outputs)
    folder = Path(tempfile.mkdtemp(prefix="mia-estimators-"))
    population = population.to("cpu")
    records = records_of(population, folder / "records", normalised=making.normalised)
    kind = replace(_kind(making, records, population), looks_at_leaves=looks_at_leaves)
    weakref.finalize(kind, shutil.rmtree, folder, ignore_errors=True)  # which all selections of the models share
    fits = [
        _fit(k, derive(engine.seed, "estimator", role, k), population, index_n, path=str(folder / f"{k}.fitted"))
        for k, index_n in enumerate(records_K)
    ]
    remark = engine.stages.remark
    kept = kept_fits(
        engine.store,
        making.make,
        fits,
        population,
        role=role,
        seed=engine.seed,
        how=[making.normalised, making.weighs_leaves],
        tell=remark,
    )
    asked = [asked_N.nonzero().squeeze(1) for asked_N in asked_KN.cpu()]
    fitting = Fitting(making, engine, kind, fits, folder, asked, kept, role)
    answered = fitting.run(KeptAnswers.of(None if kept is None else kept.models, population, asked_KN.cpu()))
    if records.layout.is_table and not takes_table(new_estimator(making.make, None)):
        remark(
            f"{role}: {making.name} takes no columns by name: a ColumnTransformer that is fitted on each model's own "
            "training records gives it one-hot categories, and medians in the place of missing numbers.",
            kind="note",
        )
    models = EstimatorModels(
        making, kind, fits, population, folder, answered, asked, kept=kept, processes=fitting.processes
    )
    _say_method(models, remark, role)
    return models


def _kind(making: Making, records: RecordFiles, population: Population) -> FitKind:
    return FitKind(
        make=making.unfitted,
        records=records,
        num_outputs=population.num_classes,
        outputs=population.task.outputs,
        weighs_leaves=making.weighs_leaves,
    )


def _fit(number: int, seed: int, population: Population, index_n: Tensor, *, path: str) -> Fit:
    """A fit on these records of the population, which is on the CPU."""
    weight_N = population.weight_N
    return Fit(
        number=number,
        seed=seed,
        index_n=index_n.numpy(),
        label_n=population.label_N[index_n].numpy(),
        path=path,
        weight_n=None if weight_N is None else weight_N[index_n].numpy(),
    )


def seconds_of_a_fit(making: Making, population: Population, index_n: Tensor) -> float:
    """How long one takes here and now, with its answers for all records; nothing is kept.

    Raises:
        InputError: it cannot be fitted.
    """
    population = population.to("cpu")
    with tempfile.TemporaryDirectory(prefix="mia-estimators-") as folder:
        records = records_of(population, Path(folder) / "records", normalised=making.normalised)
        fit = _fit(0, 0, population, index_n, path="")
        kind = _kind(making, records, population)
        answered = fit_and_answer(kind, fit, records, np.arange(len(population)), True)
    if answered.failure is not None:
        raise InputError(
            f"The estimator {making.name} could not be fitted ({answered.failure}); change its parameters."
        )
    return answered.seconds


def _say_method(models: EstimatorModels, remark: Callable[..., object], role: str) -> None:
    name = models.architecture_name
    if models.method == "decision_function":
        remark(f"{role}: {name} has no predict_proba: its scores are taken for logits.", kind="note")
    elif models.shows_labels_alone:
        remark(f"{role}: {name} has neither predict_proba nor decision_function: it shows labels alone.", kind="note")
