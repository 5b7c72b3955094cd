"""How an estimator is made for one model: anew, seeded by name, with one thread, and with columns that it can take.

No torch, so that the processes of the pool start quickly.
"""

import copy
import hashlib
import inspect
import random
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mia_lightning.errors import InputError, first_line, one_line
from mia_lightning.training.estimators.frames import Layout
from mia_lightning.training.estimators.pool import refused_by_pool
from mia_lightning.training.plan.cores import available_cores

ANSWERS = ("predict_proba", "decision_function", "predict")
"""The methods that answer, the most telling one first."""

Outputs = Literal["classes", "labels", "numbers"]
"""What answers stand for, as of a task."""

_SEEDS = ("random_state", "random_seed")
_THREADS = ("n_jobs", "nthread", "thread_count", "num_threads")
_FILES = ("allow_writing_files",)  # into the current folder, where the processes of a pool would write over each other
_LONGEST = 120  # characters of a description


@dataclass(frozen=True, eq=False, kw_only=True)
class Making:
    """How the estimators of a role are made and fitted.

    Attributes:
        make: an estimator that is cloned, fitted or not, or a function or class that makes one.
        normalised: whether records without named columns are scaled and normalised first.
        processes: how many fit at the same time; None for one on each core.
        weighs_leaves: whether single trees are smoothed by the records in a leaf, which can be done to a target alone
            that is at hand itself; else as one vote.
    """

    make: Any
    normalised: bool = False
    weighs_leaves: bool = True
    processes: int | None = None

    @property
    def name(self) -> str:
        """What reports call the estimators."""
        return described(self.make)

    def check(self, outputs: Outputs | None = None) -> None:
        """Refuse what makes no estimator that answers so.

        Args:
            outputs: what answers must stand for; None where that is not known yet.

        Raises:
            InputError: as `new_estimator`.
        """
        new_estimator(self.make, outputs)

    @property
    def takes_weights(self) -> bool:
        """Whether records can be weighted in a fit."""
        return weights_keyword(new_estimator(self.make, None)) is not None

    @property
    def unfitted(self) -> Any:
        """What makes them, small enough to be sent to other processes: without what it has learnt."""
        return new_estimator(self.make, None) if is_estimator(self.make) else self.make

    @property
    def num_processes(self) -> int:
        """How many fit at the same time, where there are as many to be fitted."""
        return self.processes or available_cores()

    def used(self, tell: Callable[[str], object]) -> int:
        """How many processes are used: one for what cannot be sent to another process, which is said."""
        processes = self.num_processes
        reason = refused_by_pool(self.unfitted) if processes > 1 else None
        if reason is not None:
            tell(
                f"The estimator {self.name} cannot be sent to other processes ({reason}), so that all are fitted in "
                "this one, one after the other; give a function of a module to use all cores."
            )
            return 1
        return processes


def is_estimator(value: object) -> bool:
    """Whether it is an object, no class, that can be fitted and asked."""
    return not isinstance(value, type) and _fits_and_answers(value)


def makes_estimator(value: object) -> bool:
    """Whether it is a class of such objects."""
    return isinstance(value, type) and _fits_and_answers(value)


def _fits_and_answers(value: object) -> bool:
    return callable(getattr(value, "fit", None)) and any(_will_have(value, method) for method in ANSWERS)


def _will_have(value: object, method: str) -> bool:
    """Whether it has a method, or may have it once it is fitted, as an ensemble that asks its fitted last part."""
    if hasattr(value, method):
        return True
    is_known = _is_classifier(value) or _is_regressor(value)
    return is_known and hasattr(type(value), method) and not hasattr(value, "steps")


def is_fitted(estimator: object) -> bool:
    """Whether it has learnt its classes, as a classifier has after `fit`; of a regressor, whether it has learnt."""
    try:
        return getattr(estimator, "classes_", None) is not None or (_is_regressor(estimator) and _has_learnt(estimator))
    except Exception:  # such as the NotFittedError of a property
        return False


