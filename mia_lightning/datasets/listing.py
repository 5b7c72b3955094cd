"""What a loader knows of each record beside its content: label, name, member, group, weight."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from mia_lightning.datasets.form import Form
from mia_lightning.datasets.labels import as_labels
from mia_lightning.datasets.marks import Mark
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.tasks.interface import Task

Column = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Listing:
    """The records that a table or a folder lists.

    Attributes:
        place: where they are listed, for messages.
        label_N: int64 into `class_names`, or the numbers of a task without classes.
        class_names: in the order of the labels; of a task without classes the name of each number.
        names: one for each record; () for none.
        member_N: bool; None where no split is given.
        group_N: int64 `[N]` or `[N, G]` into `group_names`; None without groups.
        group_names: None without groups.
        weight_N: how much each record counts in training; None for the same.
        task: what the labels are; None for classes.
        remarks: what is to be said of them.
    """

    place: str
    label_N: Column
    class_names: Sequence[str]
    names: tuple[str, ...] = ()
    member_N: Column | None = None
    group_N: Column | None = None
    group_names: Sequence[str] | None = None
    weight_N: Column | None = None
    task: Task | None = None
    remarks: Sequence[str] = ()

    @property
    def has_classes(self) -> bool:
        """Whether the labels are classes."""
        return self.task is None or self.task.has_classes

    def check_classes(self, several: str) -> None:
        """Refuse records of one class; `several` is what they are called, such as `texts`."""
        if self.has_classes and len(self.class_names) < 2:
            raise InputError(
                f"{self.place} has {several} of one class alone, {', '.join(map(repr, self.class_names))}: membership "
                f"is audited on a classifier, so give {several} of at least two classes"
            )

    @property
    def stratum_N(self) -> Column:
        """The class of each record, or the range or label under which a record of another task is listed."""
        if self.task is None or self.has_classes:
            return self.label_N
        found = as_labels(self.label_N, self.class_names, self.place.strip("'"), self.task)
        return self.task.strata(found.label_N, found.names).number_N.numpy()

    def kept(self, kept_N: Column) -> "Listing":
        """That of some of the records."""
        return replace(
            self,
            label_N=self.label_N[kept_N],
            names=tuple(self.names[i] for i in kept_N.nonzero()[0]) if self.names else (),
            member_N=None if self.member_N is None else self.member_N[kept_N],
            group_N=None if self.group_N is None else self.group_N[kept_N],
            weight_N=None if self.weight_N is None else self.weight_N[kept_N],
        )

    def population(
        self,
        x_N: Column | Tensor,
        *,
        form: Form | None,
        name: str,
        remarks: Sequence[str],
        marks: Sequence[Mark] = (),
    ) -> Population:
        """The records with their contents, in this order; of `marks` those that some record has."""
        population = make_population(
            x_N,
            self.label_N,
            name=name,
            class_names=self.class_names,
            member=self.member_N,
            group=self.group_N,
            group_names=self.group_names,
            weight=self.weight_N,
            form=form,
            remarks=[*remarks, *self.remarks],
            task=self.task,
        )
        marked = tuple(each for each in marks if each.has_N.any())
        return replace(population, record_names=self.names, marks=marked)
