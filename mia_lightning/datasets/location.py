"""Location-30: the places of Bangkok that a person has visited, with the kind of person as class."""

from mia_lightning.datasets.population import Population, make_population
from mia_lightning.datasets.published import Form, read_published
from mia_lightning.settings import checked
from mia_lightning.settings.kinds import Name, PathLike, Text

ARCHIVE = "dataset_location.tgz"
MEMBER = "bangkok"
ARCHIVE_CHECKSUM = "sha256:927203f85a868f8ee17a0ded1dc61699efe602167beabe34fbf45b4b1de94b33"
URL = "https://github.com/privacytrustlab/datasets/raw/master/dataset_location.tgz"
NUM_RECORDS, NUM_FEATURES, NUM_CLASSES = 5010, 446, 30


@checked("dataset")
def load_location(*, root: PathLike, url: Text = URL, name: Name = "location") -> Population:
    """5,010 records of 446 binary features (kept as uint8) in 30 classes.

    Args:
        root: the folder of `dataset_location.tgz` or of the extracted file `bangkok`; where it holds neither,
            the archive is downloaded into it.
        url: of the archive.
        name: of the data set, in reports.

    Raises:
        InputError: the archive is not the published one or cannot be downloaded, or the extracted file is not
            of its form.

    Source: Shokri, Stronati, Song and Shmatikov, "Membership inference attacks against machine learning
    models" (2017), section VI-A; check-ins of Yang, Zhang and Qu (2015).
    """
    form = Form(num_records=NUM_RECORDS, num_features=NUM_FEATURES, num_classes=NUM_CLASSES)
    tables = read_published(root=root, archive=ARCHIVE, url=url, checksum=ARCHIVE_CHECKSUM, forms={MEMBER: form})
    table = tables[MEMBER]
    class_names = [str(c) for c in range(1, NUM_CLASSES + 1)]
    return make_population(table.bit_NF, table.label_N, name=name, class_names=class_names)
