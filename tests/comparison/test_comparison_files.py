"""The files of a comparison: complete, readable, escaped."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

import mia_lightning as mia
from mia_lightning.comparison.assemble import variant_of
from mia_lightning.comparison.files import read_comparison, save_comparison, save_index
from mia_lightning.comparison.schema import ComparisonReport
from mia_lightning.comparison.tables import render_comparison
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.mlp import MLP
from mia_lightning.reports.curves import distribution_line


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, comparison: ComparisonReport) -> Path:
    """The folder of its files."""
    folder = tmp_path_factory.mktemp("comparison")
    save_comparison(comparison, folder)
    return folder


def test_all_files_are_written_and_read_back(comparison: ComparisonReport, tmp_path: Path) -> None:
    written = save_comparison(comparison, tmp_path)
    assert written[-1].name == "comparison.json"
    names = {path.name for path in written}
    pictures = {"precision_by_class.png", "leakage_vs_gap.png", "figure_over_x.png", "pareto.png"}
    assert names == {"comparison.csv", "comparison.html", "comparison.json", *pictures}
    assert read_comparison(tmp_path) == comparison
    for path in (tmp_path / "figures").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 500
            assert len(picture.convert("L").getcolors(1 << 20) or ()) > 10  # something is drawn


def test_the_page_shows_every_variant_and_statement_and_runs_no_markup_of_names(
    saved: Path,
) -> None:
    page = (saved / "comparison.html").read_text()
    for part in ("A title &amp; more", "10 records", "&lt;b&gt;20 records", "not run: the data is not there", "Why?"):
        assert part in page
    assert "<b>20" not in page
    assert "It is &lt;i&gt;above" in page
    assert "does not hold" in page
    assert "://" not in page.split("data:image/png")[0]
    assert page.count("<img ") == 4


def test_the_table_of_values_has_a_row_for_each_variant_and_attack(saved: Path, comparison: ComparisonReport) -> None:
    rows = list(csv.DictReader(io.StringIO((saved / "comparison.csv").read_text())))
    assert [row["variant"] for row in rows] == ["10 records", "<b>20 records</b>", "30 records"]
    assert float(rows[0]["precision"]) == pytest.approx(0.75)
    assert rows[2]["skipped"] == "the data is not there"
    assert rows[2]["precision"] == ""
    assert [row["utility"] for row in rows] == [each.utility for each in comparison.variants] == ["accuracy"] * 3


def test_the_terminal_says_the_same_in_100_columns(comparison: ComparisonReport) -> None:
    console = Console(width=100, record=True, file=io.StringIO(), color_system=None)
    console.print(render_comparison(comparison))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    for part in (
        "10 records",
        "0.750",
        "30 records: not run",
        "✓ holds: It is <i>above</i>.",
        "✗ does not hold: It rises.",
    ):
        assert part in text


def test_a_variant_in_doubt_is_named(comparison: ComparisonReport, tmp_path: Path) -> None:
    first, *others = comparison.variants
    doubted = first.model_copy(update={"doubt": "cannot be trusted"})
    report = comparison.model_copy(update={"variants": (doubted, *others)})
    console = Console(width=100, record=True, file=io.StringIO(), color_system=None)
    console.print(render_comparison(report))
    assert f"{first.name}: cannot be trusted" in console.export_text()
    save_comparison(report, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text())))
    assert [row["doubt"] for row in rows] == ["cannot be trusted", "", ""]
    assert "cannot be trusted" in (tmp_path / "comparison.html").read_text()


def test_the_index_lists_comparisons_with_their_statements(comparison: ComparisonReport, tmp_path: Path) -> None:
    save_index([(tmp_path / "one", comparison), (tmp_path / "two", comparison)], tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert page.count("It rises.") == 2
    assert 'href="two/comparison.html"' in page
    (one, _) = json.loads((tmp_path / "summary.json").read_text())
    assert one["folder"] == "one"
    assert one["not_run"] == {"30 records": "the data is not there"}
    assert [statement["verdict"] for statement in one["statements"]] == ["holds", "does not hold"]


@pytest.mark.parametrize(
    ("content", "part"),
    [(None, "no comparison at"), ("{", "not a valid comparison: Invalid JSON"), ("{}", "at `title`")],
)
def test_what_is_no_comparison_is_refused(tmp_path: Path, content: str | None, part: str) -> None:
    if content is not None:
        (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(InputError, match=part):
        read_comparison(tmp_path)


@pytest.mark.slow
def test_a_variant_has_the_figures_of_its_audit(blobs: Population) -> None:
    report = mia.audit(
        blobs,
        model=MLP,
        membership=mia.Disjoint(train_size=20),
        target=mia.Trained(count=2),
        shadow=mia.Real(count=4),
        training=mia.Recipe(epochs=5, batch_size=10, optimizer=mia.default_recipe().optimizer),
        trainer=mia.TrainerSettings(accelerator="cpu"),
    )
    variant = variant_of("v", report, Path("some/where"), 3.0)
    assert (variant.name, variant.x, variant.folder) == ("v", 3.0, "some/where")
    assert variant.test_accuracy == report.target.test_accuracy
    for section, attack in zip(report.attacks, variant.attacks, strict=True):
        assert attack.num_members == attack.num_nonmembers == 20
        assert attack.accuracy.value == pytest.approx(section.overall.accuracy.value)
        assert attack.recall.value == pytest.approx(section.overall.recall.value)
        assert attack.auc.value == section.overall.auc.value
        assert attack.auc.low < attack.auc.value < attack.auc.high
        assert attack.precision.low < attack.precision.value < attack.precision.high
        assert attack.per_class_members == tuple(group.num_members // 2 for group in section.per_class)


def test_a_distribution_rises_by_one_step_for_each_class() -> None:
    xs, ys = distribution_line([0.5, 0.2])
    assert list(zip(xs, ys, strict=True)) == [(0.2, 0.0), (0.2, 0.0), (0.2, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0)]
