"""The routes of a training service, which `mia_lightning.targets.services.http` describes and uses."""

import json
import math
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mia_lightning.serve.desk import BYTES, JSON, Desk, Reply, media_type
from mia_lightning.serve.projects import Projects
from mia_lightning.serve.records import Form, check_answers, instances_of, parsed_object
from mia_lightning.serve.refusals import RefusedError
from mia_lightning.targets.services.interface import ServiceJob

_MOST_CLASSES = 100_000
_MOST_PRODUCTS = 2**28  # features times classes, or times the width of a network, of one model
_WIDTH = 256
_LONGEST_HEADER = 10_000  # bytes of a safetensors body that describe its tensors
_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


def routes(projects: Projects, desk: Desk, *, max_records: int) -> APIRouter:
    """The service's routes.

    Args:
        max_records: in one request for predictions.
    """
    router = APIRouter()

    @router.post("/v1/projects")
    def create() -> dict[str, Any]:
        return {"project": projects.create(), "service": projects.name}

    @router.get("/v1/projects/{project}")
    def state(project: str) -> dict[str, Any]:
        return {"project": project, "service": projects.name, **projects.find(project).to_json()}

    @router.delete("/v1/projects/{project}")
    def delete(project: str) -> dict[str, Any]:
        projects.delete(project)
        return {}

    @router.post("/v1/projects/{project}/jobs")
    async def upload(request: Request, project: str) -> Response:
        projects.find(project)  # before the body is read
        name, num_classes = _asked(request)
        body = await desk.body(request, [BYTES])

        def add() -> None:
            projects.add(project, _job(body, name, num_classes))

        await run_in_threadpool(add)
        return JSONResponse({"name": name})

    @router.post("/v1/projects/{project}:train")
    def train(project: str) -> Response:
        projects.train(project)
        return JSONResponse({"project": project}, status_code=202)

    @router.post("/v1/projects/{project}/models/{model:path}:predict")
    async def predict(request: Request, project: str, model: str) -> Response:
        shape, dtype = projects.form_of(project, model)
        form = Form(shape=shape, dtype=dtype, max_records=max_records)
        is_json = media_type(request) == JSON

        def reply(body: bytes) -> Reply:
            x_B = form.records(instances_of(parsed_object(body, form))) if is_json else _records(body, form)
            probability_BC = check_answers(projects.predict(project, model, x_B))
            if not is_json:
                content = save({"probability": probability_BC.contiguous()})
                return Reply(content=content, num_records=len(x_B), media_type=BYTES)
            text = json.dumps({"predictions": probability_BC.tolist()}, allow_nan=False)
            return Reply(content=text.encode(), num_records=len(x_B))

        return await desk.answer(request, [JSON, BYTES], reply)

    return router


def _asked(request: Request) -> tuple[str, int]:
    name, text = request.query_params.get("name", ""), request.query_params.get("num_classes", "")
    if not 1 <= len(name) <= 200:
        raise RefusedError(400, "a job needs a name of 1 to 200 letters; add ?name=...&num_classes=... to the address")
    if not text.isascii() or not text.isdecimal() or len(text) > 6 or not 2 <= int(text) <= _MOST_CLASSES:
        raise RefusedError(400, f"num_classes is {text[:20]!r}; it must be a whole number from 2 to {_MOST_CLASSES}")
    return name, int(text)


def _job(body: bytes, name: str, num_classes: int) -> ServiceJob:
    tensors = _tensors(body, ("x", "label"))
    x_N, label_N = tensors["x"], tensors["label"]
    _check_records(x_N)
    if label_N.dtype != torch.int64 or label_N.shape != x_N.shape[:1]:
        raise RefusedError(400, f"`label` is no int64 [{len(x_N)}]; send the class of each record")
    outside_N = (label_N < 0) | (label_N >= num_classes)
    if bool(outside_N.any()):
        row = int(outside_N.nonzero()[0])
        raise RefusedError(400, f"label {int(label_N[row])} of record {row} is outside 0 to {num_classes - 1}")
    size = math.prod(x_N.shape[1:])
    if size * max(num_classes, _WIDTH) > _MOST_PRODUCTS:
        raise RefusedError(
            413,
            f"records of {size} features in {num_classes} classes need a larger model than this server trains; send "
            "fewer features or classes",
        )
    return ServiceJob(name=name, x_N=x_N, label_N=label_N, num_classes=num_classes)


def _records(body: bytes, form: Form) -> Tensor:
    x_B = _tensors(body, ("x",))["x"]
    if x_B.dtype != form.dtype or tuple(x_B.shape[1:]) != form.shape:
        dtype = str(form.dtype).removeprefix("torch.")
        raise RefusedError(400, f"`x` is no {dtype} [records, *{list(form.shape)}], as the model's own records were")
    form.check_count(len(x_B))
    _check_records(x_B)
    return x_B


def _tensors(body: bytes, names: tuple[str, ...]) -> dict[str, Tensor]:
    try:
        if int.from_bytes(body[:8], "little") > _LONGEST_HEADER:
            raise ValueError
        tensors = load(body)
    except (SafetensorError, KeyError, ValueError, OverflowError):
        raise RefusedError(400, f"the body is no safetensors; send a file with {' and '.join(names)}") from None
    if set(tensors) != set(names):
        raise RefusedError(400, f"the body holds other tensors than {' and '.join(names)}; send these alone")
    return tensors


def _check_records(x_N: Tensor) -> None:
    if x_N.ndim < 2 or len(x_N) == 0 or math.prod(x_N.shape[1:]) == 0 or x_N.dtype not in _DTYPES:
        raise RefusedError(400, "`x` is no tensor of numbers [records, *features] with at least one of each")
    if x_N.is_floating_point() and not bool(x_N.isfinite().all()):
        row = int((~x_N.isfinite()).flatten(1).any(1).nonzero()[0])
        raise RefusedError(400, f"record {row} has a value that is not finite; send finite numbers")
