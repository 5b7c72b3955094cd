"""Made shadow records in the store, so that a target is asked for them once."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from safetensors.torch import load_file, save_file
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.shadows.interface import Source, Synthesis
from mia_lightning.store.artefacts import Store
from mia_lightning.store.identity import Identity, NoIdentityError, digest, identity
from mia_lightning.training.models import Models

_TENSORS = ("x_M", "label_M", "yield_C", "wanted_C", "query_C")


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
        artefact = self.store.get(self._place, tell=tell)
        if artefact is None or artefact.content is None:
            return None
        try:
            tensors: dict[str, Tensor] = load_file(artefact.content)
        except FileNotFoundError:  # removed meanwhile by somebody who makes room
            return None
        return Synthesis(
            **{name: tensors[name] for name in _TENSORS if name in tensors},
            num_queries=artefact.fields["num_queries"],
            remarks=tuple(artefact.fields["remarks"]),
        )

    def keep(self, synthesis: Synthesis) -> None:
        tensors = {name: getattr(synthesis, name) for name in _TENSORS}
        held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        fields = {"num_queries": synthesis.num_queries, "remarks": list(synthesis.remarks), "made": self.depends_on}
        self.store.put(self._place, fields, partial(save_file, held))
