"""A multilayer perceptron: the architecture of Shokri et al. (2017) for tabular data, section VI-B."""

from collections import OrderedDict
from math import prod
from typing import ClassVar

from torch import nn

from mia_lightning.models.shapes import ACTIVATIONS, Activation, Shape
from mia_lightning.models.takes import NUMBERS, Takes
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast1, ShareBelow1, Widths


class MLP(nn.Sequential):
    """Fully connected network from flattened records to logits `[B, C]`.

    Args:
        input_shape: of one record.
        num_classes: C.
        hidden: width of each hidden layer.
        activation: tanh, relu or gelu.
        dropout: probability of dropping after each hidden layer.
    """

    takes_records: ClassVar[Takes] = NUMBERS

    @checked("model")
    def __init__(
        self,
        input_shape: Shape,
        num_classes: AtLeast1,
        hidden: Widths = (128,),
        activation: Activation = "tanh",
        dropout: ShareBelow1 = 0.0,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        width = prod(input_shape)
        for i, wider in enumerate(hidden):
            layers[f"linear_{i}"] = nn.Linear(width, wider)
            layers[f"activation_{i}"] = ACTIVATIONS[activation]()
            if dropout:
                layers[f"dropout_{i}"] = nn.Dropout(dropout)
            width = wider
        layers["logits"] = nn.Linear(width, num_classes)
        super().__init__(layers)
