"""What the answers of an estimator of several labels stand for: the log probability of each label. No torch.

Such an estimator gives a list with the probabilities of each label's two states, as forests and neighbours of
scikit-learn do, or one array with a number for each label. The states of a label are one vote: (v + 1/2) / (votes + 1).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mia_lightning.errors import InputError
from mia_lightning.training.estimators.answers import (
    HIDDEN,
    SMALLEST,
    TRIED,
    Votes,
    Way,
    answering,
    votes_alone,
    votes_of,
    weights_of,
)
from mia_lightning.training.estimators.frames import Array
from mia_lightning.training.estimators.making import ANSWERS

_OFF, _ON = 0, 1


@dataclass(frozen=True, kw_only=True)
class LabelsWay(Way):
    """How a fitted estimator of L labels is asked.

    Attributes:
        seen_l: by label, the states that its training records had: (0, 1), or one of them alone.
    """

    column_c: tuple[int, ...] = ()
    votes: Votes = field(default_factory=Votes)
    seen_l: tuple[tuple[int, ...], ...]

    def answers(self, estimator: Any, x_B: Any, num_outputs: int, known_c: Sequence[int]) -> Array:
        """Log probabilities of each label, in nats, float32 `[B, L]`, below 0.

        Scores of `decision_function` are taken for logits. A state that an estimator without votes never saw gets the
        share of one record, 1 / (n + 2). An answer of states alone gives `HIDDEN` to the other state.

        Raises:
            InputError: an answer is no probability of each label.
        """
        given = getattr(estimator, self.method)(x_B)
        if self.method == "decision_function":
            score_BL = _array(given, estimator, self, len(x_B))
            log_BL = -np.logaddexp(0.0, -score_BL)
        else:
            share_BL = self._shares(given, estimator, x_B)
            log_BL = np.log(share_BL.clip(SMALLEST, 1.0))
        answer_BL: Array = np.clip(log_BL, np.log(SMALLEST), -SMALLEST).astype(np.float32)
        return answer_BL

    def _shares(self, given: Any, estimator: Any, x_B: Any) -> Array:
        if self.method == "predict":
            return np.where(_array(given, estimator, self, len(x_B)) > 0, 1 - HIDDEN, HIDDEN)
        share_BL = _probabilities(given, estimator, self, len(x_B))
        if self.votes.are_votes:
            weight = weights_of(estimator, x_B) if self.votes.trees else np.float64(self.votes.atoms or 1)
            return (weight * share_BL + 0.5) / (weight + 1)
        unseen = 1 / (self.num_records + 2)
        for place, seen in enumerate(self.seen_l):
            if len(seen) == 1:
                share_BL[:, place] = unseen if seen[0] == _OFF else 1 - unseen
        return share_BL


def way_of_labels(estimator: Any, x_n: Any, label_nL: Array, *, weighs_leaves: bool = True) -> LabelsWay:
    """The way of an estimator that was fitted on records with these labels.

    Args:
        x_n: its training records, or some of them.
        label_nL: 0 and 1, `[n, L]`: of all its training records.
        weighs_leaves: as of `answers.way_of`.

    Raises:
        InputError: its classes are not 0 and 1, or it does not answer with a probability of each label.
    """
    method = next(each for each in ANSWERS if hasattr(estimator, each))
    seen_l = tuple(tuple(int(each) for each in np.unique(label_n)) for label_n in label_nL.T)
    way = LabelsWay(method=method, num_records=len(label_nL), seen_l=seen_l)
    if method != "predict_proba":
        return way
    _probabilities(estimator.predict_proba(x_n[:1]), estimator, way, 1)
    votes = _votes(estimator, x_n[:TRIED], way)
    return LabelsWay(
        method=method,
        num_records=len(label_nL),
        seen_l=seen_l,
        votes=votes if weighs_leaves else Votes(atoms=votes.atoms),
    )


def _probabilities(given: Any, estimator: Any, way: LabelsWay, B: int) -> Array:
    """The probability of each label, float64 `[B, L]`."""
    L = len(way.seen_l)
    if L == 1 and np.ndim(given) == 2:
        given = [given]
    share_BL = np.stack(_of_each(given, estimator, L), 1) if isinstance(given, list) else np.array(given, np.float64)
    if share_BL.shape != (B, L) or not np.isfinite(share_BL).all() or (share_BL < 0).any() or (share_BL > 1).any():
        raise _refusal(estimator, way, share_BL, L)
    return share_BL


def _of_each(given: Sequence[Any], estimator: Any, L: int) -> list[Array]:
    """Of a list with the probabilities of the states of each label, `[B, 1]` or `[B, 2]`, those of its being on."""
    known = _classes(estimator, L)
    if len(given) != L:
        raise InputError(
            f"{type(estimator).__name__}.predict_proba gives probabilities of {len(given)} labels, and the records "
            f"have {L}; give an estimator of as many."
        )
    shares = []
    for place, each in enumerate(given):
        share_Bc = np.asarray(each, np.float64)
        states = (_OFF, _ON) if known is None else known[place]
        if share_Bc.ndim != 2 or share_Bc.shape[1] != len(states):
            raise InputError(
                f"{type(estimator).__name__}.predict_proba gives an array of shape {list(share_Bc.shape)} for label "
                f"{place}, which is no probability of each of its states, {list(states)}; give an estimator whose "
                "labels are 0 and 1."
            )
        is_on = [state == _ON for state in states]
        shares.append(share_Bc[:, is_on].sum(1))
    return shares


def _classes(estimator: Any, L: int) -> list[tuple[int, ...]] | None:
    """The states that the columns of each label stand for; None where the estimator does not say.

    Raises:
        InputError: they are not 0 and 1.
    """
    own = getattr(estimator, "classes_", None)
    if own is None:
        return None
    each = [own] if L == 1 and np.ndim(own[0]) == 0 else list(own)
    wrong = next((states for states in each if not np.isin(np.asarray(states), (_OFF, _ON)).all()), None)
    if wrong is not None:
        raise InputError(
            f"The {type(estimator).__name__} has the classes {np.asarray(wrong).tolist()!r:.100} for a label, and not "
            "0 and 1; give an estimator that was fitted on such labels."
        )
    return [tuple(int(state) for state in states) for states in each]


def _array(given: Any, estimator: Any, way: LabelsWay, B: int) -> Array:
    """One number for each label, float64 `[B, L]`."""
    L = len(way.seen_l)
    number_BL = np.asarray(given)
    number_BL = number_BL.reshape(B, 1) if L == 1 and number_BL.size == B else number_BL
    if number_BL.shape != (B, L) or number_BL.dtype.kind not in "fiub" or not np.isfinite(number_BL).all():
        raise _refusal(estimator, way, number_BL, L)
    return number_BL.astype(np.float64)


def _refusal(estimator: Any, way: LabelsWay, given: Array, L: int) -> InputError:
    return InputError(
        f"{type(estimator).__name__}.{way.method} gives {given.dtype} of shape {list(given.shape)}, which is no "
        f"probability of each of {L} labels; give an estimator of several labels, such as "
        "sklearn.multioutput.MultiOutputClassifier."
    )


def _votes(estimator: Any, x_B: Any, way: LabelsWay) -> Votes:
    """How the probabilities come about; some records show whether it is the mean of its parts."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of names of columns
            inner, x_B = answering(estimator, x_B)
            alone = votes_alone(inner)
            return _votes_of_parts(inner, x_B, len(way.seen_l)) if alone is None else alone
    except Exception:  # of an object that only looks like an ensemble
        return Votes()


def _votes_of_parts(estimator: Any, x_B: Any, L: int) -> Votes:
    parts = getattr(estimator, "estimators_", None)
    if parts is None or not all(hasattr(part, "predict_proba") for part in parts):
        return Votes()
    of_parts = [part.predict_proba(x_B) for part in parts]
    if len(parts) == L and not isinstance(of_parts[0], list):  # an estimator for each label
        atoms = {votes_of(part, x_B).atoms for part in parts}
        return Votes(atoms=atoms.pop() if len(atoms) == 1 else None)
    of_labels = zip(*map(_listed, of_parts), strict=True)
    whole = zip(_listed(estimator.predict_proba(x_B)), of_labels, strict=True)
    is_mean = all(np.allclose(np.mean(each, 0), own, atol=1e-6) for own, each in whole)
    return Votes(atoms=len(parts) if is_mean else None)


def _listed(given: Any) -> list[Any]:
    """With an array for each label, where there is one for a single label."""
    return given if isinstance(given, list) else [given]
