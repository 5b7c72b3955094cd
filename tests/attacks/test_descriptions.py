"""What attacks say of themselves under each task."""

import pytest

import mia_lightning as mia
from mia_lightning.attacks.description import description_of
from mia_lightning.attacks.interface import Attack, FittedAttack, Needs, needs_of
from mia_lightning.tasks import Task

ATTACKS: list[Attack] = [  # that apply to every task
    mia.Loss(),
    mia.AttackP(),
    mia.AttackR(),
    mia.CalibratedLoss(),
    mia.Lira(),
    mia.Lira(online=False),
    mia.Rmia(),
    mia.QuantileRegression(),
    mia.Shokri(),
]
BEGINNINGS = {
    "loss": "Minus the cross-entropy loss of the record; one threshold",
    "lira_online": "Log likelihood ratio of the record's scaled logit between shadow models that trained on it and",
    "lira_offline": "Log probability that shadow models that did not train on the record have no higher a scaled",
    "quantile_regression": "How far the scaled logit is above what a network (64 hidden units), fitted on population",
    "shokri": "One network (64 hidden units) for each true class, on the vector of log probabilities, trained on",
}


@pytest.mark.parametrize("task", [mia.Classification(), mia.Binary()])
def test_of_classes(task: Task) -> None:
    for attack in ATTACKS:
        assert description_of(attack, task) == attack.description
        assert attack.description.startswith(BEGINNINGS.get(attack.name, ""))


@pytest.mark.parametrize("task", [mia.Multilabel(), mia.Regression(), mia.Regression(likelihood="laplace")])
def test_of_other_tasks(task: Task) -> None:
    said = {attack.name: description_of(attack, task) for attack in ATTACKS}
    assert not [each for each in said.values() if "class" in each or "scaled logit" in each]
    if task.outputs == "numbers":
        assert not [each for each in said.values() if "logit" in each or "probabilities" in each or "entropy" in each]
        assert ("squared" if task == mia.Regression() else "absolute") in said["loss"]
        assert "signed residual" in said["lira_online"]
    else:
        assert "label" in said["loss"]
        assert "log probabilities of all labels" in said["shokri"]
    assert len(set(said.values())) == len(said)


def test_an_attack_of_ones_own_has_one_description() -> None:
    class Own:
        name, description, needs = "own", "What it does.", mia.Loss().needs

        def fit(self, shadows: object, engine: object) -> FittedAttack:
            raise AssertionError

    assert description_of(Own(), mia.Regression()) == "What it does."


@pytest.mark.parametrize(
    ("attack", "classes", "labels"),
    [
        (
            mia.Gap(),
            "Whether the record is classified correctly; nothing is learnt.",
            "The share of the record's labels that are predicted right, flagged where all are; nothing is learnt.",
        ),
        (mia.AugmentationLabelOnly(), "answered with the true class;", "answered with the labels, all of them;"),
        (mia.BoundaryLabelOnly(), "the record keeps its true class,", "the record keeps its labels, all of them,"),
    ],
)
def test_of_what_is_predicted_right(attack: Attack, classes: str, labels: str) -> None:
    assert classes in attack.description
    assert classes in description_of(attack, mia.Classification())
    assert labels in description_of(attack, mia.Multilabel())


@pytest.mark.parametrize("field", ["population", "compares_shadows", "classes", "right"])
def test_attacks_together_need_what_one_of_them_needs(field: str) -> None:
    class Needy(mia.Loss):
        needs = Needs(**{field: True})

    assert getattr(needs_of([mia.Loss(), Needy()]), field)
    assert needs_of([Needy()]) == Needy.needs
