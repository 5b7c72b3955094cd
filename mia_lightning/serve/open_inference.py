"""The Open Inference Protocol (v2) over REST, as KServe, Triton and MLServer speak it.

Source: github.com/kserve/open-inference-protocol, "Open Inference Protocol specification", the HTTP/REST part.
"""

import json
import math
from collections import Counter
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from torch import Tensor

from mia_lightning.serve.desk import JSON, Desk, Reply
from mia_lightning.serve.records import Form, numbers, parsed_object
from mia_lightning.serve.refusals import RefusedError
from mia_lightning.serve.run import ServedModel
from mia_lightning.serve.shown import LABELS, PROBABILITIES, Answers

INPUT, VERSION = "x", "1"
_DATATYPES: "dict[str, np.dtype[Any]]" = {
    "BOOL": np.dtype(bool),
    **{f"{sign}INT{bits}": np.dtype(f"{sign.lower()}int{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}


def routes(model: ServedModel, desk: Desk, form: Form) -> APIRouter:
    """The protocol's routes for one model."""
    from mia_lightning import __version__

    router = APIRouter()

    @router.get("/v2")
    def server() -> dict[str, Any]:
        return {"name": "mia-serve", "version": __version__, "extensions": []}

    @router.get("/v2/health/live")
    def live() -> dict[str, Any]:
        return {"live": True}

    @router.get("/v2/health/ready")
    def ready() -> dict[str, Any]:
        return {"ready": True}

    @router.get("/v2/models/{name}")
    @router.get("/v2/models/{name}/versions/{version}")
    def metadata(name: str, version: str = VERSION) -> dict[str, Any]:
        check_name(model, name, version)
        return _metadata(model, form)

    @router.get("/v2/models/{name}/ready")
    @router.get("/v2/models/{name}/versions/{version}/ready")
    def model_ready(name: str, version: str = VERSION) -> dict[str, Any]:
        check_name(model, name, version)
        return {"name": model.name, "ready": True}

    @router.post("/v2/models/{name}/infer")
    @router.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        check_name(model, name, version)
        if "inference-header-content-length" in request.headers:
            raise RefusedError(400, "this server reads no binary data; send the tensors as JSON")
        return await desk.answer(request, [JSON], lambda body: _infer(model, form, body))

    return router


def check_name(model: ServedModel, name: str, version: str = VERSION) -> None:
    """Refuse another model, or another version of this one."""
    if name != model.name:
        raise RefusedError(404, f"there is no model {name[:100]!r} here; the one that is served is {model.name!r}")
    if version != VERSION:
        raise RefusedError(
            404, f"the model {model.name!r} has no version {version[:100]!r}; it has version {VERSION!r}"
        )


def _metadata(model: ServedModel, form: Form) -> dict[str, Any]:
    shown = model.shown
    names = {"parameters": {"class_names": list(model.population.class_names)}}
    label: dict[str, Any] = {"name": "label", "datatype": "BYTES", "shape": [-1]}
    C = model.population.num_classes
    if shown.kind == LABELS:
        outputs = [{**label, **names}]
    elif shown.kind == PROBABILITIES:
        outputs = [{"name": "probabilities", "datatype": "FP64", "shape": [-1, C], **names}, label]
    else:
        outputs = [
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, shown.k]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1, shown.k], **names},
            label,
        ]
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "mia_lightning",
        "inputs": [
            {"name": name, "datatype": _datatype(each), "shape": [-1, *each.shape]}
            for name, each in (form.named or {INPUT: form}).items()
        ],
        "outputs": outputs,
    }


