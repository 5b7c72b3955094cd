"""Networks whose first layer is fitted, before training, to the network's own training records and to no others.

A stack calls `fit_to` of each network with the records that this network trains on, so that the scale that a network
learns from them is as private as its weights are.
"""

from math import prod

import torch
from torch import Tensor, nn

from mia_lightning.models.mlp import MLP
from mia_lightning.models.shapes import Activation, Shape
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast1, AtLeast2, Widths

# Numbers sorted at once when quantiles are taken: bounds memory, not results.
_SORTED_NUMBERS = 2**24


class QuantileBins(nn.Module):
    """One-hot bins `[B, features * bins]` of equal numbers of training records; binary features stay as they are.

    The inner edges of a feature are its quantiles at 1/bins, 2/bins, ..., linearly interpolated; a value on an edge
    belongs to the bin above, values beyond the training records to the outermost bins. Equal quantiles leave the bins
    between them empty. A feature that has only the values 0 and 1 among the training records is not binned: it fills
    one column (the second of its bins) and leaves the others at 0.

    Args:
        num_features: of one flattened record.
        bins: for each feature, at least 2.

    Buffers: `edge`, `[features, bins - 1]`, ascending; `is_used`, `[features, bins]`, 0 for the columns that stay 0.
    """

    edge: Tensor
    is_used: Tensor

    @checked("model")
    def __init__(self, num_features: AtLeast1, bins: AtLeast2) -> None:
        super().__init__()
        self.register_buffer("edge", torch.zeros(num_features, bins - 1))
        self.register_buffer("is_used", torch.ones(num_features, bins))

    def fit_to(self, x_N: Tensor) -> None:
        """Take the edges from training records `[N, *features]`."""
        bins = self.is_used.shape[1]
        x_N = x_N.flatten(1)
        edge = torch.cat([_inner_quantiles(part, bins) for part in x_N.split(max(1, _SORTED_NUMBERS // len(x_N)), 1)])
        is_binary = ((x_N == 0) | (x_N == 1)).all(0)
        half = torch.full_like(edge, torch.inf)
        half[:, 0] = 0.5
        self.edge.copy_(torch.where(is_binary[:, None], half, edge))
        self.is_used[:, 0] = (~is_binary).to(self.is_used)

    def forward(self, x: Tensor) -> Tensor:
        reached = (x.flatten(1)[:, :, None] >= self.edge).to(x.dtype)
        one_hot = nn.functional.pad(reached, (1, 0), value=1.0) - nn.functional.pad(reached, (0, 1))
        return (one_hot * self.is_used).flatten(1)


def _inner_quantiles(x_N: Tensor, bins: int) -> Tensor:
    """Quantiles `[features, bins - 1]` of `[N, features]` at the inner multiples of 1 / bins, in float64."""
    ordered_N = x_N.sort(dim=0).values.double()
    place = torch.arange(1, bins, dtype=torch.float64, device=x_N.device) * (len(x_N) - 1) / bins
    below = place.floor().long()
    above = (below + 1).clamp(max=len(x_N) - 1)
    return torch.lerp(ordered_N[below], ordered_N[above], (place - below)[:, None]).T


class RangeScaling(nn.Module):
    """Records moved, feature by feature, from the range of the training records to [0, 1].

    A feature that is constant among the training records is only moved to 0. Binary features that take both values
    stay as they are.

    Args:
        input_shape: of one record.

    Buffers: `low` and `width`, of the shape of a record.
    """

    low: Tensor
    width: Tensor

    @checked("model")
    def __init__(self, input_shape: Shape) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(tuple(input_shape)))
        self.register_buffer("width", torch.ones(tuple(input_shape)))

    def fit_to(self, x_N: Tensor) -> None:
        """Take the ranges from training records `[N, *features]`."""
        low, width = x_N.amin(0), x_N.amax(0) - x_N.amin(0)
        self.low.copy_(low)
        self.width.copy_(torch.where(width > 0, width, torch.ones_like(width)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.low) / self.width


class QuantileLogistic(nn.Module):
    """Multinomial logistic regression on quantile bins; logits `[B, C]`, all 0 before training.

    Args:
        input_shape: of one record.
        num_classes: C.
        bins: for each feature that is not binary; None where all are, so that records are taken as they are.
    """

    @checked("model")
    def __init__(self, input_shape: Shape, num_classes: AtLeast1, bins: AtLeast2 | None) -> None:
        super().__init__()
        features = prod(input_shape)
        self.bins = nn.Flatten() if bins is None else QuantileBins(features, bins)
        self.logits = nn.Linear(features * (bins or 1), num_classes)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def fit_to(self, x_N: Tensor) -> None:
        """Take the bins from training records `[N, *features]`."""
        if isinstance(self.bins, QuantileBins):
            self.bins.fit_to(x_N)

    def forward(self, x: Tensor) -> Tensor:
        logits_BC: Tensor = self.logits(self.bins(x))
        return logits_BC


class RangeScaledMLP(nn.Module):
    """A multilayer perceptron on features scaled to [0, 1]; logits `[B, C]`.

    Args:
        input_shape: of one record.
        num_classes: C.
        hidden: width of each hidden layer.
        activation: tanh, relu or gelu.
    """

    @checked("model")
    def __init__(self, input_shape: Shape, num_classes: AtLeast1, hidden: Widths, activation: Activation) -> None:
        super().__init__()
        self.scaling = RangeScaling(input_shape)
        self.network = MLP(input_shape, num_classes, hidden=hidden, activation=activation)

    def fit_to(self, x_N: Tensor) -> None:
        """Take the ranges from training records `[N, *features]`."""
        self.scaling.fit_to(x_N)

    def forward(self, x: Tensor) -> Tensor:
        logits_BC: Tensor = self.network(self.scaling(x))
        return logits_BC
