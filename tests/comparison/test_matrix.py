"""The matrix of defences by attacks: the attacker who adapts heads it, and the efficient defences are marked."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mia_lightning.comparison.assemble import compare, skipped_variant
from mia_lightning.comparison.files import save_comparison
from mia_lightning.comparison.matrix import _is_efficient, defense_matrix, render_matrix
from mia_lightning.comparison.schema import ComparisonReport, Estimate, Variant, VariantAttack

MakeVariant = Callable[..., Variant]


def attacked(variant: Variant, **areas: float | None) -> Variant:
    """The variant with an attack of each name (`_` for `-`) and AUC; those of a name with "adapted" are adaptive."""
    (first,) = variant.attacks
    attacks = [
        first.model_copy(
            update={
                "name": name.removesuffix("_adapted").replace("_", "-"),
                "adaptive": name.endswith("_adapted"),
                "auc": Estimate(value=area, low=None if area is None else area - 0.05, high=area and area + 0.05),
            }
        )
        for name, area in areas.items()
    ]
    return variant.model_copy(update={"attacks": tuple(attacks)})


@pytest.fixture
def report(make_variant: MakeVariant) -> ComparisonReport:
    variants = [
        attacked(make_variant("none", test_accuracy=0.8), loss=0.7, shokri=0.72),
        attacked(
            make_variant("noise", test_accuracy=0.8, defense="noise"),
            loss_adapted=0.65,
            shokri_adapted=0.6,
            loss_unaware=0.55,
            shokri_unaware=0.5,
        ),
        attacked(
            make_variant("unaware first", test_accuracy=0.7, defense="noise"),
            **{"loss": 0.5, "loss-adaptive_adapted": 0.6, "shokri": None},
        ),
        attacked(make_variant("<i>mixup</i>", test_accuracy=0.85, defense="mixup"), loss_adapted=0.75),
        skipped_variant("absent", "the data is not there"),
    ]
    return compare(variants, [], title="t", question="q", source="s", command="c", seconds=1.0)


def test_the_adaptive_attacker_heads_the_matrix(report: ComparisonReport) -> None:
    matrix = defense_matrix(report)
    assert matrix is not None
    assert matrix.attacks == ("loss", "shokri")
    found = {row.variant.name: [each and (each.name, each.auc.value) for each in row.attacks] for row in matrix.rows}
    assert found == {
        "none": [("loss", 0.7), ("shokri", 0.72)],
        "noise": [("loss", 0.65), ("shokri", 0.6)],
        "unaware first": [("loss-adaptive", 0.6), ("shokri", None)],
        "<i>mixup</i>": [("loss", 0.75), None],
    }
    assert [row.leakage for row in matrix.rows] == [0.72, 0.65, 0.6, 0.75]


def test_what_no_other_variant_beats_is_efficient(report: ComparisonReport) -> None:
    matrix = defense_matrix(report)
    assert matrix is not None
    assert [row.is_efficient for row in matrix.rows] == [False, True, True, True]


@pytest.mark.costly
@pytest.mark.parametrize(("utilities", "name"), [(["R²", "R²"], "R²"), (["R²", "mean AUROC"], "utility")])
def test_utility_and_parts_have_the_names_of_the_task(
    utilities: list[str], name: str, make_variant: MakeVariant, tmp_path: Path
) -> None:
    words = {"defense": "noise", "stratum": "range", "strata_name": "ranges"}
    variants = [make_variant(f"v{i}", utility=each, **words) for i, each in enumerate(utilities)]
    variants.append(skipped_variant("absent", "the data is not there"))
    report = compare(variants, [], title="t", question="q", source="s", command="c", seconds=1.0)
    matrix = defense_matrix(report)
    assert matrix is not None
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render_matrix(matrix))
    save_comparison(report, tmp_path)
    page = (tmp_path / "comparison.html").read_text()
    for text in (console.export_text(), page):
        assert f"test {name}" in text
        assert "test accuracy" not in text
    assert page.count(f"test {name}</th>") == 2
    assert "range by range" in page
    assert '<th scope="col">ranges</th>' in page
    assert "class by class" not in page


coordinate = st.one_of(st.none(), st.sampled_from([0.5, 0.6, 0.7, 0.8]))


@given(points=st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=8))
def test_the_front_is_that_of_the_definition(points: list[tuple[float | None, float | None]]) -> None:
    for accuracy, leakage in points:
        beaten = False
        for other, leaked in points:
            if None in (accuracy, leakage, other, leaked):
                continue
            assert other is not None
            assert leaked is not None
            as_good = other >= accuracy and leaked <= leakage  # type: ignore[operator]
            better = other > accuracy or leaked < leakage  # type: ignore[operator]
            beaten = beaten or (as_good and better)
        expected = accuracy is not None and leakage is not None and not beaten
        assert _is_efficient((accuracy, leakage), points) == expected


def test_there_is_no_matrix_without_defences_or_with_one_variant(make_variant: MakeVariant) -> None:
    def matrix_of(*variants: Variant) -> object:
        return defense_matrix(compare(variants, [], title="t", question="q", source="s", command="c", seconds=1.0))

    assert matrix_of(make_variant("a"), make_variant("b")) is None
    assert matrix_of(make_variant("a", defense="noise")) is None
    assert matrix_of(make_variant("a", defense="noise"), skipped_variant("b", "why")) is None
    assert matrix_of(make_variant("a", defense="noise"), make_variant("b")) is not None


def test_the_table_fits_the_terminal_and_shows_intervals_of_a_few_attacks(
    report: ComparisonReport, make_variant: MakeVariant
) -> None:
    def shown(comparison: ComparisonReport) -> str:
        matrix = defense_matrix(comparison)
        assert matrix is not None
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(render_matrix(matrix))
        return console.export_text()

    text = shown(report)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "0.800" in rows["noise *"]
    assert "0.650 0.60–0.70" in rows["noise *"]
    assert "–" in rows["<i>mixup</i> *"]
    assert "none" in rows
    many: dict[str, float | None] = {f"a{i}": 0.7 for i in range(6)}
    variants = [attacked(make_variant(name, defense="noise"), **many) for name in ("a", "b")]
    wide = shown(compare(variants, [], title="t", question="q", source="s", command="c", seconds=1.0))
    assert "0.700" in wide
    assert "0.65–0.75" not in wide


def test_the_page_and_the_picture_show_it(report: ComparisonReport, tmp_path: Path) -> None:
    written = {path.name for path in save_comparison(report, tmp_path)}
    assert "pareto.png" in written
    page = (tmp_path / "comparison.html").read_text()
    assert "Defences by attacks" in page
    assert "AUC of shokri" in page
    assert "&lt;i&gt;mixup&lt;/i&gt; *" in page
    undefined = [
        attack.model_copy(update={"auc": Estimate(value=None, low=None, high=None, reason="no members")})
        for attack in report.variants[0].attacks
    ]
    blank = report.model_copy(
        update={
            "variants": tuple(
                variant.model_copy(update={"attacks": _as_attacks(undefined)}) for variant in report.variants[:2]
            )
        }
    )
    assert "pareto.png" not in {path.name for path in save_comparison(blank, tmp_path / "blank")}


def _as_attacks(attacks: list[VariantAttack]) -> tuple[VariantAttack, ...]:
    return tuple(attacks)


def test_a_run_in_doubt_is_not_on_the_front(report: ComparisonReport) -> None:
    """It leaks least, since it learnt nothing; without it, the next one is on the front."""
    efficient = [row.variant.name for row in defense_matrix(report).rows if row.is_efficient]
    doubts = {efficient[0]: "leakage may be understated"}
    broken = [each.model_copy(update={"doubt": doubts.get(each.name)}) for each in report.variants]
    rows = defense_matrix(report.model_copy(update={"variants": tuple(broken)})).rows
    front = {row.variant.name for row in rows if row.is_efficient}
    assert efficient[0] not in front
    assert front >= set(efficient[1:])
    left = [each for each in report.variants if each.name != efficient[0]]
    alone = defense_matrix(report.model_copy(update={"variants": tuple(left)})).rows
    assert front == {row.variant.name for row in alone if row.is_efficient}
