"""A population from the arrays that a caller has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mia_lightning.datasets.arrays import Array, as_constant, as_mask, as_tensor
from mia_lightning.datasets.doubts import about_arrays, about_classes, check_classes
from mia_lightning.datasets.groups import numbered
from mia_lightning.datasets.scaling import scale_by_range
from mia_lightning.errors import InputError
from mia_lightning.settings.checking import shown
from mia_lightning.tasks import Classification, Task

if TYPE_CHECKING:
    from mia_lightning.datasets.population import Population


def make_population(
    x: Array,
    label: Array,
    *,
    name: str = "data",
    class_names: Sequence[str] | None = None,
    member: Array | None = None,
    group: Array | None = None,
    group_names: Sequence[str] | None = None,
    scale: float | None = None,
    mean: Array | float | None = None,
    std: Array | float | None = None,
    remarks: Sequence[str] | None = None,
    task: Task | None = None,
) -> "Population":
    """A `Population` from tensors, numpy arrays or lists; memory is shared with them where no dtype changes.

    Args:
        x: `[N, *features]`; float64 becomes float32, bool becomes uint8, uint16 to uint64 become int64, other
            floating and integer types stay.
        label: `[N]`, of any integer type; under another `task` also numbers, or `[N, labels]` of 0 and 1.
        name: of the population, in reports and error messages.
        class_names: one for each class; by default the numbers from 0 to the largest label, which must then be
            below N. Of other tasks, one for each label or predicted number.
        member: bool `[N]`, the records that a given target was trained on.
        group: `[N]`, text or whole numbers; leakage is also reported for each group. The sorted distinct values name
            the groups; with `group_names` the numbers are indices of names, and -1 for a record of no group.
        group_names: one for each group.
        scale: as in `Population`; by default 1/255 for uint8 records of two or more axes (images) with values above
            127, else 1.
        mean, std: as in `Population`; numbers, too.
        remarks: about the records; None for those that can be read off the arrays.
        task: what the labels are; None for classes.

    Raises:
        InputError: values that are no numbers, labels that are not integers, or what `Population` refuses.
    """
    from mia_lightning.datasets.population import Population  # which makes itself of a user's own data by this function

    name = str(name)
    for what, texts in (("class_names", class_names), ("remarks", remarks)):
        if isinstance(texts, str | set | frozenset | Mapping) or not isinstance(texts, Iterable | None):
            one = "one name for each class" if what == "class_names" else "one sentence for each"
            raise InputError(f"{what} of population {name!r} is {shown(texts)}: give a list, {one}")
    x_N, label_N = (
        as_tensor(x, f"x of population {name!r}"),
        as_tensor(label, f"label of population {name!r}"),
    )
    task = Classification() if task is None else task
    label_N = task.read(label_N, getattr(label, "dtype", label_N.dtype), f"label of population {name!r}")
    is_counted = class_names is None and task.has_classes
    if class_names is None:
        class_names = task.names(label_N, f"population {name!r}")
    group_N: Tensor | None = None
    names: tuple[str, ...] = () if group_names is None else tuple(group_names)
    if group is not None:
        group_N, names = numbered(group, group_names, name)
    by_range, of_scale = scale_by_range(x_N, name) if scale is None else (scale, ())
    population = Population(
        name=name,
        x_N=x_N,
        label_N=label_N,
        class_names=tuple(str(each) for each in class_names),
        scale=by_range,
        mean=None if mean is None else as_constant(mean, f"mean of population {name!r}"),
        std=None if std is None else as_constant(std, f"std of population {name!r}"),
        member_N=None if member is None else as_mask(member, f"member of population {name!r}"),
        group_N=group_N,
        group_names=names,
        task=task,
    )
    task.check_all(population.label_N, population.class_names, name)
    own_N = population.label_N.cpu().numpy()
    if is_counted:
        check_classes(np.unique(own_N).tolist(), own_N, f"label of population {name!r}")
    if remarks is None:
        remarks = about_arrays(x, own_N, name) if task.has_classes else ()
    if task.has_classes:
        remarks = (*remarks, *about_classes(own_N, population.class_names, name))
    remarks = (*of_scale, *remarks)
    return replace(population, remarks=remarks)