def new_estimator(make: Any, outputs: Outputs | None = "classes") -> Any:
    """An estimator that is not fitted: a clone of one, or what a function or class makes.

    Args:
        outputs: what it must answer with; None for whatever it does.

    Raises:
        InputError: it cannot be made, answers with something else, or lacks `fit` or an answer.
    """
    what = f"`estimator` {_name(make)}"
    if isinstance(make, str):
        raise InputError(
            f"`estimator` is the text {make!r}; give an estimator or, on the command line, its class by "
            "target.estimator._target_=, such as sklearn.ensemble.RandomForestClassifier."
        )
    try:
        made = _cloned(make) if is_estimator(make) else make() if callable(make) else make
    except InputError:
        raise
    except Exception as error:  # of a constructor or a function of the user's own
        raise InputError(
            f"{what} makes no estimator ({type(error).__name__}: {first_line(error)}); give an estimator that is not "
            "fitted, or a function without arguments that returns one."
        ) from error
    if not callable(getattr(made, "fit", None)):
        raise InputError(
            f"{what} gives a {type(made).__name__}, which has no `fit`; give an estimator of scikit-learn."
        )
    if not any(_will_have(made, method) for method in ANSWERS):
        raise InputError(
            f"{what} gives a {type(made).__name__}, which has none of {', '.join(ANSWERS)}; give a classifier."
        )
    if outputs is not None:
        _check_outputs(made, outputs, f"{what} gives a {type(made).__name__}")
    return made


def _check_outputs(made: Any, outputs: Outputs, what: str) -> None:
    if outputs == "classes" and _is_regressor(made):
        raise InputError(f"{what}, which predicts numbers; give a classifier.")
    if outputs == "numbers" and (_is_classifier(made) or not _will_have(made, "predict")):
        raise InputError(f"{what}, which predicts classes, and the records have numbers; give a regressor.")
    if outputs in ("classes", "numbers") and _learns_without_labels(made):
        kind = "classifier" if outputs == "classes" else "regressor"
        raise InputError(f"{what}, which learns nothing of labels; give a {kind}.")
    if outputs == "labels" and not _takes_labels(made):
        raise InputError(
            f"{what}, which takes one label for each record, and the records have several; give a forest, a tree or "
            "neighbours, or wrap it, as in sklearn.multioutput.MultiOutputClassifier(...)."
        )


def weights_keyword(estimator: Any) -> str | None:
    """The keyword by which its `fit` takes weights of records; None where it takes none."""
    from sklearn.utils.validation import has_fit_parameter

    if has_fit_parameter(estimator, "sample_weight"):
        return "sample_weight"
    if hasattr(estimator, "steps"):
        name, last = estimator.steps[-1]
        inner = weights_keyword(last)
        return None if inner is None else f"{name}__{inner}"
    is_search = hasattr(estimator, "estimator") and hasattr(estimator, "refit")  # which hands on what it is given
    return weights_keyword(estimator.estimator) if is_search else None


def ready(make: Any, layout: Layout, seed: int) -> Any:
    """A new estimator for records of this layout: every part of it is seeded by name and uses one thread."""
    made = new_estimator(make, None)
    if layout.is_table and not takes_table(made):
        made = with_columns(made, layout)
    changed: dict[str, int | bool | None] = {}
    parameters = _parameters(made)
    for name in sorted({*parameters, *_left_out(made, parameters)}):
        owner, _, last = name.rpartition("__")
        if last in _SEEDS:
            changed[name] = _seed_of(seed, name)
        elif last in _THREADS:
            # None is one thread in scikit-learn, where some warn of any number, and all of them elsewhere.
            package = type(parameters[owner] if owner else made).__module__.partition(".")[0]
            changed[name] = None if package == "sklearn" else 1
        elif last in _FILES:
            changed[name] = False
    if changed:
        made.set_params(**changed)
    return made


def takes_table(estimator: Any) -> bool:
    """Whether it is a Pipeline, or a search over one, and so takes columns by their names."""
    if hasattr(estimator, "steps"):
        return True
    inner = getattr(estimator, "estimator", None)
    return inner is not None and takes_table(inner)


