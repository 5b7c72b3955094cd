"""Experiments: variants composed from one configuration, trained once where they can be, and compared."""

import copy
import dataclasses
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from quick import slow_but
from rich.console import Console

from mia_lightning.command import experiment
from mia_lightning.command.configuration import Configuration
from mia_lightning.command.job import Job, instantiate
from mia_lightning.command.mistakes import config_directory
from mia_lightning.comparison.files import read_comparison
from mia_lightning.comparison.schema import ComparisonReport, Variant
from mia_lightning.datasets.population import Population
from mia_lightning.errors import DataNotThereError, InputError
from mia_lightning.seeds import generator

EXPERIMENTS = sorted(
    str(path.relative_to(config_directory() / "experiment").with_suffix(""))
    for path in (config_directory() / "experiment").glob("**/*.yaml")
    if path.stem not in ("multi_run_epsilon", "remedies")  # settings of a single audit, without variants
)
TINY = [
    "logger=none",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "attack.shokri.training.epochs=2",
]


whole = import_module("mia_lightning.audit")  # whose name is that of the function


def resolved(*overrides: str) -> Job:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return Job.of(compose("config", overrides=list(overrides)))


def run(folder: Path, *overrides: str) -> int:
    return experiment.run_experiment(resolved(*overrides), overrides, folder)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `conf` beside the data, with room for experiments of one's own."""
    folder = tmp_path / "conf"
    folder.mkdir()
    for path in config_directory().rglob("*.yaml"):
        place = folder / path.relative_to(config_directory())
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)
    for module in (
        "mia_lightning.command.experiment.config_directory",
        "mia_lightning.command.configuration.config_directory",
    ):
        monkeypatch.setattr(module, lambda: folder)
    monkeypatch.setitem(globals(), "config_directory", lambda: folder)
    return folder


def write(folder: Path, name: str, text: str) -> None:
    (folder / "experiment" / f"{name}.yaml").write_text("# @package _global_\n" + text)


DEFENCES = """
comparison:
  title: Defences
  question: q
  source: s
  variants:
    none: {set: []}
    top 1: {set: [defense=top_k, defense.top_k.k=1]}
    warm: {set: [defense=temperature]}
    shorter: {x: 3, set: [training.epochs=3]}
  findings:
    - _target_: mia_lightning.comparison.findings.Above
      text: Above chance.
scales:
  small:
    set: [shadow.count=2, training.epochs=5, dataset.train_size=40]
  tiny:
    set: [shadow.count=2, training.epochs=2]
    variants:
      alone: {set: [dataset.train_size=30]}
"""


@pytest.mark.costly
@pytest.mark.parametrize("name", slow_but(["shokri2017/location", "mismatch"], EXPERIMENTS))
@pytest.mark.parametrize("scale", ["small", pytest.param("paper", marks=pytest.mark.slow)])
def test_every_variant_of_every_experiment_composes(name: str, scale: str) -> None:
    settings = resolved(f"experiment={name}", f"scale={scale}")
    experiments = settings.configuration.experiments
    if experiments is not None:
        assert all(entry["experiment"] in EXPERIMENTS for entry in experiments)
        return
    planned = experiment.plan(settings, [f"experiment={name}", f"scale={scale}"])
    assert planned
    for i, node in enumerate(settings.configuration.comparison["findings"]):
        instantiate(node, f"findings[{i}]")
    for each in planned:
        for part in ("model", "membership", "target", "shadow", "training"):
            instantiate(each.job.content[part], part, partial=part == "model")
        if name.startswith("shokri2017/"):
            assert each.job.content["attack"]["shokri"]["input"] == "probabilities"


@pytest.mark.slow
def test_shadow_counts_and_sizes_are_those_of_the_paper() -> None:
    counts = {"location": 60, "mnist": 50, "adult": 20, "purchase": 20, "texas": 10, "cifar10": 100, "cifar100": 100}
    for name, count in counts.items():
        first, *_ = experiment.plan(resolved(f"experiment=shokri2017/{name}"), [f"experiment=shokri2017/{name}"])
        assert first.job.content["shadow"]["count"] == count, name
        if name in ("mnist", "adult", "purchase", "texas"):
            assert first.job.content["dataset"]["train_size"] == 10000
    sizes = [
        [
            each.x
            for each in experiment.plan(resolved(f"experiment=shokri2017/{name}"), [f"experiment=shokri2017/{name}"])
        ]
        for name in ("cifar10", "cifar100")
    ]
    assert sizes == [[2500, 5000, 10000, 15000], [4600, 10520, 19920, 29540]]


