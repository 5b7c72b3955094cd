"""The first page of a report: the gate, who is most exposed, what was attacked and by whom, what to do."""

import re

import pytest

from mia_lightning.reports.curves import attack_curves
from mia_lightning.reports.page.html import html_page
from mia_lightning.reports.schema import (
    AboutSection,
    AuditReport,
    GateSection,
    GroupFigures,
    StructureSection,
    TaskSection,
    TrustSection,
)
from mia_lightning.reports.sections import signed
from mia_lightning.reports.sections.trust import trust_warnings
from mia_lightning.reports.selection import by_strength, most_exposed, strongest, worst_auc, worst_rates
from mia_lightning.reports.sentences import headline
from mia_lightning.run.about import About


def page_of(report: AuditReport) -> str:
    return html_page(report, {attack.name: attack_curves(report.scores, attack.name) for attack in report.attacks})


def with_gate(report: AuditReport, status: str, sentence: str) -> AuditReport:
    section = GateSection(
        **{"status": status, "exit_code": {"below": 0, "above": 3}.get(status, 4), "sentence": sentence},
        **{"figure": "AUC", "limit": 0.6, "confidence": 0.95, "attack": "worst", "attacks": ()},
        **{"num_members": 1, "num_nonmembers": 1, "records_to_settle": None},
    )
    return report.model_copy(update={"gate": section})


def first_page(page: str) -> str:
    return page[page.index("<body>") : page.index('<h2 class="part">Appendix</h2>')]


def test_the_first_page_says_all_that_is_signed(report: AuditReport) -> None:
    about = AboutSection.of(About(title="Yearly <audit>", model=7, owner="Ada"))
    whole = with_gate(report, "above", "gate: failed: the limit of 0.6 on the AUC is exceeded (`x`; 95 %).")
    page = first_page(page_of(whole.model_copy(update={"about": about})))
    assert "Yearly &lt;audit&gt;" in page
    assert "7 (" in page
    assert re.search(r"owner</th><td>Ada", page)
    assert headline(report) in page
    assert "Gate failed: the limit of 0.6 on the AUC is exceeded (<code>x</code>; 95 %)." in page
    assert f"{report.shadow.count} shadow models" in page
    top = next(iter(worst_rates(report).values()))
    assert f"{top.figure.value:.3f}" in page
    assert "What to do" in page
    joint = worst_auc(report).figure
    assert f"[{joint.low:.3f},\u00a0{joint.high:.3f}]" in page[page.index('class="tiles"') :]
    for warning in report.warnings:
        assert warning in page
    assert "Threat model" not in page


def test_without_names_and_gate_it_says_what_is_known(report: AuditReport) -> None:
    page = first_page(page_of(report))
    assert "No gate was set" in page
    assert report.target.architecture in page
    assert "owner" not in page
    assert "None" not in page


@pytest.mark.parametrize("said", [{"title": ""}, {"model": ["a"]}, {"owner": 1.5}])
def test_names_are_text(said: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"`report\.{next(iter(said))}`"):
        About(**said)


def test_the_most_exposed_are_in_the_order_of_the_limits_that_are_shown(report: AuditReport) -> None:
    attack = strongest(report)
    classes = signed.exposed_sentences(report)
    assert [heading for heading, _ in classes] == ["most exposed classes"]
    named = re.findall(r"([^;]+?): [\d.]+ \[([\d.]+),", classes[0][1])
    assert [float(low) for _, low in named] == sorted((float(low) for _, low in named), reverse=True)
    assert [name.strip() for name, _ in named] == [each.class_name for each in most_exposed(attack, 3)]
    assert "largest lower limit first" in classes[0][1]

    def group(name: str, value: float, low: float, high: float) -> GroupFigures:
        figures = {name: getattr(attack.overall, name) for name in type(attack.overall).model_fields}
        auc = attack.overall.auc.model_copy(update={"value": value, "low": low, "high": high})
        return GroupFigures(**{**figures, "auc": auc, "auc_simultaneous": auc, "group_name": name})

    grouped = attack.model_copy(update={"per_group": (group("few", 1.0, 0.14, 1.0), group("many", 0.8, 0.7, 0.9))})
    both = report.model_copy(update={"attacks": (grouped,)})
    groups = dict(signed.exposed_sentences(both))["most exposed groups"]
    assert groups.index("many: 0.80 [0.70") < groups.index("few: 1.00 [0.14")
    assert "surely above chance" not in groups
    bare = grouped.per_group[1].auc.model_copy(update={"low": None, "high": None})
    without = grouped.per_group[1].model_copy(update={"auc": bare, "auc_simultaneous": bare})
    told = report.model_copy(update={"attacks": (attack.model_copy(update={"per_group": (without,)}),)})
    assert dict(signed.exposed_sentences(told))["most exposed groups"].endswith("differences may be chance).")
    unsure = attack.model_copy(update={"per_group": (group("few", 1.0, 0.14, 1.0),)})
    said = dict(signed.exposed_sentences(report.model_copy(update={"attacks": (unsure,)})))["most exposed groups"]
    assert "None of the groups is surely above chance." in said


def test_the_facts_of_a_run_speak_of_its_task(report: AuditReport) -> None:
    task = TaskSection(name="regression", utility="R²", stratum="range", strata_name="ranges", seen="numbers")
    facts = page_of(report.model_copy(update={"task": task})).split("About this run")[1]
    assert f"{report.dataset.num_classes} ranges" in facts
    assert re.search(r"train R² [\d.]+, test R² [\d.]+", facts)
    assert "accuracy" not in facts.split("shadow models")[1].split("</tr>")[0]


