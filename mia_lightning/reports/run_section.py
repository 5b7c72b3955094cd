"""The section of the report about the run that made it: when, where, and how the models were trained."""

from typing import Any, Literal

from pydantic import Field

from mia_lightning.reports.section import Section


class MeasuredExecution(Section):
    """A way of training that a probe tried."""

    execution: Literal["stack", "loop"]
    chunk: int
    seconds_per_step: float  # of all models of the chunk
    models_per_second: float  # trained from beginning to end
    bytes: int  # estimated
    threads: int | None = None  # of torch on the CPU, in each process; null where one number alone was tried
    processes: int = 1
    cuda_graphs: bool = False  # whether its steps were recorded as CUDA graphs
    packed_bits: bool = False  # whether records of zeros and ones lay on the device as bits
    compile: bool = False  # whether forward and backward passes were compiled
    streams: bool = False  # whether several models of a loop were stepped at the same time
    channels_last: bool = False  # whether a loop on a CUDA device laid out convolutions so; on a CPU it does anyway


class ExecutionSection(Section):
    """How the models of a role were trained, with the estimates of time and memory; also in `execution.json`."""

    role: str
    num_models: int
    epochs: int
    execution: Literal["stack", "loop"]  # by vmap, or model by model
    chunk: int  # models at once
    reason: str
    seconds: float  # estimated; without a measurement, of single forward and backward steps alone
    bytes: int  # estimated, of the device
    threads: int  # of torch, in each process
    processes: int = 1  # on the CPU, each of which trained a part of the models
    cuda_graphs: bool = False  # whether the steps were recorded as CUDA graphs
    packed_bits: bool = False  # whether records of zeros and ones lay on the device as bits
    compile: bool = False  # whether forward and backward passes were compiled
    streams: bool = False  # whether several models of a loop were stepped at the same time
    channels_last: bool = False  # whether a loop on a CUDA device laid out convolutions so; on a CPU it does anyway
    measured: tuple[MeasuredExecution, ...]  # the fastest first; empty if a probe would not have paid


class ReuseSection(Section):
    """Whether the models of a role came from the store or were trained."""

    found: int  # in the store
    trained: int  # in this run
    reason: str | None = None  # what differs from the most similar models in the store; null without such


class RunSection(Section):
    """The run that made the report."""

    created: str  # ISO 8601, UTC
    seed: int
    device: str
    precision: str
    versions: dict[str, str]  # of python, mia_lightning, torch, pytorch_lightning
    seconds: dict[str, float]  # by stage: target, shadow, attack/<name>
    config: dict[str, Any]  # the resolved configuration; {} for a run from Python
    execution: tuple[ExecutionSection, ...] = ()  # one for each role and size that was trained
    store: dict[str, ReuseSection] = Field(default_factory=dict)  # by role; empty without a store
    peak_memory: dict[str, int] = Field(default_factory=dict)  # bytes: process (resident), device (CUDA alone)
