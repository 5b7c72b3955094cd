"""What a task makes of answers and labels, against slow loops, scipy and scikit-learn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import laplace, norm
from sklearn.metrics import r2_score, roc_auc_score
from torch import Tensor

from mia_lightning.attacks.statistics import log_confidence, normal_statistics, scaled_logit, tempered_log_confidence
from mia_lightning.seeds import generator
from mia_lightning.tasks import Binary, Classification, Multilabel, Regression, Task
from mia_lightning.training.signals import Signals

K, N = 3, 7


def labelled(num_labels: int = 4) -> tuple[Signals, Tensor, Tensor]:
    """Signals of several labels, the logits that they are made of, and the labels."""
    random = generator(0, "labels")
    logit_KNL = 4 * torch.randn(K, N, num_labels, generator=random, dtype=torch.float64)
    label_NL = torch.randint(2, (N, num_labels), generator=random, dtype=torch.uint8)
    answer_KNL = Multilabel().answers(logit_KNL, "logits")
    return Signals(log_probability_KANC=answer_KNL[:, None], task=Multilabel()), logit_KNL, label_NL


def numbers(task: Task, num_values: int = 1) -> tuple[Signals, Tensor, Tensor]:
    """Signals of predicted numbers in their own unit, the residuals in it, and the values."""
    random = generator(0, "numbers")
    prediction_KND = torch.randn(K, N, num_values, generator=random)
    value_ND = torch.randn(N, num_values, generator=random)
    unit_D = torch.tensor([2.0, 0.5][:num_values], dtype=torch.float64)
    signals = Signals(log_probability_KANC=prediction_KND[:, None], task=task, unit_D=unit_D)
    residual_KND = (value_ND.double() - prediction_KND.double()) / unit_D
    return signals, residual_KND, value_ND[:, 0] if num_values == 1 else value_ND


def test_several_labels_are_bernoulli() -> None:
    signals, logit_KNL, label_NL = labelled()
    found = log_confidence(signals, label_NL)
    normal_KLN = normal_statistics(signals, label_NL)
    for k in range(K):
        for n in range(N):
            expected = 0.0
            for j, is_on in enumerate(label_NL[n].tolist()):
                p = 1 / (1 + math.exp(-float(logit_KNL[k, n, j])))
                expected += math.log(p if is_on else 1 - p)
                signed = float(logit_KNL[k, n, j]) * (1 if is_on else -1)
                assert float(normal_KLN[k, j, n]) == pytest.approx(signed, rel=1e-5, abs=1e-5)
            assert float(found[k, n]) == pytest.approx(expected, rel=1e-6)
    assert torch.allclose(scaled_logit(signals, label_NL), normal_KLN.sum(1))


def test_labels_that_a_model_is_sure_of_keep_their_digits() -> None:
    task = Multilabel()
    logit = torch.tensor([[-80.0, -20.0, 20.0, 80.0]], dtype=torch.float64)
    answer = task.answers(logit, "logits")
    for label in (torch.ones(1, 4), torch.zeros(1, 4)):
        sign = 1 if bool(label.all()) else -1
        assert torch.allclose(task.normal(answer, label), sign * logit, rtol=1e-5)
    probability = logit.sigmoid()
    assert torch.allclose(task.answers(probability, "probabilities")[:, :3], answer[:, :3], rtol=1e-5)
    assert bool(task.answers(torch.tensor([[0.0, 1.0]]), "probabilities").isfinite().all())
    assert torch.allclose(task.answers(probability.log(), "log_probabilities")[:, :3], answer[:, :3], rtol=1e-5)


def test_the_relative_likelihood_of_labels() -> None:
    signals, logit_KNL, label_NL = labelled()
    found = tempered_log_confidence(signals, label_NL, temperature=2.0, soft_margin=0.3)
    signed = logit_KNL * (2 * label_NL.double() - 1)
    expected = torch.nn.functional.logsigmoid(signed / 2 - 0.3).sum(-1)
    assert torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("num_values", [1, 2])
@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_numbers_have_the_density_of_scipy_in_units_of_the_residuals(likelihood: str, num_values: int) -> None:
    signals, residual_KND, value = numbers(Regression(likelihood=likelihood), num_values)  # type: ignore[arg-type]
    law = norm if likelihood == "gaussian" else laplace
    expected = law.logpdf(residual_KND.numpy()).sum(-1)
    assert np.allclose(log_confidence(signals, value).numpy(), expected, rtol=1e-6)
    assert torch.allclose(normal_statistics(signals, value), residual_KND.movedim(-1, 1), rtol=1e-6, atol=1e-7)
    size = residual_KND.square() / 2 if likelihood == "gaussian" else residual_KND.abs()
    relative = tempered_log_confidence(signals, value, temperature=3.0, soft_margin=9.0)
    assert torch.allclose(relative, -size.sum(-1) / 3, rtol=1e-6)
    assert torch.allclose(scaled_logit(signals, value), -residual_KND.square().sum(-1).pow(1 / 3), rtol=1e-6)


def test_the_two_sided_tail_is_that_of_scipy() -> None:
    r, mean, std = torch.tensor([-2.0, 0.1, 3.0]).double(), torch.tensor([0.5, -1.0, 2.0]).double(), 1.7
    expected = np.log(norm.cdf(-r.abs(), mean, std) + norm.sf(r.abs(), mean, std))
    found = Regression().log_tail(r, mean, torch.tensor(std))
    assert np.allclose(found.numpy(), expected)
    far = Regression().log_tail(torch.tensor(300.0).double(), torch.tensor(0.0), torch.tensor(1.0))
    assert bool(far.isfinite())
    assert float(far) < -1000


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_the_unit_is_that_of_the_residuals_on_records_that_a_model_did_not_train_on(likelihood: str) -> None:
    task = Regression(likelihood=likelihood)  # type: ignore[arg-type]
    signals, _, value = numbers(task, 2)
    answer_KND = signals.log_probability_KANC[:, 0].clone()
    out_KN = torch.rand(K, N, generator=generator(0, "out")) < 0.5
    answer_KND[~out_KN] = 1e6  # which must not matter
    found = [[float(value[n, d] - answer_KND[k, n, d]) for k, n in out_KN.nonzero().tolist()] for d in range(2)]
    expected = [
        np.sqrt(np.mean(np.square(each))) if likelihood == "gaussian" else np.mean(np.abs(each)) for each in found
    ]
    assert task.unit(answer_KND, value, out_KN).tolist() == pytest.approx(expected)
    assert task.unit(value.expand(K, -1, -1), value, out_KN).tolist() == [1.0, 1.0]
    assert Classification().unit(answer_KND, value, out_KN) is None
    assert Multilabel().unit(answer_KND, value, out_KN) is None


def test_the_utility_of_labels_is_the_mean_of_scikit_learns_areas() -> None:
    random = np.random.default_rng(0)
    label_NL, score_NL = random.integers(2, size=(60, 5)), random.normal(size=(60, 5)).round(1)  # with ties
    label_NL[:, 3] = 1  # without records that lack it
    expected = [roc_auc_score(label_NL[:, j], score_NL[:, j]) for j in (0, 1, 2, 4)]
    task, label, score = Multilabel(), torch.from_numpy(label_NL), torch.from_numpy(score_NL)
    assert task.utility_of(score, label) == pytest.approx(np.mean(expected))
    of_strata = task.utility_of_strata(score, label, label.bool().T).numpy()
    assert of_strata[[0, 1, 2, 4]] == pytest.approx(expected)
    assert np.isnan(of_strata[3])


def test_the_utility_of_numbers_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    value_ND, prediction_ND = random.normal(size=(2, 50, 3))
    task = Regression()
    found = task.utility_of(torch.from_numpy(prediction_ND), torch.from_numpy(value_ND))
    assert found == pytest.approx(r2_score(value_ND, prediction_ND))
    of_S = torch.arange(50) % 2 == torch.arange(2)[:, None]
    parts = task.utility_of_strata(torch.from_numpy(prediction_ND), torch.from_numpy(value_ND), of_S)
    assert float(parts.mean()) == pytest.approx(r2_score(value_ND, prediction_ND))  # of equally large parts
    assert math.isnan(task.utility_of(torch.zeros(0, 1), torch.zeros(0)))
    assert math.isnan(task.utility_of(torch.zeros(2, 1), torch.ones(2)))


def test_the_ranges_of_a_value_divide_the_records_evenly() -> None:
    value_N = torch.linspace(-3, 9, 100)[torch.randperm(100, generator=generator(0, "ranges"))]
    strata = Regression().strata(value_N, ["age"])
    assert strata.of_SN.sum(1).tolist() == [25] * 4
    assert bool((strata.of_SN.sum(0) == 1).all())
    assert strata.names[0].startswith("age -3 to ")
    assert strata.names[-1].endswith(" to 9")
    for s, of_N in enumerate(strata.of_SN):
        assert set(strata.number_N[of_N].tolist()) == {s}
    few = Regression().strata(torch.tensor([0.0] * 90 + [1.0] * 10), ["age"])  # mostly one value
    assert int(few.of_SN.sum()) == 100
    assert all(bool(of_N.any()) for of_N in few.of_SN)


def test_the_labels_of_records_overlap() -> None:
    label_NL = torch.tensor([[1, 1], [0, 1], [0, 0]], dtype=torch.uint8)
    strata = Multilabel().strata(label_NL, ["a", "b"])
    assert strata.of_SN.tolist() == [[True, False, False], [True, True, False]]
    assert strata.number_N.tolist() == [0, 1, -1]
    assert [strata.name_of(n) for n in range(3)] == ["a, b", "b", "none"]


def test_classes_are_as_they_were_under_another_name() -> None:
    """Everything but the names is that of `Classification`."""
    signals = Signals(log_probability_KANC=torch.randn(2, 1, 5, 2, generator=generator(0, "c")).log_softmax(-1))
    label_N = torch.tensor([0, 1, 1, 0, 1])
    expected = log_confidence(signals, label_N)
    rows = signals.log_probability_KANC[:, 0]
    assert torch.equal(expected, rows[:, torch.arange(5), label_N].double())
    assert torch.equal(log_confidence(replace(signals, task=Binary()), label_N), expected)
