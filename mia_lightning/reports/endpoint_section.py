"""The section of the report about a target that somebody else serves."""

from mia_lightning.reports.section import Section


class EndpointSection(Section):
    """A target that somebody else serves: the queries to it, and whether it stayed the same meanwhile.

    Sentinels are records that were queried again. Those that were answered differently show that answers vary from
    call to call, or that the model changed.
    """

    protocol: str
    place: str
    num_records: int  # different records with a known answer
    num_found: int  # of these, kept from earlier runs
    num_sent: int  # queries of this run, one for each record sent
    num_repeated: int  # of these, again: after a fault of the server, or as sentinels
    num_spent: int  # queries of all runs that share the responses
    budget: int | None  # of these; null for no limit
    cost: float | None  # of this run, in the currency of `target.asking.price_per_thousand`; null without one
    num_wanted: int  # sentinels
    num_at_once: int  # of these, queried again right after their first answer
    num_varied: int  # of these, answered differently
    num_kept: int  # queried again, with a first answer from an earlier run
    num_outdated: int  # of these, answered differently
    num_at_end: int  # queried again after everything else
    num_changed: int  # of these, answered differently from the time before
    largest_difference: float | None  # in a probability, between two answers for a sentinel
    failure: str | None  # why none could be queried at the end; null if they were
