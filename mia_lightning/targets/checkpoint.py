"""A target in a file: the weights of a trained network of the configured `model`, and what the file says of it."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from torch import nn

from mia_lightning.datasets.population import Population
from mia_lightning.seeds import isolated
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AnyText, PathLike, Share
from mia_lightning.targets.existing import Existing, check_finite, copied
from mia_lightning.targets.interface import Remarks, Target
from mia_lightning.targets.lightning_file import Said
from mia_lightning.targets.run_folder import chosen_file
from mia_lightning.targets.weights_file import content_of, load_weights
from mia_lightning.training.setup import Setup
from mia_lightning.training.trained import TrainedStack


@settings("target")
class Checkpoint(Target):
    """The weights of a trained network of the configured `model`; nothing in the file is executed.

    Attributes:
        path: a Lightning `.ckpt`, whose hyper-parameters also make the target and the shadow models where `model`
            leaves them open; the folder of a run, for its best checkpoint; a `.safetensors` file; a `.pt` or `.pth`
            with a state dict; or the `target.safetensors` that a run with `save_models=true` and one target wrote.
            State dicts nested in what a training script saved are found, and so are names behind a common prefix.
        key: the place of the state dict in the file, such as model_ema; "" for the only one that fits the model.
        prefix: with which the names in the file begin, unlike those of the model; "" for the one behind which all of
            them are found.
        expected_accuracy: on records that it was not trained on, as it was seen elsewhere; None for unknown.
    """

    path: PathLike
    key: AnyText = ""
    prefix: AnyText = ""
    expected_accuracy: Share | None = None
    count: ClassVar[int] = 1
    is_trained_here: ClassVar[bool] = False
    takes_recipe: ClassVar[bool] = False

    def completed(
        self, make: Callable[..., nn.Module], population: Population
    ) -> tuple[Callable[..., nn.Module], Remarks]:
        """`make` with the hyper-parameters of a Lightning checkpoint, as far as it takes them and leaves them open.

        Raises:
            InputError: the file cannot be read, or has hyper-parameters that `make` needs and only code could make.
        """
        file, why = chosen_file(Path(self.path))
        made, remarks = self._said(file).completed(make, population.num_classes)
        return made, [("note", why), *remarks] if why else remarks

    @property
    def trained_epochs(self) -> int | None:
        """As a Lightning checkpoint says."""
        return self._said(chosen_file(Path(self.path))[0]).epochs

    def _said(self, file: Path) -> Said:
        return Said.of(content_of(file), file)

    def obtain(self, setup: Setup) -> TrainedStack:
        """The network with these weights, as a stack of one.

        Raises:
            InputError: the file is not there, is damaged, or does not fit the model.
        """
        file, _ = chosen_file(Path(self.path))
        with isolated(0, "initialisation that is overwritten"):
            network = copied(setup.make_network())  # it may share parts with the shadow models
        remark = load_weights(network, file, key=self.key, prefix=self.prefix)
        if remark:
            setup.engine.stages.remark(remark)
        check_finite(network, f"`target.path` {file}")
        return Existing(network=network).obtain(setup)
