"""What an attack reads of the answers for its own views, among those of all attacks of a run."""

from collections.abc import Sequence

from torch import Tensor

from mia_lightning.attacks.interface import DoesNotApplyError
from mia_lightning.training.signals import Signals


def correct_views(attack: str, views: Sequence[str], signals: Signals) -> Tensor:
    """Whether each view was classified correctly, bool `[K, A, N]`, for views of these names in their order.

    Raises:
        DoesNotApplyError: one of them was not observed.
    """
    observed = () if signals.views is None else signals.views.names
    missing = [view for view in views if view not in observed]
    if missing or signals.views is None:
        raise DoesNotApplyError(
            f"attack={attack} needs answers for the view {missing[0]}, which was not asked about; ask about its "
            "`needs.views` by mia_lightning.attacks.views.observe_views."
        )
    place_A = [signals.views.names.index(view) for view in views]
    return signals.views.is_correct_KAN[:, place_A]
