"""Purchase: the products that a shopper has bought, with the kind of shopper as class."""

import contextlib
import hashlib
import io
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.published import Form, read_published
from mia_lightning.errors import InputError
from mia_lightning.seeds import derive
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike, Text
from mia_lightning.store.atomic import write_whole

ARCHIVE, MEMBER = "dataset_purchase.tgz", "dataset_purchase"
URL = "https://github.com/privacytrustlab/datasets/raw/master/dataset_purchase.tgz"
NUM_RECORDS, NUM_FEATURES, NUM_CLASSES = 197_324, 600, 100

_Bits = np.ndarray[Any, np.dtype[np.uint8]]


@checked("dataset")
def load_purchase(
    *,
    root: PathLike,
    num_classes: Literal[2, 10, 20, 50, 100] = 100,
    seed: int = 0,
    url: Text = URL,
    checksum: Text | None = None,
    name: Name = "purchase",
) -> Population:
    """197,324 records of 600 binary features (kept as uint8) in 2, 10, 20, 50 or 100 classes.

    With 100 classes the labels are the published ones. Otherwise they are k-means clusters of the features, as in
    the paper. The clusters are fitted on all records before membership is drawn, as a part of the data's public
    preparation like the selection of its columns, so that a record's class says nothing about its membership.
    They are fitted in one thread, since several threads would add numbers up in varying order. Their labels are
    cached in `root`, if that can be written.

    Args:
        root: the folder of `dataset_purchase.tgz` or of the extracted file `dataset_purchase`; where it holds
            neither, the archive is downloaded into it.
        num_classes: 2, 10, 20, 50 or 100.
        seed: of the clusters, and of nothing else.
        url: of the archive.
        checksum: of the archive, `sha256:<hexadecimal>` or `md5:<hexadecimal>`. The publisher gives none, so by
            default the content is checked instead: the numbers of records and columns, every cell, every class.
        name: of the data set, in reports.

    Raises:
        InputError: records too alike for so many clusters, a file that is not of the published form, an archive that
            is not the one of `checksum` or that cannot be downloaded.

    Source: Shokri, Stronati, Song and Shmatikov, "Membership inference attacks against machine learning
    models" (2017), section VI-A; transactions of Kaggle's "Acquire valued shoppers" challenge (2014).
    """
    form = Form(num_records=NUM_RECORDS, num_features=NUM_FEATURES, num_classes=NUM_CLASSES)
    tables = read_published(root=root, archive=ARCHIVE, url=url, checksum=checksum, forms={MEMBER: form})
    bit_NF, label_N = tables[MEMBER]
    if num_classes != NUM_CLASSES:
        label_N = _clusters(bit_NF, num_classes, seed, Path(root).expanduser()).astype(np.int64)
    class_names = [str(c) for c in range(1, num_classes + 1)]
    return make_population(bit_NF, label_N, name=name, class_names=class_names)


def _clusters(bit_NF: _Bits, num_classes: int, seed: int, folder: Path) -> _Bits:
    """The cluster of each record, from 0; read from the cache, or fitted and cached."""
    digest = hashlib.sha256(bit_NF.data).hexdigest()[:12]
    cache = folder / f"purchase_{num_classes}_clusters_seed_{seed}_of_{digest}.npy"
    cached = _cached(cache, len(bit_NF), num_classes)
    if cached is not None:
        return cached
    cluster_N = _fit(bit_NF, num_classes, seed)
    content = io.BytesIO()
    np.save(content, cluster_N)
    with contextlib.suppress(OSError):  # without a cache the next call fits the clusters again
        write_whole(cache, content.getvalue() + hashlib.sha256(cluster_N.data).digest())
    return cluster_N


def _cached(cache: Path, num_records: int, num_classes: int) -> _Bits | None:
    """The array in the file, if the SHA-256 after it matches."""
    try:
        with cache.open("rb") as handle:
            cluster_N: _Bits = np.load(handle, allow_pickle=False)
            digest = handle.read()
    except (OSError, ValueError, EOFError):
        return None
    if cluster_N.shape != (num_records,) or cluster_N.dtype != np.uint8 or cluster_N.max() >= num_classes:
        return None
    return cluster_N if digest == hashlib.sha256(cluster_N.data).digest() else None


def _fit(bit_NF: _Bits, num_classes: int, seed: int) -> _Bits:
    from sklearn.cluster import KMeans  # slow to import, and not needed for the published labels
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    random_state = derive(seed, "purchase", "clusters", num_classes) % 2**32
    # k-means may shift the float32 copy in place: a second copy would take half a gigabyte.
    kmeans = KMeans(num_classes, n_init=1, random_state=random_state, copy_x=False)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few distinct records: refused below
        cluster_N: _Bits = kmeans.fit_predict(bit_NF.astype(np.float32)).astype(np.uint8)
    if (found := len(np.unique(cluster_N))) < num_classes:
        raise InputError(
            f"the records of purchase make {found} clusters, not {num_classes}: set dataset.num_classes to "
            "100 for their own labels, or dataset.root to the published file"
        )
    return cluster_N
