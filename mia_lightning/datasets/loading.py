"""How a training loader deals records into batches."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Loading:
    """What a user's own training loader does with the records of an epoch.

    Attributes:
        batch_size: records in a batch; the last one of an epoch may have fewer.
        shuffle: whether each epoch has an order of its own.
        drop_last: whether a last batch that is not full is left out.
    """

    batch_size: int
    shuffle: bool
    drop_last: bool
