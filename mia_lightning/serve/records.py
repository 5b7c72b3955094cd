"""Read what a client sends as records of the model's form, or refuse it with the number of the record."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from mia_lightning.serve.refusals import RefusedError

_DEEPEST = 24  # levels of lists and objects; a batch of images takes 6
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1

Numbers = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of records before normalisation.

    Attributes:
        shape: of one record.
        dtype: of `Population.x_N`.
        max_records: the most in one request.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    max_records: int = 10_000

    def check_count(self, count: int) -> None:
        """Refuse no records, or too many."""
        if count > self.max_records:
            raise RefusedError(
                413,
                f"the request has {count} records, and this server takes at most {self.max_records} at once "
                "(--max-records); send fewer",
            )
        if count == 0:
            raise RefusedError(400, "the request has no records; send at least one")

    def records(self, values: Any) -> Tensor:
        """`[B, *shape]` of `dtype` from B nested lists or arrays of numbers; a record may be given flat.

        Raises:
            RefusedError: they are no finite numbers of this form, or there are too many.
        """
        if not isinstance(values, list | np.ndarray):
            raise RefusedError(
                400, f"the records are {_kind(values)}, not a list; send a list with one for each record"
            )
        self.check_count(len(values))
        value_B = _numbers(values)
        if value_B.shape[1:] not in (self.shape, (math.prod(self.shape),)):
            raise RefusedError(
                400,
                f"the records have shape {list(value_B.shape[1:])}, and those of this model have {list(self.shape)}; "
                "send them as they were before normalisation",
            )
        return self._cast(value_B.reshape(len(value_B), *self.shape))

    def _cast(self, value_B: Numbers) -> Tensor:
        name = str(self.dtype).removeprefix("torch.")
        if value_B.dtype.kind == "f" and not np.isfinite(value_B).all():
            self._refuse(value_B, ~np.isfinite(value_B), "which is not finite; send finite numbers")
        if self.dtype.is_floating_point:
            with np.errstate(over="ignore"):
                cast_B = torch.from_numpy(value_B.astype(np.float64)).to(self.dtype)
            if not bool(cast_B.isfinite().all()):
                self._refuse(value_B, ~cast_B.isfinite().numpy(), f"which {name} does not hold; send smaller numbers")
            return cast_B
        limits = torch.iinfo(self.dtype)
        wrong = (value_B < limits.min) | (value_B > limits.max)
        if value_B.dtype.kind == "f":
            # The largest int64 is no float64; compared as a float64, a number just above it would pass.
            wrong |= (value_B != np.floor(value_B)) | (value_B >= 2.0**63)
        if wrong.any():
            self._refuse(value_B, wrong, f"and features of this model are {name}; send whole numbers in its range")
        return torch.from_numpy(value_B.astype(np.int64)).to(self.dtype)

    @staticmethod
    def _refuse(value_B: Numbers, wrong: Numbers, why: str) -> NoReturn:
        place = tuple(int(each) for each in np.argwhere(wrong)[0])
        raise RefusedError(400, f"record {place[0]} has {value_B[place]!s} at {list(place[1:])}, {why}")


def parsed(body: bytes) -> Any:
    """The body as JSON.

    Raises:
        RefusedError: it is no JSON, is nested too deeply, or holds NaN or infinity, which JSON does not have.
    """
    steps = _STEPS[np.frombuffer(_STRINGS.sub(b"", body), dtype=np.uint8)]
    steps = steps[steps != 0]
    if len(steps) and int(steps.cumsum(dtype=np.int64).max()) > _DEEPEST:
        raise RefusedError(400, f"the body is nested more than {_DEEPEST} levels deep; send plain lists of records")
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "a text or a number in it cannot be read"
        raise RefusedError(400, f"the body is not JSON ({reason}); send a JSON object") from None


def parsed_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        RefusedError: it is no JSON object.
    """
    content = parsed(body)
    if not isinstance(content, dict):
        raise RefusedError(400, f"the body is {_kind(content)}; send a JSON object")
    return content


def instances_of(content: dict[str, Any]) -> list[Any]:
    """`instances` of a request of the v1 protocol: lists, or objects with one key that holds the record.

    Raises:
        RefusedError: there are no instances, or they name several inputs.
    """
    instances = content.get("instances")
    if not isinstance(instances, list):
        raise RefusedError(400, 'the body has no list `instances`; send {"instances": [[...], ...]}')
    if not any(isinstance(each, dict) for each in instances):
        return instances
    keys = {tuple(each) if isinstance(each, dict) else () for each in instances}
    if len(keys) > 1 or len(key := keys.pop()) != 1:
        raise RefusedError(400, "the instances name several inputs or different ones; this model has one input")
    return [each[key[0]] for each in instances]


def _refuse_constant(name: str) -> NoReturn:
    raise RefusedError(400, f"the body has {name}, which is no number in JSON; send finite numbers")


def _numbers(values: Any) -> Numbers:
    try:
        found = np.asarray(values)
    except (ValueError, OverflowError):
        raise RefusedError(400, "the records differ in shape, or hold no numbers; send lists of equal length") from None
    if found.dtype.kind not in "fiub":
        raise RefusedError(400, "the records hold what is no number; send numbers alone")
    return found.astype(np.uint8) if found.dtype.kind == "b" else found


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
