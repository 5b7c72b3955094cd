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
class Sizes(ABC):
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
class Vectors(Sizes):
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
        """In words."""
        return f"{'-'.join(map(str, (self.features, *self.hidden, self.classes)))} {self.activation} network"

    @property
    def architecture(self) -> Callable[..., nn.Module]:
        return partial(MLP, hidden=self.hidden, activation=self.activation)

    @property
    def first_product(self) -> tuple[int, int, int]:
        """The matrix product [m, k] x [k, n] of the first layer."""
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
class Formed(Sizes):
    """Records of one field, whose networks the package trains in the way that it measures to be the fastest.

    Attributes:
        network: in words.
        architecture: of the networks.
        field: what a record is.
        draw: records `[N, *shape]` of the setting, from their classes and a generator.
        first_layer: of a network, the matrix product of its first layer for one record.
    """

    network: str
    architecture: Callable[..., nn.Module]
    field: Field
    draw: Callable[["Formed", Tensor, torch.Generator], Tensor]
    first_layer: Callable[[nn.Module, Field], tuple[int, int, int]]

    @property
    def first_product(self) -> tuple[int, int, int]:
        """The matrix product [m, k] x [k, n] of the first layer."""
        network = make_case(self, torch.device("cpu"), epochs=1).initial_network(0)
        m, k, n = self.first_layer(network, self.field)
        return self.batch_size * m, k, n

    def drawn(self, label_N: Tensor, numbers: torch.Generator) -> Tensor:
        return self.draw(self, label_N, numbers).to(self.field.dtype)

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


def draw_texts(setting: Formed, label_N: Tensor, numbers: torch.Generator) -> Tensor:
    """Texts of different lengths whose words are partly those of their class."""
    N, (L,), (words,) = len(label_N), setting.field.shape, setting.field.sizes
    word_NL = torch.randint(1, words, (N, L), generator=numbers)
    of_class_NL = 1 + label_N[:, None] + setting.classes * torch.randint(20, (N, L), generator=numbers)
    word_NL = torch.where(torch.rand(N, L, generator=numbers) < 0.1, of_class_NL, word_NL)
    length_N1 = torch.randint(L // 4, L + 1, (N, 1), generator=numbers)
    return word_NL * (torch.arange(L) < length_N1)


def queries_keys_and_values(network: nn.Module, field: Field) -> tuple[int, int, int]:
    width = int(network.get_submodule("embedding").get_parameter("weight").shape[1])
    return field.shape[0], width, 3 * width


def draw_recordings(setting: Formed, label_N: Tensor, numbers: torch.Generator) -> Tensor:
    """Tones under noise, of a pitch for each class."""
    N, (S,), rate = len(label_N), setting.field.shape, setting.field.sample_rate
    assert rate is not None
    pitch_N1 = 300 + 100 * label_N[:, None] + 60 * torch.randn(N, 1, generator=numbers)
    phase_NS = 2 * math.pi * (pitch_N1 * torch.arange(S) / rate + torch.rand(N, 1, generator=numbers))
    x_NS = 0.2 * phase_NS.sin() + 0.1 * torch.randn(N, S, generator=numbers)
    return (x_NS * 2**15).clamp(-(2**15), 2**15 - 1)


def spectra_by_bands(network: nn.Module, field: Field) -> tuple[int, int, int]:
    layer = network.get_submodule("log_mel")
    frequencies, bands = layer.get_buffer("weight").shape
    return layer(torch.zeros(1, *field.shape)).shape[-2], frequencies, bands


Setting = Vectors | Formed

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
TEXTS = Formed(
    name="texts",
    network="text_transformer for 64 of 4096 words",
    architecture=partial(TextTransformer, dropout=0.0),
    field=Field(kind="tokens", dtype=torch.int16, shape=(64,), padding=0, sizes=(4096,)),
    draw=draw_texts,
    first_layer=queries_keys_and_values,
    population=2000,
    classes=2,
    records=200,
    batch_size=20,
    epochs=10,
)
RECORDINGS = Formed(
    name="recordings",
    network="audio_cnn for 0.5 s at 8000 Hz",
    architecture=AudioCNN,
    field=Field(kind="waveform", dtype=torch.int16, shape=(4000,), sample_rate=8000),
    draw=draw_recordings,
    first_layer=spectra_by_bands,
    population=1000,
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
