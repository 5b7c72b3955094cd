"""A model behind an Amazon SageMaker endpoint, asked through boto3 with the credentials of its own chain."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Name
from mia_lightning.targets.address import Address
from mia_lightning.targets.endpoints.interface import RawAnswer
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.failures import RefusedError, TryAgainError
from mia_lightning.targets.http_client import LARGEST_BODY
from mia_lightning.targets.json_answers import TooMuchError, check_amount, read_json
from mia_lightning.targets.said import keep_secret, said
from mia_lightning.training.setup import Setup

# By the names of the service: whether the records may have been answered, and so paid for, all the same.
_PASSES = {
    "ThrottlingException": False,
    "TooManyRequestsException": False,
    "RequestLimitExceeded": False,
    "ServiceQuotaExceededException": False,
    "ModelNotReadyException": False,
    "ServiceUnavailable": True,
    "ServiceUnavailableException": True,
    "InternalFailure": True,
    "InternalServerError": True,
    "InternalDependencyException": True,
    "InternalStreamFailure": True,
}
_REFUSED = {
    "ValidationError": "name an endpoint of this account and region that is in service in `target.endpoint_name`, "
    "`target.variant` and `target.region`",
    "AccessDeniedException": "allow these credentials sagemaker:InvokeEndpoint on it",
    "AccessDenied": "allow these credentials sagemaker:InvokeEndpoint on it",
    "UnrecognizedClientException": "give valid credentials in one of the places where boto3 looks",
    "InvalidSignatureException": "give valid credentials in one of the places where boto3 looks, and set the clock",
    "ExpiredTokenException": "renew the credentials in the place where boto3 finds them",
}


@settings("target")
class SageMaker(EndpointTarget):
    """A model behind an Amazon SageMaker endpoint.

    Attributes:
        endpoint_name: as in the console.
        region: None for that of the SDK's own chain (AWS_DEFAULT_REGION, the profile).
        variant: of the endpoint; None for whichever takes the request.
        inference_component: of an endpoint that hosts several; None for none.
        content_type: of requests: application/json or text/csv.
        accept: of answers; None for what the model gives by itself.
        json_key: what the list of records stands under; None for a list by itself.
        feature_key: what the numbers of a record stand under ("features" of the built-in algorithms); None for a list.
        single: what a single number for a record is: a `label`, or the `score` of the second of two classes; `auto`
            takes it for a score where there are two classes and some of the numbers have a fraction.
        endpoint_url: of another host with the same routes; None for the service.
    """

    endpoint_name: Name
    region: Name | None = None
    variant: Name | None = None
    inference_component: Name | None = None
    content_type: Literal["application/json", "text/csv"] = "application/json"
    accept: Name | None = "application/json"
    json_key: Name | None = "instances"
    feature_key: Name | None = None
    single: Literal["auto", "label", "score"] = "auto"
    endpoint_url: Address | None = None

    @property
    def takes_gaps(self) -> bool:
        return self.content_type == "text/csv"

    def connect(self, setup: Setup) -> "SageMakerEndpoint":
        """The endpoint; nothing is asked yet.

        Raises:
            InputError: boto3 is not installed, finds no region, or refuses the settings.
        """
        return SageMakerEndpoint(self)


class SageMakerEndpoint:
    """One endpoint, or one variant of it (`mia_lightning.targets.endpoints.interface.Endpoint`).

    Args:
        target: which endpoint is asked, and how.

    Raises:
        InputError: boto3 is not installed, finds no region, or refuses the settings.
    """

    protocol = "sagemaker"

    def __init__(self, target: SageMaker) -> None:
        self._target = target
        self._client = _connect(target)
        self._region = self._client.meta.region_name
        named = (("variant", target.variant), ("component", target.inference_component))
        self.place = ", ".join([f"{target.endpoint_name} in {self._region}", *(f"{a} {b}" for a, b in named if b)])
        self._what = f"The SageMaker endpoint {self.place}"

    @property
    def identity(self) -> Mapping[str, object]:
        """Which endpoint is asked, and in what form; not with whose credentials."""
        names = ("endpoint_name", "variant", "inference_component", "content_type", "accept", "json_key")
        asked = {name: getattr(self._target, name) for name in (*names, "feature_key", "single", "endpoint_url")}
        return {"protocol": self.protocol, "region": self._region, **asked}

    def ask(self, x_B: Tensor) -> Sequence[RawAnswer]:
        """The answers of one InvokeEndpoint; boto3's own retries are off.

        Raises:
            TryAgainError: throttling, a model that is not ready, a fault of the service or of the model (5xx), a broken
                connection.
            RefusedError: the service refuses the request, or boto3 cannot send it.
            InputError: the model refuses the records, or the body is no answer.
        """
        target = self._target
        optional = {
            "Accept": target.accept,
            "TargetVariant": target.variant,
            "InferenceComponentName": target.inference_component,
        }
        content_type, body = self._invoke(
            EndpointName=target.endpoint_name,
            ContentType=target.content_type,
            Body=self._written(x_B),
            **{name: value for name, value in optional.items() if value},
        )
        if "csv" in content_type:
            return [self._read(row) for row in _csv_rows(body, self._what)]
        return [self._read(each) for each in _json_rows(body, self._what)]

    def close(self) -> None:
        """Give connections back."""
        self._client.close()

    def _written(self, x_B: Tensor) -> bytes:
        target = self._target
        if target.content_type == "text/csv":
            return "".join(",".join(map(repr, row)) + "\n" for row in x_B.flatten(1).tolist()).encode()
        rows: Any = x_B.tolist()
        if target.feature_key is not None:
            rows = [{target.feature_key: row} for row in rows]
        return json.dumps(rows if target.json_key is None else {target.json_key: rows}).encode()

    def _invoke(self, **request: Any) -> tuple[str, bytes]:
        from botocore import exceptions as failures

        try:
            response = self._client.invoke_endpoint(**request)
            body = response["Body"].read(LARGEST_BODY + 1)
            if len(body) <= LARGEST_BODY:
                response["Body"].read(1)  # only at the end botocore looks whether something is missing
        except failures.ClientError as error:
            # The service's message is not passed on: that of a wrong signature holds the request's headers.
            raise self._failure(error.response) from error
        except (failures.NoCredentialsError, failures.PartialCredentialsError, failures.TokenRetrievalError):
            raise RefusedError(
                f"{self._what} cannot be asked, since boto3 finds no complete credentials; give them in one of the "
                "places where it looks, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
            ) from None
        except (failures.EndpointConnectionError, failures.ConnectTimeoutError) as error:
            raise TryAgainError(f"{self._what} was not reached", was_asked=False) from error
        except (failures.HTTPClientError, failures.IncompleteReadError) as error:  # broken, or waited for too long
            raise TryAgainError(f"{self._what} broke the connection ({type(error).__name__})") from error
        except failures.BotoCoreError as error:
            kind = type(error).__name__
            raise RefusedError(
                f"{self._what} cannot be asked ({kind}); correct boto3's configuration or credentials."
            ) from error
        except Exception as error:  # boto3 reads bodies of errors as it finds them
            raise TryAgainError(f"{self._what} answered what boto3 cannot read ({type(error).__name__})") from error
        if len(body) > LARGEST_BODY:
            raise InputError(
                f"{self._what} sends more than {LARGEST_BODY >> 20} MiB in an answer; lower target.asking.batch_size."
            )
        return str(response.get("ContentType", "")), body

    def _failure(self, response: Mapping[str, Any]) -> Exception:
        code = said(response.get("Error", {}).get("Code", "unknown"))
        metadata = response.get("ResponseMetadata", {})
        status = int(metadata.get("HTTPStatusCode", 0))
        if code == "ModelError":
            status = int(response.get("OriginalStatusCode") or 500)
            if status >= 500 or status in (408, 429):
                return TryAgainError(f"{self._what}: the model itself failed with status {status}")
            return InputError(
                f"{self._what}: the model itself refused the records with status {status}; set `target.content_type`, "
                "`target.json_key` and `target.feature_key` to the form that it takes, or look into its log."
            )
        if code in _PASSES or status == 429 or status >= 500:
            was_asked = _PASSES.get(code, status != 429)
            after = _seconds(metadata.get("HTTPHeaders", {}).get("retry-after"))
            return TryAgainError(f"{self._what} answered {code} ({status})", after=after, was_asked=was_asked)
        mend = _REFUSED.get(code, "set `target` to what the endpoint takes")
        return RefusedError(f"{self._what} answered {code} ({status}); {mend}.")

    def _read(self, value: Any) -> RawAnswer:
        """One prediction: a list, a label, or the object of a built-in algorithm."""
        if isinstance(value, dict):
            for key in ("probabilities", "score", "scores", "predicted_label"):
                if key in value:
                    return self._scored(value[key]) if key == "score" else self._read(value[key])
            raise self._no_answer(f"an object with {said(', '.join(map(repr, sorted(value)))) or 'nothing in it'}")
        if isinstance(value, list):
            if len(value) == 1:
                return self._read(value[0])
            if value and all(isinstance(each, int | float) and not isinstance(each, bool) for each in value):
                return value
            raise self._no_answer("a list of other things than numbers")
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self._target.single == "auto" and (value != value or value % 1):
                return [value]
            return self._scored(value) if self._target.single == "score" else self._label(value)
        if isinstance(value, str) and value:
            return value
        raise self._no_answer(f"a {type(value).__name__}")

    def _scored(self, value: Any) -> RawAnswer:
        """The `score` of the built-in algorithms: of each class, or of the second of two."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return [1.0 - value, float(value)]
        return self._read(value)

    def _label(self, value: float) -> int:
        if value != value or value in (float("inf"), float("-inf")) or int(value) != value:
            raise InputError(
                f"{self._what} answers {value!r} for a record, which is no label; if it is the probability of the "
                "second of two classes, set target.single=score."
            )
        return int(value)

    def _no_answer(self, received: str) -> InputError:
        return InputError(
            f"{self._what} answers {received} for a record instead of numbers, a label, or an object with "
            "`probabilities`, `score` or `predicted_label`; let its model answer in one of these forms."
        )


