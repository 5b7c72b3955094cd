"""Estimators in the store: what was found out about each, and its answers; never the estimator, unless
`store.estimators` asks for it."""

import importlib.metadata
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from mia_lightning.datasets.population import Population
from mia_lightning.store.artefacts import Artefact, Store
from mia_lightning.store.documents import DamagedError
from mia_lightning.store.identity import Identity, NoIdentityError, digest, identity
from mia_lightning.training.estimators.fitting import Answered, Fit
from mia_lightning.training.estimators.leaves import Structure
from mia_lightning.training.estimators.making import new_estimator
from mia_lightning.training.kept_answers import InStore

# Increased when an estimator of the same description answers otherwise than before.
SCHEMA = 1
_FOUND = ("atoms", "method", "said", "seconds")


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptFits:
    """The fits of a role in the store.

    Attributes:
        store: keeps them.
        stack: the hash of what they have in common.
        key_K: of each.
        common: what they have in common.
        tell: is given a sentence where something was damaged.
    """

    store: Store
    stack: str
    key_K: tuple[str, ...]
    common: Mapping[str, Identity]
    tell: Callable[[str], object]

    @property
    def models(self) -> InStore:
        """By which their answers are kept."""
        return InStore(store=self.store, key_K=self.key_K, tell=self.tell)

    def find(self, k: int) -> Answered | None:
        """What was found out about a model, without its answers; None where it was not fitted yet."""
        return self.store.read(self._place(k), partial(_found, k), tell=self.tell)

    def keep(self, answered: Answered, path: str) -> None:
        """Keep what was found out about a model that could be fitted.

        Args:
            path: of the file of the fitted estimator.
        """
        if self.store.is_read_only or answered.failure is not None:
            return
        if not self.store.has(f"stacks/{self.stack}"):
            self.store.put(f"stacks/{self.stack}", self.common)
        structure = None if answered.structure is None else asdict(answered.structure)
        found = {name: getattr(answered, name) for name in _FOUND} | {"structure": structure}
        keeps = self.store.estimators and Path(path).exists()
        write = (lambda to: shutil.copyfile(path, to)) if keeps else None
        self.store.put(self._place(answered.number), {"estimator": {**found, "said": list(answered.said)}}, write)

    def fetch(self, k: int, path: str) -> None:
        """Put the fitted estimator to a path, where the store keeps it and `store.estimators` says so."""
        if self.store.estimators and not Path(path).exists():
            artefact = self.store.get(self._place(k), tell=self.tell)
            if artefact is not None and artefact.content is not None:
                shutil.copyfile(artefact.content, path)

    def _place(self, k: int) -> str:
        return f"models/{self.stack}/{self.key_K[k]}"


def kept_fits(
    store: Store | None,
    make: Any,
    fits: Sequence[Fit],
    population: Population,
    *,
    role: str,
    seed: int,
    how: Sequence[bool],
    tell: Callable[[str], object],
) -> KeptFits | None:
    """Where the fits are found and kept; None for nowhere, which `tell` is told if that is for lack of an identity.

    Args:
        how: whether records are normalised, and whether leaves are weighed.
    """
    if store is None:
        return None
    try:
        common = _common(make, population, role=role, seed=seed, how=how)
    except NoIdentityError as error:
        tell(f"{role}: nothing is kept in the store, since it cannot be said what {error} in the estimator is.")
        return None
    stack = digest(common)
    digest_N = population.record_digests()
    keys = tuple(digest([stack, fit.seed, identity(digest_N[fit.index_n]), *_labels(fit)]) for fit in fits)
    return KeptFits(store=store, stack=stack, key_K=keys, common=common, tell=tell)


def _labels(fit: Fit) -> list[Identity]:
    """What a fit depends on beside the records as they are: their labels and weights."""
    return [identity(each) for each in (fit.label_n, fit.weight_n) if each is not None]


def _common(make: Any, population: Population, *, role: str, seed: int, how: Sequence[bool]) -> dict[str, Identity]:
    made = new_estimator(make, None)
    constants = [population.scale, population.mean, population.std] if how[0] else None
    form = None if population.form is None else population.form.described()
    return {
        "schema": SCHEMA,
        "role": role,
        "seed": seed,
        "model": {"make": None if type(make) is type(made) else identity(make), "estimator": identity(made)},
        "versions": _versions(made),
        "dataset": {
            "classes": population.num_classes,
            "form": identity(form),
            "constants": identity(constants),
            "how": [*how],
        },
    }


def _versions(made: Any) -> dict[str, str]:
    """Of the packages whose classes the estimator and its parts are of."""
    parameters = made.get_params(deep=True) if hasattr(made, "get_params") else {}
    packages = {type(each).__module__.partition(".")[0] for each in (made, *parameters.values())}
    names = importlib.metadata.packages_distributions()
    return {
        name: importlib.metadata.version(name)
        for package in sorted({*packages, "numpy", "sklearn"})
        for name in sorted({*names.get(package, ())})
    }


def _found(k: int, artefact: Artefact) -> Answered:
    given = artefact.fields.get("estimator")
    names = {each.name for each in fields(Structure)}
    try:
        assert isinstance(given, Mapping)
        structure = given["structure"]
        assert structure is None or set(structure) == names
        return Answered(
            number=k,
            atoms=given["atoms"],
            method=given["method"],
            said=tuple(given["said"]),
            seconds=given["seconds"],
            structure=None if structure is None else Structure(**structure),
        )
    except (AssertionError, KeyError, TypeError) as error:
        raise DamagedError("says nothing of an estimator") from error
