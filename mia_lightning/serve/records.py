"""Read what a client sends as records of the model's form, or refuse it with the number of the record."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from mia_lightning.datasets.form import Form as DataForm
from mia_lightning.datasets.form_checks import check_values
from mia_lightning.errors import InputError
from mia_lightning.serve.refusals import RefusedError

_DEEPEST = 24  # levels of lists and objects; a batch of images takes 6
_SPARE = 10_000  # marks or lines of a body that belong to none of its records
_BLOCK = 2**20  # bytes whose levels are counted at once
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
        data: what the values mean, where they are not one tensor of numbers or pixels; None where they are.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    max_records: int = 10_000
    data: DataForm | None = None

    @property
    def named(self) -> "dict[str, Form]":
        """The forms of several named tensors; {} where a record is one tensor."""
        if self.data is None or self.data.is_one:
            return {}
        return {
            field.name: Form(shape=field.shape, dtype=field.dtype, max_records=self.max_records)
            for field in self.data.fields
        }

    def check_one(self) -> None:
        """Refuse to read several tensors where the protocol has one."""
        if self.named:
            raise RefusedError(
                400, f"this model has the inputs {', '.join(self.named)}; send them by the v2 protocol, by their names"
            )

    def checked(self, x_B: Tensor) -> Tensor:
        """Records as they are stored; refuse codes that the model does not know."""
        if self.data is None:
            return x_B
        try:
            check_values(self.data, x_B, "the request")
        except InputError as error:
            raise RefusedError(400, str(error)) from None
        return x_B

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

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse records of another shape than the model's, flat or not."""
        if shape not in (self.shape, (math.prod(self.shape),)):
            raise RefusedError(
                400,
                f"the records have shape {list(shape[:_DEEPEST])}, and those of this model have {list(self.shape)}; "
                "send them as they were before normalisation",
            )

    def check_marks(self, body: bytes, marks: str) -> None:
        """Refuse JSON with more of these marks than the most records have: what it holds would take time and memory."""
        size, depth = math.prod(self.shape), len(self.shape)
        lists = max(1, sum(math.prod(self.shape[:level]) for level in range(depth)))
        of_record = {'"': 4, "\\": 1, "{": 1, "[": lists, ",": size + 1}
        for mark in marks:
            most = of_record[mark] * self.max_records + _SPARE
            if body.count(mark.encode()) > most:
                raise RefusedError(
                    413,
                    f"the body has {mark} more than {most} times, and {self.max_records} records, the most at once "
                    "(--max-records), need fewer; send fewer",
                )

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
        try:
            value_B = values if isinstance(values, np.ndarray) else numbers(values)
        except ValueError:
            raise RefusedError(400, "the records differ in shape; send lists of equal length") from None
        except TypeError:
            raise RefusedError(400, "the records hold what is no number; send numbers alone") from None
        self.check_shape(value_B.shape[1:])
        return self.checked(self._cast(value_B.reshape(len(value_B), *self.shape)))

    def rows(self, body: bytes) -> Numbers:
        """`[B, features]` from lines of numbers; there are no more lines or cells than records have.

        Raises:
            RefusedError: it is no such text, or there are too many records.
        """
        if body.count(b"\n") > 2 * self.max_records + _SPARE:
            raise RefusedError(
                413, f"the body has too many lines for {self.max_records} records (--max-records); send fewer"
            )
        size = math.prod(self.shape)
        lines = [line for line in body.split(b"\n") if line.strip()]
        self.check_count(len(lines))
        try:
            if b"_" in body or any(line.count(b",") != size - 1 for line in lines):  # for Python 1_0 is a number
                raise ValueError
            return np.array([[float(cell) for cell in line.split(b",")] for line in lines])
        except ValueError:
            raise RefusedError(
                400, f"the body is no CSV of numbers, {size} to a line, a line to a record, without a header"
            ) from None

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


def parsed(body: bytes, form: Form) -> Any:
    """The body as JSON in UTF-8; its size is checked before it is read.

    Raises:
        RefusedError: it is no JSON, is nested too deeply, holds more than the most records do, names something twice,
            or holds NaN or infinity, which JSON does not have.
    """
    form.check_marks(body, '"\\')
    _check_depth(_STRINGS.sub(b"", body))
    form.check_marks(body, "{[,")
    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant, object_pairs_hook=_named_once)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "a text or a number in it cannot be read"
        raise RefusedError(400, f"the body is not JSON ({reason}); send a JSON object") from None


def parsed_object(body: bytes, form: Form) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        RefusedError: it is no JSON object.
    """
    content = parsed(body, form)
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


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise RefusedError(400, f"an object in the body has {name[:100]!r} twice; name each thing once")
    return made


def _check_depth(body: bytes) -> None:
    """Refuse a body without its texts in which lists and objects are nested too deeply."""
    depth = 0
    for start in range(0, len(body), _BLOCK):
        steps = _STEPS[np.frombuffer(body, dtype=np.uint8, count=min(_BLOCK, len(body) - start), offset=start)]
        depths = steps.cumsum(dtype=np.int64) + depth
        if int(depths.max()) > _DEEPEST:
            raise RefusedError(400, f"the body is nested more than {_DEEPEST} levels deep; send plain lists of records")
        depth = int(depths[-1])


def numbers(values: Any) -> Numbers:
    """An array of nested lists of numbers; truth values are 0 and 1.

    What they hold is looked at first: in an array of texts each would take as much memory as the longest.

    Raises:
        ValueError: the lists differ in length.
        TypeError: they hold what is no number of 64 bits.
    """
    kinds = set(map(type, np.asarray(values, dtype=object).ravel().tolist()))
    if list in kinds:
        raise ValueError("lists of different lengths")
    if not kinds <= {int, float, bool}:
        raise TypeError("no numbers")
    found = np.asarray(values)
    if found.dtype.kind not in "fiub":
        raise TypeError("a number beyond 64 bits")
    return found.astype(np.uint8) if found.dtype.kind == "b" else found


def check_answers(probability_BC: Tensor) -> Tensor:
    """The answers of a model; refuse records so far from all others that it has none."""
    lost_B = probability_BC.isnan().any(-1)
    if bool(lost_B.any()):
        row = int(lost_B.nonzero()[0])
        raise RefusedError(
            400,
            f"for record {row} the model's answer is not a number, since its values are too large; send smaller ones",
        )
    return probability_BC


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
