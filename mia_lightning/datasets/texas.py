"""Texas-100: hospital stays, with the hundred most frequent procedures as classes."""

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.published import Form, read_published
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike, Text

ARCHIVE = "dataset_texas.tgz"
FEATURES, LABELS = "texas/100/feats", "texas/100/labels"
URL = "https://github.com/privacytrustlab/datasets/raw/master/dataset_texas.tgz"
NUM_RECORDS, NUM_FEATURES, NUM_CLASSES = 67_330, 6170, 100


@checked("dataset")
def load_texas(*, root: PathLike, url: Text = URL, checksum: Text | None = None, name: Name = "texas") -> Population:
    """67,330 records of 6,170 binary features in 100 classes; as uint8 415 MB, a quarter of float32.

    Args:
        root: the folder of `dataset_texas.tgz`, or of the files `texas/100/feats` and `texas/100/labels` extracted
            from it; where it holds neither, the archive is downloaded into it.
        url: of the archive.
        checksum: of the archive, `sha256:<hexadecimal>` or `md5:<hexadecimal>`. The publisher gives none, so by
            default the content is checked instead: the numbers of records and columns, every cell, every class.
        name: of the data set, in reports.

    Raises:
        InputError: the files are not of the published form, the archive is not the one of `checksum`, or it cannot
            be downloaded.

    Source: Shokri, Stronati, Song and Shmatikov, "Membership inference attacks against machine learning
    models" (2017), section VI-A; hospital discharge data of the Texas Department of State Health Services.
    """
    forms = {
        FEATURES: Form(num_records=NUM_RECORDS, num_features=NUM_FEATURES, num_classes=0),
        LABELS: Form(num_records=NUM_RECORDS, num_features=0, num_classes=NUM_CLASSES),
    }
    tables = read_published(root=root, archive=ARCHIVE, url=url, checksum=checksum, forms=forms)
    class_names = [str(c) for c in range(1, NUM_CLASSES + 1)]
    return make_population(tables[FEATURES].bit_NF, tables[LABELS].label_N, name=name, class_names=class_names)
