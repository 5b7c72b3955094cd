"""One recording: a file's bytes in, samples of one length and one rate out."""

import io
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from mia_lightning.errors import InputError, first_line

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
FULL_SCALE = 2**15  # of 16-bit samples, which stand for numbers in [-1, 1)
_SILENT = 2**-10  # of the full scale: no sample is louder
_AT_THE_LIMIT = 0.999  # of the full scale
_CLIPPED_RUN = 3  # samples in a row at the limit
_CUT_OFF = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)  # of a WAV file, as libsndfile says it
_LENGTH_UNKNOWN = 2**31 - 2**16  # bytes; what wrote to a pipe says so many or more


@dataclass(frozen=True, eq=False, kw_only=True)
class Recording:
    """What a file holds, with what was done to it.

    Attributes:
        sample: int16 `[samples]`.
        rate: of the file, in Hz.
        is_cut: whether it is longer than the record.
        is_filled: whether it is shorter, so that it ends in zeros.
        is_silent: whether no sample of the record is above -60 dB of the full scale.
        is_clipped: whether three samples in a row are at the full scale in the part that was read.
    """

    sample: np.ndarray[Any, Any]
    rate: int
    is_cut: bool
    is_filled: bool
    is_silent: bool
    is_clipped: bool


def decoded(content: bytes, sample_rate: int, samples: int) -> Recording:
    """The first `samples` of a recording, mixed down to one channel (the mean) and resampled.

    Resampling is scipy's `resample_poly`, whose filter leaves out what the lower of both rates cannot hold.

    Args:
        content: of a WAV, FLAC, Ogg or MP3 file.
        sample_rate: of the result, in Hz.
        samples: of the result; a shorter recording is filled up with zeros.

    Raises:
        InputError: the package soundfile is not installed.
        ValueError: the content is no such file, or holds no samples; the message is the reason.
    """
    from scipy.signal import resample_poly

    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, frames = int(file.samplerate), int(file.frames)
            cut_off = _CUT_OFF.search(file.extra_info)
            shared = math.gcd(rate, sample_rate)
            up, down = sample_rate // shared, rate // shared
            # What the filter reaches beyond the last sample is read, too, so that a cut changes no sample before it.
            needed = -(-samples * down // up) + 10 * max(up, down) // up + 2
            channels = file.read(min(frames, needed), dtype="float64", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(error.error_string.rstrip(".")) from error
    if not frames:
        raise ValueError("it holds no samples")
    if cut_off is not None and int(cut_off[2]) < int(cut_off[1]) < _LENGTH_UNKNOWN:
        raise ValueError(f"it ends after {cut_off[2]} of {cut_off[1]} bytes of sound")
    if len(channels) < min(frames, needed):
        raise ValueError(f"it ends after {len(channels)} of {frames} samples")
    if not np.isfinite(channels).all():
        raise ValueError("it has a sample that is no finite number")
    mono = channels.mean(1)
    if rate != sample_rate:
        mono = resample_poly(mono, up, down)
    whole = np.clip(np.rint(mono[:samples] * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    length = -(-frames * up // down)
    return Recording(
        sample=np.pad(whole, (0, samples - len(whole))),
        rate=rate,
        is_cut=length > samples,
        is_filled=length < samples,
        is_silent=bool(np.abs(whole.astype(np.int32)).max() <= _SILENT * FULL_SCALE),
        is_clipped=_is_clipped(channels),
    )


def _is_clipped(channels: np.ndarray[Any, Any]) -> bool:
    """Whether a channel of `[frames, channels]` stays at the full scale."""
    at_limit = np.abs(channels) >= _AT_THE_LIMIT
    run = at_limit[: len(at_limit) - _CLIPPED_RUN + 1]
    for later in range(1, _CLIPPED_RUN):
        run = run & at_limit[later : later + len(run)]
    return bool(run.any())


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the package, or the library that it loads
        raise InputError(
            f"dataset=audio needs soundfile, which cannot be imported ({first_line(error)}); pip install "
            "'mia-lightning[audio]'."
        ) from error
    return soundfile
