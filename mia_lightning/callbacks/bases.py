"""The base classes of callbacks: `pytorch_lightning`'s, and `lightning.pytorch`'s as well where a program imports that.

The two packages hold the same code twice, and a Trainer of one refuses callbacks of the other. A callback whose class
has both bases is a callback for either.
"""

import re
import sys
from typing import TYPE_CHECKING, Any

import pytorch_lightning.callbacks

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback as Callback
    from pytorch_lightning.callbacks import Checkpoint as Checkpoint
else:

    def _of_both(name: str) -> type[Any]:
        ours = getattr(pytorch_lightning.callbacks, name)
        other = getattr(sys.modules.get("lightning.pytorch.callbacks"), name, ours)
        return ours if other is ours else type(name, (ours, other), {"__module__": __name__})

    Callback, Checkpoint = _of_both("Callback"), _of_both("Checkpoint")


def averaging(trainer: Any) -> str | None:
    """The class of a callback that keeps an average of the module's weights, known by its name; None for none."""
    names = [each.__name__ for callback in trainer.callbacks for each in type(callback).__mro__]
    return next((each for each in names if re.search("EMA|SWA|Weight.?Averag", each)), None)
