"""A small convolutional network for images, after Shokri et al. (2017), section VI-B."""

from collections import OrderedDict
from typing import ClassVar

from torch import nn

from mia_lightning.errors import InputError
from mia_lightning.models.shapes import ACTIVATIONS, Activation, Shape, image_shape
from mia_lightning.models.takes import IMAGES, Takes
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast1, Depth, Size, Widths


class CNN(nn.Sequential):
    """Convolutions with pooling, then one hidden layer; logits `[B, C]`.

    Args:
        input_shape: (channels, height, width) of one record; each block halves height and width.
        num_classes: C.
        channels: of each convolution block.
        hidden: width of the fully connected layer.
        kernel_size: of the convolutions, odd.
        activation: tanh, relu or gelu.
        batch_norm: whether a batch normalisation follows each convolution.
    """

    takes_records: ClassVar[Takes] = IMAGES

    @checked("model")
    def __init__(
        self,
        input_shape: Shape,
        num_classes: AtLeast1,
        channels: Widths = (32, 32),
        hidden: Size = 128,
        kernel_size: Depth = 5,
        activation: Activation = "tanh",
        batch_norm: bool = False,
    ) -> None:
        least_side = 2 ** len(channels)
        depth, height, width = image_shape(
            input_shape, "cnn", least_side=least_side, mend=", or fewer `model.channels`"
        )
        if kernel_size % 2 == 0:
            raise InputError(f"`model.kernel_size` is {kernel_size}; it must be odd.")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, deeper in enumerate(channels):
            layers[f"convolution_{i}"] = nn.Conv2d(depth, deeper, kernel_size, padding=kernel_size // 2)
            if batch_norm:
                layers[f"norm_{i}"] = nn.BatchNorm2d(deeper)
            layers[f"activation_{i}"] = ACTIVATIONS[activation]()
            layers[f"pool_{i}"] = nn.MaxPool2d(2)
            depth, height, width = deeper, height // 2, width // 2
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(depth * height * width, hidden)
        layers["activation"] = ACTIVATIONS[activation]()
        layers["logits"] = nn.Linear(hidden, num_classes)
        super().__init__(layers)
