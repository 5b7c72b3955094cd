"""The v1 protocol of TensorFlow Serving and KServe, and the routes of other platforms with the same body.

Source: tensorflow.org/tfx/serving/api_rest; kserve.github.io, "V1 protocol"; docs.aws.amazon.com/sagemaker,
"Common data formats for inference".
"""

import csv
import io
import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from mia_lightning.serve.desk import CSV, JSON, Desk, Reply, media_type
from mia_lightning.serve.open_inference import VERSION, check_name
from mia_lightning.serve.records import Form, instances_of, parsed, parsed_object
from mia_lightning.serve.refusals import RefusedError
from mia_lightning.serve.run import ServedModel


def routes(model: ServedModel, desk: Desk, form: Form) -> APIRouter:
    """The routes for one model: v1, Vertex AI, the container of SageMaker and its runtime."""
    router = APIRouter()

    @router.get("/v1/models/{name}")
    def status(name: str) -> dict[str, Any]:
        check_name(model, name)
        version = {"version": VERSION, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return {"name": model.name, "ready": True, "model_version_status": [version]}

    @router.post("/v1/models/{name}:predict")
    @router.post("/v1/models/{name}/versions/{version}:predict")
    @router.post("/v1/projects/{project}/locations/{location}/endpoints/{name}:predict")
    async def predict(request: Request, name: str, version: str = VERSION) -> Response:
        check_name(model, name, version)
        return await desk.answer(request, [JSON], lambda body: _predict(model, form, body))

    @router.get("/ping")
    def ping() -> Response:
        return Response()

    @router.post("/endpoints/{name}/invocations")
    async def invoke(request: Request, name: str) -> Response:
        check_name(model, name)
        return await invocations(request)

    @router.post("/invocations")
    async def invocations(request: Request) -> Response:
        sent, accepted = media_type(request), request.headers.get("accept", "")
        wanted = CSV if CSV in accepted else JSON if JSON in accepted else sent
        return await desk.answer(request, [JSON, CSV], lambda body: _invoke(model, form, body, sent, wanted))

    return router


def _predict(model: ServedModel, form: Form, body: bytes) -> Reply:
    form.check_one()
    return _reply(model, form, instances_of(parsed_object(body, form)), JSON)


def _invoke(model: ServedModel, form: Form, body: bytes, sent: str, wanted: str) -> Reply:
    form.check_one()
    if sent == CSV:
        return _reply(model, form, form.rows(body), wanted)
    content = parsed(body, form)
    return _reply(model, form, content if isinstance(content, list) else instances_of(_object(content)), wanted)


def _object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise RefusedError(400, 'the body is no list of records; send [[...], ...] or {"instances": [[...], ...]}')
    return content


def _reply(model: ServedModel, form: Form, values: Any, wanted: str) -> Reply:
    x_B = form.records(values)
    predictions = model.answer(x_B).predictions()
    if wanted == CSV:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(_cells(each) for each in predictions)
        return Reply(content=text.getvalue().encode(), num_records=len(x_B), media_type=CSV)
    content = json.dumps({"predictions": predictions}, allow_nan=False).encode()
    return Reply(content=content, num_records=len(x_B))


def _cells(prediction: Any) -> list[Any]:
    """A row of CSV: probabilities, a name, or names each followed by its probability."""
    if isinstance(prediction, dict):
        return [cell for pair in prediction.items() for cell in pair]
    return prediction if isinstance(prediction, list) else [prediction]
