"""How a served model is asked: in batches, several at once, within a budget, and about no record twice."""

from collections.abc import Sequence
from typing import Annotated, Literal

from mia_lightning.settings import settings
from mia_lightning.settings.kinds import AtLeast0, AtLeast1, Folder, FromList, Name, Positive
from mia_lightning.settings.words import Words
from mia_lightning.targets.endpoints.own_classes import Labels


@settings("target.asking")
class Asking:
    """How a served model is asked, and how its answers are read.

    Attributes:
        budget: records that may be asked about, summed over all runs that share the responses; None for no limit.
            A record that is asked about again, after a fault of the server or as a sentinel, counts again.
        batch_size: records in a request.
        concurrency: requests at once.
        requests_per_second: at most; None for no limit.
        timeout: seconds, of a request as a whole.
        retries: further attempts of a request, after growing pauses or those that the server asks for.
        responses: folder in which answers are kept for later runs; None keeps them for this run alone.
        price_per_thousand: of a thousand records, for an estimate of the cost; None for no estimate.
        sentinels: records that are asked about again, at once and at the end, to see whether answers vary from call to
            call and whether the model changed.
        classes: names of the classes in the server's order; None for those of the data set.
        repairs: whether it may be asked about differently normalised records, too, where it does not seem to be what
            it is taken for; these count as others do.
        answer: what the numbers are; `auto` takes them for probabilities, and names or whole numbers for labels. One
            number for each record is the probability of the second of two classes, unless all of them are whole.
        labels: what whole numbers are that are labels: `names` of classes, or `places`, counted from 0 in the server's
            order; `auto` takes them for names if all classes are named by whole numbers, else for places.

    Raises:
        InputError: a value out of its range.
    """

    budget: AtLeast1 | None = None
    batch_size: AtLeast1 = 32
    concurrency: AtLeast1 = 4
    requests_per_second: Positive | None = None
    timeout: Positive = 30.0
    retries: AtLeast0 = 5
    responses: Folder | None = None
    price_per_thousand: Positive | None = None
    sentinels: AtLeast0 = 16
    classes: Annotated[Sequence[Name], FromList, Words("a list of the names of all classes")] | None = None
    repairs: bool = False
    answer: Literal["auto", "probabilities", "logits", "labels"] = "auto"
    labels: Labels = "auto"
