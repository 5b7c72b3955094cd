"""Where the records of the shadow models come from (Shokri et al. 2017, section V-C).

To add a source, write `mia_lightning/shadows/<name>.py` with a `Source` and `conf/shadow/<name>.yaml` that names it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mia_lightning.datasets.form import Form
from mia_lightning.datasets.population import Population
from mia_lightning.targets.black_box import BlackBox


@dataclass(frozen=True, eq=False, kw_only=True)
class Synthesis:
    """Records made for shadow models.

    Attributes:
        x_M: `[M, *features]` in the form of the real records, without exact duplicates.
        label_M: int64.
        num_queries: how often the target was asked for them, failed attempts included.
        yield_C: int64, records of each label.
        wanted_C: int64, how many records of each class were to be made; None where the source does not go by classes.
        query_C: int64, queries for each class; None likewise.
        remarks: sentences for the report.
    """

    x_M: Tensor
    label_M: Tensor
    num_queries: int
    yield_C: Tensor
    wanted_C: Tensor | None = None
    query_C: Tensor | None = None
    remarks: tuple[str, ...] = ()


class Source(ABC):
    """Where the records of the shadow models come from.

    Attributes:
        count: K, the number of shadow models.
        source: its name in configurations and reports.
        makes_records: whether records are made, by asking the target; else they are rows of the population.
        needs_records: whether making records starts from real records, or only from their form.
        overlap: share of the target's records whose membership the attacker knows.
    """

    source: ClassVar[str]
    makes_records: ClassVar[bool] = True
    needs_records: ClassVar[bool] = True

    @property
    @abstractmethod
    def count(self) -> int: ...

    @property
    def overlap(self) -> float:
        return 0.0

    def refusal(self, form: Form) -> str | None:
        """Why records of this form cannot be made, in one sentence; None where they can."""
        return None

    @abstractmethod
    def synthesise(self, known: Population, target: BlackBox, *, seed: int) -> Synthesis:
        """Make the records.

        Args:
            known: the records of the attacker. Where real records are needed, none of them is evidence about the
                target.
            target: is asked for labels and confidences.
        """
