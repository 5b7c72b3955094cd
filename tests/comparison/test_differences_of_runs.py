"""`mia.difference` and `mia-compare`: one sentence about two runs, with an interval, or one that refuses."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kept_runs import keep
from made_reports import ReportMaker

import mia_lightning as mia
from mia_lightning.comparison.assemble import compare, skipped_variant, variant_of
from mia_lightning.comparison.differences.command import main
from mia_lightning.comparison.differences.sides import sides_in
from mia_lightning.comparison.differences.variants import KeptVariants
from mia_lightning.comparison.findings import Rises
from mia_lightning.comparison.html import comparison_page
from mia_lightning.metrics.intervals.differences import PAIRED, UNPAIRED, WORST
from mia_lightning.reports.privacy_section import PrivacySection, TrialsSection
from mia_lightning.reports.schema import AuditReport, DefenseSection, TaskSection, TrustSection

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Exit code, stdout and stderr of `mia-compare`."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        code = ended.value.code
        assert isinstance(code, int)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def strong(make_report: ReportMaker) -> AuditReport:
    return make_report(shift=2.5)


@pytest.fixture(scope="session")
def weak(make_report: ReportMaker) -> AuditReport:
    return make_report(shift=0.8, seed=1)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, strong: AuditReport, weak: AuditReport) -> Path:
    """The folders `strong` and `weak`."""
    folder = tmp_path_factory.mktemp("runs")
    for name, report in (("strong", strong), ("weak", weak)):
        mia.save_report(report, folder / name)
    return folder


def changed(report: AuditReport, **sections: object) -> AuditReport:
    return report.model_copy(update=sections)


def test_which_of_two_leaks_more_is_said_in_a_sentence_with_an_interval(strong: AuditReport, weak: AuditReport) -> None:
    found = mia.difference(strong, weak, attack="loss", names=("a", "b"))
    (pair,) = found.pairs
    assert str(found) == pair.sentence
    assert pair.sentence.startswith("a leaks more than b: AUC +")
    auc = pair.differences[0]
    values = [report.attacks[1].overall.auc.value for report in (strong, weak)]
    assert auc.value == pytest.approx(values[0] - values[1])
    assert 0 < auc.low < auc.value < auc.high
    assert auc.low_at_once < auc.low < auc.high < auc.high_at_once
    assert (auc.method, auc.verdict, pair.estimand) == (PAIRED, "more", "models")
    assert pair.num_shared == 480


def test_the_other_way_round_the_signs_are_exchanged(strong: AuditReport, weak: AuditReport) -> None:
    one, two = (mia.difference(*order, attack="loss").pairs[0] for order in ((strong, weak), (weak, strong)))
    assert "leaks less" in two.sentence
    for each, other in zip(one.differences, two.differences, strict=True):
        if each.low is not None:
            assert (other.low, other.high) == pytest.approx((-each.high, -each.low))


def test_the_worst_attack_is_that_of_the_maximum_over_attacks(strong: AuditReport, weak: AuditReport) -> None:
    auc = mia.difference(strong, weak).pairs[0].differences[0]
    tops = [max(each.overall.auc.value for each in report.attacks) for report in (strong, weak)]
    assert auc.value == pytest.approx(tops[0] - tops[1])
    assert auc.method == PAIRED + WORST


def test_figures_that_few_false_positives_carry_are_unpaired(strong: AuditReport, weak: AuditReport) -> None:
    by_name = {each.figure: each for each in mia.difference(strong, weak, attack="loss").pairs[0].differences}
    assert by_name["tpr_at_fpr_0.01"].method == UNPAIRED
    assert by_name["tpr_at_fpr_0.001"].verdict == "not judged"


def test_no_difference_larger_than_the_margin(strong: AuditReport, make_report: ReportMaker) -> None:
    near = make_report(shift=2.5, seed=2)
    pair = mia.difference(strong, near, attack="loss", margin=0.3, names=("a", "b")).pairs[0]
    assert pair.differences[0].verdict == "no larger"
    assert "by no more than 0.3" in pair.sentence
    open_ = mia.difference(strong, near, attack="loss", margin=0.001).pairs[0]
    assert open_.differences[0].verdict == "undecided"
    assert "members and as many non-members" in str(open_.differences[0].settled_by)


def test_verdicts_hold_together_over_the_family(strong: AuditReport, weak: AuditReport) -> None:
    found = mia.difference(strong, weak, attack="loss")
    tested = [each for each in found.pairs[0].differences if each.p is not None]
    assert str(len(tested)) in found.family
    assert all(each.p_adjusted >= each.p for each in tested)
    smallest = min(tested, key=lambda each: each.p)
    assert smallest.p_adjusted == pytest.approx(min(1.0, len(tested) * smallest.p))


def test_void_and_understated_audits_give_no_verdict_that_they_cannot_carry(
    strong: AuditReport, weak: AuditReport
) -> None:
    void = changed(weak, trust=TrustSection(verdict="void"))
    pair = mia.difference(strong, void, attack="loss", names=("a", "b")).pairs[0]
    assert pair.differences[0].verdict == "not judged"
    assert "cannot be compared" in pair.sentence
    understated = changed(weak, trust=TrustSection(verdict="sound", understated="networks for a forest"))
    pair = mia.difference(strong, understated, attack="loss", names=("a", "b")).pairs[0]
    assert pair.differences[0].verdict == "not judged"
    assert "b may leak more than was found" in pair.sentence
    above = changed(strong, trust=TrustSection(verdict="sound", understated="networks for a forest"))
    assert mia.difference(above, weak, attack="loss").pairs[0].differences[0].verdict == "more"


def test_one_target_each_says_nothing_of_recipes_but_how_many_it_would_take(
    strong: AuditReport, weak: AuditReport
) -> None:
    notes = " ".join(mia.difference(strong, weak).pairs[0].notes)
    assert "targets of each" in notes
    with pytest.raises(mia.InputError, match=r"`estimand`.* at least 4 each"):
        mia.difference(strong, weak, estimand="recipes")


def test_the_accuracy_of_the_targets_stands_beside_the_family(strong: AuditReport, weak: AuditReport) -> None:
    worse = changed(weak, target=weak.target.model_copy(update={"test_accuracy": 0.5, "generalization_gap": 0.5}))
    test, gap = mia.difference(strong, worse).pairs[0].utility
    assert (test.value, gap.value) == pytest.approx((0.21875, -0.21875))
    assert test.low < test.value < test.high
    assert (test.title, test.verdict) == ("test accuracy", "not judged")


def test_a_utility_that_is_no_share_of_records_has_no_interval(make_report: ReportMaker) -> None:
    """Of several labels `gap` says how many are right, and not how well they are ranked."""
    task = TaskSection(name="multilabel", utility="mean AUROC", stratum="label", strata_name="labels")
    both = []
    for seed, shift in enumerate((2.5, 0.8)):
        made = make_report(shift=shift, seed=seed, num_targets=4)
        assert made.scores is not None
        scores = dataclasses.replace(made.scores, attack=np.where(made.scores.attack == "loss", "gap", "shokri"))
        sections = (made.attacks[0], made.attacks[1].model_copy(update={"name": "gap"}))
        both.append(changed(made, task=task, scores=scores, attacks=sections))
    for estimand in ("models", "recipes"):
        for found in mia.difference(both[0], both[1], attack="shokri", estimand=estimand).pairs[0].utility:
            assert (found.low, found.high) == (None, None)
            assert found.method.startswith("none")


def test_settings_in_which_the_attackers_differ_are_named(strong: AuditReport, weak: AuditReport) -> None:
    fewer = changed(weak, shadow=weak.shadow.model_copy(update={"count": 4}))
    notes = mia.difference(strong, fewer).pairs[0].notes
    assert any("16 and 4" in note for note in notes)


def test_records_of_other_data_are_matched_by_names_or_not_at_all(strong: AuditReport, weak: AuditReport) -> None:
    other = changed(weak, dataset=weak.dataset.model_copy(update={"fingerprint": "cd" * 32}))
    pair = mia.difference(strong, other, attack="loss").pairs[0]
    assert (pair.num_shared, pair.differences[0].method) == (0, UNPAIRED)
    assert "unpaired" in pair.pairing
    assert any("the records differ" in note for note in pair.notes)
    names = tuple(f"{n}.png" for n in range(480))
    turned = [changed(strong, record_names=names), changed(other, record_names=names)]
    named = mia.difference(*turned, attack="loss").pairs[0]
    assert (named.num_shared, "their names" in named.pairing) == (480, True)
    assert named.differences[0].low == mia.difference(strong, weak, attack="loss").pairs[0].differences[0].low


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"dataset": {"name": "elsewhere", "fingerprint": "cd" * 32}}, "elsewhere"),
        ({"task": {"name": "regression"}}, "regression"),
    ],
)
def test_runs_of_other_data_or_tasks_are_refused(
    strong: AuditReport, weak: AuditReport, sections: dict[str, dict[str, str]], named: str
) -> None:
    other = changed(weak, **{name: getattr(weak, name).model_copy(update=of) for name, of in sections.items()})
    with pytest.raises(mia.InputError, match=named):
        mia.difference(strong, other)


def test_runs_with_other_attacks_are_refused_unless_one_is_chosen(strong: AuditReport, weak: AuditReport) -> None:
    one = changed(weak, attacks=weak.attacks[1:])
    with pytest.raises(mia.InputError, match=r"shokri, loss.*attack loss"):
        mia.difference(strong, one)
    assert mia.difference(strong, one, attack="loss").pairs[0].attack == "loss"
    alone = changed(strong, attacks=strong.attacks[1:])
    assert mia.difference(alone, one).pairs[0].attack == "loss"
    with pytest.raises(mia.InputError, match=r"`attack` is 'shokri'.*loss"):
        mia.difference(strong, one, attack="shokri")
    none = changed(strong, attacks=strong.attacks[:1])
    with pytest.raises(mia.InputError, match="run the same on both"):
        mia.difference(none, one)
    with pytest.raises(mia.InputError, match="no attack in common"):
        mia.difference(none, one, attack="loss")


def test_a_defended_run_counts_with_the_attacker_who_knows_the_defence(strong: AuditReport, weak: AuditReport) -> None:
    scores = weak.scores
    both = dataclasses.replace(
        scores,
        **{name: np.concatenate([column, column]) for name, column in scores.columns.items() if name != "attack"},
        attack=np.concatenate([scores.attack, np.char.add(scores.attack, "-adaptive")]),
    )
    adaptive = [each.model_copy(update={"name": f"{each.name}-adaptive", "adaptive": True}) for each in weak.attacks]
    defended = changed(
        weak,
        attacks=(*weak.attacks, *adaptive),
        scores=both,
        defense=DefenseSection(names=("top_k",), description="top 3 classes", adaptive=False),
    )
    plain, known = (mia.difference(strong, each).pairs[0].differences[0] for each in (weak, defended))
    assert (plain.value, plain.low) == (known.value, known.low)


def test_one_run_twice_is_no_comparison(strong: AuditReport, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(mia.InputError, match="twice"):
        mia.difference(strong, strong)
    with pytest.raises(mia.InputError, match="twice"):
        sides_in([runs / "strong", runs / "strong"])
    shutil.copytree(runs / "strong", tmp_path / "copy")
    assert [side.name for side in sides_in([runs / "strong", tmp_path / "copy"])][1] == str(tmp_path / "copy")


def test_trials_of_one_canary_are_refused(strong: AuditReport, weak: AuditReport) -> None:
    trials = TrialsSection(
        record=1, class_name="cat", is_natural=True, num_in=2, num_out=2, num_shadows=4, largest_epsilon=1.0, lower=()
    )
    of_one = changed(weak, privacy=PrivacySection(epsilon=None, delta=1e-5, statement="", trials=trials))
    with pytest.raises(mia.InputError, match="one_canary"):
        mia.difference(strong, of_one)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"figure": "recall"}, "figure"), ({"margin": 0.0}, "margin"), ({"estimand": "both"}, "estimand")],
)
def test_bad_options_are_refused(
    strong: AuditReport, weak: AuditReport, options: dict[str, object], named: str
) -> None:
    with pytest.raises(mia.InputError, match=f"`{named}`"):
        mia.difference(strong, weak, **options)


def test_a_report_that_was_read_back_is_refused(strong: AuditReport, runs: Path) -> None:
    with pytest.raises(mia.InputError, match="folders of the runs"):
        mia.difference(strong, mia.read_report(runs / "weak"))


def test_the_command_answers_in_one_sentence_and_a_table(runs: Path, said: Said) -> None:
    code, out, error = said(runs / "strong", runs / "weak", "--attack", "loss")
    assert (code, error) == (0, "")
    assert out.startswith(f"{runs / 'strong'} leaks more than {runs / 'weak'}: AUC +")
    assert "TPR at 0.1 % FPR" in out.replace("\u00a0", " ")
    code, out, error = said(runs / "strong", runs / "weak", "--json")
    content = json.loads(out)
    assert content["schema"] == "mia_lightning.differences/1"
    assert content["pairs"][0]["differences"][0]["verdict"] == "more"


def test_what_was_kept_gives_what_was_in_memory(runs: Path, strong: AuditReport, weak: AuditReport, said: Said) -> None:
    content = json.loads(said(runs / "strong", runs / "weak", "--json")[1])
    names = tuple(str(runs / name) for name in ("strong", "weak"))
    assert content == json.loads(mia.difference(strong, weak, names=names).model_dump_json(by_alias=True))


def test_runs_of_a_sweep_that_differ_in_the_seed_alone_are_trainings_of_one_recipe(
    make_report: ReportMaker, tmp_path: Path, said: Said
) -> None:
    for model, shift in (("mlp", 1.0), ("cnn", 2.5)):
        for seed in range(4):
            config = {"seed": seed, "model": {"name": model}, "logger": {"name": f"{model}{seed}"}}
            keep(make_report(shift=shift, seed=seed, config=config), tmp_path / f"{model}-{seed}")
    cnn, mlp = sides_in([tmp_path])
    assert (cnn.name, cnn.num_targets, mlp.name) == ("model.name=cnn", 4, "model.name=mlp")
    code, out, _ = said(tmp_path, "--json", "--attack", "shokri")
    (pair,) = json.loads(out)["pairs"]
    assert (code, pair["estimand"], pair["num_targets"]) == (0, "recipes", [4, 4])
    assert pair["differences"][0]["verdict"] == "more"
    assert pair["utility"][0]["low"] is None
    assert said(tmp_path, "--attack", "shokri", "--estimand", "models")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "no runs"),
        (["{runs}/strong"], "two runs"),
        (["{runs}/nowhere", "{runs}/weak"], "nowhere"),
        (["{tmp}", "{runs}/weak"], "no run beneath"),
        (["{runs}/strong", "{runs}/weak", "--attack", "lira"], "`attack`"),
        (["--plan", "0.02"], "--value"),
        (["--plan", "2", "--value", "0.7"], "--plan"),
        (["--plan", "0.02", "--value", "0.7", "--spread", "-1"], "--spread"),
        (["--plan", "0.02", "--value", "0.7", "--correlation", "1"], "--correlation"),
        (["--plan", "0.02", "{runs}/strong", "--attack", "lira"], "--attack"),
        (["--plan", "0.02", "{runs}/strong", "--figure", "nothing"], "--figure"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], named: str, runs: Path, tmp_path: Path, said: Said) -> None:
    code, out, error = said(*(each.format(runs=runs, tmp=tmp_path) for each in arguments))
    assert (code, out) == (2, "")
    assert error.startswith("mia-compare: ")
    assert error.count("\n") == 1
    assert named in error


@pytest.mark.parametrize("name", ["report.json", "scores.parquet"])
def test_damaged_and_missing_files_are_refused(name: str, runs: Path, tmp_path: Path, said: Said) -> None:
    shutil.copytree(runs / "strong", tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(b"broken")
    code, _, error = said(tmp_path / "run", runs / "weak")
    assert (code, name in error) == (2, True)
    (tmp_path / "run" / name).unlink()
    assert said(tmp_path / "run", runs / "weak")[0] == 2


def test_a_report_of_another_version_is_refused(runs: Path, tmp_path: Path, said: Said) -> None:
    shutil.copytree(runs / "strong", tmp_path / "run")
    path = tmp_path / "run" / "report.json"
    path.write_text(path.read_text().replace("mia_lightning.report/2", "mia_lightning.report/1"))
    code, _, error = said(tmp_path / "run", runs / "weak")
    assert (code, "mia_lightning.report/1" in error) == (2, True)


def test_a_plan_says_how_many_records_and_targets_it_takes(runs: Path, said: Said) -> None:
    code, out, _ = said("--plan", "0.02", "--value", "0.7")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 8)
    assert "no number of records is enough" in out
    assert said("--plan", "0.02", runs / "strong")[0] == 0


def test_an_experiment_has_the_differences_from_its_first_variant(
    runs: Path, strong: AuditReport, weak: AuditReport, make_report: ReportMaker, tmp_path: Path
) -> None:
    elsewhere = make_report(seed=3)
    elsewhere = changed(
        elsewhere, dataset=elsewhere.dataset.model_copy(update={"name": "elsewhere", "fingerprint": "cd" * 32})
    )
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    keep(elsewhere, tmp_path / "elsewhere")
    named = {"strong": strong, "weak": weak, "elsewhere": elsewhere}
    variants = [variant_of(name, report, Path(name)) for name, report in named.items()]
    variants.insert(0, skipped_variant("skipped", "not there"))
    (pair,) = KeptVariants(variants, tmp_path).differences()
    assert (pair.first, pair.second, pair.attack) == ("strong", "weak", "shokri")
    assert KeptVariants(variants[:2], tmp_path).differences() == ()
    texts = {"title": "t", "question": "q", "source": "s", "command": "c"}
    report = compare(variants, [], **texts, seconds=1.0, differences=[pair])
    page = comparison_page(report, {})
    assert "Against strong" in page
    auc = pair.differences[0]
    assert f"{-auc.value:+.3f}".replace("-", "−") in page
    assert "leaks less" in page
    assert "Against strong" not in comparison_page(compare(variants, [], **texts, seconds=1.0), {})
    assert f"{pair.pairing.capitalize()}. Verdicts" in page
    alike, apart = (
        pair.model_copy(update=update)
        for update in ({"second": "b"}, {"second": "c", "estimand": "recipes", "pairing": "unpaired"})
    )
    page = comparison_page(compare(variants, [], **texts, seconds=1.0, differences=[pair, alike, apart]), {})
    for names, estimand, pairing in (
        ("weak, b", "these trained models on other records", pair.pairing),
        ("c", "new trainings of both", "unpaired"),
    ):
        assert f"<li>{names}: 95&nbsp;% intervals for {estimand}; {pairing}.</li>" in page
    assert page.count(pair.pairing) + page.count(pair.pairing.capitalize()) == 1


def test_findings_of_an_experiment_are_paired_over_the_records_that_variants_share(
    runs: Path, strong: AuditReport, weak: AuditReport, make_report: ReportMaker, tmp_path: Path
) -> None:
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    other = make_report(seed=3)
    other = changed(other, dataset=other.dataset.model_copy(update={"fingerprint": "cd" * 32}))
    keep(other, tmp_path / "other")
    named = {"strong": strong, "weak": weak, "other": other}
    variants = [variant_of(name, report, Path(name)) for name, report in named.items()]
    kept = KeptVariants(variants, tmp_path)
    finding = Rises(text="It rises.", first="weak", last="strong", figure="accuracy")
    paired, apart = finding.check(variants, kept.correlation), finding.check(variants)
    assert paired.estimate == apart.estimate
    assert paired.detail.endswith("paired over shared records")
    assert (paired.low, paired.high) != (apart.low, apart.high)
    assert "paired" not in apart.detail
    for figure in ("accuracy", "precision", "recall", "auc"):
        r = kept.correlation(variants[1], variants[0], "shokri", figure)
        assert r == kept.correlation(variants[0], variants[1], "shokri", figure)
        assert 0 < abs(r) < 1
        assert kept.correlation(variants[0], variants[0], "shokri", figure) == 0.0  # a run is no pair with itself
        assert kept.correlation(variants[0], variants[2], "shokri", figure) == 0.0  # records that are not known
