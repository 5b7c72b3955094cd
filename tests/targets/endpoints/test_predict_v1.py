"""The v1 protocol: what is sent, and the forms in which predictions come."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from model_server import ModelServer, serving
from protocol_setup import population_of, setup_of

from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.predict_v1 import PredictV1, predict_body, predictions_of

X = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
ROWS = [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]


def asked(body: Any, **settings: Any) -> tuple[Any, ModelServer, str]:
    with serving(ModelServer(lambda method, path, request: (200, body))) as server:
        target = PredictV1(**{"url": server.url, "model": "my model", "token_variable": "", **settings})
        endpoint = target.connect(setup_of(population_of(X)))
        try:
            return endpoint.ask(X), server, endpoint.place
        finally:
            endpoint.close()


def test_the_request_is_that_of_the_protocol() -> None:
    answers, server, place = asked({"predictions": ROWS})
    assert answers == ROWS
    ((method, path, _, body),) = server.requests
    assert (method, path) == ("POST", "/v1/models/my%20model:predict")
    assert place == server.url + path
    assert body == {"instances": X.tolist()}
    assert torch.equal(torch.tensor(body["instances"]), X)
    _, server, _ = asked({"predictions": ROWS}, version=7, instance_key="image", signature_name="serving_default")
    ((_, path, _, body),) = server.requests
    assert path == "/v1/models/my%20model/versions/7:predict"
    assert body == {"signature_name": "serving_default", "instances": [{"image": each} for each in X.tolist()]}


def test_bytes_of_pictures_are_whole_numbers() -> None:
    assert predict_body(torch.tensor([[3, 255]], dtype=torch.uint8)) == {"instances": [[3, 255]]}


@pytest.mark.parametrize(
    ("prediction", "key", "answer"),
    [
        ([0.5, 0.5], None, [0.5, 0.5]),
        ("cat", None, "cat"),
        (2, None, 2),
        ({"probabilities": [0.5, 0.5]}, None, [0.5, 0.5]),
        ({"probabilities": [0.5, 0.5], "label": "cat"}, "probabilities", [0.5, 0.5]),
        ({"probabilities": [0.5, 0.5], "label": "cat"}, "label", "cat"),
        ({"cat": 0.5, "dog": 0.25}, None, {"cat": 0.5, "dog": 0.25}),
        ({"cat": 0.5}, None, {"cat": 0.5}),
        ({"label": "cat"}, None, "cat"),
        (
            {"displayNames": ["cat", "dog"], "confidences": [0.5, 0.25], "ids": ["1", "2"]},
            None,
            {"cat": 0.5, "dog": 0.25},
        ),
        ({"classes": ["cat", "dog"], "scores": [0.5, 0.25]}, None, {"cat": 0.5, "dog": 0.25}),
        ({"classes": [0, 1], "scores": [0.5, 0.25]}, None, {"0": 0.5, "1": 0.25}),
        ({"classes": "cat", "scores": 0.5}, None, {"cat": 0.5}),
    ],
)
def test_forms_of_predictions(prediction: Any, key: str | None, answer: Any) -> None:
    assert predictions_of({"predictions": [prediction, prediction]}, key=key, place="here") == [answer, answer]


@pytest.mark.parametrize(
    ("prediction", "key", "why"),
    [
        ({"logits": [1.0]}, "probabilities", "has no 'probabilities'; set target.prediction_key"),
        ({"probabilities": [0.5, 0.5], "label": "cat"}, None, "has several parts; set target.prediction_key"),
        ({"classes": ["cat", "dog"], "scores": [0.5]}, None, "has 2 different names and 1 numbers"),
        ({"classes": ["cat", "cat"], "scores": [0.5, 0.5]}, None, "has 1 different names and 2 numbers"),
    ],
)
def test_predictions_that_cannot_be_told_are_refused(prediction: Any, key: str | None, why: str) -> None:
    with pytest.raises(InputError, match=f"The model at here answered with .*{why}"):
        predictions_of({"predictions": [prediction]}, key=key, place="here")


@pytest.mark.parametrize("body", [{}, [], "no", {"predictions": "no"}, {"outputs": [1]}, None])
def test_a_body_without_predictions_is_refused(body: object) -> None:
    with pytest.raises(InputError, match="has no list of `predictions`"):
        asked(body)


def test_the_identity_is_of_what_answers_depend_on() -> None:
    setup = setup_of(population_of(X))
    target = PredictV1(url="http://host", model="m", token_variable="")
    identities = set()
    for other in (
        target,
        replace(target, url="http://other"),
        replace(target, model="n"),
        replace(target, version="1"),
        replace(target, instance_key="i"),
        replace(target, prediction_key="p"),
        replace(target, signature_name="s"),
    ):
        endpoint = other.connect(setup)
        identities.add(repr(endpoint.identity))
        endpoint.close()
    assert len(identities) == 7
