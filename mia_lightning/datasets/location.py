"""Location-30: which places of Bangkok a person has visited, by the kind of person."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mia_lightning.datasets.download import check_sha256, fetch
from mia_lightning.datasets.population import Population, make_population
from mia_lightning.errors import InputError

ARCHIVE = "dataset_location.tgz"
MEMBER = "bangkok"
ARCHIVE_SHA256 = "927203f85a868f8ee17a0ded1dc61699efe602167beabe34fbf45b4b1de94b33"
URL = "https://github.com/privacytrustlab/datasets/raw/master/dataset_location.tgz"
NUM_RECORDS, NUM_FEATURES, NUM_CLASSES = 5010, 446, 30


def load_location(*, root: str | Path, url: str = URL, name: str = "location") -> Population:
    """5,010 records of 446 binary features (kept as uint8) in 30 classes.

    Args:
        root: the folder of `dataset_location.tgz` or of the extracted file `bangkok`; where it holds neither,
            the archive is downloaded into it.
        url: where the archive comes from.
        name: what reports call the data set.

    Raises:
        InputError: the archive is not the published one or cannot be downloaded, or the extracted file is not
            of its form.

    Source: Shokri, Stronati, Song and Shmatikov, "Membership inference attacks against machine learning
    models" (2017), section VI-A; check-ins of Yang, Zhang and Qu (2015).
    """
    folder = Path(root).expanduser()
    archive, extracted = folder / ARCHIVE, folder / MEMBER
    if not archive.exists() and extracted.is_file():
        return _parse(extracted.read_bytes(), extracted, name)
    if archive.exists():
        check_sha256(archive, ARCHIVE_SHA256)
    else:
        fetch(url, archive, sha256=ARCHIVE_SHA256)
    with tarfile.open(archive, "r:gz") as tar:
        member = tar.extractfile(MEMBER)
        assert member is not None, "the published archive holds a plain file"
        return _parse(member.read(), archive, name)


def _parse(content: bytes, source: Path, name: str) -> Population:
    """The CSV file without a header line: the class in quotes, 1 to 30, then the features, 0 or 1."""
    columns = [f"f{i}" for i in range(NUM_FEATURES + 1)]
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(content),
            read_options=pyarrow.csv.ReadOptions(column_names=columns),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.uint8()), null_values=[]),
        )
    except pa.ArrowInvalid as error:
        raise _malformed(source, str(error).splitlines()[0]) from error
    value = np.stack([column.to_numpy() for column in table.columns], axis=1)
    label, x = value[:, 0], np.ascontiguousarray(value[:, 1:])
    if len(value) != NUM_RECORDS:
        raise _malformed(source, f"{len(value)} records")
    if label.min() < 1 or label.max() > NUM_CLASSES:
        raise _malformed(source, f"classes {label.min()} to {label.max()}")
    if x.max() > 1:
        raise _malformed(source, f"the value {x.max()} among the binary features")
    class_names = [str(c) for c in range(1, NUM_CLASSES + 1)]
    return make_population(x, label.astype(np.int64) - 1, name=name, class_names=class_names)


def _malformed(source: Path, found: str) -> InputError:
    return InputError(
        f"'{source.absolute()}' is not the published file of {NUM_RECORDS} records, a class from 1 to "
        f"{NUM_CLASSES} and {NUM_FEATURES} binary features ({found}): delete it so that it is downloaded anew"
    )
