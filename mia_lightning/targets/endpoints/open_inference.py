"""Models behind the Open Inference Protocol, version 2 over REST: KServe, Triton, MLServer and others.

Source: https://github.com/kserve/open-inference-protocol, "inference_rest".
"""

import json
import threading
from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.form import Form
from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Name, OneOf
from mia_lightning.targets.endpoints.answers import received
from mia_lightning.targets.endpoints.interface import Endpoint, RawAnswer
from mia_lightning.targets.endpoints.named_model import NamedModel
from mia_lightning.targets.failures import RefusedError, StatusError, TryAgainError
from mia_lightning.targets.http_client import HttpClient
from mia_lightning.training.setup import Setup

_TYPES = {
    "FP16": torch.float16,
    "FP32": torch.float32,
    "FP64": torch.float64,
    "UINT8": torch.uint8,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()} | {torch.bfloat16: "FP32"}
_FLOATS = ("FP16", "FP32", "FP64", "BF16")
_WHOLES = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_DEFAULT_INPUT = "input-0"
_MOST_AXES = 64  # of a tensor


@settings("target")
class OpenInference(NamedModel):
    """A model at `{url}/v2/models/{model}`.

    Attributes:
        input: the name of the model's input; None for the one that its metadata names.
        output: the name of the output that holds the answers. None for the names of the most probable classes with as
            many probabilities, where two outputs hold these; else for the first output with a floating-point number for
            each class, or with one where there are two classes; else for the first output with one label for each
            record.
        datatype: of the input, such as FP32; None for that of its metadata, else that of the records.
    """

    input: Name | None = None
    output: Name | None = None
    datatype: Annotated[str, OneOf(_TYPES)] | None = None
    takes_named: ClassVar[bool] = True

    def connect(self, setup: Setup) -> Endpoint:
        """The model's endpoint.

        Raises:
            InputError: `input` or `datatype` is set for records of several tensors, which have their own.
        """
        form = setup.population.form
        if form is None or form.is_one:
            return OpenInferenceEndpoint(self, self.client(), setup.population.num_classes)
        odd = next((name for name in ("input", "datatype") if getattr(self, name) is not None), None)
        if odd is not None:
            raise InputError(
                f"`target.{odd}` is {getattr(self, odd)!r}, but a record here is {form.words}, each sent under its own "
                "name and in its own type; set it to null."
            )
        return OpenInferenceEndpoint(self, self.client(), setup.population.num_classes, form)


