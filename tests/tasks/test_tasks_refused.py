"""What knows classes alone is refused before anything is trained, in one sentence that names the setting."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks_data import records

import mia_lightning as mia
from mia_lightning.attacks.interface import Attack, DoesNotApplyError
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.seeds import isolated

SHORT = {"model": partial(MLP, hidden=[4]), "membership": mia.Halves(), "shadow": mia.Real(count=4)}


class Sigmoid(torch.nn.Sequential):
    def __init__(self, input_shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__(torch.nn.Linear(*input_shape, num_outputs), torch.nn.Sigmoid())


@pytest.mark.parametrize("task", ["regression", "multilabel"])
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"defenses": [mia.TopK(k=1)]}, ["top_k", "classes"]),
        ({"defenses": [mia.LabelsOnly()]}, ["labels_only", "classes"]),
        ({"defenses": [mia.Temperature(temperature=2.0)]}, ["temperature", "classes"]),
        ({"defenses": [mia.LabelKeepingNoise()]}, ["label_keeping_noise", "classes"]),
        ({"defenses": [mia.LabelSmoothing()]}, ["label_smoothing", "classes"]),
        ({"defenses": [mia.Mixup()]}, ["mixup", "classes"]),
        ({"defenses": [mia.RelaxLoss()]}, ["relaxloss", "classes"]),
        ({"shadow": mia.ModelBased(count=2)}, ["shadow=model_based", "shadow=real"]),
        ({"shadow": mia.Noisy(count=2)}, ["shadow=noisy", "shadow=real"]),
        ({"shadow": mia.Marginal(count=2)}, ["shadow=marginal", "shadow=real"]),
        ({"training": mia.Recipe(class_weights="balanced")}, ["training.class_weights", "no class"]),
        ({"training": mia.Recipe(class_weights=[1.0, 2.0])}, ["training.class_weights", "no class"]),
        ({"canaries": mia.Canaries(count=2)}, ["canary.kind", "uniform"]),
        ({"attacks": [mia.ModifiedEntropy()]}, ["attack=modified_entropy", "classes"]),
        ({"attacks": [mia.ClassConfidence()]}, ["attack=class_confidence", "classes"]),
        ({"attacks": [mia.Lira(shift=1, image_shape=[2, 3])]}, ["attack=lira_online", "changed copies"]),
    ],
)
def test_what_needs_classes_is_refused(task: str, options: dict[str, object], names: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        mia.observe(records(task), **{**SHORT, "attacks": [mia.Loss()], **options})
    sentence = str(refused.value)
    assert f"task={task}" in sentence
    assert all(each in sentence for each in names)
    assert sentence.count(". ") == 0
    assert isinstance(refused.value, DoesNotApplyError) == ("attacks" in options)


@pytest.mark.parametrize(
    ("attack", "names"),
    [
        (mia.Gap(), ["attack=gap", "classes"]),
        (mia.BoundaryLabelOnly(), ["attack=boundary_label_only", "changed copies"]),
    ],
)
def test_what_asks_whether_an_answer_is_right_is_refused_for_numbers(attack: Attack, names: list[str]) -> None:
    with pytest.raises(DoesNotApplyError) as refused:
        mia.observe(records("regression"), **{**SHORT, "attacks": [attack]})
    sentence = str(refused.value)
    assert all(each in sentence for each in ("task=regression", *names))
    assert sentence.count(". ") == 0


def test_rounding_is_of_probabilities() -> None:
    with pytest.raises(InputError, match=r"defense=rounding.*task=regression"):
        mia.observe(records("regression"), **SHORT, attacks=[mia.Loss()], defenses=[mia.Rounding(digits=1)])


@pytest.mark.parametrize("defense", [mia.TopK(k=1), mia.LabelsOnly(), mia.Rounding(digits=1)])
def test_so_are_defences_of_models_that_were_observed_without_them(defense: mia.Defense) -> None:
    training = mia.Recipe(epochs=1)
    observation = mia.observe(records("regression"), **SHORT, attacks=[mia.Loss()], training=training)
    with pytest.raises(InputError, match=rf"defense={defense.name} .*task=regression"):
        mia.attack(observation, defenses=[defense])


@pytest.mark.parametrize(
    ("task", "model", "options", "names"),
    [
        ("multilabel", Sigmoid, {}, ["Sigmoid", "logits"]),
        ("regression", partial(MLP, hidden=[4]), {"model_output": "probabilities"}, ["model.output", "regression"]),
        ("regression of two", lambda input_shape: torch.nn.Linear(*input_shape, 3), {}, ["[3, 3]", "[3, 2]"]),
    ],
)
def test_models_whose_outputs_are_none_of_the_task(
    task: str, model: object, options: dict[str, object], names: list[str]
) -> None:
    with pytest.raises(InputError) as refused:
        mia.observe(records(task), **{**SHORT, "model": model, "attacks": [mia.Loss()], **options})
    assert all(each.replace("[3, ", "") in str(refused.value) for each in names)


def test_a_served_target_gives_the_probabilities_of_classes(tmp_path: Path) -> None:
    data = records("regression")
    target = mia.Predictions(path=tmp_path / "predictions.csv")
    member_N = torch.arange(len(data)) < 100
    with pytest.raises(InputError, match=r"`target`.*task=regression"):
        mia.audit(data, **{**SHORT, "membership": mia.Given(member_N=member_N)}, target=target, attacks=[mia.Loss()])


def test_the_expected_accuracy_is_of_classes() -> None:
    with isolated(0, "network"):
        network = torch.nn.Linear(6, 1)
    member_N = torch.arange(320) < 100
    with pytest.raises(InputError, match=r"target.expected_accuracy.*task=regression"):
        mia.audit(
            records("regression"),
            **{**SHORT, "membership": mia.Given(member_N=member_N)},
            target=mia.Existing(network=network, expected_accuracy=0.5),
            attacks=[mia.Loss()],
        )


def test_integers_are_numbers_and_classes_are_none() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    assert mia.Audit(x, np.arange(40), task="regression", model=MLP).population.label_N.is_floating_point()
    with pytest.raises(InputError, match=r"task=classification.*regression"):
        mia.Audit(mia.make_population(x, np.arange(40) % 2), task="regression", model=MLP)
