"""A prediction service behind HTTP: a `mia_lightning.targets.services.interface.Service` that `mia-serve` runs.

    POST   /v1/projects                                       make a project, which holds jobs and their models
    POST   /v1/projects/{p}/jobs?name=...&num_classes=...     upload a job: safetensors with `x` and `label`
    POST   /v1/projects/{p}:train                             train all jobs
    GET    /v1/projects/{p}                                   the state of the training
    POST   /v1/projects/{p}/models/{m}:predict                safetensors with `x`, answered with `probability`

Each of these requests can be repeated without harm, so it is repeated after a broken connection or a
fault of the server.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.targets.failures import LONGEST_PAUSE, TryAgainError
from mia_lightning.targets.http_client import HttpClient, token_headers
from mia_lightning.targets.json_answers import read_json
from mia_lightning.targets.said import said
from mia_lightning.targets.services.interface import ServiceJob
from mia_lightning.terminal.amounts import duration

_TRIES = 6
_TIMEOUT = 120.0  # seconds of one request
_SLOWEST = 2**20  # bytes of training records in a second
_LONGEST_WAIT = 2.0  # seconds between two tries, unless the server asks for more, and between two looks at a training
_LONGEST_REASON = 500  # characters of the server's own words
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TENSORS = {"Content-Type": "application/octet-stream", "Accept": "*/*"}


class HttpService:
    """A service that another process runs; models and their names are those of one project of it.

    Args:
        name: of the service, such as "amazon_ml"; the server must run this one.
        url: of the server.
        token_variable: the environment variable with the token that the server requires; "" for none.
        wait: is called with the seconds between two tries.
        note: is given a sentence where the server wants a longer pause.

    Raises:
        InputError: httpx is not installed, or the variable is not set.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        token_variable: str = "",
        wait: Callable[[float], object] = time.sleep,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._name, self._wait, self._note = name, wait, note
        self._client = HttpClient(
            url, timeout=_TIMEOUT, slowest=_SLOWEST, authorise=token_headers(token_variable, "Authorization")
        )
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
        return self._trained(place, names)

    def predict(self, model: str, x_B: Tensor) -> Tensor:
        """The probabilities `[B, C]`, float64, on the device of `x_B`.

        Raises:
            InputError: there is no such model, or the server does not answer.
        """
        if self._project is None:
            raise InputError(f"The service {self._name} has trained nothing yet; let it train before it is asked.")
        place = f"/v1/projects/{self._project}/models/{quote(model, safe='', errors='replace')}:predict"
        probability_BC: Tensor = self._ask("POST", place, save({"x": x_B.cpu().contiguous()}), read=_probability)
        return probability_BC.to(x_B.device)

    def _open(self) -> str:
        made = self._ask("POST", "/v1/projects")
        if made.get("service") != self._name:
            raise InputError(
                f"`target.url` {self._client.place} is a server of {said(repr(made.get('service')))}, but the target "
                f"is {self._name}; start it by mia-serve {self._name}."
            )
        project = made.get("project")
        if not isinstance(project, str) or not project:
            raise self._strange(made)
        self._project = quote(project, safe="", errors="replace")
        return self._project

    def _trained(self, place: str, names: Sequence[str]) -> list[str | None]:
        """The models of these jobs, once they are trained."""
        seconds = 0.05
        while True:
            answer = self._ask("GET", place)
            state, models = answer.get("state"), answer.get("models")
            if state == "done" and isinstance(models, dict):
                found = [models.get(name, ()) for name in names]
                if all(isinstance(model, str | None) for model in found):
                    return found
            if state == "failed":
                reason = said(answer.get("error"), _LONGEST_REASON).rstrip(".")
                raise InputError(
                    f"The service {self._name} at {self._client.place} could not train ({reason}); see its own log, or "
                    "choose another `dataset`."
                )
            if state not in ("waiting", "training"):
                raise self._strange(answer)
            self._wait(seconds)
            seconds = min(2 * seconds, _LONGEST_WAIT)

    def _strange(self, answer: object) -> InputError:
        return InputError(
            f"The service at `target.url` {self._client.place} answered {said(repr(answer))}, which mia-serve "
            f"{self._name} does not say; set `target.url` to a server that it runs."
        )

    def _ask(self, method: str, path: str, content: bytes = b"", *, read: Callable[[bytes], Any] | None = None) -> Any:
        """One request, repeated while its failure may pass: a JSON object, or what `read` makes of the answer."""
        for attempt in range(1, _TRIES + 1):
            try:
                return self._client.ask(method, path, content, _TENSORS, read or _object)
            except TryAgainError as error:
                failure = error
            if attempt < _TRIES:
                self._pause(attempt, failure.after)
        raise InputError(
            f"The service {self._name} at `target.url` {self._client.place} did not answer in {_TRIES} tries "
            f"({failure.reason}); see that mia-serve {self._name} runs there."
        )

    def _pause(self, attempt: int, after: float | None) -> None:
        """Wait longer each time, or as long as the server asks."""
        if after is not None and after > _LONGEST_WAIT:
            after = min(after, LONGEST_PAUSE)
            self._note(f"The service at {self._client.place} is busy; it is asked again in {duration(after)}.")
        self._wait(max(min(0.1 * 2**attempt, _LONGEST_WAIT), after or 0.0))


def _object(content: bytes) -> dict[str, Any]:
    found = read_json(content)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _probability(content: bytes) -> Tensor:
    try:
        probability = load(content)["probability"]
    except (SafetensorError, KeyError, OverflowError) as error:
        raise ValueError("no probabilities") from error
    if probability.dtype not in _FLOATS:
        raise ValueError("no floating-point numbers")
    return probability
