"""A prediction service behind HTTP: a `mia_lightning.targets.services.interface.Service` that `mia-serve` runs.

    POST   /v1/projects                                       a project, which holds jobs and their models
    POST   /v1/projects/{p}/jobs?name=...&num_classes=...     safetensors with `x` and `label`
    POST   /v1/projects/{p}:train                             train all jobs
    GET    /v1/projects/{p}                                   how far that is
    POST   /v1/projects/{p}/models/{m}:predict                safetensors with `x`, answered with `probability`

Every one of these can be repeated without harm, so a broken connection or a fault of the server is tried again.
"""

import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.targets.services.interface import ServiceJob

if TYPE_CHECKING:
    import httpx

_TRIES = 6
_TIMEOUT = 120.0  # seconds of one request
_LONGEST_WAIT = 2.0  # seconds between two tries, and between two looks at a training
_PASSING = (408, 429, 500, 502, 503, 504)
_TENSORS = {"Content-Type": "application/octet-stream"}


class HttpService:
    """A service that another process runs; models and their names are those of one project of it.

    Args:
        name: of the service, such as "amazon_ml"; the server must be of this one.
        url: of the server (`checked_url`).
        token_variable: the environment variable with the token that it requires; "" for none.
        wait: is called with the seconds between two tries.

    Raises:
        InputError: httpx is not installed, or the variable is not set.
    """

    def __init__(
        self, name: str, url: str, *, token_variable: str = "", wait: Callable[[float], object] = time.sleep
    ) -> None:
        self._name, self._url, self._wait = name, url, wait
        self._client = _client(url, token_variable)
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
            asked = {"name": job.name, "num_classes": str(job.num_classes)}
            self._ask("POST", f"{place}/jobs", content=save(tensors), params=asked)
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
        answer = self._ask("POST", place, content=save({"x": x_B.cpu().contiguous()}), read=_probability)
        probability_BC: Tensor = answer.to(x_B.device)
        return probability_BC

    def _open(self) -> str:
        made = self._ask("POST", "/v1/projects", read=_object)
        if made.get("service") != self._name:
            raise InputError(
                f"`target.url` {self._url} is a server of {str(made.get('service'))[:100]!r}, and the target is "
                f"{self._name}; start it by mia-serve {self._name}."
            )
        self._project = quote(str(made.get("project")), safe="")
        return self._project

    def _trained(self, place: str) -> dict[str, str | None]:
        seconds = 0.05
        while True:
            state = self._ask("GET", place, read=_object)
            if state.get("state") == "done":
                return {str(name): model for name, model in dict(state["models"]).items()}
            if state.get("state") == "failed":
                raise InputError(
                    f"The service {self._name} at {self._url} could not train: {str(state.get('error'))[:500]}."
                )
            self._wait(seconds)
            seconds = min(2 * seconds, _LONGEST_WAIT)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        read: "Callable[[httpx.Response], Any]" = lambda response: None,
    ) -> Any:
        """One request, tried again while what is wrong may pass; `read` raises a ValueError for garbage."""
        import httpx

        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                self._wait(min(0.1 * 2**attempt, _LONGEST_WAIT))
            try:
                response = self._client.request(method, path, content=content, params=params, headers=_TENSORS)
                if response.status_code in _PASSING:
                    reason = f"status {response.status_code}"
                    continue
                self._check(response)
                return read(response)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {str(error)[:200]}".rstrip(": ")
            except (httpx.DecodingError, ValueError) as error:
                if isinstance(error, InputError):
                    raise
                reason = "an answer that cannot be read"
        raise InputError(
            f"The service {self._name} at `target.url` {self._url} did not answer in {_TRIES} tries ({reason}); see "
            f"that mia-serve {self._name} runs there."
        )

    def _check(self, response: "httpx.Response") -> None:
        if response.is_success:
            return
        if response.status_code in (401, 403):
            raise InputError(
                f"The service {self._name} at `target.url` {self._url} requires a token; put it into an environment "
                "variable and name that in `target.token_variable`."
            )
        try:
            said = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            said = "it gave no reason"
        raise InputError(
            f"The service {self._name} at `target.url` {self._url} refused a request with status "
            f"{response.status_code}: {said[:500]}."
        )


def _client(url: str, token_variable: str) -> "httpx.Client":
    try:
        import httpx
    except ImportError:
        raise InputError("`target.url` needs the library httpx; install mia-lightning[remote].") from None
    headers = {}
    if token_variable:
        token = os.environ.get(token_variable, "")
        if not token or not token.isascii() or not token.isprintable():
            raise InputError(
                f"`target.token_variable` is {token_variable}, and this environment variable holds no token; set it."
            )
        headers["Authorization"] = f"Bearer {token}"
    return httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT)


def _object(response: "httpx.Response") -> dict[str, Any]:
    content = response.json()
    if not isinstance(content, dict):
        raise ValueError("no object")
    return content


def _probability(response: "httpx.Response") -> Tensor:
    try:
        return load(response.content)["probability"]
    except (SafetensorError, KeyError) as error:
        raise ValueError("no probabilities") from error
