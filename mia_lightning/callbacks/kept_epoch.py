"""One epoch of a training that is kept in a file, and put back."""

import os
from dataclasses import dataclass
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn


@dataclass(kw_only=True)
class KeptEpoch:
    """A checkpoint that is written over and over, of the latest epoch that was worth it.

    Attributes:
        name: of the file, without its ending.
        folder: where it lies; None for `checkpoints` in the folder of the Trainer's logger, or in its root folder.
        path: of the file; "" before there is one.
        epoch: whose weights it holds; -1 before there is one.
        put_back_epoch: whose weights were put back; None for none.
    """

    name: str
    folder: str | None = None
    path: str = ""
    epoch: int = -1
    put_back_epoch: int | None = None

    def keep(self, trainer: Any, *, weights_only: bool) -> None:
        """Write the current epoch, on all processes; a file that another fit wrote is left alone."""
        if not self.path:
            self.path = trainer.strategy.broadcast(self._free_path(trainer))
        self.epoch = int(trainer.current_epoch)
        trainer.save_checkpoint(self.path, weights_only)

    def put_back(self, trainer: Any) -> bool:
        """Load the weights of the kept epoch into the module; whether there are any."""
        if not self.path or not os.path.exists(self.path):
            rank_zero_warn(f"The checkpoint {self.path!r} is gone, so that the weights stay those of the last epoch.")
            return False
        checkpoint = trainer.strategy.load_checkpoint(self.path, weights_only=False)  # written by this very fit
        trainer.strategy.load_model_state_dict(checkpoint, strict=True)
        self.put_back_epoch = self.epoch
        return True

    def _free_path(self, trainer: Any) -> str:
        folder = self.folder or os.path.join(trainer.log_dir or trainer.default_root_dir, "checkpoints")
        path, version = os.path.join(folder, f"{self.name}.ckpt"), 0
        while os.path.exists(path):
            version += 1
            path = os.path.join(folder, f"{self.name}-v{version}.ckpt")
        return path

    def state(self) -> dict[str, Any]:
        return {"path": self.path, "epoch": self.epoch}

    def load(self, state: dict[str, Any]) -> None:
        self.path, self.epoch = state["path"], state["epoch"]
