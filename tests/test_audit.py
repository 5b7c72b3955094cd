"""`mia_lightning.audit` from Python: inputs, what it refuses, and what becomes of models that fail."""

import importlib
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import mia_lightning as mia
from mia_lightning.attacks.shokri import default_training
from mia_lightning.datasets.population import Population
from mia_lightning.gate import Gate, judge
from mia_lightning.membership import Wanted
from mia_lightning.models.mlp import MLP
from mia_lightning.reports import sentences

MODEL = partial(MLP, hidden=[8])
CPU = mia.TrainerSettings(accelerator="cpu")
RECIPE = mia.Recipe(epochs=8, batch_size=10, optimizer=partial(torch.optim.Adam, lr=0.02))


def audit(data: object, *arguments: object, **options: object) -> mia.AuditReport:
    quick = {
        "model": MODEL,
        "membership": mia.Disjoint(train_size=20),
        "shadow": mia.Real(count=4),
        "attacks": [mia.Loss()],
        "training": RECIPE,
        "trainer": CPU,
    }
    return mia.audit(data, *arguments, **{**quick, **options})


def test_tensors_arrays_and_a_population_give_the_same_report(blobs: Population) -> None:
    reports = [
        audit(blobs),
        audit(blobs.x_N, blobs.label_N),
        audit(blobs.x_N.double().numpy(), blobs.label_N.numpy().astype(np.int32)),
    ]
    scores = [report.scores for report in reports]
    assert all(np.array_equal(scores[0].score, other.score) for other in scores[1:])


def test_the_function_stays_the_function_however_the_module_is_imported() -> None:
    importlib.import_module("mia_lightning.audit")
    assert callable(mia.audit)
    assert mia.audit is sys.modules["mia_lightning.audit"].audit
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mia.no_such_name
    assert all(getattr(mia, name) is not None for name in dir(mia))


def test_a_networks_function_without_shapes_will_do(blobs: Population) -> None:
    report = audit(blobs, model=lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    assert report.target.architecture == "Sequential"


def test_the_figures_are_those_of_the_scores(blobs: Population) -> None:
    report = audit(blobs, attacks=[mia.Loss(), mia.Shokri()], target=mia.Trained(count=3))
    scores = report.scores
    assert {role: len(curves.train_loss_EK) for role, curves in report.training_curves.items()} == {
        "target": 8,
        "shadow": 8,
        "attack/shokri": 30,
    }
    for attack in report.attacks:
        per_target = []
        for t in range(3):
            rows = (scores.attack == attack.name) & (scores.target == t)
            assert rows.sum() == 40
            assert scores.is_member[rows].sum() == 20
            per_target.append(roc_auc_score(scores.is_member[rows], scores.score[rows]))
        assert attack.overall.auc.value == pytest.approx(np.mean(per_target))
        assert attack.num_targets == 3
        assert attack.overall.num_members == 60
        assert sum(group.num_members for group in attack.per_class) == 60
        flagged = scores.is_flagged[scores.attack == attack.name]
        assert attack.overall.accuracy.value == pytest.approx(
            (flagged == scores.is_member[scores.attack == attack.name]).mean()
        )
    assert report.target.generalization_gap == pytest.approx(report.target.train_accuracy - report.target.test_accuracy)


@pytest.mark.slow
def test_chunks_and_the_loop_give_the_same_scores(blobs: Population) -> None:
    shokri = mia.Shokri(training=replace(default_training(), epochs=5))

    def scores(**recipe: object) -> np.ndarray:
        training = mia.Recipe(**{"epochs": 4, "batch_size": 10, "optimizer": RECIPE.optimizer, **recipe})
        precise = mia.TrainerSettings(accelerator="cpu", precision=64)
        return audit(blobs, training=training, trainer=precise, attacks=[shokri, mia.Loss()]).scores.score

    expected = scores()
    np.testing.assert_allclose(scores(chunk=3), expected, atol=1e-5)
    np.testing.assert_allclose(scores(execution="loop"), expected, atol=1e-5)


def test_more_shadow_models_leave_the_first_ones_as_they_are(blobs: Population) -> None:
    curves = [audit(blobs, shadow=mia.Real(count=count)).training_curves["shadow"] for count in (2, 4)]
    np.testing.assert_allclose(curves[1].train_loss_EK[:, :2], curves[0].train_loss_EK, rtol=1e-4)


class FragileNet(nn.Module):
    """Overflows on the one record that holds a huge number, in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.training else x.clamp(max=10)
        return self.head(x) * x.abs().amax(1, keepdim=True).clamp(min=1) ** 4


def poisoned(blobs: Population, record: int) -> Population:
    x_N = blobs.x_N.clone()
    x_N[record] = 1e30
    return Population(name="blobs", x_N=x_N, label_N=blobs.label_N, class_names=blobs.class_names)


def test_under_complementary_pairs_one_poisoned_record_leaves_no_pair(blobs: Population) -> None:
    """Each pair has the record in one of its halves, and the halves go together."""
    plan = mia.Halves().fill(blobs, Wanted(num_targets=1, num_shadows=6, seed=0))
    record = int((~plan.member_KN[0]).nonzero()[0])  # the target does not train on it
    with pytest.raises(
        mia.InputError, match="The loss of 3 of 6 shadow models was no longer finite, which leaves none"
    ):
        audit(poisoned(blobs, record), model=FragileNet, membership=mia.Halves(), shadow=mia.Real(count=6))


def test_shadow_models_that_fail_are_reported_and_left_out(blobs: Population) -> None:
    plan = mia.Disjoint(train_size=20).fill(blobs, Wanted(num_targets=1, num_shadows=4, seed=0))
    trained_on_N = plan.member_KN[1:].sum(0)
    record = int((trained_on_N == 1).nonzero()[0])
    failed = plan.member_KN[1:, record].nonzero().flatten().tolist()
    report = audit(poisoned(blobs, record), model=FragileNet)
    assert list(report.shadow.left_out) == failed
    assert report.shadow.count == 3
    assert any(f"shadow models {failed} was no longer finite" in warning for warning in report.warnings)


class BrokenOutside(nn.Module):
    """Finite losses, but no finite output outside training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) if self.training else self.head(x) / 0.0


