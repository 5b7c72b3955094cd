"""A small convolutional network for recordings, on their log-mel spectrogram."""

import math
from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn

from mia_lightning.errors import InputError
from mia_lightning.models.shapes import ACTIVATIONS, Activation, Shape
from mia_lightning.models.takes import RECORDINGS, Takes
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import AtLeast1, Depth, Positive, ShareBelow1, Size, Widths

_FLOOR = 1e-8  # of a power; that of a sine at full scale is 0.25


class LogMel(nn.Module):
    """The spectrogram `[B, 1, frames, mels]` of recordings `[B, samples]` in [-1, 1]: 1 + log10(power + 1e-8) / 4.

    A frame is `window` samples under a Hann window, and every `hop` samples a frame begins; the last samples that fill
    no frame are left out. Its power spectrum is divided by the square of the window's sum and weighted by triangles
    whose corners are equally far apart on the mel scale, 2595 log10(1 + f / 700), from 0 to half the sample rate
    (Davis and Mermelstein 1980; the scale is O'Shaughnessy's). Silence is -1. All of it is public constants: nothing is
    fitted to records.

    Args:
        sample_rate: of the recordings, in Hz.
        window: samples in a frame.
        hop: samples from the beginning of a frame to that of the next.
        mels: number of triangles.

    Buffers: `weight`, `[window // 2 + 1, mels]`.

    Raises:
        InputError: a triangle lies between two frequencies of the spectrum.
    """

    weight: Tensor

    def __init__(self, sample_rate: int, window: int, hop: int, mels: int) -> None:
        super().__init__()
        # More bands than samples leave some without a frequency, whatever the scale: then no weights are made.
        with torch.device("cpu"):  # they are looked at, whatever the default device is
            weight = mel_weights(sample_rate, window, mels) if mels <= window else None
        if weight is None or not bool(weight.any(0).all()):
            raise InputError(
                f"`model.mels` is {mels}, more bands than a window of {window} samples at {sample_rate} Hz tells "
                "apart; give fewer, or a larger `model.window`."
            )
        self.window, self.hop = window, hop
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        # The Hann window is no buffer: the spectra of records that all models of a stack share are then computed once.
        hann = torch.hann_window(self.window, dtype=x.dtype, device=x.device)
        spectrum = torch.fft.rfft(x.unfold(-1, self.window, self.hop) * (hann / hann.sum()))
        power = spectrum.real.square() + spectrum.imag.square()
        bands: Tensor = 1 + (power @ self.weight + _FLOOR).log10() / 4
        return bands.unsqueeze(-1).movedim(-1, -3)  # channels last, which convolutions on a CPU compute the fastest


def mel_weights(sample_rate: int, window: int, mels: int) -> Tensor:
    """Triangles over the frequencies of a spectrum, `[window // 2 + 1, mels]`, each of height 1."""
    highest = 2595 * math.log10(1 + sample_rate / 2 / 700)
    corner = 700 * (10 ** (torch.linspace(0, highest, mels + 2, dtype=torch.float64) / 2595) - 1)
    frequency = torch.linspace(0, sample_rate / 2, window // 2 + 1, dtype=torch.float64)[:, None]
    low, middle, high = corner[:-2], corner[1:-1], corner[2:]
    rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0).float()


class AudioCNN(nn.Sequential):
    """Convolutions with pooling on the log-mel spectrogram, and the mean over time; logits `[B, C]`.

    Records are waveforms: the spectrogram is the first layer, and has no parameters. A recording that was filled up
    with zeros ends in silence, which is part of the record: all records have one length.

    Args:
        input_shape: (samples,) of one record, with values in [-1, 1].
        num_classes: C.
        sample_rate: of the recordings, in Hz; a data set of recordings says it.
        window: of a frame of the spectrogram, in seconds.
        hop: from frame to frame, in seconds.
        mels: bands of frequency.
        channels: of each convolution block, which halves bands and frames.
        kernel_size: of the convolutions, odd.
        activation: tanh, relu or gelu.
        dropout: before the last layer.
    """

    takes_records: ClassVar[Takes] = RECORDINGS
    computed_once = "log_mel"  # `ComputesOnce`: training computes the spectrogram of a record once

    @checked("model")
    def __init__(
        self,
        input_shape: Shape,
        num_classes: AtLeast1,
        sample_rate: AtLeast1,
        window: Positive = 0.032,
        hop: Positive = 0.016,
        mels: Size = 40,
        channels: Widths = (16, 32, 64),
        kernel_size: Depth = 3,
        activation: Activation = "relu",
        dropout: ShareBelow1 = 0.0,
    ) -> None:
        if len(input_shape) != 1:
            raise InputError(
                "model=audio_cnn needs recordings of shape (samples,), as dataset=audio gives them, but a record has "
                f"shape {tuple(input_shape)}; use model=mlp, or model=cnn for images."
            )
        if kernel_size % 2 == 0:
            raise InputError(f"`model.kernel_size` is {kernel_size}; it must be odd.")
        width, step = max(2, round(window * sample_rate)), max(1, round(hop * sample_rate))
        frames = (input_shape[0] - width) // step + 1
        least = 2 ** len(channels)
        if frames < least or mels < least:
            raise InputError(
                f"model=audio_cnn makes {max(0, frames)} frames of {mels} bands of a recording of {input_shape[0]} "
                f"samples at {sample_rate} Hz, and {len(channels)} blocks need {least} of both; give longer recordings "
                "(`dataset.seconds`), a smaller `model.window` and `model.hop`, more `model.mels`, or fewer "
                "`model.channels`."
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict(log_mel=LogMel(sample_rate, width, step, mels))
        depth, height = 1, mels
        for i, deeper in enumerate(channels):
            layers[f"convolution_{i}"] = nn.Conv2d(depth, deeper, kernel_size, padding=kernel_size // 2)
            layers[f"activation_{i}"] = ACTIVATIONS[activation]()
            layers[f"pool_{i}"] = nn.MaxPool2d(2)
            depth, height = deeper, height // 2
        layers["mean"] = _MeanOverTime()
        layers["dropout"] = nn.Dropout(dropout)
        layers["logits"] = nn.Linear(depth * height, num_classes)
        super().__init__(layers)


class _MeanOverTime(nn.Module):
    """`[B, channels, frames, bands]` to `[B, channels * bands]`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-2).flatten(1)