def _connect(target: SageMaker) -> Any:
    if find_spec("boto3") is None:
        raise InputError(
            "target=sagemaker needs boto3, which is not installed; pip install 'mia-lightning[sagemaker]'."
        )
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, NoRegionError

    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=target.asking.timeout,
        read_timeout=target.asking.timeout,
        max_pool_connections=target.asking.concurrency,
    )
    try:
        session = boto3.session.Session(region_name=target.region)  # not the default session, which others share
        client = session.client("sagemaker-runtime", endpoint_url=target.endpoint_url, config=config)
    except NoRegionError:
        raise InputError(
            "target=sagemaker finds no region; set `target.region`, or AWS_DEFAULT_REGION, or one in the profile."
        ) from None
    except (BotoCoreError, ValueError) as error:
        raise InputError(
            f"target=sagemaker cannot be set up ({type(error).__name__}); give a valid `target.region` and "
            "`target.endpoint_url`, and a profile that exists."
        ) from error
    client.meta.events.register("before-send.sagemaker-runtime", _keep_secrets)
    return client


def _keep_secrets(request: Any, **_: object) -> None:
    """The signature is another one for each request, and not worth keeping."""
    token = request.headers.get("X-Amz-Security-Token", b"")
    keep_secret(token.decode() if isinstance(token, bytes) else token)


def _json_rows(body: bytes, what: str) -> list[Any]:
    try:
        answer = read_json(body)
    except TooMuchError as error:
        raise InputError(f"{what} answers JSON that cannot be read: {error}.") from error
    except ValueError as error:
        raise InputError(
            f"{what} answers {len(body)} bytes that are no JSON; set `target.accept` to a form that its model gives, "
            "application/json or text/csv."
        ) from error
    if isinstance(answer, dict):
        answer = next((answer[key] for key in ("predictions", "outputs", "probabilities") if key in answer), answer)
    if not isinstance(answer, list):
        raise InputError(f"{what} answers a JSON {type(answer).__name__} without a list of `predictions`; give one.")
    return answer


def _csv_rows(body: bytes, what: str) -> list[list[float | str]]:
    try:
        check_amount(body)
        lines = body.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{what} answers CSV that is not UTF-8; let its model answer in UTF-8.") from error
    except TooMuchError as error:
        raise InputError(f"{what} answers CSV that cannot be read: {error}.") from error
    return [[_cell(cell) for cell in line.split(",")] for line in lines if line.strip()]


def _cell(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip().strip('"')


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
