"""What is trained: records, networks and sizes of the benchmarks of training.

Records are synthetic (no time depends on their values), kept as uint8 by the stack as the package's loaders do and
as float32 by the loops.

Floating-point operations of one model: epochs x records x the sum over matrices [in, out] of 2 in out for the
forward pass, 2 in out for the gradient of the weights and, in all layers but the first, whose input needs no
gradient, 2 in out for the gradient of the input. Activations, biases and Adam are not counted.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mia_lightning.datasets.form import Field, Form, one_tensor
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.models.audio_cnn import AudioCNN
from mia_lightning.models.mlp import MLP
from mia_lightning.models.text_transformer import TextTransformer
from mia_lightning.seeds import generator, isolated
from mia_lightning.training.stack.binding import bind_records

Execution = Literal["auto", "stack", "loop"]

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Setting(ABC):
    """The sizes of one classification case.

    Attributes:
        epochs: where the command line says none: as many as keep the final losses of all variants alike.
    """

    name: str
    population: int
    classes: int
    records: int
    batch_size: int
    epochs: int = 50

    @property
    @abstractmethod
    def network(self) -> str:
        """In words."""

    @property
    @abstractmethod
    def architecture(self) -> Callable[..., nn.Module]: ...

    @property
    @abstractmethod
    def first_product(self) -> tuple[int, int, int]:
        """The matrix product [m, k] x [k, n] of the first layer."""

    @abstractmethod
    def drawn(self, label_N: Tensor, numbers: torch.Generator) -> Tensor:
        """Records of these classes, as a population stores them."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """What they are, for `make_population`."""

    @abstractmethod
    def operations(self, network: nn.Module, epochs: int) -> int:
        """Floating-point operations of training `network`, matrix products alone."""

    def make_population(self) -> Population:
        numbers = generator(SEED, "benchmark", self.name)
        label_N = torch.randint(self.classes, (self.population,), generator=numbers)
        names = [str(c) for c in range(self.classes)]
        return make_population(
            self.drawn(label_N, numbers), label_N, name=self.name, class_names=names, **self.described()
        )

    def executions(self, sizes: Sequence[int]) -> list[tuple[str, int, Execution]]:
        """The ways of this package: names, models at once, and how they are trained."""
        return [(f"stack {size}", size, "stack") for size in sizes]


@dataclass(frozen=True, kw_only=True)
class Vectors(Setting):
    """Records around a centre for each class, learnable and not trivially so, for a multilayer perceptron.

    Attributes:
        levels: records take the whole values 0 to levels - 1.
    """

    features: int
    levels: int
    hidden: tuple[int, ...]
    activation: str

    @property
    def network(self) -> str:
        return f"{'-'.join(map(str, (self.features, *self.hidden, self.classes)))} {self.activation} network"

    @property
    def architecture(self) -> Callable[..., nn.Module]:
        return partial(MLP, hidden=self.hidden, activation=self.activation)

    @property
    def first_product(self) -> tuple[int, int, int]:
        return self.batch_size, self.features, self.hidden[0]

    def drawn(self, label_N: Tensor, numbers: torch.Generator) -> Tensor:
        centre_CF = torch.rand(self.classes, self.features, generator=numbers)
        noise_NF = torch.rand(self.population, self.features, generator=numbers)
        return ((centre_CF[label_N] + noise_NF) / 2 * (self.levels - 1)).round().to(torch.uint8)

    def described(self) -> dict[str, Any]:
        return {"scale": 1 / (self.levels - 1)}

    def operations(self, network: nn.Module, epochs: int) -> int:
        return operations(network, self.records, epochs)


@dataclass(frozen=True, kw_only=True)
class Formed(Setting):
    """Records with a form, whose networks the package trains in the way that it measures to be the fastest."""

    @property
    @abstractmethod
    def field(self) -> Field: ...

    def described(self) -> dict[str, Any]:
        return {"form": Form.of([self.field])}

    def operations(self, network: nn.Module, epochs: int) -> int:
        """As torch counts them for one record; a Fourier transform is not among them."""
        one = torch.ones(1, *self.field.shape, dtype=torch.int64 if self.field.is_code else torch.float32)
        with FlopCounterMode(display=False) as counter:
            network(one).sum().backward()
        return epochs * self.records * int(counter.get_total_flops())

    def executions(self, sizes: Sequence[int]) -> list[tuple[str, int, Execution]]:
        """Also model by model, and what the package chooses, its measuring included."""
        return [*super().executions(sizes), ("loop", max(sizes), "loop"), ("chosen", max(sizes), "auto")]


@dataclass(frozen=True, kw_only=True)
class Texts(Formed):
    """Texts of different lengths whose words are partly those of their class, for a transformer without dropout."""

    words: int
    tokens: int

    @property
    def network(self) -> str:
        return f"text_transformer for {self.tokens} of {self.words} words"

    @property
    def architecture(self) -> Callable[..., nn.Module]:
        return partial(TextTransformer, dropout=0.0)

    @property
    def first_product(self) -> tuple[int, int, int]:
        with isolated(SEED, "benchmark", "network"):
            width = TextTransformer(self.words, self.classes, (self.tokens,)).embedding.embedding_dim
        return self.batch_size * self.tokens, width, 3 * width

    @property
    def field(self) -> Field:
        return Field(kind="tokens", dtype=torch.int16, shape=(self.tokens,), padding=0, sizes=(self.words,))

    def drawn(self, label_N: Tensor, numbers: torch.Generator) -> Tensor:
        N, L = self.population, self.tokens
        word_NL = torch.randint(1, self.words, (N, L), generator=numbers)
        of_class_NL = 1 + label_N[:, None] + self.classes * torch.randint(20, (N, L), generator=numbers)
        word_NL = torch.where(torch.rand(N, L, generator=numbers) < 0.1, of_class_NL, word_NL)
        length_N1 = torch.randint(L // 4, L + 1, (N, 1), generator=numbers)
        return (word_NL * (torch.arange(L) < length_N1)).to(self.field.dtype)


@dataclass(frozen=True, kw_only=True)
class Recordings(Formed):
    """Tones under noise, of a pitch for each class, for the audio network."""

    sample_rate: int
    seconds: float

    @property
    def network(self) -> str:
        return f"audio_cnn for {self.seconds:g} s at {self.sample_rate} Hz"

    @property
    def architecture(self) -> Callable[..., nn.Module]:
        return AudioCNN

    @property
    def samples(self) -> int:
        return round(self.seconds * self.sample_rate)

    @property
    def first_product(self) -> tuple[int, int, int]:
        """That of the spectra with the weights of the bands."""
        with isolated(SEED, "benchmark", "network"):
            layer = AudioCNN((self.samples,), self.classes, self.sample_rate).get_submodule("log_mel")
        frames = layer(torch.zeros(1, self.samples)).shape[-2]
        frequencies, bands = layer.get_buffer("weight").shape
        return self.batch_size * frames, frequencies, bands

    @property
    def field(self) -> Field:
        return Field(kind="waveform", dtype=torch.int16, shape=(self.samples,), sample_rate=self.sample_rate)

    def drawn(self, label_N: Tensor, numbers: torch.Generator) -> Tensor:
        N, S = self.population, self.samples
        pitch_N1 = 300 + 100 * label_N[:, None] + 60 * torch.randn(N, 1, generator=numbers)
        phase_NS = 2 * math.pi * (pitch_N1 * torch.arange(S) / self.sample_rate + torch.rand(N, 1, generator=numbers))
        x_NS = 0.2 * phase_NS.sin() + 0.1 * torch.randn(N, S, generator=numbers)
        return (x_NS * 2**15).clamp(-(2**15), 2**15 - 1).to(self.field.dtype)


LOCATION = Vectors(
    name="location",
    population=5010,
    features=446,
    levels=2,
    classes=30,
    hidden=(128,),
    activation="tanh",
    records=1200,
    batch_size=100,
)
DIGITS = Vectors(
    name="digits",
    population=1797,
    features=64,
    levels=17,
    classes=10,
    hidden=(128, 128),
    activation="tanh",
    records=300,
    batch_size=50,
)
PURCHASE = Vectors(
    name="purchase",
    population=50_000,
    features=600,
    levels=2,
    classes=100,
    hidden=(128,),
    activation="tanh",
    records=10_000,
    batch_size=100,
)
TEXTS = Texts(
    name="texts",
    population=2000,
    words=4096,
    tokens=64,
    classes=2,
    records=200,
    batch_size=20,
    epochs=10,
)
RECORDINGS = Recordings(
    name="recordings",
    population=1000,
    sample_rate=8000,
    seconds=0.5,
    classes=4,
    records=100,
    batch_size=20,
    epochs=20,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """A setting with its records and networks; model k is the same in every variant."""

    setting: Setting
    population: Population
    make_network: Callable[[], nn.Module]
    device: torch.device
    epochs: int
    precision: str = "32"

    def initial_network(self, k: int) -> nn.Module:
        with isolated(SEED, "shadow", k, "initialisation"):  # the name under which a stack initialises its model k
            return self.make_network()

    def records(self, k: int) -> Tensor:
        """Indices of the training records of model k."""
        drawn = torch.randperm(len(self.population), generator=generator(SEED, "benchmark", "records", k))
        return drawn[: self.setting.records]

    def tensors(self, k: int) -> tuple[Tensor, Tensor]:
        """Training records and labels of model k."""
        index = self.records(k).to(self.population.device)
        return one_tensor(self.population.records(index)), self.population.label_N[index]

    @torch.no_grad()
    def loss(self, k: int, network: nn.Module) -> float:
        """Mean cross-entropy of model k on its training records, in nats."""
        x_M, label_M = self.tensors(k)
        return float(nn.functional.cross_entropy(network.to(self.device)(x_M), label_M))


def make_case(setting: Setting, device: torch.device, epochs: int | None, precision: str = "32") -> Case:
    """A setting with its records; `epochs` are those of the setting where they are None."""
    population = setting.make_population().to(device)
    return Case(
        setting=setting,
        population=population,
        make_network=bind_records(setting.architecture, population),
        device=device,
        epochs=setting.epochs if epochs is None else epochs,
        precision=precision,
    )


def operations(network: nn.Module, records: int, epochs: int) -> int:
    """Floating-point operations of training a multilayer perceptron, matrix products alone (formula above)."""
    sizes = [m.in_features * m.out_features for m in network.modules() if isinstance(m, nn.Linear)]
    return epochs * records * (sum(6 * size for size in sizes) - 2 * sizes[0])