def _datatype(form: Form) -> str:
    whole = {"uint8": "UINT8", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64"}
    return whole.get(str(form.dtype).removeprefix("torch."), "FP32")


def _infer(model: ServedModel, form: Form, body: bytes) -> Reply:
    content = parsed_object(body, form)
    identifier = content.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise RefusedError(400, "`id` is no text; send a text, or leave it out")
    wanted = _wanted(content.get("outputs"))
    x_B = _named(content, form) if form.named else form.records(_input(content, form))
    outputs = _outputs(model.answer(x_B), wanted)
    reply = {"model_name": model.name, "model_version": VERSION, "outputs": outputs}
    if identifier is not None:
        reply["id"] = identifier
    return Reply(content=json.dumps(reply, allow_nan=False).encode(), num_records=len(x_B))


def _wanted(outputs: Any) -> list[str] | None:
    """The names of the requested outputs; None where the server chooses."""
    if outputs is None or outputs == []:
        return None
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        raise RefusedError(400, '`outputs` is no list of objects; send [{"name": "probabilities"}], or leave it out')
    names = [str(each.get("name")) for each in outputs]
    (name, count), *_ = Counter(names).most_common(1)
    if count > 1:
        raise RefusedError(400, f"`outputs` names {name[:100]!r} {count} times; name each output once")
    return names


def _input(content: dict[str, Any], form: Form) -> "np.ndarray[Any, Any]":
    """The numbers of the only input, in the shape that the request gives."""
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RefusedError(400, f"`inputs` is no list of one tensor; send the one input, {INPUT!r}")
    return _numbers(inputs[0], form)


def _named(content: dict[str, Any], form: Form) -> Tensor:
    """The records of several named inputs, as they are stored."""
    inputs = content.get("inputs")
    listed = inputs if isinstance(inputs, list) and all(isinstance(each, dict) for each in inputs) else []
    names = [str(each.get("name")) for each in listed]
    if sorted(names) != sorted(form.named):
        raise RefusedError(400, f"`inputs` is no list of the tensors {', '.join(form.named)}; send each of them once")
    values = {
        name: form.named[name].records(_numbers(one, form.named[name])) for name, one in zip(names, listed, strict=True)
    }
    if len(set(map(len, values.values()))) > 1:
        raise RefusedError(400, "the inputs have different numbers of records; send one row of each for a record")
    assert form.data is not None
    return form.checked(form.data.packed(values))


def _numbers(one: dict[str, Any], form: Form) -> "np.ndarray[Any, Any]":
    """The numbers of an input, in the shape that the request gives."""
    shape, datatype = one.get("shape"), one.get("datatype")
    if (
        not isinstance(shape, list)
        or not shape
        or any(type(size) is not int or not 0 <= size < 2**63 for size in shape)
    ):
        raise RefusedError(400, "`shape` of the input is no list of sizes; send [records, *features]")
    if not isinstance(datatype, str) or datatype not in _DATATYPES:
        raise RefusedError(400, f"`datatype` of the input is none of {', '.join(_DATATYPES)}; send one of these")
    form.check_count(shape[0])
    form.check_shape(tuple(shape[1:]))
    try:
        flat = numbers(one.get("data"))
    except ValueError:
        raise RefusedError(400, "`data` of the input differs in the length of its rows; send it flat") from None
    except TypeError:
        raise RefusedError(400, "`data` of the input holds what is no number; send a list of numbers") from None
    if flat.size != math.prod(shape):
        raise RefusedError(
            400, f"`data` of the input has {flat.size} numbers, and its shape {shape} {math.prod(shape)}"
        )
    return _as_datatype(flat, datatype).reshape(shape)


def _as_datatype(value: "np.ndarray[Any, Any]", datatype: str) -> "np.ndarray[Any, Any]":
    wanted = _DATATYPES[datatype]
    with np.errstate(over="ignore", invalid="ignore"):
        cast = value.astype(wanted)
    if wanted.kind != "f" and not np.array_equal(cast, value):
        raise RefusedError(400, f"`data` of the input holds what is no {datatype}; send numbers of its datatype")
    return cast


def _outputs(answers: Answers, wanted: list[str] | None) -> list[dict[str, Any]]:
    B, shown = len(answers), answers.shown

    def tensor(name: str, datatype: str, columns: list[int], data: list[Any]) -> dict[str, Any]:
        return {"name": name, "datatype": datatype, "shape": [B, *columns], "data": data}

    def flat(rows: list[list[Any]]) -> list[Any]:
        return [each for row in rows for each in row]

    made = {"label": tensor("label", "BYTES", [], list(answers.labels()))}
    chosen = ["label"]
    if shown.kind == PROBABILITIES:
        C = answers.probability_BC.shape[1]
        made["probabilities"] = tensor("probabilities", "FP64", [C], flat(answers.probabilities()))
        chosen = ["probabilities"]
    elif shown.kind != LABELS:
        names, values = answers.largest()
        made["labels"] = tensor("labels", "BYTES", [shown.k], flat(names))
        made["probabilities"] = tensor("probabilities", "FP64", [shown.k], flat(values))
        chosen = ["labels", "probabilities"]
    unknown = [name for name in wanted or () if name not in made]
    if unknown:
        raise RefusedError(400, f"there is no output {unknown[0][:100]!r}; this server shows {', '.join(sorted(made))}")
    return [made[name] for name in wanted or chosen]