def test_a_target_whose_outputs_are_not_finite_is_one_sentence(blobs: Population) -> None:
    with pytest.raises(mia.InputError, match="Target 0 gives outputs that are not finite"):
        audit(blobs, model=BrokenOutside)


class BrokenForSome(nn.Linear):
    """No finite output for records whose first feature is large."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).where(x[:, :1] < 1.0, torch.nan)


def test_a_target_whose_outputs_are_not_finite_for_some_records_says_how_many(blobs: Population) -> None:
    is_member = torch.arange(len(blobs)) % 2 == 0
    lost = (blobs.x_N[:, 0] >= 1.0).nonzero().flatten()
    said = f"for {len(lost)} records, the first of them {int(lost[0])}, "
    target = nn.utils.skip_init(BrokenForSome, 6, 3)
    nn.init.eye_(target.weight)
    nn.init.zeros_(target.bias)
    with pytest.raises(mia.InputError, match=said):
        audit(blobs, model=partial(nn.Linear, 6, 3), target=target, membership=mia.Given(member_N=is_member))


@pytest.mark.usefixtures("global_generators")
def test_shadow_models_whose_outputs_are_not_finite_count_as_failed(blobs: Population) -> None:
    target = nn.Linear(6, 3)
    with pytest.raises(mia.InputError, match="4 of 4 shadow models was no longer finite"):
        audit(blobs, model=BrokenOutside, target=target, membership=mia.Given(member_N=list(range(40))))


def test_a_target_that_fails_is_one_sentence(blobs: Population) -> None:
    plan = mia.Disjoint(train_size=20).fill(blobs, Wanted(num_targets=1, num_shadows=4, seed=0))
    record = int(plan.member_KN[0].nonzero()[0])
    with pytest.raises(mia.InputError, match="The loss of target 0 was no longer finite in epoch 0"):
        audit(poisoned(blobs, record), model=FragileNet)


def test_a_class_without_members_has_null_figures_with_the_reason(blobs: Population) -> None:
    members = torch.zeros(120, dtype=torch.bool)
    members[(blobs.label_N != 2).nonzero().flatten()[:30]] = True
    report = audit(blobs, membership=mia.Given(member_N=members))
    figures = report.attacks[0].per_class[2]
    assert figures.num_members == 0
    assert figures.auc.value is None
    assert figures.auc.reason
    assert report.target.per_class[2].train_accuracy is None
    assert report.target.per_class[2].test_accuracy is not None


def test_duplicates_across_the_boundary_are_counted_and_said(blobs: Population) -> None:
    plan = mia.Disjoint(train_size=20).fill(blobs, Wanted(num_targets=1, num_shadows=4, seed=0))
    member, nonmember = (int(mask[0].nonzero()[0]) for mask in (plan.member_KN, plan.nonmember_KN))
    x_N = blobs.x_N.clone()
    x_N[nonmember] = x_N[member]
    report = audit(Population(name="blobs", x_N=x_N, label_N=blobs.label_N, class_names=blobs.class_names))
    assert report.membership.duplicates_across_boundary == 1
    assert any("1 of 20 members are also" in warning for warning in report.warnings)


def test_files_are_written_where_asked(blobs: Population, tmp_path: Path) -> None:
    report = audit(blobs, output=tmp_path / "deep" / "run", save_models=True)
    folder = tmp_path / "deep" / "run"
    again = mia.read_report(folder / "report.json")
    assert again.attacks == report.attacks
    assert (folder / "report.html").is_file()
    make = partial(MODEL, blobs.input_shape, blobs.num_classes)
    assert mia.Stack.load(folder / "shadow.safetensors", make).num_models == 4
    assert mia.Stack.load(folder / "target.safetensors", make).num_models == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": MLP((6,), 3)}, "`model` is a MLP"),
        ({"model": 3}, "`model` is 3"),
        ({"attacks": []}, "`attack` is empty"),
        ({"attacks": [mia.Trained()]}, "`attack` is"),
        ({"membership": {}}, "`membership` is {}"),
        ({"target": {}}, "`target` is {}"),
        ({"shadow": {}}, "`shadow` is {}"),
        ({"logger": {}}, "`logger` is {}"),
        ({"attacks": [mia.Loss(), mia.Loss()]}, "give each attack a `name` of its own"),
        ({"seed": "zero"}, "`seed` is 'zero'"),
        ({"seed": True}, "`seed` is True"),
    ],
)
def test_what_cannot_be_audited_is_refused(blobs: Population, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(mia.InputError, match=sentence):
        audit(blobs, **options)


def test_records_without_labels_and_labels_twice_are_refused(blobs: Population) -> None:
    with pytest.raises(mia.InputError, match="`label` is missing"):
        audit(blobs.x_N)
    with pytest.raises(mia.InputError, match="labels of its own"):
        audit(blobs, blobs.label_N)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: mia.Trained(count=0), "`target.count` is 0"),
        (lambda: mia.Real(count=0), "`shadow.count` is 0"),
        (lambda: mia.Real(count=2.5), r"`shadow.count` is 2\.5"),
    ],
)
def test_counts_out_of_range_are_refused(make: object, sentence: str) -> None:
    with pytest.raises(mia.InputError, match=sentence):
        make()


def test_targets_that_fail_are_left_out_and_told(blobs: Population) -> None:
    """Records that no network can learn from are among the members of some targets and not of others."""
    x_N = blobs.x_N.clone()
    x_N[:8] = torch.tensor([3e38, -3e38] * 3)
    poisoned = Population(name="blobs", x_N=x_N, label_N=blobs.label_N, class_names=blobs.class_names)
    settings = {"model": partial(MLP, hidden=[8], activation="relu"), "seed": 4}
    report = audit(poisoned, target=mia.Trained(count=6), membership=mia.Disjoint(train_size=5), **settings)
    (warning,) = [each for each in report.warnings if "of the targets" in each and "left out" in each]
    left_out = warning.split("[")[1].split("]")[0].split(", ")
    assert report.target.num_targets == 6 - len(left_out) > 0
    assert warning in report.broken
    assert set(report.scores.target.tolist()) == set(range(6 - len(left_out)))


@pytest.mark.costly
@pytest.mark.parametrize(("num_poisoned", "is_broken"), [(1, False), (3, True)])
def test_low_figures_are_no_evidence_where_more_than_a_few_shadow_models_fail(
    num_poisoned: int, is_broken: bool, blobs: Population
) -> None:
    """Records that no network can learn from are among the members of some shadow models."""
    x_N = blobs.x_N.clone()
    x_N[:num_poisoned] = torch.tensor([3e38, -3e38] * 3)
    poisoned = Population(name="blobs", x_N=x_N, label_N=blobs.label_N, class_names=blobs.class_names)
    settings = {"model": partial(MLP, hidden=[8], activation="relu"), "seed": 0}
    report = audit(poisoned, shadow=mia.Real(count=24), membership=mia.Disjoint(train_size=12), **settings)
    (warning,) = [each for each in report.warnings if "of the shadow models" in each]
    lost = int(re.search(r"(\d+) of 24", warning)[1])
    assert (lost > 2.4) == is_broken
    assert report.broken == ((warning,) if is_broken else ())
    verdict = judge(report, Gate(metric="auc", limit=0.999))
    assert (verdict.status, verdict.exit_code) == (("undetermined", 4) if is_broken else ("below", 0))
    assert (warning in verdict.sentence) == is_broken
    assert any("no evidence that nothing leaks" in each for each in sentences.verdict(report)) == is_broken
