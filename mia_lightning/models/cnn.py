"""A small convolutional network for images, after Shokri et al. (2017), section VI-B."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from mia_lightning.errors import InputError
from mia_lightning.models.mlp import activation_named


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

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (32, 32),
        hidden: int = 128,
        kernel_size: int = 5,
        activation: str = "tanh",
        batch_norm: bool = False,
    ) -> None:
        if len(input_shape) != 3 or min(input_shape[1:]) < 2 ** len(channels):
            raise InputError(
                f"model=cnn needs images of shape (channels, height, width), both sides at least {2 ** len(channels)}, "
                f"but a record has shape {tuple(input_shape)}; use model=mlp, or fewer `model.channels`."
            )
        if kernel_size % 2 == 0:
            raise InputError(f"`model.kernel_size` is {kernel_size}; it must be odd.")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        depth, height, width = input_shape
        for i, deeper in enumerate(channels):
            layers[f"convolution_{i}"] = nn.Conv2d(depth, deeper, kernel_size, padding=kernel_size // 2)
            if batch_norm:
                layers[f"norm_{i}"] = nn.BatchNorm2d(deeper)
            layers[f"activation_{i}"] = activation_named(activation)
            layers[f"pool_{i}"] = nn.MaxPool2d(2)
            depth, height, width = deeper, height // 2, width // 2
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(depth * height * width, hidden)
        layers["activation"] = activation_named(activation)
        layers["logits"] = nn.Linear(hidden, num_classes)
        super().__init__(layers)