@pytest.mark.slow
def test_variants_that_share_their_models_train_once(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(mine, "defences", DEFENCES)
    observed = []
    observe = whole.observe_models
    monkeypatch.setattr(whole, "observe_models", lambda *arguments: observed.append(1) or observe(*arguments))
    assert run(tmp_path / "out", "experiment=defences", "scale=small", *TINY) == 0
    assert len(observed) == 2  # none, top 1 and warm share theirs
    comparison = read_comparison(tmp_path / "out")
    assert [variant.name for variant in comparison.variants] == ["none", "top 1", "warm", "shorter"]
    assert [variant.defense for variant in comparison.variants] == [None, "top 1 class", "temperature 5", None]
    assert comparison.variants[0].test_accuracy == comparison.variants[1].test_accuracy
    assert [attack.name for attack in comparison.variants[2].attacks][3:] == [
        *("shokri-unaware", "loss-unaware", "ratio_offline-unaware")
    ]
    assert comparison.command.startswith("mia-lightning experiment=defences scale=small")
    for variant in comparison.variants:
        report = json.loads((tmp_path / "out" / str(variant.folder) / "report.json").read_text())
        assert report["run"]["config"]["experiment"] == {"name": "defences", "variant": variant.name}
        assert report["target"]["test_accuracy"] == variant.test_accuracy
        assert report["run"]["config"]["shadow"]["count"] == 2
    printed = capsys.readouterr()
    assert "[2/4] top 1" in printed.err
    assert printed.err.count("the models of the variant before serve this one, too") == 2
    assert "comparison.html" in printed.out
    assert "[2/4]" not in printed.out
    assert "comparison.html" not in printed.err


def test_a_scale_can_have_variants_of_its_own_and_what_is_typed_goes_first(mine: Path) -> None:
    write(mine, "defences", DEFENCES)
    overrides = ["experiment=defences", "scale=tiny", "shadow.count=6"]
    (only,) = experiment.plan(resolved(*overrides), overrides)
    assert only.name == "alone"
    assert only.job.content["dataset"]["train_size"] == 30
    assert only.job.content["shadow"]["count"] == 6
    assert only.job.content["training"]["epochs"] == 2


@pytest.mark.costly
@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["scale=smal"], "`scale` is 'smal' (did you mean `small`?); this experiment has paper, small, tiny"),
        (["defense=top_k"], "`defense` is what this experiment varies"),
        (["training.epochs=7"], "`training.epochs` is what this experiment varies"),
        (["comparison.variants=null"], "`comparison.variants` is empty"),
        (["comparison=5"], "`comparison` is 5"),
    ],
)
def test_mistakes_of_an_experiment_are_said_before_anything_runs(mine: Path, overrides: list[str], part: str) -> None:
    write(mine, "defences", DEFENCES)
    typed = ["experiment=defences", *overrides]
    with pytest.raises(InputError) as caught:
        experiment.plan(resolved(*typed), typed)
    assert part in str(caught.value)


SERIES = """
experiments:
  - {experiment: defences, set: [dataset=digits]}
  - {experiment: absent}
"""
ABSENT = """
defaults:
  - override /dataset: npz
dataset:
  path: nowhere.npz
comparison:
  title: Absent
  question: q
  source: s
  variants:
    alone: {set: []}
  findings: []
"""


@pytest.mark.slow
def test_a_series_runs_what_it_can_and_says_what_it_could_not(mine: Path, tmp_path: Path) -> None:
    write(mine, "defences", DEFENCES)
    write(mine, "absent", ABSENT)
    write(mine, "series", SERIES)
    typed = ["experiment=series", "scale=tiny", *TINY]
    write(mine, "absent", ABSENT + "scales: {tiny: {set: []}}\n")
    assert run(tmp_path / "out", *typed) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [entry["title"] for entry in summary] == ["Defences", "Absent"]
    assert summary[0]["not_run"] == {}
    assert "nowhere.npz" in summary[1]["not_run"]["alone"]
    assert (tmp_path / "out" / summary[0]["folder"] / "comparison.html").is_file()
    assert (tmp_path / "out" / "index.html").is_file()


