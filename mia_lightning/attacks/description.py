"""What an attack looks at, in the words of the task."""

from abc import ABC, abstractmethod

from mia_lightning.attacks.interface import Attack
from mia_lightning.tasks import Classification, Task


class DescribedByTask(ABC):
    """An attack whose description says what its statistic is under the task of the records."""

    @abstractmethod
    def described(self, task: Task) -> str:
        """One sentence on what it looks at under the task, and how it decides."""

    @property
    def description(self) -> str:
        """That of classes."""
        return self.described(Classification())


def description_of(attack: Attack, task: Task) -> str:
    """The attack's own sentence, about this task where it knows one for each."""
    described = getattr(attack, "described", None)
    return attack.description if described is None else str(described(task))
