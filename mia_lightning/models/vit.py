"""A small vision transformer: Dosovitskiy et al., "An image is worth 16x16 words" (2021)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mia_lightning.errors import InputError
from mia_lightning.models.shapes import Shape, image_shape
from mia_lightning.models.takes import IMAGES, Takes
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast1, Depth, ShareBelow1, Size


class VisionTransformer(nn.Module):
    """Pre-norm encoder blocks on patches, and the mean of their outputs; logits `[B, C]`.

    Attention is written as matrix products and a softmax, which `vmap` runs in a stack without a fallback.

    Args:
        input_shape: (channels, height, width) of one record.
        num_classes: C.
        patch_size: side of a patch, which divides both sides of an image.
        width: of a token.
        depth: number of encoder blocks.
        heads: of the attention; divides `width`.
        mlp_ratio: hidden units of a block's two-layer network, as a multiple of `width`.
        dropout: after attention and in the two-layer network.
    """

    takes_records: ClassVar[Takes] = IMAGES

    @checked("model")
    def __init__(
        self,
        input_shape: Shape,
        num_classes: AtLeast1,
        patch_size: AtLeast1 = 4,
        width: Size = 128,
        depth: Depth = 4,
        heads: Size = 4,
        mlp_ratio: Depth = 2,
        dropout: ShareBelow1 = 0.0,
    ) -> None:
        super().__init__()
        channels, height, breadth = image_shape(input_shape, "vit", least_side=1)
        if height % patch_size or breadth % patch_size:
            raise InputError(
                f"`model.patch_size` is {patch_size}, which does not divide both sides of {height} × {breadth} images; "
                "give a divisor of both."
            )
        check_heads(width, heads)
        self.patch = nn.Conv2d(channels, width, patch_size, patch_size)
        num_tokens = (height // patch_size) * (breadth // patch_size)
        self.position = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, mlp_ratio * width, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        logits_BC: Tensor = self.logits(self.norm(self.blocks(tokens)).mean(1))
        return logits_BC


def check_heads(width: int, heads: int) -> None:
    """Refuse heads of unequal widths.

    Raises:
        InputError: `heads` does not divide `width`.
    """
    if width % heads:
        raise InputError(f"`model.heads` is {heads}, which does not divide `model.width` {width}; give a divisor.")


class EncoderBlock(nn.Module):
    """Self-attention and a two-layer network, each beside an identity and after a normalisation."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), bias))
        out: Tensor = x + self.mlp(self.norm_2(x))
        return out


class SelfAttention(nn.Module):
    """Scaled dot-product attention of tokens `[B, L, width]` among themselves.

    `bias`, `[B, 1, 1, L]`, is added to the scores with which tokens attend to each of the L.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        B, L, width = x.shape
        split = self.query_key_value(x).view(B, L, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split[0], split[1], split[2]
        score = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        if bias is not None:
            score = score + bias
        out: Tensor = self.output((score.softmax(-1) @ value).transpose(1, 2).reshape(B, L, width))
        return out
