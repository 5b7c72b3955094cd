"""Records that may not be what they are taken for: columns of identifiers, labels that are measurements, and others."""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mia_lightning.errors import InputError, listed

_FEWEST = 20  # records, below which whole numbers differ by chance
_NEARLY = 0.95  # the part of different values that is nearly all
_SIGNIFICANT = 0.01
_SAMPLE = 256  # records that show whether a column is worth a look
_FEW_CLASSES = 20
_FEW_RECORDS = 5  # for each class
_CHANNELS = (1, 2, 3, 4)  # of an image: grey, with transparency, in colours
_MOST_ROUNDING = 0.01  # of the deviation of numbers
_COLUMNS = 4096  # at once: bounds memory, not results

Column = np.ndarray[Any, Any]


def looks_like_identifier(value_N: Column, label_N: Column) -> bool:
    """Whether whole numbers are all different, or nearly all and without relation to the label."""
    N = len(value_N)
    if N < _FEWEST or not np.isfinite(value_N).all() or not (value_N == np.floor(value_N)).all():
        return False
    some = value_N[:: max(1, N // _SAMPLE)][:_SAMPLE]  # most columns need no more
    if len(np.unique(some)) < _NEARLY * len(some):
        return False
    num = len(np.unique(value_N))
    if num < _NEARLY * N:
        return False
    return num == N or not _is_related(value_N, label_N)


def identifier_columns(x_NF: Column, label_N: Column) -> list[int]:
    """The places of the columns that look like identifiers; none if most do, since such are measurements."""
    some = x_NF[:: max(1, len(x_NF) // _SAMPLE)][:_SAMPLE]
    if x_NF.ndim != 2 or len(some) < _FEWEST or x_NF.dtype.kind not in "fiu":
        return []
    num_F = (np.diff(np.sort(some, axis=0), axis=0) != 0).sum(0) + 1
    worth = (num_F >= _NEARLY * len(some)).nonzero()[0].tolist()
    found = [j for j in worth if looks_like_identifier(x_NF[:, j], label_N)]
    return found if are_few(len(found), x_NF.shape[1]) else []


def is_coarse(value_N: Column) -> bool:
    """Whether float32 keeps so few digits of numbers that rounding shows beside their variation; gaps are let by."""
    return bool(_are_coarse(value_N[:, None])[0])


def coarse_columns(x_NF: Column) -> list[int]:
    """The places of the columns of which this is so, by a sample of the rows."""
    if x_NF.ndim != 2 or x_NF.dtype.kind not in "fiu" or x_NF.dtype.itemsize <= 2 or x_NF.dtype == np.float32:
        return []
    some = x_NF[:: max(1, len(x_NF) // _SAMPLE)]
    blocks = range(0, some.shape[1], _COLUMNS)
    return [start + int(j) for start in blocks for j in _are_coarse(some[:, start : start + _COLUMNS]).nonzero()[0]]


def _are_coarse(value_NF: Column) -> Column:
    if not len(value_NF):
        return np.zeros(value_NF.shape[1], dtype=bool)
    exact_NF = np.ma.masked_invalid(value_NF.astype(np.float64))
    with np.errstate(over="ignore"):  # of what `Population` refuses
        error_F = np.ma.abs(exact_NF - exact_NF.astype(np.float32)).max(0)
    differs_F = exact_NF.max(0) > exact_NF.min(0)
    coarse_F: Column = np.ma.filled(differs_F & (error_F > _MOST_ROUNDING * exact_NF.std(0)), False)
    return coarse_F


def about_rounding(names: Sequence[str], where: str, mend: str) -> str:
    """The sentence for the report on numbers that are coarse (`is_coarse`)."""
    some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return (
        f"{some} of {where} {'loses' if len(names) == 1 else 'lose'} digits that matter: float32, in which models are "
        f"given numbers, rounds by more than a hundredth of the deviation; subtract a public constant{mend}."
    )


def are_few(num: int, of: int) -> bool:
    """Whether so many columns may be identifiers, and not counts of some kind, as of a sensor."""
    return num <= max(3, of // 2)


def are_names(code_N: Column) -> bool:
    """Whether texts, each given by a number of its own, (nearly) all differ."""
    return len(code_N) >= _FEWEST and len(np.unique(code_N)) >= _NEARLY * len(code_N)


def about_identifiers(names: Sequence[str], where: str, mend: str, *, what: str = "whole numbers") -> str:
    """The sentence for the report; `what` are the values."""
    one = len(names) == 1
    some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return (
        f"{some} of {where} {'looks' if one else 'look'} like an identifier or an index: {what} that (nearly) "
        "all differ. Such a feature says nothing of other records, and may ruin the model or give its members away; "
        f"{mend}."
    )


def about_arrays(x: Any, label_N: Column, name: str) -> list[str]:
    """What the arrays look like, where they are taken for something else."""
    remarks, found = [], []
    if isinstance(x, Tensor):
        shape = tuple(x.shape)
        if x.ndim == 2 and x.device.type == "cpu" and x.dtype != torch.bfloat16:
            found = identifier_columns(x.detach().numpy(), label_N)
    else:
        x = np.asarray(x)
        shape, found = x.shape, identifier_columns(x, label_N)
    if found:
        columns = [f"Feature {column}" for column in found]
        remarks.append(about_identifiers(columns, f"population {name!r}", "leave it out"))
    coarse = [] if isinstance(x, Tensor) else coarse_columns(x)
    if coarse:
        remarks.append(about_rounding([f"Feature {j}" for j in coarse], f"population {name!r}", ""))
    if len(shape) == 4 and shape[3] in _CHANNELS and shape[1] not in _CHANNELS:
        channels, height, width = shape[1:]
        remarks.append(
            f"Records of population {name!r} have shape {shape[1:]}, which is taken for {channels} channels of "
            f"{height} x {width} pixels; if the last axis is that of the channels, give x.transpose(0, 3, 1, 2)."
        )
    return remarks


def about_classes(label_N: Column, class_names: Sequence[str], name: str) -> list[str]:
    """Which classes no record has, and which a single one."""
    count_C = np.bincount(label_N, minlength=len(class_names)).tolist()
    remarks = []
    alone = [each for each, count in zip(class_names, count_C, strict=True) if count == 1]
    if alone and len(label_N) >= _FEWEST:
        remarks.append(
            f"Class {listed(alone)} of population {name!r} has a single record: it is a member or a non-member, so "
            "that nothing can be said of its class; leave such classes out, or merge them."
        )
    folded: dict[str, str] = {}
    for each in class_names:
        other = folded.setdefault(" ".join(unicodedata.normalize("NFKC", each).casefold().split()), each)
        if other != each:
            is_case = other.casefold() == each.casefold()
            both = f"{other!r} and {each!r}" if is_case else f"{other!a} and {each!a}"  # which may look the same
            how = "case" if is_case else "blanks, case or the coding of characters"
            what = f"The classes {both} of population {name!r} differ in {how} alone"
            remarks.append(f"{what}; if they are one, write it in one way.")
    empty = [each for each, count in zip(class_names, count_C, strict=True) if count == 0]
    if empty:
        remarks.append(
            f"No record of population {name!r} has the class {listed(empty)}: {len(empty)} of {len(class_names)} "
            "classes are empty; see that labels count from 0, and that no class is named that does not occur."
        )
    return remarks


def check_classes(name_C: Sequence[float | None], label_N: Column, what: str) -> None:
    """Refuse labels that are no classes: measurements, and names of which most records have one of their own.

    Args:
        name_C: the numbers that name the classes; None for other names.
        label_N: int64, the class of each record.
        what: has the labels, for the message.

    Raises:
        InputError: they are.
    """
    numbers = [each for each in name_C if each is not None]
    C, N = len(name_C), len(label_N)
    if C <= _FEW_CLASSES:
        return
    if len(numbers) < C:
        if N < 2 * C:
            raise InputError(
                f"{what} has {C} different values for {N} records, which is an identifier and no class: give a label "
                "that several records have each"
            )
        return
    has_fractions = any(each % 1 for each in numbers)
    if has_fractions or N < _FEW_RECORDS * C:
        raise InputError(
            f"{what} has {C} different numbers for {N} records, which is a measurement and no class: set "
            "task=regression to predict it, or give a label of few values; where the numbers do name classes, write a "
            "letter before them"
        )


def by_side(has_N: Column, member_N: Column | None) -> str:
    """How members and non-members of a given split differ in what some records have: a clause; "" without a split.

    Args:
        has_N: bool, which records have it.
        member_N: bool, which are members.
    """
    if member_N is None or member_N.all() or not member_N.any():
        return ""
    from scipy.stats import fisher_exact

    inside, outside = has_N[member_N], has_N[~member_N]
    clause = f": {100 * inside.mean():.1f} % of the members and {100 * outside.mean():.1f} % of the non-members"
    table = [[int(part.sum()), int((~part).sum())] for part in (inside, outside)]
    if fisher_exact(table)[1] < _SIGNIFICANT:
        clause += ", which is more than chance explains, so that this alone tells members from non-members"
    return clause


def _is_related(value_N: Column, label_N: Column) -> bool:
    """Whether the ranks of the values differ between classes more than chance explains (Kruskal and Wallis)."""
    from scipy.stats import kruskal

    groups = [value_N[label_N == c] for c in np.unique(label_N)]
    return len(groups) > 1 and bool(kruskal(*groups).pvalue < _SIGNIFICANT)
