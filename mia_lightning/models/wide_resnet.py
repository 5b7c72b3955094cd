"""Wide residual networks: Zagoruyko and Komodakis, "Wide residual networks" (2016)."""

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

from mia_lightning.errors import InputError
from mia_lightning.models.shapes import Shape, image_shape
from mia_lightning.models.takes import IMAGES, Takes
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast1, Depth, ShareBelow1


class WideResNet(nn.Sequential):
    """Three groups of pre-activation blocks of 16, 32 and 64 times `widen` channels; logits `[B, C]`.

    Args:
        input_shape: (channels, height, width) of one record, both sides at least 8.
        num_classes: C.
        depth: layers with weights, 6 n + 4 for n blocks in a group.
        widen: factor on the channels.
        dropout: between the two convolutions of a block.
    """

    takes_records: ClassVar[Takes] = IMAGES

    @checked("model")
    def __init__(
        self,
        input_shape: Shape,
        num_classes: AtLeast1,
        depth: Depth = 28,
        widen: Depth = 2,
        dropout: ShareBelow1 = 0.0,
    ) -> None:
        channels, _, _ = image_shape(input_shape, "wide_resnet28_2", least_side=8)
        if depth < 10 or depth % 6 != 4:
            raise InputError(f"`model.depth` is {depth}; it must be 6 n + 4, such as 10, 16, 22 or 28.")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["convolution"] = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        width = 16
        for group in range(3):
            wider = 16 * 2**group * widen
            for block in range((depth - 4) // 6):
                stride = 2 if group > 0 and block == 0 else 1
                layers[f"block_{group}_{block}"] = WideBlock(width, wider, stride, dropout)
                width = wider
        layers["norm"] = nn.BatchNorm2d(width)
        layers["activation"] = nn.ReLU()
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["logits"] = nn.Linear(width, num_classes)
        super().__init__(layers)


class WideBlock(nn.Module):
    """Normalisation and activation before each of two 3 × 3 convolutions.

    Where the width changes, the shortcut is a 1 × 1 convolution of the activated input.
    """

    def __init__(self, width: int, wider: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = nn.BatchNorm2d(width)
        self.convolution_1 = nn.Conv2d(width, wider, 3, stride, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(wider)
        self.dropout = nn.Dropout(dropout)
        self.convolution_2 = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width, wider, 1, stride, bias=False) if stride != 1 or width != wider else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.norm_1(x).relu()
        y = self.norm_2(self.convolution_1(activated)).relu()
        beside = x if self.shortcut is None else self.shortcut(activated)
        out: Tensor = self.convolution_2(self.dropout(y)) + beside
        return out
