"""A population from the arrays that a caller has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from mia_lightning.datasets.arrays import Array, as_constant, as_mask, as_tensor, check_order
from mia_lightning.datasets.doubts import about_arrays, about_classes
from mia_lightning.datasets.fields import Kinds, formed
from mia_lightning.datasets.form import Form
from mia_lightning.datasets.groups import numbered
from mia_lightning.datasets.labels import as_labels
from mia_lightning.datasets.scaling import scale_by_range
from mia_lightning.errors import InputError
from mia_lightning.settings.checking import shown
from mia_lightning.tasks import Task, as_task

if TYPE_CHECKING:
    from mia_lightning.datasets.population import Population


def make_population(
    x: Array | Mapping[str, Array],
    label: Array,
    *,
    kinds: Kinds | None = None,
    form: Form | None = None,
    name: str = "data",
    class_names: Sequence[str] | None = None,
    member: Array | None = None,
    group: Array | None = None,
    group_names: Sequence[str] | None = None,
    weight: Array | None = None,
    scale: float | None = None,
    mean: Array | float | None = None,
    std: Array | float | None = None,
    remarks: Sequence[str] | None = None,
    task: Task | str | None = None,
) -> "Population":
    """A `Population` from tensors, numpy arrays or lists; memory is shared with them where no dtype changes.

    Args:
        x: `[N, *features]`; float64 becomes float32, bool becomes uint8, uint16 to uint64 become int64, other
            floating and integer types stay. Or several arrays by name, which a network takes as keyword arguments.
        label: `[N]` or `[N, 1]`, whole numbers of any type, bool or text; or one-hot `[N, C]`. Whole numbers from 0 are
            class numbers, as long as most numbers up to the largest occur; others, and text, are names of classes,
            which are numbered in the order of their values; a remark says so. Under another `task` numbers, or
            `[N, labels]` of 0 and 1.
        kinds: what the values are: `numeric`, `image`, `tokens`, `waveform` or `category`, or a mapping of `kind` and
            other attributes of a `Field` (padding, mask, sizes, columns, vocabulary, has_gaps, sample_rate); of several
            arrays by their names. By default floating-point values are numeric, and uint8 of three axes a record are
            images; of other arrays of a mapping it must be said. One array of integers is, without it, numeric.
        form: in the place of `kinds`, of records that `x` has as a `Population` stores them.
        name: of the population, in reports and error messages.
        class_names: one for each class, of which labels are the places from 0 or, where they are text or none of these
            numbers, the names; by default the numbers from 0 to the largest label, or the distinct labels. Of other
            tasks, one for each label or predicted number.
        member: bool `[N]`, the records that a given target was trained on.
        group: `[N]`, text or whole numbers; leakage is also reported for each group. The sorted distinct values name
            the groups; with `group_names` the numbers are indices of names, and -1 for a record of no group.
        group_names: one for each group.
        weight: `[N]` or `[N, 1]`, numbers of at least 0: how much each record counts in training (`Population`).
        scale: as in `Population`; by default 1/255 for uint8 records of two or more axes (images) with values above
            127, else 1.
        mean, std: as in `Population`; numbers, too.
        remarks: about the records; None for those that can be read off the arrays.
        task: what the labels are, an object or its name such as `regression`; None for classes.

    Raises:
        InputError: values that are no numbers, labels that are no classes (`as_classes`), pandas objects whose indexes
            are in different orders, or what `Population` refuses.
    """
    from mia_lightning.datasets.population import Population  # which makes itself of a user's own data by this function

    name = str(name)
    for what, texts in (("class_names", class_names), ("remarks", remarks)):
        if isinstance(texts, str | set | frozenset | Mapping) or not isinstance(texts, Iterable | None):
            one = "one name for each class" if what == "class_names" else "one sentence for each"
            raise InputError(f"{what} of population {name!r} is {shown(texts)}: give a list, {one}")
    arrays = dict(x) if isinstance(x, Mapping) else {"x": x}
    check_order({**arrays, "label": label, "member": member, "group": group, "weight": weight}, name)
    if form is None:
        x_N, form = formed(x, kinds, name)
    elif kinds is not None or isinstance(x, Mapping):
        raise InputError(f"population {name!r} is given `form` beside `kinds` or named arrays: give one of them")
    else:
        x_N = as_tensor(x, f"x of population {name!r}")
    task = as_task(task)
    labels = as_labels(label, class_names, name, task)
    group_N: Tensor | None = None
    names: tuple[str, ...] = () if group_names is None else tuple(group_names)
    if group is not None:
        group_N, names = numbered(group, group_names, name)
    by_range: float = 1.0 if scale is None else scale
    of_scale: tuple[str, ...] = ()
    if scale is None and form is None:
        by_range, of_scale = scale_by_range(x_N, name)
    population = Population(
        name=name,
        x_N=x_N,
        label_N=labels.label_N,
        class_names=labels.names,
        label_map=labels.map,
        scale=by_range,
        mean=None if mean is None else as_constant(mean, f"mean of population {name!r}"),
        std=None if std is None else as_constant(std, f"std of population {name!r}"),
        member_N=None if member is None else as_mask(member, f"member of population {name!r}"),
        group_N=group_N,
        weight_N=None if weight is None else _weights(weight, name),
        group_names=names,
        form=form,
        task=task,
    )
    task.check_all(population.label_N, population.class_names, name)
    own_N = population.label_N.cpu().numpy()
    if remarks is None:
        remarks = about_arrays(x, own_N, name) if form is None and task.has_classes else ()
    if task.has_classes:
        remarks = (*remarks, *labels.remarks, *about_classes(own_N, population.class_names, name))
    remarks = (*of_scale, *remarks)
    return replace(population, remarks=remarks)


def _weights(weight: Array, name: str) -> Tensor:
    given = as_tensor(weight, f"weight of population {name!r}")
    return (given[:, 0] if given.ndim == 2 and given.shape[1] == 1 else given).float()