class OpenInferenceEndpoint:
    """One model (`mia_lightning.targets.endpoints.interface.Endpoint`).

    Its metadata are asked for before the first records, unless the settings name input and datatype.
    """

    protocol = "open_inference"

    def __init__(self, target: OpenInference, client: HttpClient, num_classes: int, form: Form | None = None) -> None:
        self._target, self._client, self._num_classes, self._form = target, client, num_classes, form
        self._path = f"/v2/{target.path}"
        self._lock = threading.Lock()
        self._inputs: list[dict[str, Any]] | None = None  # as far as settings and metadata say them

    @property
    def place(self) -> str:
        return self._client.place + self._path

    @property
    def identity(self) -> Mapping[str, object]:
        target = self._target
        asked = {"input": target.input, "output": target.output, "datatype": target.datatype}
        of_form = {} if self._form is None else {"form": self._form.described()}
        return {"protocol": self.protocol, "place": self.place, **asked, **of_form}

    def ask(self, x_B: Tensor) -> Sequence[RawAnswer]:
        """The answers of one `infer` request."""
        body: dict[str, Any] = {"inputs": self._tensors(x_B)}
        if self._target.output is not None:
            body["outputs"] = [{"name": self._target.output}]
        answer = self._client.post(f"{self._path}/infer", json.dumps(body).encode())
        return self._answers(answer, len(x_B))

    def close(self) -> None:
        self._client.close()

    def _tensors(self, x_B: Tensor) -> list[dict[str, Any]]:
        if self._form is None:
            return [self._tensor(x_B, self._known_input())]
        values = self._form.unpacked(x_B)
        masks = {field.mask: field for field in self._form.fields if field.mask is not None}
        known = {each["name"]: each for each in self._known_inputs() if isinstance(each.get("name"), str)}
        of_masks = {name: field.is_real(values[field.name]).long() for name, field in masks.items() if name in known}
        lacking = [name for name in values if known and name not in known]
        if lacking or any(name not in {**values, **of_masks} for name in known):
            raise RefusedError(
                f"The model at {self.place} has the inputs {received(list(known))}, and a record here is "
                f"{self._form.words}; name the tensors of the records as its inputs."
            )
        gaps = next((name for name, value in values.items() if value.is_floating_point() and value.isnan().any()), None)
        if gaps is not None:
            raise RefusedError(f"`{gaps}` of the records has gaps (NaN), which JSON cannot send; fill them in.")
        return [self._tensor(each, known.get(name, {"name": name})) for name, each in {**values, **of_masks}.items()]

    def _tensor(self, x_B: Tensor, known: dict[str, Any]) -> dict[str, Any]:
        datatype = self._target.datatype or known.get("datatype")
        name = datatype if isinstance(datatype, str) and datatype in _TYPES else _NAMES.get(x_B.dtype, "FP32")
        x_B = self._shaped(_converted(x_B, name), known.get("shape"))
        return {
            "name": known["name"],
            "shape": list(x_B.shape),
            "datatype": name,
            "data": x_B.flatten().tolist(),
        }

    def _shaped(self, x_B: Tensor, shape: object) -> Tensor:
        """In the shape that the metadata name, where they name the size of each axis but the first."""
        if not isinstance(shape, list) or not all(type(size) is int for size in shape):
            return x_B
        if not 2 <= len(shape) <= _MOST_AXES:
            return x_B
        wanted = shape[1:]
        if any(size <= 0 for size in wanted):
            return x_B
        if prod(wanted) != x_B[0].numel():
            raise RefusedError(
                f"The model at {self.place} takes records of shape {wanted}, but those of the data set have shape "
                f"{list(x_B.shape[1:])}; choose the `dataset` that it was made for."
            )
        return x_B.reshape(len(x_B), *wanted)

    def _known_input(self) -> dict[str, Any]:
        """Name, datatype and shape of the input, as far as settings and metadata say them."""
        target = self._target
        if target.input is not None and target.datatype is not None:
            return {"name": target.input}
        named = self._known_inputs()
        if target.input is not None:
            named = [each for each in named if each["name"] == target.input] or [{"name": target.input}]
        if len(named) > 1:
            raise RefusedError(
                f"The model at {self.place} has {len(named)} inputs "
                f"({received([each['name'] for each in named])}); name the one that takes the records in target.input."
            )
        return named[0] if named else {"name": _DEFAULT_INPUT}

    def _known_inputs(self) -> list[dict[str, Any]]:
        """The inputs that the metadata name; none where the server has no metadata."""
        with self._lock:
            if self._inputs is None:
                self._inputs = self._look_up_inputs()
            return self._inputs

    def _look_up_inputs(self) -> list[dict[str, Any]]:
        try:
            metadata = self._client.get(self._path)
        except StatusError as error:
            if error.status in (401, 403):
                raise
            metadata = None  # some servers have none; if there is no such model, the first answer says so
        except TryAgainError as error:
            raise TryAgainError(error.reason, after=error.after, was_asked=False) from None
        inputs = metadata.get("inputs") if isinstance(metadata, dict) else None
        listed = inputs if isinstance(inputs, list) else []
        return [each for each in listed if isinstance(each, dict) and isinstance(each.get("name"), str)]

    def _answers(self, answer: object, num: int) -> Sequence[RawAnswer]:
        outputs = answer.get("outputs") if isinstance(answer, dict) else None
        if not isinstance(outputs, list) or not all(isinstance(each, dict) and "data" in each for each in outputs):
            raise self._refused(f"{received(answer)}, which has no `outputs` with `data`")
        for output in outputs:
            if not all(isinstance(output.get(each), str | None) for each in ("name", "datatype")):
                raise self._refused(f"{received(output)}, whose `name` or `datatype` is no text")
        named = self._named(outputs, num)
        if named is not None:
            return named
        output = self._chosen(outputs, num)
        values = _flat(output["data"])
        if len(values) % num or not values:
            name = received(output.get("name"))
            raise self._refused(f"{len(values)} values ({received(values)}) for {num} records in the output {name}")
        datatype, width = output.get("datatype"), len(values) // num
        if datatype == "BYTES" or datatype in _WHOLES:
            return [values[at] if width == 1 else values[at : at + width] for at in range(0, len(values), width)]
        try:
            return np.asarray(values, dtype=np.float64).reshape(num, width).tolist()
        except (ValueError, TypeError):
            raise self._refused(f"{received(values)}, which are no numbers") from None

    def _named(self, outputs: Sequence[Mapping[str, Any]], num: int) -> Sequence[RawAnswer] | None:
        """The most probable classes by name, where one output has their names and one as many probabilities."""
        if self._target.output is not None:
            return None
        sizes = {each.get("datatype"): _flat(each["data"]) for each in outputs}
        names = sizes.get("BYTES", [])
        probability = next((sizes[each] for each in _FLOATS if each in sizes), [])
        k = len(names) // num
        if not 1 <= k < self._num_classes or not len(names) == len(probability) == num * k:
            return None
        if not all(isinstance(name, str) for name in names):
            raise self._refused(f"{received(names)}, which are no names of classes")
        answers = [dict(zip(names[at : at + k], probability[at : at + k], strict=True)) for at in range(0, num * k, k)]
        if any(len(each) < k for each in answers):
            raise self._refused(f"{received(names)}, which name a class twice for one record")
        return answers

    def _chosen(self, outputs: Sequence[Mapping[str, Any]], num: int) -> Mapping[str, Any]:
        wanted = self._target.output
        if wanted is not None:
            for output in outputs:
                if output.get("name") == wanted:
                    return output
            names = ", ".join(str(output.get("name")) for output in outputs)
            raise self._refused(f"the outputs {received(names)}, none of which is target.output={wanted}")
        for output in outputs:
            if output.get("datatype") in _FLOATS and len(_flat(output["data"])) == num * self._num_classes:
                return output
        if self._num_classes == 2:  # the probability of the second class alone
            for output in outputs:
                if output.get("datatype") in _FLOATS and len(_flat(output["data"])) == num:
                    return output
        for output in outputs:
            if (output.get("datatype") == "BYTES" or output.get("datatype") in _WHOLES) and len(
                _flat(output["data"])
            ) == num:
                return output
        if not outputs:
            raise self._refused("no output at all")
        return outputs[0]

    def _refused(self, found: str) -> InputError:
        return InputError(
            f"The model at {self.place} answered with {found}; set target.output to the output that holds the "
            "probabilities of all classes, or labels."
        )


def _converted(x_B: Tensor, name: str) -> Tensor:
    """In the type of the model's input, which must be able to hold the same numbers."""
    converted = x_B.to(_TYPES[name])
    if name not in _FLOATS and not torch.equal(converted.to(x_B.dtype), x_B):
        raise RefusedError(
            f"The model takes records of whole numbers ({name}), but the data set's are "
            f"{str(x_B.dtype).removeprefix('torch.')} with other numbers among them; set target.datatype, or choose "
            "another `dataset`."
        )
    return converted


def _flat(data: object) -> list[Any]:
    """Values one after the other; some servers send nested lists."""
    if not isinstance(data, list):
        return [data]
    while data and all(isinstance(each, list) for each in data):
        data = [value for each in data for value in each]
    return data
