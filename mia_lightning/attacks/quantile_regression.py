"""Quantile regression of Bertran et al., "Scalable membership inference attacks via quantile regression" (2023)."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from statistics import NormalDist

import torch
from torch import Tensor

from mia_lightning.attacks.attack_p import check_population
from mia_lightning.attacks.decisions import POPULATION, LearntThreshold
from mia_lightning.attacks.description import DescribedByTask
from mia_lightning.attacks.interface import Evidence, Needs
from mia_lightning.attacks.statistics import scaled_logit
from mia_lightning.datasets.form import one_tensor
from mia_lightning.datasets.population import Population
from mia_lightning.datasets.vectors import Vectors
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.models.shapes import Activation
from mia_lightning.seeds import generator
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AttackName, Between0And1, Widths
from mia_lightning.shadows.domain import row_blocks
from mia_lightning.tasks import Task
from mia_lightning.training.engine import Engine
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.signals import Signals
from mia_lightning.training.stack.architecture import bind_shapes
from mia_lightning.training.step.recipe import EarlyStopping, Recipe
from mia_lightning.training.trained import TrainedStack

# Below this there is nothing to fit a regressor to and to stop it on.
FEWEST_RECORDS = 10
# The deviation that a network can put out, in deviations of all its responses: from e^-4 to e^4.
_LOG_RANGE = 4.0


def default_training() -> Recipe:
    """How regressors are trained unless the configuration says otherwise."""
    return Recipe(
        epochs=100,
        batch_size=100,
        optimizer=partial(torch.optim.AdamW, lr=2e-3, weight_decay=1e-2),
        early_stopping=EarlyStopping(patience=3),
        chunk=64,
    )


@settings("attack.{name}")
class QuantileRegression(DescribedByTask):
    """Score: how far the target's answer for a record is above what it would be had the target not trained on it.

    For each target anew a network learns, on population records, a normal distribution of the scaled logit φ given the
    record and its class; of other tasks, of `Task.one_number` given the record and its label. The score is in standard
    deviations of that distribution, from its mean; larger for members. All networks are one stack.

    Attributes:
        alpha: the false-positive rate of the operating point: flagged is what exceeds the predicted quantile.
        held_out: share of the population records on which networks are stopped early, where `training` does so.
        hidden, activation: of the networks (`mia_lightning.models.mlp.MLP`), which see flattened records.
        training: of the networks; its objective is this attack's.
    """

    name: AttackName = "quantile_regression"
    alpha: Between0And1 = 0.1
    held_out: Between0And1 = 0.2
    hidden: Widths = (64,)
    activation: Activation = "relu"
    training: Recipe = field(default_factory=default_training)

    def __post_init__(self) -> None:
        if self.training.augment:
            raise InputError(
                f"`attack.{self.name}.training.augment` is set, but attack networks see no images; leave it []."
            )

    def described(self, task: Task) -> str:
        return (
            f"How far {task.wording.one_number} is above what a network ({'-'.join(map(str, self.hidden)) or 'no'} "
            "hidden units), fitted on population records under this target, predicts of the record, in predicted "
            f"standard deviations; flags above the predicted quantile of {1 - self.alpha:g}."
        )

    @property
    def needs(self) -> Needs:
        return Needs(shadows=False, population=True)

    def num_training_records(self, num_population: int) -> int:
        """Of so many population records, those that are not held out for early stopping."""
        if self.training.early_stopping is None:
            return num_population
        return num_population - min(num_population - 1, max(1, round(self.held_out * num_population)))

    def fit(self, shadows: Evidence, engine: Engine) -> "FittedQuantileRegression":
        """Nothing is learnt yet: networks are trained for each target, when it is scored.

        Raises:
            DoesNotApplyError: the population is too small.
        """
        check_population(self.name, shadows, fewest=FEWEST_RECORDS)
        return FittedQuantileRegression(
            attack=self,
            engine=engine,
            population=shadows.population,
            index_P=shadows.population_N.nonzero().squeeze(1),
            threshold=LearntThreshold(NormalDist().inv_cdf(1 - self.alpha), POPULATION),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedQuantileRegression:
    """The population records (`index_P`, int64) that networks will be trained on."""

    attack: QuantileRegression
    engine: Engine
    population: Population
    index_P: Tensor
    threshold: float
    remarks: tuple[str, ...] = ()

    def score(self, signals: Signals, label_N: Tensor) -> Tensor:
        """(φ − μ(x, y)) / σ(x, y), `[T, N]` float64; μ and σ from a network that is trained here, on this target.

        Larger for members. The score of a target does not depend on the targets beside it. A network whose loss was not
        finite predicts the mean and the standard deviation of all population records.
        """
        logit_TN = scaled_logit(signals, label_N)
        logit_TP = logit_TN[:, self.index_P.to(logit_TN.device)]
        mean_T1 = logit_TP.mean(1, keepdim=True)
        std_T1 = logit_TP.std(1, keepdim=True, correction=0)
        std_T1 = torch.where(std_T1 > 0, std_T1, 1.0)
        records = self._records()
        networks = self._train(records, ((logit_TP - mean_T1) / std_T1).to(records.device))
        mean_TN, deviation_TN = self._predict(networks, records, label_N)
        return (((logit_TN - mean_T1) / std_T1).to(mean_TN.device) - mean_TN).div(deviation_TN).to(logit_TN.device)

    @cached_property
    def _vectors(self) -> Vectors:
        return Vectors.of(self.population, self.index_P)

    def _records(self) -> Population:
        """The population records as networks see them, scaled by what is known of these records alone."""
        index_P = self.index_P.to(self.population.device)
        x_PF = features(self.population, index_P, self.population.label_N[index_P], self._vectors)
        std_F = x_PF.std(0, correction=0)
        return Population(
            name=f"{self.attack.name} records",
            x_N=x_PF,
            label_N=torch.zeros_like(index_P),
            class_names=("mean", "log deviation"),  # what a network puts out
            mean=x_PF.mean(0),
            std=torch.where(std_F > 1e-6, std_F, 1.0),
        )

    def _train(self, records: Population, response_TP: Tensor) -> TrainedStack:
        attack, engine = self.attack, self.engine
        T, P = response_TP.shape
        order_P = torch.randperm(P, generator=generator(engine.seed, "attack", attack.name, "held out"))
        num_held_out = P - attack.num_training_records(P)
        validation_P, train_P = order_P[:num_held_out], order_P[num_held_out:]
        mlp = partial(MLP, hidden=attack.hidden, activation=attack.activation)
        networks = engine.run(
            TrainingJob(
                seed=engine.seed,
                role=f"attack/{attack.name}",
                make_network=bind_shapes(mlp, records.input_shape, 2),
                population=records,
                records_K=[train_P] * T,
                recipe=replace(attack.training, objective=gaussian_loss),
                models=[0] * T,  # one seed for all, so that a target's place among others does not matter
                validation_N=validation_P.to(records.device) if num_held_out else None,
                response_KN=response_TP.to(torch.float32),
            )
        )
        failed = (networks.failed_epoch_K >= 0).nonzero().flatten().tolist()
        if failed:
            engine.stages.remark(
                f"{attack.name}: the loss of the networks of the targets {failed} was not finite: their records are "
                "compared with the population as a whole."
            )
        return networks

    @torch.inference_mode()
    def _predict(self, networks: TrainedStack, records: Population, label_N: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[T, N]` of the response, float64, on the device of the networks."""
        stack, population = networks.stack.eval(), self.population
        records = records.to(stack.device)
        parts = []
        for row_B in row_blocks(len(label_N), stack.num_models * records.x_N.shape[1], population.device):
            x_BF = features(population, row_B, label_N.to(row_B.device)[row_B], self._vectors)
            x_BF = one_tensor(records.normalised(x_BF.to(records.device), stack.dtype))
            parts.append(torch.stack(mean_and_deviation(stack(x_BF, shared=True).double())))
        mean_TN, deviation_TN = torch.cat(parts, dim=-1)
        failed_T1 = (networks.failed_epoch_K >= 0).to(mean_TN.device)[:, None]
        return mean_TN.masked_fill(failed_T1, 0.0), deviation_TN.masked_fill(failed_T1, 1.0)


def features(population: Population, index_B: Tensor, label_B: Tensor, vectors: Vectors | None = None) -> Tensor:
    """`[B, F + C]` float32: the records as vectors, and beside them 1 for the record's class, else 0; of other tasks
    the labels.

    By default they are normalised and flattened.
    """
    x_BF = (vectors or Vectors.of(population))(index_B)
    label_BX = population.task.features(label_B, population.num_classes)
    return torch.cat([x_BF, label_BX.to(x_BF)], dim=1)


def mean_and_deviation(output_KB2: Tensor) -> tuple[Tensor, Tensor]:
    """What a network says of the response, `[K, B]` each."""
    mean_KB, raw_KB = output_KB2.unbind(-1)
    return mean_KB, torch.exp(_LOG_RANGE * torch.tanh(raw_KB / _LOG_RANGE))


def gaussian_loss(output_KB2: Tensor, response_KB: Tensor) -> Tensor:
    """Minus the log density of the response, `[K, B]` in nats, less a constant (Bertran et al. 2023, section 3)."""
    mean_KB, deviation_KB = mean_and_deviation(output_KB2)
    return deviation_KB.log() + ((response_KB - mean_KB) / deviation_KB).square() / 2
