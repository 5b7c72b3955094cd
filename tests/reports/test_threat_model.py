"""The threat model of real runs: what the attacker sees, has and knows, against what was asked for."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from quick import quick_audit

import mia_lightning as mia
from mia_lightning.attacks.attack_p import AttackP
from mia_lightning.attacks.gap import Gap
from mia_lightning.attacks.label_only import AugmentationLabelOnly
from mia_lightning.datasets.population import Population
from mia_lightning.defenses.l2 import L2
from mia_lightning.defenses.top_k import TopK
from mia_lightning.models.mlp import MLP
from mia_lightning.reports.schema import AuditReport, ThreatModelSection
from mia_lightning.reports.sections.threat_model import threat_model, threat_sentences
from mia_lightning.run.scoring import run_attacks
from mia_lightning.shadows.noisy import Noisy
from mia_lightning.targets.leave_one_out import LeaveOneOut
from mia_lightning.targets.services.google_prediction import GooglePrediction


def audited(population: Population, **options: object) -> tuple[AuditReport, ThreatModelSection, dict[str, str]]:
    settings = {"membership": mia.Disjoint(train_size=20), "shadow": mia.Real(count=4), **options}
    report = mia.audit(population, **quick_audit(**settings))
    assert report.threat_model is not None
    return report, report.threat_model, dict(threat_sentences(report))


def test_records_apart_from_the_targets(blobs: Population, tmp_path: Path) -> None:
    _, model, said = audited(blobs, attacks=[mia.Loss(), AttackP(), Gap()], output=tmp_path)
    assert model == ThreatModelSection(
        access="full",
        queries_per_record=1,
        synthesis_queries=0,
        shadow_records="disjoint",
        num_known=0,
        num_population=12,
        training="same",
        num_shadows=4,
        in_models=0,
        out_models=4,
        knows_defenses=None,
        chosen_on={"loss": "shadow_models", "attack_p": "population", "gap": "nothing"},
        members="drawn",
    )
    assert said["what the attacker sees"] == "The probabilities of all classes, unrounded."
    assert said["queries to the target"] == "1 for each scored record."
    assert "none of which is scored. 12 more real records" in said["data of the attacker"]
    assert said["shadow models"].startswith("4. None was trained on a scored record")
    assert said["thresholds and settings"] == (
        "Learnt on shadow models (loss); learnt on records that no model was trained on, with the target's answers to "
        "them (attack_p); fixed beforehand (gap). Nothing was chosen on the scored records."
    )
    assert "at random" in said["membership labels"]
    assert said["defences"] == "None."
    page = (tmp_path / "report.html").read_text()
    assert page.index("What the figures say") < page.index(">Threat model<") < page.index('id="attacks"')
    for heading, sentences in said.items():
        assert heading in page
        assert sentences.replace("'", "&#39;") in page
    read = AuditReport.model_validate_json((tmp_path / "report.json").read_text())
    assert read.threat_model == model


def test_a_report_without_it_shows_none(report: AuditReport) -> None:
    assert report.threat_model is None
    assert threat_sentences(report) == []


def test_the_targets_own_records_and_their_fewest_references(blobs: Population) -> None:
    observation = mia.observe(blobs, **_observed(membership=mia.Halves(), shadow=mia.Real(count=6)))
    model = threat_model(observation, [], channel="full", defense=None)
    plan = observation.membership
    ins, outs = [], []
    for n in range(len(blobs)):
        if bool(plan.scored_KN[0, n]):
            trained = sum(bool(plan.member_KN[k, n]) for k in range(1, 7))
            ins.append(trained)
            outs.append(6 - trained)
    assert (model.shadow_records, model.in_models, model.out_models) == ("same", min(ins), min(outs))
    assert min(ins) > 0


@pytest.mark.parametrize("train_size", [None, 40])
def test_every_model_a_target_is_compared_with_those_outside_its_block(
    blobs: Population, train_size: int | None
) -> None:
    membership = mia.Halves(train_size=train_size)
    observation = mia.observe(blobs, **_observed(membership=membership, target=LeaveOneOut(), shadow=mia.Real(count=6)))
    model = threat_model(observation, [], channel="full", defense=None)
    plan = observation.membership
    counts = []
    for target in range(6):
        others = [k for k in range(6) if int(plan.block_K[k]) != int(plan.block_K[target])]
        for n in range(len(blobs)):
            trained = sum(bool(plan.member_KN[k, n]) for k in others)
            counts.append((len(others), trained, len(others) - trained))
    assert model.num_shadows == min(size for size, _, _ in counts) == (4 if train_size is None else 3)
    assert model.in_models == min(trained for _, trained, _ in counts)
    assert model.out_models == min(untrained for _, _, untrained in counts)
    assert (model.shadow_records, model.training) == ("same", "same")


def test_a_share_that_the_attacker_knows(blobs: Population) -> None:
    report, model, said = audited(blobs, shadow=mia.Real(count=4, overlap=0.25))
    assert model.num_known == 2 * 20 - report.membership.num_members - report.membership.num_nonmembers == 10
    assert model.shadow_records == "disjoint"
    assert "membership of 10 records beforehand" in said["data of the attacker"]


def test_records_that_were_made(blobs: Population) -> None:
    report, model, said = audited(blobs, shadow=Noisy(count=2, fraction=0.3))
    assert model.shadow_records == "synthetic"
    assert model.synthesis_queries == report.shadow.synthesis.num_queries > 0
    assert (model.in_models, model.out_models) == (0, 2)
    assert f"{model.synthesis_queries:,} more to synthesise" in said["queries to the target"]
    assert "changed at random" in said["data of the attacker"]
    other = report.model_copy(update={"shadow": report.shadow.model_copy(update={"source": "mine"})})
    assert dict(threat_sentences(other))["data of the attacker"] == "Records made by shadow=mine."


@pytest.mark.usefixtures("global_generators")
def test_a_model_that_somebody_trained_and_members_that_were_given(blobs: Population) -> None:
    torch.manual_seed(0)
    report, model, said = audited(
        blobs, membership=mia.Given(member_N=torch.arange(60)), target=MLP((6,), 3, hidden=[8])
    )
    assert (model.training, model.members, model.shadow_records) == ("guessed", "given", "same")
    assert said["architecture and training"].startswith("The target was trained elsewhere")
    assert said["architecture and training"].endswith(f": {report.shadow.architecture}.")
    assert "Given by the user (`member_N`)." in said["membership labels"]


def test_what_named_the_members(blobs: Population, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("row\n" + "\n".join(map(str, range(60))))
    _, model, said = audited(blobs, membership=mia.Given(path=rows))
    assert model.members_from == f"`membership.path` {rows}"
    assert model.members_from in said["membership labels"]
    own = replace(blobs, member_N=torch.arange(len(blobs)) < 60)
    assert audited(own, membership=mia.Given())[1].members_from == f"The member column of {blobs.name}"


def test_given_members_of_a_target_that_is_trained_here(blobs: Population) -> None:
    _, model, _ = audited(blobs, membership=mia.Given(member_N=torch.arange(60)))
    assert (model.training, model.members) == ("same", "given")


@pytest.mark.costly
@pytest.mark.parametrize(("shadows", "training"), [("service", "service"), ("guessed", "guessed")])
def test_a_service(blobs: Population, shadows: str, training: str) -> None:
    _, model, _ = audited(blobs, target=GooglePrediction(shadows=shadows))
    assert model.training == training


@pytest.mark.costly
@pytest.mark.parametrize("adaptive", [True, False])
def test_defences_that_are_known_or_not(blobs: Population, adaptive: bool) -> None:
    report, model, said = audited(blobs, defenses=[L2(strength=0.01), TopK(k=2)], adaptive=adaptive)
    assert model.knows_defenses == adaptive
    assert model.training == ("same" if adaptive else "undefended")
    assert model.access == TopK(k=2).describe()
    assert said["what the attacker sees"] == f"The target's answers as it returns them: {TopK(k=2).describe()}."
    knows = "knows them and imitates them on the shadow models" if adaptive else "does not know them"
    assert said["defences"] == f"{report.defense.description}; the attacker {knows}."
    assert ("without the defences in its training" in said["architecture and training"]) != adaptive


def test_queries_are_those_of_the_union_of_views(pictures: Population) -> None:
    one, more = AugmentationLabelOnly(), AugmentationLabelOnly(name="more", shift=2)
    distinct = {*one.views, *more.views}
    report, model, said = audited(
        pictures,
        membership=mia.Disjoint(train_size=10),
        attacks=[mia.Loss(), one, more],
    )
    assert [attack.queries for attack in report.attacks] == [1, 1 + len(one.views), 1 + len(more.views)]
    assert model.queries_per_record == 1 + len(distinct) < 1 + len(one.views) + len(more.views)
    assert said["queries to the target"] == (
        f"{model.queries_per_record} for each scored record (augmentation_label_only {1 + len(one.views)}, "
        f"more {1 + len(more.views)}; the others 1)."
    )


def test_several_targets_have_their_shadow_models_in_common(blobs: Population) -> None:
    settings = _observed(membership=mia.Halves(), target=mia.Trained(count=2))
    observation = mia.observe(blobs, **settings, attacks=[mia.Loss()])
    _, outcomes = run_attacks(observation)
    model = threat_model(observation, outcomes, channel="full", defense=None)
    assert (model.num_shadows, model.chosen_on) == (4, {"loss": "shadow_models"})


def _observed(**options: object) -> dict[str, object]:
    settings = quick_audit(**{"shadow": mia.Real(count=4), "model": partial(MLP, hidden=[4]), **options})
    return {name: value for name, value in settings.items() if name != "attacks"}
