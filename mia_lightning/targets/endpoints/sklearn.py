"""An estimator of scikit-learn, or any object with `predict_proba` or `predict`, asked in this process."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError, first_line
from mia_lightning.membership import Membership
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import PathLike
from mia_lightning.store.identity import NoIdentityError, digest, identity
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.in_process import IN_PROCESS, RecordIntake, classes_of
from mia_lightning.targets.endpoints.interface import Endpoint, RawAnswer
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.endpoints.own_classes import ClassNames, Labels, label_places, places
from mia_lightning.targets.fitted import FittedEstimator
from mia_lightning.training.estimators.answers import Votes, smoothed, votes_of
from mia_lightning.training.estimators.kind import kind_of_estimator
from mia_lightning.training.estimators.leaves import Structure, structure_of
from mia_lightning.training.estimators.making import Making, is_estimator
from mia_lightning.training.models import ModelKind, Models
from mia_lightning.training.setup import Setup


@settings("target")
class Sklearn(EndpointTarget):
    """A fitted estimator of scikit-learn, or anything with its `predict_proba` or `predict`.

    Under a task without classes it is a regressor, or a classifier of several labels.

    Attributes:
        estimator: the fitted object itself; in a configuration `_target_` names a function that returns it.
        path: a file that `joblib.dump` or `pickle.dump` wrote; exclusive with `estimator`.
        allow_pickle: whether `path` may be read, which runs whatever code is in it.
        normalised: whether it takes records as the networks of this run do, in place of those of the data set.
    """

    estimator: Any = None
    path: PathLike | None = None
    allow_pickle: bool = False
    normalised: bool = False
    asking: Asking = field(default_factory=lambda: IN_PROCESS)
    labels_are_places: ClassVar[bool] = True
    takes_named: ClassVar[bool] = True
    takes_other_tasks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (self.estimator is None) == (self.path is None):
            both = "neither" if self.path is None else "both"
            raise InputError(
                f"target=sklearn has {both} of `target.estimator` and `target.path`; give one of them, such as "
                "target.estimator={_target_:my_model.fitted}."
            )

    @property
    def sees_normalised(self) -> bool:
        return self.normalised

    @property
    def takes_gaps(self) -> bool:
        return True

    @property
    def own_kind(self) -> Making | None:
        """Clones of it; None where it is no estimator that can be cloned."""
        fitted = self._fitted
        if not is_estimator(fitted) or not hasattr(fitted, "get_params"):
            return None
        return Making(make=fitted, normalised=self.normalised)

    def _records(self, population: Population) -> RecordIntake:
        return RecordIntake(population=population if self.normalised or population.form is not None else None)

    @property
    def _fitted(self) -> Any:
        return self.estimator if self.path is None else self._loaded[0]

    @cached_property
    def _loaded(self) -> tuple[Any, str]:
        """The estimator in the file, and a hash of the file."""
        assert self.path is not None
        return load_pickle(Path(self.path), is_allowed=self.allow_pickle)

    def names_classes(self, class_names: Sequence[str]) -> bool:
        classes = np.asarray(getattr(self._fitted, "classes_", ()), dtype=object).tolist()
        is_named = self.asking.labels != "places" and bool(classes) and not any(map(np.ndim, classes))
        known = ClassNames(class_names)
        return super().names_classes(class_names) or (
            is_named and all(known.find(each) is not None for each in classes)
        )

    def structures(
        self, models: Models, population: Population, membership: Membership
    ) -> tuple[Structure | None, ...]:
        """Of the estimator itself, over the records that it was trained on."""
        if self.own_kind is None:
            return ()
        member_n = membership.member_KN[0].nonzero().squeeze(1).to(population.device)
        records = self._records(population)
        x_n = records.given(population.x_N[member_n].cpu())
        return (structure_of(self._fitted, x_n, population.label_N[member_n].cpu().numpy()),)

    def obtain(self, setup: Setup) -> Models:
        """The estimator, of which only answers are known; where there are no classes, the numbers or labels of it.

        Raises:
            InputError: as `connect`, or it does not answer as the task asks.
        """
        task, own = setup.population.task, self.own_kind
        if task.has_classes:
            return super().obtain(setup)
        if self.asking.classes is not None:
            raise InputError(
                f"`target.asking.classes` names classes, and under task={task.name} there are none; leave it null."
            )
        _check_fitted(self._fitted, f"The estimator {self._place}")
        if own is not None:
            own.check(task.outputs)
        return FittedEstimator(
            self._fitted,
            self._place if own is None else own.name,
            setup.population,
            setup.membership,
            kind=self.kind or kind_of_estimator(self._fitted),
            normalised=self.normalised,
            smooths=setup.estimators is not None,
        )

    @property
    def _place(self) -> str:
        return type(self.estimator).__name__ if self.path is None else Path(self.path).name

    def asked_again(self, models: Models, setup: Setup) -> Models | None:
        """The same model anew, so that what is asked is not counted."""
        return self.obtain(setup)

    def known_kind(self, endpoint: Endpoint) -> ModelKind:
        assert isinstance(endpoint, EstimatorEndpoint)
        return kind_of_estimator(endpoint.estimator)

    def connect(self, setup: Setup) -> "EstimatorEndpoint":
        """The estimator, read if need be.

        Raises:
            InputError: it cannot be read, is no fitted classifier, or has other classes than the data set.
        """
        if self.path is None:
            estimator, what = self.estimator, {"estimator": _digest_of(self.estimator)}
        else:
            estimator, sha256 = self._loaded
            what = {"sha256": sha256}
        return EstimatorEndpoint(
            estimator,
            classes_of(self.asking, setup),
            place=self._place,
            identity=what,
            records=self._records(setup.population),
            labels=self.asking.labels,
            smooths=setup.estimators is not None,
        )


class EstimatorEndpoint:
    """A fitted estimator (`mia_lightning.targets.endpoints.interface.Endpoint`).

    Records are flattened to `[B, features]`; those with named columns are a table.

    Args:
        estimator: with `predict_proba`, whose answers are probabilities, or else `predict`, whose answers are labels.
        class_names: the classes in the order of the answers.
        place: what messages and reports call it.
        identity: what it is, as JSON.
        records: as they are, or normalised.
        labels: what its labels are, where they are whole numbers.
        smooths: whether shares of votes are smoothed, as those of shadow models that are estimators.

    Raises:
        InputError: it is not fitted, has neither method, or has classes that are none of `class_names`.
    """

    protocol = "sklearn"

    def __init__(
        self,
        estimator: Any,
        class_names: Sequence[str],
        *,
        place: str,
        identity: Mapping[str, object],
        records: RecordIntake | None = None,
        labels: Labels = "auto",
        smooths: bool = False,
    ) -> None:
        self._smooths = smooths
        self._votes: Votes | None = None
        self.place, self._records = place, records or RecordIntake()
        self._what = f"The estimator {place}"
        self.estimator, self._class_names, self._labels = estimator, tuple(class_names), labels
        self._gives_probabilities = callable(getattr(estimator, "predict_proba", None))
        if not self._gives_probabilities and not callable(getattr(estimator, "predict", None)):
            raise InputError(
                f"{self._what} ({type(estimator).__name__}) has neither predict_proba nor predict; "
                "give a fitted classifier in `target.estimator`."
            )
        _check_fitted(estimator, self._what)
        classes = getattr(estimator, "classes_", None)
        known = None if classes is None else np.asarray(classes).tolist()
        self._places = None if known is None else places(known, self._class_names, self._what, labels)
        self._place_of = None if known is None else dict(zip(known, self._places or (), strict=True))
        self._identity = {
            "protocol": self.protocol,
            **identity,
            **self._records.identity,
            "class_names": list(self._class_names),
            "labels": labels,
            **({"smoothed": True} if smooths else {}),
        }

    @property
    def identity(self) -> Mapping[str, object]:
        """The content of the estimator."""
        return self._identity

    def ask(self, x_B: Tensor) -> Sequence[RawAnswer]:
        """Probabilities in the order of `class_names`, 0 for classes that the estimator never saw; or numbers of
        classes.

        Raises:
            InputError: it does not take the records, or does not give one answer for each.
        """
        x_BF = self._records.given(x_B)
        method = "predict_proba" if self._gives_probabilities else "predict"
        try:
            answer = getattr(self.estimator, method)(x_BF)
        # An estimator may raise anything, and scikit-learn mostly raises plain ValueErrors.
        except Exception as error:
            raise InputError(
                f"{self._what} does not take records of {self._records.describe(x_BF)} "
                f"({type(error).__name__}: {first_line(error)}); fit it on records of the data "
                "set, as they are in memory."
            ) from error
        given = np.asarray(answer)
        if self._gives_probabilities:
            return self._probabilities(given, x_BF)
        return self._read_labels(given, len(x_BF))

    def close(self) -> None:
        """Nothing is open."""

    def _probabilities(self, given: Any, x_BF: Any) -> list[list[float]]:
        B = len(x_BF)
        if self._is_single(given, B):
            return self._of_one(given.reshape(B, 1))
        if given.ndim != 2 or len(given) != B or given.dtype.kind != "f":
            raise self._no_answer("predict_proba", given, f"[{B}, classes]")
        if self._places is None:
            return self._smoothed(given, x_BF)
        if given.shape[1] != len(self._places):
            raise self._no_answer("predict_proba", given, f"[{B}, {len(self._places)}], by its classes_")
        answer_BC = np.zeros((B, len(self._class_names)), given.dtype)
        answer_BC[:, self._places] = given
        return self._smoothed(answer_BC, x_BF)

    def _smoothed(self, share_BC: Any, x_BF: Any) -> list[list[float]]:
        if self._smooths:
            self._votes = self._votes or votes_of(self.estimator, x_BF)
            share_BC = smoothed(self.estimator, self._votes, share_BC, x_BF)
        return share_BC.tolist()  # type: ignore[no-any-return]  # of numpy

    def _is_single(self, given: Any, B: int) -> bool:
        """Whether one probability is given for two classes."""
        return len(self._class_names) == 2 and given.shape in ((B,), (B, 1)) and given.dtype.kind == "f"

    def _of_one(self, given_B1: Any) -> list[list[float]]:
        """The probability of its second class, or of both classes where its order is not that of `class_names`."""
        if self._places == [1, 0]:
            given_B1 = np.concatenate([given_B1, 1 - given_B1], axis=1)
        return given_B1.tolist()  # type: ignore[no-any-return]  # of numpy

    def _read_labels(self, given: Any, B: int) -> Sequence[RawAnswer]:
        if self._is_single(given, B) and (given % 1 != 0).any():
            return self._of_one(given.reshape(B, 1))  # some libraries answer predict with probabilities
        if given.shape != (B,):
            raise self._no_answer("predict", given, f"[{B}]")
        if self._place_of is None:
            return [*label_places(given, self._class_names, self._what, self._labels)]
        unknown = next((each for each in given.tolist() if each not in self._place_of), None)
        if unknown is not None:
            raise InputError(
                f"{self._what} answers predict with {unknown!r}, which is none of its own classes_; give a classifier "
                "whose labels these are."
            )
        return [self._place_of[each] for each in given.tolist()]

    def _no_answer(self, method: str, given: Any, wanted: str) -> InputError:
        return InputError(
            f"{self._what} answers {method} with {given.dtype} of shape {list(given.shape)} instead of {wanted}; "
            "give a classifier with one label for each record."
        )


def _digest_of(estimator: Any) -> str:
    """A hash of its content; where the content cannot be told a new one, under which no answers are kept yet."""
    try:
        return digest(identity(estimator))
    except NoIdentityError:
        return uuid4().hex


def _check_fitted(estimator: Any, what: str) -> None:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(estimator, BaseEstimator):
        return  # another library has its own way to say that an estimator is not fitted
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise InputError(
            f"{what} ({type(estimator).__name__}) is not fitted; let `target.estimator` name a function that returns "
            "one after its `fit`, or give `target.path`."
        ) from error


def load_pickle(path: Path, *, is_allowed: bool) -> tuple[Any, str]:
    """What `joblib.dump` or `pickle.dump` wrote, and the SHA-256 of the file.

    Raises:
        InputError: it is not allowed, the file is not there, or cannot be read.
    """
    if not is_allowed:
        raise InputError(
            f"`target.path` {path} is a pickle, and reading one runs whatever code its author put into it, with your "
            "rights on this machine; where you trust the file as you trust a program, set target.allow_pickle=true, "
            "else export the model to ONNX (target=onnx) or build it in a function (target.estimator)."
        )
    if not path.is_file():
        raise InputError(f"`target.path` {path} is not a file; give a fitted estimator written by joblib or pickle.")
    import joblib

    try:
        return joblib.load(path), hashlib.sha256(path.read_bytes()).hexdigest()
    except Exception as error:  # a pickle may raise anything: its code may be missing, or it may be damaged
        raise InputError(
            f"`target.path` {path} cannot be read ({type(error).__name__}: {first_line(error)}); install the "
            "packages that it was made with, in the same versions, or write it anew with joblib.dump."
        ) from error
