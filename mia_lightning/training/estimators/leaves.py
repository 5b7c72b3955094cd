"""What the structure of a fitted estimator gives away by itself, as tabular disclosure control asks of it. No torch."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mia_lightning.training.estimators.answers import answering
from mia_lightning.training.estimators.frames import Array

FEWEST = 10
"""Members below which a group discloses its class."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """The leaves of one model's trees. A leaf with weights of records from a resample counts its distinct records.

    Attributes:
        num_trees: how many.
        num_leaves: of all trees, each of which is a parameter for each class but one.
        num_nodes: of all trees.
        num_records: that the model was trained on.
        alone: share of the training records that are alone in a leaf of some tree.
        disclosed: share of the training records in a leaf, of some tree, of one class, or one number, with fewer than
            `FEWEST` members and more than one.
    """

    num_trees: int
    num_leaves: int
    num_nodes: int
    num_records: int
    alone: float
    disclosed: float


def structure_of(estimator: Any, x_n: Any, label_n: Array) -> Structure | None:
    """Of a tree or an ensemble of trees of scikit-learn; None where it is not known.

    Args:
        x_n, label_n: the training records and their classes, labels `[n, L]`, or numbers `[n]` or `[n, D]`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inner, x_n = answering(estimator, x_n)
            trees = _trees(inner)
            if not trees:
                return None
            class_n = np.unique(label_n, axis=0, return_inverse=True)[1].reshape(-1)
            return _structure(trees, [np.asarray(tree.apply(x_n)) for tree in trees], class_n)
    except Exception:  # of an object that only looks like trees
        return None


def _trees(estimator: Any) -> list[Any]:
    if hasattr(estimator, "tree_"):
        return [estimator]
    parts = getattr(estimator, "estimators_", None)
    if parts is None or (hasattr(estimator, "estimators_features_") and _sees_part(estimator)):
        return []
    parts = [*np.asarray(parts, object).reshape(-1)]
    return parts if parts and all(hasattr(part, "tree_") for part in parts) else []


def _sees_part(estimator: Any) -> bool:
    """Whether its trees see some of the columns alone."""
    every = np.arange(estimator.n_features_in_)
    return any(not np.array_equal(of, every) for of in estimator.estimators_features_)


def _structure(trees: list[Any], leaf_Tn: list[Array], class_n: Array) -> Structure:
    n = len(class_n)
    is_alone_n, is_disclosed_n = np.zeros(n, bool), np.zeros(n, bool)
    for leaf_n in leaf_Tn:
        _, place_n, size_l = np.unique(leaf_n, return_inverse=True, return_counts=True)
        low_l = np.full(len(size_l), np.iinfo(np.int64).max)
        high_l = np.full(len(size_l), -1)
        np.minimum.at(low_l, place_n, class_n)
        np.maximum.at(high_l, place_n, class_n)
        is_alone_n |= (size_l == 1)[place_n]
        is_disclosed_n |= ((low_l == high_l) & (size_l > 1) & (size_l < FEWEST))[place_n]
    return Structure(
        num_trees=len(trees),
        num_leaves=int(sum(tree.tree_.n_leaves for tree in trees)),
        num_nodes=int(sum(tree.tree_.node_count for tree in trees)),
        num_records=n,
        alone=float(is_alone_n.mean()),
        disclosed=float(is_disclosed_n.mean()),
    )
