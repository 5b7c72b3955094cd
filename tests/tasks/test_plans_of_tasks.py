"""Estimates, independent memberships and trials of one canary under tasks without classes."""

import pytest
import torch
from tasks_data import memorising, records

import mia_lightning as mia


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "regression", "regression of two"])
def test_an_estimate_plans_every_stage_of_a_task(task: str) -> None:
    attacks = [mia.Loss(), mia.Lira(), mia.Rmia(), mia.Shokri(), mia.QuantileRegression()]
    sentences = mia.estimate(mia.Audit(records(task), **memorising(attacks=attacks)))  # type: ignore[arg-type]
    for stage in ("target", "shadow", "attack/shokri", "attack/quantile_regression"):
        assert any(f" {stage} model" in each for each in sentences), (stage, sentences)


@pytest.mark.slow
def test_canaries_that_are_in_or_out_by_a_coin_bound_epsilon_under_a_regression() -> None:
    options = memorising(membership=mia.Bernoulli(canaries=100), attacks=[mia.Loss(), mia.Lira()])
    report = mia.audit(records("regression"), **options)
    assert report.privacy is not None
    aucs = {each.name: each.overall.auc.value or 0.0 for each in report.attacks}
    assert min(aucs.values()) > 0.6, aucs


@pytest.mark.slow
def test_trials_of_one_canary_run_under_a_regression() -> None:
    quick = mia.Recipe(epochs=2, batch_size=40, optimizer=torch.optim.SGD)  # type: ignore[arg-type]
    options = memorising(membership=mia.OneCanary(), attacks=[mia.Loss()], shadow=mia.Real(count=8), training=quick)
    report = mia.audit(records("regression"), **options, target=mia.Trained(count=40))
    assert report.attacks[0].num_targets == 1
    assert report.privacy is not None
    assert report.attacks[0].overall.auc.value is not None
