"""A convolutional network for texts, after Kim, "Convolutional neural networks for sentence classification" (2014)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mia_lightning.models.shapes import real_tokens
from mia_lightning.models.takes import TOKENS, Takes
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, ShareBelow1, Size, Widths


class TextCNN(nn.Module):
    """Embeddings of tokens `[B, L]`, convolutions of several widths, their maxima over the text; logits `[B, C]`.

    A convolution starts at each token of a text and sees zeros behind its end, so that padding changes nothing, however
    much there is before or behind a text.

    Args:
        vocabulary_size: number of token ids.
        num_classes: C.
        padding_id: of the tokens that fill up short texts; None for none.
        width: of an embedding.
        kernel_sizes: tokens that a convolution sees, one number for each.
        channels: of each convolution.
        dropout: before the last layer.
    """

    takes_records: ClassVar[Takes] = TOKENS

    @checked("model")
    def __init__(
        self,
        vocabulary_size: Size,
        num_classes: AtLeast1,
        padding_id: AtLeast0 | None = 0,
        width: Size = 32,
        kernel_sizes: Widths = (3, 4, 5),
        channels: Size = 64,
        dropout: ShareBelow1 = 0.5,
    ) -> None:
        super().__init__()
        self.padding_id, self.kernel_sizes = padding_id, tuple(kernel_sizes)
        self.embedding = nn.Embedding(vocabulary_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, channels, size) for size in kernel_sizes)
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(channels * len(kernel_sizes), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        is_real_B1L = real_tokens(x, self.padding_id).unsqueeze(1)
        embedded = self.embedding(x).transpose(1, 2) * is_real_B1L
        largest = [
            (layer(nn.functional.pad(embedded, (0, size - 1))).relu() * is_real_B1L).amax(-1)
            for size, layer in zip(self.kernel_sizes, self.convolutions, strict=True)
        ]
        logits_BC: Tensor = self.logits(self.dropout(torch.cat(largest, -1)))
        return logits_BC
