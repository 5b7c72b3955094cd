"""What a report says of a target that somebody else serves: the queries, and whether it stayed the same."""

from mia_lightning.reports.endpoint_section import EndpointSection
from mia_lightning.training.models import Models


def endpoint_section(targets: Models) -> EndpointSection | None:
    """The section, for which the sentinels are queried once more; None for any other target."""
    testimony = targets.testimony()
    return None if testimony is None else EndpointSection.of(testimony)


def endpoint_sentences(section: EndpointSection | None) -> list[tuple[str, str]]:
    """(heading, sentences); none without a section."""
    if section is None:
        return []
    return [
        ("the served model", _asked(section)),
        ("stability of the served model", " ".join(_steadiness(section))),
    ]


def unsteady(section: EndpointSection | None) -> str | None:
    """The warning at the top of a report if sentinels were answered differently; else None."""
    if section is None or not (section.num_varied or section.num_outdated or section.num_changed):
        return None
    return (
        f"The served model did not stay the same: {' '.join(_steadiness(section))} Figures mix what it answered at "
        "different times, so that low ones are no evidence."
    )


def _asked(section: EndpointSection) -> str:
    again = (
        f", {section.num_repeated:,} of them repeats (after faults, or as sentinels)" if section.num_repeated else ""
    )
    sentence = (
        f"{section.protocol} at {section.place}. {section.num_sent:,} queries in this run{again}. The answers to "
        f"{section.num_records:,} different records are known, {section.num_found:,} of them from earlier runs."
    )
    if section.budget is not None:
        sentence += f" {section.num_spent:,} of a budget of {section.budget:,} queries are spent."
    if section.cost is not None:
        sentence += f" Estimated cost of this run at the given price: {section.cost:,.2f}."
    return sentence


def _steadiness(section: EndpointSection) -> list[str]:
    """What repeated queries show."""
    sentences = []
    for num, differing, when, meaning in (
        (section.num_at_once, section.num_varied, "asked again at once", "its answers vary from call to call"),
        (
            section.num_kept,
            section.num_outdated,
            "whose answer an earlier run had kept, asked again",
            "the model changed since, or its answers vary",
        ),
        (
            section.num_at_end,
            section.num_changed,
            "asked again at the end",
            "the model changed during the audit, or its answers vary",
        ),
    ):
        if num:
            found = f"{differing:,} were answered otherwise: {meaning}." if differing else "all were answered alike."
            sentences.append(f"Of {num:,} records {when}, {found}")
    if any((section.num_varied, section.num_outdated, section.num_changed)) and section.largest_difference is not None:
        sentences.append(f"The largest difference is {section.largest_difference:.3g} in a probability.")
    if section.failure is not None:
        sentences.append(f"None could be asked at the end: {section.failure}")
    return sentences or ["Not known: no record was queried again (target.asking.sentinels)."]
