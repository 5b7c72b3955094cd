"""The end of every synthesis: exact duplicates removed, labels given."""

import torch
from torch import Tensor

from mia_lightning.datasets.duplicates import first_occurrences
from mia_lightning.datasets.population import Population
from mia_lightning.shadows.interface import Synthesis
from mia_lightning.targets.black_box import BlackBox


def labelled(x_N: Tensor, known: Population, target: BlackBox, *, own_N: Tensor | None) -> Synthesis:
    """Records without exact duplicates, with the class that the target predicts, or their own.

    Duplicates are removed before anything is split, so that no record is a member and a non-member of one model.

    Args:
        own_N: int64, their own classes; None to ask the target.
    """
    before = target.num_queries
    kept_M = first_occurrences(x_N)
    x_M = x_N[kept_M]
    label_M = target.predict(x_M).argmax(1) if own_N is None else own_N[kept_M]
    yield_C = torch.bincount(label_M, minlength=known.num_classes)
    remarks = [] if len(x_M) == len(x_N) else [duplicates_remark(len(x_N) - len(x_M), len(x_N))]
    absent = [name for name, count in zip(known.class_names, yield_C.tolist(), strict=True) if count == 0]
    if absent:
        remarks.append(f"no record has the label of the classes {', '.join(absent)}.")
    return Synthesis(
        x_M=x_M,
        label_M=label_M,
        num_queries=target.num_queries - before,
        yield_C=yield_C,
        remarks=tuple(remarks),
    )


def duplicates_remark(count: int, total: int) -> str:
    """How many exact duplicates were removed."""
    return f"{count} of {total} records were exact duplicates of others, and are left out."
