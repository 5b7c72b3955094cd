"""What endpoints in this process have in common: how they are asked, and how they take records."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mia_lightning.datasets.form import one_tensor
from mia_lightning.datasets.population import Population
from mia_lightning.store.identity import digest_of_tensor
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.training.setup import Setup

# Answers cost nothing, do not change, and either come at once or never.
IN_PROCESS = Asking(batch_size=1024, concurrency=1, retries=0, sentinels=0)


def classes_of(asking: Asking, setup: Setup) -> tuple[str, ...]:
    """The classes in the order of the answers."""
    return setup.population.class_names if asking.classes is None else tuple(asking.classes)


@dataclass(frozen=True, eq=False, kw_only=True)
class Records:
    """How a model in this process takes records: as they are, or normalised.

    Attributes:
        population: by whose constants they are normalised; None for records as they are.
    """

    population: Population | None = None

    def array(self, x_B: Tensor) -> np.ndarray[Any, Any]:
        """`[B, *features]`, in float32 where they are normalised or numpy does not know their type."""
        if self.population is not None:
            return one_tensor(self.population.normalised(x_B)).numpy()
        try:
            return x_B.numpy()
        except TypeError:  # bfloat16
            return x_B.float().numpy()

    @property
    def identity(self) -> Mapping[str, object]:
        """What answers depend on beside the model, as JSON."""
        if self.population is None:
            return {"normalised": False}
        constants = {"mean": self.population.mean, "std": self.population.std}
        of_tensors = {name: None if value is None else digest_of_tensor(value) for name, value in constants.items()}
        return {"normalised": True, "scale": self.population.scale, **of_tensors}
