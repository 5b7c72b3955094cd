"""Models that failed: which are left out, and what that means for the figures."""

from typing import Literal

import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.membership import Membership
from mia_lightning.training.engine import Engine
from mia_lightning.training.models import Models
from mia_lightning.training.signals import Signals

_FEW_LOST = 0.1
"""The share of models whose loss may be no longer finite before low figures are no evidence."""


def kept_targets(targets: Models, signals: Signals, membership: Membership, engine: Engine) -> Tensor:
    """bool `[T]`: the targets that can be attacked."""
    kept_T = (targets.failed_epoch_K.cpu() < 0) & _is_finite(signals, membership, membership.targets)
    broken = (~kept_T).nonzero().flatten().tolist()
    if not bool(kept_T.any()):
        lost_N = ~_finite_on(signals)[broken[0]] & membership.scored_KN[membership.targets][broken[0]]
        lost = lost_N.nonzero().flatten().tolist()
        of_some = f" for {len(lost):,} records, the first of them {lost[0]}" if lost else ""
        raise InputError(
            f"Target {broken[0]} gives outputs that are not finite{of_some}, so there is nothing to attack; look for "
            "NaN in its weights (`target.path`), or lower `training.optimizer.lr`."
        )
    if broken and membership.is_trials:  # which trials are lost may depend on the canary
        raise InputError(
            f"The loss or the outputs of {len(broken)} of {len(kept_T)} targets were not finite, and under "
            "membership=one_canary no trial may be left out; lower `training.optimizer.lr`."
        )
    if broken:
        engine.stages.remark(
            f"The loss or the outputs of the targets {broken} were not finite: they are left out.",
            kind=_kind_of_loss(kept_T),
        )
    return kept_T


def kept_shadows(shadows: Models, signals: Signals, membership: Membership, engine: Engine) -> Tensor:
    """bool `[K]`: the shadow models that did not fail, without the other models of failed ones' blocks."""
    failed_K = (shadows.failed_epoch_K.cpu() >= 0) | ~_is_finite(signals, membership, membership.shadows)
    failure = shadows.failure
    block_K = membership.block_K[membership.shadows]
    kept_K = ~torch.isin(block_K, block_K[failed_K])
    names = failed_K.nonzero().flatten().tolist()
    if not bool(kept_K.any()):
        if failure is not None:
            raise InputError(
                f"{len(names)} of {len(failed_K)} shadow models could not be fitted ({failure}), which leaves none to "
                "learn from; change the estimator, or give it more records."
            )
        raise InputError(
            f"The loss of {len(names)} of {len(failed_K)} shadow models was no longer finite, which leaves none to "
            "learn from; lower `training.optimizer.lr` or set `training.gradient_clip_norm`."
        )
    if names:
        what = f"The loss of the shadow models {names} was no longer finite"
        if failure is not None:
            what = f"The shadow models {names} could not be fitted ({failure})"
        engine.stages.remark(
            f"{what}: {int((~kept_K).sum())} of {len(kept_K)} models are left out (a model's complement goes with it).",
            kind=_kind_of_loss(kept_K),
        )
    return kept_K


def _kind_of_loss(kept_K: Tensor) -> Literal["warning", "broken"]:
    """A few models out of many can be spared; where more are left out, low figures are no evidence."""
    return "warning" if bool((~kept_K).double().mean() <= _FEW_LOST) else "broken"


def _is_finite(signals: Signals, membership: Membership, rows: slice) -> Tensor:
    """bool `[K]`: whether a model's outputs are finite on all the records that are evidence about it."""
    return (_finite_on(signals) | ~membership.scored_KN[rows]).all(1)


def _finite_on(signals: Signals) -> Tensor:
    """bool `[K, N]`: whether a model's outputs about a record are finite."""
    each_KAN = (  # one model at a time: a mask of all answers would be a quarter of their size
        value_ANC.amin(-1).isfinite() & value_ANC.amax(-1).isfinite() for value_ANC in signals.log_probability_KANC
    )
    return torch.stack([each_AN.all(0).cpu() for each_AN in each_KAN])