def test_a_comparison_of_which_nothing_can_be_run_is_refused(mine: Path, tmp_path: Path) -> None:
    write(mine, "absent", ABSENT)
    with pytest.raises(InputError, match=r"nowhere.npz"):
        run(tmp_path / "out", "experiment=absent", *TINY)


@pytest.mark.slow
def test_a_variant_that_fails_for_another_reason_is_said_and_costs_the_exit_code(mine: Path, tmp_path: Path) -> None:
    write(mine, "defences", DEFENCES.replace("top_k.k=1", "top_k.k=0"))
    assert run(tmp_path / "out", "experiment=defences", "scale=small", *TINY) == 2
    skipped = {each.name: each.skipped for each in read_comparison(tmp_path / "out").variants}
    assert "`defense.top_k.k` is 0" in str(skipped["top 1"])
    assert skipped["none"] is None


@pytest.mark.slow
def test_models_depend_on_output_defences_only_where_the_target_answers_for_the_shadow_records() -> None:
    def key(*overrides: str) -> dict[str, Any]:
        return experiment.depends_on(resolved(*overrides))

    assert key() == key("defense=top_k") == key("defense=top_k", "defense.adaptive=false", "attack=loss")
    assert key("shadow=noisy") != key("shadow=noisy", "defense=top_k")
    assert key() != key("defense=l2")
    assert key("defense=l2") != key("defense=l2", "defense.adaptive=false")
    for other in ("seed=1", "model.dropout=0.1", "training.epochs=3", "shadow.count=3", "dataset.train_size=9"):
        assert key() != key(other)
    assert key() != key("task=binary")
    assert key() != key("model.output=logits")
    assert key() != key("shadow.estimator=null")


def test_of_every_setting_it_is_known_whether_models_depend_on_it() -> None:
    of_defences = {"defense"}
    of_attacks_and_reports = {
        *("attack", "skip_inapplicable", "convergence", "save_models", "estimate", "output", "store", "shards"),
        *("logger", "gate", "report", "sweep", "scale", "scales", "comparison", "experiments", "remedies"),
        "experiment",
    }
    names = {field.name for field in dataclasses.fields(Configuration)}
    assert names == {*experiment._OF_MODELS} | of_defences | of_attacks_and_reports


@pytest.mark.slow
def test_a_data_set_is_read_anew_for_another_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "population", lambda self: object())
    kept = experiment._Kept()
    first = kept.population(resolved())
    assert kept.population(resolved("training.epochs=3")) is first
    assert kept.population(resolved("task=binary")) is not first


def population_like(configured: Job) -> Population:
    """A small population of the form of a data set of the study."""
    settings = configured.content
    name = settings["dataset"]["name"]
    shape, num_classes = {
        "adult": ((12,), 2),
        "mnist": ((1, 8, 8), 10),
        "cifar10": ((3, 8, 8), 10),
        "cifar100": ((3, 8, 8), 10),
    }.get(name, ((20,), min(int(settings["dataset"].get("num_classes", 5)), 10)))
    numbers = generator(0, "population", name)
    label_N = torch.arange(400) % num_classes
    centre_C = torch.rand(num_classes, *shape, generator=numbers)
    x_N = (torch.rand(400, *shape, generator=numbers) < centre_C[label_N]).to(torch.uint8)
    return Population(name=name, x_N=x_N, label_N=label_N, class_names=tuple(str(c) for c in range(num_classes)))


def shrunk(each: experiment.Planned) -> experiment.Planned:
    settings = copy.deepcopy(each.job.content)
    settings["dataset"]["train_size"] = settings["membership"]["train_size"] = 60
    settings["membership"]["validation"] = min(settings["membership"].get("validation", 0), 40)
    settings["training"]["epochs"] = min(settings["training"]["epochs"] or 100, 5)
    settings["shadow"]["count"] = 6 if "lira_offline" in settings["attack"] else 2  # which needs others to compare with
    if settings["shadow"]["_target_"].endswith("ModelBased"):
        settings["shadow"] |= {"records_per_class": 10, "k_max": 4, "conf_min": 0.05, "iter_max": 100}
    if settings["model"]["_target_"].endswith("CNN"):
        settings["model"] |= {"channels": [4], "hidden": 8}
    return dataclasses.replace(each, job=Job(settings))