def test_what_to_do_can_be_done_with_such_a_target(report: AuditReport) -> None:
    of_module = report.model_copy(update={"target": report.target.model_copy(update={"trains_itself": True})})
    assert "network inside as `model`, with `defense=[dp_sgd]`" in " ".join(signed.advice(of_module))
    given = report.model_copy(update={"trust": TrustSection(verdict="sound")})
    assert "target=trained defense=[dp_sgd]" in " ".join(signed.advice(given))
    for each in (report, of_module, given):
        assert "defense.adaptive=true" in " ".join(signed.advice(each))
        assert "mia-lightning experiment=remedies" in " ".join(signed.advice(each))
    of_trees = " ".join(signed.advice(report.model_copy(update={"structure": StructureSection(leaves=None)})))
    assert "simpler estimator" in of_trees
    assert "remedies" not in of_trees
    assert "dp_sgd" not in of_trees
    assert "epochs" not in of_trees


def test_private_training_is_advised_with_what_keeps_the_target_from_it(report: AuditReport) -> None:
    refusal = "The model Tabular does not go with defense=dp_sgd: it fits scales."
    refused = report.model_copy(update={"target": report.target.model_copy(update={"private_training": refusal})})
    given = refused.model_copy(update={"trust": TrustSection(verdict="sound")})
    for each in (refused, given):
        assert f"must change first: {refusal} Judge" in " ".join(signed.advice(each))
    of_trees = refused.model_copy(update={"structure": StructureSection(leaves=None)})
    itself = refused.model_copy(update={"target": refused.target.model_copy(update={"trains_itself": True})})
    for each in (report, of_trees, itself):  # others, or trained in another way then
        assert "must change first" not in " ".join(signed.advice(each))


def test_what_to_do_follows_the_verdict(report: AuditReport, make_report) -> None:
    leaking, quiet = " ".join(signed.advice(report)), " ".join(signed.advice(make_report(shift=0.0)))
    assert "dp_sgd" in leaking
    assert "low figures do not prove privacy" in quiet
    assert "dp_sgd" not in quiet
    assert "gate.limit" in quiet
    assert "gate.limit" not in " ".join(signed.advice(with_gate(make_report(shift=0.0), "below", "gate: passed")))
    for verdict in ("void", "unconfirmed"):
        trust = TrustSection(verdict=verdict, mend="give the classes in the order b, a")
        (told,) = signed.advice(report.model_copy(update={"trust": trust}))
        assert "give the classes in the order b, a" in told
        assert signed.exposed_sentences(report.model_copy(update={"trust": trust})) == []
    understated = TrustSection(verdict="sound", understated="Leakage may be understated: …")
    said = signed.advice(make_report(shift=0.0).model_copy(update={"trust": understated}))
    assert any("own kind" in each for each in said)
    broken = make_report(shift=0.0).model_copy(update={"broken": ("The loss was not finite.",)})
    assert any("warnings" in each for each in signed.advice(broken))
    nothing = make_report(class_names=("only",), per_class=0)
    assert any("no attack could be measured" in each for each in signed.advice(nothing))


def test_the_strongest_attacks_come_first_those_at_a_low_rate_too(report: AuditReport) -> None:
    first = report.attacks[0]

    def attack(name: str, auc: float, tpr: float):
        rates = {**first.overall.tpr_at_fpr}
        rates["0.01"] = rates["0.01"].model_copy(update={"value": tpr})
        figures = {"auc": first.overall.auc.model_copy(update={"value": auc}), "tpr_at_fpr": rates}
        return first.model_copy(update={"name": name, "overall": first.overall.model_copy(update=figures)})

    attacks = (attack("c", 0.6, 0.0), attack("low", 0.55, 0.4), attack("b", 0.7, 0.1), attack("a", 0.8, 0.0))
    found = by_strength(report.model_copy(update={"attacks": attacks}))
    assert [each.name for each in found] == ["a", "low", "b", "c"]


def test_beyond_three_attacks_the_appendix_is_folded_and_keeps_all(report: AuditReport) -> None:
    attacks = tuple(report.attacks[i % 2].model_copy(update={"name": f"attack{i}"}) for i in range(5))
    whole = report.model_copy(update={"attacks": attacks, "scores": None, "notes": ("attack1: ties are common.",)})
    curves = {each.name: attack_curves(report.scores, report.attacks[i % 2].name) for i, each in enumerate(attacks)}
    page = html_page(whole, curves)
    assert page.count("2 further attacks") == 3  # remarks, precision and recall, classes
    folded = page[page.index('<details class="further">') :]
    assert folded.index("2 further attacks: ") < folded.index("</summary>")
    ranked = [each.name for each in by_strength(whole)]
    for place, each in enumerate(attacks):
        chosen = page.index(f'id="precision-recall-{place}"')
        fold = page.rindex("<details", 0, chosen)
        inside = page[fold:chosen].count("</details>") == 0 and 'class="further"' in page[fold : fold + 40]
        assert inside == (each.name in ranked[3:])
    assert "attack1: ties are common." not in first_page(page)
    assert "attack1: ties are common." in page
    assert "further attack" not in page_of(report)


def test_what_the_verdict_says_is_no_warning_once_more(report: AuditReport) -> None:
    trust = TrustSection(verdict="void", reasons=("Its rows are shuffled.",), cause="rows", mend="sort them")
    warnings = (*trust_warnings(trust), *report.warnings)
    page = first_page(page_of(report.model_copy(update={"trust": trust, "warnings": warnings})))
    assert page.count("Its rows are shuffled.") == 1
    assert page.index("Its rows are shuffled.") < page.index('class="tiles"')
    assert report.warnings[0] in page
