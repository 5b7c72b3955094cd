"""Made shadow records in the store, so that a target is asked for them once."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel
from safetensors.torch import save_file

from mia_lightning.datasets.population import Population
from mia_lightning.settings.kinds import AtLeast0
from mia_lightning.shadows.interface import Source, Synthesis
from mia_lightning.store.artefacts import Artefact, Store
from mia_lightning.store.documents import EXACT, DamagedError, understood
from mia_lightning.store.identity import Identity, NoIdentityError, digest, identity
from mia_lightning.store.tensors import tensors_of
from mia_lightning.training.models import Models

_TENSORS = ("x_M", "label_M", "yield_C", "wanted_C", "query_C")


class _Fields(BaseModel):
    model_config = EXACT

    num_queries: AtLeast0
    remarks: tuple[str, ...]
    made: Identity


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptSynthesis:
    """The shadow records of one source, target, channel, seed and attacker's records."""

    store: Store
    depends_on: Identity

    @classmethod
    def of(
        cls,
        store: Store | None,
        source: Source,
        targets: Models,
        channel: Sequence[object],
        known: Population,
        *,
        seed: int,
    ) -> "KeptSynthesis | None":
        """None without a store, for a target whose weights are not here, and where a setting has no identity."""
        if store is None or not targets.is_local:
            return None
        held = hashlib.blake2b(known.record_digests().data, digest_size=20)
        held.update(known.label_N.cpu().numpy().data)
        try:
            target = targets.identity()
            form = [known.scale, known.mean, known.std, known.class_names]
            settings = identity([source, list(channel), form, seed])
        except NoIdentityError:
            return None
        return cls(store=store, depends_on={"settings": settings, "target": digest(target), "held": held.hexdigest()})

    @property
    def _place(self) -> str:
        return f"syntheses/{digest(self.depends_on)}"

    def find(self, tell: Callable[[str], object]) -> Synthesis | None:
        """The kept records; None where there are none."""
        return self.store.read(self._place, _synthesis, tell=tell)

    def keep(self, synthesis: Synthesis) -> None:
        """Keep the records, unless the store can be read alone."""
        if self.store.is_read_only:
            return
        tensors = {name: getattr(synthesis, name) for name in _TENSORS}
        held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        fields = {"num_queries": synthesis.num_queries, "remarks": list(synthesis.remarks), "made": self.depends_on}
        self.store.put(self._place, fields, partial(save_file, held))


def _synthesis(artefact: Artefact) -> Synthesis:
    fields = understood(artefact.fields, _Fields)
    tensors = {} if artefact.content is None else tensors_of(artefact.content)
    if not {"x_M", "label_M", "yield_C"} <= tensors.keys() <= set(_TENSORS):
        raise DamagedError("holds no records")
    return Synthesis(**tensors, num_queries=fields.num_queries, remarks=fields.remarks)
