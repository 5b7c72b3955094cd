"""ResNet-18 for small images: He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016)."""

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

from mia_lightning.models.shapes import Shape, image_shape
from mia_lightning.models.takes import IMAGES, Takes
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast1, Size


class ResNet18(nn.Sequential):
    """Eight basic blocks in the form for CIFAR, a 3 × 3 stem without pooling; logits `[B, C]`.

    Args:
        input_shape: (channels, height, width) of one record, both sides at least 8.
        num_classes: C.
        width: channels of the first stage; each of the three that follow doubles them and halves the sides.
    """

    takes_records: ClassVar[Takes] = IMAGES

    @checked("model")
    def __init__(self, input_shape: Shape, num_classes: AtLeast1, width: Size = 64) -> None:
        channels, _, _ = image_shape(input_shape, "resnet18", least_side=8)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["convolution"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers["norm"] = nn.BatchNorm2d(width)
        layers["activation"] = nn.ReLU()
        depth = width
        for stage in range(4):
            deeper = width * 2**stage
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                layers[f"block_{stage}_{block}"] = BasicBlock(depth, deeper, stride)
                depth = deeper
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["logits"] = nn.Linear(depth, num_classes)
        super().__init__(layers)


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside an identity, or a 1 × 1 convolution where the shape changes."""

    def __init__(self, depth: int, deeper: int, stride: int) -> None:
        super().__init__()
        self.convolution_1 = nn.Conv2d(depth, deeper, 3, stride, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(deeper)
        self.convolution_2 = nn.Conv2d(deeper, deeper, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(deeper)
        self.shortcut = nn.Sequential()
        if stride != 1 or depth != deeper:
            self.shortcut = nn.Sequential(nn.Conv2d(depth, deeper, 1, stride, bias=False), nn.BatchNorm2d(deeper))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_1(self.convolution_1(x)).relu()
        y = self.norm_2(self.convolution_2(y))
        out: Tensor = (y + self.shortcut(x)).relu()
        return out
