"""A model at a Vertex AI endpoint, asked with Google's application default credentials.

Source: https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.endpoints/predict.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BeforeValidator, StringConstraints
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Name
from mia_lightning.settings.words import Words
from mia_lightning.targets.address import Address
from mia_lightning.targets.endpoints.interface import RawAnswer
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.endpoints.predict_v1 import predict_body, predictions_of
from mia_lightning.targets.failures import RefusedError, StatusError, TryAgainError
from mia_lightning.targets.http_client import HttpClient
from mia_lightning.targets.said import said
from mia_lightning.training.setup import Setup

_MOST_DEPLOYED = 5  # models that are told apart
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_IN_THE_CONSOLE = Words("the name of one, as in the console")
Location = Annotated[Name, StringConstraints(pattern=r"^[a-z0-9-]+$"), _IN_THE_CONSOLE]
Resource = Annotated[Name, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]*$"), _IN_THE_CONSOLE]


def _with_scheme(host: object) -> object:
    return f"https://{host}" if isinstance(host, str) and "://" not in host else host


@settings("target")
class Vertex(EndpointTarget):
    """A model at a Vertex AI endpoint.

    Attributes:
        location: such as europe-west4.
        endpoint: its number, or its name.
        project: its name or number; None for that of the credentials.
        api_endpoint: the host of a dedicated or private endpoint, or its whole address up to where /v1 begins; None for
            the host of the location.
        instance_key: under which each record is sent; None where it is sent as it is.
        prediction_key: under which the probabilities stand, where a prediction has several parts.
    """

    location: Location
    endpoint: Resource
    project: Resource | None = None
    api_endpoint: Annotated[Address, BeforeValidator(_with_scheme)] | None = None
    instance_key: Name | None = None
    prediction_key: Name | None = None

    def connect(self, setup: Setup) -> "VertexEndpoint":
        """The endpoint; nothing is asked yet.

        Raises:
            InputError: google-auth is not installed, finds no credentials, or no project.
        """
        credentials, project = _default_credentials()
        return VertexEndpoint(self, credentials, project, remark=partial(setup.engine.stages.remark, kind="broken"))


class VertexEndpoint:
    """One endpoint (`mia_lightning.targets.endpoints.interface.Endpoint`).

    Args:
        target: which endpoint is asked.
        credentials: of google-auth; renewed when they end.
        project: where `target.project` names none.
        remark: is given a sentence where a further deployed model answers.

    Raises:
        InputError: no project is known.
    """

    protocol = "vertex"

    def __init__(
        self, target: Vertex, credentials: Any, project: str | None = None, *, remark: Callable[[str], object] = print
    ) -> None:
        project = target.project or project
        if not project:
            raise InputError(
                "target=vertex finds no project, since the credentials belong to none; set `target.project`."
            )
        url = target.api_endpoint or f"https://{target.location}-aiplatform.googleapis.com"
        self._bearer = _Bearer(credentials, url)
        self._client = HttpClient(
            url,
            timeout=target.asking.timeout,
            connections=target.asking.concurrency,
            authorise=self._bearer.headers,
            setting="target.api_endpoint",
        )
        parts = ("projects", project, "locations", target.location, "endpoints", target.endpoint)
        self._path = "/v1/" + "/".join(quote(part, safe=":") for part in parts) + ":predict"
        self._target, self._remark = target, remark
        self._lock = threading.Lock()
        self._deployed: list[str] = []

    @property
    def place(self) -> str:
        return self._client.place + self._path

    @property
    def identity(self) -> Mapping[str, object]:
        """Which endpoint is asked, and in what form; not with whose credentials."""
        asked = {"instance_key": self._target.instance_key, "prediction_key": self._target.prediction_key}
        return {"protocol": self.protocol, "place": self.place, **asked}

    def ask(self, x_B: Tensor) -> Sequence[RawAnswer]:
        """The answers of one `predict` request; a token that is refused is renewed once.

        Raises:
            TryAgainError, RefusedError, InputError: as in `Endpoint.ask`.
        """
        body = json.dumps(predict_body(x_B, instance_key=self._target.instance_key)).encode()
        token = self._bearer.token
        try:
            try:
                answer = self._client.post(self._path, body)
            except StatusError as error:
                if error.status != 401:
                    raise
                self._bearer.renew(token)
                answer = self._client.post(self._path, body)
        except StatusError as error:
            raise self._refused(error) from error
        if isinstance(answer, Mapping):
            self._notice(answer.get("deployedModelId"))
        return predictions_of(answer, key=self._target.prediction_key, place=self.place)

    def close(self) -> None:
        """Give connections back."""
        self._client.close()
        self._bearer.close()

    def _refused(self, error: StatusError) -> Exception:
        mends = {
            401: "renew the application default credentials (gcloud auth application-default login)",
            403: "allow the credentials aiplatform.endpoints.predict in the project",
            404: "set `target.project`, `target.location`, `target.endpoint` and, of a dedicated or private endpoint, "
            "`target.api_endpoint` to one with a deployed model",
        }
        if error.status not in mends:
            return error
        return StatusError(
            f"{self.place} refuses the request (status {error.status}); {mends[error.status]}.", error.status
        )

    def _notice(self, deployed: object) -> None:
        """Remark each deployed model that answers, after the first, once; beyond a few, none."""
        if not isinstance(deployed, str):
            return
        with self._lock:
            if deployed in self._deployed or len(self._deployed) == _MOST_DEPLOYED:
                return
            self._deployed.append(deployed)
            if len(self._deployed) == 1:
                return
            known = ", ".join(map(said, self._deployed))
        self._remark(
            f"The endpoint {self.place} answered with {len(self._deployed)} deployed models ({known}): its traffic is "
            "split, or the model was changed during the audit, so that low figures are no evidence."
        )


class _Bearer:
    """The header with a token of google-auth; many threads may use it at once."""

    def __init__(self, credentials: Any, url: str) -> None:
        import requests
        from google.auth.transport.requests import Request

        self._credentials, self._url = credentials, url
        self._session = requests.Session()
        self._request = Request(self._session)
        self._lock = threading.Lock()

    @property
    def token(self) -> str | None:
        """The present one."""
        return getattr(self._credentials, "token", None)

    def headers(self) -> Mapping[str, str]:
        """Renewed a few minutes before the token ends.

        Raises:
            TryAgainError, RefusedError: there is no token, now or ever.
        """
        headers: dict[str, str] = {}
        with self._lock:
            self._guarded(lambda: self._credentials.before_request(self._request, "POST", self._url, headers))
        return headers

    def renew(self, refused: str | None) -> None:
        """Fetch another token than the one that was refused, unless another thread has done so already.

        Raises:
            TryAgainError, RefusedError: as in `headers`.
        """
        with self._lock:
            if refused is None or self.token == refused:
                self._guarded(lambda: self._credentials.refresh(self._request))

    def close(self) -> None:
        """Close the connections to the token's server."""
        self._session.close()

    def _guarded(self, call: Callable[[], object]) -> None:
        from google.auth.exceptions import GoogleAuthError, TransportError

        try:
            call()
        except GoogleAuthError as error:
            # Its text is not passed on, since it repeats what the token's server said.
            kind = type(error).__name__
            if isinstance(error, TransportError) or getattr(error, "retryable", False):
                raise TryAgainError(f"no token of Google ({kind})", was_asked=False) from None
            raise RefusedError(
                f"target=vertex gets no token with the application default credentials ({kind}); renew them (gcloud "
                "auth application-default login), or name another file in GOOGLE_APPLICATION_CREDENTIALS."
            ) from None


def _default_credentials() -> tuple[Any, str | None]:
    if find_spec("google") is None or find_spec("google.auth") is None or find_spec("requests") is None:
        raise InputError(
            "target=vertex needs google-auth, which is not installed; pip install 'mia-lightning[vertex]'."
        )
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        credentials, project = google.auth.default(scopes=[_SCOPE])
    except GoogleAuthError as error:
        raise InputError(
            f"target=vertex finds no credentials ({type(error).__name__}); log in (gcloud auth application-default "
            "login), or name the file of a service account in GOOGLE_APPLICATION_CREDENTIALS."
        ) from None
    return credentials, project