def with_columns(estimator: Any, layout: Layout) -> Any:
    """A Pipeline that makes numbers of the columns: one-hot categories, and medians in the place of missing numbers.

    It is fitted on the training records of its model alone.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder

    F, M = len(layout.numbers), len(layout.categories)
    parts = []
    if F:
        parts.append(("numbers", SimpleImputer(strategy="median", keep_empty_features=True), list(range(F))))
    if M:
        encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        parts.append(("categories", encoder, list(range(F, F + M))))
    return Pipeline([("columns", ColumnTransformer(parts)), ("estimator", estimator)])


def described(make: Any) -> str:
    """What reports call the estimator: its class, with the parameters that differ from their defaults."""
    made = new_estimator(make, None)
    text = one_line(" ".join(repr(made).split()))
    if text.startswith("<") or len(text) > _LONGEST:
        steps = getattr(made, "steps", None)
        inner = "" if not steps else " of " + ", ".join(type(step).__name__ for _, step in steps)
        return f"{type(made).__name__}{inner}"[:_LONGEST]
    return text


@contextmanager
def seeded_alone(seed: int) -> Iterator[list[str]]:
    """Within the context the global generators are seeded, one thread works, and warnings are collected."""
    from threadpoolctl import threadpool_limits

    numpy_state, python_state = np.random.get_state(), random.getstate()
    said: list[str] = []
    try:
        np.random.seed(seed % 2**32)
        random.seed(seed)
        with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
            said += dict.fromkeys(
                f"{each.category.__name__}: {first_line(Warning(str(each.message)))}" for each in caught
            )
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _cloned(estimator: Any) -> Any:
    from sklearn.base import clone

    try:
        return clone(estimator)
    except (TypeError, RuntimeError):  # it has no `get_params`, or changes what it is given
        if is_fitted(estimator):
            raise
        return copy.deepcopy(estimator)


def _parameters(estimator: Any) -> Mapping[str, Any]:
    if not hasattr(estimator, "get_params") or not hasattr(estimator, "set_params"):
        return {}
    return estimator.get_params(deep=True)  # type: ignore[no-any-return]  # of scikit-learn


def _left_out(estimator: Any, parameters: Mapping[str, Any]) -> list[str]:
    """Seeds, threads and files that `get_params` does not name, and the constructor takes, as CatBoost's does.

    Of several names for one thing the first, and none where one was given.
    """
    found = []
    parts = {"": estimator, **{f"{name}__": part for name, part in parameters.items() if not isinstance(part, type)}}
    for owner, part in parts.items():
        taken = _arguments(part) if hasattr(part, "get_params") and hasattr(part, "set_params") else ()
        for alike in (_SEEDS, _THREADS, _FILES):
            if not any(f"{owner}{name}" in parameters for name in alike):
                found += [f"{owner}{name}" for name in alike if name in taken][:1]
    return found


def _arguments(part: Any) -> Collection[str]:
    try:
        return inspect.signature(type(part)).parameters
    except (TypeError, ValueError):  # of a class that does not say
        return ()


def _seed_of(seed: int, name: str) -> int:
    """In [0, 2**31), which every library takes."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest(), "little") >> 33


def _is_regressor(estimator: Any) -> bool:
    from sklearn.base import is_classifier, is_regressor

    try:
        return is_regressor(estimator) and not is_classifier(estimator)
    except Exception:  # of another library, which has no tags
        return getattr(estimator, "_estimator_type", None) == "regressor"


def _is_classifier(estimator: Any) -> bool:
    from sklearn.base import is_classifier

    try:
        return bool(is_classifier(estimator))
    except Exception:  # of another library, which has no tags
        return getattr(estimator, "_estimator_type", None) == "classifier"


def _learns_without_labels(estimator: Any) -> bool:
    """Whether it is one of scikit-learn's that groups records, estimates densities, or finds outliers."""
    for _ in range(8):  # deep enough for any nesting in use
        steps = getattr(estimator, "steps", None)
        inner = steps[-1][1] if steps else getattr(estimator, "estimator", None)
        if inner is None:
            break
        estimator = inner
    is_of_sklearn = type(estimator).__module__.partition(".")[0] == "sklearn"
    return is_of_sklearn and not _is_classifier(estimator) and not _is_regressor(estimator)


def as_taken(estimator: Any, label_n: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Labels, or numbers, as its `fit` takes them: `[n, L]`, or `[n]` of a single one where it takes it so.

    Labels are int64, since some count below 0 with them.
    """
    tags = _tags(estimator)
    label_n = label_n.astype(np.int64) if label_n.dtype.kind == "u" else label_n
    if label_n.size != len(label_n):
        return label_n
    return label_n.reshape(-1) if tags is None or tags.target_tags.single_output else label_n.reshape(-1, 1)


def _takes_labels(estimator: Any) -> bool:
    """Whether it can be fitted to several labels of 0 and 1; True where it does not say."""
    tags = _tags(estimator)
    if tags is None:
        return True
    of_classifier = tags.classifier_tags
    return of_classifier is not None and bool(of_classifier.multi_label or tags.target_tags.multi_output)


def _tags(estimator: Any) -> Any:
    """What it says of itself; None where it is of another library, and says nothing."""
    from sklearn.utils import get_tags

    try:
        return get_tags(estimator)
    except Exception:  # of an object that only looks like an estimator
        return None


def _has_learnt(estimator: Any) -> bool:
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(estimator)  # raises where it has not
    return True


def _name(make: Any) -> str:
    return str(getattr(make, "__qualname__", None) or type(make).__name__)
