"""Whole runs of each task: planted leaks are found, and a membership that was redrawn after training is not."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tasks_data import TASKS, N, memorising, one_output, records

import mia_lightning as mia
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import generator

LIKELIHOODS = ("loss", "attack_p", "attack_r", "calibrated_loss", "lira_online", "lira_offline", "rmia_online")
ATTACKS = [
    mia.Loss(),
    mia.AttackP(),
    mia.AttackR(),
    mia.CalibratedLoss(),
    mia.Lira(),
    mia.Lira(online=False),
    mia.Rmia(gamma="auto"),
    mia.Rmia(online=False, gamma="auto"),
    mia.QuantileRegression(),
    mia.Shokri(),
    mia.Gap(),
    mia.Entropy(),
    mia.BoundaryLabelOnly(),
]
LEFT_OUT = {
    "classes": [],
    "labels": ["entropy"],
    "numbers": ["gap", "entropy", "boundary_label_only"],
}


@pytest.fixture(
    scope="module", params=[pytest.param(task, marks=pytest.mark.xdist_group(f"runs of {task}")) for task in TASKS]
)
def observation(request: pytest.FixtureRequest) -> mia.Observation:
    data = records(request.param)
    model = one_output if request.param in ("binary", "regression") else partial(MLP, hidden=[64])
    return mia.observe(data, **memorising(model=model, attacks=ATTACKS))


@pytest.mark.slow
def test_a_planted_leak_is_found_by_every_attack_that_applies(observation: mia.Observation) -> None:
    task = observation.population.task
    report = mia.attack(observation)
    aucs = {each.name: each.overall.auc for each in report.attacks}
    missing = [attack.name for attack in ATTACKS if attack.name not in aucs]
    assert missing == LEFT_OUT[task.outputs]
    for name in missing:
        assert any(f"attack={name}" in note and task.name in note for note in report.notes)
    weak = {"gap": 0.5, "entropy": 0.4, "quantile_regression": 0.52, "shokri": 0.55, "boundary_label_only": 0.5}
    for name, auc in aucs.items():
        assert (auc.value or 0.0) > weak.get(name, 0.6), (name, auc)
    assert report.target.train_accuracy > report.target.test_accuracy
    assert report.task.utility == task.utility
    assert report.headline.startswith("Membership leaks")
    assert len(report.attacks[0].per_class) == len(report.dataset.class_names) > 1


@pytest.mark.slow
def test_a_membership_that_is_redrawn_after_training_is_at_chance(observation: mia.Observation) -> None:
    """The target's signals, its shadow models unchanged, say nothing of records that it never depended on."""
    membership = observation.membership
    (scored,) = membership.scored_KN[0].nonzero(as_tuple=True)
    order = scored[torch.randperm(len(scored), generator=generator(1, "redrawn"))]
    member_KN = membership.member_KN.clone()
    member_KN[0] = torch.zeros(N, dtype=torch.bool).index_fill(0, order[: len(scored) // 2], True)
    redrawn = replace(observation, membership=replace(membership, member_KN=member_KN))
    report = mia.attack(redrawn)
    n1 = len(scored) // 2
    n0 = len(scored) - n1
    error = ((n1 + n0 + 1) / (12 * n1 * n0)) ** 0.5
    for each in report.attacks:
        assert each.overall.auc.value == pytest.approx(0.5, abs=3.5 * error), each.name


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_every_model_is_a_target_once_with_convergence_and_gate(task: str) -> None:
    gate = mia.Gate(metric="auc", limit=0.6)
    report = mia.audit(
        records(task),
        **memorising(
            target=mia.LeaveOneOut(folds=3),
            shadow=mia.Real(count=12),
            attacks=[mia.Loss(), mia.Lira(), mia.Shokri()],
            gate=gate,
        ),
    )
    assert [each.num_targets for each in report.attacks] == [12, 12, 12]
    assert all((each.overall.auc.value or 0) > 0.6 for each in report.attacks)
    assert report.gate is not None
    assert report.gate.status == "above"
    rising = mia.audit(records(task), **memorising(attacks=[mia.Lira()], convergence=True))
    assert rising.attacks[0].convergence is not None


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_models_in_a_stack_are_those_trained_alone(task: str) -> None:
    """vmap, the loop, and one model after the other give the same answers; a network alone differs in last bits."""
    quick = mia.Recipe(epochs=3, batch_size=40, optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    found = [
        mia.observe(
            records(task),
            **memorising(
                attacks=[mia.Lira()],
                shadow=mia.Real(count=4),
                training=replace(quick, execution=execution, chunk=chunk),
            ),
        ).shadow_signals.log_probability_KANC
        for execution, chunk in (("stack", None), ("loop", None), ("stack", 1))
    ]
    scale = float(found[0][found[0].isfinite()].abs().max())
    for other in found[1:]:
        assert torch.allclose(found[0], other, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


@pytest.mark.slow
def test_a_linear_model_that_is_trained_to_the_end_is_that_of_least_squares() -> None:
    """Predictions stand in the unit of the values, though training goes in standard ones."""
    data = records("regression")
    observation = mia.observe(
        data,
        **memorising(
            model=lambda input_shape, num_outputs: torch.nn.Linear(*input_shape, num_outputs),
            shadow=mia.Real(count=2),
            attacks=[mia.Loss()],
            training=mia.Recipe(epochs=300, batch_size=N, optimizer=partial(torch.optim.SGD, lr=0.3)),
        ),
    )
    member_N = observation.membership.member_KN[0]
    design = torch.cat([data.x_N, torch.ones(N, 1)], 1).double()
    weights = torch.linalg.lstsq(design[member_N], data.label_N[member_N].double()).solution
    expected = design @ weights
    found = observation.target_signals.log_probability_KANC[0, 0, :, 0].double()
    asked_N = found.isfinite()
    assert bool(asked_N[member_N].all())
    assert torch.allclose(found[asked_N], expected[asked_N], atol=1e-3)


@pytest.mark.slow
def test_training_does_not_depend_on_the_unit_of_the_value() -> None:
    data = records("regression")
    factor = 1024.0  # which rounds nothing
    other = replace(data, label_N=data.label_N * factor)
    options = memorising(
        shadow=mia.Real(count=4),
        attacks=[mia.Loss(), mia.CalibratedLoss(), mia.Lira(), mia.Rmia()],
        training=mia.Recipe(epochs=5, batch_size=40, optimizer=partial(torch.optim.SGD, lr=0.05), execution="loop"),
    )
    one, same = mia.audit(data, **options), mia.audit(other, **options)
    assert one.scores is not None
    assert same.scores is not None
    assert one.scores.score == pytest.approx(same.scores.score, rel=1e-9, abs=1e-9)
    assert one.target.train_accuracy == pytest.approx(same.target.train_accuracy)
    assert [each.class_name for each in one.attacks[0].per_class] != [
        each.class_name for each in same.attacks[0].per_class
    ]


@pytest.mark.slow
def test_public_constants_take_the_place_of_each_models_own() -> None:
    task = mia.Regression(label_mean=[40.0], label_std=[10.0])
    data = replace(records("regression"), task=task)
    options = memorising(shadow=mia.Real(count=2), attacks=[mia.Loss()], training=mia.Recipe(epochs=2))
    state = mia.observe(data, **options).targets.stack.state()  # type: ignore[attr-defined]
    assert state["label_mean"].tolist() == [[40.0]]
    assert state["label_std"].tolist() == [[10.0]]
    own = mia.observe(records("regression"), **options)
    member_N = own.membership.member_KN[0]
    value_M = data.label_N[member_N].double()
    state = own.targets.stack.state()  # type: ignore[attr-defined]
    assert float(state["label_mean"]) == pytest.approx(float(value_M.mean()))
    assert float(state["label_std"]) == pytest.approx(float(value_M.std(correction=0)))


@pytest.mark.slow
def test_models_of_a_task_are_found_in_the_store(tmp_path) -> None:
    options = memorising(
        shadow=mia.Real(count=2), attacks=[mia.Loss()], training=mia.Recipe(epochs=2), store=mia.Store(dir=tmp_path)
    )
    first, again = (mia.audit(records("regression"), **options) for _ in range(2))
    assert again.run.store["target"].found == 1
    assert again.run.store["shadow"].trained == 0
    assert first.scores is not None
    assert again.scores is not None
    assert (first.scores.score == again.scores.score).all()
    laplace = mia.audit(records("laplace"), **options)
    assert laplace.run.store["target"].trained == 1
