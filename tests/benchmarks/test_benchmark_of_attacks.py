"""The benchmark of the attacks runs, and what it prints hangs together; no time is asserted."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from benchmark_scripts import cells, imported, run


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return imported("attacks", monkeypatch)


@pytest.mark.slow
def test_the_quick_run_prints_times_of_every_attack(script: ModuleType, forks: Path) -> None:
    printed = json.loads(run("attacks", "--quick", "--json", forks=forks))
    assert "threads, torch" in printed["machine"]
    assert (printed["models"], printed["records"], printed["asked"], printed["rounds"]) == (16, 500, 2, 1)
    assert [each["attack"] for each in printed["attacks"]] == list(script.attacks())
    for each in printed["attacks"]:
        learns_networks = each["attack"] in ("quantile_regression", "shokri")
        assert (len(each["fit_and_score_seconds"]), len(each["each_a_target_seconds"])) == (1, 1 - learns_networks)
        assert each["peak_gib"] > 0
    assert [(each["attack"], each["views"]) for each in printed["asking"]] == [
        ("augmentation_label_only", 5),
        ("boundary_label_only", 24),
    ]
    assert all(len(each["asking_seconds"]) == 1 and each["asking_seconds"][0] > 0 for each in printed["asking"])


def test_the_table_has_a_row_for_each_attack(script: ModuleType) -> None:
    measured = [
        script.Measured(name=name, attack=attack, once_R=[3.0, 1.0, 2.0], each_R=[0.5], peak=1.0)
        for name, attack in script.attacks().items()
    ]
    lines = script.render(script.HEADER, [each.row() for each in measured]).splitlines()
    rows = [cells(line) for line in lines]
    assert rows[0] == list(script.HEADER)
    assert len({len(line) for line in lines}) == 1
    assert [row[0] for row in rows[2:]] == list(script.attacks())
    assert rows[2][1:] == ["2.00", "1.00 to 3.00", "0.500", "0.500 to 0.500", "1.0"]


def test_asking_has_a_table_of_its_own(script: ModuleType) -> None:
    models, images = script.make_asked(2, 10)
    attack = script.attacks()["augmentation_label_only"]
    asking = script.Asking(attack=attack, models=models, images=images)
    asking.measure()
    assert len(asking.seconds_R) == 1
    asking.seconds_R[:] = [1.0, 3.0, 2.0]
    lines = script.render(script.ASKED_HEADER, [asking.row()]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert asking.row() == ("augmentation_label_only", "5", "2.00", "1.00 to 3.00", "2.0e+04")  # of 2 x 10 x 5 answers


def test_answers_for_views_are_given_to_attacks_that_see_labels_alone(script: ModuleType) -> None:
    shadows, target = script.make_evidence(6, 400, 3)
    attack = script.attacks()["boundary_label_only"]
    signals = script.with_views(shadows.signals, attack)
    assert signals.views.names == tuple(view.name for view in attack.needs.views)
    assert signals.views.is_correct_KAN.shape == signals.views.scaled_logit_KAN.shape == (6, 24, 400)
    assert abs(float(signals.views.is_correct_KAN.double().mean()) - 0.8) < 0.01  # 57,600 draws: 0.0017
    measured = script.Measured(name=attack.name, attack=attack)
    measured.measure(shadows, target)
    first = measured.peak
    measured.measure(shadows, target)
    assert (len(measured.once_R), len(measured.each_R), measured.peak) == (2, 2, first)


def test_models_come_in_complementary_pairs_beside_a_population(script: ModuleType) -> None:
    shadows, target = script.make_evidence(6, 40, 3)
    assert int(shadows.population_N.sum()) == 4
    assert torch.equal(shadows.member_KN[::2], ~shadows.member_KN[1::2] & ~shadows.population_N)
    assert shadows.member_KN.sum(1).tolist() == [18] * 6
    assert target.log_probability_KANC.shape == (1, 1, 40, 3)
    torch.testing.assert_close(shadows.signals.log_probability_KANC.exp().sum(-1), torch.ones(6, 1, 40))


@pytest.mark.parametrize(
    "given", [["--models", "7"], ["--models", "4"], ["--rounds", "0"], ["--records", "5"], ["--asked", "0"]]
)
def test_settings_that_cannot_be_run_are_refused(
    given: list[str], script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.arguments(given)
    assert "at least" in capsys.readouterr().err
    assert script.arguments(["--quick", "--models", "8"]).models == 8
