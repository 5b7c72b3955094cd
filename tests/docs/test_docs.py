"""README and site can be followed word for word, their links lead somewhere, and the reference has every setting."""

import doctest
import importlib
import re
import sys
from pathlib import Path

import pytest
from klettres import klettres
from pages import PAGES, README, ROOT, code_of, fences, followed, links_of, name_of, split_by_data, starts_another

DOCS = ROOT / "docs"
FILES = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md")]
MOST_LINES = 160  # of the README


@pytest.fixture(scope="module")
def hooks() -> Path:
    """The folder of what makes pages when the site is built, from which it is imported."""
    folder = DOCS / "hooks"
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def made(hooks: Path) -> dict[str, str]:
    """The pages that are made, by their address."""
    return importlib.import_module("generated_pages").pages()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run_or_marked_as_text(page: Path) -> None:
    assert {head for head, _ in fences(page)} <= {"bash", "python", "text"}


@pytest.mark.parametrize("page", [*PAGES, *FILES], ids=name_of)
def test_links_lead_to_files(page: Path, made: dict[str, str]) -> None:
    addresses = {(DOCS / address).resolve() for address in made}
    places = {link: (page.parent / link).resolve() for link in links_of(page)}
    assert [link for link, place in places.items() if not place.exists() and place not in addresses] == []


def test_the_readme_is_short_and_leads_to_what_a_user_needs_first() -> None:
    assert len(README.read_text().splitlines()) <= MOST_LINES
    pages = ("own_data", "own_model", "checkpoint", "served_models", "cluster", "gate", "own_attack")
    assert {f"docs/how-to/{page}.md" for page in pages} | {"docs/tutorial.md"} <= set(links_of(README))


def test_the_list_of_how_to_pages_is_whole() -> None:
    index = DOCS / "how-to" / "index.md"
    assert set(links_of(index)) == {path.name for path in index.parent.glob("*.md")} - {"index.md"}


def test_the_readme_has_a_row_for_each_attack() -> None:
    table = README.read_text().split("\n## Attacks\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= {path.stem for path in (ROOT / "conf" / "attack").glob("*.yaml")} - {
        "all"
    }


def test_the_reference_says_of_every_setting_what_it_may_be_and_what_it_means(hooks: Path) -> None:
    reference = importlib.import_module("settings_reference")
    named = {group: {option.name: option.settings for option in reference.options(group)} for group in reference.GROUPS}
    files = {path.relative_to(reference.CONF) for path in reference.CONF.rglob("*.yaml") if "help" not in path.parts}
    options = {Path(group, f"{option}.yaml") for group, of_group in named.items() for option in of_group}
    assert {path for path in files - options if path.parts[0] != "experiment"} == {Path("config.yaml")}
    settings = [(group, option, each) for group, of in named.items() for option, all_ in of.items() for each in all_]
    settings += [("config", section, each) for section, all_ in reference.sections().items() for each in all_]
    assert len(settings) > 200
    assert [
        (*place, each.name) for *place, each in settings if not (each.may_be and each.default and each.meaning)
    ] == []


def test_a_setting_is_described_by_its_field_its_file_and_its_docstring(hooks: Path) -> None:
    reference = importlib.import_module("settings_reference")
    (real,) = (option for option in reference.options("shadow") if option.name == "real")
    count, overlap = real.settings
    assert (count.name, count.may_be, count.default) == ("count", "A whole number of at least 1", "`64`")
    assert (overlap.name, overlap.may_be, overlap.default) == ("overlap", "A number of at least 0 and below 1", "`0.0`")
    by_place = {each.name: each for all_ in reference.sections().values() for each in all_}
    assert by_place["store.dir"].default == "`store`, or the environment variable `MIA_STORE` in place of `store`"
    assert by_place["gate.limit"].default == "`null`"


def test_meanings_are_read_from_a_docstring(hooks: Path) -> None:
    docstring = """A thing.

    Attributes:
        one, two: both of them,
            over two lines.
        three: another; `x: y` in it.

    Raises:
        InputError: never.
    """
    assert importlib.import_module("settings_reference").meanings_in(docstring) == {
        "one": "both of them, over two lines.",
        "two": "both of them, over two lines.",
        "three": "another; `x: y` in it.",
    }


def test_every_experiment_and_command_has_its_place(made: dict[str, str]) -> None:
    experiments = made["reference/experiments.md"]
    folder = ROOT / "conf" / "experiment"
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")]
    assert [name for name in names if f"## `{name}` " not in experiments] == []
    commands = made["reference/commands.md"]
    assert commands.count("usage: ") == commands.count("## `")


def test_every_public_name_is_on_one_page_of_the_api(hooks: Path, made: dict[str, str]) -> None:
    names = importlib.import_module("generated_pages").public_names()
    api = "\n".join(text for address, text in made.items() if address.startswith("reference/api/"))
    assert len(names) > 40
    assert {name: len(re.findall(rf"heading: mia\.{name}$", api, re.MULTILINE)) for name in names} == dict.fromkeys(
        names, 1
    )


@pytest.mark.parametrize(
    ("name", "least"),
    [("run.definition", 5), ("datasets.population", 5), pytest.param("audit", 20, marks=pytest.mark.slow)],
)
def test_docstring_examples(name: str, least: int) -> None:
    importlib.import_module(f"mia_lightning.{name}")
    results = doctest.testmod(sys.modules[f"mia_lightning.{name}"])
    assert results.failed == 0
    assert results.attempted >= least


def test_one_page_alone_is_not_followed_since_the_readme_begins_with_it() -> None:
    assert [name_of(page) for page in PAGES if code_of(page) and starts_another(page)] == ["docs/index"]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page) and not starts_another(page)], ids=name_of)
def test_code_runs_as_it_stands(page: Path, tmp_path: Path, forks: Path) -> None:
    blocks, absent = split_by_data(page)
    done = followed(blocks, tmp_path, forks)
    assert done.returncode == 0, done.stderr[-3000:]
    audits = [line for _, code in blocks for line in code.splitlines() if line.startswith("mia-lightning ")]
    audits = [line for line in audits if "estimate=true" not in line]
    assert len(list(tmp_path.rglob("report.json"))) >= len(audits)
    if absent:
        klettres()
