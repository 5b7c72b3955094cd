"""The answers of models in the store, kept beside them, so that a further attack computes none."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress

from safetensors.torch import load_file, save_file
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.store.artefacts import Store
from mia_lightning.store.identity import digest, identity

_NAME = "log_probability_ANC"


@dataclass(frozen=True, eq=False, kw_only=True)
class InStore:
    """Where K models are kept.

    Attributes:
        store: keeps answers, too, if its settings say so.
        key_K: of the models.
        tell: is given a sentence where something was damaged.
    """

    store: Store
    key_K: tuple[str, ...]
    tell: Callable[[str], object]

    def select(self, kept_K: Tensor) -> "InStore":
        """The models where the bool mask is True."""
        return replace(self, key_K=tuple(compress(self.key_K, kept_K.tolist())))


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptAnswers:
    """The answers of K models for the records of one population, in the store model by model.

    Attributes:
        models: whose answers they are.
        asked: hash of the records, in order, as networks see them.
    """

    models: InStore
    asked: str

    @classmethod
    def of(cls, models: InStore | None, population: Population) -> "KeptAnswers | None":
        """The answers; None where the store keeps none."""
        if models is None or not models.store.answers:
            return None
        records = hashlib.blake2b(population.record_digests().data, digest_size=20).hexdigest()
        normalisation = identity([population.scale, population.mean, population.std])
        return cls(models=models, asked=digest([records, normalisation]))

    def read(self, log_probability_KANC: Tensor) -> bool:
        """Fill the array; False where an answer is missing, so that all must be computed."""
        store, places = self.models.store, [f"answers/{self.asked}/{key}" for key in self.models.key_K]
        if not all(store.has(place) for place in places):
            return False
        for answer_ANC, place in zip(log_probability_KANC, places, strict=True):
            artefact = store.get(place, tell=self.models.tell)
            if artefact is None or artefact.content is None:
                return False
            try:
                answer_ANC.copy_(load_file(artefact.content)[_NAME])
            except FileNotFoundError:  # removed meanwhile by somebody who makes room
                return False
        return True

    def keep(self, log_probability_KANC: Tensor) -> None:
        """Keep the answers that are not there yet."""
        for answer_ANC, key in zip(log_probability_KANC, self.models.key_K, strict=True):
            place = f"answers/{self.asked}/{key}"
            if not self.models.store.has(place):
                fields = {"model": key, "records": self.asked, "shape": list(answer_ANC.shape)}
                self.models.store.put(place, fields, partial(save_file, {_NAME: answer_ANC.cpu().contiguous()}))
