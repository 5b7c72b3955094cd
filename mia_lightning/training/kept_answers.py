"""The answers of models in the store, kept beside them, so that a further attack computes none."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress

from safetensors.torch import save_file
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.store.artefacts import Artefact, Store
from mia_lightning.store.documents import DamagedError
from mia_lightning.store.identity import Identity, digest, identity
from mia_lightning.store.tensors import tensors_of

_NAME = "log_probability_ANC"


@dataclass(frozen=True, eq=False, kw_only=True)
class InStore:
    """Where K models are kept.

    Attributes:
        store: keeps answers, too, if its settings say so.
        key_K: of the models.
        tell: is given a sentence where something was damaged.
        read_as: what their outputs are taken for, which changes their answers alone.
    """

    store: Store
    key_K: tuple[str, ...]
    tell: Callable[[str], object]
    read_as: Identity = None

    def select(self, kept_K: Tensor) -> "InStore":
        """The models where the bool mask is True."""
        return replace(self, key_K=tuple(compress(self.key_K, kept_K.tolist())))


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptAnswers:
    """The answers of K models for records of one population, in the store model by model.

    Attributes:
        models: whose answers they are.
        index_K: int64, the records that each model is asked about.
        asked_K: hash of these, in order, as networks see them.
    """

    models: InStore
    index_K: tuple[Tensor, ...]
    asked_K: tuple[str, ...]

    @classmethod
    def of(cls, models: InStore | None, population: Population, wanted_KN: Tensor) -> "KeptAnswers | None":
        """The answers for the records where the bool mask is True; None where the store keeps none."""
        if models is None or not models.store.answers:
            return None
        digest_N = population.record_digests()
        normalisation = identity([population.scale, population.mean, population.std])
        index_K = tuple(wanted_N.nonzero().squeeze(1).cpu() for wanted_N in wanted_KN)
        asked: dict[bytes, str] = {}  # models that are asked alike are many
        for index in index_K:
            key = index.numpy().tobytes()
            if key not in asked:
                records = hashlib.blake2b(digest_N[index.numpy()].data, digest_size=20).hexdigest()
                asked[key] = digest([records, normalisation, models.read_as])
        return cls(models=models, index_K=index_K, asked_K=tuple(asked[i.numpy().tobytes()] for i in index_K))

    @property
    def _places(self) -> list[str]:
        return [f"answers/{asked}/{key}" for asked, key in zip(self.asked_K, self.models.key_K, strict=True)]

    def read(self, log_probability_KANC: Tensor) -> bool:
        """Fill the array; False where an answer is missing, so that all must be computed."""
        store = self.models.store
        if not all(store.has(place) for place in self._places):
            return False
        A, _, C = log_probability_KANC.shape[1:]
        for k, (log_ANC, index) in enumerate(zip(log_probability_KANC, self.index_K, strict=True)):
            answer_AnC = self.read_one(k, A, C)
            if answer_AnC is None:
                return False
            log_ANC[:, index.to(log_ANC.device)] = answer_AnC.to(log_ANC)
        return True

    def read_one(self, k: int, num_views: int, num_classes: int) -> Tensor | None:
        """The answers of one model, `[A, n, C]`; None where they are missing."""
        shape = (num_views, len(self.index_K[k]), num_classes)
        return self.models.store.read(self._places[k], partial(_answer, shape), tell=self.models.tell)

    def keep(self, log_probability_KANC: Tensor) -> None:
        """Keep the answers that are not there yet, unless the store can be read alone."""
        if self.models.store.is_read_only:
            return
        for k, (log_ANC, index) in enumerate(zip(log_probability_KANC, self.index_K, strict=True)):
            if not self.models.store.has(self._places[k]):
                self.keep_one(k, log_ANC[:, index.to(log_ANC.device)])

    def keep_one(self, k: int, answer_AnC: Tensor) -> None:
        """Keep the answers of one model."""
        answer_AnC = answer_AnC.cpu().contiguous()
        key, asked = self.models.key_K[k], self.asked_K[k]
        fields = {"model": key, "records": asked, "shape": list(answer_AnC.shape)}
        self.models.store.put(self._places[k], fields, partial(save_file, {_NAME: answer_AnC}))


def _answer(shape: tuple[int, ...], artefact: Artefact) -> Tensor:
    tensors = {} if artefact.content is None else tensors_of(artefact.content)
    if _NAME not in tensors or tensors[_NAME].shape != shape:
        raise DamagedError("holds no answers for these records")
    return tensors[_NAME]
