"""A prediction service behind HTTP: a `mia_lightning.targets.services.interface.Service` that `mia-serve` runs.

    POST   /v1/projects                                       make a project, which holds jobs and their models
    POST   /v1/projects/{p}/jobs?name=...&num_classes=...     upload a job: safetensors with `x` and `label`
    POST   /v1/projects/{p}:train                             train all jobs
    GET    /v1/projects/{p}                                   the state of the training
    POST   /v1/projects/{p}/models/{m}:predict                safetensors with `x`, answered with `probability`

Each of these requests can be repeated without harm, so it is repeated after a broken connection or a
fault of the server.
"""

import json
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, urlencode

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.targets.failures import TryAgainError
from mia_lightning.targets.http_client import HttpClient, token_headers
from mia_lightning.targets.services.interface import ServiceJob

_TRIES = 6
_TIMEOUT = 120.0  # seconds of one request
_LONGEST_WAIT = 2.0  # seconds between two tries, and between two looks at a training
_TENSORS = {"Content-Type": "application/octet-stream", "Accept": "*/*"}


class HttpService:
    """A service that another process runs; models and their names are those of one project of it.

    Args:
        name: of the service, such as "amazon_ml"; the server must run this one.
        url: of the server.
        token_variable: the environment variable with the token that the server requires; "" for none.
        wait: is called with the seconds between two tries.

    Raises:
        InputError: httpx is not installed, or the variable is not set.
    """

    def __init__(
        self, name: str, url: str, *, token_variable: str = "", wait: Callable[[float], object] = time.sleep
    ) -> None:
        self._name, self._wait = name, wait
        self._client = HttpClient(url, timeout=_TIMEOUT, authorise=token_headers(token_variable, "Authorization"))
        weakref.finalize(self, self._client.close)
        self._project: str | None = None

    @property
    def name(self) -> str:
        return self._name

    def train(self, jobs: Iterable[ServiceJob]) -> list[str | None]:
        """Upload all jobs, let the service train them and wait for it.

        Returns:
            The models' names; None for a job whose loss became infinite or NaN.

        Raises:
            InputError: the server cannot be reached, is another service, refuses a job, or its training failed.
        """
        place = f"/v1/projects/{self._open()}"
        names = []
        for job in jobs:
            tensors = {"x": job.x_N.cpu().contiguous(), "label": job.label_N.cpu().contiguous()}
            asked = urlencode({"name": job.name, "num_classes": job.num_classes})
            self._ask("POST", f"{place}/jobs?{asked}", save(tensors))
            names.append(job.name)
        self._ask("POST", f"{place}:train")
        models = self._trained(place)
        return [models[name] for name in names]

    def predict(self, model: str, x_B: Tensor) -> Tensor:
        """The probabilities `[B, C]`, float64, on the device of `x_B`.

        Raises:
            InputError: there is no such model, or the server does not answer.
        """
        if self._project is None:
            raise InputError(f"The service {self._name} has trained nothing yet; let it train before it is asked.")
        place = f"/v1/projects/{self._project}/models/{quote(model, safe='')}:predict"
        probability_BC: Tensor = self._ask("POST", place, save({"x": x_B.cpu().contiguous()}), read=_probability)
        return probability_BC.to(x_B.device)

    def _open(self) -> str:
        made = self._ask("POST", "/v1/projects")
        if made.get("service") != self._name:
            raise InputError(
                f"`target.url` {self._client.place} is a server of {str(made.get('service'))[:100]!r}, but the target "
                f"is {self._name}; start it by mia-serve {self._name}."
            )
        self._project = quote(str(made.get("project")), safe="")
        return self._project

    def _trained(self, place: str) -> dict[str, str | None]:
        seconds = 0.05
        while True:
            state = self._ask("GET", place)
            if state.get("state") == "done":
                return {str(name): model for name, model in dict(state["models"]).items()}
            if state.get("state") == "failed":
                reason = str(state.get("error"))[:500].rstrip(".")
                raise InputError(
                    f"The service {self._name} at {self._client.place} could not train ({reason}); see its own log, or "
                    "choose another `dataset`."
                )
            self._wait(seconds)
            seconds = min(2 * seconds, _LONGEST_WAIT)

    def _ask(self, method: str, path: str, content: bytes = b"", *, read: Callable[[bytes], Any] | None = None) -> Any:
        """One request, repeated while its failure may pass: a JSON object, or what `read` makes of the answer."""
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                self._wait(min(0.1 * 2**attempt, _LONGEST_WAIT))
            try:
                return self._client.ask(method, path, content, _TENSORS, read or _object)
            except TryAgainError as error:
                reason = error.reason
        raise InputError(
            f"The service {self._name} at `target.url` {self._client.place} did not answer in {_TRIES} tries "
            f"({reason}); see that mia-serve {self._name} runs there."
        )


def _object(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _probability(content: bytes) -> Tensor:
    try:
        return load(content)["probability"]
    except (SafetensorError, KeyError) as error:
        raise ValueError("no probabilities") from error
