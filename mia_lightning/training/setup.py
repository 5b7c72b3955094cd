"""What the targets and the shadow models of a run have in common, so that these imitate those."""

from dataclasses import dataclass

from mia_lightning.datasets.population import Population
from mia_lightning.membership import Membership
from mia_lightning.training.engine import Engine
from mia_lightning.training.estimators.estimators import fit_estimators
from mia_lightning.training.estimators.making import Making
from mia_lightning.training.job import TrainingJob
from mia_lightning.training.models import Models
from mia_lightning.training.stack.architecture import Architecture
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.step.recipe import Recipe


@dataclass(frozen=True, eq=False, kw_only=True)
class Setup:
    """One architecture and recipe, or one kind of estimator; one population, and who trains on which of its records.

    Attributes:
        said: how the models are made and trained, where that is the user's own code: sentences for the report.
        ignored: sentences about settings without effect.
        estimators: what is fitted in the place of networks; None for networks.
    """

    engine: Engine
    make_network: MakeNetwork
    architecture: Architecture
    recipe: Recipe
    population: Population
    membership: Membership
    said: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    estimators: Making | None = None

    def train(self, rows: slice, role: str) -> Models:
        """The models of these rows of the membership, trained on their members."""
        if self.estimators is None:
            return self.engine.run(self.job(rows, role))
        membership = self.membership
        is_target = rows == membership.targets and not membership.leaves_one_out
        num_models = len(membership.block_K[rows])
        return fit_estimators(
            self.estimators,
            self.engine,
            self.population,
            membership.records_of(rows),
            membership.asked_N.expand(num_models, -1) if is_target else membership.asked_of_shadows(compared=True),
            role=role,
            looks_at_leaves=is_target or membership.leaves_one_out,
        )

    def job(self, rows: slice, role: str) -> TrainingJob:
        """The training of the models of these rows on their members."""
        membership = self.membership
        records_K = membership.records_of(rows)
        response = None
        if self.recipe.own is None:  # which compares with the labels as they are
            response = self.population.task.response(self.population.label_N, records_K)
        return TrainingJob(
            seed=self.engine.seed,
            role=role,
            make_network=self.make_network,
            architecture=self.architecture,
            population=self.population,
            records_K=records_K,
            recipe=self.recipe,
            validation_N=membership.validation_N if len(membership.validation_N) else None,
            response_KN=None if response is None else response.truth_KN,
            buffers={} if response is None else response.buffers,
            keep=True,
        )
