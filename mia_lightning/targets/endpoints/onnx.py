"""An ONNX model, asked in this process through ONNX Runtime."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from torch import Tensor

from mia_lightning.errors import InputError, first_line
from mia_lightning.settings import settings
from mia_lightning.settings.kinds import FromList, Name, PathLike
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.in_process import IN_PROCESS, RecordIntake, classes_of
from mia_lightning.targets.endpoints.interface import Endpoint, RawAnswer
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.endpoints.own_classes import label_places, places
from mia_lightning.targets.endpoints.own_kind import kind_of_onnx
from mia_lightning.training.models import ModelKind, Models
from mia_lightning.training.setup import Setup

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
_NUMBERS = ("tensor(float)", "tensor(double)", "tensor(float16)")
_LABELS = ("tensor(int64)", "tensor(int32)", "tensor(string)")


@settings("target")
class Onnx(EndpointTarget):
    """An ONNX model in a file.

    Attributes:
        path: a `.onnx` file.
        input, output: their names in the model, needed where it has several; None for its only input, and for its first
            output of probabilities, else of labels.
        providers: of ONNX Runtime, in order of preference.
        normalised: whether it takes records as the networks of this run do, in place of those of the data set.
    """

    path: PathLike
    input: Name | None = None
    output: Name | None = None
    providers: Annotated[Sequence[Name], FromList] = ("CPUExecutionProvider",)
    normalised: bool = False
    asking: Asking = field(default_factory=lambda: IN_PROCESS)
    labels_are_places: ClassVar[bool] = True

    @property
    def sees_normalised(self) -> bool:
        return self.normalised

    @property
    def takes_gaps(self) -> bool:
        return True

    def asked_again(self, models: Models, setup: Setup) -> Models | None:
        """The same model anew, so that what is asked is not counted."""
        return self.obtain(setup)

    def known_kind(self, endpoint: Endpoint) -> ModelKind:
        return kind_of_onnx(Path(self.path).read_bytes())

    def connect(self, setup: Setup) -> "OnnxEndpoint":
        """The model, loaded.

        Raises:
            InputError: ONNX Runtime is not installed, or the file cannot be used.
        """
        records = RecordIntake(population=setup.population if self.normalised else None)
        return OnnxEndpoint(self, classes_of(self.asking, setup), records)


class OnnxEndpoint:
    """A model in a file (`mia_lightning.targets.endpoints.interface.Endpoint`).

    Of its outputs the first is asked for that holds numbers for each class: a floating-point tensor `[B, C]` in the
    order of `class_names`, or the list of maps from class to probability that scikit-learn's converter writes. A model
    that has none answers with labels.

    Args:
        target: the file, and which of its inputs and outputs are used.
        class_names: the classes in the order of its answers.
        records: as they are, or normalised.

    Raises:
        InputError: ONNX Runtime is not installed, or the file cannot be used.
    """

    protocol = "onnx"

    def __init__(self, target: Onnx, class_names: Sequence[str], records: RecordIntake) -> None:
        path, input, output = Path(target.path), target.input, target.output
        self._records = records
        self.place, self._what = path.name, f"The ONNX model {path}"
        self._class_names, self._labels = tuple(class_names), target.asking.labels
        self._session = _open(path, list(target.providers), self._what)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input = _named(inputs, input, self._what, "input")
        self._output = self._probable(outputs) if output is None else _named(outputs, output, self._what, "output")
        if self._input.type not in _DTYPES:
            raise InputError(
                f"{self._what} takes {self._input.type} as {self._input.name!r}; give one that takes a tensor of "
                f"numbers ({', '.join(_DTYPES)})."
            )
        self._identity = {
            "protocol": self.protocol,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "input": self._input.name,
            "output": self._output.name,
            **self._records.identity,
            "class_names": list(self._class_names),
            "labels": self._labels,
        }

    @property
    def identity(self) -> Mapping[str, object]:
        """The content of the file, and which of its inputs and outputs are used."""
        return self._identity

    def ask(self, x_B: Tensor) -> Sequence[RawAnswer]:
        """Probabilities in the order of `class_names`, 0 for classes that a map lacks; or the numbers of classes.

        Raises:
            InputError: it does not take the records, or does not give one answer for each.
        """
        x = self._taken(self._records.array(x_B))
        fixed = self._input.shape[0] if self._input.shape and isinstance(self._input.shape[0], int) else len(x)
        answer: list[RawAnswer] = []
        for start in range(0, len(x), fixed):
            block = x[start : start + fixed]
            padding = np.repeat(block[-1:], fixed - len(block), axis=0)
            answer += self._run(np.concatenate([block, padding]) if len(padding) else block)[: len(block)]
        return answer

    def close(self) -> None:
        """Nothing is open."""

    def _taken(self, own: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """In the model's dtype, and its shape where it says one: flattened, or in rows and columns again."""
        x = own.astype(_DTYPES[self._input.type])
        if x.dtype.kind in "iu" and not np.array_equal(x, own):
            raise InputError(
                f"{self._what} takes {x.dtype} as {self._input.name!r}, which does not hold the records' {own.dtype}; "
                "give records in the form that it was exported with."
            )
        wanted = self._input.shape[1:] if self._input.shape else []
        if wanted and all(isinstance(each, int) for each in wanted) and math.prod(wanted) == x[0].size:
            return x.reshape(len(x), *wanted)
        if len(wanted) == 1:
            return x.reshape(len(x), -1)
        return x

    def _run(self, x: np.ndarray[Any, Any]) -> list[RawAnswer]:
        try:
            (given,) = self._session.run([self._output.name], {self._input.name: x})
        # The errors of ONNX Runtime have no common class below Exception.
        except Exception as error:
            raise InputError(
                f"{self._what} does not take records of shape {list(x.shape[1:])} as {self._input.name!r} of shape "
                f"{self._input.shape} ({first_line(error)}); give records in the form that it was exported with."
            ) from error
        if self._output.type in _NUMBERS:
            given = np.asarray(given)
            if given.shape == (len(x),):
                given = given[:, None]
            if given.ndim == 2 and len(given) == len(x):
                return given.tolist()  # type: ignore[no-any-return]  # of numpy
        elif self._output.type in _LABELS:
            given = np.asarray(given)
            if given.shape in ((len(x),), (len(x), 1)):
                return [*label_places(given.reshape(-1), self._class_names, self._what, self._labels)]
        elif isinstance(given, list) and len(given) == len(x) and all(isinstance(each, dict) for each in given):
            return self._mapped(given)
        shape = list(given.shape) if isinstance(given, np.ndarray) else type(given).__name__
        raise InputError(
            f"{self._what} answers {self._output.type} of shape {shape} as {self._output.name!r} for {len(x)} records "
            "instead of [records, classes] or one label for each; name another in `target.output`."
        )

    def _mapped(self, given: list[dict[Any, float]]) -> list[Any]:
        classes = list(given[0])
        answer_BC = np.zeros((len(given), len(self._class_names)))
        answer_BC[:, places(classes, self._class_names, self._what, self._labels)] = [
            [each[c] for c in classes] for each in given
        ]
        return answer_BC.tolist()

    def _probable(self, outputs: Sequence[Any]) -> Any:
        """The most informative output: maps, else numbers for each class, else labels."""
        for kinds in (("seq(map(",), _NUMBERS, _LABELS):
            found = [each for each in outputs if each.type.startswith(kinds)]
            if found:
                return found[0]
        raise InputError(
            f"{self._what} has no output of probabilities or labels ("
            + ", ".join(f"{each.name}: {each.type}" for each in outputs)
            + "); export a classifier."
        )


def _open(path: Path, providers: list[str], what: str) -> Any:
    if find_spec("onnxruntime") is None:
        raise InputError("target=onnx needs onnxruntime, which is not installed; pip install 'mia-lightning[onnx]'.")
    import onnxruntime

    if not path.is_file():
        raise InputError(f"`target.path` {path} is not a file; give an ONNX model.")
    there = onnxruntime.get_available_providers()
    missing = [each for each in providers if each not in there]
    if missing or not providers:
        raise InputError(
            f"`target.providers` is {providers}, but this onnxruntime has {', '.join(there)}; name some of these."
        )
    try:
        return onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # as in `_run`
        raise InputError(
            f"{what} cannot be loaded ({first_line(error)}); export it anew, with its "
            "weights beside it where they are in files of their own."
        ) from error


def _named(values: Sequence[Any], name: str | None, what: str, setting: str) -> Any:
    if name is None and len(values) == 1:
        return values[0]
    found = [each for each in values if each.name == name]
    if not found:
        names = ", ".join(repr(each.name) for each in values)
        asked = f"several {setting}s" if name is None else f"no {setting} {name!r}"
        raise InputError(f"{what} has {asked} ({names}); name one of them in `target.{setting}`.")
    return found[0]
