"""The files of what would help: all of them are written whole, and `remedies.json` last."""

from pathlib import Path
from typing import TYPE_CHECKING

from mia_lightning.errors import InputError
from mia_lightning.remedies import words
from mia_lightning.remedies.schema import RemedyReport
from mia_lightning.reports.names import REMEDIES
from mia_lightning.reports.page.templates import base64_of, environment
from mia_lightning.reports.words import moment, show, signed
from mia_lightning.store.atomic import write_whole
from mia_lightning.store.documents import DamagedError, read

if TYPE_CHECKING:
    from mia_lightning.reports.pictures import Picture

PICTURE = "figures/remedies.png"


def save_remedies(report: RemedyReport, folder: Path) -> list[Path]:
    """Write `remedies.csv`, `figures/remedies.png`, `remedies.html` and, last, `remedies.json`."""
    from mia_lightning.remedies.picture import remedies_picture

    (folder / REMEDIES).unlink(missing_ok=True)
    picture = remedies_picture(report)
    contents = {
        "remedies.csv": words.remedies_csv(report),
        PICTURE: picture.wide,
        "remedies.html": remedies_page(report, picture).encode(),
        REMEDIES: report.model_dump_json(by_alias=True, indent=2).encode() + b"\n",
    }
    return [write_whole(folder / name, content) for name, content in contents.items()]


def remedies_page(report: RemedyReport, picture: "Picture") -> str:
    """The page, which loads nothing."""
    templates = environment("mia_lightning.remedies", "mia_lightning.comparison", "mia_lightning.reports.page")
    templates.filters |= {"show": show, "change": words.change, "signed": signed, "moment": moment, "base64": base64_of}
    return templates.get_template("remedies.html.jinja").render(report=report, words=words, picture=picture)


def read_remedies(path: Path | str) -> RemedyReport:
    """The report in `path`, a `remedies.json` or a folder with one.

    Raises:
        InputError: there is no such file, or it is none of this version.
    """
    path = Path(path)
    path = path / REMEDIES if path.is_dir() else path
    try:
        found = read(path, RemedyReport)
    except DamagedError as damage:
        raise InputError(
            f"{path} is no valid report on remedies: {damage.violation}; run the experiment again."
        ) from None
    if found is None:
        raise InputError(f"There is no report on remedies at {path}; give the {REMEDIES} of experiment=remedies.")
    return found
