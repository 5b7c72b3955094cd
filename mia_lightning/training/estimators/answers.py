"""What an estimator's answers stand for: the one place where they become log probabilities or numbers. No torch.

The votes of an ensemble have atoms: the share of its trees that vote for a class is a multiple of 1 / trees, and often
0 or 1. Shares are smoothed, (v + 1 / C) / (trees + 1), so that they add up to 1 and no class is impossible; with two
classes that is (v + 1/2) / (trees + 1). The trees of scikit-learn's forests do not vote for one class each: v is then
the sum of the shares of classes in their leaves, which are 0 or 1 where trees are grown to the end. A single tree is
smoothed by the number of training records in its leaf, nearest neighbours by their number.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mia_lightning.errors import InputError
from mia_lightning.training.estimators.frames import Array
from mia_lightning.training.estimators.making import ANSWERS

SMALLEST = float(np.finfo(np.float32).tiny)
"""What stands for a smaller probability, as for served models (`SMALLEST_PROBABILITY`)."""
HIDDEN = 1e-7
"""What stands for the probability of a class that an answer of labels alone does not name (`HIDDEN_PROBABILITY`)."""
TRIED = 32
"""Records on which an ensemble is compared with the mean of its parts."""
_LARGEST_SUM_ERROR = 1e-3


@dataclass(frozen=True, kw_only=True)
class Votes:
    """How the probabilities of an estimator come about.

    Attributes:
        atoms: into how many equal steps votes divide them; None where they are not votes.
        trees: whether it is a single tree, whose probabilities are shares of the records in a leaf.
    """

    atoms: int | None = None
    trees: bool = False

    @property
    def are_votes(self) -> bool:
        """Whether a probability is a share of votes or of records."""
        return self.trees or self.atoms is not None


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a fitted estimator is asked.

    Attributes:
        method: one of `ANSWERS`.
        column_c: the class for which each column of its answers stands.
        votes: how its probabilities come about.
        num_records: that it was trained on.
    """

    method: str
    column_c: tuple[int, ...]
    votes: Votes
    num_records: int

    def answers(self, estimator: Any, x_B: Any, num_outputs: int, known_c: Sequence[int]) -> Array:
        """As `log_probabilities`."""
        return log_probabilities(estimator, self, x_B, num_outputs, known_c)


@dataclass(frozen=True, kw_only=True)
class NumbersWay(Way):
    """How a fitted regressor is asked: by `predict`."""

    method: str = "predict"
    column_c: tuple[int, ...] = ()
    votes: Votes = field(default_factory=Votes)

    def answers(self, estimator: Any, x_B: Any, num_outputs: int, known_c: Sequence[int]) -> Array:
        """Its predictions in the unit of the labels, float32 `[B, D]`.

        Raises:
            InputError: they are not D finite numbers for each record.
        """
        given = np.asarray(estimator.predict(x_B))
        right = given.size == len(x_B) * num_outputs and len(given) == len(x_B) and given.dtype.kind in "fiub"
        if not right or not np.isfinite(given).all():
            raise InputError(
                f"{type(estimator).__name__}.predict gives {given.dtype} of shape {list(given.shape)}, which is not "
                f"{num_outputs} finite {'number' if num_outputs == 1 else 'numbers'} for each of {len(x_B)} records; "
                "give a regressor."
            )
        return given.reshape(len(x_B), num_outputs).astype(np.float32)


def way_of(estimator: Any, x_n: Any, class_n: Array, known_c: Sequence[int], *, weighs_leaves: bool = True) -> Way:
    """The way of an estimator that was fitted on records of the classes `class_n`, as it numbers them.

    Args:
        x_n: its training records.
        class_n: int `[n]`.
        known_c: by the number that the estimator was given, the class of the data set.
        weighs_leaves: whether a single tree is smoothed by the records in a leaf, and not as one vote.

    Raises:
        InputError: it has no `classes_`, and its answers do not show them, or has others than it was given.
    """
    method = next(each for each in ANSWERS if hasattr(estimator, each))
    own = getattr(estimator, "classes_", None)
    if own is None:
        own = np.unique(class_n)
        given = np.asarray(getattr(estimator, method)(x_n[:1]))
        width = given.shape[1] if given.ndim == 2 else 1 if method == "predict" else 2
        if method != "predict" and width != len(own):
            raise InputError(
                f"The {type(estimator).__name__} has no `classes_`, and gives {width} numbers for a record where it "
                f"was trained on {len(own)} classes; give an estimator that keeps its classes."
            )
    places = np.asarray(own)
    if places.ndim != 1 or not np.isin(places, np.arange(len(known_c))).all():
        raise InputError(
            f"The {type(estimator).__name__} has the classes {places.tolist()!r:.100}, which are not those that it was "
            "given; give a classifier with one label for each record."
        )
    votes = votes_of(estimator, x_n) if method == "predict_proba" else Votes()
    votes = votes if weighs_leaves else replace(votes, trees=False)
    return Way(
        method=method,
        column_c=tuple(known_c[int(place)] for place in places),
        votes=votes,
        num_records=len(class_n),
    )


