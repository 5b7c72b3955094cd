"""A served model as a run sees it: observed once, in the form in which it answers, and watched for changes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from protocol_setup import population_of, setup_of
from scripted_endpoint import Scripted, softmax_of
from torch import Tensor

from mia_lightning.datasets.population import Population
from mia_lightning.defenses.interface import apply_all
from mia_lightning.defenses.labels_only import LabelsOnly
from mia_lightning.defenses.rounding import Rounding
from mia_lightning.defenses.top_k import TopK
from mia_lightning.errors import InputError
from mia_lightning.targets.endpoints.asking import Asking
from mia_lightning.targets.endpoints.interface import Endpoint
from mia_lightning.targets.endpoints.models import EndpointModels, EndpointTarget
from mia_lightning.targets.failures import TryAgainError
from mia_lightning.targets.interface import Models, Target
from mia_lightning.training.plan.room import Room
from mia_lightning.training.setup import Setup
from mia_lightning.training.signals import AnswerForm


@dataclass(frozen=True, kw_only=True)
class ScriptedTarget(EndpointTarget):
    endpoint: Scripted

    def connect(self, setup: Setup) -> Endpoint:
        return self.endpoint


@pytest.fixture
def population() -> Population:
    return population_of(torch.randn(150, 4, generator=torch.Generator().manual_seed(2)) * 2)


def obtained(endpoint: Scripted, population: Population, **asking: Any) -> EndpointModels:
    return ScriptedTarget(endpoint=endpoint, asking=Asking(**asking)).obtain(setup_of(population))


def observed(says: Callable[[Tensor], Any], population: Population, **asking: Any) -> Any:
    return obtained(Scripted(says), population, **asking).observe(population)


def test_it_is_a_target_and_models_of_which_little_is_known(population: Population) -> None:
    target: Target = ScriptedTarget(endpoint=Scripted())
    assert (target.count, target.is_trained_here, target.takes_recipe, target.takes_guess) == (1, False, False, True)
    models: Models = target.obtain(setup_of(population))
    assert (models.num_models, models.architecture_name, models.num_parameters) == (1, "unknown (scripted)", None)
    assert models.failed_epoch_K.tolist() == [-1]
    assert models.select(torch.tensor([True])) is models
    with pytest.raises(InputError, match=r"The model at here cannot be saved to target.safetensors"):
        models.save(Path("target.safetensors"))


def test_nothing_is_asked_before_it_is_observed(population: Population, tmp_path: Path) -> None:
    endpoint = Scripted()
    obtained(endpoint, population, responses=tmp_path)
    assert endpoint.calls == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize("room", [None, Room(max_bytes=0)])
def test_signals_are_the_logarithms_of_what_is_answered(
    concurrency: int, room: Room | None, population: Population
) -> None:
    endpoint = Scripted()
    models = obtained(endpoint, population, concurrency=concurrency, batch_size=7, sentinels=0)
    signals = models.observe(population, room=room)
    expected = np.log(np.array(softmax_of(population.x_N))).astype(np.float32)
    assert signals.log_probability_KANC.shape == (1, 1, 150, 3)
    assert np.array_equal(signals.log_probability_KANC[0, 0].numpy(), expected)
    assert (signals.form, signals.channel) == (AnswerForm(), "full")
    assert (models.num_queries, endpoint.num_asked) == (150, 150)
    assert signals.select(torch.tensor([True])).form == signals.to("cpu").form == signals.form


def labels(x_B: Tensor) -> list[int]:
    return x_B[:, :3].argmax(1).tolist()


def top_two(x_B: Tensor) -> list[dict[str, float]]:
    answers = []
    for row in softmax_of(x_B):
        best = sorted(range(3), key=lambda c: -row[c])[:2]
        answers.append({"abc"[c]: row[c] for c in best})
    return answers


def to_two_digits(x_B: Tensor) -> list[list[float]]:
    return np.round(np.array(softmax_of(x_B)), 2).tolist()


def two_of_two_digits(x_B: Tensor) -> list[dict[str, float]]:
    return [{name: round(value, 2) for name, value in answer.items()} for answer in top_two(x_B)]


FORMS = [
    (labels, AnswerForm(kind="labels"), (LabelsOnly(),)),
    (top_two, AnswerForm(kind="top_k", k=2), (TopK(k=2),)),
    (to_two_digits, AnswerForm(digits=2), (Rounding(digits=2),)),
    (two_of_two_digits, AnswerForm(kind="top_k", k=2, digits=2), (TopK(k=2), Rounding(digits=2))),
]


@pytest.mark.parametrize(("answer", "form", "defences"), FORMS)
def test_answers_that_show_less_are_taken_for_what_they_are(
    answer: Callable[[Tensor], Any], form: AnswerForm, defences: Any, population: Population
) -> None:
    signals = observed(answer, population)
    assert signals.form == form
    full = observed(softmax_of, population).log_probability_KANC
    through = apply_all(defences, full)
    # Where a probability lies between two roundings, its float32 logarithm may fall to the other side.
    near = torch.tensor(math.nan if form.digits is None else 10.0**form.digits) * full.double().exp() % 1 - 0.5
    is_same = near.abs().nan_to_num(1.0) > 1e-4
    assert torch.equal(signals.log_probability_KANC[is_same], through[is_same])
    assert int((~is_same).sum()) < 5
    again = apply_all(defences, signals.log_probability_KANC)
    assert torch.equal(again, signals.log_probability_KANC)


def test_a_later_look_at_few_records_keeps_the_digits(population: Population) -> None:
    models = obtained(Scripted(to_two_digits), population)
    whole = models.observe(population)
    one = population_of(population.x_N[40:43])
    few = models.observe(one)
    assert few.form == whole.form == AnswerForm(digits=2)
    assert torch.equal(few.log_probability_KANC[0, 0], whole.log_probability_KANC[0, 0, 40:43])


def test_records_that_show_more_digits_later_are_not_rounded(population: Population) -> None:
    def answer(x_B: Tensor) -> list[list[float]]:
        return [
            fine if x[3] > 50 else coarse
            for x, fine, coarse in zip(x_B, softmax_of(x_B), to_two_digits(x_B), strict=True)
        ]

    models = obtained(Scripted(answer), population)
    assert models.observe(population).form.digits == 2
    others = population_of(population.x_N[:5] + torch.tensor([0.0, 0.0, 0.0, 100.0]))
    signals = models.observe(others)
    assert signals.form.digits is None
    assert np.array_equal(
        signals.log_probability_KANC[0, 0].numpy(), np.log(np.array(softmax_of(others.x_N))).astype(np.float32)
    )


def test_two_looks_in_two_forms_are_a_mixture(population: Population) -> None:
    endpoint = Scripted()
    models = obtained(endpoint, population)
    models.observe(population)
    endpoint.answer = labels
    with pytest.raises(InputError, match="attack a model that gives all its answers in one form"):
        models.observe(population_of(population.x_N + 1))


def test_rounded_answers_that_do_not_add_up_are_refused_where_too_few_show_digits(population: Population) -> None:
    few = population_of(population.x_N[:20])
    with pytest.raises(InputError, match=r"answered record \d+ with .*adds up to (0.99|1.01)"):
        observed(to_two_digits, few)


def test_logits_in_the_order_of_the_server(population: Population) -> None:
    def logits(x_B: Tensor) -> list[list[float]]:
        return x_B.double()[:, [2, 0, 1]].tolist()

    signals = observed(logits, population, answer="logits", classes=["c", "a", "b"])
    expected = population.x_N.double()[:, :3].log_softmax(1).float()
    torch.testing.assert_close(signals.log_probability_KANC[0, 0], expected, rtol=1e-6, atol=1e-12)
    with pytest.raises(InputError, match="names 'z'"):
        observed(logits, population, classes=["c", "a", "z"])


def steps(*moves: float) -> Callable[[Tensor], Any]:
    """A model that is another by `moves[n]` at its nth call, as long as there are moves."""
    rest = list(moves)

    def answer(x_B: Tensor) -> list[object]:
        return softmax_of(x_B + (rest.pop(0) if len(rest) > 1 else rest[0]) * torch.tensor([1.0, 0, 0, 0]))

    return answer


def watched(endpoint: Scripted, population: Population, **asking: Any) -> Any:
    models = obtained(endpoint, population, batch_size=200, **asking)
    models.observe(population)
    return models.testimony()


def test_a_model_that_stays_as_it_is(population: Population) -> None:
    endpoint = Scripted()
    testimony = watched(endpoint, population, price_per_thousand=2.0, budget=1000)
    assert (testimony.protocol, testimony.place, testimony.form) == ("scripted", "here", AnswerForm())
    assert (testimony.num_records, testimony.num_found, testimony.num_sent) == (150, 0, 182)
    assert (testimony.num_repeated, testimony.num_spent, testimony.budget) == (32, 182, 1000)
    assert testimony.cost == pytest.approx(0.364)
    assert (testimony.num_wanted, testimony.num_at_once, testimony.num_at_end, testimony.num_kept) == (16, 16, 16, 0)
    assert (testimony.num_varied, testimony.num_changed, testimony.num_outdated) == (0, 0, 0)
    assert (testimony.largest_difference, testimony.failure) == (0.0, None)
    assert endpoint.num_asked == 182
    asked_again = sorted(key for key, count in endpoint.asked.items() if count == 3)
    assert len(asked_again) == 16
    same, other = Scripted(), Scripted()
    watched(same, population)
    assert sorted(key for key, count in same.asked.items() if count == 3) == asked_again
    models = ScriptedTarget(endpoint=other, asking=Asking(batch_size=200)).obtain(setup_of(population, seed=4))
    models.observe(population)
    assert sorted(key for key, count in other.asked.items() if count == 2) != asked_again


def test_a_model_that_varies_from_call_to_call(population: Population) -> None:
    testimony = watched(Scripted(steps(0.0, 0.1, 0.2)), population)
    assert (testimony.num_varied, testimony.num_changed) == (16, 16)
    assert 0 < testimony.largest_difference < 0.1


def test_a_model_that_changes_during_the_audit(population: Population) -> None:
    endpoint = Scripted(steps(0.0, 0.0, 3.0))
    testimony = watched(endpoint, population)
    assert (testimony.num_varied, testimony.num_changed, testimony.num_outdated) == (0, 16, 0)
    first, last = (np.array(softmax_of(population.x_N + shift * torch.tensor([1.0, 0, 0, 0]))) for shift in (0.0, 3.0))
    sentinels = [n for n, x in enumerate(population.x_N) if endpoint.asked[x.numpy().tobytes()] == 3]
    assert testimony.largest_difference == pytest.approx(np.abs(first - last)[sentinels].max(), abs=1e-6)


def test_a_difference_of_single_precision_is_none(population: Population) -> None:
    testimony = watched(Scripted(steps(0.0, 1e-6)), population)
    assert (testimony.num_varied, testimony.num_changed) == (0, 0)
    assert testimony.largest_difference > 0


def test_a_kept_answer_that_no_longer_agrees(population: Population, tmp_path: Path) -> None:
    first = obtained(Scripted(), population_of(population.x_N), responses=tmp_path, sentinels=0)
    first.observe(population)
    first.close()
    models = obtained(Scripted(steps(3.0)), population, responses=tmp_path)
    models.observe(population)
    testimony = models.testimony()
    models.close()
    assert (testimony.num_found, testimony.num_kept, testimony.num_outdated) == (150, 16, 16)
    assert (testimony.num_at_once, testimony.num_varied, testimony.num_changed) == (0, 0, 0)
    assert (testimony.num_sent, testimony.num_repeated, testimony.num_spent) == (32, 32, 182)


@pytest.mark.parametrize(("budget", "num"), [(150, 0), (151, 0), (157, 3), (181, 15), (182, 16), (500, 16)])
def test_sentinels_are_fewer_where_the_budget_leaves_fewer(budget: int, num: int, population: Population) -> None:
    endpoint = Scripted()
    models = obtained(endpoint, population, budget=budget)
    remarks: list[str] = []
    models = ScriptedTarget(endpoint=endpoint, asking=Asking(budget=budget)).obtain(setup := setup_of(population))
    remarks = setup.engine.stages.remarks
    models.observe(population)
    testimony = models.testimony()
    assert (testimony.num_at_once, testimony.num_at_end) == (num, num)
    assert endpoint.num_asked == 150 + 2 * num <= budget
    assert testimony.largest_difference == (0.0 if num else None)
    assert remarks == ([] if num == 16 else [remarks[0]])
    if num < 16:
        assert f"leaves {budget - 150}, so that {num} of 16 sentinels" in remarks[0]


def test_what_is_asked_in_between_comes_before_sentinels_at_the_end(population: Population) -> None:
    models = obtained(Scripted(), population, budget=190)
    models.observe(population)
    models.observe(population_of(population.x_N[:20] + 1))
    testimony = models.testimony()
    assert (testimony.num_at_once, testimony.num_at_end, testimony.num_spent) == (16, 4, 190)


def test_no_sentinels_and_no_records(population: Population) -> None:
    testimony = watched(Scripted(), population, sentinels=0)
    assert (testimony.num_wanted, testimony.num_at_once, testimony.num_sent) == (0, 0, 150)
    assert testimony.largest_difference is None
    nothing = obtained(Scripted(), population).testimony()
    assert (nothing.form, nothing.num_records, nothing.cost) == (None, 0, None)


def test_a_server_that_is_gone_at_the_end_is_part_of_the_testimony(population: Population) -> None:
    def fail(call: int) -> None:
        if call > 2:
            raise TryAgainError("no connection", was_asked=False)

    testimony = watched(Scripted(fail=fail), population, retries=0)
    assert "no connection" in testimony.failure
    assert (testimony.num_at_once, testimony.num_at_end, testimony.num_changed) == (16, 0, 0)


def test_integers_of_pictures_are_asked_as_they_are(population: Population) -> None:
    x_N = torch.randint(0, 256, (20, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pictures = replace(population_of(x_N), scale=1 / 255)
    seen: list[torch.dtype] = []

    def answer(x_B: Tensor) -> list[object]:
        seen.append(x_B.dtype)
        return softmax_of(x_B / 255)

    observed(answer, pictures)
    assert set(seen) == {torch.uint8}


def test_connections_go_back_when_nobody_holds_the_models_any_more(population: Population) -> None:
    endpoint = Scripted()
    models = obtained(endpoint, population)
    models.observe(population)
    assert not endpoint.is_closed
    del models
    assert endpoint.is_closed


def test_one_probability_for_two_classes_is_taken_for_what_it_is_and_said(population: Population) -> None:
    """Where most are 0 and 1, as a forest's are, those of a batch may look like labels."""
    of_two = replace(population, label_N=population.label_N % 2, class_names=("no", "yes"))
    p_N = of_two.x_N.double()[:, 0].sigmoid().round(decimals=1)
    p_N[:100] = (p_N[:100] > 0.5).double()
    place = {row.numpy().tobytes(): i for i, row in enumerate(of_two.x_N)}

    def says(x_B: Tensor) -> list[list[float]]:
        return [[float(p_N[place[row.numpy().tobytes()]])] for row in x_B]

    setup = setup_of(of_two)
    models = ScriptedTarget(endpoint=Scripted(says), asking=Asking(batch_size=8, concurrency=1)).obtain(setup)
    signals = models.observe(of_two)
    np.testing.assert_allclose(signals.log_probability_KANC[0, 0, :, 1].exp(), p_N.clamp(1e-12), atol=0.051)
    assert signals.form.kind == "full"
    assert models.testimony().largest_difference == 0
    (remark,) = [each for each in setup.engine.stages.remarks if "one number for each record" in each]
    assert "probability of 'yes', the second of two classes" in remark


def test_labels_by_number_follow_the_setting(population: Population) -> None:
    named = replace(population, class_names=("1", "2", "3"))
    for labels, shift in (("auto", 1), ("names", 1), ("places", 0)):
        signals = observed(lambda x_B, s=shift: (x_B.argmax(1) % 3 + s).tolist(), named, labels=labels)
        assert signals.log_probability_KANC[0, 0].argmax(1).tolist() == (population.x_N.argmax(1) % 3).tolist()
    with pytest.raises(InputError, match=r"with 0, which is no class of the data set.*target.asking.labels"):
        observed(lambda x_B: (x_B.argmax(1) % 3).tolist(), named)
