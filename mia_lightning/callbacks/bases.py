"""The base classes of callbacks: `pytorch_lightning`'s, and `lightning.pytorch`'s as well where a program imports that.

The two packages hold the same code twice, and a Trainer of one refuses callbacks of the other. A callback whose class
has both bases is a callback for either.
"""

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
