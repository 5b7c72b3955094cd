"""What is run where nobody has chosen attacks."""

from collections.abc import Sequence

from mia_lightning.attacks.interface import Attack
from mia_lightning.attacks.loss import Loss
from mia_lightning.attacks.ratio import Ratio
from mia_lightning.attacks.shokri import Shokri

# That of Shokri et al. (2017), a threshold on the loss, and of those with out-models alone one that is strong wherever
# leakage is (docs/results/how_many_shadow_models.md).
DEFAULT_ATTACKS: tuple[Attack, ...] = (Shokri(), Loss(), Ratio(online=False))


def is_optional(attack: Attack, attacks: Sequence[Attack]) -> bool:
    """Whether `attack` is the ratio of the default set, which is left out where it cannot be run.

    The others of the set can be run with one shadow model, which the ratio cannot.
    """
    is_default = [each.name for each in attacks] == [each.name for each in DEFAULT_ATTACKS]
    return is_default and attack == DEFAULT_ATTACKS[-1]
