"""What the runs of a sweep found, read from their files: a row for each run and attack.

Nothing heavy is imported before there is a report to read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mia_lightning.errors import InputError
from mia_lightning.reports.names import REPORT, FolderBelow
from mia_lightning.store.documents import EXACT, DamagedError, read
from mia_lightning.sweep.runs import Outcome, claimed_settings

if TYPE_CHECKING:
    from mia_lightning.comparison.schema import Variant

STAGES = ("target", "synthesis", "shadow", "answers", "views", "attack", "total")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One attack of one run; what a run did not report is None.

    Attributes:
        run, path: name of the run's folder below that of the sweep (its number), and the folder.
        overrides: the settings in which the run differs from the defaults, as typed.
        exit_code: of the run; None where it has not ended, or was killed.
        reason: why the code is not 0, or why there is no report.
        variant: of a run that sets several side by side (`experiment=...`); None for a plain run.
        found: what the report says, by the columns of `mia_lightning.reports.rows`; without a report the seed alone, if
            it is known.
        seconds: by stage, one of `STAGES`: "attack" is this attack's, "total" all of the run's, other attacks included.
    """

    run: str
    path: str
    overrides: tuple[str, ...] = ()
    exit_code: int | None = None
    reason: str | None = None
    variant: str | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def attack(self) -> str | None:
        """None without a report."""
        return self.found.get("attack")


def summarise(folders: Sequence[Path]) -> list[Row]:
    """A row for each attack of each run, in the order of the folders.

    A run with several attacks has a row for each. A run that is itself an experiment has the rows of its variants, and
    one for each variant that could not be run. A run without a readable report has one row, which says why.
    """
    return [row for folder in folders for row in _rows_of(Path(folder))]


def own_settings(overrides: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Of each run the settings that not all of them have, as far as they are known; all settings of a single run."""
    known = [set(each) for each in overrides.values() if each]
    shared = set.intersection(*known) if len(known) > 1 else set()
    return {run: tuple(each for each in own if each not in shared) for run, own in overrides.items()}


def _rows_of(folder: Path) -> list[Row]:
    code, reason = _outcome(folder)
    plain = Row(
        run=folder.name,
        path=str(folder),
        overrides=overrides_of(folder),
        exit_code=code,
        reason=reason,
        found=_seed(folder),
    )
    if (folder / "report.json").exists():
        return _rows_of_report(plain, folder)
    places = _comparisons(folder)
    if places:
        return [row for place in places for row in _rows_of_comparison(plain, folder, place)]
    return [plain if reason is not None else replace(plain, reason="the run has no report.json")]


def _rows_of_report(plain: Row, folder: Path) -> list[Row]:
    from mia_lightning.reports.rows import read_run

    try:
        run = read_run(folder)
    except InputError as error:
        return [replace(plain, reason=f"report.json cannot be read: {error}")]
    return [replace(plain, found=row, seconds=_seconds(run.seconds, row.get("attack"))) for row in run.rows()]


def _rows_of_comparison(plain: Row, folder: Path, place: str) -> Iterator[Row]:
    """The rows of all variants of the comparison in `folder / place`."""
    from mia_lightning.comparison.reading import read_comparison

    try:
        comparison = read_comparison(folder / place)
    except InputError as error:
        yield replace(plain, variant=place or None, reason=f"comparison.json cannot be read: {error}")
        return
    for variant in comparison.variants:
        own = replace(plain, variant=f"{place}/{variant.name}" if place else variant.name, found={})
        yield from _rows_of_variant(own, folder / place, variant)


def _rows_of_variant(own: Row, folder: Path, variant: "Variant") -> list[Row]:
    if variant.folder is None:
        return [replace(own, reason=variant.skipped)]
    place = folder / variant.folder
    return _rows_of_report(replace(own, path=str(place), found=_seed(place)), place)


def _seconds(stages: Mapping[str, float], attack: str | None) -> dict[str, float]:
    known = {"total": sum(stages.values()), **stages}
    if f"attack/{attack}" in stages:
        known["attack"] = stages[f"attack/{attack}"]
    return {name: known[name] for name in STAGES if name in known}


def _outcome(folder: Path) -> tuple[int | None, str | None]:
    """Exit code and reason as the run wrote them."""
    if not folder.is_dir():
        return None, "the folder of the run is not there"
    try:
        outcome = Outcome.read(folder)
    except DamagedError as damage:
        return None, f"outcome.json cannot be read: it {damage}"
    if outcome is None:
        return None, "the run has not ended, or was killed: it has no outcome.json"
    if outcome.reason is None and outcome.exit_code != 0:
        return outcome.exit_code, f"exit code {outcome.exit_code}, without a reason"
    return outcome.exit_code, outcome.reason


def overrides_of(folder: Path) -> tuple[str, ...]:
    """The settings of a run as they were typed, which the launcher or Hydra keeps; empty where neither does."""
    claimed = claimed_settings(folder)
    if claimed is not None:
        return claimed
    content = read_yaml(folder / ".hydra" / "overrides.yaml")
    return tuple(str(each) for each in content) if isinstance(content, list) else ()


def has_result(folder: Path) -> bool:
    """Whether the folder of a run holds its result, whole: its report, or the comparisons of an experiment, with the
    reports of their variants."""
    from mia_lightning.comparison.reading import read_comparison
    from mia_lightning.reports.reading import read_report

    try:
        if (folder / REPORT).exists():
            read_report(folder)
            return True
        places = [folder / place for place in _comparisons(folder)]
        for place in places:
            for variant in read_comparison(place).variants:
                if variant.folder is not None:
                    read_report(place / variant.folder)
    except InputError:
        return False
    return bool(places)


def _seed(folder: Path) -> dict[str, int]:
    content = read_yaml(folder / "config.yaml")
    seed = content.get("seed") if isinstance(content, dict) else None
    return {"seed": seed} if type(seed) is int else {}


def _comparisons(folder: Path) -> list[str]:
    """Where the comparisons of a run lie, relative to it: "" for one, names of folders for a series."""
    if (folder / "comparison.json").exists():
        return [""]
    try:
        return [each.folder for each in read(folder / "summary.json", list[_Entry]) or ()]
    except DamagedError:
        return []


@dataclass(frozen=True)
class _Entry:
    """A comparison in `summary.json`."""

    __pydantic_config__ = EXACT

    folder: FolderBelow
    title: str = ""
    command: str = ""
    seconds: float = 0.0
    statements: tuple[Any, ...] = ()
    not_run: Mapping[str, str] = field(default_factory=dict)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; None where there is none that can be read.

    What a file names again and again stays one object; OmegaConf would copy it until memory runs out.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