QUICKEST = ("multi_run_epsilon", "shokri2017/location")


@pytest.mark.parametrize(
    "name", [each if each in QUICKEST else pytest.param(each, marks=pytest.mark.slow) for each in EXPERIMENTS]
)
def test_every_experiment_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On small populations of the data sets' forms, with few epochs and models; all else is the experiment's own."""
    plan = experiment.plan
    monkeypatch.setattr(experiment, "plan", lambda *arguments: [shrunk(each) for each in plan(*arguments)])
    monkeypatch.setattr(Job, "population", population_like)
    if name == "shokri2017/all":  # its parts run by themselves
        settings = resolved(f"experiment={name}")
        monkeypatch.setattr(experiment, "_run_comparison", lambda *_: (MADE, 0))
        assert run(tmp_path, f"experiment={name}", "scale=small", *TINY) == 0
        assert len(json.loads((tmp_path / "summary.json").read_text())) == len(settings.configuration.experiments)
        return
    assert run(tmp_path, f"experiment={name}", "scale=small", *TINY) == 0
    comparison = read_comparison(tmp_path)
    assert not [variant.skipped for variant in comparison.variants if variant.skipped]
    assert len(comparison.statements) == len(resolved(f"experiment={name}").configuration.comparison["findings"])
    assert (tmp_path / "comparison.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_multi_run_experiment_is_one_audit_that_bounds_epsilon(tmp_path: Path) -> None:
    small = ("target.count=40", "shadow.count=20", "training.epochs=20", "dataset.train_size=30")
    settings = resolved("experiment=multi_run_epsilon", *small, *TINY[:3])
    assert settings.configuration.comparison is settings.configuration.experiments is None
    privacy = settings.run(tmp_path, Console(quiet=True)).privacy
    assert privacy is not None
    assert privacy.epsilon is None
    assert privacy.trials is not None
    assert privacy.trials.num_in + privacy.trials.num_out == 40
    assert not privacy.trials.is_natural
    assert [bound.attack for bound in privacy.trials.lower] == ["loss"]
    assert 0 < privacy.trials.lower[0].epsilon_low <= privacy.trials.largest_epsilon


def test_an_experiment_is_named_by_what_was_typed() -> None:
    assert experiment.name_of(["seed=1", "experiment=shokri2017/location", "scale=small"]) == "shokri2017/location"
    assert experiment.name_of(["+experiment=a", "dataset=digits"]) == "a"
    assert experiment.name_of(["seed=1"]) is None


MADE = ComparisonReport(
    title="made",
    question="q",
    source="s",
    command="c",
    created="2026-01-01T00:00:00+00:00",
    seconds=1.0,
    versions={},
    estimand="e",
    variants=(Variant(name="v"),),
    statements=(),
)


def test_data_that_cannot_be_used_costs_the_exit_code_and_absent_data_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load(configured: Job) -> Population:
        name = configured.content["dataset"]["name"]
        asked.append(name)
        if name == "location":
            raise DataNotThereError("location could not be downloaded")
        raise InputError("the archive is truncated")

    monkeypatch.setattr(Job, "population", load)
    kept, resolved_ = experiment._Kept(), resolved("experiment=shokri2017/epochs", "scale=small")
    for _ in range(3):
        with pytest.raises(DataNotThereError):
            kept.population(resolved_)
    assert asked == ["location"]  # looked for once
    console = Console(quiet=True)
    comparison, code = experiment._run_comparison(
        resolved_, ["experiment=shokri2017/epochs", "scale=small"], tmp_path / "absent", console, kept
    )
    assert (code, asked) == (0, ["location"])
    assert all("could not be downloaded" in str(variant.skipped) for variant in comparison.variants)
    overrides = ["experiment=shokri2017/mnist", "scale=small"]
    comparison, code = experiment._run_comparison(resolved(*overrides), overrides, tmp_path / "bad", console, kept)
    assert code == 2
    assert "truncated" in str(comparison.variants[0].skipped)
