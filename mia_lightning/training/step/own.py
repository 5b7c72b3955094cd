"""How a recipe says that models are trained by their LightningModule's own code."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OwnTraining:
    """Loss, optimiser and schedule are those of the module's own `training_step` and `configure_optimizers`.

    Attributes:
        name: of the LightningModule's class.
        l2: λ of a penalty λ Σ θ² over the parameters that the optimiser moves, beside the module's own loss.
    """

    name: str
    l2: float = 0.0
