"""What the package imports is installed with it: `pyproject.toml` names it, or what it names requires it."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OF_THE_USER = {"pandas"}  # whose frames an estimator was trained on


def installed_with_it() -> set[str]:
    """The distributions that are required, by an extra of the package too, and what each of these requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [
        *project["dependencies"],
        *(each for name in extras if name not in ("dev", "docs") for each in extras[name]),
    ]
    found = set()
    for wanted in map(Requirement, named):
        found.add(canonicalize_name(wanted.name))
        for further in map(Requirement, requires(wanted.name) or ()):
            if any(further.marker is None or further.marker.evaluate({"extra": of}) for of in ("", *wanted.extras)):
                found.add(canonicalize_name(further.name))
    return found


def imported() -> dict[str, str]:
    """The top-level names that any file of the package imports, each with one of these files."""
    found: dict[str, str] = {}
    for file in sorted((ROOT / "mia_lightning").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            else:
                names = [str(node.module)] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found |= {name.partition(".")[0]: str(file.relative_to(ROOT)) for name in names}
    return {name: file for name, file in found.items() if name not in {*sys.stdlib_module_names, "mia_lightning"}}


def test_all_that_is_imported_is_installed_with_the_package() -> None:
    distributions, known = packages_distributions(), installed_with_it()
    foreign = {
        name: file
        for name, file in imported().items()
        if not known & {canonicalize_name(each) for each in distributions.get(name, [name])}
    }
    assert foreign.keys() == OF_THE_USER, foreign
