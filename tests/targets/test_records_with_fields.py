"""Targets and records with a form: trained networks, services, servers, predictions, and what an estimate says."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from formed import CASES, Columns, full_table, table_population
from quick import quick_audit
from torch import Tensor, nn

import mia_lightning as mia
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError
from mia_lightning.seeds import isolated
from mia_lightning.targets.services.google_prediction import GooglePrediction
from mia_lightning.training.stack.binding import bind_records


def network_for(population: Population, make: Callable[..., nn.Module]) -> nn.Module:
    """Fitted to the first half of the records."""
    with isolated(0, "target"):
        network = bind_records(make, population)()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
        x: Any = population.records(torch.arange(60))
        for _ in range(60):
            optimizer.zero_grad()
            output = network(x) if isinstance(x, Tensor) else network(**x)
            nn.functional.cross_entropy(output, population.label_N[:60]).backward()
            optimizer.step()
    return network.eval()


@pytest.mark.costly
@pytest.mark.parametrize("case", CASES)
def test_a_trained_network_is_attacked_as_it_is(case: str) -> None:
    population = CASES[case][0]()
    network = network_for(population, CASES[case][1])
    member_N = torch.arange(120) < 60
    given = make_population(
        population.x_N, population.label_N, form=population.form, member=member_N, class_names=population.class_names
    )
    report = mia.audit(given, **quick_audit(model=CASES[case][1], target=network, shadow=mia.Real(count=4)))
    assert report.trust is not None
    x: Any = given.records(torch.arange(120))
    output = network(x) if isinstance(x, Tensor) else network(**x)
    right = output.argmax(1) == given.label_N
    assert report.target.train_accuracy == pytest.approx(float(right[:60].float().mean()))
    assert report.attacks[0].overall.auc.value > 0.6


@pytest.mark.parametrize("case", CASES)
def test_services_that_train_on_numbers_refuse_other_records(case: str) -> None:
    population = CASES[case][0]()
    with pytest.raises(InputError, match="service") as caught:
        mia.audit(population, **quick_audit(model=CASES[case][1], target=GooglePrediction()))
    assert population.form is not None
    assert population.form.words in str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_an_estimate_measures_records_of_any_form(case: str) -> None:
    sentences = mia.estimate(
        CASES[case][0](), **quick_audit(model=CASES[case][1], shadow=mia.Real(count=4), membership=mia.Halves())
    )
    assert any("answer for" in each for each in sentences)


def test_predictions_answer_for_records_of_several_tensors(tmp_path: Path) -> None:
    population = full_table()
    network = network_for(population, Columns)
    x: Any = population.records(torch.arange(120))
    probability = network(**x).softmax(-1).detach()
    rows = ["0,1,2", *(",".join(f"{value:.9g}" for value in row) for row in probability.tolist())]
    (tmp_path / "answers.csv").write_text("\n".join(rows))
    given = make_population(
        population.x_N,
        population.label_N,
        form=population.form,
        member=torch.arange(120) < 60,
        class_names=population.class_names,
    )
    options = quick_audit(model=Columns, shadow=mia.Real(count=4))
    there = mia.audit(given, **{**options, "target": mia.Predictions(path=tmp_path / "answers.csv")})
    here = mia.audit(given, **{**options, "target": network})
    assert here.scores is not None
    assert there.scores is not None
    np.testing.assert_allclose(there.scores.score, here.scores.score, atol=1e-4)


@pytest.mark.costly
@pytest.mark.parametrize("case", CASES)
def test_private_training_runs(case: str) -> None:
    options = quick_audit(model=CASES[case][1], shadow=mia.Real(count=4), defenses=[mia.DPSGD()])
    assert mia.audit(CASES[case][0](), **options).defense is not None


def test_a_guessed_model_takes_the_form_too() -> None:
    guess = mia.Guess(model=partial(Columns, hidden=[3]))
    report = mia.audit(table_population(), **quick_audit(model=Columns, guess=guess, shadow=mia.Real(count=4)))
    assert report.attacks
    averaging = mia.Guess(training=mia.Recipe(augment=[mia.Flip()]))
    with pytest.raises(InputError, match=r"training\.augment"):
        mia.audit(table_population(), **quick_audit(model=Columns, guess=averaging, shadow=mia.Real(count=4)))
