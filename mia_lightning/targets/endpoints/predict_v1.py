"""Models behind version 1 of the predict protocol: TensorFlow Serving, KServe and others.

Source: https://www.tensorflow.org/tfx/serving/api_rest, "Predict API".
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Name
from mia_lightning.targets.endpoints.answers import received
from mia_lightning.targets.endpoints.interface import Endpoint, RawAnswer
from mia_lightning.targets.endpoints.named_model import NamedModel
from mia_lightning.targets.http_client import HttpClient
from mia_lightning.training.setup import Setup

# Names and their probabilities, side by side, as some servers send them.
_SIDE_BY_SIDE = (("displayNames", "confidences"), ("classes", "scores"))


@settings("target")
class PredictV1(NamedModel):
    """A model at `{url}/v1/models/{model}:predict`.

    Attributes:
        instance_key: under which each record is sent; None where it is sent as it is.
        prediction_key: under which each prediction is found, where a prediction has several parts.
        signature_name: of the model's signature; None for the server's default.
    """

    instance_key: Name | None = None
    prediction_key: Name | None = None
    signature_name: Name | None = None

    def connect(self, setup: Setup) -> Endpoint:
        """The model's endpoint."""
        return PredictV1Endpoint(self, self.client())


class PredictV1Endpoint:
    """One model (`mia_lightning.targets.endpoints.interface.Endpoint`)."""

    protocol = "predict_v1"

    def __init__(self, target: PredictV1, client: HttpClient) -> None:
        self._target, self._client = target, client
        self._path = f"/v1/{target.path}:predict"

    @property
    def place(self) -> str:
        return self._client.place + self._path

    @property
    def identity(self) -> Mapping[str, object]:
        target = self._target
        asked = {"instance_key": target.instance_key, "signature_name": target.signature_name}
        return {"protocol": self.protocol, "place": self.place, **asked, "prediction_key": target.prediction_key}

    def ask(self, x_B: Tensor) -> Sequence[RawAnswer]:
        """The answers of one `predict` request."""
        body = predict_body(x_B, instance_key=self._target.instance_key)
        if self._target.signature_name is not None:
            body = {"signature_name": self._target.signature_name, **body}
        answer = self._client.post(self._path, json.dumps(body).encode())
        return predictions_of(answer, key=self._target.prediction_key, place=self.place)

    def close(self) -> None:
        self._client.close()


def predict_body(x_B: Tensor, *, instance_key: str | None = None) -> dict[str, Any]:
    """`{"instances": [...]}` with records `[B, *features]`, each under `instance_key` where there is one."""
    instances = x_B.tolist()
    return {"instances": instances if instance_key is None else [{instance_key: each} for each in instances]}


def predictions_of(answer: object, *, key: str | None, place: str) -> list[RawAnswer]:
    """The `predictions` of an answer, each a list of numbers, a label, or numbers by the names of classes.

    Args:
        key: of the part of each prediction to be read; None where it has one part, or names and numbers side by side
            (`displayNames` and `confidences`, or `classes` and `scores`).
        place: of the model, for messages.

    Raises:
        InputError: there are no predictions, or one has no such part.
    """
    predictions = answer.get("predictions") if isinstance(answer, Mapping) else None
    if not isinstance(predictions, list):
        raise InputError(
            f"The model at {place} answered with {received(answer)}, which has no list of `predictions`; set "
            "`target.url` to a server that speaks this protocol."
        )
    return [_prediction(each, key, place) for each in predictions]


def _prediction(raw: Any, key: str | None, place: str) -> Any:
    if not isinstance(raw, Mapping):
        return raw
    if key is not None:
        if key not in raw:
            raise InputError(
                f"The model at {place} answered with {received(raw)}, which has no {key!r}; set target.prediction_key "
                "to the part that holds the probabilities."
            )
        return raw[key]
    for names, numbers in _SIDE_BY_SIDE:
        if names in raw and numbers in raw:
            return _paired(raw[names], raw[numbers], raw, place)
    if len(raw) == 1 and not isinstance(next(iter(raw.values())), int | float):
        return next(iter(raw.values()))
    if all(isinstance(value, int | float) for value in raw.values()):
        return raw
    raise InputError(
        f"The model at {place} answered with {received(raw)}, which has several parts; set target.prediction_key to "
        "the one that holds the probabilities."
    )


def _paired(names: Any, numbers: Any, raw: object, place: str) -> dict[str, float]:
    if not isinstance(names, list) or not isinstance(numbers, list):
        names, numbers = [names], [numbers]
    paired = {str(name): number for name, number in zip(names, numbers, strict=False)}
    if len(names) != len(numbers) or len(paired) != len(names):
        raise InputError(
            f"The model at {place} answered with {received(raw)}, which has {len(set(map(str, names)))} different "
            f"names and {len(numbers)} numbers; let it give one number for each name."
        )
    return paired