def log_probabilities(estimator: Any, way: Way, x_B: Any, num_classes: int, known_c: Sequence[int]) -> Array:
    """Log probabilities of all classes of the data set, in nats, float32 `[B, C]`.

    Scores of `decision_function` are taken for logits. A class that an estimator without votes never saw gets the
    share of one record, 1 / (n + C). Labels alone give 0 for the class and `log(HIDDEN)` for the others.

    Raises:
        InputError: an answer is no distribution over the classes of the estimator.
    """
    given = np.asarray(getattr(estimator, way.method)(x_B))
    B, C, n = len(given), num_classes, way.num_records
    name = type(estimator).__name__
    if way.method == "predict":
        log_BC = np.full((B, C), np.log(HIDDEN))
        log_BC[np.arange(B), np.asarray(known_c)[given.reshape(B).astype(np.int64)]] = 0.0
        return log_BC.astype(np.float32)
    wide = given.astype(np.float64)
    share_Bc = _of_scores(wide) if way.method == "decision_function" else wide
    if share_Bc.shape == (B, len(way.column_c)) and not np.isfinite(share_Bc).all():
        count = int((~np.isfinite(share_Bc)).any(1).sum())
        raise InputError(
            f"{name}.{way.method} gives NaN or infinite numbers for {count} of {B} records; change its parameters, or "
            "leave these records out."
        )
    if share_Bc.shape != (B, len(way.column_c)) or (share_Bc < 0).any():
        raise InputError(
            f"{name}.{way.method} gives {given.dtype} of shape {list(given.shape)}, which is no distribution over its "
            f"{len(way.column_c)} classes; give a classifier with one label for each record."
        )
    if (np.abs(share_Bc.sum(1) - 1) > _LARGEST_SUM_ERROR).any():
        raise InputError(
            f"{name}.{way.method} gives probabilities that add up to {share_Bc.sum(1).min():.6g}; give a classifier "
            "with one label for each record."
        )
    share_BC = np.zeros((B, C))
    share_BC[:, way.column_c] = share_Bc
    if way.votes.are_votes:
        share_BC = smoothed(estimator, way.votes, share_BC, x_B)
    elif len(way.column_c) < C:
        absent_C = np.isin(np.arange(C), way.column_c, invert=True)
        share_BC = share_BC * ((n + C - absent_C.sum()) / (n + C)) + absent_C / (n + C)
    answer_BC: Array = np.log(share_BC.clip(SMALLEST, 1.0)).astype(np.float32)
    return answer_BC


def _of_scores(score: Array) -> Array:
    """Probabilities of scores `[B]`, logits of the second of two classes, or `[B, c]`."""
    if score.ndim == 1 or score.shape[1] == 1:
        score = np.stack([np.zeros(len(score)), score.reshape(-1)], 1)
    share = np.exp(score - score.max(1, keepdims=True))
    normalised: Array = share / share.sum(1, keepdims=True)
    return normalised


def answering(estimator: Any, x_B: Any) -> tuple[Any, Any]:
    """What answers inside Pipelines and searches, and the records as it sees them."""
    for _ in range(8):  # deep enough for any nesting in use
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "steps"):
            x_B = estimator[:-1].transform(x_B) if len(estimator.steps) > 1 else x_B
            estimator = estimator.steps[-1][1]
        else:
            break
    return estimator, x_B


def votes_of(estimator: Any, x_B: Any) -> Votes:
    """How the probabilities of a fitted estimator come about; some records show whether it is the mean of its parts."""
    x_B = x_B[:TRIED]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of names of columns
            return _votes_of(*answering(estimator, x_B))
    except Exception:  # of an object that only looks like an ensemble
        return Votes()


def votes_alone(estimator: Any) -> Votes | None:
    """Of a single tree, or of nearest neighbours that count the same; None for anything else."""
    if hasattr(estimator, "tree_"):
        leaf = estimator.tree_.value[estimator.tree_.children_left < 0]
        is_pure = bool((leaf.max(-1) >= leaf.sum(-1)).all())
        return Votes(atoms=1 if is_pure else None, trees=True)
    if getattr(estimator, "weights", None) == "uniform" and hasattr(estimator, "kneighbors"):
        return Votes(atoms=int(estimator.n_neighbors))
    return None


def _votes_of(estimator: Any, x_B: Any) -> Votes:
    alone = votes_alone(estimator)
    if alone is not None:
        return alone
    parts = getattr(estimator, "estimators_", None)
    if parts is None or not all(hasattr(part, "predict_proba") for part in parts):
        return Votes()
    if len(parts) == 1 and not hasattr(parts[0], "tree_"):  # a wrapper around one, such as OneVsRest of two classes
        return votes_of(parts[0], x_B)
    columns = getattr(estimator, "estimators_features_", [None] * len(parts))
    shares = [part.predict_proba(x_B if of is None else x_B[:, of]) for part, of in zip(parts, columns, strict=True)]
    is_mean = np.allclose(np.mean(shares, 0), estimator.predict_proba(x_B), atol=1e-6)
    return Votes(atoms=len(parts) if is_mean else None)


def smoothed(estimator: Any, votes: Votes, share_BC: Array, x_B: Any) -> Array:
    """Shares of votes, or of the records in a leaf, smoothed by one vote for all classes together; others as they are.

    Args:
        share_BC: over all classes.
        x_B: the records, by which the leaves of a single tree are found.
    """
    if not votes.are_votes:
        return share_BC
    weight_B = weights_of(estimator, x_B) if votes.trees else np.float64(votes.atoms or 1)
    smooth_BC: Array = (weight_B * share_BC + 1 / share_BC.shape[1]) / (weight_B + 1)
    return smooth_BC


def weights_of(estimator: Any, x_B: Any) -> Array:
    """How many training records are in the leaf of each record, `[B, 1]`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree, x_B = answering(estimator, x_B)
        records_B: Array = tree.tree_.n_node_samples[tree.apply(x_B)]
    return records_B[:, None].astype(np.float64)
