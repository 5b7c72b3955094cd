"""A small transformer for texts, trained from scratch: Vaswani et al., "Attention is all you need" (2017)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mia_lightning.models.shapes import Shape, real_tokens, text_length
from mia_lightning.models.takes import TOKENS, Takes
from mia_lightning.models.vit import EncoderBlock, check_heads
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, Depth, ShareBelow1, Size

_NEVER = -1e30  # added to the score of padding: finite, so that a record of padding alone gives numbers


class TextTransformer(nn.Module):
    """Pre-norm encoder blocks on tokens `[B, L]`, and the mean of their outputs over the text; logits `[B, C]`.

    Positions count the tokens of the text, and no token attends to padding, so that padding changes nothing, wherever
    it stands and however much there is.

    Args:
        vocabulary_size: number of token ids.
        num_classes: C.
        input_shape: (tokens,) of one record; texts of fewer are taken, too.
        padding_id: of the tokens that fill up short texts; None for none.
        width: of a token.
        depth: number of encoder blocks.
        heads: of the attention; divides `width`.
        mlp_ratio: hidden units of a block's two-layer network, as a multiple of `width`.
        dropout: of the embeddings, after attention and in the two-layer network.
    """

    takes_records: ClassVar[Takes] = TOKENS

    @checked("model")
    def __init__(
        self,
        vocabulary_size: Size,
        num_classes: AtLeast1,
        input_shape: Shape,
        padding_id: AtLeast0 | None = 0,
        width: Size = 64,
        depth: Depth = 2,
        heads: Size = 4,
        mlp_ratio: Depth = 2,
        dropout: ShareBelow1 = 0.1,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.padding_id = padding_id
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.position = nn.Embedding(text_length(input_shape, "text_transformer"), width)
        for layer in (self.embedding, self.position):
            nn.init.normal_(layer.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, mlp_ratio * width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        is_real_BL = real_tokens(x, self.padding_id)
        place_BL = (is_real_BL.cumsum(1) - 1).clamp(min=0)
        token = self.dropout(self.embedding(x) + self.position(place_BL))
        bias = torch.where(is_real_BL, 0.0, _NEVER).to(token.dtype)[:, None, None]
        for block in self.blocks:
            token = block(token, bias)
        is_real_BL1 = is_real_BL.unsqueeze(-1)
        mean = (self.norm(token) * is_real_BL1).sum(1) / is_real_BL1.sum(1).clamp(min=1)
        logits_BC: Tensor = self.logits(mean)
        return logits_BC
