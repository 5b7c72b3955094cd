"""The spectrogram against scipy and a slow loop, and the network against itself in a stack."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.signal
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_jobs import train_with

from mia_lightning.datasets.form import Field, Form
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.audio_cnn import AudioCNN, LogMel
from mia_lightning.training.engine import Engine
from mia_lightning.training.stack.architecture import inspect_architecture
from mia_lightning.training.stack.stack import Stack
from mia_lightning.training.step.recipe import Recipe
from mia_lightning.training.trainer import TrainerSettings

RATE, SAMPLES = 1000, 400
SMALL = partial(AudioCNN, (SAMPLES,), 3, RATE, window=0.06, hop=0.025, mels=6, channels=[4, 5])


@pytest.fixture(scope="module")
def tones() -> Population:
    """int16 recordings of three pitches under noise."""
    numbers = torch.Generator().manual_seed(0)
    label_N = torch.arange(48) % 3
    seconds = torch.arange(SAMPLES) / RATE
    x_N = 0.3 * torch.sin(2 * torch.pi * (80 + 90 * label_N[:, None]) * seconds)
    x_N = x_N + 0.1 * torch.randn(48, SAMPLES, generator=numbers)
    population = Population(
        name="tones", x_N=(x_N * 2**14).to(torch.int16), label_N=label_N, class_names=("low", "middle", "high")
    )
    field = Field(kind="waveform", dtype=torch.int16, shape=(SAMPLES,), sample_rate=RATE)
    return replace(population, form=Form.of([field]))


def slow_bands(power_FT: np.ndarray, rate: int, bands: int) -> np.ndarray:
    """Sums under triangles, `[bands, T]`, band by band and frequency by frequency."""

    def mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    def hertz(mel_: float) -> float:
        return 700 * (10 ** (mel_ / 2595) - 1)

    corners = [hertz(mel(rate / 2) * i / (bands + 1)) for i in range(bands + 2)]
    found = np.zeros((bands, power_FT.shape[1]))
    for band in range(bands):
        for f, row in enumerate(power_FT):
            at = f * rate / 2 / (len(power_FT) - 1)
            found[band] += np.interp(at, corners[band : band + 3], [0, 1, 0]) * row
    return found


@pytest.mark.parametrize(("rate", "window", "hop", "bands"), [(8000, 256, 128, 40), (16000, 400, 160, 23)])
def test_the_spectrogram_is_that_of_scipy_under_triangles(rate: int, window: int, hop: int, bands: int) -> None:
    x_B = torch.randn(2, 2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 4
    found = LogMel(rate, window, hop, bands).double()(x_B).numpy()
    for x, of_one in zip(x_B.numpy(), found, strict=True):
        *_, spectrum = scipy.signal.stft(
            x, rate, "hann", window, window - hop, boundary=None, padded=False, scaling="spectrum", detrend=False
        )
        expected = 1 + np.log10(slow_bands(np.abs(spectrum) ** 2, rate, bands) + 1e-8) / 4
        assert of_one.shape == (1, *expected.T.shape)
        np.testing.assert_allclose(of_one[0], expected.T, rtol=0, atol=1e-6)  # the weights are float32


def test_one_frame_by_its_definition() -> None:
    rate, window = 100, 20
    x = np.random.default_rng(0).normal(size=window)
    power = np.zeros((window // 2 + 1, 1))
    hann = [np.sin(np.pi * n / window) ** 2 for n in range(window)]
    for f in range(window // 2 + 1):
        parts = [x[n] * hann[n] * np.exp(-2j * np.pi * f * n / window) for n in range(window)]
        power[f] = abs(sum(parts) / sum(hann)) ** 2
    expected = 1 + np.log10(slow_bands(power, rate, 4) + 1e-8) / 4
    found = LogMel(rate, window, 7, 4).double()(torch.from_numpy(x)[None])
    np.testing.assert_allclose(found[0, 0].numpy(), expected.T, rtol=0, atol=1e-6)


def test_silence_is_minus_one_and_a_full_tone_is_below_one() -> None:
    layer = LogMel(8000, 256, 128, 40)
    assert torch.equal(layer(torch.zeros(1, 1000)), torch.full((1, 1, 6, 40), -1.0))
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(1000) / 8000)
    assert 0.8 < float(layer(tone[None]).max()) < 1.0


@pytest.mark.usefixtures("global_generators")
def test_vmap_takes_it_without_a_warning(tones: Population) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = inspect_architecture(partial(SMALL, dropout=0.2), tones)
    assert found.refusal is None
    assert not found.mixes_records


@pytest.mark.costly
@pytest.mark.parametrize("execution", ["stack", "loop"])
def test_trained_in_a_stack_it_is_the_network_trained_alone(execution: str, tones: Population) -> None:
    make = partial(SMALL, dropout=0.3)
    recipe = Recipe(epochs=3, batch_size=8, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    engine = Engine(seed=0, settings=TrainerSettings(accelerator="cpu", precision=64))
    records_K = [torch.arange(24), torch.arange(20, 43), torch.arange(12, 36)]
    several = replace(recipe, execution=execution)
    stack = train_with(engine, make, tones, records_K, several, role="shadow")
    alone = train_with(engine, make, tones, records_K[1:2], recipe, role="shadow", models=[1])
    untrained, trained = Stack.build(make, [1], seed=0, role="shadow").state_of(0), alone.stack.state_of(0)
    assert not torch.allclose(trained["logits.weight"].float(), untrained["logits.weight"].float())
    assert torch.equal(trained["log_mel.weight"].float(), untrained["log_mel.weight"].float())
    for key, value in stack.stack.state_of(1).items():
        torch.testing.assert_close(value, trained[key], rtol=1e-8, atol=1e-10)
    signals = stack.observe(tones).log_probability_KANC
    torch.testing.assert_close(signals[1:2], alone.observe(tones).log_probability_KANC, rtol=1e-8, atol=1e-10)


class Transforms(TorchDispatchMode):
    """The shapes of what is transformed."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if "fft_r2c" in str(func):
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def test_spectra_of_records_that_the_models_share_are_computed_once(tones: Population) -> None:
    stack = Stack.build(SMALL, [0, 1, 2], seed=0, role="shadow").eval()
    x_B = tones.records(torch.arange(5))
    with torch.no_grad(), Transforms() as shared:
        together = stack(x_B, shared=True)
    with torch.no_grad(), Transforms() as apart:
        torch.testing.assert_close(stack(x_B.expand(3, -1, -1)), together)
    assert [int(np.prod(shape[:-2])) for shape in (*shared.shapes, *apart.shapes)] == [5, 15]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"input_shape": (3, 8, 8)}, "model=audio_cnn needs recordings"),
        ({"input_shape": (100,)}, r"makes 2 frames of 6 bands .* 100 samples .*`dataset.seconds`"),
        ({"input_shape": (10,)}, "makes 0 frames"),
        ({"mels": 3}, "makes 14 frames of 3 bands"),
        ({"mels": 58}, "`model.mels` is 58, more bands than a window of 60 samples at 1000 Hz"),
        ({"mels": 1_000_000}, "`model.mels` is 1000000, more bands"),
        ({"kernel_size": 2}, "`model.kernel_size` is 2"),
        ({"window": 0.0}, "`model.window` is 0.0"),
        ({"hop": float("inf")}, "`model.hop` is inf"),
        ({"activation": "sine"}, "`model.activation` is 'sine'"),
        ({"sample_rate": 0}, "`model.sample_rate` is 0"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, object], part: str) -> None:
    usual = {"input_shape": (SAMPLES,), "num_classes": 3, "sample_rate": RATE, **SMALL.keywords}
    with pytest.raises(InputError, match=part):
        AudioCNN(**{**usual, **settings})
