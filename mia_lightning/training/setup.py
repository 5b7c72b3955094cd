"""What the targets and the shadow models of a run have in common, so that the one imitates the other."""

from dataclasses import dataclass

from mia_lightning.datasets.population import Population
from mia_lightning.membership import Membership
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import Architecture
from mia_lightning.training.stack.stack import MakeNetwork
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trained import TrainedStack


@dataclass(frozen=True, eq=False, kw_only=True)
class Setup:
    """One architecture, one recipe, one population, and who trains on what of it."""

    engine: Engine
    make_network: MakeNetwork
    architecture: Architecture
    recipe: Recipe
    population: Population
    membership: Membership

    def train(self, rows: slice, role: str) -> TrainedStack:
        """The models of these rows of the plan, trained on their members."""
        plan = self.membership
        return self.engine.train(
            self.make_network,
            self.population,
            plan.records_of(rows),
            self.recipe,
            role=role,
            validation_N=plan.validation_N if len(plan.validation_N) else None,
            architecture=self.architecture,
            keep=True,
        )
