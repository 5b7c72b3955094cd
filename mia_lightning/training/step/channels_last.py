"""Loops whose convolutions have their weights laid out channels last, and then compute in this format.

On a CPU that is faster for all networks, so a loop there always does it. On a CUDA device it depends on network and
precision, so there it is one of the ways to train that a probe measures.
"""

import torch

from mia_lightning.training.stack.architecture import Architecture
from mia_lightning.training.step.recipe import Recipe

ALWAYS = {"cpu"}
"""The types of devices where loops are so unless the recipe says otherwise."""
DEVICES = {"cuda"}
"""The types of devices where both layouts are measured."""


def refusal(recipe: Recipe, architecture: Architecture, device: torch.device) -> str | None:
    """Why the layout is no choice, in a clause; None where that of a loop is."""
    if recipe.channels_last is False:
        return "`training.channels_last` is false"
    if recipe.channels_last == "auto" and device.type not in DEVICES:
        return f"the device is {device.type}"
    return None if architecture.takes_channels_last else f"{architecture.name} has none that run so"


def is_on(recipe: Recipe, architecture: Architecture, device: torch.device, *, execution: str, chosen: bool) -> bool:
    """Whether convolutions are laid out channels last.

    Args:
        execution: `stack` or `loop`.
        chosen: whether the execution plan says so; on a CPU it need not.
    """
    if execution != "loop" or not architecture.takes_channels_last or recipe.channels_last is False:
        return False
    return chosen or device.type in ALWAYS
