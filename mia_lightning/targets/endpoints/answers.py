"""Read the answers of a served model: probabilities in the data set's order of classes, and their form."""

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.own_classes import ClassNames, Labels, NoClassError
from mia_lightning.targets.endpoints.seen import LARGEST_SUM_ERROR, Seen, decimals_of
from mia_lightning.targets.said import said
from mia_lightning.training.signals import HIDDEN_PROBABILITY, SMALLEST_PROBABILITY, AnswerForm

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the answers of one model are read.

    Attributes:
        place: of the model, for messages.
        class_names: of the data set, in the order of its labels.
        classes: the same names in the server's order; None where it is the same.
        answer, labels: as in `Asking`.
        is_single: whether a number alone is known to be the probability of one of two classes.

    Raises:
        InputError: `classes` that are not the names of the data set's classes, each once.
    """

    place: str
    class_names: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    answer: str = "auto"
    labels: Labels = "auto"
    is_single: bool = False

    def __post_init__(self) -> None:
        if self.classes is None:
            return
        places = [self._known.find(name) for name in self.classes]
        unknown = [name for name, place in zip(self.classes, places, strict=True) if place is None]
        if unknown:
            raise InputError(
                f"`target.asking.classes` names {unknown[0]!r}, which is no class of the data set; its classes are "
                f"{said(', '.join(self.class_names))}."
            )
        if len(places) != len(self.class_names) or len(set(places)) != len(places):
            raise InputError(
                f"`target.asking.classes` has {len(places)} names, {len(set(places))} of them different, "
                f"for {len(self.class_names)} classes; name each class of the data set once, in the server's order."
            )

    def read(self, raw_B: Sequence[object], record_B: Sequence[int]) -> tuple[Tensor, Seen]:
        """Log-probabilities `[B, C]` float32, in nats, in the order of the data set's classes, and their form.

        In a full answer each probability is raised to at least `SMALLEST_PROBABILITY`. In other answers a hidden
        probability becomes `HIDDEN_PROBABILITY`, as behind the output defences that hide it.

        Args:
            record_B: the number of each record, for messages.

        Raises:
            InputError: an answer is neither a distribution over the classes nor a label of one, or two answers differ
                in their form.
        """
        answers = self._both([plain(raw) for raw in raw_B], record_B)
        kinds = [self._kind(raw, record) for raw, record in zip(answers, record_B, strict=True)]
        for kind, raw, record in zip(kinds, answers, record_B, strict=True):
            if kind != kinds[0]:
                raise self._mixture(f"{received(raw)} for record {record}", record_B[0])
        if kinds[0] == "label":
            return self._labels(answers, record_B)
        if kinds[0] == "names":
            return self._by_name(answers, record_B)
        probability_BC = self._numbers(answers, record_B)
        if self.answer == "logits":
            log_BC = torch.from_numpy(probability_BC).log_softmax(1).float()
            return log_BC, Seen(form=AnswerForm(), record=record_B[0])
        return self._full(probability_BC, answers, record_B)

    def shows_single(self, raw_B: Sequence[object]) -> bool:
        """Whether an answer is a number alone that can be no label, so that all are the probability of one of two
        classes, or its logit."""
        if len(self.class_names) != 2 or self.answer == "labels":
            return False
        numbers = [number for raw in raw_B if (number := _alone(plain(raw))) is not None]
        return bool(numbers) and (
            self.answer != "auto" or any(number != int(number) for number in numbers if math.isfinite(number))
        )

    def join(self, first: Seen, second: Seen) -> Seen:
        """What was seen of both.

        Raises:
            InputError: they differ in their form.
        """
        if first.form != second.form:
            raise self._mixture(f"{_described(second.form)} for record {second.record}", first.record)
        worst = max(first, second, key=lambda each: each.sum_error)
        return Seen(
            form=first.form,
            record=first.record,
            decimals=first.decimals + second.decimals,
            sum_error=worst.sum_error,
            sum_record=worst.sum_record,
            sum_received=worst.sum_received,
            terms=max(first.terms, second.terms),
        )

    def check_sums(self, seen: Seen, digits: int | None) -> None:
        """Refuse a sum that is farther from 1 than rounding all numbers to `digits` explains."""
        allowed = LARGEST_SUM_ERROR if digits is None else max(LARGEST_SUM_ERROR, seen.terms * 0.5 * 10.0**-digits)
        if seen.sum_error > allowed:
            self._refuse_sum(seen)

    @cached_property
    def _known(self) -> ClassNames:
        return ClassNames(self.class_names)

    def _both(self, answers: list[Any], record_B: Sequence[int]) -> list[Any]:
        """With the numbers of both classes in place of one alone, which is that of the second in the server's order, or
        of the class that it is named by."""
        if len(self.class_names) != 2:
            return answers
        named = self._named_alone(answers)
        if named is not None:
            other = self.class_names[1 - named]
            return [
                {other: self._rest(value, raw, record), self.class_names[named]: value}
                for raw, record in zip(answers, record_B, strict=True)
                for value in raw.values()
            ]
        if not (self.is_single or self.shows_single(answers)):
            return answers
        numbers = [_alone(raw) for raw in answers]
        return [
            raw if number is None else [self._rest(number, raw, record), number]
            for number, raw, record in zip(numbers, answers, record_B, strict=True)
        ]

    def _named_alone(self, answers: Sequence[Any]) -> int | None:
        """The class that all answers name, where its number cannot be that of the most probable class."""
        if not all(isinstance(raw, Mapping) and len(raw) == 1 for raw in answers):
            return None
        places = {self._known.find(name) for raw in answers for name in raw}
        values = [value for raw in answers for value in raw.values()]
        if len(places) != 1 or not all(map(_is_number, values)):
            return None
        return places.pop() if self.answer == "logits" or any(0 <= value < 0.5 for value in values) else None

    def _rest(self, value: float, raw: object, record: int) -> float:
        """The number of the other of two classes."""
        if self.answer == "logits":
            return 0.0
        if not 0 <= value <= 1:
            mend = "if it is a logit, set target.asking.answer=logits"
            self._refuse(raw, record, "is no probability of one of two classes", mend=mend)
        return 1.0 - value

    def _kind(self, raw: object, record: int) -> str:
        if isinstance(raw, Mapping):
            kind = "names"
        elif isinstance(raw, str) or self._is_label(raw):
            kind = "label"
        elif isinstance(raw, list):
            kind = "label" if len(raw) == 1 and len(self.class_names) > 1 and self._is_label(raw[0]) else "numbers"
        else:
            kind = "nothing"
        if kind == "nothing":
            self._refuse(raw, record, "is neither a list of probabilities nor a label")
        if self.answer == "labels" and kind != "label":
            self._refuse(raw, record, "is no label", mend="set target.asking.answer=auto")
        if self.answer in ("probabilities", "logits") and kind == "label":
            self._refuse(raw, record, "is a label alone", mend="set target.asking.answer=auto")
        return kind

    def _is_label(self, raw: object) -> bool:
        """Whether one value is a label: a text, a bool by which a class is named, a number without a fraction."""
        if isinstance(raw, str):
            return True
        if isinstance(raw, bool):
            return self._known.find(raw) is not None
        return isinstance(raw, int | float) and (self.answer == "labels" or float(raw).is_integer())

    def _labels(self, answers: Sequence[Any], record_B: Sequence[int]) -> tuple[Tensor, Seen]:
        order = None if self.classes is None else self._order()
        label_B = []
        for raw, record in zip(answers, record_B, strict=True):
            label = raw[0] if isinstance(raw, list) else raw
            if type(label) is float and len(self.class_names) == 2 and self.answer == "auto":
                self._check_no_probability(label, raw, record)
            try:
                label_B.append(self._known.of_label(label, self.labels, order))
            except NoClassError as error:
                why, _, mend = str(error).partition("; ")
                self._refuse(raw, record, why, mend=mend or None)
        log_BC = torch.full((len(label_B), len(self.class_names)), math.log(HIDDEN_PROBABILITY), dtype=torch.float32)
        log_BC.scatter_(1, torch.tensor(label_B).unsqueeze(1), 0.0)
        return log_BC, Seen(form=AnswerForm(kind="labels"), record=record_B[0])

    def _check_no_probability(self, label: float, raw: object, record: int) -> None:
        """Refuse a number that is the probability of one class and the label of the other."""
        if label in (0.0, 1.0) and self._known.find(label) not in (None, int(label)):
            why = "could be a probability and a label"
            self._refuse(raw, record, why, mend="set target.asking.answer=probabilities or target.asking.answer=labels")

    def _by_name(self, answers: Sequence[Any], record_B: Sequence[int]) -> tuple[Tensor, Seen]:
        C = len(self.class_names)
        k = len(answers[0])
        probability_BC = np.zeros((len(answers), C))
        is_shown_BC = np.zeros((len(answers), C), dtype=bool)
        for row, (raw, record) in enumerate(zip(answers, record_B, strict=True)):
            if not raw:
                self._refuse(raw, record, "names no class")
            places = []
            for name in raw:
                place = self._known.find(name)
                if place is None:
                    self._refuse_name(name, raw, record)
                places.append(place)
            if len(raw) != k:
                raise self._mixture(f"{len(raw)} classes ({received(raw)}) for record {record}", record_B[0], f"{k}")
            if not all(_is_number(value) for value in raw.values()):
                self._refuse(raw, record, "has other things than numbers")
            if len(set(places)) < k:
                self._refuse(raw, record, "names a class twice")
            probability_BC[row, places] = list(raw.values())
            is_shown_BC[row, places] = True
        if k == C:
            if self.answer == "logits":
                self._check_finite(probability_BC, answers, record_B)
                return torch.from_numpy(probability_BC).log_softmax(1).float(), Seen(
                    form=AnswerForm(), record=record_B[0]
                )
            return self._full(probability_BC, answers, record_B)
        if self.answer == "logits":
            self._refuse(
                answers[0], record_B[0], f"has logits of {k} of {C} classes, from which no probability follows"
            )
        if k == 1 and C == 2:
            for raw, record in zip(answers, record_B, strict=True):
                if min(raw.values()) < 0.5 - LARGEST_SUM_ERROR:
                    mend = (
                        "let it give the probabilities of both, or name them in target.output or target.prediction_key"
                    )
                    self._refuse(raw, record, "names the less probable of two classes", mend=mend)
        return self._top_k(probability_BC, is_shown_BC, answers, record_B)

    def _numbers(self, answers: Sequence[Any], record_B: Sequence[int]) -> Numbers:
        C = len(self.class_names)
        for raw, record in zip(answers, record_B, strict=True):
            if not all(_is_number(value) for value in raw):
                self._refuse(raw, record, "has other things than numbers")
            if len(raw) != C:
                self._refuse(raw, record, f"has {len(raw)} {'number' if len(raw) == 1 else 'numbers'} for {C} classes")
        found_BC: Numbers = np.array(answers, dtype=np.float64)
        self._check_finite(found_BC, answers, record_B)
        number_BC = np.empty_like(found_BC)
        number_BC[:, self._order()] = found_BC
        return number_BC

    def _full(self, probability_BC: Numbers, answers: Sequence[Any], record_B: Sequence[int]) -> tuple[Tensor, Seen]:
        self._check_range(probability_BC, answers, record_B)
        error_B = np.abs(probability_BC.sum(1) - 1)
        seen = self._seen(AnswerForm(), probability_BC, error_B, answers, record_B)
        return _log(probability_BC).float(), seen

    def _top_k(
        self, shown_BC: Numbers, is_shown_BC: npt.NDArray[np.bool_], answers: Sequence[Any], record_B: Sequence[int]
    ) -> tuple[Tensor, Seen]:
        self._check_range(shown_BC, answers, record_B)
        shown = shown_BC[is_shown_BC].reshape(len(answers), -1)
        error_B = (shown.sum(1) - 1).clip(min=0)
        seen = self._seen(AnswerForm(kind="top_k", k=shown.shape[1]), shown, error_B, answers, record_B)
        log_BC, mask_BC = _log(shown_BC).float(), torch.from_numpy(is_shown_BC)
        smallest_B1 = log_BC.masked_fill(~mask_BC, torch.inf).amin(1, keepdim=True)
        return torch.where(mask_BC, log_BC, smallest_B1.clamp(max=math.log(HIDDEN_PROBABILITY))), seen

    def _seen(
        self, form: AnswerForm, shown: Numbers, error_B: Numbers, answers: Sequence[Any], record_B: Sequence[int]
    ) -> Seen:
        worst = int(error_B.argmax())
        seen = Seen(
            form=form,
            record=record_B[0],
            decimals=decimals_of(shown),
            sum_error=float(error_B[worst]),
            sum_record=record_B[worst],
            sum_received=f"{received(answers[worst])}, which adds up to {shown[worst].sum():.6g}",
            terms=shown.shape[1],
        )
        if seen.sum_error > seen.allowed:
            self._refuse_sum(seen)
        return seen

    def _order(self) -> list[int]:
        """The place in the data set's order of each class in the server's."""
        names = self.class_names if self.classes is None else self.classes
        return [place for name in names if (place := self._known.find(name)) is not None]

    def _check_finite(self, number_BC: Numbers, answers: Sequence[Any], record_B: Sequence[int]) -> None:
        wrong_B = ~np.isfinite(number_BC).all(1)
        if wrong_B.any():
            row = int(wrong_B.argmax())
            self._refuse(answers[row], record_B[row], "has a NaN or infinite number")

    def _check_range(self, probability_BC: Numbers, answers: Sequence[Any], record_B: Sequence[int]) -> None:
        self._check_finite(probability_BC, answers, record_B)
        for wrong_BC, why in ((probability_BC < 0, "below 0"), (probability_BC > 1 + LARGEST_SUM_ERROR, "above 1")):
            if wrong_BC.any():
                row = int(wrong_BC.any(1).argmax())
                mend = "if these are logits, set target.asking.answer=logits"
                self._refuse(answers[row], record_B[row], f"has a number {why}", mend=mend)

    def _refuse_sum(self, seen: Seen) -> NoReturn:
        mend = "if these are logits, set target.asking.answer=logits"
        raise InputError(
            f"The model at {self.place} answered record {seen.sum_record} with {seen.sum_received}: no probability "
            f"distribution over {len(self.class_names)} classes; {mend}."
        )

    def _refuse_name(self, name: object, raw: Sized, record: int) -> NoReturn:
        """Of a name that no class has."""
        is_alone = len(raw) == 1 and len(self.class_names) == 2
        mend = "if this is the probability of the second class, name it in target.prediction_key"
        why = f"names no class of the data set: {received(name)}"
        self._refuse(raw, record, why, mend=mend if is_alone else None)

    def _refuse(self, raw: object, record: int, why: str, *, mend: str | None = None) -> NoReturn:
        mend = mend or (
            f"let it give probabilities of the data set's {len(self.class_names)} classes, or one of these as a label "
            "(target.asking.classes names them in the server's order, target.asking.labels says what numbers are)"
        )
        raise InputError(
            f"The model at {self.place} answered record {record} with {received(raw)}, which {why}; {mend}."
        )

    def _mixture(self, found: str, first: int, before: str = "another form") -> InputError:
        return InputError(
            f"The model at {self.place} gave {found}, but {before} for record {first}; attack a model that gives all "
            "its answers in one form, and if it was changed since its answers were kept, choose another folder in "
            "target.asking.responses."
        )


def _log(probability_BC: Numbers) -> Tensor:
    return torch.from_numpy(probability_BC).clamp(SMALLEST_PROBABILITY, 1.0).log()


def plain(raw: Any) -> Any:
    """Lists and numbers of Python in place of those of numpy and torch; what no float holds is infinite."""
    raw = raw.tolist() if hasattr(raw, "tolist") else raw
    if isinstance(raw, list | tuple):
        return [_plain_number(each) for each in raw]
    if isinstance(raw, Mapping):
        return {str(name): _plain_number(each) for name, each in raw.items()}
    return _plain_number(raw)


def _plain_number(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, int) and value.bit_length() > 1023:
        return math.copysign(math.inf, 1 if value > 0 else -1)
    return value


def _alone(raw: object) -> float | None:
    """The number, where an answer is one number, in a list or not."""
    if isinstance(raw, list) and len(raw) == 1:
        raw = raw[0]
    return raw if type(raw) in (int, float) else None  # type: ignore[return-value]  # not of bool


def _is_number(raw: object) -> bool:
    return type(raw) in (int, float)


def _described(form: AnswerForm) -> str:
    return "probabilities of all classes" if form.kind == "full" else f"an answer of {form.describe()}"


def received(raw: object) -> str:
    """For a message."""
    return said(repr(raw))
